"""How long the dependency analysis takes, and that it grows linearly with the graph.

    python -m benchmarks.analysis [--repeats 5] [--nodes 250 500 1000 2000 4000]

Times loading (shape inference included) and analysis of seeded nets of residual and concatenating blocks.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from rich.console import Console
from rich.table import Table

from graphprune.groups import analyse
from graphprune.model import load

WIDTH = 32


def blocks(nodes: int, seed: int = 0) -> ModelProto:
    """A net of about ``nodes`` nodes: residual blocks, and every fourth block a Concat brought back to width."""
    rng = np.random.default_rng(seed)
    made: list[NodeProto] = []
    weights: list[TensorProto] = []

    def op(kind: str, *inputs: str, **attributes: object) -> str:
        name = f"t{len(made)}"
        made.append(helper.make_node(kind, list(inputs), [name], name=name, **attributes))
        return name

    def weight(values: np.ndarray) -> str:
        name = f"w{len(weights)}"
        weights.append(numpy_helper.from_array(values.astype(np.float32), name))
        return name

    def conv(x: str, channels: int) -> str:
        filters = rng.standard_normal((WIDTH, channels, 3, 3)) / np.sqrt(9 * channels)
        y = op("Conv", x, weight(filters), pads=[1, 1, 1, 1])
        parts = [weight(rng.uniform(0.5, 1.5, WIDTH)) for _ in range(4)]
        return op("BatchNormalization", y, *parts)

    x, count = conv("x", 3), 0
    while len(made) < nodes - 3:
        y = conv(op("Relu", conv(x, WIDTH)), WIDTH)
        count += 1
        x = op("Relu", op("Add", x, y)) if count % 4 else conv(op("Concat", x, y, axis=1), 2 * WIDTH)
    y = op("Gemm", op("Flatten", op("GlobalAveragePool", x)), weight(rng.standard_normal((WIDTH, 10))))
    graph = helper.make_graph(
        made,
        "blocks",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 32, 32])],
        [helper.make_tensor_value_info(y, TensorProto.FLOAT, ["N", 10])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model


def median(run: Callable[[], object], repeats: int) -> float:
    """Median seconds of several runs."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, help="runs of which the median is shown")
    parser.add_argument("--nodes", type=int, nargs="+", default=[250, 500, 1000, 2000, 4000], help="sizes of the nets")
    options = parser.parse_args(arguments)
    table = Table(title=f"Dependency analysis, median of {options.repeats} runs")
    for column in ("nodes", "groups", "load [s]", "analyse [s]", "together [s]", "s per 1,000 nodes"):
        table.add_column(column, justify="right")
    for nodes in options.nodes:
        proto = blocks(nodes)
        count = len(proto.graph.node)
        groups = len(analyse(load(proto)).groups)
        loading = median(lambda proto=proto: load(proto), options.repeats)  # type: ignore[misc]
        both = median(lambda proto=proto: analyse(load(proto)), options.repeats)  # type: ignore[misc]
        cells = (loading, both - loading, both, both / count * 1000)
        table.add_row(f"{count:,}", f"{groups:,}", *(f"{seconds:.2f}" for seconds in cells))
    Console().print(table)


if __name__ == "__main__":
    main()
