"""VGG in small (Simonyan & Zisserman 2014, with BatchNorm) for Fashion-MNIST.

`python -m models.fashion_vgg` trains and exports it. Input `image` [batch, 1, 28, 28] is the grey values divided
by 255 and nothing else; output `logits` [batch, 10]. Between convolutions and linear layers lies a Flatten, so that a
channel is nine columns of the first linear layer.
"""

from torch import nn

from models.fashion_train import Recipe, main
from models.zoo import HERE

WIDTHS = (24, 48, 96)  # of the three stages, two convolutions each
HIDDEN = 96


def vgg() -> nn.Module:
    """Untrained network."""
    layers: list[nn.Module] = []
    inputs = 1
    for width in WIDTHS:
        for _ in range(2):
            layers += [nn.Conv2d(inputs, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
            inputs = width
        layers.append(nn.MaxPool2d(2))
    head = [nn.Flatten(), nn.Linear(9 * inputs, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 10)]
    return nn.Sequential(*layers, *head)


if __name__ == "__main__":
    main(vgg, HERE / "fashion_vgg.onnx", epochs=8, recipe=Recipe(rate=0.1, half=False))
