"""Normalisations are found however they are spelled, and nothing else is taken for one."""

from __future__ import annotations

import numpy as np
import pytest

from graphprune.cut import cut, gone
from graphprune.groups import analyse
from graphprune.model import Model, load
from graphprune.pipeline import parse, run
from graphprune.proof import Runner, seeded_inputs
from graphprune.state import State
from passes.fuse_norms import FuseNorms
from tests.law import assert_law, brief, halves, net

MEAN = "m = ReduceMean<axes=[-1]>(x)\nc = Sub(x, m)\n"
SQUARE = "s = Mul(c, c)\nv = ReduceMean<axes=[-1]>(s)\n"
ROOT = "e = Add(v, eps)\nd = Sqrt(e)\n"
AFFINE = "u = Mul(g, n)\nt = Add(u, h)\n"
RMS = "s = Mul(x, x)\nv = ReduceMean<axes=[-1]>(s)\n" + ROOT

# What is around: x comes from weights and goes to weights, so that its channels can go.
FIRST, LAST = "x = MatMul(i, a)\n", "y = MatMul(t, b)\n"
WEIGHTS = {
    "a": (4, 6),
    "b": (6, 5),
    "g": (6,),
    "h": (6,),
    "wide": (1, 1, 6),
    "two": np.array(2, np.float32),
    "half": np.array(0.5, np.float32),
    "minus": np.array(-0.5, np.float32),
    "one": np.array(1, np.float32),
    "none": np.array(0, np.float32),
    "six": np.array(6, np.float32),
    "sixth": np.array(1 / 6, np.float32),
    "eps": np.array(1e-3, np.float32),
    "last": np.array([-1]),
    "axes": np.array([2]),
    "rows": np.array([2, 3, 1]),
    "turned": np.array([3, 2]),
    "other": (2, 3, 6),
}


def model(body: str, *, opset: int = 17, inputs: str = "float[2,3,4] i", outputs: str = "y", **more: object) -> Model:
    weights = {**WEIGHTS, **more}
    used = {name: value for name, value in weights.items() if f" {name}" in body or f"({name}" in body}
    return load(net(body, inputs=inputs, outputs=outputs, opset=opset, **used))  # type: ignore[arg-type]


def fused(body: str, **options: object) -> tuple[Model, Model]:
    """A net around ``body``, which makes t from x, and what becomes of it; the outputs are compared on the way."""
    before = model(FIRST + body + LAST, **options)  # type: ignore[arg-type]
    state, records = run(State(before), parse("fuse_norms"))
    assert all(r.agreement is None or r.agreement.error < 2e-6 for r in records)
    return before, state.model


SPELLINGS = {
    "TorchScript": MEAN + "s = Pow(c, two)\nv = ReduceMean<axes=[-1]>(s)\n" + ROOT + "n = Div(c, d)\n" + AFFINE,
    "with casts that change nothing": "z = Cast<to=1>(x)\nm = ReduceMean<axes=[-1]>(z)\nc = Sub(z, m)\n"
    + SQUARE
    + ROOT
    + "n = Div(c, d)\nk = Cast<to=1>(n)\nu = Mul(g, k)\nt = Add(u, h)\n",
    "torch.export": MEAN + SQUARE + ROOT + "r = Reciprocal(d)\nn = Mul(c, r)\n" + AFFINE,
    "by a power": MEAN + SQUARE + "e = Add(v, eps)\nr = Pow(e, minus)\nn = Mul(c, r)\n" + AFFINE,
    "by another power": MEAN + SQUARE + "e = Add(eps, v)\nd = Pow(e, half)\nr = Div(one, d)\nn = Mul(r, c)\n" + AFFINE,
    "Keras": MEAN + SQUARE + ROOT + "r = Reciprocal(d)\nk = Mul(r, wide)\nl = Neg(m)\no = Mul(x, k)\np = Mul(l, k)\n"
    "q = Add(p, h)\nt = Add(o, q)\n",
    "Keras, with a pool": "m = GlobalAveragePool(x)\nc = Sub(x, m)\ns = Mul(c, c)\nv = GlobalAveragePool(s)\n"
    + ROOT
    + "r = Reciprocal(d)\nk = Mul(r, g)\no = Mul(x, k)\np = Mul(m, k)\nq = Sub(h, p)\nt = Add(q, o)\n",
    "Flax": MEAN + "s = Mul(x, x)\nw = ReduceMean<axes=[-1]>(s)\nk = Mul(m, m)\nl = Sub(w, k)\nv = Max(l, none)\n"
    "e = Add(v, eps)\nd = Sqrt(e)\nn = Div(c, d)\n" + AFFINE,
    "JAX, by sums and without kept axes": "l = ReduceSum<keepdims=0>(x, last)\nk = Div(l, six)\n"
    "m = Reshape(k, rows)\nc = Sub(x, m)\ns = Mul(c, c)\nw = ReduceSum<keepdims=0>(s, last)\nv = Mul(w, sixth)\n"
    "e = Add(v, eps)\no = Unsqueeze(e, axes)\nd = Sqrt(o)\nn = Div(c, d)\n" + AFFINE,
    "what is centred twice": MEAN + "b0 = Sub(x, m)\n" + SQUARE + ROOT + "n = Div(b0, d)\n" + AFFINE,
    "a sum of squares": MEAN
    + "w = ReduceSumSquare<axes=[-1]>(c)\nv = Div(w, six)\n"
    + ROOT
    + "n = Div(c, d)\n"
    + AFFINE,
    "ε in the type of x": MEAN + SQUARE + "k = CastLike(eps, x)\ne = Add(v, k)\nd = Sqrt(e)\nn = Div(c, d)\n" + AFFINE,
    "no scale": MEAN + SQUARE + ROOT + "n = Div(c, d)\nt = Add(n, h)\n",
    "no shift": MEAN + SQUARE + ROOT + "n = Div(c, d)\nt = Mul(n, g)\n",
    "neither": MEAN + SQUARE + ROOT + "t = Div(c, d)\n",
}


