"""Small PaddlePaddle models as paddle2onnx exports them.

    python -m venv paddle && paddle/bin/pip install paddlepaddle==3.3.1 paddle2onnx==2.1.0
    paddle/bin/python models/frameworks/from_paddle.py

Writes `paddle_*.onnx` beside this script; weights are random and seeded.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import paddle
from paddle import nn
from paddle.static import InputSpec

HERE = Path(__file__).parent


def conv(channels: int, made: int, stride: int = 1, kernel: int = 3, groups: int = 1) -> nn.Layer:
    """Convolution and BatchNormalization."""
    convolution = nn.Conv2D(channels, made, kernel, stride, kernel // 2, groups=groups, bias_attr=False)
    return nn.Sequential(convolution, nn.BatchNorm2D(made))


class Residual(nn.Layer):
    """A residual block (He et al. 2016)."""

    def __init__(self, channels: int, made: int, stride: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(conv(channels, made, stride), nn.ReLU(), conv(made, made))
        self.skip = nn.Sequential() if channels == made else conv(channels, made, stride, 1)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """The block's output."""
        return nn.functional.relu(self.inner(x) + self.skip(x))


class Gated(nn.Layer):
    """PP-LCNet's block (Cui et al. 2021): depthwise, squeeze and excitation, pointwise."""

    def __init__(self, channels: int, made: int) -> None:
        super().__init__()
        self.deep = nn.Sequential(conv(channels, channels, groups=channels), nn.Hardswish())
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2D(1), nn.Conv2D(channels, 4, 1), nn.ReLU(), nn.Conv2D(4, channels, 1), nn.Hardsigmoid()
        )
        self.point = nn.Sequential(conv(channels, made, kernel=1), nn.Hardswish())

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """The block's output."""
        x = self.deep(x)
        return self.point(x * self.gate(x))


class Unet(nn.Layer):
    """Down, up by transposed convolution and by resizing, skips concatenated (Ronneberger et al. 2015)."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.LayerList([conv(3, 12), conv(12, 16), conv(16, 24)])
        self.up = nn.Conv2DTranspose(24, 16, 2, 2)
        self.mix = nn.LayerList([conv(32, 16), conv(28, 12)])
        self.head = nn.Conv2D(12, 4, 1)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """Scores of every pixel."""
        pool, relu = nn.functional.max_pool2d, nn.functional.relu
        wide = relu(self.down[0](x))
        middle = relu(self.down[1](pool(wide, 2)))
        low = relu(self.down[2](pool(middle, 2)))
        x = relu(self.mix[0](paddle.concat([self.up(low), middle], axis=1)))
        x = nn.functional.interpolate(x, size=[16, 16], mode="bilinear")
        return self.head(relu(self.mix[1](paddle.concat([x, wide], axis=1))))


class Recurrent(nn.Layer):
    """A text recogniser's neck: convolutions to a sequence, recurrent in both directions, scores of every step."""

    def __init__(self, kind: type[nn.Layer]) -> None:
        super().__init__()
        self.conv = nn.Sequential(conv(1, 12), nn.ReLU(), nn.MaxPool2D((8, 1)))
        self.recurrent = kind(12, 16, num_layers=1, direction="bidirect")
        self.head = nn.Linear(32, 10)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """Scores [batch, width, 10]."""
        x = self.conv(x).squeeze(2).transpose([0, 2, 1])
        return self.head(self.recurrent(x)[0])


class Transformer(nn.Layer):
    """Encoder layers over embedded tokens (Vaswani et al. 2017)."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 32)
        layer = nn.TransformerEncoderLayer(32, 4, 64, activation="gelu")
        self.encoder = nn.TransformerEncoder(layer, 2)
        self.head = nn.Linear(32, 4)

    def forward(self, tokens: paddle.Tensor) -> paddle.Tensor:
        """Class scores [batch, 4]."""
        return self.head(self.encoder(self.embed(tokens)).mean(axis=1))


def resnet() -> nn.Layer:
    """Residual blocks, global pooling, dense."""
    stem = nn.Sequential(conv(3, 16), nn.ReLU())
    blocks = [Residual(16, 16, 1), Residual(16, 24, 2), Residual(24, 24, 1)]
    return nn.Sequential(stem, *blocks, nn.AdaptiveAvgPool2D(1), nn.Flatten(), nn.Linear(24, 10))


def lcnet() -> nn.Layer:
    """Depthwise blocks with gates, and a dense head."""
    stem = nn.Sequential(conv(3, 8, 2), nn.Hardswish())
    pooled = nn.Sequential(nn.AdaptiveAvgPool2D(1), nn.Flatten(), nn.Linear(32, 40), nn.Hardswish(), nn.Linear(40, 10))
    return nn.Sequential(stem, Gated(8, 16), Gated(16, 32), pooled)


IMAGE = InputSpec([None, 3, 16, 16], "float32", "image")
LINE = InputSpec([None, 1, 8, 20], "float32", "line")
TOKENS = InputSpec([None, 12], "int64", "tokens")
MODELS: dict[str, tuple[Callable[[], nn.Layer], InputSpec]] = {
    "resnet": (resnet, IMAGE),
    "lcnet": (lcnet, IMAGE),
    "unet": (Unet, IMAGE),
    "lstm": (lambda: Recurrent(nn.LSTM), LINE),
    "gru": (lambda: Recurrent(nn.GRU), LINE),
    "transformer": (Transformer, TOKENS),
}


def main() -> None:
    """Write every model."""
    for name, (build, spec) in MODELS.items():
        paddle.seed(0)
        model = build()
        model.eval()
        paddle.onnx.export(model, str(HERE / f"paddle_{name}"), [spec], opset_version=17)


if __name__ == "__main__":
    main()
