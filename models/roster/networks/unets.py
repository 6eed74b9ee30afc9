"""U-Nets, plain and as in diffusion models, and a diffusion transformer; small."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

WIDTH, CONTEXT = 32, 24


class Twice(nn.Sequential):
    """Two convolutions with BatchNorm and ReLU."""

    def __init__(self, inputs: int, outputs: int) -> None:
        layers = [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()]
        super().__init__(*layers, nn.Conv2d(outputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU())


class Gate(nn.Module):
    """Attention gate (Oktay et al. 2018): a skip connection weighted pixel by pixel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.skip, self.deep = nn.Conv2d(width, width // 2, 1), nn.Conv2d(width, width // 2, 1)
        self.weight = nn.Conv2d(width // 2, 1, 1)

    def forward(self, skip: Tensor, deep: Tensor) -> Tensor:
        return skip * self.weight((self.skip(skip) + self.deep(deep)).relu()).sigmoid()


class Unet(nn.Module):
    """The plain U-Net (Ronneberger et al. 2015), by transposed convolutions or enlarging, with gates or not."""

    def __init__(self, transposed: bool = True, gated: bool = False) -> None:
        super().__init__()
        w = WIDTH
        self.first = Twice(3, w)
        self.down = nn.ModuleList([Twice(w, 2 * w), Twice(2 * w, 4 * w)])
        sizes = ((4 * w, 2 * w), (2 * w, w))
        self.enlarge = nn.ModuleList(
            nn.ConvTranspose2d(a, b, 2, 2)
            if transposed
            else nn.Sequential(nn.Upsample(scale_factor=2, mode="bilinear"), nn.Conv2d(a, b, 1))
            for a, b in sizes
        )
        self.gates = nn.ModuleList(Gate(b) for _, b in sizes) if gated else None
        self.up = nn.ModuleList(Twice(2 * b, b) for _, b in sizes)
        self.last = nn.Conv2d(w, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        skips = [self.first(x)]
        for block in self.down:
            skips.append(block(functional.max_pool2d(skips[-1], 2)))
        x = skips.pop()
        for k, (enlarge, block) in enumerate(zip(self.enlarge, self.up, strict=True)):
            x, skip = enlarge(x), skips.pop()
            x = block(torch.cat([self.gates[k](skip, x) if self.gates else skip, x], 1))
        return self.last(x)


def waves(step: Tensor, width: int) -> Tensor:
    """Sines and cosines of a step number, [batch, width]."""
    rates = torch.exp(torch.arange(width // 2) * (-math.log(10000) / (width // 2)))
    angles = step[:, None].float() * rates[None]
    return torch.cat([angles.sin(), angles.cos()], 1)


class Residual(nn.Module):
    """GroupNorm, SiLU, convolution, twice, with the step's embedding in between (Ho et al. 2020)."""

    def __init__(self, inputs: int, outputs: int, step: int, shifted: bool) -> None:
        super().__init__()
        self.shifted = shifted
        self.first = nn.Sequential(nn.GroupNorm(8, inputs), nn.SiLU(), nn.Conv2d(inputs, outputs, 3, padding=1))
        self.step = nn.Linear(step, outputs * (2 if shifted else 1))
        self.norm = nn.GroupNorm(8, outputs)
        self.second = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.skip = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor, step: Tensor) -> Tensor:
        h, told = self.first(x), self.step(functional.silu(step))[:, :, None, None]
        if self.shifted:
            scale, shift = told.chunk(2, 1)
            h = self.norm(h) * (1 + scale) + shift
        else:
            h = self.norm(h + told)
        return self.skip(x) + self.second(functional.silu(h))


class Attention(nn.Module):
    """Attention of some heads, of a sequence to itself or to a context."""

    def __init__(self, width: int, heads: int = 4, context: int | None = None) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(width, width, bias=False)
        self.k, self.v = (nn.Linear(context or width, width, bias=False) for _ in range(2))
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        source = x if context is None else context

        def split(y: Tensor) -> Tensor:
            return y.unflatten(-1, (self.heads, -1)).transpose(1, 2)

        q, k, v = split(self.q(x)), split(self.k(source)), split(self.v(source))
        weights = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1)
        return self.out((weights @ v).transpose(1, 2).flatten(2))


class Spatial(nn.Module):
    """Attention over pixels; with a context, a transformer block with cross-attention and a gated feed-forward part."""

    def __init__(self, width: int, context: int | None = None) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(8, width)
        self.enter, self.leave = nn.Conv2d(width, width, 1), nn.Conv2d(width, width, 1)
        self.attend = Attention(width)
        self.cross = Attention(width, context=context) if context else None
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.gated, self.narrow = nn.Linear(width, 8 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor, context: Tensor | None) -> Tensor:
        height = x.shape[2]
        y = self.enter(self.norm(x)).flatten(2).transpose(1, 2)
        y = y + self.attend(self.norms[0](y))
        if self.cross is not None:
            y = y + self.cross(self.norms[1](y), context)
            value, gate = self.gated(self.norms[2](y)).chunk(2, -1)
            y = y + self.narrow(value * functional.gelu(gate))
        return x + self.leave(y.transpose(1, 2).unflatten(2, (height, -1)))


class DiffusionUnet(nn.Module):
    """A denoiser: residual blocks told the step, attention at the lower resolution (Rombach et al. 2022)."""

    def __init__(self, context: int | None = None, shifted: bool = False) -> None:
        super().__init__()
        w, step = WIDTH, 4 * WIDTH
        self.step = nn.Sequential(nn.Linear(w, step), nn.SiLU(), nn.Linear(step, step))
        self.first = nn.Conv2d(4, w, 3, padding=1)
        self.down = nn.ModuleList([Residual(w, w, step, shifted), Residual(w, 2 * w, step, shifted)])
        self.smaller = nn.Conv2d(w, w, 3, 2, 1)
        self.middle = nn.ModuleList(Residual(2 * w, 2 * w, step, shifted) for _ in range(2))
        self.attend = nn.ModuleList(Spatial(2 * w, context) for _ in range(2))
        self.up = nn.ModuleList([Residual(4 * w, 2 * w, step, shifted), Residual(3 * w, w, step, shifted)])
        self.larger = nn.Conv2d(2 * w, 2 * w, 3, padding=1)
        self.last = nn.Sequential(nn.GroupNorm(8, w), nn.SiLU(), nn.Conv2d(w, 4, 3, padding=1))

    def forward(self, x: Tensor, step: Tensor, context: Tensor | None = None) -> Tensor:
        told = self.step(waves(step, WIDTH))
        fine = self.down[0](self.first(x), told)
        coarse = self.attend[0](self.down[1](self.smaller(fine), told), context)
        x = self.middle[1](self.attend[1](self.middle[0](coarse, told), context), told)
        x = self.up[0](torch.cat([x, coarse], 1), told)
        x = self.larger(functional.interpolate(x, scale_factor=2.0))
        return self.last(self.up[1](torch.cat([x, fine], 1), told))


class DiffusionTransformer(nn.Module):
    """Patches, and blocks whose normalisations are scaled and shifted by the step (Peebles & Xie 2023)."""

    def __init__(self, depth: int = 2, patch: int = 4, side: int = 32) -> None:
        super().__init__()
        w = 2 * WIDTH
        self.patch, self.cells = patch, side // patch
        self.enter = nn.Conv2d(4, w, patch, patch)
        self.position = nn.Parameter(torch.randn(1, self.cells**2, w))
        self.step = nn.Sequential(nn.Linear(WIDTH, w), nn.SiLU(), nn.Linear(w, w))
        self.tell = nn.ModuleList(nn.Linear(w, 6 * w) for _ in range(depth))
        self.attend = nn.ModuleList(Attention(w) for _ in range(depth))
        self.feed = nn.ModuleList(
            nn.Sequential(nn.Linear(w, 4 * w), nn.GELU("tanh"), nn.Linear(4 * w, w)) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(w, elementwise_affine=False)
        self.leave = nn.Linear(w, patch * patch * 4)

    def forward(self, x: Tensor, step: Tensor) -> Tensor:
        y = self.enter(x).flatten(2).transpose(1, 2) + self.position
        told = functional.silu(self.step(waves(step, WIDTH)))
        for tell, attend, feed in zip(self.tell, self.attend, self.feed, strict=True):
            scale, shift, gate, scale2, shift2, gate2 = tell(told)[:, None].chunk(6, -1)
            y = y + gate * attend(self.norm(y) * (1 + scale) + shift)
            y = y + gate2 * feed(self.norm(y) * (1 + scale2) + shift2)
        y = self.leave(self.norm(y)).transpose(1, 2).unflatten(2, (self.cells, -1))
        return functional.pixel_shuffle(y, self.patch)


UNETS: dict[str, Callable[[], nn.Module]] = {
    "unet": Unet,
    "unet_bilinear": lambda: Unet(transposed=False),
    "unet_gated": lambda: Unet(gated=True),
    "unet_diffusion": DiffusionUnet,
    "unet_diffusion_shifted": lambda: DiffusionUnet(shifted=True),
    "unet_diffusion_conditional": lambda: DiffusionUnet(CONTEXT),
    "diffusion_transformer": DiffusionTransformer,
}
