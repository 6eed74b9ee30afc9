"""Train a small classifier on Fashion-MNIST and export it as ONNX (needs torch)."""

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from models.fashion import debian_split

BATCH = 128


@dataclass(frozen=True)
class Recipe:
    """How a network is trained: a one-cycle learning rate up to `rate`, and weight decay."""

    rate: float = 0.2
    decay: float = 5e-4
    adam: bool = False  # AdamW; else SGD with Nesterov's momentum
    # bfloat16 halves the time of a step on processors that have it; weights and statistics stay float32.
    half: bool = True

    def optimiser(self, network: nn.Module) -> torch.optim.Optimizer:
        """For all parameters of `network`."""
        if self.adam:
            return torch.optim.AdamW(network.parameters(), lr=self.rate, weight_decay=self.decay)
        return torch.optim.SGD(network.parameters(), lr=self.rate, momentum=0.9, weight_decay=self.decay, nesterov=True)


def augment(images: torch.Tensor) -> torch.Tensor:
    """Shift each image by up to two pixels and mirror half of them."""
    count = len(images)
    windows = functional.pad(images, (2, 2, 2, 2)).unfold(2, 28, 1).unfold(3, 28, 1)
    rows, columns = torch.randint(0, 5, (2, count)).to(images.device)
    shifted = windows[torch.arange(count, device=images.device), :, rows, columns]
    mirror = torch.rand(count, 1, 1, 1).to(images.device) < 0.5
    return torch.where(mirror, shifted.flip(3), shifted)


def train(network: nn.Module, epochs: int, recipe: Recipe, device: str = "cpu") -> float:
    """Train on `device`, where the network then is; return the accuracy on the 10,000 test images."""
    train_images, train_labels = (torch.from_numpy(array).to(device) for array in debian_split("train"))
    test_images, test_labels = (torch.from_numpy(array).to(device) for array in debian_split("t10k"))
    network.to(device, memory_format=torch.channels_last)
    optimiser = recipe.optimiser(network)
    steps = len(train_labels) // BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, recipe.rate, total_steps=epochs * steps, pct_start=0.25)
    for epoch in range(epochs):
        started, total = time.perf_counter(), torch.zeros((), device=device)
        network.train()
        for indices in torch.randperm(len(train_labels)).to(device)[: steps * BATCH].view(steps, BATCH):
            images = augment(train_images[indices, None].float() / 255)
            with torch.autocast(device, torch.bfloat16, enabled=recipe.half and device == "cpu"):
                logits = network(images.contiguous(memory_format=torch.channels_last))
            loss = functional.cross_entropy(logits.float(), train_labels[indices].long())
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            total += loss.detach()
        right = accuracy(network, test_images, test_labels)
        seconds = time.perf_counter() - started
        print(f"epoch {epoch + 1}/{epochs}  loss {total / steps:.4f}  test {right:.2%}  {seconds:.0f} s", flush=True)
    return right


@torch.no_grad()
def accuracy(network: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    """Share of images whose highest logit is the label, in float32."""
    network.eval()
    guesses = [network(batch[:, None].float() / 255).argmax(1) for batch in images.split(500)]
    return (torch.cat(guesses) == labels).double().mean().item()


def export(network: nn.Module, path: Path) -> None:
    """Write `network` as ONNX with its BatchNorm nodes and their statistics kept."""
    network.eval().to("cpu", memory_format=torch.contiguous_format)
    torch.onnx.export(
        network,
        (torch.zeros(1, 1, 28, 28),),
        path,
        input_names=["image"],
        output_names=["logits"],
        dynamic_axes={"image": {0: "batch"}, "logits": {0: "batch"}},
        opset_version=17,
        # The default mode folds BatchNorm into the convolutions, and with it go the statistics pruning can use.
        training=torch.onnx.TrainingMode.PRESERVE,
        do_constant_folding=False,
        dynamo=False,
    )


def main(make: Callable[[], nn.Module], path: Path, epochs: int, recipe: Recipe = Recipe()) -> None:
    """Command line that the model files share: train `make()` and export it to `path`."""
    parser = argparse.ArgumentParser(description=f"Train and export {path.name}.")
    parser.add_argument("--epochs", type=int, default=epochs)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--out", type=Path, default=path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    torch.use_deterministic_algorithms(True)
    network = make()
    weights = sum(int(np.prod(tensor.shape)) for tensor in network.parameters())
    print(f"{path.stem}: {weights:,} parameters", flush=True)
    train(network, options.epochs, recipe, options.device)
    export(network, options.out)
