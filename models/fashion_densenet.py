"""DenseNet in small (Huang et al. 2017: every layer reads all before it, through Concat) for Fashion-MNIST.

`python -m models.fashion_densenet` trains and exports it. Input `image` [batch, 1, 28, 28] is the grey values divided
by 255 and nothing else; output `logits` [batch, 10].
"""

import torch
from torch import nn

from models.fashion_train import main
from models.zoo import HERE

GROWTH = 12
LAYERS = 4  # of each of the three dense blocks


class DenseLayer(nn.Module):
    """BatchNorm, ReLU and a 3x3 convolution, whose GROWTH channels join those of the input."""

    def __init__(self, inputs: int):
        super().__init__()
        convolution = nn.Conv2d(inputs, GROWTH, 3, padding=1, bias=False)
        self.layers = nn.Sequential(nn.BatchNorm2d(inputs), nn.ReLU(), convolution)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return x and layers(x) side by side."""
        return torch.cat([x, self.layers(x)], dim=1)


def transition(inputs: int) -> list[nn.Module]:
    """Halve the channels, the height and the width."""
    convolution = nn.Conv2d(inputs, inputs // 2, 1, bias=False)
    return [nn.BatchNorm2d(inputs), nn.ReLU(), convolution, nn.AvgPool2d(2)]


def densenet() -> nn.Module:
    """Untrained network."""
    # Stride 2 at the start, since dense blocks are slow on large images.
    width = 2 * GROWTH
    layers: list[nn.Module] = [nn.Conv2d(1, width, 3, stride=2, padding=1, bias=False)]
    for block in range(3):
        if block:
            layers += transition(width)
            width //= 2
        for _ in range(LAYERS):
            layers.append(DenseLayer(width))
            width += GROWTH
    head = [nn.BatchNorm2d(width), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10)]
    return nn.Sequential(*layers, *head)


if __name__ == "__main__":
    main(densenet, HERE / "fashion_densenet.onnx", epochs=8)
