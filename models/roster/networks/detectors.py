"""Detectors after the YOLO line: backbones of cross-stage partial blocks, pyramids that concatenate, several heads.

Small, and faithful where it matters to pruning: what is split, concatenated, reshaped and added.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

WIDTH, CLASSES = 16, 5


def conv(
    inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1, activation: type[nn.Module] = nn.SiLU
) -> nn.Sequential:
    """Convolution, BatchNorm, activation."""
    layer = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(outputs), activation())


class Bottleneck(nn.Module):
    """Two convolutions beside an identity."""

    def __init__(self, width: int, kernels: tuple[int, int] = (1, 3), activation: type[nn.Module] = nn.SiLU) -> None:
        super().__init__()
        self.body = nn.Sequential(*(conv(width, width, kernel, activation=activation) for kernel in kernels))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class C3(nn.Module):
    """Cross-stage partial block (Wang et al. 2020): one half goes through bottlenecks, and both are concatenated."""

    def __init__(self, inputs: int, outputs: int, depth: int = 1, activation: type[nn.Module] = nn.SiLU) -> None:
        super().__init__()
        half = outputs // 2
        self.deep = nn.Sequential(
            conv(inputs, half, activation=activation), *(Bottleneck(half, activation=activation) for _ in range(depth))
        )
        self.short = conv(inputs, half, activation=activation)
        self.join = conv(2 * half, outputs, activation=activation)

    def forward(self, x: Tensor) -> Tensor:
        return self.join(torch.cat([self.deep(x), self.short(x)], 1))


class C2f(nn.Module):
    """One convolution, split in halves; every bottleneck's result is concatenated."""

    def __init__(self, inputs: int, outputs: int, depth: int = 2) -> None:
        super().__init__()
        half = outputs // 2
        self.split = conv(inputs, outputs)
        self.blocks = nn.ModuleList(Bottleneck(half, (3, 3)) for _ in range(depth))
        self.join = conv((2 + depth) * half, outputs)

    def forward(self, x: Tensor) -> Tensor:
        parts = list(self.split(x).chunk(2, 1))
        for block in self.blocks:
            parts.append(block(parts[-1]))
        return self.join(torch.cat(parts, 1))


