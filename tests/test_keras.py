"""Plans on Keras models: the smaller model computes what the plainly pruned file computes."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from graphprune import prune
from graphprune.errors import UsageError
from graphprune.model import save

pytestmark = pytest.mark.slow
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
tf = pytest.importorskip("tensorflow")
tf2onnx = pytest.importorskip("tf2onnx")
keras = pytest.importorskip("keras")
layers = keras.layers
PLAIN = "fold_states, fold_shapes, fold_constants, magnitude, uniform(ratio=0.5), cut"


def image(*parts: Any) -> Any:
    """Layers after one another on a picture, then a Dense on what is left of it."""
    given = x = keras.Input((12, 12, 3), name="given")
    for part in (layers.Conv2D(16, 3, activation="relu"), *parts, layers.GlobalAveragePooling2D()):
        x = part(x)
    return keras.Model(given, layers.Dense(4)(x))


def steps(*parts: Any) -> Any:
    """Layers after one another on a sequence of vectors."""
    given = x = keras.Input((6, 8), name="given")
    for part in (layers.Dense(16, "relu"), *parts, layers.GlobalAveragePooling1D()):
        x = part(x)
    return keras.Model(given, layers.Dense(4)(x))


def residual() -> Any:
    """A shortcut over a folded BatchNormalization."""
    given = keras.Input((12, 12, 3), name="given")
    x = layers.Conv2D(16, 3, padding="same", activation="relu")(given)
    y = layers.BatchNormalization()(layers.Conv2D(16, 3, padding="same", use_bias=False)(x))
    y = layers.ReLU()(layers.add([x, y]))
    return keras.Model(given, layers.Dense(4)(layers.GlobalMaxPooling2D()(y)))


def attention() -> Any:
    """Heads that are cut, on a width that a LayerNormalization counts."""
    given = keras.Input((6, 8), name="given")
    x = layers.Dense(32)(given)
    x = layers.LayerNormalization()(layers.add([x, layers.MultiHeadAttention(4, 8)(x, x)]))
    return keras.Model(given, layers.Dense(4)(layers.GlobalAveragePooling1D()(x)))


def backbone() -> Any:
    """A model inside another one, as in transfer learning."""
    given, inside = keras.Input((12, 12, 3), name="given"), image(layers.Conv2D(8, 3, activation="elu"))
    x = layers.Dense(16, "relu")(keras.Model(inside.input, inside.layers[-2].output)(given))
    return keras.Model(given, layers.Dense(4)(x))


def gelu(x: Any) -> Any:
    """A function with the name of another one of Keras."""
    return keras.activations.gelu(x, approximate=True)


MODELS: dict[str, Callable[[], Any]] = {
    "folded norm": residual,
    "norm after depthwise": lambda: image(
        layers.DepthwiseConv2D(3), layers.BatchNormalization(), layers.ReLU(), layers.Conv2D(8, 1)
    ),
    "depth multiplier": lambda: image(layers.DepthwiseConv2D(3, depth_multiplier=2), layers.Conv2D(8, 1)),
    "separable": lambda: image(layers.SeparableConv2D(16, 3, activation="relu"), layers.Conv2D(8, 3)),
    "transposed": lambda: image(layers.Conv2DTranspose(8, 2, 2), layers.PReLU(shared_axes=[1, 2])),
    "activation of another": lambda: image(layers.Conv2D(8, 3, activation=gelu)),
    "backbone": backbone,
    "recurrent": lambda: steps(layers.LSTM(16, return_sequences=True)),
    "both directions": lambda: steps(layers.Bidirectional(layers.LSTM(16, return_sequences=True))),
    "at every step": lambda: steps(layers.TimeDistributed(layers.Dense(12, "tanh")), layers.Conv1D(8, 3)),
    "attention": attention,
}


def exported(model: Any, file: Path) -> Path:
    """The model as a file, its vectors made different by channel as training does."""
    values = np.random.default_rng(0)
    for weight in model.weights:
        if len(weight.shape) == 1:
            weight.assign(weight + values.uniform(0, 0.5, weight.shape))
    signature = [tf.TensorSpec((None, *i.shape[1:]), i.dtype, name=i.name) for i in model.inputs]
    function = tf.function(lambda x: model(x, training=False), input_signature=signature)
    tf2onnx.convert.from_function(function, signature, opset=17, output_path=str(file))
    return file


@pytest.mark.parametrize("name", MODELS)
def test_a_rebuilt_model_computes_what_the_pruned_file_computes(name, tmp_path):
    import graphprune.keras

    keras.utils.set_random_seed(0)
    model = MODELS[name]()
    file = exported(model, tmp_path / "m.onnx")
    result = prune(file, passes=PLAIN)
    save(result.model, tmp_path / "s.onnx")
    before = model.get_weights()
    small = graphprune.keras.apply(model, result.plan, original=file)

    assert small.count_params() < 0.8 * model.count_params()
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))
    x = np.random.default_rng(1).standard_normal((2, *model.inputs[0].shape[1:])).astype(np.float32)
    expected = ort.InferenceSession(tmp_path / "s.onnx").run(None, {"given": x})[0]
    got = np.asarray(small(x))
    assert np.abs(expected - got).max() <= 1e-5 * np.abs(expected).max()
    again = keras.Model.from_config(small.get_config())
    assert again.count_params() == small.count_params()


def test_other_weights_are_refused(tmp_path):
    import graphprune.keras

    file = exported(residual(), tmp_path / "m.onnx")
    plan = prune(file, passes=PLAIN).plan
    with pytest.raises(UsageError, match="does not fit the weights"):
        graphprune.keras.apply(residual(), plan, original=file)


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        (
            lambda: [layers.Reshape((50, 2, 16)), layers.Conv2D(8, 3, padding="same")],
            "total size of the tensor must be unchanged",
        ),
        (lambda: [keras.Sequential([keras.Input((10, 10, 16)), layers.Conv2D(8, 3)])], "expected shape="),
    ],
)
def test_a_width_that_no_weight_shows_is_refused(parts, said, tmp_path):
    import graphprune.keras

    model = image(*parts())
    file = exported(model, tmp_path / "m.onnx")
    with pytest.raises(UsageError, match=said) as raised:
        graphprune.keras.apply(model, prune(file, passes=PLAIN).plan, original=file)
    assert len(str(raised.value).splitlines()) == 1


def test_a_class_of_its_own_is_refused(tmp_path):
    import graphprune.keras

    class Own(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.inner = residual()

        def call(self, x: Any) -> Any:
            return self.inner(x)

    own = Own()
    file = exported(own.inner, tmp_path / "m.onnx")
    plan = prune(file, passes=PLAIN).plan
    own(np.zeros((1, 12, 12, 3), np.float32))
    with pytest.raises(UsageError, match="cannot be made again"):
        graphprune.keras.apply(own, plan, original=file)
