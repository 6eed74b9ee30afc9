"""Files made to break whoever reads them: every verb ends with a documented code, in one line, and leaves nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from onnx import ModelProto, TensorProto, numpy_helper
from onnx.helper import (
    make_attribute,
    make_graph,
    make_model,
    make_node,
    make_opsetid,
    make_tensor,
    make_tensor_value_info,
    np_dtype_to_tensor_dtype,
)

from graphprune.cli.verbs import main

VERBS = {
    "inspect": ["inspect", "m.onnx", "--report", "r.html"],
    "prune": ["prune", "m.onnx", "-o", "s.onnx", "--report", "r.html"],
    "compile": ["compile", "m.onnx", "-o", "out"],
}
AMOUNT = ["--ratio", "0.5", "--preset", "magnitude", "--round-to", "1"]
Y4 = [1, 4]
X, Y = (make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in "xy")
rng = np.random.default_rng(0)


def model(nodes, initializers=(), inputs=(X,), outputs=(Y,)) -> ModelProto:
    graph = make_graph(nodes, "g", inputs, outputs, initializers)
    return make_model(graph, opset_imports=[make_opsetid("", 21)], ir_version=10)


def net(dtype=np.float32, batch: int = 1, mark: str = "", first: np.ndarray | None = None) -> ModelProto:
    """Two convolutions of 16 and 4 channels; every name ends with ``mark``."""
    values = rng.standard_normal((16, 3, 1, 1)) if first is None else first
    weights = {"w1": values, "w2": rng.standard_normal((4, 16, 1, 1))}
    kind = np_dtype_to_tensor_dtype(np.dtype(dtype))
    nodes = [
        make_node(op, [n + mark for n in inputs], [output + mark], name=f"{output} node{mark}")
        for op, inputs, output in [("Conv", ["x", "w1"], "a"), ("Relu", ["a"], "b"), ("Conv", ["b", "w2"], "y")]
    ]
    return model(
        nodes,
        [numpy_helper.from_array(w.astype(dtype), n + mark) for n, w in weights.items()],
        [make_tensor_value_info("x" + mark, kind, [batch, 3, 8, 8])],
        [make_tensor_value_info("y" + mark, kind, [batch, 4, 8, 8])],
    )


def changed(change: Callable[[ModelProto], object]) -> ModelProto:
    proto = net()
    change(proto)
    return proto


def quantised(kind: int) -> ModelProto:
    """Two matrix products whose weights are whole numbers of 8 or 4 bits."""

    def weight(name: str, shape: tuple[int, int]) -> TensorProto:
        return make_tensor(name, kind, shape, rng.integers(-8, 8, shape).flatten())

    nodes = [
        make_node("DequantizeLinear", ["q1", "scale"], ["w1"]),
        make_node("DequantizeLinear", ["q2", "scale"], ["w2"]),
        make_node("MatMul", ["x", "w1"], ["a"]),
        make_node("Relu", ["a"], ["b"]),
        make_node("MatMul", ["b", "w2"], ["y"]),
    ]
    scale = numpy_helper.from_array(np.array(0.1, np.float32), "scale")
    return model(nodes, [weight("q1", (4, 16)), weight("q2", (16, 4)), scale])


def products(hidden: int, dtype=np.float32) -> ModelProto:
    """Two matrix products with ``hidden`` units, behind a concatenation with nothing."""
    weights = {"e": np.zeros((1, 0)), "w1": rng.standard_normal((4, hidden)), "w2": rng.standard_normal((hidden, 4))}
    nodes = [make_node("Concat", ["x", "e"], ["c"], axis=1)]
    nodes += [make_node("MatMul", ["c", "w1"], ["a"]), make_node("MatMul", ["a", "w2"], ["y"])]
    kind = np_dtype_to_tensor_dtype(np.dtype(dtype))
    return model(
        nodes,
        [numpy_helper.from_array(w.astype(dtype), n) for n, w in weights.items()],
        [make_tensor_value_info("x", kind, Y4)],
        [make_tensor_value_info("y", kind, Y4)],
    )


def nested(depth: int) -> ModelProto:
    """Branches within branches."""
    info = [make_tensor_value_info(f"o{k}", TensorProto.FLOAT, [1, 4]) for k in range(depth)]
    body = make_graph([make_node("Identity", ["x"], ["o0"])], "b0", [], info[:1])
    for k in range(1, depth):
        other = make_graph([make_node("Identity", ["x"], [f"e{k}"])], "e", [], [make_tensor_value_info(f"e{k}", 1, Y4)])
        node = make_node("If", ["c"], [f"o{k}"], then_branch=body, else_branch=other)
        body = make_graph([node], f"b{k}", [], info[k : k + 1])
    node = make_node("If", ["c"], ["y"], then_branch=body, else_branch=body)
    return model([node], inputs=[X, make_tensor_value_info("c", TensorProto.BOOL, [])])


def too_deep() -> bytes:
    """A message nested beyond what any protobuf reader takes."""
    data = b""
    for _ in range(300):  # attribute.g { node { attribute { g …
        for tag in (0x32, 0x2A, 0x0A):  # AttributeProto.g, NodeProto.attribute, GraphProto.node
            length, size = len(data), b""
            while True:
                size += bytes([length & 127 | (128 if length > 127 else 0)])
                length >>= 7
                if not length:
                    break
            data = bytes([tag]) + size + data
    return b"\x08\x0a\x3a" + _varint(len(data)) + data


def _varint(number: int) -> bytes:
    parts = b""
    while number > 127:
        parts += bytes([number & 127 | 128])
        number >>= 7
    return parts + bytes([number])


def chain(length: int) -> ModelProto:
    names = ["x", *(f"t{k}" for k in range(length - 1)), "y"]
    return model([make_node("Relu", [a], [b]) for a, b in pairwise(names)])


def external(location: str) -> ModelProto:
    proto = net()
    tensor = proto.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    return proto


def with_size(axis: int, size: int) -> Callable[[ModelProto], None]:
    def change(proto: ModelProto) -> None:
        proto.graph.input[0].type.tensor_type.shape.dim[axis].dim_value = size

    return change


def weights(value: float, all_of_them: bool = False) -> ModelProto:
    first = rng.standard_normal((16, 3, 1, 1))
    first[slice(None) if all_of_them else 3] = value
    return net(first=first)


def normed(width: int) -> ModelProto:
    """The two convolutions, with a normalisation between them for ``width`` channels in place of 16."""
    proto = net()
    parts = [numpy_helper.from_array(np.ones(width, np.float32), name) for name in ("s", "o", "m", "v")]
    proto.graph.initializer.extend(parts)
    proto.graph.node[1].CopyFrom(make_node("BatchNormalization", ["a", "s", "o", "m", "v"], ["b"]))
    return proto


def handed_out(*sizes: int) -> ModelProto:
    """The two convolutions, with their input handed out as a picture of another size."""
    proto = net()
    proto.graph.output.append(make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, *sizes]))
    return proto


PADS = make_attribute("pads", [-9, 0, -9, 0])
OK, INVALID = (0, 0, 0), (3, 3, 3)
# What is written into the folder, the exit codes of inspect, prune and compile, and a word of the error.
CASES: dict[str, tuple[ModelProto | bytes, tuple[int, int, int], str]] = {
    "external data above the folder": (external("../secret.bin"), INVALID, "outside the model's folder"),
    "external data anywhere": (external("/etc/passwd"), INVALID, "outside the model's folder"),
    "external data behind a link": (external("link.bin"), INVALID, "outside the model's folder"),
    "a huge input": (changed(with_size(2, 1 << 40)), INVALID, "elements"),
    "a huge weight": (changed(lambda p: p.graph.initializer[0].dims.__setitem__(0, 1 << 40)), INVALID, "w1"),
    "a negative weight": (changed(lambda p: p.graph.initializer[0].dims.__setitem__(0, -1)), INVALID, "w1"),
    "a cycle": (changed(lambda p: p.graph.node[0].input.__setitem__(0, "b")), INVALID, "sorted"),
    "a node that reads itself": (changed(lambda p: p.graph.node[1].input.__setitem__(0, "b")), INVALID, "sorted"),
    "branches in branches": (nested(12), (0, 4, 4), "nothing to prune"),
    "a message too deep to read": (too_deep(), INVALID, "not an ONNX file"),
    "an initializer twice": (changed(lambda p: p.graph.initializer.append(p.graph.initializer[0])), INVALID, "w1"),
    "a tensor twice": (changed(lambda p: p.graph.node[1].output.__setitem__(0, "a")), INVALID, "'a'"),
    "an input twice": (changed(lambda p: p.graph.input.append(p.graph.input[0])), INVALID, "'x'"),
    "an input that is an output of another shape": (handed_out(8, 7), INVALID, "'x' is"),
    "an input that is an output": (handed_out(8, 8), OK, ""),
    "names like paths": (net(mark="../../../tmp/x"), OK, ""),
    "names like HTML": (net(mark="</pre><script>alert(1)</script>\"'&"), OK, ""),
    "names like terminal escapes": (net(mark="\x1b[31m\x1b]0;title\x07"), OK, ""),
    "names like C": (net(mark='*/ "; int main() { return 1; } /*'), OK, ""),
    "names of several lines": (net(mark="\n\r\nerror: not mine"), OK, ""),
    "names from right to left": (net(mark="\u202egnp.exe"), OK, ""),
    "names like markup": (net(mark="[bold]{0}%s%n[/]"), OK, ""),
    "one NaN": (weights(np.nan), OK, ""),
    "one infinity": (weights(np.inf), (0, 3, 3), "w1"),
    "nothing but NaN": (weights(np.nan, all_of_them=True), (0, 3, 3), "w1"),
    "float16": (net(np.float16), OK, ""),
    "float64": (products(16, np.float64), OK, ""),
    "bfloat16": (net(ml_dtypes.bfloat16), (0, 3, 3), "bfloat16"),
    "int8": (quantised(TensorProto.INT8), OK, ""),
    "int4": (quantised(TensorProto.INT4), (0, 4, 4), "nothing to prune"),
    "an empty tensor": (products(16), OK, ""),
    "no units": (products(0), (0, 4, 4), "nothing to prune"),
    "a size below zero": (changed(lambda p: p.graph.node[0].attribute.append(PADS)), INVALID, "shape"),
    "a norm of another width": (normed(8), INVALID, ""),
    "a batch of nobody": (net(batch=0), OK, ""),
}


@pytest.fixture
def folder(monkeypatch, tmp_path) -> Path:
    """An empty folder, with a file beside it that is nobody's business, and a link to it."""
    (tmp_path / "secret.bin").write_bytes(bytes(192))
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "link.bin").symlink_to("../secret.bin")
    monkeypatch.chdir(inside)
    return inside


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("name", CASES)
def test_a_hostile_file(folder, monkeypatch, capsys, name, verb):
    proto, codes, says = CASES[name]
    (folder / "m.onnx").write_bytes(proto if isinstance(proto, bytes) else proto.SerializeToString())
    monkeypatch.setattr("sys.argv", ["graphprune", *VERBS[verb], *(AMOUNT if verb != "inspect" else [])])
    with pytest.raises(SystemExit) as ended:
        main()
    out, err = capsys.readouterr()
    expected = codes[list(VERBS).index(verb)]
    assert (ended.value.code or 0) == expected, err
    if expected:
        assert says in err
        assert len(err.splitlines()) <= 2
        assert out == ""
    # Nothing a terminal would act upon, nothing outside, nothing half done.
    assert all(c.isprintable() or c == "\n" for c in out + err)
    assert [p.name for p in folder.parent.iterdir()] in (["secret.bin", "inside"], ["inside", "secret.bin"])
    written = {"inspect": {"r.html"}, "prune": {"s.onnx", "s.plan.json", "r.html"}, "compile": {"out"}}[verb]
    assert {p.name for p in folder.iterdir()} == {"m.onnx", "link.bin", *([] if expected else written)}
    for page in folder.rglob("*.html"):
        assert "<script>alert" not in page.read_text("utf-8")


