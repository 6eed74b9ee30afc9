"""Runs a model part by part, each with its own weights, handing on what later parts read.

So memory grows with a part and not with the model, and what is found on the way can change the parts ahead.
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_graphsurgeon as gs
import onnxruntime as ort
from onnx import ModelProto, helper

from graphprune.model import Model
from graphprune.model.session import session
from graphprune.model.surgeon import export_node, export_tensor
from graphprune.model.weights import DataFile, is_streamed, size

# Bytes of weights that are run together; one larger tensor makes a part of its own.
PART = 1 << 28


@dataclass(frozen=True)
class Part:
    """Some successive nodes: what they compute that is read elsewhere, and the weights they need."""

    nodes: tuple[gs.Node, ...]
    weights: Mapping[str, gs.Constant]
    results: tuple[str, ...]


def parts(model: Model, wanted: Collection[str]) -> list[Part]:
    """The nodes of a model in successive parts of bounded weights; ``wanted`` are results nobody reads."""
    split: list[tuple[list[gs.Node], dict[str, gs.Constant]]] = [([], {})]
    for node in model.graph.nodes:
        nodes, weights = split[-1]
        read = {t.name: t for t in node.inputs if isinstance(t, gs.Constant)}
        if nodes and sum(map(size, (weights | read).values())) > PART:
            nodes, weights = [], {}
            split.append((nodes, weights))
        nodes.append(node)
        weights |= read
    found = []
    needed = set(wanted)
    for nodes, weights in reversed(split):
        results = tuple(t.name for node in nodes for t in node.outputs if t.name in needed)
        needed |= {t.name for node in nodes for t in node.inputs}
        found.append(Part(tuple(nodes), weights, results))
    return found[::-1]


def run(
    model: Model, batches: Sequence[Mapping[str, np.ndarray]], also: Collection[str] = ()
) -> list[dict[str, np.ndarray]]:
    """For each of ``batches`` the outputs of a model, and the inner tensors named in ``also``.

    Needs as much memory as the largest part, and as much room in the folder for temporary files. Every part is made
    once for all batches. Raises what onnxruntime raises.
    """
    wanted = [*model.outputs, *(name for name in also if name not in model.outputs)]
    known = [{n: ort.OrtValue.ortvalue_from_numpy(np.asarray(x)) for n, x in inputs.items()} for inputs in batches]
    todo = parts(model, wanted)
    for k, part in enumerate(todo):
        later = {t.name for rest in todo[k + 1 :] for node in rest.nodes for t in node.inputs}
        for values, results in zip(known, _results(model, part, known), strict=True):
            values |= dict(zip(part.results, results, strict=True))
            for name in values.keys() - later - set(wanted):
                del values[name]
    constants = {name: np.asarray(c.values) for name, c in model.constants.items() if name in wanted}
    return [{n: constants[n] if n in constants else values[n].numpy() for n in wanted} for values in known]


def walk(
    model: Model, batches: Sequence[Mapping[str, np.ndarray]], wanted: Sequence[Collection[str]]
) -> Iterator[list[dict[str, np.ndarray]]]:
    """Go through the nodes of a model in order, for all batches at once, stopping wherever tensors are asked for.

    The nodes ahead of a stop may be changed there: they are run as they are when the walk comes to them.

    Args:
        model: its nodes are run as far as they are needed, in their order.
        batches: inputs by name.
        wanted: names of tensors, one collection for every stop.

    Yields:
        The values of the tensors of each stop by name, for every batch.
    """
    known = [{n: ort.OrtValue.ortvalue_from_numpy(np.asarray(x)) for n, x in inputs.items()} for inputs in batches]
    done = 0
    for k, names in enumerate(wanted):
        nodes = model.graph.nodes
        makes = [at for at, node in enumerate(nodes) if any(t.name in names for t in node.outputs)]
        stop = max([done, *(at + 1 for at in makes)])
        own = tuple(nodes[done:stop])
        later = {t.name for node in nodes[stop:] for t in node.inputs}.union(*wanted[k:])
        made = dict.fromkeys(t.name for node in own for t in node.outputs if t.name in later)
        weights = {t.name: t for node in own for t in node.inputs if isinstance(t, gs.Constant)}
        for values, results in zip(known, _results(model, Part(own, weights, tuple(made)), known), strict=True):
            values |= dict(zip(made, results, strict=True))
        done = stop
        yield [{name: values[name].numpy() for name in names} for values in known]
        later = {t.name for node in model.graph.nodes[done:] for t in node.inputs}.union(*wanted[k + 1 :])
        for values in known:
            for name in values.keys() - later:
                del values[name]


def _results(model: Model, part: Part, known: Sequence[Mapping[str, ort.OrtValue]]) -> list[list[ort.OrtValue]]:
    """What a part computes, for all that is known of every batch."""
    if not part.results:
        return [[] for _ in known]
    made = {t.name for node in part.nodes for t in node.outputs}
    read = dict.fromkeys(t.name for node in part.nodes for t in node.inputs if t.name)
    given = [name for name in read if name not in made and name not in part.weights]
    proto = ModelProto(ir_version=model.header.ir_version, opset_import=model.header.opset_import)
    proto.graph.name = "part"
    proto.graph.node.extend(map(export_node, part.nodes))
    for name in given:
        kind, rank = known[0][name].element_type(), len(known[0][name].shape())
        proto.graph.input.append(helper.make_tensor_value_info(name, kind, [None] * rank))
    proto.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in part.results)
    with tempfile.TemporaryDirectory(prefix="graphprune-") as folder:
        held: dict[str, np.ndarray] = {}
        with DataFile(Path(folder) / "weights") as data:
            streamed = {name for name, t in part.weights.items() if is_streamed(t)}
            proto.graph.initializer.extend(
                export_tensor(t, data if name in streamed else held) for name, t in part.weights.items()
            )
        path = Path(folder) / "part.onnx"
        path.write_bytes(proto.SerializeToString())
        opened = session(str(path), values=held, keep=False)
        return [opened.run_with_ort_values(list(part.results), {n: values[n] for n in given}) for values in known]
