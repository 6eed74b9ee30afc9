"""The law on mixtures of experts: what is shared out among units, or chosen from them, by logits."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from graphprune.cut import cut, gone
from graphprune.groups import analyse
from graphprune.model import load
from graphprune.proof import LAW_RTOL, Runner, compare, seeded_inputs
from tests.law import Case, case, check, halves, net
from tests.rules.test_movement import ints

TOKENS = {"inputs": "float[5,3] x", "a": (3, 8), "g": (8, 4), "b": (8, 2)}
EXPERTS = {"up": (4, 8, 6), "down": (4, 6, 8)}
FEED_FORWARD = "h = MatMul(t, up)\nk = Relu(h)\ne = MatMul(k, down)"  # of all experts, [experts, tokens, width]


def mixture(name: str, routing: str, *groups: str, opset: int = 17, **weights: object) -> Case:
    """A case whose ``routing`` makes ``u`` from tokens ``t`` and the logits ``r`` of their four experts."""
    body = f"t = MatMul(x, a)\nr = MatMul(t, g)\n{routing}\ny = MatMul(u, b)"
    return case(name, body, *groups, opset=opset, **{**TOKENS, **weights})


# By numbers: every token brings the weights of two experts together.
BATCHED = (
    "f = Reshape(i, flat)\nt1 = Unsqueeze(t, one)\nt2 = Expand(t1, twice)\nt3 = Reshape(t2, rows)\n{gathered}\n"
    "m = MatMul(t3, wu)\nn = Relu(m)\no = MatMul(n, wd)\nv1 = Reshape(v, weights)\nq = Mul(o, v1)\n"
    "q1 = Reshape(q, pairs)\nu = ReduceSum<keepdims=0>(q1, one)"
)
SHAPES = {
    "flat": ints(-1),
    "one": ints(1),
    "twice": ints(1, 2, 1),
    "rows": ints(10, 1, 8),
    "weights": ints(10, 1, 1),
    "pairs": ints(5, 2, 8),
    "two": ints(2),
}
ALL = ("8 a[1] g[0] up[1]", "4 g[1] up[0] down[0]", "6 up[2] down[1]", "8 down[2] b[0]")
SPREAD = "s1 = Transpose(s)\ns2 = Unsqueeze(s1, two)\nw = Mul(s2, e)\nu = ReduceSum<keepdims=0>(w, zero)"

COUNTED = (
    "v0, i = TopK(r, two)\nc = OneHot(i, depth, values)\nm0 = ReduceSum<keepdims=0>(c, two)\nv = Mul(v0, m0)\n"
    + BATCHED.format(gathered="wu = Gather(up, f)\nwd = Gather(down, f)")
)

CASES = [
    mixture(
        "Softmax among all experts",
        f"s = Softmax(r)\n{FEED_FORWARD}\n{SPREAD}",
        *ALL,
        zero=ints(0),
        two=ints(2),
        **EXPERTS,
    ),
    mixture(
        "Softmax among all experts, mixed by Einsum",
        f's = Softmax(r)\n{FEED_FORWARD}\nu = Einsum<equation="te,etd->td">(s, e)',
        *ALL,
        **EXPERTS,
    ),
    mixture(
        "experts that are no more than a row",
        "s = Softmax(r)\nu = MatMul(s, rows)",
        "8 a[1] g[0]",
        "4 g[1] rows[0]",
        "8 rows[1] b[0]",
        rows=(4, 8),
    ),
    mixture(
        "TopK, shares put where they belong",
        "v, i = TopK(r, k2)\np = Softmax(v)\nz = ConstantOfShape(n5)\ns = ScatterElements<axis=1>(z, i, p)\n"
        f"{FEED_FORWARD}\n{SPREAD}",
        *ALL,
        k2=ints(2),
        n5=ints(5, 4),
        zero=ints(0),
        two=ints(2),
        **EXPERTS,
    ),
    mixture(
        "TopK, shares spread by OneHot",
        "s0 = Softmax(r)\nv, i = TopK(s0, k2)\nc = OneHot(i, depth, values)\nv1 = Unsqueeze(v, two)\nd = Mul(c, v1)\n"
        f"s = ReduceSum<keepdims=0>(d, one)\n{FEED_FORWARD}\n{SPREAD}",
        *ALL,
        k2=ints(2),
        depth=ints(4),
        values=np.array([0, 1], np.float32),
        one=ints(1),
        zero=ints(0),
        two=ints(2),
        **EXPERTS,
    ),
    mixture(
        "TopK, weights gathered by its numbers",
        "p = Softmax(r)\nv, i = TopK(p, two)\n" + BATCHED.format(gathered="wu = Gather(up, f)\nwd = Gather(down, f)"),
        *ALL,
        **SHAPES,
        **EXPERTS,
    ),
    mixture(
        "TopK, weights gathered by tuples of one number",
        "v, i = TopK(r, two)\n"
        + BATCHED.format(gathered="f1 = Unsqueeze(f, one)\nwu = GatherND(up, f1)\nwd = GatherND(down, f1)"),
        *ALL,
        **SHAPES,
        **EXPERTS,
    ),
    mixture(
        "TopK of scores with a bias of their own, shares gathered from those without",
        "p0 = Sigmoid(r)\np1 = Add(p0, bias)\nv0, i = TopK(p1, two)\nv = GatherElements<axis=1>(p0, i)\n"
        + BATCHED.format(gathered="wu = Gather(up, f)\nwd = Gather(down, f)"),
        "8 a[1] g[0] up[1]",
        "4 g[1] bias[0] up[0] down[0]",
        *ALL[2:],
        bias=(4,),
        **SHAPES,
        **EXPERTS,
    ),
    mixture(
        "TopK, and something else is made of its numbers",
        "p = Softmax(r)\nv, i = TopK(p, two)\nj = Cast<to=1>(i)\nv2 = Mul(v, j)\n"
        + BATCHED.format(gathered="wu = Gather(up, f)\nwd = Gather(down, f)"),
        "8 a[1] g[0] up[1]",
        *ALL[2:],
        **SHAPES,
        **EXPERTS,
    ),
    mixture(
        "TopK of all there are",
        "p = Softmax(r)\nv, i = TopK(p, four)\nf = Cast<to=7>(i)\ns = GatherElements<axis=1>(p, f)\n"
        f"{FEED_FORWARD}\n{SPREAD}",
        "8 a[1] g[0] up[1]",
        *ALL[2:],
        four=ints(4),
        zero=ints(0),
        two=ints(2),
        **EXPERTS,
    ),
    *(
        mixture(
            f"TopK, {name}: no choice that experts can be taken out of",
            f"{choice}\np = Softmax(v)\nz = ConstantOfShape(n5)\ns = ScatterElements<axis=1>(z, i, p)\n"
            f"{FEED_FORWARD}\n{SPREAD}",
            *(group for group in ALL if not group.startswith("4 ")),
            k2=ints(2),
            n5=ints(5, 4),
            zero=ints(0),
            two=ints(2),
            **EXPERTS,
        )
        for name, choice in (
            ("the least", "v, i = TopK<largest=0>(r, k2)"),
            ("how many is computed", "many = Add(zero, k2)\nv, i = TopK(r, many)"),
            ("of whole numbers", "n = Cast<to=7>(r)\nv0, i = TopK(n, k2)\nv = Cast<to=1>(v0)"),
        )
    ),
    *(
        mixture(
            f"TopK of opset {opset}, experts that are no more than a row",
            f"v, i = {choice}\np = Softmax<axis=1>(v)\nz = ConstantOfShape(n5)\ns = Scatter<axis=1>(z, i, p)\n"
            "u = MatMul(s, rows)",
            "8 a[1] g[0]",
            "4 g[1] rows[0]",
            "8 rows[1] b[0]",
            opset=opset,
            n5=ints(5, 4),
            k2=ints(2),
            rows=(4, 8),
        )
        for opset, choice in ((9, "TopK<k=2>(r)"), (10, "TopK(r, k2)"))
    ),
    mixture(
        "TopK along the first axis",
        "rt = Transpose(r)\nvt, it = TopK<axis=0>(rt, k2)\np = Softmax<axis=0>(vt)\nz = ConstantOfShape(n5)\n"
        "st = ScatterElements<axis=0>(z, it, p)\ns = Transpose(st)\nu = MatMul(s, rows)",
        "8 a[1] g[0]",
        "4 g[1] rows[0]",
        "8 rows[1] b[0]",
        n5=ints(4, 5),
        k2=ints(2),
        rows=(4, 8),
    ),
    mixture(
        "TopK, shares spread by OneHot along the first axis but one",
        "s0 = Softmax(r)\nv, i = TopK(s0, two)\nc = OneHot<axis=1>(i, depth, values)\nv1 = Unsqueeze(v, one)\n"
        f"d = Mul(c, v1)\ns = ReduceSum<keepdims=0>(d, two)\n{FEED_FORWARD}\n{SPREAD}",
        *ALL,
        depth=ints(4),
        values=np.array([0, 1], np.float32),
        one=ints(1),
        zero=ints(0),
        two=ints(2),
        **EXPERTS,
    ),
    mixture(
        "TopK, and the ones of OneHot are added up",
        COUNTED,
        *ALL,
        depth=ints(4),
        values=np.array([0, 1], np.float32),
        **SHAPES,
        **EXPERTS,
    ),
    mixture(
        "TopK, and what OneHot has elsewhere is added up",
        COUNTED,
        "8 a[1] g[0] up[1]",
        *ALL[2:],
        depth=ints(4),
        values=np.array([1, 0], np.float32),
        **SHAPES,
        **EXPERTS,
    ),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_law(case: Case) -> None:
    check(case)


@pytest.mark.parametrize("case", [c for c in CASES if any(g.routed for g in analyse(load(c.model)).groups)], ids=str)
def test_an_expert_that_went_is_one_whose_logit_is_minus_infinity(case: Case) -> None:
    """With all weights as they were: nothing but the logits of the original is touched here."""
    model = load(case.model)
    group = next(g for g in analyse(model).groups if g.routed)
    dropped = halves([group], seed=3)[group.name]
    masked = onnx.ModelProto()
    masked.CopyFrom(case.model)
    scores = "p1" if any("p1" in n.output for n in masked.graph.node) else "r"  # what is chosen by
    for node in masked.graph.node:
        node.input[:] = [f"{scores}:masked" if name == scores else name for name in node.input]
    at = next(k for k, node in enumerate(masked.graph.node) if scores in node.output)
    mask = np.where(np.isin(np.arange(4), dropped), -np.inf, 0).astype(np.float32)
    masked.graph.initializer.append(numpy_helper.from_array(mask, "mask"))
    masked.graph.node.insert(at + 1, onnx.helper.make_node("Add", [scores, "mask"], [f"{scores}:masked"]))
    inputs = seeded_inputs(model)
    small = cut(model, gone([group], {group.name: dropped}))
    reference = Runner(load(masked), threads=1)(inputs)
    agreement = compare(Runner(small, threads=1)(inputs), reference, LAW_RTOL["float32"])
    assert agreement.holds, agreement
    assert compare(reference, Runner(model, threads=1)(inputs), 0.0).error > 1e-3


def test_as_many_stay_as_are_chosen() -> None:
    for mixed, least in zip(CASES[:7], [1, 1, 1, 2, 2, 2, 2], strict=True):
        (group,) = (g for g in analyse(load(mixed.model)).groups if g.routed)
        assert (group.size, group.least) == (4, least), mixed


def test_what_cannot_be_renumbered_says_why() -> None:
    pinned = {str(p.dim): p.why for p in analyse(load(CASES[8].model)).pinned}
    assert pinned["g[1]"] == "TopK chooses from it, and v2 makes something else of the choice"
    assert pinned["up[0]"] == "Gather depends on every position of this axis"


def test_numbers_sorted_by_value_are_no_choice() -> None:
    model = load(net("t = MatMul(x, a)\nu, i = TopK(t, k)\ny = MatMul(u, b)", k=ints(3), **{**TOKENS, "b": (3, 2)}))
    assert not analyse(model).groups