# Small files that ask for more than any machine has, or for longer than anyone waits.
GREEDY = {
    "a constant of terabytes": model(
        [
            make_node("ConstantOfShape", ["sizes"], ["k"]),
            make_node("ReduceSum", ["k"], ["r"], keepdims=0),
            make_node("Add", ["x", "r"], ["y"]),
        ],
        [numpy_helper.from_array(np.array([1 << 33, 1 << 10]), "sizes")],
    ),
    "a constant doubled forty times": model(
        [
            *(make_node("Concat", [f"d{k}", f"d{k}"], [f"d{k + 1}"], axis=0) for k in range(40)),
            make_node("ReduceSum", ["d40"], ["r"], keepdims=0),
            make_node("Add", ["x", "r"], ["y"]),
        ],
        [numpy_helper.from_array(np.ones(1, np.float32), "d0")],
    ),
}
LIMITS = ["--max-memory", "1GB", "--max-seconds", "60"]


def supervised(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "graphprune", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=600)


@pytest.mark.parametrize("verb", ["inspect", "prune", pytest.param("compile", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", GREEDY)
def test_what_asks_for_too_much_meets_the_limit(folder, name, verb):
    (folder / "m.onnx").write_bytes(GREEDY[name].SerializeToString())
    done = supervised(folder, *VERBS[verb], *(AMOUNT if verb != "inspect" else []), *LIMITS)
    assert (done.returncode, done.stdout) == (9, "")
    assert done.stderr.startswith("error: out of memory\nhint: ")
    assert {p.name for p in folder.iterdir()} == {"m.onnx", "link.bin"}


@pytest.mark.slow
def test_a_hundred_thousand_nodes(folder):
    """No recursion ends early, and the limit of time holds."""
    (folder / "m.onnx").write_bytes(chain(100_000).SerializeToString())
    done = supervised(folder, "inspect", "m.onnx", "--json", "--max-seconds", "300")
    assert done.returncode in (0, 9), done.stderr
    if not done.returncode:
        assert json.loads(done.stdout)["groups"] == []
    done = supervised(folder, *VERBS["compile"], *AMOUNT, "--max-seconds", "5")
    assert (done.returncode, len(done.stderr.splitlines())) == (9, 2)
    assert {p.name for p in folder.iterdir()} == {"m.onnx", "link.bin"}


def test_a_file_whose_name_is_an_attack(folder):
    name = "\x1b[31m<script>alert(1)</script>.onnx".replace("/", "")
    (folder / name).write_bytes(net().SerializeToString())
    done = supervised(folder, "inspect", name, "--report", "r.html")
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout + done.stderr
    assert "<script>alert" not in (folder / "r.html").read_text("utf-8")
    assert supervised(folder, "inspect", name + "x").stderr.count("\x1b") == 0
