"""Perplexity of made-up predictions."""

from __future__ import annotations

import numpy as np
import pytest

from models.smollm2 import jargon, perplexity, whole


def test_perplexity_is_that_of_the_next_tokens_whatever_the_length_of_a_window() -> None:
    rng = np.random.default_rng(0)
    table = rng.standard_normal((7, 7))  # logits of the next token, given only the last

    for length in (5, 256, 257, 600):
        windows = rng.integers(0, 7, (2, length))
        (found,) = perplexity(lambda inputs: table[inputs["input_ids"]], windows)
        before, after = windows[:, :-1].reshape(-1), windows[:, 1:].reshape(-1)
        likely = table[before, after] - np.log(np.exp(table).sum(axis=1))[before]
        assert found.count == 2 * (length - 1)
        assert found.perplexity == pytest.approx(np.exp(-likely.mean()))
        assert found.accuracy == pytest.approx((table.argmax(axis=1)[before] == after).mean())


def test_both_ways_of_reading_the_text_are_of_the_same_tokens() -> None:
    assert jargon().shape == (8, 256)
    assert whole().shape == (1, 2048)
    assert np.array_equal(whole().reshape(-1), jargon().reshape(-1))
