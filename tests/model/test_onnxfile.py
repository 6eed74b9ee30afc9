"""Weights outside the file; bad files end in one clear line and leave nothing behind."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from onnx import ModelProto, TensorProto

from graphprune.errors import GraphpruneError, InvalidModelError, OutputError, UsageError
from graphprune.groups import analyse
from graphprune.model import load, save
from graphprune.proof import Runner
from tests.law import assert_law, net
from tests.model.files import SMALL, WEIGHTS, round_trip, runs_equal, written, written_outside

# -------------------------------------------------------------------------------------------------------- external data


@pytest.fixture
def outside(small: ModelProto, tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    return written_outside(small, folder / "m.onnx")


def test_external_data_stays_external(outside: Path, small: ModelProto, tmp_path: Path) -> None:
    model = load(outside)
    assert model.external
    assert_law(model)
    save(model, tmp_path / "out.onnx")
    runs_equal(small, onnx.load(tmp_path / "out.onnx"))


def test_large_external_data_is_written_beside(tmp_path: Path) -> None:
    proto = net("y = MatMul(x, a)", inputs="float[5,64] x", a=(64, 32))
    model = load(written_outside(proto, tmp_path / "in.onnx"))
    save(model, tmp_path / "first.onnx")
    save(model, tmp_path / "out.onnx")  # saving takes nothing away
    assert (tmp_path / "out.onnx.data").stat().st_size == 64 * 32 * 4
    hollow = onnx.load(tmp_path / "out.onnx", load_external_data=False).graph.initializer[0]
    assert {e.key: e.value for e in hollow.external_data}["location"] == "out.onnx.data"
    runs_equal(proto, onnx.load(tmp_path / "out.onnx"))


def test_external_model_can_be_moved_before_it_is_saved(tmp_path: Path) -> None:
    """All weights are read on loading: the source may change or go while graphprune works."""
    proto = net("y = MatMul(x, a)", inputs="float[5,64] x", a=(64, 32))
    model = load(written_outside(proto, tmp_path / "in.onnx"))
    (tmp_path / "w.bin").unlink()
    save(model, tmp_path / "out.onnx")
    runs_equal(proto, onnx.load(tmp_path / "out.onnx"))


# ------------------------------------------------------------------------------------------------------------ bad input


def _not_onnx(path: Path) -> None:
    path.write_text("this is a text file, and not a short one at that\n" * 9)


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _truncated(path: Path) -> None:
    proto = net(SMALL, **WEIGHTS)
    data = proto.SerializeToString()
    path.write_bytes(data[: len(data) // 2])


def _directory(path: Path) -> None:
    path.mkdir()


def _opset(version: int, op: str = "Relu") -> Callable[[Path], None]:
    def write(path: Path) -> None:
        proto = net("y = Relu(x)")
        proto.opset_import[0].version = version
        proto.graph.node[0].op_type = op
        path.write_bytes(proto.SerializeToString())

    return write


def _missing_data(path: Path) -> None:
    written_outside(net(SMALL, **WEIGHTS), path)
    (path.parent / "w.bin").unlink()


def _short_data(path: Path) -> None:
    written_outside(net(SMALL, **WEIGHTS), path)
    (path.parent / "w.bin").write_bytes(b"1234")


def _outside(location: str) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        (path.parent.parent / "secret.bin").write_bytes(bytes(10_000))
        proto = net(SMALL, **WEIGHTS)
        for tensor in proto.graph.initializer:
            tensor.ClearField("raw_data")
            tensor.data_location = TensorProto.EXTERNAL
            tensor.external_data.add(key="location", value=location.format(folder=path.parent.parent))
        path.write_bytes(proto.SerializeToString())

    return write


def _bad_offset(path: Path) -> None:
    written_outside(net(SMALL, **WEIGHTS), path)
    proto = onnx.load(path, load_external_data=False)
    next(e for e in proto.graph.initializer[0].external_data if e.key == "offset").value = "many"
    path.write_bytes(proto.SerializeToString())


def _unsorted(path: Path) -> None:
    proto = net(SMALL, **WEIGHTS)
    nodes = list(proto.graph.node)
    del proto.graph.node[:]
    proto.graph.node.extend(reversed(nodes))
    path.write_bytes(proto.SerializeToString())


def _no_graph(path: Path) -> None:
    path.write_bytes(ModelProto(ir_version=8).SerializeToString())


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda path: None, "cannot read"),
        (_not_onnx, "is not an ONNX"),
        (_empty, "holds no graph"),
        (_no_graph, "holds no graph"),
        (_truncated, "truncated"),
        (_directory, "cannot read"),
        (_opset(999), "opset 999"),
        (_opset(8), "opset 8"),
        (_opset(17, "NoSuchOperator"), "NoSuchOperator"),
        (_unsorted, "topologically"),
        (_missing_data, "'w.bin', which is missing"),
        (_short_data, "too short"),
        (_bad_offset, "w.bin"),
        (_outside("../secret.bin"), "outside the model's folder"),
        (_outside("{folder}/secret.bin"), "outside the model's folder"),
        (_outside(""), "outside the model's folder"),
    ],
    ids=[
        "missing", "text", "empty", "no graph", "truncated", "directory", "opset too new", "opset too old",
        "unknown operator", "unsorted", "data missing", "data short", "data offset", "data above", "data absolute",
        "data nowhere",
    ],
)  # fmt: skip
def test_bad_files(make: Callable[[Path], None], says: str, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    path = folder / "bad.onnx"
    make(path)
    with pytest.raises(InvalidModelError) as caught:
        load(path)
    message = str(caught.value)
    assert "bad.onnx" in message
    assert says in message
    assert "\n" not in message
    assert caught.value.hint
    assert caught.value.exit_code == 3


def test_a_file_that_may_not_be_read(small: ModelProto, tmp_path: Path) -> None:
    path = written(small, tmp_path / "m.onnx")
    path.chmod(0)
    try:
        path.read_bytes()
    except PermissionError:
        with pytest.raises(InvalidModelError, match="cannot read"):
            load(path)
    finally:
        path.chmod(0o600)


def test_a_data_link_that_leaves_the_folder(small: ModelProto, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    written_outside(small, folder / "m.onnx")
    shutil.move(folder / "w.bin", tmp_path / "w.bin")
    (folder / "w.bin").symlink_to(tmp_path / "w.bin")
    with pytest.raises(InvalidModelError, match="outside the model's folder"):
        load(folder / "m.onnx")


def test_a_protobuf_is_checked_like_a_file(small: ModelProto) -> None:
    small.graph.node[0].op_type = "NoSuchOperator"
    with pytest.raises(InvalidModelError, match="NoSuchOperator"):
        load(small)


def test_a_protobuf_whose_data_was_not_loaded(outside: Path) -> None:
    with pytest.raises(InvalidModelError, match="external data"):
        load(onnx.load(outside, load_external_data=False))


def test_custom_domains_load_and_stay_whole(tmp_path: Path) -> None:
    proto = net("t = Conv(x, a)\nu = Relu(t)\ny = Conv(u, b)", a=(6, 3, 1, 1), b=(4, 6, 1, 1))
    proto.graph.node[1].domain = "com.example"
    proto.graph.node[1].op_type = "Wobble"
    proto.opset_import.add(domain="com.example", version=1)
    model = load(proto)
    dependencies = analyse(model)
    assert not dependencies.groups
    with pytest.raises(InvalidModelError, match="cannot be run by onnxruntime"):
        Runner(model)
    again = round_trip(proto, tmp_path)
    assert [(n.domain, n.op_type) for n in again.graph.node][1] == ("com.example", "Wobble")


@pytest.mark.parametrize(
    ("shapes", "params", "says"),
    [
        ({"w": (1, 3, 8, 8)}, {}, "no input is called 'w'"),
        ({}, {"M": 3}, "no symbolic dimension is called 'M'"),
        ({"x": (1, 3, 8)}, {}, "rank 4, but 3 sizes"),
        ({"x": (1, 5, 8, 8)}, {}, "axis 1 of input 'x' is fixed to 3, not 5"),
        ({"x": (0, 3, 8, 8)}, {}, "above 0"),
        ({"x": (1 << 40, 3, 8, 8)}, {}, "would have 2.1e+14 elements"),
        ({}, {"N": -2}, "above 0"),
    ],
)
def test_bad_sizes(shapes: dict[str, tuple[int, ...]], params: dict[str, int], says: str) -> None:
    proto = net(SMALL, inputs="float[N,3,8,8] x", **WEIGHTS)
    with pytest.raises(UsageError) as caught:
        load(proto, input_shapes=shapes, dim_params=params)
    assert says in str(caught.value)
    assert caught.value.exit_code == 2


def test_sizes_that_do_not_fit_the_net() -> None:
    proto = net("f = Flatten(x)\ny = Gemm(f, a)", inputs="float[1,3,8,8] x", a=(192, 4))
    proto.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "H"
    with pytest.raises(InvalidModelError, match="shapes do not fit"):
        _ = load(proto, dim_params={"H": 9}).shapes


def test_saving_where_there_is_no_folder(small: ModelProto, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot write") as caught:
        save(load(small), tmp_path / "none" / "out.onnx")
    assert caught.value.exit_code == 7
    assert list(tmp_path.iterdir()) == []


def test_a_failed_save_leaves_what_was_there(
    small: ModelProto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "out.onnx"
    path.write_bytes(b"precious")
    model = load(small)
    model.header.graph.output[0].name = "no such tensor"
    with pytest.raises(GraphpruneError):
        save(model, path)
    assert path.read_bytes() == b"precious"
    assert [p.name for p in tmp_path.iterdir()] == ["out.onnx"]
