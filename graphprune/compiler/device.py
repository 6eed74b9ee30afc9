"""Kernels of graphics processors: TVM's schedules for what has none of ours, and launches in place of TVM's runtime.

DLight's rules tile convolutions and matrix products through shared memory (a convolution as an implicit matrix
product; for CUDA both are kernels of ours), share reductions among the threads of a block, and give every other value
a thread. What starts a kernel is a call with constant sizes once shapes are static, so a model is a list of launches
that any host program can make.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import tvm
import tvm_ffi
from tvm import s_tir, tirx
from tvm.s_tir import dlight

from graphprune.compiler import narrow
from graphprune.compiler.program import Call, Program
from graphprune.compiler.schedule import OURS
from graphprune.compiler.targets import Target
from graphprune.errors import CompileError

_AXES = "xyz"
_MANY = 0.25  # share of zeros from which they are spoken of
_THREADS = {"cuda": 1024, "webgpu": 256}  # of a block, at most
_SHARED = {"cuda": 48 * 1024, "webgpu": 16 * 1024}  # bytes of its shared memory; what every WebGPU has


@dataclass(frozen=True)
class Launch:
    """One start of a kernel.

    Attributes:
        kernel: its name in the code.
        arguments: tensors of the program, in the kernel's order.
        grid: blocks along x, y and z.
        block: threads of a block along x, y and z.
        call: which call of the program it belongs to.
    """

    kernel: str
    arguments: tuple[int, ...]
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    call: int


def device_target(target: Target) -> tvm.target.Target:
    """TVM's form of `target`, with a host that is never asked for anything."""
    config = {
        "kind": target.device,
        "max_num_threads": _THREADS[target.device],
        "max_shared_memory_per_block": _SHARED[target.device],
    }
    if target.device == "cuda":
        config["arch"] = target.features[0]  # the oldest
    return tvm.target.Target(config, host=tvm.target.Target({"kind": "llvm"}))


def schedule(module: tvm.IRModule) -> tvm.IRModule:
    """`module` with every function mapped to blocks and threads; within the target's scope."""
    gpu = dlight.gpu
    rules = (gpu.Matmul(), gpu.GEMV(), gpu.Reduction(), gpu.GeneralReduction())
    return dlight.ApplyDefaultSchedule(*map(_Tried, rules), gpu.Fallback())(module)


class _Tried:
    """A rule of DLight that does not apply where it ends in an error, as they do for some chains of operators."""

    def __init__(self, rule: Any) -> None:
        self.rule = rule

    def apply(self, *given: Any) -> Any:
        try:
            return self.rule.apply(*given)
        except (AssertionError, s_tir.ScheduleError, tvm.error.InternalError):
            return None


def split(module: tvm.IRModule, program: Program, target: Target) -> tuple[list[Launch], tvm.IRModule]:
    """What `program` launches, in order, and the functions that run on the device.

    Raises:
        CompileError: a kernel uses a type that the device has none of.
    """
    machine = device_target(target)
    kernels = tvm.IRModule({v: f for v, f in module.functions.items() if isinstance(f, tirx.PrimFunc)})
    with machine, tvm.transform.PassContext(opt_level=3):
        halves = tvm.transform.Sequential(_passes())(tirx.transform.BindTarget(machine)(kernels))
        hosts = {str(v.name_hint): f for v, f in halves.functions.items() if "tirx.kernel_launch_params" not in f.attrs}
        device = {v: f for v, f in halves.functions.items() if "tirx.kernel_launch_params" in f.attrs}
        _, _, finalize = tirx.get_tir_pipeline("s_tir")
        functions = finalize()(tvm.IRModule(device))
    launches = []
    for number, call in enumerate(program.calls):
        for kernel, places, grid, block in _launches(hosts[call.function]):
            arguments = tuple(call.arguments[place] for place in places)
            _known(program, arguments, call.function, target)
            launches.append(Launch(kernel, arguments, grid, block, number))
    return launches, functions


def sources(functions: tvm.IRModule, target: Target) -> dict[str, str]:
    """The code of every function in the device's language; of CUDA one text, named after nothing."""
    machine = device_target(target)
    with machine:
        built = tvm.get_global_func(f"target.build.{target.device}")(functions, machine)
    text = built.inspect_source()
    if target.device == "cuda":
        return {"": text}
    mark = "// Function: "
    parts = [part.partition("\n") for part in text.split(f"\n{mark}")[1:]]
    return {name.strip(): mark + name + "\n" + code for name, _, code in parts}


def zeros(weights: np.ndarray) -> str:
    """What is done about the zeros in float32 `weights`, in words; empty where there are few.

    Zeros are multiplied. Sparse tensor cores would skip those of a 2:4 pattern, but they multiply numbers of ten bits
    of mantissa (TF32) or fewer, and no such product keeps within the tolerance that every artefact is held to.
    """
    share = 1 - np.count_nonzero(weights) / max(weights.size, 1)
    if weights.ndim < 2 or weights.dtype != np.float32 or share < _MANY:
        return ""
    pattern = ", at most two of every four inputs left" if _two_of_four(weights) else ""
    return f"{share:.0%} of the weights are zero{pattern}, and multiplied like the others"


