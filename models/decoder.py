"""Language models of `transformers` as decoders with a cache, in the way that `optimum` exports them.

Inputs: `input_ids` and `position_ids` [batch, sequence] and `attention_mask` [batch, past + sequence], int64, and for
every layer `past_key_values.K.key` and `.value`, float32 [batch, key-value heads, past, width]. Outputs: `logits`
[batch, sequence, vocabulary], and `present.K.key` and `.value` [batch, heads, past + sequence, width], to be given back
with the next tokens. All three sizes are open, and `past` may be 0.

PyTorch's TorchScript exporter writes them: it takes seconds where the newer one takes minutes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from models.roster.export import export, taking_tensors

if TYPE_CHECKING:
    import torch

INPUT, OUTPUT = "past_key_values", "present"
TOTAL = "past + sequence"  # a size named as a sum


def build(path: Path, network: Any) -> None:
    """Export a `transformers` causal language model, whose attention is "eager", to `path`."""
    import torch

    config = network.config
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    generator = torch.Generator().manual_seed(0)
    tokens, mask = torch.randint(0, config.vocab_size, (2, 4), generator=generator), torch.ones(2, 7, dtype=torch.int64)
    past = [
        torch.randn((2, config.num_key_value_heads, 3, width), generator=generator)
        for _ in range(2 * config.num_hidden_layers)
    ]
    now = {0: "batch", 1: "sequence"}
    open_sizes = {"input_ids": now, "attention_mask": {0: "batch", 1: TOTAL}, "position_ids": now}
    open_sizes |= {name: {0: "batch", 2: "past"} for name in caches(config.num_hidden_layers, INPUT)}
    outputs = ["logits", *caches(config.num_hidden_layers, OUTPUT)]
    inputs = [tokens, mask, torch.arange(3, 7).expand(2, 4), *past]
    export(path, taking_tensors(network, _step), inputs, open_sizes=open_sizes, dynamo=False, outputs=outputs)


def caches(layers: int, kind: str) -> list[str]:
    """The names of the keys and values of all layers."""
    return [f"{kind}.{k}.{part}" for k in range(layers) for part in ("key", "value")]


def inputs(tokens: np.ndarray, past: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The inputs for tokens, int64 [batch, sequence], behind what is ``past``; nothing is masked."""
    before = next(iter(past.values())).shape[2]
    places = np.broadcast_to(np.arange(before, before + tokens.shape[1]), tokens.shape)
    mask = np.ones((len(tokens), before + tokens.shape[1]), np.int64)
    return {"input_ids": tokens, "attention_mask": mask, "position_ids": places, **past}


def nothing_past(layers: int, batch: int, heads: int, width: int) -> dict[str, np.ndarray]:
    """The caches before the first token, by name."""
    return {name: np.zeros((batch, heads, 0, width), np.float32) for name in caches(layers, INPUT)}


def given_back(outputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The caches that a call returned, under the names of inputs."""
    return {name.replace(OUTPUT, INPUT): x for name, x in outputs.items() if name.startswith(f"{OUTPUT}.")}


def _step(
    network: Any, tokens: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor, *past: torch.Tensor
) -> Sequence[torch.Tensor]:
    """Logits and caches. What may be seen is spelled out, because the library's own way cannot be traced."""
    import torch
    from transformers import DynamicCache

    length, total = tokens.shape[1], mask.shape[1]
    place = torch.arange(total)
    now = place[total - length :]
    seen = (place <= now[:, None]) & (mask[:, None, None] > 0)
    bias = torch.where(seen, 0.0, torch.finfo(torch.float32).min)
    cache = DynamicCache(list(zip(past[::2], past[1::2], strict=True)))
    found = network(tokens, attention_mask=bias, position_ids=positions, past_key_values=cache, use_cache=True)
    return found.logits, *(part for layer in found.past_key_values.layers for part in (layer.keys, layer.values))