class Elan(nn.Module):
    """Efficient layer aggregation (Wang et al. 2022): concatenates along one chain of convolutions."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        half = outputs // 2
        self.first, self.second = conv(inputs, half), conv(inputs, half)
        self.chain = nn.ModuleList(conv(half, half, 3) for _ in range(2))
        self.join = conv(4 * half, outputs)

    def forward(self, x: Tensor) -> Tensor:
        parts = [self.first(x), self.second(x)]
        for layer in self.chain:
            parts.append(layer(parts[-1]))
        return self.join(torch.cat(parts, 1))


class Sppf(nn.Module):
    """Spatial pyramid pooling: the same maximum thrice, all four concatenated."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.narrow, self.join = conv(inputs, inputs // 2), conv(2 * inputs, outputs)
        self.pool = nn.MaxPool2d(5, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        parts = [self.narrow(x)]
        for _ in range(3):
            parts.append(self.pool(parts[-1]))
        return self.join(torch.cat(parts, 1))


class Focus(nn.Module):
    """Every second pixel becomes a channel."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = conv(4 * inputs, outputs, 3)

    def forward(self, x: Tensor) -> Tensor:
        corners = [x[..., i::2, j::2] for j in (0, 1) for i in (0, 1)]
        return self.conv(torch.cat(corners, 1))


class Psa(nn.Module):
    """Partial self-attention (Wang et al. 2024): half of the channels attend, with a depthwise position term."""

    def __init__(self, inputs: int, outputs: int, heads: int = 2) -> None:
        super().__init__()
        half, self.heads = outputs // 2, heads
        self.split, self.join = conv(inputs, outputs), conv(outputs, outputs)
        self.qkv = conv(half, 2 * half, activation=nn.Identity)
        self.position = conv(half, half, 3, groups=half, activation=nn.Identity)
        self.project = conv(half, half, activation=nn.Identity)
        self.feed = nn.Sequential(conv(half, 2 * half), conv(2 * half, half, activation=nn.Identity))

    def forward(self, x: Tensor) -> Tensor:
        kept, a = self.split(x).chunk(2, 1)
        batch, channels, height, width = a.shape
        wide = channels // self.heads
        q, k, v = self.qkv(a).view(batch, self.heads, 2 * wide, height * width).split([wide // 2, wide // 2, wide], 2)
        attention = (q.transpose(-2, -1) @ k * (wide // 2) ** -0.5).softmax(-1)
        mixed = (v @ attention.transpose(-2, -1)).view(batch, channels, height, width)
        a = a + self.project(mixed + self.position(v.reshape(batch, channels, height, width)))
        return self.join(torch.cat([kept, a + self.feed(a)], 1))


class Backbone(nn.Module):
    """Three maps at strides 8, 16 and 32."""

    def __init__(self, stem: nn.Module, block: Callable[[int, int], nn.Module], top: nn.Module | None = None) -> None:
        super().__init__()
        w = WIDTH
        self.stem = nn.Sequential(stem, conv(w, 2 * w, 3, 2), block(2 * w, 2 * w))
        self.stages = nn.ModuleList(
            nn.Sequential(conv(a, b, 3, 2), block(b, b)) for a, b in ((2 * w, 4 * w), (4 * w, 8 * w), (8 * w, 16 * w))
        )
        self.top = top or nn.Identity()

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = [self.stem(x)]
        for stage in self.stages:
            maps.append(stage(maps[-1]))
        return [*maps[1:-1], self.top(maps[-1])]


class Pan(nn.Module):
    """Path aggregation (Liu et al. 2018): down the pyramid by enlarging, up by strides, joined by concatenation."""

    def __init__(self, block: Callable[[int, int], nn.Module]) -> None:
        super().__init__()
        small, middle, large = 4 * WIDTH, 8 * WIDTH, 16 * WIDTH
        self.down = nn.ModuleList([block(large + middle, middle), block(middle + small, small)])
        self.strided = nn.ModuleList([conv(small, small, 3, 2), conv(middle, middle, 3, 2)])
        self.up = nn.ModuleList([block(small + middle, middle), block(middle + large, large)])

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        fine, middle, coarse = maps
        middle = self.down[0](torch.cat([functional.interpolate(coarse, scale_factor=2.0), middle], 1))
        fine = self.down[1](torch.cat([functional.interpolate(middle, scale_factor=2.0), fine], 1))
        middle = self.up[0](torch.cat([self.strided[0](fine), middle], 1))
        return [fine, middle, self.up[1](torch.cat([self.strided[1](middle), coarse], 1))]


class Bifpn(nn.Module):
    """Weighted pyramid (Tan et al. 2020): maps of one width, added with learned weights."""

    def __init__(self) -> None:
        super().__init__()
        wide = 4 * WIDTH
        self.even = nn.ModuleList(conv(n * WIDTH, wide) for n in (4, 8, 16))
        self.weights = nn.ParameterList(nn.Parameter(torch.rand(2)) for _ in range(4))
        self.joins = nn.ModuleList(nn.Sequential(conv(wide, wide, 3, groups=wide), conv(wide, wide)) for _ in range(4))
        self.widen = nn.ModuleList(conv(wide, n * WIDTH) for n in (4, 8, 16))

    def _join(self, index: int, a: Tensor, b: Tensor) -> Tensor:
        weights = functional.relu(self.weights[index])
        weights = weights / (weights.sum() + 1e-4)
        return self.joins[index](weights[0] * a + weights[1] * b)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        fine, middle, coarse = (layer(x) for layer, x in zip(self.even, maps, strict=True))
        middle = self._join(0, middle, functional.interpolate(coarse, scale_factor=2.0))
        fine = self._join(1, fine, functional.interpolate(middle, scale_factor=2.0))
        middle = self._join(2, middle, functional.max_pool2d(fine, 3, 2, 1))
        coarse = self._join(3, coarse, functional.max_pool2d(middle, 3, 2, 1))
        return [layer(x) for layer, x in zip(self.widen, (fine, middle, coarse), strict=True)]


class AnchorHead(nn.Module):
    """One convolution for boxes, objectness and classes of every anchor; boxes decoded on the grid."""

    def __init__(self, anchors: int = 3) -> None:
        super().__init__()
        self.anchors = anchors
        self.layers = nn.ModuleList(nn.Conv2d(n * WIDTH, anchors * (5 + CLASSES), 1) for n in (4, 8, 16))

    def forward(self, maps: list[Tensor]) -> Tensor:
        found = []
        for layer, x in zip(self.layers, maps, strict=True):
            y = layer(x)
            y = y.view(y.shape[0], self.anchors, 5 + CLASSES, *y.shape[2:]).permute(0, 1, 3, 4, 2).sigmoid()
            place, size, rest = y.split([2, 2, 1 + CLASSES], -1)
            found.append(torch.cat([place * 2 - 0.5, (size * 2) ** 2, rest], -1).flatten(1, 3))
        return torch.cat(found, 1)


class DecoupledHead(nn.Module):
    """Boxes and classes apart (Ge et al. 2021); box sides as expectations over bins (Li et al. 2020) where wanted."""

    def __init__(self, bins: int = 0, depthwise: bool = False) -> None:
        super().__init__()
        self.bins = bins

        def branch(inputs: int, outputs: int) -> nn.Sequential:
            hidden = 2 * WIDTH
            groups = (inputs, hidden) if depthwise else (1, 1)
            first = [conv(inputs, inputs, 3, groups=groups[0])] if depthwise else []
            body = [*first, conv(inputs, hidden, 1 if depthwise else 3), conv(hidden, hidden, 3, groups=groups[1])]
            return nn.Sequential(*body, nn.Conv2d(hidden, outputs, 1))

        self.boxes = nn.ModuleList(branch(n * WIDTH, 4 * max(bins, 1)) for n in (4, 8, 16))
        self.classes = nn.ModuleList(branch(n * WIDTH, CLASSES) for n in (4, 8, 16))

    def forward(self, maps: list[Tensor]) -> Tensor:
        boxes = torch.cat([layer(x).flatten(2) for layer, x in zip(self.boxes, maps, strict=True)], 2)
        classes = torch.cat([layer(x).flatten(2) for layer, x in zip(self.classes, maps, strict=True)], 2)
        if self.bins:
            bins = torch.arange(self.bins, dtype=boxes.dtype)
            spread = boxes.view(boxes.shape[0], 4, self.bins, boxes.shape[2]).softmax(2)
            boxes = (spread * bins.view(1, 1, -1, 1)).sum(2)
        return torch.cat([boxes, classes.sigmoid()], 1)


def _detector(backbone: Backbone, neck: nn.Module, head: nn.Module) -> nn.Module:
    return nn.Sequential(backbone, neck, head)


def _stem() -> nn.Module:
    return conv(3, WIDTH, 3, 2)


def _darknet(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(conv(inputs, outputs, activation=nn.LeakyReLU), Bottleneck(outputs, activation=nn.LeakyReLU))


def _mish(inputs: int, outputs: int) -> nn.Module:
    return C3(inputs, outputs, activation=nn.Mish)


def _hard(inputs: int, outputs: int) -> nn.Module:
    return C3(inputs, outputs, activation=nn.Hardswish)


TOP = 16 * WIDTH
DETECTORS: dict[str, Callable[[], nn.Module]] = {
    "yolo_darknet": lambda: _detector(Backbone(_stem(), _darknet), Pan(_darknet), AnchorHead()),
    "yolo_csp_mish": lambda: _detector(Backbone(_stem(), _mish, Sppf(TOP, TOP)), Pan(_mish), AnchorHead()),
    "yolo_c3_hardswish": lambda: _detector(Backbone(Focus(3, WIDTH), _hard, Sppf(TOP, TOP)), Pan(_hard), AnchorHead()),
    "yolo_c3": lambda: _detector(Backbone(_stem(), C3, Sppf(TOP, TOP)), Pan(C3), AnchorHead()),
    "yolo_focus_decoupled": lambda: _detector(Backbone(Focus(3, WIDTH), C3, Sppf(TOP, TOP)), Pan(C3), DecoupledHead()),
    "yolo_elan": lambda: _detector(Backbone(_stem(), Elan, Sppf(TOP, TOP)), Pan(Elan), AnchorHead()),
    "yolo_c2f": lambda: _detector(Backbone(_stem(), C2f, Sppf(TOP, TOP)), Pan(C2f), DecoupledHead(8)),
    "yolo_psa_depthwise": lambda: _detector(
        Backbone(_stem(), C2f, nn.Sequential(Sppf(TOP, TOP), Psa(TOP, TOP))), Pan(C2f), DecoupledHead(8, depthwise=True)
    ),
    "yolo_bifpn": lambda: _detector(Backbone(_stem(), C3), Bifpn(), DecoupledHead()),
}
