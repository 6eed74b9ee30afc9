"""What the cost model's tile takes on a graphics processor, beside the best one: `python -m benchmarks.gpu_tiles`.

Layers of known networks, each in the tiles that the cost model thinks best, timed on the device between events, which
add two microseconds or so. Every tile has weights of its own, so they come from memory. With
`--folder` and `--compile-only` as `benchmarks.gpu`, a machine without a graphics processor compiles for another.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
import onnx
import typer
from onnx import helper, numpy_helper
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from benchmarks.gpu import card
from graphprune import runtime
from graphprune.compiler import compile_model, targets
from graphprune.compiler.ways import Way, Ways
from graphprune.execute import cuda_present

MOST = 14  # tiles of a layer
# Filters, height, width and channels of convolutions by kernel and stride, as ResNet-18, -50 and MobileNetV1 have them.
CONVOLUTIONS = {
    (7, 2): [(64, 112, 3)],
    (3, 1): [(64, 56, 64), (128, 28, 128), (256, 14, 256), (512, 7, 512)],
    (3, 2): [(128, 28, 64), (512, 7, 256)],
    (1, 2): [(128, 28, 64)],
    (1, 1): [
        *[(64, 112, 32), (128, 56, 64), (128, 56, 128), (256, 28, 128), (256, 28, 256), (512, 14, 256)],
        *[(512, 14, 512), (1024, 7, 512), (1024, 7, 1024), (256, 56, 64), (64, 56, 256), (128, 28, 512)],
        *[(256, 14, 1024), (1024, 14, 256), (512, 7, 2048), (2048, 7, 512)],
    ],
}
PRODUCTS = [
    (128, 384, 384),
    (128, 384, 1536),
    (128, 1536, 384),
    (1, 512, 1000),
    (1, 1024, 1000),
]  # rows, depth, columns


class InTurn:
    """Takes one way after the other, those that the cost model thinks best; every tile at most in three forms."""

    few = 1000

    def __init__(self, at: int = 0) -> None:
        self.at, self.ways = at, list[Way]()

    def __call__(self, ways: Ways) -> tuple[Way, str]:
        """The next."""
        if not self.ways:
            seen: dict[str, int] = {}
            for way in ways.found:
                tile = way.loops.partition(",")[0]
                seen[tile] = seen.get(tile, 0) + 1
                if seen[tile] <= 3 and way.loops not in [w.loops for w in self.ways]:
                    self.ways.append(way)
        way = self.ways[self.at % len(self.ways)]
        self.at += 1
        return way, ""


class Timed(msgspec.Struct):
    """A layer in words, its multiplications, and the tiles it is in, the one chosen first."""

    layer: str
    products: int
    tiles: list[str]


def layers() -> dict[str, tuple[onnx.ModelProto, int]]:
    """A model for every layer, which has it MOST times, and its multiplications."""
    found = {}
    for (kernel, stride), shapes in CONVOLUTIONS.items():
        for filters, size, channels in shapes:
            window = {"pads": [kernel // 2] * 4, "strides": [stride, stride]}
            taps = channels * kernel**2
            name = f"{kernel} × {kernel} stride {stride}, {channels} → {filters}, {size} × {size}"
            image = (1, channels, size * stride, size * stride)
            found[name] = (
                _model("Conv", image, (filters, channels, kernel, kernel), (1, filters, size, size), window),
                filters * size**2 * taps,
            )
    for rows, depth, columns in PRODUCTS:
        proto = _model("MatMul", (rows, depth), (depth, columns), (rows, columns), {})
        found[f"{rows} × {depth} × {columns}"] = (proto, rows * depth * columns)
    return found


def _model(operator: str, x: tuple, w: tuple, y: tuple, attributes: dict) -> onnx.ModelProto:
    nodes = [helper.make_node(operator, ["x", "w"], [f"y{i}"], **attributes) for i in range(MOST)]
    value = lambda name, shape: helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)  # noqa: E731
    weight = numpy_helper.from_array(np.full(w, 0.01, np.float32), "w")
    graph = helper.make_graph(nodes, "g", [value("x", x)], [value(node.output[0], y) for node in nodes], [weight])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def prepare(folder: Path, mcpu: str) -> None:
    """Every layer, compiled into `folder` for a generation of graphics processors."""
    for number, (name, (proto, products)) in enumerate(layers().items()):
        own = folder / f"{number:02d}"
        if own.exists():
            continue
        pick = InTurn()
        compile_model(proto, own, targets.resolve("cuda", mcpu), pick=pick)
        taken = [way.loops for way in (pick.ways * MOST)[:MOST]]
        (own / "layer.json").write_bytes(msgspec.json.encode(Timed(name, products, taken)))


def main(
    folder: Annotated[Path | None, typer.Option(help="Where what is compiled is kept.")] = None,
    compile_only: Annotated[bool, typer.Option(help="Compile into the folder and stop.")] = False,
    mcpu: Annotated[str, typer.Option(help="The generation to compile for.")] = "sm_90",
) -> None:
    """Print a line for each layer: the tile chosen, and the best."""
    if not compile_only and not cuda_present():
        print("skipped: needs an NVIDIA graphics processor with its driver")
        return
    with tempfile.TemporaryDirectory() as scratch:
        kept = folder or Path(scratch)
        if not folder or compile_only:
            prepare(kept, mcpu)
        if not compile_only:
            _print(kept)


def _print(folder: Path) -> None:
    table = Table("layer", "chosen", "µs", "best", "µs", "TFLOP/s", box=SIMPLE_HEAD, title=card())
    lost = []
    for own in sorted(folder.iterdir()):
        timed = msgspec.json.decode((own / "layer.json").read_bytes(), type=Timed)
        model = runtime.load(own)
        rng = np.random.default_rng(0)
        inputs = {v.name: rng.normal(size=v.shape).astype(np.float32) for v in model.manifest.inputs}
        times = (model.profile(inputs, 20) * 1e6).tolist()
        best = int(np.argmin(times))
        flops = 2 * timed.products / 1e6 / times[best]
        row = [timed.tiles[0], f"{times[0]:.1f}", timed.tiles[best], f"{times[best]:.1f}", f"{flops:.1f}"]
        table.add_row(timed.layer, *row)
        lost.append(times[0] / times[best])
    Console(width=140).print(table)
    print(f"the chosen tile takes {np.mean(lost):.2f} times what the best does, at most {max(lost):.2f}")


if __name__ == "__main__":
    typer.run(main)
