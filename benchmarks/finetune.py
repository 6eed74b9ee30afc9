"""From the pruned ONNX file back to PyTorch: `python -m benchmarks.finetune [MODEL ...]`.

The three roads of structured pruning at any time (SPA, Wang et al. 2024), for networks this repository trained:

* after training, without fine-tuning: what `graphprune prune` writes;
* after training, with fine-tuning: the same plan on the PyTorch module, which computes what the plainly pruned file
  computes, and one more epoch of the training set;
* before training (`--before-training`): the plan is made on the untrained network's export, and what it leaves is
  trained as the dense network was. That takes hours on a processor, minutes with `--device cuda`.

Accuracy is on the 10,000 test images of Debian's `dataset-fashion-mnist`, which neither pruning nor training sees.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Annotated

import numpy as np
import onnx
import onnxruntime as ort
import torch
import typer
from torch import nn

import graphprune
import graphprune.torch
from graphprune.api import Result
from graphprune.plan import Plan, plain
from models import find
from models.fashion_train import Recipe, accuracy, debian_split, export, train
from models.zoo import onnxruntime_run


@dataclass(frozen=True)
class Network:
    """How a network is made and trained, and how it is fine-tuned."""

    make: Callable[[], nn.Module]
    epochs: int
    recipe: Recipe
    fine_tuning: Recipe


def networks() -> dict[str, Network]:
    """By the name of the model."""
    resnet, vit = import_module("models.fashion_resnet20"), import_module("models.fashion_vit")
    return {
        "fashion_resnet20": Network(resnet.resnet20, 18, Recipe(), Recipe(rate=0.02)),
        "fashion_vit": Network(vit.vit, 40, vit.RECIPE, Recipe(rate=5e-4, decay=0.05, adam=True)),
    }


def main(
    names: Annotated[list[str] | None, typer.Argument(help="Models; all by default.")] = None,
    target_macs: Annotated[float, typer.Option(help="Share of the multiply-accumulates to keep.")] = 0.5,
    round_to: Annotated[int, typer.Option(help="Widths are multiples of this.")] = 8,
    epochs: Annotated[int, typer.Option(help="Of fine-tuning.")] = 1,
    before_training: Annotated[bool, typer.Option("--before-training", help="The third road as well.")] = False,
    device: Annotated[str, typer.Option(help="To train on: cpu or cuda.")] = "cpu",
    threads: Annotated[int, typer.Option(help="Of PyTorch.")] = 1,
    seed: Annotated[int, typer.Option(help="Of the order and augmentation of the images, and of weights.")] = 0,
) -> None:
    """Print what each road is worth."""
    torch.set_num_threads(threads)
    for name in names or list(networks()):
        table(name, networks()[name], target_macs, round_to, epochs, before_training, device, seed)


def table(
    name: str,
    network: Network,
    target: float,
    round_to: int,
    epochs: int,
    before_training: bool,
    device: str,
    seed: int,
) -> None:
    """Prune one network and print its accuracy on every road."""
    model = find(name)
    images, labels = map(torch.from_numpy, debian_split("t10k"))
    print(f"\n{name + ', 10,000 test images':44}{'MACs':>8}{'parameters':>12}{'accuracy':>10}", flush=True)

    def row(what: str, small: Result | None, score: float) -> None:
        macs, parameters = (small.report.kept.macs, small.report.kept.parameters) if small else (1, 1)
        print(f"{what:44}{macs:>8.1%}{parameters:>12.1%}{score:>10.2%}", flush=True)

    module = load_weights(network.make(), model.path)
    row("dense", None, accuracy(module, images, labels))
    pruned = graphprune.prune(model.path, target_macs=target, round_to=round_to)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pruned.onnx"
        pruned.save(path)
        score = model.evaluate(onnxruntime_run(path), model.items("test"))[0].accuracy
    row("after training, not fine-tuned: the file", pruned, score)
    graphprune.torch.apply(module, pruned.plan, original=model.path)
    row("the plan on the module, not refitted", pruned, accuracy(module, images, labels))
    apart = difference(module, model.path, pruned.plan, images[:500])
    print(f"  (from the plainly pruned file: {apart:.1e} of the largest output, over 500 images)", flush=True)
    torch.manual_seed(seed)
    row(f"after training, fine-tuned: epochs {epochs}", pruned, train(module, epochs, network.fine_tuning, device))
    if before_training:
        torch.manual_seed(seed)
        fresh = network.make()
        with tempfile.TemporaryDirectory() as folder:
            untrained = Path(folder) / f"{name}.onnx"
            export(copy.deepcopy(fresh), untrained)
            small = graphprune.prune(untrained, target_macs=target, round_to=round_to)
            graphprune.torch.apply(fresh, small.plan, original=untrained)
        row(f"before training: epochs {network.epochs}", small, train(fresh, network.epochs, network.recipe, device))


def load_weights(module: nn.Module, path: Path) -> nn.Module:
    """Put the weights of an export back into the module it is of; what the exporter stored once goes everywhere."""
    proto = onnx.load(path)
    arrays = {t.name: onnx.numpy_helper.to_array(t) for t in proto.graph.initializer}
    for node in proto.graph.node:
        if node.op_type == "Identity" and node.input[0] in arrays:
            arrays[node.output[0]] = arrays[node.input[0]]
    state = {name: torch.from_numpy(arrays[name].copy()) for name in module.state_dict() if name in arrays}
    lacking = module.load_state_dict(state, strict=False).missing_keys
    if any(not name.endswith("num_batches_tracked") for name in lacking):
        raise ValueError(f"{path} lacks {', '.join(lacking)}")
    return module.eval()


@torch.no_grad()
def difference(module: nn.Module, original: Path, plan: Plan, images: torch.Tensor) -> float:
    """Largest difference between a module that a plan was applied to and the file the plan makes without refits."""
    inputs = images[:, None].float() / 255
    proto = graphprune.prune(original, plan=plain(plan)).model.proto()
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    expected = session.run(None, {"image": inputs.numpy()})[0]
    return float(np.abs(module(inputs).numpy() - expected).max() / np.abs(expected).max())


if __name__ == "__main__":
    typer.run(main)
