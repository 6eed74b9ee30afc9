"""Small Flax models as jax2onnx exports them.

    python -m venv jax && jax/bin/pip install jax==0.10.2 flax==0.12.8 jax2onnx==0.17.1
    jax/bin/python models/frameworks/from_flax.py

Writes `flax_*.onnx` beside this script; weights are random and seeded.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
from flax import nnx
from jax2onnx import to_onnx

HERE = Path(__file__).parent


class Mlp(nnx.Module):
    """Three dense layers."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.layers = nnx.List([nnx.Linear(a, b, rngs=rngs) for a, b in ((12, 32), (32, 24), (24, 4))])

    def __call__(self, x: jax.Array) -> jax.Array:
        """Class scores [batch, 4]."""
        x = nnx.relu(self.layers[0](x))
        return self.layers[2](nnx.gelu(self.layers[1](x)))


class Cnn(nnx.Module):
    """Convolutions, flattened with channels last, then dense layers."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.first = nnx.Conv(1, 8, (3, 3), rngs=rngs)
        self.second = nnx.Conv(8, 16, (3, 3), rngs=rngs)
        self.hidden = nnx.Linear(3 * 3 * 16, 32, rngs=rngs)
        self.out = nnx.Linear(32, 10, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Class scores [batch, 10]."""
        x = nnx.max_pool(nnx.relu(self.first(x)), window_shape=(2, 2), strides=(2, 2))
        x = nnx.avg_pool(nnx.relu(self.second(x)), window_shape=(2, 2), strides=(2, 2))
        return self.out(nnx.relu(self.hidden(x.reshape(x.shape[0], -1))))


class Block(nnx.Module):
    """A residual block (He et al. 2016)."""

    def __init__(self, channels: int, made: int, rngs: nnx.Rngs) -> None:
        self.a = nnx.Conv(channels, made, (3, 3), use_bias=False, rngs=rngs)
        self.b = nnx.Conv(made, made, (3, 3), use_bias=False, rngs=rngs)
        self.norm_a, self.norm_b = (nnx.BatchNorm(made, use_running_average=True, rngs=rngs) for _ in range(2))
        self.skip = None if channels == made else nnx.Conv(channels, made, (1, 1), rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """An image of as many pixels."""
        y = self.norm_b(self.b(nnx.relu(self.norm_a(self.a(x)))))
        return nnx.relu(y + (x if self.skip is None else self.skip(x)))


class Resnet(nnx.Module):
    """Residual blocks, global pooling, dense."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.stem = nnx.Conv(3, 16, (3, 3), strides=2, rngs=rngs)
        self.blocks = nnx.List([Block(a, b, rngs) for a, b in ((16, 16), (16, 24), (24, 24))])
        self.head = nnx.Linear(24, 10, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Class scores [batch, 10]."""
        x = nnx.relu(self.stem(x))
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean(axis=(1, 2)))


class Depthwise(nnx.Module):
    """ConvNeXt's shape (Liu et al. 2022): depthwise convolution, LayerNorm, a wide dense layer on every pixel."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.stem = nnx.Conv(3, 16, (4, 4), strides=4, rngs=rngs)
        self.deep = nnx.Conv(16, 16, (5, 5), feature_group_count=16, rngs=rngs)
        self.norm = nnx.LayerNorm(16, rngs=rngs)
        self.wide, self.back = nnx.Linear(16, 48, rngs=rngs), nnx.Linear(48, 16, rngs=rngs)
        self.head = nnx.Linear(16, 10, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Class scores [batch, 10]."""
        x = self.stem(x)
        x = x + self.back(nnx.gelu(self.wide(self.norm(self.deep(x)))))
        return self.head(x.mean(axis=(1, 2)))


class Transformer(nnx.Module):
    """A pre-norm block over tokens: attention, gated feed-forward."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.embed = nnx.Embed(50, 32, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(4, 32, decode=False, rngs=rngs)
        self.norms = nnx.List([nnx.LayerNorm(32, rngs=rngs), nnx.RMSNorm(32, rngs=rngs)])
        self.gate, self.up = nnx.Linear(32, 64, rngs=rngs), nnx.Linear(32, 64, rngs=rngs)
        self.down, self.head = nnx.Linear(64, 32, rngs=rngs), nnx.Linear(32, 4, rngs=rngs)

    def __call__(self, tokens: jax.Array) -> jax.Array:
        """Class scores [batch, 4]."""
        x = self.embed(tokens)
        x = x + self.attention(self.norms[0](x))
        y = self.norms[1](x)
        x = x + self.down(nnx.silu(self.gate(y)) * self.up(y))
        return self.head(x.mean(axis=1))


class Autoencoder(nnx.Module):
    """Strided convolutions down, transposed ones up."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.down = nnx.List([nnx.Conv(a, b, (3, 3), strides=2, rngs=rngs) for a, b in ((3, 12), (12, 16))])
        self.up = nnx.List([nnx.ConvTranspose(a, b, (4, 4), strides=(2, 2), rngs=rngs) for a, b in ((16, 12), (12, 3))])

    def __call__(self, x: jax.Array) -> jax.Array:
        """An image of the same shape."""
        for layer in self.down:
            x = nnx.leaky_relu(layer(x))
        return nnx.sigmoid(self.up[1](nnx.relu(self.up[0](x))))


IMAGE, SMALL = ("B", 16, 16, 3), ("B", 12, 12, 1)
MODELS: dict[str, tuple[Callable[[nnx.Rngs], nnx.Module], tuple[str | int, ...], type]] = {
    "mlp": (Mlp, ("B", 12), jnp.float32),
    "cnn": (Cnn, SMALL, jnp.float32),
    "resnet": (Resnet, IMAGE, jnp.float32),
    "depthwise": (Depthwise, IMAGE, jnp.float32),
    "autoencoder": (Autoencoder, IMAGE, jnp.float32),
    "transformer": (Transformer, ("B", 12), jnp.int32),
}


def main() -> None:
    """Write every model."""
    for name, (build, shape, dtype) in MODELS.items():
        model = build(nnx.Rngs(0))
        model.eval()
        specification = jax.ShapeDtypeStruct(jax.export.symbolic_shape(f"{', '.join(map(str, shape))}"), dtype)
        to_onnx(
            model,
            [specification],
            model_name=f"flax_{name}",
            opset=21,
            return_mode="file",
            output_path=str(HERE / f"flax_{name}.onnx"),
        )


if __name__ == "__main__":
    main()
