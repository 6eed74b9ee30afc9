"""Mixture of experts in small (Shazeer et al. 2017; Fedus et al. 2022) for Fashion-MNIST.

`python -m models.fashion_moe` trains and exports it. Input `image` [batch, 1, 28, 28] is the grey values divided by 255
and nothing else; output `logits` [batch, 10]. Two convolutions make 49 tokens; in each block every token goes to the 2
of 8 experts that its router likes best. All experts see all tokens and what was not asked for is weighted with 0 (dense
dispatch), so that the graph has no control flow.
"""

import torch
from torch import nn
from torch.nn import functional

from models.fashion_train import Recipe, main
from models.zoo import HERE

WIDTH = 48
DEPTH = 2
EXPERTS = 8
NEURONS = 64
CHOSEN = 2
RECIPE = Recipe(rate=4e-3, decay=0.05, adam=True, half=False)


class Experts(nn.Module):
    """A perceptron per expert, mixed for each token by a softmax over the experts chosen."""

    def __init__(self, width: int, experts: int, neurons: int, chosen: int):
        super().__init__()
        self.chosen = chosen
        self.router = nn.Linear(width, experts, bias=False)
        self.up = nn.Parameter(torch.randn(experts, width, neurons) / width**0.5)
        self.down = nn.Parameter(torch.randn(experts, neurons, width) / neurons**0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the mixture for each token of x [batch, tokens, width], in the same shape."""
        tokens = x.flatten(0, 1)
        wishes = self.router(tokens)
        scores, chosen = wishes.topk(self.chosen)
        scores = scores.softmax(1)
        shares = torch.zeros_like(wishes, dtype=scores.dtype).scatter(1, chosen, scores)
        each = functional.gelu(tokens @ self.up) @ self.down  # [experts, tokens, width]
        return (shares.t()[:, :, None] * each).sum(0).view_as(x)


class Block(nn.Module):
    """Neighbours mixed by a depthwise convolution, then experts, each around a shortcut."""

    def __init__(self, width: int):
        super().__init__()
        self.mix = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.experts = Experts(width, EXPERTS, NEURONS, CHOSEN)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return x [batch, 49, width] after both."""
        image = self.norms[0](x).transpose(1, 2).unflatten(2, (7, 7))
        x = x + self.mix(image).flatten(2).transpose(1, 2)
        return x + self.experts(self.norms[1](x))


class MixtureOfExperts(nn.Module):
    """Convolutions down to 7 x 7 tokens, blocks, and a linear layer on the mean of the tokens."""

    def __init__(self, width: int, depth: int):
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(1, width // 2, 3, 2, padding=1), nn.GELU(), nn.Conv2d(width // 2, width, 3, 2, padding=1)
        )
        self.blocks = nn.Sequential(*[Block(width) for _ in range(depth)])
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 10))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return logits [batch, 10] for images [batch, 1, 28, 28]."""
        tokens = self.stem(image).flatten(2).transpose(1, 2)
        return self.head(self.blocks(tokens).mean(1))


def moe() -> nn.Module:
    """Untrained network."""
    return MixtureOfExperts(WIDTH, DEPTH)


if __name__ == "__main__":
    main(moe, HERE / "fashion_moe.onnx", epochs=3, recipe=RECIPE)