def zeros_of(program: Program, call: Call) -> tuple[str, str]:
    """How a call of a kernel that TVM scheduled treats zeros in its weights, and why; empty where it has few."""
    found = (program.tensors[index].value for index in call.arguments)
    why = next(filter(None, (zeros(weights) for weights in found if weights is not None)), "")
    return "dense" if why else "", why


def _two_of_four(weights: np.ndarray) -> bool:
    """Whether two of every four neighbouring inputs of an output are zero; inputs come second, in a product first."""
    for axis in (1, 0) if weights.ndim == 2 else (1,):
        inputs = np.moveaxis(weights, axis, -1)
        if inputs.shape[-1] % 4 == 0 and np.count_nonzero(inputs.reshape(-1, 4), axis=1).max(initial=0) <= 2:
            return True
    return False


def _passes() -> list[Any]:
    """TVM's pipeline for TIR up to where hosts and kernels are apart, before hosts take TVM's calling convention.

    Loops stay rolled: the compilers of both languages unroll, and SwiftShader takes minutes for what is written out.
    """
    general, scheduled = tirx.transform, s_tir.transform
    return [
        scheduled.CanonicalizeLoop(),
        scheduled.LowerCrossThreadReduction(),
        scheduled.LowerInitBlock(),
        scheduled.PlanAndUpdateBufferAllocationLocation(),
        scheduled.ConvertBlocksToOpaque(),
        scheduled.LiftThreadBinding(),
        scheduled.CompactBufferAllocation(),
        scheduled.LowerAutoCopy(),
        scheduled.UnifyThreadBinding(),
        scheduled.LowerMatchBuffer(),
        general.StmtSimplify(),
        scheduled.LowerOpaqueBlock(),
        general.FlattenBuffer(),
        general.NarrowDataType(32),
        scheduled.LoopPartition(),
        general.VectorizeLoop(True),
        scheduled.InjectVirtualThread(),
        scheduled.InjectDoubleBuffer(),
        general.StorageRewrite(),
        scheduled.HoistIfThenElse(),
        scheduled.RenormalizeSplitPattern(),
        general.StmtSimplify(),
        general.RemoveNoOp(),
        scheduled.RewriteUnsafeSelect(),
        general.CommonSubexprElim(),
        general.VerifyMemory(),
        general.AnnotateEntryFunc(),
        _synchronize,
        scheduled.LowerThreadAllreduce(),
        scheduled.MergeSharedMemoryAllocations(),
        general.SplitHostDevice(),
    ]


@tvm.transform.module_pass(opt_level=0)
def _synchronize(module: tvm.IRModule, context: Any) -> tvm.IRModule:
    """Barriers wherever shared memory is written and read; kernels of ours have theirs, and TVM's proof needs more."""
    ours = {v: f for v, f in module.functions.items() if OURS in f.attrs}
    for scope in ("shared", "shared.dyn", "warp"):
        module = s_tir.transform.ThreadSync(scope)(module)
    for variable, function in ours.items():
        module[variable] = function
    return module


def _launches(host: tirx.PrimFunc) -> list[tuple[str, list[int], tuple[int, int, int], tuple[int, int, int]]]:
    """Kernel, places of its arguments among the host function's, grid and block of every launch in `host`."""
    place = {parameter: i for i, parameter in enumerate(host.params)}
    found: list[tuple[str, list[int], tuple[int, int, int], tuple[int, int, int]]] = []

    def alias(declared: Any) -> None:
        place[declared.buffer] = place[declared.data.args[0]]

    def launch(call: Any) -> None:
        if getattr(call.op, "name", "") != "tirx.call_ffi_kernel":
            return
        tags = [str(tag) for tag in call.attrs.launch_params]
        name, *rest = call.args
        sizes = {tag: int(size) for tag, size in zip(tags, rest[-len(tags) :], strict=True)}
        grid, block = (tuple(sizes.get(f"{of}.{axis}", 1) for axis in _AXES) for of in ("blockIdx", "threadIdx"))
        found.append((str(name.value), [place[a.args[0]] for a in rest[: -len(tags)]], grid, block))  # type: ignore[arg-type]

    tvm_ffi.structural_walk(host.body, [(tirx.DeclBuffer, alias), (tvm.ir.Call, launch)], order="pre")
    return found


def _known(program: Program, arguments: tuple[int, ...], function: str, target: Target) -> None:
    """Refuse what no storage of WebGPU can hold."""
    for index in arguments:
        dtype = program.tensors[index].dtype
        if target.device == "webgpu" and dtype not in narrow.STORED:
            raise CompileError(f"operator {function} uses {dtype}, which WebGPU has none of", narrow.HINT)
