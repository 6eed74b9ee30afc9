"""Every tiny net with its interface opened: what its rules say of every axis, and the law on all of it.

A tiny net alone holds whatever its caller sees: batches, sequences, caches, scores. Opened, its inputs are products
with weights and its outputs are summed up with weights, so that every axis of every operator is put to the question.
What is found is written down, a file for each domain:

    GOLDEN=write pytest tests/rules/test_opened.py && git diff tests/golden/rules

First the groups, each with all axes it touches, ``silent`` where its outputs are zero once its weights are; then what
stays, and why; then what groups there are beside if cuts need not be exact.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from graphprune.cost import CostModel
from graphprune.groups import Dependencies, Group, analyse
from graphprune.model import Model, load
from graphprune.rules import Dim
from tests.law import Case, agree, halves
from tests.tiny_nets import DOMAINS

FOLDER = Path(__file__).parent.parent / "golden" / "rules"
FLOATS = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16)


def opened(model: ModelProto, *, weighted: bool) -> ModelProto:
    """The net with products for inputs and sums for outputs; ``weighted``, so that what is summed is zero for sure."""
    result = ModelProto()
    result.CopyFrom(model)
    graph, rng = result.graph, np.random.default_rng(0)

    def weight(name: str, shape: tuple[int, ...], kind: int) -> str:
        values = rng.uniform(0.5, 1.5, shape) * rng.choice([-1, 1], shape)
        graph.initializer.append(numpy_helper.from_array(values.astype(helper.tensor_dtype_to_np_dtype(kind)), name))
        return name

    entries = [info for info in graph.input if info.type.tensor_type.elem_type in FLOATS and _sizes(info)]
    nodes = []
    for info in entries:
        kind, name = info.type.tensor_type.elem_type, info.name
        nodes.append(helper.make_node("Mul", [f"{name}.one", weight(f"{name}.in", _sizes(info), kind)], [name]))
        info.CopyFrom(helper.make_tensor_value_info(f"{name}.one", kind, [1]))
    nodes.extend(graph.node)
    shapes, types = load(model).shapes, {info.name: info.type.tensor_type.elem_type for info in model.graph.output}
    for info in list(graph.output):
        name, shape = info.name, shapes.get(info.name)
        if not shape or None in shape:
            continue
        given = name
        if types[name] not in FLOATS:
            nodes.append(helper.make_node("Cast", [name], [given := f"{name}.float"], to=TensorProto.FLOAT))
        kind = types[name] if types[name] in FLOATS else TensorProto.FLOAT
        if weighted:
            nodes.append(helper.make_node("Mul", [given, weight(f"{name}.out", shape, kind)], [f"{name}.weighed"]))
            given = f"{name}.weighed"
        nodes.append(helper.make_node("ReduceSum", [given], [f"{name}.sum"], keepdims=0))
        info.CopyFrom(helper.make_tensor_value_info(f"{name}.sum", kind, []))
    del graph.node[:]
    graph.node.extend(nodes)
    return result


def _sizes(info: object) -> tuple[int, ...]:
    sizes = tuple(dim.dim_value for dim in info.type.tensor_type.shape.dim)  # type: ignore[attr-defined]
    return sizes if all(sizes) else ()


def written(group: Group) -> str:
    """A group with every axis it touches; what was put before inputs and behind outputs goes without saying."""
    axes = (f"{dim}" + (f"*{n}" if (n := group.per_unit(dim)) > 1 else "") for dim in group.labels if _own(dim))
    marks = [word for word in ("inexact", "routed") if getattr(group, word)]
    return " ".join([str(group.size), *axes, *marks, *([f"least {group.least}"] if group.least > 1 else [])])


def _own(dim: Dim) -> bool:
    return not dim.tensor.endswith((".in", ".float", ".out", ".weighed"))


def listing(name: str, model: Model, weighted: Dependencies, bare: Dependencies) -> str:
    """What is found of a net, opened in both ways."""
    silent = set(map(written, bare.groups))
    lines = [f"{name}: {CostModel(model).at().macs:,} MACs"]
    lines += [f"  {text}" + " silent" * (text in silent) for text in map(written, weighted.groups)]
    stay: dict[str, list[str]] = {}
    for pinned in weighted.pinned:
        why = f"{pinned.op}: {pinned.why}" if pinned.op else pinned.why
        stay.setdefault(why, []).extend([str(pinned.dim)] if _own(pinned.dim) else [])
    lines += [f"  {why}: {' '.join(dims)}" for why, dims in stay.items()]
    known = set(map(written, weighted.groups))
    lines += [f"  {text}" for text in map(written, analyse(model, inexact=True).groups) if text not in known]
    return "\n".join(lines)


def name_of(domain: ModuleType) -> str:
    return domain.__name__.rpartition("_")[2]


@cache
def nets(domain: ModuleType) -> list[tuple[Case, Model, Model]]:
    """Every net of a domain, opened in both ways."""
    cases = [*domain.CASES, *getattr(domain, "NOT_RUN", ())]
    return [(case, *(load(opened(case.model, weighted=weighted)) for weighted in (True, False))) for case in cases]


@cache
def expected(domain: ModuleType) -> list[str]:
    """What the rules said of every net of a domain."""
    return (FOLDER / f"{name_of(domain)}.txt").read_text().rstrip().split("\n\n")


def answers(domain: ModuleType, number: int) -> tuple[str, tuple[Dependencies, Dependencies]]:
    """What the rules say of a net of a domain, and what is found of it, opened in both ways."""
    case, weighted, bare = nets(domain)[number]
    found = analyse(weighted), analyse(bare)
    return listing(case.name, weighted, *found), found


def as_written(domain: ModuleType) -> list[tuple[Case, Model, Dependencies]]:
    """Fail unless a domain's rules say what they said; every net, opened in both ways, and what was found of it."""
    write = os.environ.get("GOLDEN") == "write"
    texts, result = [], []
    for number, (case, *models) in enumerate(nets(domain)):
        text, found = answers(domain, number)
        texts.append(text)
        assert write or text == expected(domain)[number]
        result += [(case, *pair) for pair in zip(models, found, strict=True)]
    if write:
        (FOLDER / f"{name_of(domain)}.txt").write_text("\n\n".join(texts) + "\n")
    assert write or len(texts) == len(expected(domain))
    return result


@pytest.mark.parametrize("domain", DOMAINS, ids=name_of)
def test_rules_say_what_they_said_and_the_law_holds_of_every_axis(domain: ModuleType) -> None:
    not_run = getattr(domain, "NOT_RUN", ())
    for case, model, found in as_written(domain):
        if found.groups and not any(case is other for other in not_run):
            agreement = agree(model, found.groups, halves(found.groups, seed=1), seed=1, amplifies=True)
            assert agreement.holds, (case.name, agreement)
