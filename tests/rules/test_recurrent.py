"""The law on tiny nets with recurrent layers."""

from __future__ import annotations

import numpy as np
import pytest
from onnx.reference import ReferenceEvaluator

from graphprune.cost import CostModel
from graphprune.cut import cut, gone, zeroed
from graphprune.groups import analyse
from graphprune.model import load
from tests.law import Case, brief, case, check, halves, net

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
SEQUENCE = "float[5,2,3] x"  # steps, batch, width


def layer(op: str, hidden: int = 6, width: int = 3, directions: int = 1, suffix: str = "") -> dict[str, object]:
    """The weights of one recurrent layer."""
    gates = GATES[op] * hidden
    return {
        f"w{suffix}": (directions, gates, width),
        f"r{suffix}": (directions, gates, hidden),
        f"b{suffix}": (directions, 2 * gates),
    }


def recurrent(name: str, op: str, text: str, *groups: str, directions: int = 1, **options: object) -> Case:
    """A layer over the graph input, read by a product with ``v``; ``text`` makes ``u``, of six columns, from ``x``."""
    given = {"inputs": SEQUENCE, **layer(op, directions=directions), "v": (6 * directions, 4)}
    return case(f"{op} {name}", f"{text}\ny = MatMul(u, v)", *groups, **{**given, **options})


def _group(op: str, *others: str) -> str:
    gates = "" if GATES[op] == 1 else f"*{GATES[op]}"
    return " ".join([f"6 w[1]{gates} r[1]{gates} r[2] b[1]*{2 * GATES[op]}", *others])


