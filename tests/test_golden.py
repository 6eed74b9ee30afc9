"""Golden group lists: a rule that pins too much, or ties too little, changes one of them.

Regenerate after an intended change, and read the difference before committing it:

    GOLDEN=write pytest tests/test_golden.py && git diff tests/golden
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto

from graphprune.groups import Dependencies, analyse
from graphprune.model import Model, load
from graphprune.pipeline import BEFORE, parse, run
from graphprune.state import State
from tests.law import assert_law
from tests.random_nets import Builder, Image, finished

ROOT = Path(__file__).parent.parent
FOLDER = Path(__file__).parent / "golden"


def conv_bn(build: Builder, x: Image, channels: int, kernel: int = 3, act: bool = True) -> Image:
    made = build.normalised(build.conv(x, channels, kernel))
    return Image(build.op("Relu", made.name), channels, x.side) if act else made


def residual(build: Builder) -> str:
    """Two stages of basic blocks; the spine of each stage is one group."""
    x = conv_bn(build, Image("x", 3, 6), 8)
    for channels in (8, 8, 12):
        inner = conv_bn(build, conv_bn(build, x, channels), channels, act=False)
        skip = x if channels == x.channels else conv_bn(build, x, channels, 1, act=False)
        x = Image(build.op("Relu", build.op("Add", inner.name, skip.name)), channels, x.side)
    return head(build, x)


def dense(build: Builder) -> str:
    """Every layer reads all earlier ones through a Concat, each behind a normalisation of its own."""
    x = build.conv(Image("x", 3, 6), 8, 3)
    for _ in range(3):
        made = build.normalised(x)
        new = build.conv(Image(build.op("Relu", made.name), x.channels, 6), 4, 3)
        x = Image(build.op("Concat", x.name, new.name, axis=1), x.channels + 4, 6)
    return head(build, x)


def flatten(build: Builder) -> str:
    """LeNet's shape: convolutions, then matrices."""
    x = build.conv(Image("x", 3, 6), 8, 3)
    x = build.conv(Image(build.op("Relu", x.name), 8, 6), 10, 3)
    flat = build.op("Flatten", x.name)
    hidden = build.op("Relu", build.op("Gemm", flat, build.weight(360, 16), build.weight(16)))
    return build.op("Gemm", hidden, build.weight(5, 16), build.weight(5), transB=1)


def inverted_residual(build: Builder) -> str:
    """MobileNetV3's block: expand, depthwise, squeeze and excite, project, add."""
    x = conv_bn(build, Image("x", 3, 6), 8)
    for _ in range(2):
        wide = conv_bn(build, x, 16, 1)
        filters = build.op("Conv", wide.name, build.weight(16, 1, 3, 3), group=16, pads=[1] * 4)
        deep = build.normalised(Image(filters, 16, 6))
        pool = Image(build.op("GlobalAveragePool", deep.name), 16, 1)
        squeezed = build.op("Relu", build.conv(pool, 4, 1).name)
        gate = build.op("HardSigmoid", build.conv(Image(squeezed, 4, 1), 16, 1).name)
        gated = Image(build.op("Mul", deep.name, gate), 16, 6)
        projected = conv_bn(build, gated, 8, 1, act=False)
        x = Image(build.op("Add", x.name, projected.name), 8, 6)
    return head(build, x)


def cross_stage(build: Builder) -> str:
    """Half of the channels bypass the blocks (Wang et al. 2020, CSPNet; the C2f block of later detectors)."""
    x = conv_bn(build, Image("x", 3, 6), 16)
    name = build.op("Split", x.name, build.ints(8, 8), outputs=2, axis=1)
    parts = [Image(name, 8, 6), Image(f"{name}_1", 8, 6)]
    for _ in range(2):
        last = parts[-1]
        inner = conv_bn(build, conv_bn(build, last, 8), 8)
        parts.append(Image(build.op("Add", last.name, inner.name), 8, 6))
    joined = build.op("Concat", *(p.name for p in parts), axis=1)
    return head(build, conv_bn(build, Image(joined, 32, 6), 16, 1))


def head(build: Builder, x: Image) -> str:
    pool = build.op("GlobalAveragePool", x.name)
    return build.op("Gemm", build.op("Flatten", pool), build.weight(5, x.channels), build.weight(5), transB=1)


def built(make: Callable[[Builder], str]) -> ModelProto:
    """The net of a function above; all choices the builder leaves open are the first."""
    build = Builder(lambda n: 0, rng=np.random.default_rng(0))
    return finished(build, [make(build)])


NETS: dict[str, Callable[[], ModelProto | Path]] = {
    "residual": lambda: built(residual),
    "dense": lambda: built(dense),
    "flatten": lambda: built(flatten),
    "inverted_residual": lambda: built(inverted_residual),
    "cross_stage": lambda: built(cross_stage),
    "fashion_resnet20": lambda: ROOT / "models" / "fashion_resnet20.onnx",
}


def analysed(name: str) -> tuple[Model, Dependencies]:
    state, _ = run(State(load(NETS[name]())), parse(BEFORE))
    return state.model, analyse(state.model)


def listing(dependencies: Dependencies, model: Model) -> str:
    """Each group with the weight axes it touches, then the channel axes of weights that stay and why."""
    lines = []
    for group in dependencies.groups:
        axes = (f"{dim}" + (f"*{n}" if (n := group.per_unit(dim)) > 1 else "") for dim in group.weights)
        lines.append(f"{group.name}, {group.size} units: {' '.join(axes)}")
    for pinned in dependencies.pinned:
        if pinned.dim.tensor in model.constants and pinned.dim.axis < 2:
            via = "" if pinned.via == pinned.dim else f" ({pinned.via})"
            lines.append(f"{pinned.dim} stays: {pinned.why}{via}")
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("name", NETS)
def test_groups_are_as_they_were(name: str) -> None:
    model, dependencies = analysed(name)
    found = listing(dependencies, model)
    file = FOLDER / f"{name}.txt"
    if os.environ.get("GOLDEN") == "write":
        file.write_text(found)
    assert found == file.read_text()


@pytest.mark.parametrize("name", NETS)
def test_the_law_holds(name: str) -> None:
    assert_law(analysed(name)[0])


def test_the_spine_of_a_stage_is_one_group() -> None:
    """The stem and the second convolution of both blocks of a stage: 8 channels that live and die together."""
    model, dependencies = analysed("residual")
    filters = {n.inputs[1].name for n in model.graph.nodes if n.op == "Conv"}
    spine = dependencies.groups[0]
    assert spine.size == 8
    assert sum(dim.axis == 0 and dim.tensor in filters for dim in spine.weights) == 3


def test_every_file_has_a_net() -> None:
    assert {file.stem for file in FOLDER.glob("*.txt")} == set(NETS)
