"""Shape arithmetic is evaluated, and what stays symbolic still works at any size."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto

from graphprune.cut import cut, gone
from graphprune.groups import analyse
from graphprune.model import Model, load
from graphprune.model.shapes import infer
from graphprune.pipeline import parse, run
from graphprune.proof import Runner
from graphprune.state import State
from passes.fold_shapes import FoldShapes
from tests.law import assert_law, brief, halves, net

SYMBOLIC = "float[N,3,8,8] x"
WEIGHTS = {"a": (6, 3, 1, 1)}


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def folded(proto: ModelProto) -> Model:
    return FoldShapes()(State(load(proto))).model


def same(before: Model, after: Model, *shapes: tuple[int, ...]) -> None:
    """Both models compute the same at every one of these sizes of x."""
    rng = np.random.default_rng(0)
    for shape in shapes:
        x = rng.standard_normal(shape).astype(np.float32)
        first, second = Runner(before)({"x": x}), Runner(after)({"x": x})
        assert all(np.array_equal(first[n], second[n]) for n in first)


# `x.view(x.size(0), -1)` in three exporters' spellings.
VIEWS = {
    "Gather, Unsqueeze, Concat": (
        "s = Shape(t)\nn = Gather(s, zero)\nm = Unsqueeze(n, axis0)\nr = Concat<axis=0>(m, rest)\nf = Reshape(t, r)",
        {"zero": np.array(0), "axis0": ints(0), "rest": ints(-1)},
    ),
    "Slice, Concat": (
        "s = Shape(t)\nm = Slice(s, axis0, one)\nr = Concat<axis=0>(m, rest)\nf = Reshape(t, r)",
        {"axis0": ints(0), "one": ints(1), "rest": ints(-1)},
    ),
    "Gather, Mul, Concat": (
        "s = Shape(t)\nn = Gather(s, i0)\nc = Gather(s, i1)\nh = Gather(s, i2)\nw0 = Gather(s, i3)\n"
        "p = Mul(c, h)\nq = Mul(p, w0)\nr = Concat<axis=0>(n, q)\nf = Reshape(t, r)",
        {"i0": ints(0), "i1": ints(1), "i2": ints(2), "i3": ints(3)},
    ),
    "sizes of the input": (
        "s = Shape<start=0, end=1>(x)\nr = Concat<axis=0>(s, rest)\nf = Reshape(t, r)",
        {"rest": ints(384)},
    ),
}


@pytest.mark.parametrize("view", VIEWS)
def test_views_of_a_symbolic_batch(view: str) -> None:
    body, constants = VIEWS[view]
    proto = net(f"t = Conv(x, a)\n{body}\ny = Gemm(f, w)", inputs=SYMBOLIC, **WEIGHTS, **constants, w=(384, 4))
    before, after = load(proto), folded(proto)
    assert [n.op for n in after.graph.nodes] == ["Conv", "Reshape", "Gemm"]
    assert [brief(g) for g in analyse(after).groups] == ["6 a[0] w[0]*64"]
    assert_law(after)
    same(before, after, (1, 3, 8, 8), (3, 3, 8, 8))


def test_known_sizes_become_constants() -> None:
    body = "s = Shape(x)\nc = Gather(s, i)\nd = Sub(c, one)\nf = Cast<to=1>(d)\ny = Mul(x, f)"
    after = folded(net(body, inputs=SYMBOLIC, i=np.array(1), one=np.array(1)))
    assert [n.op for n in after.graph.nodes] == ["Mul"]
    assert [float(c.values) for c in after.constants.values()] == [2.0]


def test_symbolic_sizes_stay() -> None:
    body = "s = Shape(x)\nn = Gather(s, i)\nf = Cast<to=1>(n)\ny = Div(x, f)"
    proto = net(body, inputs=SYMBOLIC, i=np.array(0))
    after = folded(proto)
    assert [n.op for n in after.graph.nodes] == ["Shape", "Gather", "Cast", "Div"]
    same(load(proto), after, (2, 3, 8, 8), (5, 3, 8, 8))


def test_resize_to_twice_its_own_size() -> None:
    """Sizes = Shape(t)[2:] * 2, with the first two taken from the tensor itself."""
    body = (
        "t = Conv(x, a)\ns = Shape(t)\nb0 = Slice(s, zero, two)\nh = Slice(s, two, four)\n"
        "d = Mul(h, two)\nk = Concat<axis=0>(b0, d)\nu = Resize(t, , , k)\ny = Conv(u, b)"
    )
    constants = {"zero": ints(0), "two": ints(2), "four": ints(4)}
    proto = net(body, inputs="float[1,3,8,8] x", **WEIGHTS, **constants, b=(4, 6, 1, 1))
    after = folded(proto)
    assert [n.op for n in after.graph.nodes] == ["Conv", "Resize", "Conv"]
    assert [brief(g) for g in analyse(after).groups] == ["6 a[0] b[1]"]
    assert_law(after)
    same(load(proto), after, (1, 3, 8, 8))


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
@pytest.mark.parametrize("target", ["double", "fixed"])
def test_resize_of_a_symbolic_batch(mode: str, target: str) -> None:
    """The batch is read off the tensor itself and stays open; the sizes are constant scales all the same."""
    sizes = {"double": "h = Slice(s, two, four)\nd = Mul(h, two)", "fixed": "d = Identity(given)"}[target]
    body = (
        f"t = Conv(x, a)\ns = Shape(t)\nb0 = Slice(s, zero, two)\n{sizes}\n"
        f'k = Concat<axis=0>(b0, d)\nu = Resize<mode="{mode}">(t, , , k)\ny = Conv(u, b)'
    )
    constants = {"zero": ints(0), "two": ints(2), "four": ints(4), "given": ints(11, 13)}
    used = {n: v for n, v in constants.items() if f"{n})" in body or f"{n}," in body}
    proto = net(body, inputs=SYMBOLIC, **WEIGHTS, **used, b=(4, 6, 1, 1))
    after = folded(proto)
    assert [n.op for n in after.graph.nodes] == ["Conv", "Resize", "Conv"]
    assert [brief(g) for g in analyse(after).groups] == ["6 a[0] b[1]"]
    assert_law(after)
    same(load(proto), after, (1, 3, 8, 8), (3, 3, 8, 8))


def test_resize_to_sizes_that_stay_open_is_left() -> None:
    body = "t = Conv(x, a)\ns = Shape(t)\nk = Mul(s, f)\nu = Resize(t, , , k)\ny = Conv(u, b)"
    proto = net(body, inputs="float[N,3,H,8] x", **WEIGHTS, f=ints(1, 1, 2, 2), b=(4, 6, 1, 1))
    after = folded(proto)
    assert [n.op for n in after.graph.nodes] == ["Conv", "Shape", "Mul", "Resize", "Conv"]
    same(load(proto), after, (1, 3, 8, 8), (2, 3, 5, 8))


def test_partial_evaluation_through_an_elementwise_operator() -> None:
    """Only the elements made of known ones are known."""
    body = "s = Shape(x)\nd = Mul(s, two)\nc = Gather(d, i)\nf = Cast<to=1>(c)\ny = Mul(x, f)"
    after = folded(net(body, inputs=SYMBOLIC, two=ints(2), i=np.array(1)))
    assert [n.op for n in after.graph.nodes] == ["Mul"]
    assert [float(c.values) for c in after.constants.values()] == [6.0]


def test_two_open_sizes_cannot_be_one_minus_one() -> None:
    body = (
        "s = Shape(x)\nt = Transpose<perm=[2,0,1,3]>(x)\nn = Gather(s, i)\nh = Gather(s, j)\n"
        "r = Concat<axis=0>(n, h, k)\nf = Reshape(t, r)\ny = Relu(f)"
    )
    constants = {"i": ints(0), "j": ints(2), "k": ints(3, 8)}
    proto = net(body, inputs="float[N,3,H,8] x", **constants)
    after = folded(proto)
    same(load(proto), after, (2, 3, 8, 8), (3, 3, 5, 8))
    reshape = next(n for n in after.graph.nodes if n.op == "Reshape")
    assert "Concat" in [n.op for n in after.graph.nodes] or -1 in reshape.inputs[1].values


def test_a_shape_that_is_an_output_is_still_computed() -> None:
    proto = net("s = Shape(x)\ny = Relu(x)", inputs="float[1,3,8,8] x", outputs="y s")
    after = folded(proto)
    assert [o.name for o in after.graph.outputs] == ["y", "s"]
    same(load(proto), after, (1, 3, 8, 8))


def test_nothing_to_do_returns_the_same_state() -> None:
    state = State(load(net("y = Relu(x)")))
    assert FoldShapes()(state) is state


def test_a_symbolic_size_is_read_from_the_input_that_has_it() -> None:
    """An inner tensor that is asked for the size of the batch alone may be cut in its other axes."""
    body = """
        t = MatMul(x, a)
        s = Shape(t)
        c = Cast<to=6>(s)
        n = Slice(c, zero, one, zero)
        m = Concat<axis=0>(n, four)
        k = Cast<to=7>(m)
        z = ConstantOfShape(k)
        u = MatMul(t, b)
        y = Add(u, z)
    """
    sizes = {"zero": np.array([0], np.int32), "one": np.array([1], np.int32), "four": np.array([4], np.int32)}
    model = load(net(body, inputs="float[N,3] x", a=(3, 6), b=(6, 4), **sizes))
    after, _ = run(State(model), parse("fold_shapes"))
    asked = [n.inputs[0].name for n in after.model.graph.nodes if n.op == "Shape"]
    assert asked == ["x"]
    assert [(g.name, g.size) for g in analyse(after.model).groups] == [("a[1]", 6)]
    for batch in (1, 3):
        x = np.random.default_rng(batch).standard_normal((batch, 3)).astype(np.float32)
        np.testing.assert_array_equal(Runner(after.model)({"x": x})["y"], Runner(model)({"x": x})["y"])
    assert run(after, parse("fold_shapes"))[0].model is after.model


def test_the_last_size_is_left_to_the_rest_where_others_are_known_at_run_time_only() -> None:
    """A view as (rows, columns, 8) of a product of rows: the 8 may become smaller."""
    body = (
        "r = Shape(m)\nc = Concat<axis=0>(r, eight)\nt = MatMul(x, a)\nu = Reshape(t, c)\nv = Relu(u)\ny = MatMul(v, b)"
    )
    weights = {"eight": ints(8), "a": (3, 8), "b": (8, 5)}
    before = load(net(body, inputs="float[M,3] x, float[N,K] m", **weights), input_shapes={"x": (6, 3), "m": (2, 3)})
    after = FoldShapes()(State(before)).model
    (group,) = analyse(after).groups
    assert brief(group) == "8 a[1] b[0]"
    rng = np.random.default_rng(0)
    for rows, columns in ((2, 3), (4, 1)):
        x, m = rng.standard_normal((rows * columns, 3), np.float32), np.zeros((rows, columns), np.float32)
        first, second = Runner(before)({"x": x, "m": m}), Runner(after)({"x": x, "m": m})
        assert np.array_equal(first["y"], second["y"])


def test_copies_of_keys_as_torch_writes_them() -> None:
    """Each of two keys serves three queries; -1 would mean the size it has, which no size ever is."""
    body = """
        d = Shape(x)
        n = Gather(d, i)
        s = Gather(d, j)
        k = MatMul(x, b)
        k4 = Reshape(k, heads)
        k5 = Unsqueeze(k4, i3)
        n1 = Unsqueeze(n, zero)
        s1 = Unsqueeze(s, zero)
        c = Concat<axis=0>(n1, s1, sizes)
        e = Equal(c, none)
        w = Where(e, ones, c)
        r = Expand(k5, w)
        g = Concat<axis=0>(n1, s1, rest)
        u = Reshape(r, g)
        y = MatMul(u, o)
    """
    constants = {"i": np.array(0), "j": np.array(1), "i3": ints(3), "sizes": ints(2, 3, 2), "rest": ints(-1)}
    constants |= {"none": ints(*[-1] * 5), "ones": ints(*[1] * 5), "heads": ints(0, 0, 2, 2)}
    proto = net(body, inputs="float[N,S,3] x", b=(3, 4), o=(12, 4), zero=ints(0), **constants)
    after = folded(proto)
    assert [n.op for n in after.graph.nodes] == ["MatMul", "Reshape", "Unsqueeze", "Expand", "Reshape", "MatMul"]
    assert [brief(g) for g in analyse(after).groups] == ["2 b[1]*2 o[0]*6"]
    assert_law(after)
    same(load(proto), after, (1, 5, 3), (2, 4, 3))


def test_what_is_known_of_sizes_computed_at_run_time_can_follow_a_cut() -> None:
    body = (
        "r = Shape(m)\nc = Concat<axis=0>(r, eight)\nh = Cast<to=6>(c)\nk = Cast<to=7>(h)\n"
        "t = MatMul(x, a)\nu = Reshape<allowzero=1>(t, k)\nv = Relu(u)\ny = MatMul(v, b)"
    )
    weights = {"eight": ints(8), "a": (3, 8), "b": (8, 5)}
    before = load(net(body, inputs="float[M,3] x, float[N,K] m", **weights), input_shapes={"x": (6, 3), "m": (2, 3)})
    after = FoldShapes()(State(before)).model
    assert [brief(g) for g in analyse(after).groups] == ["8 a[1] b[0]"]
    assert_law(after)
    rng = np.random.default_rng(0)
    for rows, columns in ((2, 3), (4, 1)):
        x, m = rng.standard_normal((rows * columns, 3), np.float32), np.zeros((rows, columns), np.float32)
        assert np.array_equal(*(Runner(model)({"x": x, "m": m})["y"] for model in (before, after)))
    assert FoldShapes()(State(after)).model is after
    groups = analyse(after).groups
    assert_law(cut(after, gone(groups, halves(groups))))


@pytest.mark.parametrize(
    ("body", "weights"),
    [
        # of all these axes onnx tells nothing, as one of them is open
        ("r = Concat<axis=0>(m, one1, one1)\nt = Tile(p, r)\n", {"p": (1, 6, 4)}),
        ("t = Slice(p, start, m, axis0)\n", {"p": (9, 6, 4), "start": ints(0)}),
        ("r = Concat<axis=0>(m, six, four)\nt = ConstantOfShape(r)\n", {"six": ints(6), "four": ints(4)}),
        ("r = Concat<axis=0>(m, six, one1)\nt = Expand(p, r)\n", {"p": (1, 6, 4), "six": ints(6)}),
        ("r = Concat<axis=0>(six, one1)\nq = Slice(p, start, m, axis0)\nt = Expand(q, r)\n",
         {"p": (9, 6, 4), "six": ints(6), "start": ints(0)}),
    ],
)  # fmt: skip
def test_what_is_known_of_a_shape_is_known_although_a_part_of_it_is_open(body: str, weights: dict[str, object]) -> None:
    """A view as its own size says becomes one with known sizes, whatever made what is viewed."""
    text = (
        "i = Shape(x)\nn = Gather(i, zero)\nm = Unsqueeze(n, axis0)\n"
        + body
        + (
            "s = Shape(t)\nc = Gather(s, at1)\nd = Gather(s, at2)\nk = Mul(c, d)\nl = Unsqueeze(k, axis0)\n"
            "o = Concat<axis=0>(rest, l)\ny = Reshape(t, o)"
        )
    )
    some = {"zero": np.array(0), "at1": np.array(1), "at2": np.array(2), "axis0": ints(0), "rest": ints(-1)}
    some |= {"one1": ints(1)} if "one1" in body else {}
    proto = net(text, inputs="float[N,3,8,8] x", **some, **weights)  # type: ignore[arg-type]
    before, after = load(proto), folded(proto)
    (view,) = (n for n in after.graph.nodes if n.op == "Reshape")
    np.testing.assert_array_equal(np.abs(view.inputs[1].values), [np.abs(view.inputs[1].values[0]), 24])
    same(before, after, (1, 3, 8, 8), (5, 3, 8, 8))


def test_what_one_block_says_is_known_to_the_next_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows of a padded image, cut back to its size: how often shapes are inferred is no matter of depth."""
    block = """
        s{k} = Shape(t{k})
        n{k} = Slice(s{k}, axis0, one)
        h{k} = Slice(s{k}, one, two)
        m{k} = Mod(h{k}, seven)
        o{k} = Sub(seven, m{k})
        p{k} = Mod(o{k}, seven)
        pads{k} = Concat<axis=0>(none, none, none, none, p{k}, none)
        padded{k} = Pad(t{k}, pads{k})
        q{k} = Shape(padded{k})
        r{k} = Slice(q{k}, one, two)
        w{k} = Div(r{k}, seven)
        z{k} = Concat<axis=0>(n{k}, w{k}, seven, six)
        split{k} = Reshape(padded{k}, z{k})
        u{k} = Relu(split{k})
        b{k} = Concat<axis=0>(n{k}, r{k}, six)
        back{k} = Reshape(u{k}, b{k})
        t{l} = Slice(back{k}, axis0, h{k}, one)
    """
    numbers = {"axis0": 0, "one": 1, "two": 2, "seven": 7, "six": 6, "none": 0}
    text = "t0 = MatMul(x, a)\n" + "".join(block.format(k=k, l=k + 1) for k in range(6)) + "y = MatMul(t6, b)"
    proto = net(text, inputs="float[N,16,3] x", a=(3, 6), b=(6, 4), **{k: ints(v) for k, v in numbers.items()})
    inferred = []
    monkeypatch.setattr("graphprune.model.infer", lambda *given: inferred.append(given) or infer(*given))
    before, after = load(proto), folded(proto)
    assert len(inferred) <= 3
    assert {n.op for n in after.graph.nodes} == {"MatMul", "Pad", "Reshape", "Relu", "Slice"}
    same(before, after, (1, 16, 3), (3, 16, 3))


def test_a_body_reads_what_has_become_known() -> None:
    """As the NonMaxSuppression of torchvision's RetinaNet, which stands in an If."""
    proto = net(
        """t = Conv(x, a)
        s = Shape(t)
        c = Gather(s, one)
        r = ReduceMax<keepdims=0>(x)
        q = Less(r, zero)
        h = If(q) <
            then_branch = b () => (int64[4,K] m) { v = NonZero(t) m = Add(v, c) },
            else_branch = d () => (int64[4,L] n) { w = NonZero(t) n = Sub(w, c) }>
        p = ReduceMax<keepdims=0>(h)
        f = Cast<to=1>(p)
        y = Add(t, f)""",
        inputs=SYMBOLIC,
        one=np.array(1),
        zero=np.array(0, np.float32),
        **WEIGHTS,
    )
    model = folded(proto)
    assert [node.op for node in model.graph.nodes] == ["Conv", "ReduceMax", "Less", "If", "ReduceMax", "Cast", "Add"]
    same(load(proto), model, (1, 3, 8, 8), (2, 3, 8, 8))
