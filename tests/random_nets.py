"""Random nets: branches that part and meet again, with every kind of coupling between channels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from tests.law import draw, typed

Choose = Callable[[int], int]
"""A number below the one given: drawn by hypothesis, which can then shrink the net, or by a generator."""

UNARY = ["Relu", "Sigmoid", "Tanh", "HardSwish", "Elu", "Softplus", "Abs", "LeakyRelu"]


@dataclass
class Image:
    """A tensor of shape [batch, channels, side, side]."""

    name: str
    channels: int
    side: int


@dataclass
class Builder:
    """A net being built: every method appends nodes and returns what they make."""

    choose: Choose
    dtype: type = np.float32
    batch: int | str = 1
    nodes: list[NodeProto] = field(default_factory=list)
    weights: list[TensorProto] = field(default_factory=list)
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))

    def op(self, op: str, *inputs: str, outputs: int = 1, **attributes: object) -> str:
        """Append a node; the name of its first output."""
        name = f"t{len(self.nodes)}"
        names = [name, *(f"{name}_{k}" for k in range(1, outputs))]
        self.nodes.append(
            helper.make_node(op, list(inputs), names, name=f"{op.lower()}{len(self.nodes)}", **attributes)
        )
        return name

    def weight(self, *shape: int) -> str:
        """A random parameter."""
        return self.constant(draw(self.rng, shape, self.dtype))

    def constant(self, values: np.ndarray) -> str:
        """A constant of given values."""
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(values, name))
        return name

    def ints(self, *values: int) -> str:
        """A constant of whole numbers."""
        return self.constant(np.array(values, np.int64))

    def conv(self, x: Image, channels: int = 0, kernel: int = 0) -> Image:
        """A convolution that keeps the side, with or without a bias."""
        channels = channels or 2 + self.choose(7)
        kernel = kernel or 1 + 2 * self.choose(2)
        pads = [kernel // 2] * 4
        bias = [self.weight(channels)] if self.choose(2) else []
        weight = self.weight(channels, x.channels, kernel, kernel)
        return Image(self.op("Conv", x.name, weight, *bias, pads=pads), channels, x.side)

    def depthwise(self, x: Image) -> Image:
        channels = x.channels * (1 + self.choose(2))
        weight = self.weight(channels, 1, 3, 3)
        return Image(self.op("Conv", x.name, weight, group=x.channels, pads=[1] * 4), channels, x.side)

    def grouped(self, x: Image) -> Image:
        x = x if x.channels % 4 == 0 else self.conv(x, 4 * (1 + self.choose(2)))
        channels = 2 * (1 + self.choose(4))
        return Image(self.op("Conv", x.name, self.weight(channels, x.channels // 2, 1, 1), group=2), channels, x.side)

    def transposed(self, x: Image) -> Image:
        channels = 2 + self.choose(5)
        return Image(self.op("ConvTranspose", x.name, self.weight(x.channels, channels, 1, 1)), channels, x.side)

    def unary(self, x: Image) -> Image:
        return Image(self.op(UNARY[self.choose(len(UNARY))], x.name), x.channels, x.side)

    def scaled(self, x: Image) -> Image:
        op = ["Mul", "Add", "Sub", "Max"][self.choose(4)]
        shape = [(x.channels, 1, 1), (1, x.channels, 1, 1), (1,), (x.channels, x.side, 1)][self.choose(4)]
        return Image(self.op(op, x.name, self.weight(*shape)), x.channels, x.side)

    def normalised(self, x: Image) -> Image:
        parts = [self.weight(x.channels) for _ in range(3)]
        variance = self.constant(self.rng.uniform(0.5, 2, x.channels).astype(self.dtype))
        return Image(self.op("BatchNormalization", x.name, *parts, variance), x.channels, x.side)

    def pooled(self, x: Image) -> Image:
        op = ["MaxPool", "AveragePool"][self.choose(2)]
        return Image(self.op(op, x.name, kernel_shape=[3, 3], pads=[1] * 4), x.channels, x.side)

    def gated(self, x: Image) -> Image:
        """Squeeze and excitation (Hu et al. 2018)."""
        pool = Image(self.op("GlobalAveragePool", x.name), x.channels, 1)
        gate = self.conv(self.unary(self.conv(pool, kernel=1)), x.channels, kernel=1)
        return Image(self.op("Mul", x.name, self.op("Sigmoid", gate.name)), x.channels, x.side)

    def residual(self, x: Image) -> Image:
        branch = self.conv(self.unary(self.conv(x)), x.channels)
        return Image(self.op(["Add", "Mul", "Max"][self.choose(3)], x.name, branch.name), x.channels, x.side)

    def dense(self, x: Image) -> Image:
        other = self.conv(x) if self.choose(3) else x
        return Image(
            self.op("Concat", x.name, other.name, axis=[1, -3][self.choose(2)]), x.channels + other.channels, x.side
        )

    def halved(self, x: Image) -> Image:
        """Two parts of which one goes through a convolution (Wang et al. 2020, CSPNet)."""
        first = 1 + self.choose(x.channels - 1)
        sizes = self.ints(first, x.channels - first)
        name = self.op("Split", x.name, sizes, outputs=2, axis=1)
        left, right = Image(name, first, x.side), Image(f"{name}_1", x.channels - first, x.side)
        right = self.conv(right)
        return Image(self.op("Concat", left.name, right.name, axis=1), left.channels + right.channels, x.side)

    def sliced(self, x: Image) -> Image:
        start = self.choose(x.channels - 1)
        end = start + 1 + self.choose(x.channels - start - 1)
        name = self.op("Slice", x.name, self.ints(start), self.ints(end), self.ints(1))
        return self.conv(Image(name, end - start, x.side))

    def permuted(self, x: Image) -> Image:
        order = self.rng.permutation(x.channels)
        return Image(self.op("Gather", x.name, self.ints(*order), axis=1), x.channels, x.side)

    def padded(self, x: Image) -> Image:
        before, after = self.choose(3), self.choose(3)
        name = self.op("Pad", x.name, self.ints(0, before, 0, 0, 0, after, 0, 0))
        return Image(name, before + x.channels + after, x.side)

    def turned(self, x: Image) -> Image:
        """To channels-last and back, with a product in between."""
        last = self.op("Transpose", x.name, perm=[0, 2, 3, 1])
        channels = 2 + self.choose(5)
        mixed = self.op("MatMul", last, self.weight(x.channels, channels))
        return Image(self.op("Transpose", mixed, perm=[0, 3, 1, 2]), channels, x.side)

    def folded(self, x: Image) -> Image:
        """To a sequence and back."""
        flat = self.op("Reshape", x.name, self.ints(0, x.channels, -1))
        kept = self.op("Softmax", flat, axis=-1)
        return Image(self.op("Reshape", kept, self.ints(0, -1, x.side, x.side)), x.channels, x.side)

    def blocks(self, x: Image) -> Image:
        """Channels in pairs: only whole pairs can go."""
        if x.channels % 2:
            return self.unary(x)
        pairs = self.op("Reshape", x.name, self.ints(0, x.channels // 2, 2, x.side, x.side))
        both = self.op("ReduceMax", pairs, axes=[2], keepdims=0)
        return Image(both, x.channels // 2, x.side) if x.channels > 2 else self.unary(x)

    def meeting(self, x: Image, others: list[Image]) -> Image:
        """Add to an earlier tensor, through a convolution where the channels differ."""
        other = others[self.choose(len(others))]
        x = x if x.channels == other.channels else self.conv(x, other.channels)
        return Image(self.op("Add", x.name, other.name), x.channels, x.side)

    def head(self, x: Image) -> str:
        """What becomes an output: class scores in one of three ways, or an image."""
        kind = self.choose(4)
        if kind == 0:
            return self.conv(x).name
        if kind == 1:
            return self.op("Gemm", self.op("Flatten", x.name), self.weight(x.channels * x.side**2, 3))
        if kind == 2:
            mean = self.op("ReduceMean", x.name, axes=[2, 3], keepdims=0)
            hidden = self.op("Relu", self.op("Gemm", mean, self.weight(5, x.channels), self.weight(5), transB=1))
            return self.op("MatMul", hidden, self.weight(5, 3))
        pool = self.op("GlobalAveragePool", x.name)
        return self.op("MatMul", self.op("Reshape", pool, self.ints(-1, x.channels)), self.weight(x.channels, 3))


STEPS = [
    Builder.conv,
    Builder.depthwise,
    Builder.grouped,
    Builder.transposed,
    Builder.unary,
    Builder.scaled,
    Builder.normalised,
    Builder.pooled,
    Builder.gated,
    Builder.residual,
    Builder.dense,
    Builder.halved,
    Builder.sliced,
    Builder.permuted,
    Builder.padded,
    Builder.turned,
    Builder.folded,
    Builder.blocks,
]


def random_net(choose: Choose, steps: int = 8, dtype: type = np.float32) -> ModelProto:
    """A net of up to ``steps`` steps over an image of 3 channels, with one or two outputs."""
    batch: int | str = [1, 2, "N"][choose(3)]
    build = Builder(choose, dtype, batch, rng=np.random.default_rng(choose(1000)))
    made = [build.conv(Image("x", 3, 6))]
    for _ in range(1 + choose(steps)):
        kind = choose(len(STEPS) + 2)
        x = made[-1 - choose(min(2, len(made)))]
        if kind >= len(STEPS):
            made.append(build.meeting(x, made))
        elif x.channels > 1:
            made.append(STEPS[kind](build, x))
        if made[-1].channels > 40:
            made.append(build.conv(made[-1]))
    outputs = [build.head(made[-1])]
    if choose(3) == 0:
        outputs.append(build.head(made[choose(len(made))]))
    return finished(build, outputs)


def finished(build: Builder, outputs: list[str], shape: tuple[int | str, ...] = ()) -> ModelProto:
    """The model a builder has built over the input ``x``: an image of 3 channels unless told otherwise."""
    element = helper.np_dtype_to_tensor_dtype(np.dtype(build.dtype))
    graph = helper.make_graph(
        build.nodes,
        "random",
        [helper.make_tensor_value_info("x", element, shape or (build.batch, 3, 6, 6))],
        [helper.make_tensor_value_info(name, element, None) for name in outputs],
        build.weights,
    )
    return typed(graph)


def random_perceptron(choose: Choose, dtype: type = np.float64) -> ModelProto:
    """A net of products alone, for element types that convolutions have no kernels for."""
    build = Builder(choose, dtype, rng=np.random.default_rng(choose(1000)))
    name, width = "x", 5
    for _ in range(1 + choose(4)):
        hidden = 2 + choose(7)
        up = build.op("Gemm", name, build.weight(width, hidden), build.weight(hidden))
        gate = build.op("Sigmoid", build.op("MatMul", name, build.weight(width, hidden)))
        both = build.op("Mul", build.op("Relu", up) if choose(2) else up, gate)
        down = build.op("Gemm", both, build.weight(width, hidden), transB=1)
        name = build.op("Add", name, down) if choose(2) else build.op("Gemm", down, build.weight(width, width))
    name = build.op("Gemm", name, build.weight(width, 3))
    return finished(build, [name], (4, 5))