@pytest.mark.parametrize("name", SPELLINGS)
def test_every_spelling_is_one_node_whose_channels_can_go(name: str) -> None:
    _, after = fused(SPELLINGS[name])
    assert [n.op for n in after.graph.nodes] == ["MatMul", "LayerNormalization", "MatMul"]
    assert after.graph.nodes[1].attrs["epsilon"] == pytest.approx(1e-3)
    assert [group.size for group in analyse(after).groups] == [6]
    assert_law(after)


def test_scale_and_shift_stay_the_constants_they_are() -> None:
    _, after = fused(SPELLINGS["torch.export"])
    assert [t.name for t in after.graph.nodes[1].inputs] == ["x", "g", "h"]


def test_several_last_axes() -> None:
    body = FIRST + (MEAN + SQUARE).replace("[-1]", "[1, 2]") + ROOT + "n = Div(c, d)\nt = Mul(n, k)\n" + LAST
    after = run(State(model(body, k=(3, 6))), parse("fuse_norms"))[0].model
    norm = after.graph.nodes[1]
    assert (norm.op, norm.attrs["axis"], norm.inputs[1].shape) == ("LayerNormalization", -2, (3, 6))


def spelled(x: str, t: str) -> str:
    """A normalisation of ``x`` into ``t``, with names of its own in between."""
    return (
        f"m{t} = ReduceMean<axes=[-1]>({x})\nc{t} = Sub({x}, m{t})\ns{t} = Mul(c{t}, c{t})\n"
        f"v{t} = ReduceMean<axes=[-1]>(s{t})\ne{t} = Add(v{t}, eps)\nd{t} = Sqrt(e{t})\nn{t} = Div(c{t}, d{t})\n"
        f"{t} = Mul(n{t}, g)\n"
    )


@pytest.mark.parametrize(
    "body",
    [
        spelled("x", "t1") + spelled("x", "t2") + "t = Add(t1, t2)\n",  # of one tensor
        spelled("x", "t1") + spelled("t1", "t"),  # one of what another made
    ],
)
def test_several(body: str) -> None:
    _, after = fused(body)
    assert [n.op for n in after.graph.nodes if n.op not in ("Add", "MatMul")] == ["LayerNormalization"] * 2


@pytest.mark.parametrize(("opset", "op"), [(22, None), (23, "RMSNormalization")])
def test_root_mean_squares_where_there_is_an_operator(opset: int, op: str | None) -> None:
    body = RMS.replace("ReduceMean<axes=[-1]>(s)", "ReduceMean(s, last)") + "n = Div(x, d)\nt = Mul(n, g)\n"
    before, after = fused(body, opset=opset)
    assert (after is before) if op is None else [n.op for n in after.graph.nodes] == ["MatMul", op, "MatMul"]


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (MEAN + SQUARE + ROOT + "n = Mul(c, d)\n" + AFFINE, "multiplied by the root"),
        (MEAN + SQUARE + ROOT + "n = Div(x, d)\n" + AFFINE, "not centred"),
        (MEAN + SQUARE + "e = Sub(v, eps)\nd = Sqrt(e)\nn = Div(c, d)\n" + AFFINE, "less ε"),
        (RMS + MEAN + "n = Div(c, d)\n" + AFFINE, "by the mean square of what is not centred"),
        (MEAN + SQUARE.replace("[-1]", "[1]") + ROOT + "n = Div(c, d)\n" + AFFINE, "two different axes"),
        (MEAN + "k = Mul(c, g)\ns = Mul(k, k)\nv = ReduceMean<axes=[-1]>(s)\n" + ROOT + "t = Div(c, d)\n", "weighted"),
        (MEAN + SQUARE + "k = Neg(v)\nl = Relu(k)\ne = Add(l, eps)\nd = Sqrt(e)\nt = Div(c, d)\n", "cut off"),
        ("l = ReduceSum(x, last)\nc = Sub(x, l)\n" + SQUARE + ROOT + "t = Div(c, d)\n", "a sum for a mean"),
        (MEAN + SQUARE + ROOT + "n = Div(c, d)\nk = Sub(n, m)\nt = Mul(g, k)\n", "something else"),
    ],
)
def test_what_is_no_normalisation_stays(body: str, why: str) -> None:
    before, after = fused(body)
    if why == "something else":  # what is in it is one
        assert [n.op for n in after.graph.nodes].count("LayerNormalization") == 1
    else:
        assert after is before, why


