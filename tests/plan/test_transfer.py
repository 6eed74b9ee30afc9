"""Plans on the weights of the source framework, as arrays under the names that PyTorch and Keras give."""

from __future__ import annotations

import msgspec
import numpy as np
import onnx
import pytest

import graphprune
from graphprune.errors import UsageError
from graphprune.model import load
from graphprune.plan.transfer import apply, match
from tests.law import net

NAMES = {"conv.weight": "a", "norm.weight": "g", "norm.bias": "b", "norm.running_mean": "m", "norm.running_var": "v"}
BODY = "t = Conv(x, a) u = BatchNormalization(t, g, b, m, v) r = Relu(u) y = Conv(r, h)"
PLAIN = "fold_constants, magnitude, uniform(ratio=0.5), cut"


@pytest.fixture(scope="module")
def proto() -> onnx.ModelProto:
    rng = np.random.default_rng(1)
    positive = {n: (rng.random(6) + 0.5).astype(np.float32) for n in "gv"}
    return net(BODY, a=(6, 3, 3, 3), b=(6,), m=(6,), h=(4, 6, 1, 1), **positive)


def weights(proto: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {t.name: onnx.numpy_helper.to_array(t) for t in proto.graph.initializer}


def torch_names(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {**{torch: arrays[name] for torch, name in NAMES.items()}, "head.weight": arrays["h"]}


def test_names_are_enough_where_the_exporter_kept_them(proto):
    arrays = weights(proto)
    result = graphprune.prune(proto, passes=PLAIN)
    small = apply(result.plan, {**arrays, "steps": np.array(7)})
    assert small.pop("steps") == 7
    assert {n: a.shape for n, a in small.items()} == {n: tuple(c.shape) for n, c in result.model.constants.items()}
    for name, constant in result.model.constants.items():
        np.testing.assert_array_equal(small[name], constant.values)


@pytest.mark.parametrize("turn", [(0, 1, 2, 3), (2, 3, 1, 0)], ids=["as stored", "as Keras has them"])
def test_values_tell_what_was_renamed_and_transposed(proto, turn):
    arrays = torch_names(weights(proto))
    arrays = {n: a.transpose(turn) if a.ndim == 4 else a for n, a in arrays.items()}
    result = graphprune.prune(proto, passes=PLAIN)
    with pytest.raises(UsageError, match="a \\[6\\] is in no array"):
        apply(result.plan, arrays)
    small = apply(result.plan, arrays, load(proto))
    for name, onnx_name in {**NAMES, "head.weight": "h"}.items():
        expected = np.asarray(result.model.constants[onnx_name].values)
        np.testing.assert_array_equal(small[name], expected.transpose(turn) if expected.ndim == 4 else expected)


def test_a_folded_norm_is_found_by_its_factors(proto):
    """As exporters write it: one convolution under another name, with a bias that the source does not have."""
    arrays = torch_names(weights(proto))
    folded = graphprune.prune(proto, passes="fold_batchnorm").model
    file = folded.proto()
    result = graphprune.prune(file, passes=PLAIN)
    kept = match(result.plan, arrays, load(file))
    positions = kept["conv.weight"][0]
    assert len(positions) == 3
    for name in [*NAMES, "head.weight"]:
        np.testing.assert_array_equal(kept[name][1 if name == "head.weight" else 0], positions)
    other = {**arrays, "norm.running_var": arrays["norm.running_var"][::-1]}
    with pytest.raises(UsageError, match="no BatchNorm explains it"):
        match(result.plan, other, load(file))


def test_a_bias_the_file_does_not_have_goes_with_its_weight():
    proto = net("t = Conv(x, a) r = Relu(t) y = Conv(r, h)", a=(6, 3, 1, 1), h=(4, 6, 1, 1))
    arrays = {**weights(proto), "layer.weight": weights(proto)["a"], "layer.bias": np.arange(6.0)}
    del arrays["a"]
    plan = graphprune.prune(proto, passes=PLAIN).plan
    small = apply(plan, arrays, load(proto))
    np.testing.assert_array_equal(small["layer.bias"], match(plan, arrays, load(proto))["layer.weight"][0])


def test_what_is_ambiguous_or_does_not_fit_is_listed(proto):
    arrays = torch_names(weights(proto))
    plan = graphprune.prune(proto, passes=PLAIN).plan
    with pytest.raises(UsageError, match=r"could be any of conv.weight, twin.weight"):
        match(plan, {**arrays, "twin.weight": arrays["conv.weight"]}, load(proto))
    with pytest.raises(UsageError, match="is in no array"):
        match(plan, {**arrays, "head.weight": arrays["head.weight"] + 1}, load(proto))


@pytest.mark.parametrize("known", ["factors", "offsets"])
def test_a_norm_spelled_out_is_found_by_its_factors_or_its_offsets(proto, known):
    """As exporters write one that no convolution takes up: a product with [1, 6, 1, 1] and a sum."""
    values = weights(proto)
    factors = values["g"] / np.sqrt(values["v"] + 1e-3)
    spelled = {"f": factors.reshape(1, 6, 1, 1), "o": (values["b"] - values["m"] * factors).reshape(1, 6, 1, 1)}
    body = "t = Conv(x, a) s = Mul(t, f) u = Add(s, o) r = Relu(u) y = Conv(r, h)"
    file = net(body, a=values["a"], h=values["h"], **spelled)
    arrays = torch_names(values)
    plan = graphprune.prune(file, passes=PLAIN).plan
    kept = match(plan, arrays, load(file))
    assert all(np.array_equal(kept[name][0], kept["conv.weight"][0]) for name in NAMES)
    unknown = {"factors": "o", "offsets": "f"}[known]  # either is enough
    plan = msgspec.structs.replace(plan, removals=[r for r in plan.removals if r.tensor != unknown])
    assert match(plan, arrays, load(file)).keys() == kept.keys()
    with pytest.raises(UsageError, match="is in no array"):
        match(plan, {**arrays, "norm.running_var": values["v"][::-1]}, load(file))


def test_axes_of_one_position_do_not_matter():
    """A convolution along a sequence is exported as one over pictures of one row."""
    proto = net("t = Conv(x, a) r = Relu(t) y = Conv(r, h)", a=(6, 3, 1, 3), h=(4, 6, 1, 1))
    arrays = {"first": weights(proto)["a"][:, :, 0].transpose(2, 1, 0), "second": weights(proto)["h"][:, :, 0, 0]}
    small = apply(graphprune.prune(proto, passes=PLAIN).plan, arrays, load(proto))
    assert [small["first"].shape, small["second"].shape] == [(3, 3, 3), (4, 3)]
