"""Weights that stay in their file: read in blocks, changed on the way, written once."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto

from graphprune import api, model
from graphprune.cut import cut, gone, zeroed
from graphprune.errors import InvalidModelError
from graphprune.groups import analyse
from graphprune.model import load, onnxfile, save, streaming, weights
from graphprune.model.session import session
from graphprune.proof import Runner, seeded_inputs
from tests.law import agree, halves, net

BODY = "t = MatMul(x, a)\nu = Relu(t)\nv = MatMul(u, b)\nw = Relu(v)\ny = MatMul(w, c)"
WEIGHTS = {"a": (40, 64), "b": (64, 48), "c": (48, 40)}


@pytest.fixture
def proto() -> ModelProto:
    return net(BODY, inputs="float[5,40] x", **WEIGHTS)


@pytest.fixture
def path(proto: ModelProto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model that counts as large, of several blocks a tensor and several parts."""
    for module in (onnxfile, model):
        monkeypatch.setattr(module, "LARGEST_INLINE", 10_000)
    monkeypatch.setattr(onnxfile, "SMALLEST_STREAMED", 1000)
    monkeypatch.setattr(weights, "BLOCK", 3000)
    monkeypatch.setattr(streaming, "PART", 15_000)
    copy = ModelProto()
    copy.CopyFrom(proto)
    onnx.save_model(copy, str(tmp_path / "in.onnx"), save_as_external_data=True, location="in.bin", size_threshold=0)
    return tmp_path / "in.onnx"


def references(path: Path) -> dict[str, dict[str, str]]:
    tensors = onnx.load(path, load_external_data=False).graph.initializer
    return {t.name: {e.key: e.value for e in t.external_data} for t in tensors}


def assert_same_weights(found: ModelProto, expected: ModelProto) -> None:
    for a, b in zip(found.graph.initializer, expected.graph.initializer, strict=True):
        assert a.name == b.name
        assert np.array_equal(onnx.numpy_helper.to_array(a), onnx.numpy_helper.to_array(b))


def test_large_weights_stay_in_their_file(path: Path, proto: ModelProto) -> None:
    large = load(path)
    assert large.streamed
    assert large.external
    for tensor in proto.graph.initializer:
        constant = large.constants[tensor.name]
        assert weights.is_streamed(constant)
        expected = onnx.numpy_helper.to_array(tensor)
        assert np.array_equal(constant.values, expected)
        assert not constant.values.flags.writeable
        rows = list(weights.blocks(constant))
        assert len(rows) > 1
        assert max(block.nbytes for block in rows) <= weights.BLOCK
        assert np.array_equal(np.concatenate(rows), expected)
    assert all(map(weights.is_streamed, large.copy().constants.values()))


def test_small_models_are_read_whole(proto: ModelProto, tmp_path: Path) -> None:
    onnx.save_model(proto, str(tmp_path / "in.onnx"), save_as_external_data=True, location="in.bin", size_threshold=0)
    assert not load(tmp_path / "in.onnx").streamed


def test_cutting_and_zeroing_are_the_same_streamed(path: Path, proto: ModelProto, tmp_path: Path) -> None:
    large, small = load(path), load(proto)
    groups = analyse(large).groups
    going = gone(groups, halves(groups))
    assert [str(g) for g in groups] == [str(g) for g in analyse(small).groups]
    for change in (cut, zeroed):
        streamed, held = change(large, going), change(small, going)
        for name, constant in streamed.constants.items():
            assert weights.is_streamed(constant) or np.array_equal(constant.values, large.constants[name].values)
            assert tuple(constant.shape) == held.constants[name].shape
            assert np.array_equal(constant.values, held.constants[name].values)
            assert np.array_equal(np.concatenate(list(weights.blocks(constant))), held.constants[name].values)
        save(streamed, tmp_path / "out.onnx")
        assert_same_weights(onnx.load(tmp_path / "out.onnx"), held.proto())
    assert agree(large, groups, halves(groups)).holds


def test_pruning_a_large_model_is_pruning_it(path: Path, proto: ModelProto, tmp_path: Path) -> None:
    options = {"ratio": 0.5, "preset": "magnitude"}
    large, small = api.prune(path, **options), api.prune(proto, **options)
    assert large.report.law_error is not None
    assert large.report.kept == small.report.kept
    assert large.plan.removals == small.plan.removals
    large.save(tmp_path / "out.onnx")
    assert_same_weights(onnx.load(tmp_path / "out.onnx"), small.model.proto())
    assert {r["location"] for r in references(tmp_path / "out.onnx").values()} == {"out.onnx.data"}
    assert all(int(r["offset"]) % weights.ALIGNMENT == 0 for r in references(tmp_path / "out.onnx").values())
    assert sorted(f.name for f in tmp_path.iterdir()) == [
        "in.bin",
        "in.onnx",
        "out.onnx",
        "out.onnx.data",
        "out.plan.json",
    ]


def test_parts_compute_what_the_whole_does(path: Path, proto: ModelProto) -> None:
    large, small = load(path), load(proto)
    assert len(streaming.parts(large, large.outputs)) == 3
    inputs = seeded_inputs(small)
    expected = Runner(small, also=["t", "w"])(inputs)
    found = Runner(large, also=["t", "w"])(inputs)
    assert list(found) == ["y", "t", "w"]
    for name, value in found.items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(Runner(large, optimise=True)(inputs)["y"], expected["y"], rtol=1e-4, atol=1e-5)


