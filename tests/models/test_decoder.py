"""A decoder with a cache: exported, pruned, and run with and without what is past, at any size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest

import graphprune
from models import decoder

pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

SIZES = {"sequence": 5, "past": 3}
AMOUNT = {"preset": "magnitude", "ratio": 0.5, "round_to": 1}
LAYERS, HEADS, WIDTH = 2, 2, 16


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small Llama with grouped queries and random weights."""
    import torch

    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=96,
        hidden_size=64,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=HEADS,
        intermediate_size=128,
        initializer_range=0.1,
        attn_implementation="eager",
    )
    result = tmp_path_factory.mktemp("decoder") / "llama.onnx"
    decoder.build(result, transformers.LlamaForCausalLM(config).eval())
    return result


def test_pruned_decoders_run_with_and_without_past_at_any_size(path: Path, tmp_path: Path) -> None:
    result = graphprune.prune(path, dim_params=SIZES, **AMOUNT)
    assert result.report.after.parameters < 0.4 * result.report.before.parameters
    result.save(tmp_path / "small.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "small.onnx")
    names = [output.name for output in session.get_outputs()]
    rng = np.random.default_rng(0)
    for batch, length, first in [(1, 1, 0), (3, 9, 4), (2, 7, 6)]:
        tokens = rng.integers(0, 96, (batch, length))
        past = decoder.nothing_past(LAYERS, batch, HEADS, WIDTH)
        whole = session.run(names, decoder.inputs(tokens, past))[0]
        parts = []
        for part in filter(np.size, np.split(tokens, [first], axis=1)):
            outputs = dict(zip(names, session.run(names, decoder.inputs(part, past)), strict=True))
            parts.append(outputs["logits"])
            past = decoder.given_back(outputs)
        np.testing.assert_allclose(np.concatenate(parts, axis=1), whole, rtol=1e-4, atol=1e-5)
        assert past["past_key_values.0.key"].shape == (batch, HEADS, length, WIDTH)


@pytest.mark.slow
def test_a_pruned_decoder_compiles_for_one_token_behind_others(path: Path, tmp_path: Path) -> None:
    sizes = {"sequence": 1, "past": 7}
    result = graphprune.compile(path, tmp_path / "compiled", dim_params=sizes, timing_seconds=0, **AMOUNT)
    assert result.report.targets[0].error <= 1e-4
