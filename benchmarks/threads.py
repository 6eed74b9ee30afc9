"""How well threads can share each kernel: `python -m benchmarks.threads mobilenet_v1 resnet18`.

The parts that threads would take of a call are run after one another, data in the cache, each many times, and the
fastest of each counts. The time on so many threads is then that of the longest part of every call, one call after the
other: what sharing allows where nothing else limits it, neither memory nor other work. A busy machine, on which whole
runs cannot be timed, tells it as well.
"""

from __future__ import annotations

import time
from typing import Annotated, Any

import numpy as np
import onnx
import tvm
import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from benchmarks.zeros import TOKENS, thinned
from graphprune.compiler import build, importer, lower, targets
from graphprune.compiler.program import Program, read_program
from graphprune.compiler.tune import roomy
from graphprune.compiler.ways import Cheapest
from graphprune.model import load
from graphprune.proof import seeded_inputs
from models import find


def main(
    names: Annotated[list[str], typer.Argument(help="Models of the zoo.")],
    threads: Annotated[int, typer.Option(min=2, help="How many share each call.")] = 2,
    runs: Annotated[int, typer.Option(help="Of every part.")] = 20,
    share: Annotated[float, typer.Option(help="Share of zeros, in blocks of four output channels.")] = 0.0,
    worst: Annotated[int, typer.Option(help="Kernels to list: those that lose most.")] = 5,
) -> None:
    """Print a table for each model."""
    console = Console()
    for name in names:
        proto = onnx.load(find(name).path)
        tokens = {v.name: TOKENS for v in proto.graph.input if v.name in ("input_ids", "attention_mask")}
        model = load(proto, input_shapes=tokens)
        if share:
            proto = thinned(proto, share, 4)
        calls, times = parts(proto, dict(model.input_shapes), seeded_inputs(model, 0), threads, runs)
        alone, together = times[:, 0], times[:, 1:].max(1)
        lost = together - alone / threads
        faster = alone.sum() / together.sum()
        title = f"{name}: {alone.sum() * 1e3:.2f} ms alone, {faster:.2f} times as fast on {threads} threads"
        table = Table("kernel", "alone, ms", "longest part", "times as fast", box=SIMPLE_HEAD, title=title)
        for index in np.argsort(-lost)[:worst]:
            row = alone[index] * 1e3, together[index] * 1e3, alone[index] / together[index]
            table.add_row(calls[index], *(f"{value:.3f}" for value in row))
        console.print(table)


def parts(
    proto: onnx.ModelProto, shapes: dict[str, tuple[int, ...]], inputs: dict[str, np.ndarray], threads: int, runs: int
) -> tuple[list[str], np.ndarray]:
    """The kernels called, and seconds of each as a whole and of each of its parts, [calls, 1 + threads]."""
    machine = targets.resolve("host")
    module, _ = importer.import_onnx(proto, shapes, machine)
    lowered = lower.lower(module, machine, Cheapest())
    program = read_program(lowered.module, lowered.scratch, lowered.ours)
    library = build.built(lowered.module, machine)
    arrays = _arrays(program)
    for index, value in zip(program.inputs, inputs.values(), strict=True):
        arrays[index][...] = value
    times = np.full((len(program.calls), 1 + threads), np.inf)
    for _ in range(runs):
        for number, call in enumerate(program.calls):
            function: Any = library[call.function]
            given = [tvm.runtime.from_dlpack(arrays[index]) for index in call.arguments]
            whole = [(0, 0, 1)] * 2  # the first brings the data near
            for column, part, count in whole + [(1 + part, part, threads) for part in range(threads)]:
                if call.share is not None:
                    arrays[call.share][...] = part, count
                began = time.perf_counter()
                if call.share is not None or not part:
                    function(*given)
                times[number, column] = min(times[number, column], time.perf_counter() - began)
    return [f"{call.function}, {lowered.ours.get(call.function, ('',))[0]}" for call in program.calls], times


def _arrays(program: Program) -> list[np.ndarray]:
    """Memory for every tensor; what nobody reads any more is not used again."""
    made: dict[int, np.ndarray] = {}
    for index, tensor in enumerate(program.tensors):
        if tensor.root == index:
            made[index] = roomy(np.zeros(tensor.shape, tensor.dtype) if tensor.value is None else tensor.value)
    return [made[tensor.root].reshape(tensor.shape) for tensor in program.tensors]


if __name__ == "__main__":
    typer.run(main)
