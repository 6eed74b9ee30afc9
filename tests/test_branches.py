"""Residual branches: what is one, what is none, and the law of layers."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto

from graphprune.branches import ATTENTION, CONVOLUTION, FEED_FORWARD, blocks, branches, gated, silenced, without
from graphprune.errors import UsageError
from graphprune.model import Model, load
from graphprune.proof import Runner, compare, seeded_inputs
from tests.law import net

CONV = {"a": (4, 4, 3, 3), "b": (4, 4, 3, 3), "c": (4, 4, 1, 1), "d": (4, 4, 1, 1)}


def convolution(body: str, **options: object) -> Model:
    return load(net(body, inputs="float[1,4,6,6] x", **CONV, **options))  # type: ignore[arg-type]


def transformer(layers: int = 2, caches: bool = True) -> ModelProto:
    """Attention of one head, so that mask and scores have one shape, each with a feed-forward layer."""
    lines, weights = ["h0 = MatMul(x, e)"], {"e": (5, 8)}
    for k in range(layers):
        weights |= {f"{name}{k}": (8, 8) for name in ("wq", "wk", "wv", "wo", "u", "d")}
        lines += [f"q{k} = MatMul(h{k}, wq{k})", f"fresh{k} = MatMul(h{k}, wk{k})", f"v{k} = MatMul(h{k}, wv{k})"]
        lines += [f"k{k} = Concat<axis=1>(past{k}, fresh{k})" if caches else f"k{k} = Identity(fresh{k})"]
        lines += [f"values{k} = Concat<axis=1>(past{k}, v{k})" if caches else f"values{k} = Identity(v{k})"]
        lines += [f"t{k} = Transpose<perm=[0, 2, 1]>(k{k})", f"scores{k} = MatMul(q{k}, t{k})"]
        lines += [f"masked{k} = Add(scores{k}, mask)", f"p{k} = Softmax<axis=-1>(masked{k})"]
        lines += [f"o{k} = MatMul(p{k}, values{k})", f"r{k} = MatMul(o{k}, wo{k})", f"m{k} = Add(h{k}, r{k})"]
        lines += [f"g{k} = MatMul(m{k}, u{k})", f"n{k} = Gelu(g{k})", f"f{k} = MatMul(n{k}, d{k})"]
        lines += [f"h{k + 1} = Add(f{k}, m{k})"]
    lines.append(f"y = MatMul(h{layers}, e2)")
    past = "".join(f", float[B,P,8] past{k}" for k in range(layers)) if caches else ""
    inputs = f"float[B,S,5] x, float[B,S,T] mask{past}"
    outputs = " ".join(["y", *(f"k{k}" for k in range(layers))]) if caches else "y"
    proto = net("\n".join(lines), inputs=inputs, outputs=outputs, opset=20, e2=(8, 3), **weights)
    return proto


SIZES = {"B": 1, "S": 3, "P": 4, "T": 7}


def assert_law_of_layers(model: Model, names: list[str], *, keep_caches: bool = True, matters: bool = True) -> Model:
    inputs = seeded_inputs(model)
    small = without(model, names, keep_caches=keep_caches)
    result = Runner(small)(inputs)
    reference = Runner(silenced(model, names, keep_caches=keep_caches))(inputs)
    assert compare(result, {n: reference[n] for n in result}, 1e-6).holds
    before = Runner(model)(inputs)
    assert (compare({"y": result["y"]}, {"y": before["y"]}, 0.0).error > 1e-3) == matters
    assert len(small.graph.nodes) < len(model.graph.nodes)
    return small


@pytest.mark.parametrize(
    ("body", "sums"),
    [
        ("f = Conv<pads=[1,1,1,1]>(x, a)\ny = Add(x, f)", ["y"]),
        ("g = Conv<pads=[1,1,1,1]>(x, a)\nr = Relu(g)\nf = Conv(r, c)\ns = Sum(f, x)\ny = Relu(s)", ["s"]),
        # Neither operand is computed from the other.
        ("f = Conv(x, c)\ng = Conv(x, d)\ny = Add(f, g)", []),
        # The branch is read by something else too.
        ("f = Conv(x, c)\ns = Add(x, f)\ny = Mul(s, f)", []),
        # What is between is needed behind the sum.
        ("r = Relu(x)\nf = Conv(r, c)\ns = Add(x, f)\ny = Add(s, r)", []),
        # Another way leads around the stream.
        ("r = Relu(x)\nt = Mul(r, x)\nf = Conv(t, c)\ns = Add(r, f)\ny = Conv(s, d)", []),
        # A broadcast sum has the shape of one operand only.
        ("f = GlobalAveragePool(x)\ns = Add(x, f)\ny = Conv(s, d)", []),
        # A bias is no branch.
        ("f = Conv(x, c)\ny = Add(f, c)", []),
        ("f = Conv(x, c)\ns = Add(x, f)\ng = Conv(s, d)\ny = Add(g, s)", ["s", "y"]),
        ("h = Conv(x, c)\nt = Cast<to=1>(h)\nf = Conv(h, d)\ny = Add(t, f)", ["y"]),
        ("h = Conv(x, c)\nr = Cast<to=1>(h)\nt = Cast<to=1>(r)\nf = Conv(r, d)\ny = Add(t, f)", ["y"]),
        # Gelu as tanh is spelled out: a term of a polynomial has no weights.
        (
            "e = Conv(x, c)\nt = Mul(e, e)\nf = Mul(t, e)\ns = Add(e, f)\nu = Tanh(s)\ng = Conv(u, d)\ny = Add(x, g)",
            ["y"],
        ),
        # A level of an additive U-Net holds the branch within it.
        ("i = Conv(x, c)\nr = Conv(i, d)\ns = Add(i, r)\nu = Relu(s)\ny = Add(x, u)", ["s", "y"]),
    ],
)
def test_what_is_a_branch(body: str, sums: list[str]) -> None:
    model = convolution(body)
    found = branches(model)
    assert [b.sum for b in found] == sums
    for branch in found:
        assert branch.kind == CONVOLUTION
        assert_law_of_layers(model, [branch.sum])
    if len(found) > 1:
        assert_law_of_layers(model, sums)


def test_a_mask_made_of_the_tokens_does_not_hide_a_branch() -> None:
    body = """
        h = Gather(table, ids)
        m = Cast<to=1>(ids)
        u = Unsqueeze(m, last)
        k = Mul(h, u)
        f = MatMul(k, w)
        y = Add(h, f)
    """
    model = load(net(body, inputs="int64[1,4] ids", table=(9, 8), w=(8, 8), last=np.array([2])))
    assert [(b.sum, b.stream) for b in branches(model)] == [("y", "h")]
    assert_law_of_layers(model, ["y"])


def test_a_branch_knows_those_within_it() -> None:
    model = convolution("i = Conv(x, c)\nr = Conv(i, d)\ns = Add(i, r)\nu = Relu(s)\ny = Add(x, u)")
    assert [b.inner for b in branches(model)] == [(), ("s",)]


def test_layers_of_a_transformer_but_no_mask() -> None:
    model = load(transformer(), dim_params=SIZES)
    found = branches(model)
    assert [(b.sum, b.stream, b.output, b.kind, b.caches) for b in found] == [
        ("m0", "h0", "r0", ATTENTION, ("k0",)),
        ("h1", "m0", "f0", FEED_FORWARD, ()),
        ("m1", "h1", "r1", ATTENTION, ("k1",)),
        ("h2", "m1", "f1", FEED_FORWARD, ()),
    ]
    assert [[b.sum for b in block] for block in blocks(found)] == [["m0", "h1"], ["m1", "h2"]]


@pytest.mark.parametrize("names", [["m0"], ["h1"], ["m0", "m1"], ["m1", "h2"], ["m0", "h1", "m1", "h2"]])
@pytest.mark.parametrize("keep", [True, False])
def test_caches_are_kept_or_removed(names: list[str], keep: bool) -> None:
    model = load(transformer(), dim_params=SIZES)
    small = assert_law_of_layers(model, names, keep_caches=keep)
    lost = [] if keep else [name[1:] for name in names if name in ("m0", "m1")]
    unread = {"mask"} if len(lost) == 2 else set()
    assert set(model.inputs) - set(small.inputs) == {f"past{k}" for k in lost} | unread
    assert set(model.outputs) - set(small.outputs) == {f"k{k}" for k in lost}
    assert not any(f"wk{name[1:]}" in small.constants for name in names if name.startswith("m"))


def test_a_kept_cache_holds_what_was_given_followed_by_zeros_at_any_size() -> None:
    model = load(transformer(), dim_params=SIZES)
    small = without(model, ["m1"])
    for sizes in (SIZES, {"B": 2, "S": 5, "P": 2, "T": 7}):
        inputs = seeded_inputs(load(small.proto(), dim_params=sizes))
        cache = Runner(small)(inputs)["k1"]
        expected = np.concatenate([inputs["past1"], np.zeros((sizes["B"], sizes["S"], 8), np.float32)], axis=1)
        np.testing.assert_array_equal(cache, expected)


def test_gates_switch_branches_off() -> None:
    model = load(transformer(caches=False), dim_params={"B": 1, "S": 3, "T": 3})
    found = branches(model)
    inputs = seeded_inputs(model)
    runner = Runner(gated(model, found))
    for off in (set(), {"m1"}, {"m0", "h2"}):
        gates = {f"{b.sum}:gate": np.full((), b.sum not in off, np.float32) for b in found}
        expected = Runner(without(model, off))(inputs) if off else Runner(model)(inputs)
        assert compare(runner({**inputs, **gates}), expected, 1e-6).holds


def test_a_name_that_is_no_branch() -> None:
    with pytest.raises(UsageError, match="no residual branch that ends in 'nothing'"):
        without(convolution("f = Conv(x, c)\ny = Add(x, f)"), ["nothing"])
