"""ResNet-20 (He et al. 2016, the CIFAR form: three stages of 16, 32 and 64 channels) for Fashion-MNIST.

`python -m models.fashion_resnet20` trains and exports it. Input `image` [batch, 1, 28, 28] is the grey values divided
by 255 and nothing else; output `logits` [batch, 10].

Where a shortcut has a convolution, its BatchNorm and the one it is added to have the same bias, since they get the same
gradient from the same start. The exporter stores it once and adds an Identity node, here twice.
"""

from itertools import pairwise

import torch
from torch import nn

from models.fashion_train import main
from models.zoo import HERE


def convolution(inputs: int, outputs: int, size: int, stride: int = 1) -> nn.Sequential:
    """Convolution without bias, then BatchNorm."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False), nn.BatchNorm2d(outputs)
    )


class BasicBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut, which is a 1x1 convolution where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.first = convolution(inputs, outputs, 3, stride)
        self.second = convolution(outputs, outputs, 3)
        self.shortcut = nn.Sequential() if inputs == outputs else convolution(inputs, outputs, 1, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return relu(convolutions(x) + shortcut(x))."""
        return torch.relu(self.second(torch.relu(self.first(x))) + self.shortcut(x))


def resnet20() -> nn.Module:
    """Untrained network."""
    widths = [16, 16, 16, 16, 32, 32, 32, 64, 64, 64]
    blocks = [BasicBlock(inputs, outputs, stride=1 if inputs == outputs else 2) for inputs, outputs in pairwise(widths)]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)]
    return nn.Sequential(convolution(1, 16, 3), nn.ReLU(), *blocks, *head)


if __name__ == "__main__":
    main(resnet20, HERE / "fashion_resnet20.onnx", epochs=18)
