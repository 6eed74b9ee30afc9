"""Apply a plan to a PyTorch module: ``graphprune.torch.apply(module, plan)``. Needs the extra ``torch``.

The module that was exported shrinks in place: its parameters, buffers, and the attributes of its layers. It can be
trained as before, and computes what the plainly pruned ONNX file computes.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from graphprune.errors import OutputError, UsageError
from graphprune.output import claim_file, new_files
from graphprune.plan import Plan, transfer

_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_HEADS = ("num_heads", "num_attention_heads", "n_heads", "n_head", "nhead", "heads")
_WIDTHS = ("head_dim", "attention_head_size", "head_size", "d_head", "dim_head")
_TOTALS = ("all_head_size", "inner_dim")
_QUERY, _VALUE = (re.compile(rf"^(to_|w)?({names})(_proj|_lin|_linear)?$") for names in ("qkv|q|query", "v|value"))


def apply(
    module: nn.Module,
    plan: Plan | str | os.PathLike[str],
    *,
    original: transfer.Source = None,
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
    plan = transfer.planned(plan)
    kept = transfer.match(plan, arrays, transfer.exported(original, plan), transposed)
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
        if isinstance(part, nn.RNNBase):
            part.flatten_parameters()  # one block of memory, which CUDA wants
    return module


def apply_state_dict(
    state: Mapping[str, Tensor], plan: Plan | str | os.PathLike[str], *, original: transfer.Source = None
) -> dict[str, Tensor]:
    """What a plan leaves of a state dict, which is not changed; arguments and errors are those of ``apply``."""
    plan = transfer.planned(plan)
    kept = transfer.match(plan, {n: _array(t) for n, t in state.items()}, transfer.exported(original, plan))
    return {name: _sliced(tensor, kept.get(name, {})) for name, tensor in state.items()}


def apply_file(
    weights: Path,
    plan: Plan | str | os.PathLike[str],
    output: Path,
    *,
    original: transfer.Source = None,
    force: bool = False,
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
        return _attention(module, prefix, kept, arrays)
    if isinstance(module, nn.TransformerEncoder) and any(n.startswith(prefix) for n in kept):
        return [(module, "use_nested_tensor", False)]  # a short cut for layers as they were made
    if isinstance(module, nn.RNNBase):
        return _recurrent(module, prefix, cut, arrays)
    if not cut or f"{prefix}weight" not in arrays:
        return changes
    old = arrays[f"{prefix}weight"].shape
    axes = kept.get(f"{prefix}weight", {})
    new = [len(axes[k]) if k in axes else size for k, size in enumerate(old)]
    if isinstance(module, nn.Linear):
        changes += [(module, "out_features", new[0]), (module, "in_features", new[1])]
    elif isinstance(module, nn.modules.conv._ConvNd):
        groups = transfer.groups_left(module.groups, old[0], axes.get(0), name)
        first, second = new[0], new[1] * groups
        into, out = (first, second) if isinstance(module, _TRANSPOSED) else (second, first)
        changes += [(module, "groups", groups), (module, "in_channels", into), (module, "out_channels", out)]
    elif isinstance(module, nn.modules.batchnorm._NormBase):
        changes += [(module, "num_features", new[0])]
    elif isinstance(module, nn.GroupNorm):
        groups = transfer.groups_left(module.num_groups, old[0], axes.get(0), name)
        changes += [(module, "num_channels", new[0]), (module, "num_groups", groups)]
    elif isinstance(module, nn.RMSNorm):
        raise UsageError(
            f"{name}: the pruned graph counts what is gone in its statistics as zeros, which this module cannot",
            f"leave its width out with --exclude '{name}'",
        )
    elif isinstance(module, nn.LayerNorm):
        if len(old) > 1:
            raise UsageError(f"{name}: a LayerNorm over several axes is not cut here", "leave it out with --exclude")
        width = module.width if isinstance(module, LayerNorm) else old[0]
        changes += [(module, "__class__", LayerNorm), (module, "width", width)]
        changes += [(module, "normalized_shape", tuple(new))]
    elif isinstance(module, nn.Embedding):
        changes += [(module, "num_embeddings", new[0]), (module, "embedding_dim", new[1])]
    elif isinstance(module, nn.PReLU):
        changes += [(module, "num_parameters", new[0])]
    return changes


def _attention(
    module: nn.MultiheadAttention, prefix: str, kept: transfer.Kept, arrays: transfer.Arrays
) -> list[Change]:
    """What makes an ``nn.MultiheadAttention`` one whose heads are fewer or narrower than its embedding has room for."""
    name = prefix.rstrip(".")
    if not any(n.startswith(prefix) for n in kept):
        return []
    if module.in_proj_weight is None or module.bias_k is not None or module.add_zero_attn:
        raise UsageError(
            f"{name}: an nn.MultiheadAttention with kdim, vdim, add_bias_kv or add_zero_attn is not cut here",
            "leave it out with --exclude",
        )
    axes = kept.get(f"{prefix}in_proj_weight", {})
    size = len(arrays[f"{prefix}in_proj_weight"]) // 3
    rows = axes.get(0, np.arange(3 * size))
    parts = [rows[rows // size == part] % size for part in range(3)]
    heads = {transfer.groups_left(module.num_heads, size, part, name) for part in parts}
    if len(heads) > 1 or not np.array_equal(parts[0], parts[1]):
        raise UsageError(f"{name}: the plan leaves queries, keys and values different heads", "take the same from each")
    embedding = len(axes[1]) if 1 in axes else module.embed_dim
    return [
        (module, "__class__", MultiheadAttention),
        (module, "embed_dim", embedding),
        (module, "num_heads", heads.pop()),
        (module, "widths", [len(part) for part in parts]),
        (module, "_qkv_same_embed_dim", False),  # keeps nn.TransformerEncoderLayer off its short cut
    ]


class LayerNorm(nn.LayerNorm):
    """What ``apply`` makes of an ``nn.LayerNorm``: positions that are gone are zeros, and count in mean and variance.

    Attributes:
        width: how many positions there were.
    """

    width: int

    def forward(self, input: Tensor) -> Tensor:
        """As ``nn.LayerNorm`` on the last axis."""
        mean = input.sum(-1, keepdim=True) / self.width
        apart = input - mean
        gone = self.width - input.shape[-1]
        variance = (apart.square().sum(-1, keepdim=True) + gone * mean.square()) / self.width
        normal = apart * (variance + self.eps).rsqrt() * self.weight
        return normal if self.bias is None else normal + self.bias


class MultiheadAttention(nn.MultiheadAttention):
    """What ``apply`` makes of an ``nn.MultiheadAttention``: the same, with heads that do not fill the embedding.

    Attributes:
        widths: of queries, keys and values, all heads together.
    """

    widths: list[int]

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """As ``nn.MultiheadAttention``; masks for single heads are for the heads that are left."""
        batched, heads = query.dim() == 3, self.num_heads
        given = [query, key, value]
        if not batched:
            given = [x[None] for x in given]
        elif not self.batch_first:
            given = [x.transpose(0, 1) for x in given]
        biases = [None] * 3 if self.in_proj_bias is None else self.in_proj_bias.split(self.widths)
        weights = self.in_proj_weight.split(self.widths)
        q, k, v = (
            functional.linear(x, w, b).unflatten(2, (heads, -1)).transpose(1, 2)
            for x, w, b in zip(given, weights, biases, strict=True)
        )
        scores = q @ k.transpose(2, 3) / math.sqrt(self.head_dim)  # of the heads that were trained
        if attn_mask is not None:
            mask = attn_mask if attn_mask.dim() == 2 else attn_mask.view(-1, heads, *attn_mask.shape[1:])
            scores = _masked(scores, mask)
        if key_padding_mask is not None:
            scores = _masked(scores, key_padding_mask.view(-1, 1, 1, key_padding_mask.shape[-1]))
        attention = functional.dropout(scores.softmax(-1), self.dropout, self.training)
        output = self.out_proj((attention @ v).transpose(1, 2).flatten(2))
        shown = (attention.mean(1) if average_attn_weights else attention) if need_weights else None
        if not batched:
            return output[0], None if shown is None else shown[0]
        return output if self.batch_first else output.transpose(0, 1), shown


def _masked(scores: Tensor, mask: Tensor) -> Tensor:
    return scores.masked_fill(mask, -math.inf) if mask.dtype == torch.bool else scores + mask


def _recurrent(module: nn.RNNBase, prefix: str, cut: transfer.Kept, arrays: transfer.Arrays) -> list[Change]:
    """The sizes of a recurrent module, all of whose layers have one width."""
    if not cut:
        return []
    name = prefix.rstrip(".")
    if module.proj_size:
        raise UsageError(f"{name}: recurrent layers with a projection are not cut here", "leave it out with --exclude")
    layers = [n for n in arrays if n.startswith(f"{prefix}weight_hh_l")]
    widths = {len(cut.get(n, {}).get(1, np.arange(module.hidden_size))) for n in layers}
    if len(widths) > 1:
        raise UsageError(
            f"{name}: the plan gives its layers {sorted(widths)} units, and one module has one width for all",
            "prune with --ratio, which takes the same share of every layer, or leave it out with --exclude",
        )
    inputs = cut.get(f"{prefix}weight_ih_l0", {}).get(1)
    return [
        (module, "hidden_size", widths.pop()),
        *([(module, "input_size", len(inputs))] if inputs is not None else []),
    ]


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
    left = transfer.groups_left(heads, size, positions, prefix.rstrip("."))
    changes: list[Change] = [(module, count, left)]
    changes += [(module, a, len(positions) // left) for a in _WIDTHS if getattr(module, a, None) == width]
    return changes + [(module, a, len(positions)) for a in _TOTALS if getattr(module, a, None) == size]
