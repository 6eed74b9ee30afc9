"""Small Keras models as tf2onnx exports them: channels last, with transposes around what ONNX wants first.

    python -m venv tf && tf/bin/pip install tensorflow-cpu==2.21.0 keras==3.15.1 tf2onnx==1.17.0
    tf/bin/python models/frameworks/from_keras.py

Writes `keras_*.onnx` beside this script; weights are random and seeded.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf
import tf2onnx
from keras import layers

HERE = Path(__file__).parent
Tensor = Any


def gelu(x: Tensor) -> Tensor:
    """By tanh: tf2onnx turns the exact one into an operator, Erfc, that ONNX lacks."""
    return keras.activations.gelu(x, approximate=True)


def conv(x: Tensor, channels: int, stride: int = 1, kernel: int = 3, activation: str | None = "relu") -> Tensor:
    """Convolution, BatchNormalization, activation."""
    x = layers.Conv2D(channels, kernel, stride, "same", use_bias=False)(x)
    x = layers.BatchNormalization()(x)
    return layers.Activation(activation)(x) if activation else x


def resnet() -> keras.Model:
    """Two stages of residual blocks (He et al. 2016)."""
    image = x = keras.Input((16, 16, 3), name="image")
    x = conv(x, 16)
    for channels, stride in ((16, 1), (24, 2), (24, 1)):
        y = conv(conv(x, channels, stride), channels, activation=None)
        skip = x if stride == 1 else conv(x, channels, stride, 1, None)
        x = layers.ReLU()(layers.add([y, skip]))
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(image, layers.Dense(10, "softmax")(x))


def mobilenet() -> keras.Model:
    """Inverted residuals of depthwise convolutions, squeeze and excitation (Howard et al. 2019)."""
    image = x = keras.Input((16, 16, 3), name="image")
    x = conv(x, 16, 2, activation="relu6")
    for _ in range(2):
        y = conv(x, 32, kernel=1, activation="relu6")
        y = layers.DepthwiseConv2D(3, padding="same", use_bias=False)(y)
        y = layers.Activation("hard_silu")(layers.BatchNormalization()(y))
        gate = layers.GlobalAveragePooling2D(keepdims=True)(y)
        gate = layers.Conv2D(32, 1, activation="hard_sigmoid")(layers.Conv2D(8, 1, activation="relu")(gate))
        x = layers.add([x, conv(layers.multiply([y, gate]), 16, kernel=1, activation=None)])
    x = layers.GlobalAveragePooling2D()(conv(x, 48, kernel=1, activation="relu6"))
    return keras.Model(image, layers.Dense(10)(x))


def unet() -> keras.Model:
    """Down, up by transposed convolution and by resizing, skips concatenated (Ronneberger et al. 2015)."""
    image = x = keras.Input((16, 16, 3), name="image")
    wide = conv(x, 12)
    middle = conv(layers.MaxPooling2D()(wide), 16)
    low = conv(layers.AveragePooling2D(2)(middle), 24)
    x = layers.concatenate([layers.Conv2DTranspose(16, 2, 2)(low), middle])
    x = layers.concatenate([layers.UpSampling2D(interpolation="bilinear")(conv(x, 16)), wide])
    return keras.Model(image, layers.Conv2D(4, 1)(conv(x, 12)))


def flat() -> keras.Model:
    """Convolutions, then Flatten and Dense: LeNet's shape, with channels last in what is flattened."""
    image = x = keras.Input((12, 12, 1), name="image")
    x = layers.MaxPooling2D()(layers.Conv2D(8, 3, activation="relu")(x))
    x = layers.Conv2D(16, 3, activation="elu")(layers.ZeroPadding2D(1)(x))
    x = layers.Dropout(0.5)(layers.Dense(32, gelu)(layers.Flatten()(x)))
    return keras.Model(image, layers.Dense(10)(x))


def lstm() -> keras.Model:
    """A text classifier: embedding, LSTM, dense."""
    tokens = keras.Input((12,), dtype="int32", name="tokens")
    x = layers.Embedding(50, 16)(tokens)
    x = layers.LSTM(24)(layers.LSTM(16, return_sequences=True)(x))
    return keras.Model(tokens, layers.Dense(4)(layers.Dense(16, "tanh")(x)))


def gru() -> keras.Model:
    """A recurrent network in both directions over a sequence of vectors."""
    steps = keras.Input((10, 8), name="steps")
    x = layers.Bidirectional(layers.GRU(16, return_sequences=True))(layers.Dense(12, "relu")(steps))
    return keras.Model(steps, layers.Dense(4)(layers.GlobalMaxPooling1D()(x)))


def transformer() -> keras.Model:
    """An encoder block (Vaswani et al. 2017): attention and a feed-forward part, each with a LayerNormalization."""
    tokens = keras.Input((12,), dtype="int32", name="tokens")
    x = layers.Embedding(50, 32)(tokens)
    for _ in range(2):
        x = layers.LayerNormalization()(layers.add([x, layers.MultiHeadAttention(4, 8)(x, x)]))
        y = layers.Dense(32)(layers.Dense(64, gelu)(x))
        x = layers.LayerNormalization()(layers.add([x, y]))
    return keras.Model(tokens, layers.Dense(4)(layers.GlobalAveragePooling1D()(x)))


MODELS: dict[str, Callable[[], keras.Model]] = {
    "resnet": resnet,
    "mobilenet": mobilenet,
    "unet": unet,
    "flat": flat,
    "lstm": lstm,
    "gru": gru,
    "transformer": transformer,
}


def randomise(model: keras.Model) -> None:
    """Statistics and scales of normalisations that differ by channel, as training leaves them."""
    generator = tf.random.Generator.from_seed(0)
    for weight in model.weights:
        if len(weight.shape) == 1:
            weight.assign(weight + generator.uniform(weight.shape, 0.0, 0.5))


def main() -> None:
    """Write every model."""
    for name, build in MODELS.items():
        keras.utils.set_random_seed(0)
        model = build()
        randomise(model)
        signature = [tf.TensorSpec((None, *i.shape[1:]), i.dtype, name=i.name) for i in model.inputs]
        function = tf.function(lambda x, model=model: model(x, training=False), input_signature=signature)
        tf2onnx.convert.from_function(function, signature, opset=17, output_path=str(HERE / f"keras_{name}.onnx"))


if __name__ == "__main__":
    main()
