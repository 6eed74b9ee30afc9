"""PyTorch networks with random weights, as both of its exporters write them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
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


def taking_tensors(network: torch.nn.Module, call: Callable[..., Any]) -> torch.nn.Module:
    """`network` as a module of tensors in, tensors out: `call(network, *tensors)`."""
    import torch

    class TakingTensors(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, *tensors: torch.Tensor) -> Any:
            return call(self.network, *tensors)

    return TakingTensors()


def enliven(network: torch.nn.Module, inputs: Sequence[torch.Tensor], seed: int = 0) -> None:
    """Give constant parameters values of their own, and BatchNorms the statistics they see; then switch to evaluation.

    Freshly made networks have zeros and ones in biases, scales of normalisations and some last layers, which would hide
    what a cut does to them; statistics that fit keep activations at a steady size through any depth.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.is_floating_point() and parameter.numel() > 1 and parameter.min() == parameter.max():
                width = parameter.shape[-1] if parameter.ndim > 1 and parameter.numel() > max(parameter.shape) else 100
                parameter += torch.randn(parameter.shape, generator=generator) / width**0.5
        network.eval()
        norms = [m for m in network.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
        for norm in norms:
            norm.momentum = 1.0
            norm.train()
        if norms:  # of more than one item: a single value has no spread
            network(*(torch.randn(4, *x.shape[1:]) if x.is_floating_point() else x for x in inputs))
    network.eval()


def export(
    path: Path,
    network: torch.nn.Module,
    inputs: Sequence[Any],
    *,
    open_sizes: Open,
    dynamo: bool,
    outputs: Sequence[str] | None = None,
) -> None:
    """Write `network` to `path`.

    Args:
        path: the ONNX file.
        network: what `taking_tensors` made.
        inputs: tensors to trace with, in the order of `forward`.
        open_sizes: for every input by name, in order, the axes whose size stays symbolic.
        dynamo: whether the newer exporter does it.
        outputs: names to give the outputs.
    """
    import torch

    names = list(open_sizes)
    options: dict[str, Any] = {"input_names": names, "output_names": outputs, "dynamo": dynamo}
    if dynamo:
        auto = torch.export.Dim.DYNAMIC
        options["dynamic_shapes"] = (tuple(dict.fromkeys(axes, auto) for axes in open_sizes.values()),)
        options |= {"external_data": False, "verbose": False}
    else:
        options |= {"dynamic_axes": {name: dict(axes) for name, axes in open_sizes.items() if axes}}
        options |= {"opset_version": 17}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(network, tuple(inputs), str(path), **options)  # a name, for files beside it above 2 GB
