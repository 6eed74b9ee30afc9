"""PyTorch networks with random weights, as both of its exporters write them."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

# Input name → axis → name of the size that stays open.
Open = Mapping[str, Mapping[int, str]]

EXPORTERS = {True: "torch.export", False: "TorchScript"}


def batches(names: Sequence[str]) -> dict[str, dict[int, str]]:
    """Every input's first axis is the batch."""
    return {name: {0: "batch"} for name in names}


def enliven(network: torch.nn.Module, inputs: Sequence[Any], seed: int = 0) -> torch.nn.Module:
    """Give vectors (biases, scales of normalisations) values of their own, and BatchNorms the statistics they see.

    Freshly made networks have zeros and ones there, which would hide what a cut does to them; statistics that fit keep
    activations at a steady size through any depth.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.is_floating_point() and parameter.numel() == max(parameter.shape, default=1):
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
        network.eval()
        norms = [m for m in network.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
        for norm in norms:
            norm.momentum = 1.0
            norm.train()
        if norms:
            network(*inputs)
    return network.eval()


def export(path: Path, network: torch.nn.Module, inputs: Sequence[Any], *, open_sizes: Open, dynamo: bool) -> None:
    """Write `network` to `path`.

    Args:
        path: the ONNX file.
        network: in evaluation mode.
        inputs: tensors to trace with, in the order of `forward`.
        open_sizes: for every input by name, in order, the axes whose size stays symbolic.
        dynamo: whether the newer exporter does it.
    """
    import torch

    names = list(open_sizes)
    options: dict[str, Any] = {"input_names": names, "dynamo": dynamo}
    if dynamo:
        dims = {name: torch.export.Dim(name, min=1, max=4096) for axes in open_sizes.values() for name in axes.values()}
        options["dynamic_shapes"] = tuple({k: dims[n] for k, n in open_sizes[name].items()} for name in names)
        options |= {"external_data": False, "verbose": False}
    else:
        options |= {"dynamic_axes": {name: dict(axes) for name, axes in open_sizes.items() if axes}}
        options |= {"opset_version": 17}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(network, tuple(inputs), path, **options)
