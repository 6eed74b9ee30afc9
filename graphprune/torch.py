"""Apply a plan to a PyTorch module: ``graphprune.torch.apply(module, plan)``. Needs the extra ``torch``.

The module that was exported shrinks in place: its parameters, buffers, and the attributes of its layers. It can be
trained as before, and computes what the plainly pruned ONNX file computes.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from graphprune.errors import OutputError, UsageError
from graphprune.model import Model, load
from graphprune.output import claim_file, new_files
from graphprune.plan import Plan, read, transfer

_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_HEADS = ("num_heads", "num_attention_heads", "n_heads", "n_head", "nhead", "heads")
_WIDTHS = ("head_dim", "attention_head_size", "head_size", "d_head", "dim_head")
_TOTALS = ("all_head_size", "inner_dim")
_QUERY, _VALUE = (re.compile(rf"^(to_|w)?({names})(_proj|_lin|_linear)?$") for names in ("qkv|q|query", "v|value"))

Source = str | os.PathLike[str] | Model | None


def apply(
    module: nn.Module,
    plan: Plan | str | os.PathLike[str],
    *,
    original: Source = None,
    optimizer: torch.optim.Optimizer | None = None,
) -> nn.Module:
    """Shrink a module in place by a plan that was made for its export.

    Args:
        module: as exported; on any device, of any floating-point type.
        plan: or the path of one.
        original: the exported ONNX file; needed where the exporter renamed, transposed or folded weights.
        optimizer: whose state (momenta) is to shrink along; its references stay valid in any case.

    Returns:
        The same module.

    Raises:
        UsageError: the plan does not fit; the module is as it was.
    """
    tensors = module.state_dict(keep_vars=True)
    transposed = [f"{n}.weight".lstrip(".") for n, m in module.named_modules() if isinstance(m, _TRANSPOSED)]
    arrays = {name: _array(tensor) for name, tensor in tensors.items()}
    kept = transfer.match(_plan(plan), arrays, _model(original, plan), transposed)
    changes = [change for name, part in module.named_modules() for change in _attributes(part, name, kept, arrays)]
    done: set[int] = set()
    with torch.no_grad():
        for name, axes in kept.items():
            tensor = tensors[name]
            if id(tensor) in done:  # one parameter with two names
                continue
            done.add(id(tensor))
            state = optimizer.state.get(tensor, {}) if optimizer else {}
            for key, value in state.items():
                if isinstance(value, Tensor) and value.shape == tensor.shape:
                    state[key] = _sliced(value, axes)
            if tensor.grad is not None:
                grad, tensor.grad = _sliced(tensor.grad, axes), None
                tensor.data = _sliced(tensor.data, axes)
                tensor.grad = grad
            else:
                tensor.data = _sliced(tensor.data, axes)
    for part, attribute, value in changes:
        setattr(part, attribute, value)
    return module


def apply_state_dict(
    state: Mapping[str, Tensor], plan: Plan | str | os.PathLike[str], *, original: Source = None
) -> dict[str, Tensor]:
    """What a plan leaves of a state dict, which is not changed; arguments and errors are those of ``apply``."""
    kept = transfer.match(_plan(plan), {n: _array(t) for n, t in state.items()}, _model(original, plan))
    return {name: _sliced(tensor, kept.get(name, {})) for name, tensor in state.items()}


def apply_file(
    weights: Path, plan: Plan | str | os.PathLike[str], output: Path, *, original: Source = None, force: bool = False
) -> None:
    """What a plan leaves of a safetensors file, as another one with the same metadata.

    Raises:
        OutputError: ``output`` exists or cannot be written.
        UsageError: ``weights`` is no safetensors file, or as for ``apply``.
    """
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import save_file

    claim_file(output, force, weights)
    try:
        with safe_open(weights, "pt") as file:
            state, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise UsageError(f"{weights} cannot be read as safetensors: {error}", "safetensors.torch.save_file") from error
    smaller = {n: t.contiguous() for n, t in apply_state_dict(state, plan, original=original).items()}
    try:
        with new_files(output) as folder:
            save_file(smaller, folder / output.name, metadata)
    except SafetensorError as error:
        raise OutputError(f"cannot write {output}: {error}", "choose another place with -o") from error


def _plan(plan: Plan | str | os.PathLike[str]) -> Plan:
    return plan if isinstance(plan, Plan) else read(Path(plan))


def _model(original: Source, plan: Plan | str | os.PathLike[str]) -> Model | None:
    if original is None or isinstance(original, Model):
        return original
    return load(original, input_shapes=_plan(plan).input_shapes)


def _array(tensor: Tensor) -> np.ndarray:
    tensor = tensor.detach().cpu()
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()


def _sliced(tensor: Tensor, axes: Mapping[int, np.ndarray]) -> Tensor:
    for axis, positions in axes.items():
        tensor = tensor.index_select(axis, torch.from_numpy(positions).to(tensor.device))
    return tensor


# ---------------------------------------------------------------------------------------------------------- attributes

Change = tuple[nn.Module, str, Any]


def _attributes(module: nn.Module, name: str, kept: transfer.Kept, arrays: transfer.Arrays) -> list[Change]:
    """The attributes of one module that follow from what its weights lose; nothing is changed yet."""
    prefix = f"{name}." if name else ""
    changes = _heads(module, prefix, kept, arrays)
    cut = {n: axes for n, axes in kept.items() if n.startswith(prefix) and "." not in n.removeprefix(prefix)}
    if isinstance(module, nn.MultiheadAttention):
        if any(n.startswith(prefix) for n in kept):
            raise UsageError(
                f"{name}: nn.MultiheadAttention cannot have other widths than its embedding",
                "leave it out by --exclude",
            )
        return []
    if isinstance(module, nn.RNNBase) and cut:
        raise UsageError(f"{name}: recurrent layers are not cut here", "leave them out with --exclude")
    if not cut or f"{prefix}weight" not in arrays:
        return changes
    old = arrays[f"{prefix}weight"].shape
    axes = kept.get(f"{prefix}weight", {})
    new = [len(axes[k]) if k in axes else size for k, size in enumerate(old)]
    if isinstance(module, nn.Linear):
        changes += [(module, "out_features", new[0]), (module, "in_features", new[1])]
    elif isinstance(module, nn.modules.conv._ConvNd):
        groups = _groups(module.groups, old[0], axes.get(0), name)
        first, second = new[0], new[1] * groups
        into, out = (first, second) if isinstance(module, _TRANSPOSED) else (second, first)
        changes += [(module, "groups", groups), (module, "in_channels", into), (module, "out_channels", out)]
    elif isinstance(module, nn.modules.batchnorm._NormBase):
        changes += [(module, "num_features", new[0])]
    elif isinstance(module, nn.GroupNorm):
        groups = _groups(module.num_groups, old[0], axes.get(0), name)
        changes += [(module, "num_channels", new[0]), (module, "num_groups", groups)]
    elif isinstance(module, (nn.LayerNorm, nn.RMSNorm)):
        raise UsageError(
            f"{name}: the pruned graph counts what is gone in its statistics as zeros, which this module cannot",
            f"leave its width out with --exclude '{name}'",
        )
    elif isinstance(module, nn.Embedding):
        changes += [(module, "num_embeddings", new[0]), (module, "embedding_dim", new[1])]
    elif isinstance(module, nn.PReLU):
        changes += [(module, "num_parameters", new[0])]
    return changes


def _groups(groups: int, size: int, kept: np.ndarray | None, name: str) -> int:
    """How many groups are left, each as wide as the others."""
    if groups == 1 or kept is None:
        return groups
    left = np.unique(kept // (size // groups), return_counts=True)[1]
    if len(set(left.tolist())) > 1:
        raise UsageError(f"{name}: its groups would differ in width", "take whole groups, or the same from each")
    return len(left)


def _heads(module: nn.Module, prefix: str, kept: transfer.Kept, arrays: transfer.Arrays) -> list[Change]:
    """How many heads of which width an attention module has left, where it keeps count of that."""
    count = next((a for a in _HEADS if isinstance(getattr(module, a, None), int)), None)
    linear = [n for n, m in module.named_children() if isinstance(m, nn.Linear)]
    query, value = (next(filter(kind.match, linear), None) for kind in (_QUERY, _VALUE))
    axes, values = (kept.get(f"{prefix}{n}.weight", {}) for n in (query, value))
    if count is not None and value and len(axes.get(0, ())) != len(values.get(0, ())):
        raise UsageError(
            f"{prefix.rstrip('.')}: the plan gives queries and values other widths, and this module knows one",
            f"leave it out with --exclude '{value}'",
        )
    if count is None or query is None or 0 not in axes:
        return []
    heads = getattr(module, count)
    size = len(arrays[f"{prefix}{query}.weight"]) // (3 if "qkv" in query else 1)
    width = size // heads
    positions = axes[0][axes[0] < size]
    left = _groups(heads, size, positions, prefix.rstrip("."))
    changes: list[Change] = [(module, count, left)]
    changes += [(module, a, len(positions) // left) for a in _WIDTHS if getattr(module, a, None) == width]
    return changes + [(module, a, len(positions)) for a in _TOTALS if getattr(module, a, None) == size]
