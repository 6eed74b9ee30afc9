"""Compile a pruned ONNX model to a library or a WebAssembly module that needs no runtime.

ONNX → Relax → kernels in TIR (ours, or TVM's legalised ones) → one static plan of memory and calls → object → library.
The artefact is a folder: `weights.bin`, `manifest.json` and the code. For C that is a shared and a static library with
their header, which `graphprune.runtime.load` runs too; for JavaScript a WebAssembly module, or a program for WebGPU,
with its loader. For graphics processors TVM schedules what has no kernel of ours, and the plan is one of launches.

TVM is imported when a model is compiled, never before.
"""

from __future__ import annotations

import importlib.metadata
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from graphprune.compiler.cache import digest, restore, store
from graphprune.compiler.manifest import Kernel, Machine, Manifest, Value

if TYPE_CHECKING:
    import onnx

    from graphprune.compiler.memory import Sizes
    from graphprune.compiler.program import Program
    from graphprune.compiler.targets import Target
    from graphprune.compiler.ways import Pick

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
    pick: Pick | None = None,
    cache: Path | None = None,
) -> Artefact:
    """Compile `proto` into `folder`.

    Args:
        proto: a valid ONNX model, pruned or not.
        folder: where the artefact goes; made if need be.
        target: one of `graphprune.compiler.targets`, or its name.
        shapes: the shape of every graph input that has a symbolic dimension.
        progress: called with the name of each step as it starts.
        embed_weights: put the weights into the library in place of `weights.bin`.
        pick: what chooses kernels; by default the cost model does.
        cache: a folder to take the artefact from, if it was made before, and to keep it in; by default there is none.

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
            from graphprune.compiler import device, importer, lower, targets
            from graphprune.compiler.program import read_program
            from graphprune.compiler.ways import Cheapest

            machine = targets.resolve(target) if isinstance(target, str) else target
            pick = pick or Cheapest()
        key = _key(proto, machine, shapes, embed_weights, pick) if cache else ""
        if cache and key:
            with step("look in the cache"):
                if restore(cache, key, new):
                    manifest = msgspec.json.decode((new / "manifest.json").read_bytes(), type=Manifest)
                    return Artefact(Path(folder), manifest, seconds)
        with step("import"):
            module, node_of = importer.import_onnx(proto, dict(shapes or {}), machine)
            if machine.device == "webgpu":
                from graphprune.compiler import narrow

                operators = {node.name or next(filter(None, node.output)): node.op_type for node in proto.graph.node}
                narrow.check(module, node_of, operators)
        with step("lower"):
            lowered = lower.lower(module, machine, pick)
            program = read_program(lowered.module, lowered.scratch, lowered.ours)
        initializers = {tensor.name for tensor in proto.graph.initializer}
        inputs = _values([v.name for v in proto.graph.input if v.name not in initializers], program, program.inputs)
        outputs = _values([v.name for v in proto.graph.output], program, program.outputs)
        package = {"": _library, "cuda": _cuda, "webgpu": _webgpu}[machine.device]
        code = package(_Model(lowered.module, program, machine, inputs, outputs, embed_weights), new, step)
        if embed_weights:
            (new / "weights.bin").unlink()
        manifest = Manifest(
            name=proto.graph.name,
            target=Machine(machine.name, machine.triple, machine.cpu, machine.features),
            library=machine.library,
            identity=code.identity,
            inputs=inputs,
            outputs=outputs,
            workspace_bytes=code.sizes.workspace,
            weights_bytes=code.sizes.weights,
            prepared_bytes=code.sizes.prepared,
            kernels=tuple(
                Kernel(
                    call.function,
                    "ours" if call.function in lowered.ours else "scheduled" if machine.device else "fallback",
                    tuple(node_of[v] for v in lowered.covers.get(call.label, [call.label]) if v in node_of),
                    *(
                        lowered.ours.get(call.function)
                        or (device.zeros_of(program, call) if machine.device else ("", ""))
                    ),
                )
                for call in program.calls
            ),
            also=dict(machine.also),
            embedded=embed_weights,
            pages=code.pages,
            versions={name: importlib.metadata.version(name) for name in ("graphprune", "apache-tvm", "onnx")},
        )
        (new / "manifest.json").write_bytes(msgspec.json.format(msgspec.json.encode(manifest)))
        if cache and key:
            store(cache, key, new)
    return Artefact(Path(folder), manifest, seconds)


class _Model(NamedTuple):
    """A lowered model on its way to a package."""

    module: Any
    program: Program
    machine: Target
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    embed: bool


class _Code(NamedTuple):
    """What a package is known by, its memory, and pages as in `Manifest`."""

    identity: str
    sizes: Sizes
    pages: int = 0


_Step = Callable[[str], AbstractContextManager[None]]


def _library(model: _Model, folder: Path, step: _Step) -> _Code:
    """A C library or a WebAssembly module, with kernels for a processor."""
    from graphprune.compiler import build, emit, javascript, memory, targets

    machine = model.machine
    sizes = memory.plan(model.program)
    with step("write weights"):
        _write_weights(model.program, folder / "weights.bin", sizes.weights)
    with step("compile kernels"):
        objects: dict[tuple[str, ...], Path] = {}  # by the instructions in them; kernels know nothing of threads
        needs = {
            library: tuple(f for f in machine.also.get(library, ()) if f not in targets.SHARED_MEMORY)
            for library in (machine.library, *machine.also)
        }
        for number, features in enumerate(dict.fromkeys(needs.values())):
            objects[features] = folder / f"kernels{number}.o"
            build.write_object(
                model.module, replace(machine, features=(*machine.features, *features)), objects[features]
            )
    with step("link"):
        source = emit.emit(model.program, machine, sizes, model.inputs, model.outputs, model.embed)
        source, identity = emit.seal(source, objects.values())
        for library, features in needs.items():
            build.link(source, objects[features], machine, folder, library)
        for kernels in objects.values():
            kernels.unlink()
        if machine.wasm and model.embed:
            javascript.embed(folder / machine.library, folder / "weights.bin")
        if machine.wasm:
            javascript.write(folder, "wasm", model.inputs, model.outputs)
    pages = max((javascript.pages(folder / library) for library in machine.also), default=0)
    return _Code(identity, sizes, pages)


def _cuda(model: _Model, folder: Path, step: _Step) -> _Code:
    """A C library with kernels for NVIDIA's graphics processors."""
    from graphprune.compiler import build, device, emit, memory

    program, machine = model.program, model.machine
    sizes = memory.plan(program, memory.DEVICE_ALIGNMENT)
    with step("write weights"):
        _write_weights(program, folder / "weights.bin", sizes.weights)
    with step("compile kernels"):
        launches, functions = device.split(model.module, program, machine)
        images = build.write_images(device.sources(functions, machine)[""], machine, folder)
    with step("link"):
        source = emit.emit_cuda(program, launches, machine, sizes, model.inputs, model.outputs, images, model.embed)
        source, identity = emit.seal(source, [folder / image.file for image in images])
        build.link(source, None, machine, folder)
        for image in images:
            (folder / image.file).unlink()
    return _Code(identity, sizes)


def _webgpu(model: _Model, folder: Path, step: _Step) -> _Code:
    """A program for browsers with WebGPU."""
    from graphprune.compiler import device, javascript, memory, narrow, webgpu

    program, machine = model.program, model.machine
    module = narrow.narrow(model.module, program)
    rooms, weights = memory.rooms(program)
    with step("write weights"):
        _write_weights(program, folder / "weights.bin", weights)
    with step("compile kernels"):
        launches, functions = device.split(module, program, machine)
        kernels = device.sources(functions, machine)
    identity = webgpu.write(folder / machine.library, program, rooms, kernels, launches, model.embed)
    javascript.write(folder, "webgpu", model.inputs, model.outputs)
    return _Code(identity, memory.Sizes(sum(rooms), weights))


def _key(
    proto: onnx.ModelProto, target: Target, shapes: dict[str, tuple[int, ...]] | None, embed_weights: bool, pick: Pick
) -> str:
    """What an artefact is cached under; empty for a model too large to be serialised."""
    try:
        content = proto.SerializeToString(deterministic=True)
    except ValueError:
        return ""
    return digest("compiled", content, target, sorted((shapes or {}).items()), embed_weights, pick)


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
