"""Models too large for memory: how long they take, and how much memory.

    python -m benchmarks.large [--inspect-layers 32] [--prune-layers 2] [--hidden 4096] [--folder DIR]

Makes a graph of the shape of Llama 2 7B (Touvron et al. 2023) with weights of zeros in a sparse file and inspects it;
then one of fewer layers with random weights, which it prunes with all proofs and verifies. Needs twice the second
model's size on disk. Peak memory is the largest resident size of the process, pages of mapped files included.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod, sqrt
from pathlib import Path

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from rich.console import Console
from rich.table import Table

LONGEST = 2048  # positions a sequence may have


@dataclass(frozen=True)
class Shape:
    """Sizes of a decoder-only transformer; those of Llama 2 7B unless told otherwise."""

    layers: int = 32
    hidden: int = 4096
    inner: int = 11008
    heads: int = 32
    vocabulary: int = 32000


class _Writer:
    """A graph in the making, with its large weights in a file beside it."""

    def __init__(self, path: Path, seed: int | None) -> None:
        self.nodes: list[NodeProto] = []
        self.tensors: list[TensorProto] = []
        self.names: dict[str, str] = {}
        self._path = path.with_name(path.name + ".data")
        self._rng = None if seed is None else np.random.default_rng(seed)
        self._path.write_bytes(b"")

    def op(self, kind: str, *inputs: str, **attributes: object) -> str:
        name = f"{kind}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], name=name, **attributes))
        return name

    def constant(self, values: np.ndarray | list[int] | float) -> str:
        array = np.asarray(values, np.float32 if isinstance(values, float) else None)
        key = f"{array.dtype}{array.shape}{array.tobytes().hex()}"
        if array.size > 16 or key not in self.names:
            self.names[key] = f"constant_{len(self.tensors)}"
            self.tensors.append(numpy_helper.from_array(array, self.names[key]))
        return self.names[key]

    def weight(self, name: str, *shape: int) -> str:
        """A matrix of zeros that takes no room on disk, or of random numbers."""
        offset, length = self._path.stat().st_size, 4 * prod(shape)
        with self._path.open("r+b") as file:
            file.truncate(offset + length)
            if self._rng is not None:
                file.seek(offset)
                for _ in range(shape[0]):
                    row = self._rng.standard_normal(shape[1:], np.float32) / np.float32(sqrt(shape[0]))
                    file.write(row.tobytes())
        tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=shape, data_location=TensorProto.EXTERNAL)
        for key, value in (("location", self._path.name), ("offset", offset), ("length", length)):
            tensor.external_data.add(key=key, value=str(value))
        self.tensors.append(tensor)
        return name


def llama(path: Path, shape: Shape, seed: int | None = None) -> None:
    """Write a graph as exporters decompose it: RMSNorm, rotary embedding, causal attention, gated feed-forward.

    Args:
        path: the ONNX file; the weights go to the same name with ``.data``.
        shape: sizes.
        seed: of random weights; without it they are zero.
    """
    w = _Writer(path, seed)
    width = shape.hidden // shape.heads
    angles = np.outer(np.arange(LONGEST), 10000 ** (-np.arange(0, width, 2) / width))
    angles = np.concatenate([angles, angles], axis=1).astype(np.float32)
    length = w.op("Gather", w.op("Shape", "input_ids"), w.constant([1]), axis=0)
    cos, sin = (
        w.op("Slice", w.constant(table), w.constant([0]), length, w.constant([0]))
        for table in (np.cos(angles), np.sin(angles))
    )
    steps = w.op("Range", w.constant(np.int64(0)), w.op("Squeeze", length), w.constant(np.int64(1)))
    seen = w.op("LessOrEqual", w.op("Unsqueeze", steps, w.constant([0])), w.op("Unsqueeze", steps, w.constant([1])))
    mask = w.op("Where", seen, w.constant(0.0), w.constant(-1e9))

    def normalised(x: str, name: str) -> str:
        mean = w.op("ReduceMean", w.op("Pow", x, w.constant(2.0)), axes=[-1])
        scale = w.op("Sqrt", w.op("Add", mean, w.constant(1e-5)))
        gain = numpy_helper.from_array(np.ones(shape.hidden, np.float32), name)
        w.tensors.append(gain)
        return w.op("Mul", w.op("Div", x, scale), name)

    def heads(x: str, name: str) -> str:
        y = w.op("MatMul", x, w.weight(name, shape.hidden, shape.hidden))
        y = w.op("Reshape", y, w.constant([0, 0, shape.heads, width]))
        return w.op("Transpose", y, perm=[0, 2, 1, 3])

    def rotated(x: str) -> str:
        low = w.op("Slice", x, w.constant([0]), w.constant([width // 2]), w.constant([3]))
        high = w.op("Slice", x, w.constant([width // 2]), w.constant([width]), w.constant([3]))
        turned = w.op("Concat", w.op("Neg", high), low, axis=3)
        return w.op("Add", w.op("Mul", x, cos), w.op("Mul", turned, sin))

    def attention(x: str, name: str) -> str:
        q, k = (rotated(heads(x, f"{name}.{part}_proj.weight")) for part in "qk")
        v = heads(x, f"{name}.v_proj.weight")
        scores = w.op("MatMul", q, w.op("Transpose", k, perm=[0, 1, 3, 2]))
        scores = w.op("Add", w.op("Div", scores, w.constant(sqrt(width))), mask)
        mixed = w.op("MatMul", w.op("Softmax", scores, axis=-1), v)
        flat = w.op("Reshape", w.op("Transpose", mixed, perm=[0, 2, 1, 3]), w.constant([0, 0, shape.hidden]))
        return w.op("MatMul", flat, w.weight(f"{name}.o_proj.weight", shape.hidden, shape.hidden))

    def feed_forward(x: str, name: str) -> str:
        gate, up = (
            w.op("MatMul", x, w.weight(f"{name}.{part}_proj.weight", shape.hidden, shape.inner))
            for part in ("gate", "up")
        )
        gated = w.op("Mul", w.op("Mul", gate, w.op("Sigmoid", gate)), up)
        return w.op("MatMul", gated, w.weight(f"{name}.down_proj.weight", shape.inner, shape.hidden))

    x = w.op("Gather", w.weight("embed_tokens.weight", shape.vocabulary, shape.hidden), "input_ids")
    for k in range(shape.layers):
        name = f"layers.{k}"
        x = w.op("Add", x, attention(normalised(x, f"{name}.input_norm.weight"), f"{name}.attention"))
        x = w.op("Add", x, feed_forward(normalised(x, f"{name}.post_norm.weight"), f"{name}.mlp"))
    head = w.weight("lm_head.weight", shape.hidden, shape.vocabulary)
    w.nodes.append(helper.make_node("MatMul", [normalised(x, "norm.weight"), head], ["logits"], name="logits"))
    sizes = ["batch", "sequence"]
    graph = helper.make_graph(
        w.nodes,
        "llama",
        [helper.make_tensor_value_info("input_ids", TensorProto.INT64, sizes)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [*sizes, shape.vocabulary])],
        w.tensors,
    )
    model: ModelProto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(model.SerializeToString())


def measured(*arguments: str) -> tuple[float, float]:
    """Wall seconds and peak memory in bytes of ``graphprune`` with these arguments."""
    began = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "graphprune", *arguments], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"graphprune {' '.join(arguments)} failed")
    return time.perf_counter() - began, usage.ru_maxrss * 1024.0  # kilobytes on Linux


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inspect-layers", type=int, default=32, help="of the model of zeros; 32 makes 6.7 billion")
    parser.add_argument("--prune-layers", type=int, default=2, help="of the model that is pruned; 0 prunes none")
    parser.add_argument("--hidden", type=int, default=4096, help="width; the other sizes follow")
    parser.add_argument("--folder", type=Path, help="where to put the models while this runs")
    options = parser.parse_args(arguments)
    hidden = options.hidden
    table = Table(title="Llama-shaped graphs in float32")
    for column in ("", "weights", "largest", "allowed", "peak memory", "wall"):
        table.add_column(column, justify="right" if column else "left", no_wrap=True)
    passes = "fold_states, fold_shapes, fold_constants, magnitude, uniform(ratio=0.5, multiple=8), cut"
    folder = Path(tempfile.mkdtemp(dir=options.folder))
    try:
        for layers, seed in ((options.inspect_layers, None), (options.prune_layers, 0)):
            if not layers:
                continue
            shape = Shape(layers, hidden, hidden * 11008 // 4096, hidden // 128, 32000)
            path = folder / f"llama{layers}.onnx"
            llama(path, shape, seed)
            data = path.with_name(path.name + ".data")
            largest = 4 * max(hidden * shape.vocabulary, hidden * shape.inner)
            runs = {f"inspect, {layers} layers": ["inspect", str(path), "--json"]}
            if seed is not None:
                small = str(folder / "small.onnx")
                runs[f"prune, {layers} layers, proved"] = ["prune", str(path), "-o", small, "-q", "--passes", passes]
                runs["verify the file"] = ["verify", str(path), small, "-q"]
            for name, command in runs.items():
                seconds, peak = measured(*command)
                sizes = (data.stat().st_size, largest, 1.5 * largest + 2e9, peak)
                table.add_row(name, *(f"{size / 1e9:.2f} GB" for size in sizes), f"{seconds:.0f} s")
            data.unlink()
    finally:
        shutil.rmtree(folder)
    Console().print(table)


if __name__ == "__main__":
    main()