def test_parts_are_made_once_for_several_inputs(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    large = load(path)
    batches = [seeded_inputs(large, seed) for seed in range(3)]
    one_by_one = list(map(Runner(large), batches))
    opened = []
    monkeypatch.setattr(streaming, "session", lambda *a, **k: opened.append(a) or session(*a, **k))
    together = list(Runner(large).each(batches))
    assert len(opened) == len(streaming.parts(large, large.outputs))
    for a, b in zip(together, one_by_one, strict=True):
        assert np.array_equal(a["y"], b["y"])


def test_a_later_part_may_read_an_earlier_one_or_an_input(path: Path, tmp_path: Path) -> None:
    body = "t = MatMul(x, a)\nu = MatMul(t, b)\nv = MatMul(u, c)\nw = Add(v, t)\ny = Add(w, x)\nz = Relu(t)"
    given = {"a": (40, 40), "b": (40, 64), "c": (64, 40)}
    proto = net(body, inputs="float[5,40] x", outputs="y z", **given)
    inputs = seeded_inputs(load(proto))
    expected = Runner(load(proto))(inputs)
    onnx.save_model(proto, str(path), save_as_external_data=True, location="other.bin", size_threshold=0)
    found = Runner(load(path))(inputs)
    for name in expected:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-5, atol=1e-5)


def test_tied_weights_are_written_once(path: Path, tmp_path: Path) -> None:
    """Two initializers that share their bytes, one of which a cut changes: they part where they must."""
    same = np.random.default_rng(0).standard_normal((40, 40)).astype(np.float32)
    body = "s = MatMul(x, a)\nt = MatMul(s, b)\nu = MatMul(t, c)\ny = MatMul(u, d)"
    proto = net(body, inputs="float[5,40] x", a=same, b=same, c=same, d=(40, 40))
    onnx.save_model(proto, str(path), save_as_external_data=True, location="tied.bin", size_threshold=0)
    whole = onnx.load(path, load_external_data=False)
    shared = whole.graph.initializer[0].external_data
    for tensor in whole.graph.initializer[1:3]:
        del tensor.external_data[:]
        tensor.external_data.extend(shared)
    path.write_bytes(whole.SerializeToString())
    save(load(path), tmp_path / "out.onnx")
    assert len({r["offset"] for r in references(tmp_path / "out.onnx").values()}) == 2
    assert (tmp_path / "out.onnx.data").stat().st_size < 2 * 6400 + weights.ALIGNMENT
    large = load(path)
    groups = [g for g in analyse(large).groups if g.name == "c[1]"]
    save(cut(large, gone(groups, halves(groups))), tmp_path / "cut.onnx")
    assert len({r["offset"] for r in references(tmp_path / "cut.onnx").values()}) == 3
    assert np.array_equal(load(tmp_path / "cut.onnx").constants["b"].values, same)


@pytest.mark.parametrize("spoil", [Path.unlink, lambda p: os.truncate(p, 5000), lambda p: p.write_bytes(bytes(90_000))])
def test_a_file_that_changes_meanwhile_is_noticed(path: Path, spoil: object) -> None:
    large = load(path)
    spoil(path.with_name("in.bin"))  # type: ignore[operator]
    with pytest.raises(InvalidModelError, match=r"in\.bin' is gone or was changed"):
        _ = large.constants["a"].values
    with pytest.raises(InvalidModelError, match=r"in\.bin' is gone or was changed"):
        Runner(large)(seeded_inputs(large))


def test_values_no_array_has_pass_through(path: Path, tmp_path: Path) -> None:
    """Numbers of four bits are packed: read whole, pinned, and written as they were."""
    packed = onnx.helper.make_tensor("q", TensorProto.INT4, [40, 128], np.arange(5120) % 8)
    proto = net(
        "f = DequantizeLinear(q, s)\ny = MatMul(x, f)",
        inputs="float[5,40] x",
        opset=21,
        s=np.array(1, np.float32),
        q=np.zeros((40, 128), np.int8),
    )
    proto.ir_version = 10
    proto.graph.initializer.pop()
    proto.graph.initializer.append(packed)
    onnx.save_model(proto, str(path), save_as_external_data=True, location="packed.bin", size_threshold=0)
    large = load(path)
    save(large, tmp_path / "out.onnx")
    assert (
        next(t for t in onnx.load(tmp_path / "out.onnx").graph.initializer if t.name == "q").raw_data == packed.raw_data
    )


def test_large_weights_in_memory_are_there_once(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    large, small = rng.standard_normal((2, 128, 256)).astype(np.float32)
    proto = net("h = MatMul(x, large) y = MatMul(h, small)", inputs="float[3,128] x", large=large, small=small.T[:, :4])
    onnx.save(proto, tmp_path / "m.onnx")
    model = load(tmp_path / "m.onnx")
    lean, values = model.copy().lean()
    assert values.keys() == {"large"}
    assert values["large"] is model.constants["large"].values
    assert lean.ByteSize() < 10_000
    x = rng.standard_normal((3, 128)).astype(np.float32)
    np.testing.assert_allclose(Runner(model)({"x": x})["y"], x @ large @ small.T[:, :4], rtol=1e-4, atol=1e-3)
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(model.proto().graph.initializer[0]), large)
