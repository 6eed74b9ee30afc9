"""Vision transformer in small (Dosovitskiy et al. 2021; Beyer et al. 2022 for the mean at the end) for Fashion-MNIST.

`python -m models.fashion_vit` trains and exports it. Input `image` [batch, 1, 28, 28] is the grey values divided by 255
and nothing else; output `logits` [batch, 10]. Patches of 4 x 4 are 49 tokens. It has LayerNorm and no BatchNorm, and
attention from separate projections for queries, keys and values.
"""

import torch
from torch import nn
from torch.nn import functional

from models.fashion_train import Recipe, main
from models.zoo import HERE

PATCH = 4
TOKENS = (28 // PATCH) ** 2
WIDTH = 64
DEPTH = 6
HEADS = 4
RECIPE = Recipe(rate=2e-3, decay=0.05, adam=True)


class Attention(nn.Module):
    """Every token gathers from all others what it asks for, in HEADS subspaces of their own."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.num_heads = heads
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.output = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return what each token of x [batch, tokens, width] gathered, in the same shape."""
        query, key, value = (
            layer(x).unflatten(2, (self.num_heads, -1)).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        gathered = functional.scaled_dot_product_attention(query, key, value)
        return self.output(gathered.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Attention, then a perceptron on each token, each after a LayerNorm and around a shortcut."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.attention = nn.Sequential(nn.LayerNorm(width), Attention(width, heads))
        wide = 4 * width
        self.perceptron = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, wide), nn.GELU(), nn.Linear(wide, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return x [batch, tokens, width] after both."""
        x = x + self.attention(x)
        return x + self.perceptron(x)


class VisionTransformer(nn.Module):
    """Patches, their places, blocks, and a linear layer on the mean of the tokens."""

    def __init__(self, width: int, depth: int, heads: int):
        super().__init__()
        self.patches = nn.Conv2d(1, width, PATCH, PATCH)
        self.places = nn.Parameter(0.02 * torch.randn(1, TOKENS, width))
        self.blocks = nn.Sequential(*[Block(width, heads) for _ in range(depth)])
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 10))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return logits [batch, 10] for images [batch, 1, 28, 28]."""
        tokens = self.patches(image).flatten(2).transpose(1, 2) + self.places
        return self.head(self.blocks(tokens).mean(1))


def vit() -> nn.Module:
    """Untrained network."""
    return VisionTransformer(WIDTH, DEPTH, HEADS)


if __name__ == "__main__":
    main(vit, HERE / "fashion_vit.onnx", epochs=40, recipe=RECIPE)
