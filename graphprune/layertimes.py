"""How long each layer takes as a function of its width: timed at a few widths, interpolated between them."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_graphsurgeon as gs

from graphprune.calls import node_name
from graphprune.cost import CostModel
from graphprune.model import Model
from graphprune.proof import opened_session, seeded_inputs

SECONDS = 0.7  # spent on each width
RUNS = 200  # at most

Profile = Callable[[Model], tuple[float, dict[str, float]]]
"""A model → milliseconds of one run, and of nodes by name; a fused kernel counts for the node that multiplies."""


@dataclass(frozen=True, eq=False)
class LayerTimes:
    """A prediction of latency from timed layers; see ``graphprune.cost.Times``.

    Attributes:
        layers: by the name of a product's node: multiply-accumulates, ascending, and milliseconds: float64 [widths].
        rest: shares of all units that were left, ascending, and milliseconds of everything else: float64 [widths].
    """

    layers: Mapping[str, tuple[np.ndarray, np.ndarray]]
    rest: tuple[np.ndarray, np.ndarray]

    def predict(self, macs: Mapping[str, int], channels: float) -> float:
        """Milliseconds of one run."""
        timed = (np.interp(macs[name], *curve) for name, curve in self.layers.items() if name in macs)
        return float(sum(timed) + np.interp(channels, *self.rest))


def layer_times(models: Iterable[tuple[float, Model]], profile: Profile) -> LayerTimes:
    """Time models of one architecture at different widths.

    Args:
        models: the share of units each has left, and the model; one of them is the model as it is.
        profile: what times a model.
    """
    points: dict[str, list[tuple[int, float]]] = {}
    rest = []
    for share, model in models:
        total, nodes = profile(model)
        products = CostModel(model).products()
        macs = {node_name(model.graph.nodes[k]): product.macs for k, product in products.items()}
        timed = {name: nodes[name] for name in macs if name in nodes}
        for name, milliseconds in timed.items():
            points.setdefault(name, []).append((macs[name], milliseconds))
        rest.append((share, max(total - sum(timed.values()), 0.0)))
    return LayerTimes({name: _curve(found) for name, found in points.items()}, _curve(rest))


def _curve(points: Sequence[tuple[float, float]]) -> tuple[np.ndarray, np.ndarray]:
    """Ascending points that never fall, on to the amount 0 in the direction of the first two."""
    amounts, milliseconds = np.array(sorted(points), float).T
    milliseconds = np.maximum.accumulate(milliseconds)
    amounts, at = np.unique(amounts, return_index=True)
    milliseconds = milliseconds[at]
    slope = (milliseconds[1] - milliseconds[0]) / (amounts[1] - amounts[0]) if len(amounts) > 1 else 0.0
    start = max(milliseconds[0] - slope * amounts[0], 0.0)
    return np.append(0.0, amounts), np.append(start, milliseconds)


def onnxruntime_profile(model: Model) -> tuple[float, dict[str, float]]:
    """Medians of what onnxruntime says of its nodes, on one thread.

    It fuses nodes and names what it makes of them after a node or an output, which is followed back to a product.
    """
    inputs = seeded_inputs(model)
    with tempfile.TemporaryDirectory() as folder:
        opened = opened_session(model, True, 1, profile=str(Path(folder) / "times"))
        end = time.perf_counter() + SECONDS
        for done in range(RUNS):
            opened.run(None, inputs)
            if time.perf_counter() > end and done > 1:
                break
        events = json.loads(Path(opened.end_profiling()).read_text("utf-8"))
    found: dict[str, list[float]] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            found.setdefault(event["name"].removesuffix("_kernel_time"), []).append(event["dur"] / 1e3)
    medians = {name: float(np.median(times)) for name, times in found.items()}
    owners = _owners(model, medians)
    nodes: dict[str, float] = {}
    for name, milliseconds in medians.items():
        if name in owners:
            nodes[owners[name]] = nodes.get(owners[name], 0.0) + milliseconds
    return sum(medians.values()), nodes


def _owners(model: Model, names: Mapping[str, float]) -> dict[str, str]:
    """The node that multiplies behind each name of onnxruntime's, where there is one."""
    graph = model.graph
    by_name = {node_name(node): node for node in graph.nodes}
    makers = {tensor.name: node for node in graph.nodes for tensor in node.outputs}
    products = {node_name(graph.nodes[k]) for k in CostModel(model).products()}
    found: dict[str, str] = {}
    later: list[tuple[str, gs.Node]] = []
    for name in names:
        plain = name.removesuffix("_nchwc").removeprefix("fused ")
        node = by_name.get(plain) or makers.get(plain)
        if node is not None and node_name(node) in products:
            found[name] = node_name(node)
        elif node is not None:
            later.append((name, node))
    taken = {*found.values()}
    for name, node in later:
        seen, todo = {id(node)}, [node]
        while todo:
            at = todo.pop(0)
            if node_name(at) in products:
                if node_name(at) not in taken:
                    found[name] = node_name(at)
                    taken.add(node_name(at))
                break
            for tensor in at.inputs:
                if (maker := makers.get(tensor.name)) is not None and id(maker) not in seen:
                    seen.add(id(maker))
                    todo.append(maker)
    return found