CASES = [
    case(
        "RNN of what is not silent, by weights that are not",
        "t = MatMul(x, a)\ne = Exp(t)\nk = Exp(w)\nh = RNN<hidden_size=6>(e, k, r)\nu = Squeeze(h, n)\n"
        "y = MatMul(u, v)",
        "6 w[1] r[1] r[2] v[0]",
        inputs=SEQUENCE,
        a=(3, 5),
        w=(1, 6, 5),
        r=(1, 6, 6),
        n=np.array([1]),
        v=(6, 4),
    ),
    *(
        recurrent(
            "by steps",
            op,
            f"h = {op}<hidden_size=6>(x, w, r, b)\nu = Squeeze(h, k)",
            _group(op, "v[0]"),
            k=np.array([1]),
        )
        for op in GATES
    ),
    *(
        recurrent(
            "whose last state is read",
            op,
            f"h, l = {op}<hidden_size=6>(x, w, r, b)\nu = Squeeze(l, k)",
            _group(op, "v[0]"),
            k=np.array([0]),
        )
        for op in GATES
    ),
    *(
        recurrent(
            "in both directions",
            op,
            f'h = {op}<hidden_size=6, direction="bidirectional">(x, w, r, b)\n'
            "s = Transpose<perm=[0,2,1,3]>(h)\nu = Reshape(s, k)",
            _group(op, "v[0]*2"),
            directions=2,
            k=np.array([5, 2, -1]),
        )
        for op in GATES
    ),
    *(
        recurrent(
            "without bias, with initial states of its own",
            op,
            f"h = {op}<hidden_size=6>(x, w, r, , , i)\nu = Squeeze(h, k)",
            _group(op, "v[0]").replace(f"b[1]*{2 * GATES[op]}", "i[2]"),
            i=(1, 2, 6),
            b=(1,),
            k=np.array([1]),
        )
        for op in GATES
    ),
    recurrent(
        "reversed, of sequences that end early",
        "LSTM",
        'h = LSTM<hidden_size=6, direction="reverse">(x, w, r, b, n)\nu = Squeeze(h, k)',
        _group("LSTM", "v[0]"),
        n=np.array([5, 2], np.int32),
        k=np.array([1]),
    ),
    recurrent(
        "with peepholes, cell state and clipping",
        "LSTM",
        "h, l, c = LSTM<hidden_size=6, clip=0.5>(x, w, r, b, , i, j, p)\ns = Add(l, c)\nu = Squeeze(s, k)",
        _group("LSTM", "i[2] j[2] p[1]*3 v[0]"),
        i=(1, 2, 6),
        j=(1, 2, 6),
        p=(1, 18),
        k=np.array([0]),
    ),
    recurrent(
        "whose gates are coupled, with other functions",
        "LSTM",
        'h = LSTM<hidden_size=6, input_forget=1, activations=["HardSigmoid", "Softsign", "Relu"]>(x, w, r, b)\n'
        "u = Squeeze(h, k)",
        _group("LSTM", "v[0]"),
        k=np.array([1]),
    ),
    recurrent(
        "linear before reset",
        "GRU",
        "h = GRU<hidden_size=6, linear_before_reset=1>(x, w, r, b)\nu = Squeeze(h, k)",
        _group("GRU", "v[0]"),
        k=np.array([1]),
    ),
    recurrent(
        "whose initial state is given from outside stays",
        "RNN",
        "h = RNN<hidden_size=6>(x, w, r, b, , i)\nu = Squeeze(h, k)",
        inputs=f"{SEQUENCE}, float[1,2,6] i",
        k=np.array([1]),
    ),
    recurrent(
        "whose recurrent weights are computed stays",
        "RNN",
        "q = Sigmoid(i)\nh = RNN<hidden_size=6>(x, w, q, b)\nu = Squeeze(h, k)",
        inputs=f"{SEQUENCE}, float[1,6,6] i",
        r=(1,),
        k=np.array([1]),
    ),
    case(
        "GRU whose initial state is computed: a decoder's from its encoder",
        "h, l = RNN<hidden_size=6>(x, w, r, b)\ng = GRU<hidden_size=6>(x, w2, r2, b2, , l)\n"
        "u = Squeeze(g, k)\ny = MatMul(u, v)",
        "6 w[1] r[1] r[2] b[1]*2 w2[1]*3 r2[1]*3 r2[2] b2[1]*6 v[0]",
        inputs=SEQUENCE,
        **layer("RNN"),
        **layer("GRU", suffix="2"),
        k=np.array([1]),
        v=(6, 4),
    ),
    case(
        "LSTM stacked on one of another width, after a product that makes its input",
        "e = MatMul(x, a)\nt = Relu(e)\nh = LSTM<hidden_size=6>(t, w, r, b)\ns = Squeeze(h, k)\n"
        "g = LSTM<hidden_size=4>(s, w2, r2, b2)\nu = Squeeze(g, k)\ny = MatMul(u, v)",
        "5 a[1] w[2]",
        "6 w[1]*4 r[1]*4 r[2] b[1]*8 w2[2]",
        "4 w2[1]*4 r2[1]*4 r2[2] b2[1]*8 v[0]",
        inputs=SEQUENCE,
        a=(3, 5),
        **layer("LSTM", width=5),
        **layer("LSTM", hidden=4, width=6, suffix="2"),
        k=np.array([1]),
        v=(4, 4),
    ),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_law(case: Case) -> None:
    check(case)


@pytest.mark.parametrize("op", GATES)
def test_batch_first(op: str) -> None:
    """onnxruntime has no kernel for layout 1; onnx's own evaluator has."""
    body = f"h, l = {op}<hidden_size=6, layout=1>(x, w, r, b)\nu = Squeeze(h, k)\ny = MatMul(u, v)"
    model = load(net(body, inputs="float[2,5,3] x", **layer(op), k=np.array([2]), v=(6, 4)))
    groups = analyse(model).groups
    assert [brief(g) for g in groups] == [_group(op, "v[0]")]
    going = gone(groups, halves(groups))
    feed = {"x": np.random.default_rng(0).standard_normal((2, 5, 3)).astype(np.float32)}
    small, silent = (
        ReferenceEvaluator(m.proto()).run(None, feed)[0] for m in (cut(model, going), zeroed(model, going))
    )
    np.testing.assert_allclose(small, silent, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("op", GATES)
def test_macs(op: str) -> None:
    body = f"y = {op}<hidden_size=6>(x, w, r, b)"
    assert CostModel(load(net(body, inputs=SEQUENCE, **layer(op)))).at().macs == 5 * 2 * GATES[op] * 6 * (3 + 6)


def test_pins_say_why() -> None:
    body = "q = Sigmoid(i)\nh = RNN<hidden_size=6>(x, w, q, b)\nu = Squeeze(h, k)\ny = MatMul(u, v)"
    given = {"inputs": f"{SEQUENCE}, float[1,6,6] i", "w": (1, 6, 3), "b": (1, 12), "k": np.array([1]), "v": (6, 4)}
    pinned = analyse(load(net(body, **given))).pinned
    assert {str(p.dim): p.why for p in pinned}["q[2]"] == "summed over, and not zero for certain once its weights are"
    assert {str(p.dim): str(p.via) for p in pinned}["v[0]"] == "q[2]"
