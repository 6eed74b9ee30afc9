"""Compile a pruned ONNX model to a library or a WebAssembly module that needs no runtime.

ONNX → Relax → kernels in TIR (ours, or TVM's legalised ones) → one static plan of memory and calls → object → library.
The artefact is a folder: `weights.bin`, `manifest.json` and the code. For C that is a shared and a static library with
their header, which `graphprune.runtime.load` runs too; for JavaScript a WebAssembly module with its loader.

TVM is imported when a model is compiled, never before.
"""

from __future__ import annotations

import importlib.metadata
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from graphprune.compiler.manifest import Kernel, Machine, Manifest, Value

if TYPE_CHECKING:
    import onnx

    from graphprune.compiler.program import Program
    from graphprune.compiler.targets import Target

__all__ = ["Artefact", "compile_model"]


@dataclass(frozen=True)
class Artefact:
    """What was written, and how long each step took.

    Attributes:
        folder: holds the code, `weights.bin` and `manifest.json`.
        manifest: the facts written there.
        seconds: wall time of each step.
    """

    folder: Path
    manifest: Manifest
    seconds: dict[str, float]


def compile_model(
    proto: onnx.ModelProto,
    folder: Path,
    target: str | Target = "host",
    shapes: dict[str, tuple[int, ...]] | None = None,
    progress: Callable[[str], None] | None = None,
    embed_weights: bool = False,
) -> Artefact:
    """Compile `proto` into `folder`.

    Args:
        proto: a valid ONNX model, pruned or not.
        folder: where the artefact goes; made if need be.
        target: one of `graphprune.compiler.targets`, or its name.
        shapes: the shape of every graph input that has a symbolic dimension.
        progress: called with the name of each step as it starts.
        embed_weights: put the weights into the library in place of `weights.bin`.

    Raises:
        CompileError: the model or the target cannot be compiled; the message names the node, input or tool.
    """
    seconds: dict[str, float] = {}

    @contextmanager
    def step(name: str) -> Iterator[None]:
        if progress:
            progress(name)
        start = time.perf_counter()
        yield
        seconds[name] = time.perf_counter() - start

    with _filling(Path(folder)) as new:
        with step("load the compiler"):
            from graphprune.compiler import build, emit, importer, javascript, lower, memory, targets
            from graphprune.compiler.program import read_program

            machine = targets.resolve(target) if isinstance(target, str) else target
        with step("import"):
            module, node_of = importer.import_onnx(proto, dict(shapes or {}))
        with step("lower"):
            lowered = lower.lower(module, machine)
            program = read_program(lowered.module, lowered.scratch, lowered.ours)
            workspace, weights = memory.plan(program)
        initializers = {tensor.name for tensor in proto.graph.initializer}
        inputs = _values([v.name for v in proto.graph.input if v.name not in initializers], program, program.inputs)
        outputs = _values([v.name for v in proto.graph.output], program, program.outputs)
        with step("write weights"):
            _write_weights(program, new / "weights.bin", weights)
        with step("compile kernels"):
            objects = {library: new / f"{library}.o" for library in (machine.library, *machine.also)}
            for library, kernels in objects.items():
                features = (*machine.features, *machine.also.get(library, ()))
                build.write_object(lowered.module, replace(machine, features=features), kernels)
        with step("link"):
            source = emit.emit(program, machine, workspace, weights, inputs, outputs, embed_weights)
            source, identity = emit.seal(source, objects.values())
            for library, kernels in objects.items():
                build.link(source, kernels, machine, new, library)
                kernels.unlink()
            if embed_weights:
                (new / "weights.bin").unlink()
            if machine.wasm:
                (new / "model.mjs").write_text(javascript.loader(), "utf-8")
                (new / "model.d.mts").write_text(javascript.types(inputs, outputs), "utf-8")
        manifest = Manifest(
            name=proto.graph.name,
            target=Machine(machine.name, machine.triple, machine.cpu, machine.features),
            library=machine.library,
            identity=identity,
            inputs=inputs,
            outputs=outputs,
            workspace_bytes=workspace,
            weights_bytes=weights,
            kernels=tuple(
                Kernel(
                    call.function,
                    "ours" if call.function in lowered.ours else "fallback",
                    tuple(node_of[v] for v in lowered.covers.get(call.label, [call.label]) if v in node_of),
                    lowered.ours.get(call.function, ""),
                )
                for call in program.calls
            ),
            also=dict(machine.also),
            embedded=embed_weights,
            versions={name: importlib.metadata.version(name) for name in ("graphprune", "apache-tvm", "onnx")},
        )
        (new / "manifest.json").write_bytes(msgspec.json.format(msgspec.json.encode(manifest)))
    return Artefact(Path(folder), manifest, seconds)


@contextmanager
def _filling(folder: Path) -> Iterator[Path]:
    """A folder to write in; its files then take the places of those in `folder`, which a process may have mapped."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="new-", dir=folder) as new:
        yield Path(new)
        for file in Path(new).iterdir():
            file.replace(folder / file.name)


def _values(names: list[str], program: Program, tensors: list[int]) -> tuple[Value, ...]:
    found = [program.tensors[i] for i in tensors]
    return tuple(Value(name, t.dtype, t.shape) for name, t in zip(names, found, strict=True))


def _write_weights(program: Program, path: Path, size: int) -> None:
    with path.open("wb") as file:
        for tensor in program.constants:
            assert tensor.value is not None
            file.seek(tensor.offset)
            tensor.value.tofile(file)
        file.truncate(size)
