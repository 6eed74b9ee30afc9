"""Compile a pruned ONNX model to one shared library that needs no runtime.

ONNX → Relax → kernels in TIR (ours, or TVM's legalised ones) → one static plan of memory and calls → object → library.
The artefact is a folder: the library, `weights.bin` and `manifest.json`; `graphprune.runtime.load` runs it.

TVM is imported when a model is compiled, never before.
"""

from __future__ import annotations

import importlib.metadata
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from graphprune.compile.manifest import Kernel, Machine, Manifest, Value

if TYPE_CHECKING:
    import onnx

    from graphprune.compile.program import Program

__all__ = ["Artefact", "compile_model"]


@dataclass(frozen=True)
class Artefact:
    """What was written, and how long each step took.

    Attributes:
        folder: holds the library, `weights.bin` and `manifest.json`.
        manifest: the facts written there.
        seconds: wall time of each step.
    """

    folder: Path
    manifest: Manifest
    seconds: dict[str, float]


def compile_model(
    proto: onnx.ModelProto,
    folder: Path,
    target: str = "host",
    shapes: dict[str, tuple[int, ...]] | None = None,
    progress: Callable[[str], None] | None = None,
) -> Artefact:
    """Compile `proto` into `folder`.

    Args:
        proto: a valid ONNX model, pruned or not.
        folder: where the artefact goes; made if need be.
        target: a name of `graphprune.compile.targets`.
        shapes: the shape of every graph input that has a symbolic dimension.
        progress: called with the name of each step as it starts.

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

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with step("load the compiler"):
        from graphprune.compile import build, emit, importer, lower, memory, targets
        from graphprune.compile.program import read_program

        machine = targets.resolve(target)
    with step("import"):
        module, node_of = importer.import_onnx(proto, dict(shapes or {}))
    with step("lower"):
        lowered = lower.lower(module, machine)
        program = read_program(lowered.module, lowered.scratch)
        workspace, weights = memory.plan(program)
    with step("write weights"), _replacing(folder / "weights.bin") as path:
        _write_weights(program, path, weights)
    with step("compile kernels"), _replacing(folder / machine.library) as library:
        objects = library.with_suffix(".o")
        build.write_object(lowered.module, machine, objects)
        source, identity = emit.seal(emit.emit_c(program, machine, workspace, weights), objects.read_bytes())
        build.link(source, [objects], machine, library)
        objects.unlink()

    def values(names: list[str], indices: list[int]) -> tuple[Value, ...]:
        tensors = [program.tensors[i] for i in indices]
        return tuple(Value(name, t.dtype, t.shape) for name, t in zip(names, tensors, strict=True))

    initializers = {tensor.name for tensor in proto.graph.initializer}
    manifest = Manifest(
        name=proto.graph.name,
        target=Machine(machine.name, machine.triple, machine.cpu, machine.features),
        library=machine.library,
        identity=identity,
        inputs=values([v.name for v in proto.graph.input if v.name not in initializers], program.inputs),
        outputs=values([v.name for v in proto.graph.output], program.outputs),
        workspace_bytes=workspace,
        weights_bytes=weights,
        kernels=tuple(
            Kernel(
                call.function,
                "ours" if call.function in lowered.ours else "fallback",
                tuple(node_of[v] for v in lowered.covers.get(call.label, [call.label]) if v in node_of),
            )
            for call in program.calls
        ),
        versions={name: importlib.metadata.version(name) for name in ("graphprune", "apache-tvm", "onnx")},
    )
    with _replacing(folder / "manifest.json") as path:
        path.write_bytes(msgspec.json.format(msgspec.json.encode(manifest)))
    return Artefact(folder, manifest, seconds)


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A name to write under; the file then takes the place of `path`, which a running process may have mapped."""
    new = path.with_name(f"new-{path.name}")
    try:
        yield new
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)


def _write_weights(program: Program, path: Path, size: int) -> None:
    with path.open("wb") as file:
        for tensor in program.constants:
            assert tensor.value is not None
            file.seek(tensor.offset)
            tensor.value.tofile(file)
        file.truncate(size)
