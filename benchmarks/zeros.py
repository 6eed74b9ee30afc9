"""What zeros in weights are worth once compiled: `python -m benchmarks.zeros layers` and `... networks`.

Times compiled models against onnxruntime on the model without zeros, in turn. Zeros are random, in blocks
of output channels: speed depends on how many there are, not on where. Figures are onnxruntime's time by ours, medians.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import onnx
import typer
from onnx import numpy_helper, parser
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from graphprune import runtime
from graphprune.compiler import compile_model
from graphprune.latency import Timing, interleave
from graphprune.model import load
from graphprune.proof import Runner, seeded_inputs
from models import find

app = typer.Typer()

# channels, height and width, filters, kernel, stride: of MobileNet, EfficientNet and ResNet
LAYERS = [
    (32, 112, 64, 1, 1),
    (192, 28, 32, 1, 1),
    (512, 14, 512, 1, 1),
    (1024, 7, 1024, 1, 1),
    (64, 56, 64, 3, 1),
    (128, 56, 128, 3, 2),
    (256, 14, 256, 3, 1),
    (512, 7, 512, 3, 1),
]
NETWORKS = ["mobilenet_v1", "resnet18", "resnet50", "efficientnet_lite0", "minilm", "fashion_resnet20"]
TOKENS = (1, 128)  # a text, for networks of language
Block = Annotated[list[int], typer.Option(help="Output channels that share their zeros; repeatable.")]
Share = Annotated[list[float], typer.Option(help="Share of zeros; repeatable.")]
Threads = Annotated[int, typer.Option(min=1, help="Threads of both.")]
Seconds = Annotated[float, typer.Option(help="Time for each row.")]
SHARES, BLOCKS = [0.5, 0.7, 0.8, 0.9], [1, 4]


def thinned(proto: onnx.ModelProto, share: float, block: int, seed: int = 0) -> onnx.ModelProto:
    """The model with that share of the weights of its convolutions and matrix products zero; those in groups stay."""
    rng = np.random.default_rng(seed)
    result = onnx.ModelProto()
    result.CopyFrom(proto)
    weights = {
        node.input[1]: node
        for node in result.graph.node
        if node.op_type in ("Conv", "MatMul", "Gemm") and not any(a.name == "group" and a.i > 1 for a in node.attribute)
    }
    for tensor in result.graph.initializer:
        if tensor.name in weights:
            values = numpy_helper.to_array(tensor)
            turned = weights[tensor.name].op_type != "Conv" and not any(
                a.name == "transB" and a.i for a in weights[tensor.name].attribute
            )
            rows = (values.T if turned else values).reshape(values.shape[-1] if turned else len(values), -1)
            kept = np.repeat(rng.random((-(-len(rows) // block), rows.shape[1])) >= share, block, 0)[: len(rows)]
            thin = rows * kept
            values = thin.T if turned else thin.reshape(values.shape)
            tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values, np.float32), tensor.name))
    return result


def convolution(channels: int, size: int, filters: int, kernel: int, stride: int) -> onnx.ModelProto:
    """A model of one convolution with bias."""
    pad = kernel // 2
    text = f"""<ir_version: 8, opset_import: ["" : 17]>
    layer (float[1,{channels},{size},{size}] x) => (float[n,f,h,w] y) {{
        y = Conv <strides = [{stride},{stride}], pads = [{pad},{pad},{pad},{pad}]> (x, w, b)
    }}"""
    proto = parser.parse_model(text)
    rng = np.random.default_rng(0)
    for name, shape in {"w": (filters, channels, kernel, kernel), "b": (filters,)}.items():
        values = rng.normal(0, (channels * kernel**2) ** -0.5, shape).astype(np.float32)
        proto.graph.initializer.append(numpy_helper.from_array(values, name))
    return proto


def timed(
    proto: onnx.ModelProto, variants: Mapping[str, tuple[float, int]], seconds: float, threads: int = 1
) -> dict[str, Timing]:
    """Latency of onnxruntime on the model, then of each variant compiled: share of zeros and block, by name.

    A variant without zeros must compute what onnxruntime does.
    """
    tokens = {v.name: TOKENS for v in proto.graph.input if v.name in ("input_ids", "attention_mask")}
    model = load(proto, input_shapes=tokens)
    inputs = seeded_inputs(model, 0)
    calls = {"onnxruntime": partial(Runner(model, optimise=True, threads=threads), inputs)}
    with tempfile.TemporaryDirectory() as folder:
        for name, (share, block) in variants.items():
            compile_model(
                thinned(proto, share, block) if share else proto, Path(folder, name), shapes=model.input_shapes
            )
            calls[name] = partial(runtime.load(Path(folder, name), threads), inputs)
            if not share:
                for key, expected in calls["onnxruntime"]().items():
                    assert np.abs(calls[name]()[key] - expected).max() <= 1e-4 * np.abs(expected).max(), key
        return interleave(calls, seconds=seconds, threads=threads)


def show(
    rows: Mapping[str, tuple[onnx.ModelProto, float]],
    share: list[float],
    block: list[int],
    seconds: float,
    threads: int,
) -> None:
    """Time every row and print the table; a row is a model and its floating-point operations, 0 where not told."""
    variants = {f"{s:.0%} in {b} × 1": (s, b) for s in share for b in block}
    title = f"onnxruntime's time by ours, {threads} thread{'s' * (threads > 1)}"
    table = Table("", "onnxruntime", "dense", *variants, box=SIMPLE_HEAD, title=title)
    for name, (proto, operations) in rows.items():
        times = timed(proto, {"dense": (0.0, 1), **variants}, seconds, threads)
        base = times["onnxruntime"]
        speed = f", {operations / base.median_ms / 1e6:.0f} GFLOP/s" if operations else ""
        cells = [f"{1 / t.ratio:.2f}" for key, t in times.items() if key != "onnxruntime"]
        table.add_row(name, f"{base.median_ms:.2f} ms{speed}", *cells)
    Console().print(table)


@app.command()
def layers(share: Share = SHARES, block: Block = BLOCKS, seconds: Seconds = 3.0, threads: Threads = 1) -> None:
    """Single convolutions."""
    rows = {}
    for channels, size, filters, kernel, stride in LAYERS:
        macs = channels * filters * kernel**2 * (size // stride) ** 2
        name = f"{channels} × {size}² → {filters}, {kernel} × {kernel}" + (f" stride {stride}" if stride > 1 else "")
        rows[name] = (convolution(channels, size, filters, kernel, stride), 2.0 * macs)
    show(rows, share, block, seconds, threads)


@app.command()
def networks(
    names: Annotated[list[str] | None, typer.Argument(help="Models; all that are there by default.")] = None,
    share: Share = SHARES[:3],
    block: Block = BLOCKS[1:],
    seconds: Seconds = 10.0,
    threads: Threads = 1,
) -> None:
    """Whole networks; those that are not committed are made by `python -m models build`."""
    chosen = names or [name for name in NETWORKS if find(name).path.exists()]
    rows = {name: (onnx.load(find(name).path), 0.0) for name in chosen}
    show(rows, share, block, seconds, threads)


if __name__ == "__main__":
    app()
