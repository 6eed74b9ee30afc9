"""Relax to kernels: the passes, in order, from an imported module to a straight `main` and scheduled functions."""

from __future__ import annotations

import re
from dataclasses import dataclass

import tvm
from tvm import relax, tirx

from graphprune.compiler import device
from graphprune.compiler.activations import use_polynomials
from graphprune.compiler.fold import fold_constants
from graphprune.compiler.schedule import OURS, WHY, hoist_scratch, schedule
from graphprune.compiler.select import select_kernels
from graphprune.compiler.targets import Target
from graphprune.compiler.ways import Pick
from graphprune.errors import CompileError

Scratch = dict[str, list[tuple[str, tuple[int, ...]]]]


def tvm_target(target: Target) -> tvm.target.Target:
    """TVM's form of `target`: of the device that runs its kernels, or of its processor."""
    return device.device_target(target) if target.device else llvm_target(target)


def llvm_target(target: Target) -> tvm.target.Target:
    """TVM's form of a processor. Sums may be reordered and contracted: a dot product is vectors of partial sums."""
    config: dict[str, object] = {
        "kind": "llvm",
        "mcpu": target.cpu,
        "mattr": [f"+{feature}" for feature in target.features],
        "fast-math-reassoc": 1,
        "fast-math-contract": 1,
        "fast-math-nsz": 1,
        "opt-level": 2,
    }
    if target.wasm:
        config["vector-width"] = 32 * target.lanes  # LLVM knows it of other targets
    if target.triple:
        config["mtriple"] = target.triple
    if target.triple.endswith("hf"):
        config["mfloat-abi"] = "hard"
    llvm = tvm.target.Target(config)
    return llvm.with_host(llvm)


@dataclass(frozen=True)
class Lowered:
    """A module of kernels and a `main` that only allocates and calls them.

    Attributes:
        module: the kernels and `main`.
        scratch: dtype and shape of the scratch arrays each kernel takes after its own arguments.
        ours: the shape of the loops in words, and why they were chosen, by name of the scheduled kernel.
        covers: Relax variables that a call of ours computes, by the variable of its result.
    """

    module: tvm.IRModule
    scratch: Scratch
    ours: dict[str, tuple[str, str]]
    covers: dict[str, list[str]]


def lower(module: tvm.IRModule, target: Target, pick: Pick) -> Lowered:
    """`module` as kernels and a straight `main`; `pick` chooses among the ways to compute a layer.

    Raises:
        CompileError: an operator that only TVM's runtime library computes.
    """
    transform = relax.transform
    covers: dict[str, list[str]] = {}
    with tvm_target(target), tvm.transform.PassContext(opt_level=3):
        module = transform.DecomposeOpsForInference()(module)
        module = fold_constants(transform.CanonicalizeBindings()(module))
        module = transform.FoldConstant()(module)
        if target.device != "webgpu":
            module, covers = select_kernels(module, target, pick)
        module = transform.LegalizeOps()(use_polynomials(module))
        _no_library_calls(module)
        for step in (
            transform.AnnotateTIROpPattern(),
            transform.FoldConstant(),
            transform.FuseOps(),
            transform.FuseTIR(),
            transform.RewriteDataflowReshape(),
            transform.DeadCodeElimination(),
            transform.ToNonDataflow(),
            transform.RemovePurityChecking(),
            transform.CallTIRRewrite(),
        ):
            module = step(module)
        if target.device:
            module = device.schedule(module)
    module, scratch, ours = _schedule(module, target)
    return Lowered(module, scratch, ours, covers)


def _schedule(module: tvm.IRModule, target: Target) -> tuple[tvm.IRModule, Scratch, dict[str, tuple[str, str]]]:
    scratch: Scratch = {}
    ours: dict[str, tuple[str, str]] = {}
    for variable, function in list(module.functions.items()):
        if isinstance(function, tirx.PrimFunc):
            if OURS in function.attrs:
                ours[str(variable.name_hint)] = str(function.attrs[OURS]), str(function.attrs[WHY])
            elif not target.device:
                function = schedule(function)
            function, buffers = hoist_scratch(function)
            module[variable] = function.with_attr("global_symbol", variable.name_hint)
            if buffers:
                scratch[str(variable.name_hint)] = buffers
    return module, scratch, ours


def _no_library_calls(module: tvm.IRModule) -> None:
    """Refuse kernels that call into TVM's runtime library (sorting, random numbers): an artefact ships without it."""
    for variable, function in module.functions.items():
        if isinstance(function, tirx.PrimFunc):
            called = re.search(r'call_c?packed\("([^"]+)"', function.script())
            if called:
                raise CompileError(
                    f"operator {variable.name_hint} needs {called[1]} of TVM's runtime; compiled models have none",
                    "leave compilation out for this model",
                )
