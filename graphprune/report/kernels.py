"""What is said of the kernels of a compiled model: what they compute, how, why, and how much work that is."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from graphprune.compiler.manifest import Kernel
from graphprune.cost import CostModel
from graphprune.coupling import node_name
from graphprune.model import Model


class KernelReport(msgspec.Struct, frozen=True):
    """One call of a compiled program.

    Attributes:
        name: the kernel.
        kind: ``ours``, ``fallback`` or ``scheduled``, as in ``manifest.json``.
        how: the shape of its loops in words, where known.
        nodes: what it computes of the pruned model.
        seconds: median; ``None`` where single kernels could not be timed.
        why: the reason for this kernel, where there was a choice.
        macs: multiply-accumulates of its nodes that meet no zero weight; those of the plain convolution where fewer are
            done (Winograd).
    """

    name: str
    kind: str
    how: str
    nodes: tuple[str, ...]
    seconds: float | None = None
    why: str = ""
    macs: int = 0

    @property
    def gflops(self) -> float | None:
        """Floating-point operations a second, in units of 10⁹; ``None`` where nothing is multiplied or timed."""
        return 2e-9 * self.macs / self.seconds if self.macs and self.seconds else None


class TargetReport(msgspec.Struct, frozen=True):
    """One compiled target: its folder, the largest relative error against onnxruntime, and the compiler's facts.

    ``by`` says what ran it; nothing to run it here leaves no error, and then ``by`` says what it needs. ``peak`` is
    what one thread reaches in registers, in units of 10⁹ floating-point operations a second, where that was measured.
    """

    name: str
    error: float | None
    tolerance: float | None
    seconds: dict[str, float]
    bytes: int
    kernels: dict[str, int]
    by: str = "this machine"
    calls: list[KernelReport] = []
    peak: float | None = None


def kernel_reports(model: Model, kernels: Sequence[Kernel], seconds: np.ndarray | None) -> list[KernelReport]:
    """One report for each kernel of a manifest, with its time where they were timed."""
    macs = _macs(model)
    last = {node: number for number, kernel in enumerate(kernels) for node in kernel.nodes}  # the others prepare
    times = [None] * len(kernels) if seconds is None else seconds.tolist()
    return [
        KernelReport(
            k.name, k.kind, k.how, k.nodes, s, k.why, sum(macs.get(node, 0) for node in k.nodes if last[node] == number)
        )
        for number, (k, s) in enumerate(zip(kernels, times, strict=True))
    ]


def _macs(model: Model) -> dict[str, int]:
    """Multiply-accumulates that meet no zero weight, by name of the node."""
    found = {}
    for position, product in CostModel(model).products().items():
        node = model.graph.nodes[position]
        weights = [model.constants[t.name] for t in node.inputs[1:2] if t.name in model.constants]
        kept = np.count_nonzero(weights[0].values) / max(weights[0].values.size, 1) if weights else 1.0
        found[node_name(node)] = round(product.macs * kept)
    return found