@pytest.mark.parametrize("name", SPELLINGS)
def test_without_the_operator_channels_can_go_all_the_same(name: str) -> None:
    before, after = fused(SPELLINGS[name], opset=16)
    assert [group.size for group in analyse(after).groups] == [6]
    assert_law(after)
    cleaned = run(State(after), parse("fold_constants, clean"))[0].model
    assert len(cleaned.graph.nodes) <= len(before.graph.nodes) + 1  # nothing is left of the counting
    assert run(State(after), parse("fuse_norms"))[0].model is after


def test_what_is_left_of_a_norm_is_that_of_the_operator() -> None:
    """Both spellings, cut, are the norm of the whole with zeros in it."""
    texts = {16: SPELLINGS["torch.export"], 17: SPELLINGS["torch.export"]}
    cuts = []
    for opset, text in texts.items():
        after = fused(text, opset=opset)[1]
        groups = analyse(after).groups
        cuts.append(Runner(cut(after, gone(groups, halves(groups))))(seeded_inputs(after))["y"])
    np.testing.assert_allclose(*cuts, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("opset", [13, 17, 18])
def test_channels_of_images(opset: int) -> None:
    body = (
        "x = Conv(i, a)\nm = ReduceMean<axes=[1]>(x)\nc = Sub(x, m)\ns = Mul(c, c)\nv = ReduceMean<axes=[1]>(s)\n"
        + ROOT
        + "n = Div(c, d)\n"
        + AFFINE
        + "y = Conv(t, b)"
    )
    body = body.replace("<axes=[1]>(x)", "(x, at)").replace("<axes=[1]>(s)", "(s, at)") if opset == 18 else body
    weights = {"a": (6, 3, 1, 1), "g": (6, 1, 1), "h": (6, 1, 1), "b": (5, 6, 1, 1), "at": np.array([1])}
    before = model(body, inputs="float[N,3,4,4] i", opset=opset, **weights)
    state, records = run(State(before), parse("fuse_norms"))
    assert all(r.agreement is None or r.agreement.error < 2e-6 for r in records)
    assert not analyse(before).groups
    assert [brief(g) for g in analyse(state.model).groups] == ["6 a[0] t:there[0] g[0] h[0] b[1]"]
    assert_law(state.model)


def test_what_is_normalised_over_may_not_be_of_any_size() -> None:
    body = "x = Relu(i)\n" + (MEAN + SQUARE).replace("[-1]", "[1, 2]") + ROOT + "y = Div(c, d)"
    before = model(body, inputs="float[2,N,4] i")
    assert run(State(before), parse("fuse_norms"))[0].model is before


def test_what_is_added_by_row_stays_outside() -> None:
    _, after = fused(MEAN + SQUARE + ROOT + "n = Div(c, d)\nu = Mul(n, g)\nt = Add(u, other)\n")
    assert [n.op for n in after.graph.nodes] == ["MatMul", "LayerNormalization", "Add", "MatMul"]


def test_what_others_read_is_still_there() -> None:
    before = model(FIRST + SPELLINGS["torch.export"] + LAST, outputs="y n")
    after = run(State(before), parse("fuse_norms"))[0].model
    assert [n.op for n in after.graph.nodes] == ["MatMul", "LayerNormalization", "Mul", "Add", "MatMul"]


GROUP = """
    x = Conv(i, a)
    m = Reshape(x, {item})
    k = InstanceNormalization<epsilon=0.001>(m, one, none)
    r = Reshape(k, back)
    s = Mul(r, g)
    t = Add(s, h)
    y = Conv(t, b)
"""
GROUPED = {
    "a": (6, 3, 1, 1), "g": (6, 1, 1), "h": (6, 1, 1), "b": (5, 6, 1, 1), "back": np.array([0, 6, 4, 4]),
    "item": np.array([0, 1, -1]), "two": np.array([0, 2, -1]), "all": np.array([1, 1, -1]),
}  # fmt: skip


def grouped(item: str, count: int) -> Model:
    ones, zeros = np.linspace(0.5, 1.5, count, dtype=np.float32), np.linspace(-0.5, 0.5, count, dtype=np.float32)
    return model(GROUP.format(item=item), inputs="float[N,3,4,4] i", one=ones, none=zeros, **GROUPED)


def test_channels_go_from_group_norms_of_one_group() -> None:
    before = grouped("item", 1)
    assert not analyse(before).groups
    state, records = run(State(before), parse("fuse_norms"))
    assert all(r.agreement is None or r.agreement.error < 2e-6 for r in records)
    assert [brief(g) for g in analyse(state.model).groups] == ["6 a[0] r:there[0] g[0] h[0] b[1]"]
    assert_law(state.model)


@pytest.mark.parametrize(("item", "count"), [("two", 2), ("all", 1)], ids=["two groups", "over the batch"])
def test_other_instance_norms_stay(item: str, count: int) -> None:
    state = State(grouped(item, count))
    assert FuseNorms()(state) is state
