"""MobileNetV2 in small (Sandler et al. 2018: expansion, depthwise, projection) for Fashion-MNIST.

`python -m models.fashion_mobilenet` trains and exports it. Input `image` [batch, 1, 28, 28] is the grey values divided
by 255 and nothing else; output `logits` [batch, 10].
"""

import torch
from torch import nn

from models.fashion_train import main
from models.zoo import HERE

# Outputs, stride, blocks of each stage; every block expands its input by EXPANSION.
STAGES = [(16, 1, 1), (32, 2, 3), (48, 1, 2)]
EXPANSION = 4


def layer(inputs: int, outputs: int, size: int = 1, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    """Convolution without bias, then BatchNorm."""
    convolution = nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, groups=groups, bias=False)
    return [convolution, nn.BatchNorm2d(outputs)]


class InvertedResidual(nn.Module):
    """Expand with 1x1, filter each channel on its own with 3x3, project with a linear 1x1."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        wide = inputs * EXPANSION
        self.layers = nn.Sequential(
            *[*layer(inputs, wide), nn.ReLU6()],
            *[*layer(wide, wide, 3, stride, groups=wide), nn.ReLU6()],
            *layer(wide, outputs),
        )
        self.has_shortcut = stride == 1 and inputs == outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return layers(x), plus x where the shape stays."""
        return x + self.layers(x) if self.has_shortcut else self.layers(x)


def mobilenet() -> nn.Module:
    """Untrained network."""
    layers = [*layer(1, 16, 3, stride=2), nn.ReLU6()]
    width = 16
    for outputs, stride, count in STAGES:
        for index in range(count):
            layers.append(InvertedResidual(width, outputs, stride if index == 0 else 1))
            width = outputs
    head = [*layer(width, 160), nn.ReLU6(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(160, 10)]
    return nn.Sequential(*layers, *head)


if __name__ == "__main__":
    main(mobilenet, HERE / "fashion_mobilenet.onnx", epochs=8)
