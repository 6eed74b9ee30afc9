"""What models that read words are calibrated on: which inputs are tokens, masks and positions, and what they write."""

import numpy as np
import pytest

from graphprune.calibration import calibrate
from graphprune.calibration.activations import assorted
from graphprune.calibration.tokens import SWEEPS, drawn, enough, inputs_for, reader, sequences, writer
from graphprune.errors import UsageError
from graphprune.model import Model, load
from graphprune.proof import Runner
from tests.law import net

WORDS, WIDTH = 12, 8


def language_model(*, causal: bool = True, positions: bool = False) -> Model:
    """Sums what has been read so far, and predicts the next word of it; the mask hides words."""
    rng = np.random.default_rng(0)
    matrix = np.tril(np.ones((6, 6))) if causal else np.ones((6, 6))
    weights = {
        "embedding": rng.standard_normal((WORDS, WIDTH)),
        "mixing": matrix / 6,
        "head": 3 * rng.standard_normal((WIDTH, WORDS)),
    }
    place, more = "e = Identity(w)", ""
    if positions:
        place, more = "p = Gather(table, position_ids) e = Add(w, p)", ", int64[N,6] position_ids"
        weights["table"] = rng.standard_normal((9, WIDTH))
    body = f"""
        w = Gather(embedding, ids)
        {place}
        m = Cast<to=1>(mask)
        axes = Constant<value_ints=[2]>()
        u = Unsqueeze(m, axes)
        h = Mul(e, u)
        s = MatMul(mixing, h)
        y = MatMul(s, head)
    """
    small = {name: value.astype(np.float32) for name, value in weights.items()}
    return load(net(body, inputs=f"int64[N,6] ids, int64[N,6] mask{more}", **small))


def test_the_input_that_looks_rows_up_holds_tokens_and_the_output_over_them_predicts_the_next() -> None:
    model = language_model()
    found = writer(model, reader(model))
    assert (found.ids, found.vocabulary, found.length, found.logits) == ("ids", WORDS, 6, "y")
    assert str(found) == "'ids' holds tokens of a vocabulary of 12; 'y' predicts the next token"


def test_an_output_that_sees_later_tokens_predicts_nothing() -> None:
    model = language_model(causal=False)
    assert writer(model, reader(model)).logits is None


def test_a_model_that_writes_is_shown_text_of_its_own_and_any_other_words_of_its_vocabulary() -> None:
    for causal in (True, False):
        model = language_model(causal=causal)
        read = writer(model, reader(model))
        wanted = sequences(model, read, 5, 3)
        made = assorted(model, 5, 3, (-2.0, 2.0))
        assert np.array_equal(made["ids"], wanted["ids"])
        assert np.array_equal(made["ids"], drawn(read, 5, 3)) != causal


def test_masks_hide_nothing_and_positions_count() -> None:
    model = language_model(positions=True)
    read = reader(model)
    assert read.ids == "ids"
    made = inputs_for(model, read, np.zeros((3, 6), np.int64))
    assert made["mask"].tolist() == [[1] * 6] * 3
    assert made["position_ids"].tolist() == [list(range(6))] * 3
    assert {x.dtype for x in made.values()} == {np.dtype(np.int64)}


def test_the_first_tokens_written_are_those_of_writing_one_after_the_other() -> None:
    model = language_model()
    read = writer(model, reader(model))
    written = sequences(model, read, 4, seed=3)["ids"]
    noise = np.random.default_rng([3, 1, 0]).gumbel(size=(4, 5, WORDS))
    tokens = written.copy()
    tokens[:, 1:] = 0
    run = Runner(model)
    for at in range(SWEEPS - 1):
        logits = run(inputs_for(model, read, tokens))["y"]
        tokens[:, at + 1] = np.argmax(logits[:, at] + noise[:, at], axis=1)
    assert np.array_equal(tokens[:, :SWEEPS], written[:, :SWEEPS])
    assert np.array_equal(written, sequences(model, read, 4, seed=3)["ids"])
    assert len(np.unique(written)) > 3


def test_a_model_with_caches_writes_token_after_token() -> None:
    rng = np.random.default_rng(0)
    weights = {"embedding": rng.standard_normal((WORDS, WIDTH)), "head": 3 * rng.standard_normal((WIDTH, WORDS))}
    body = """
        w = Gather(embedding, ids)
        first = Constant<value_ints=[1]>()
        u = Unsqueeze(w, first)
        present = Concat<axis=2>(past, u)
        m = Cast<to=1>(mask)
        around = Constant<value_ints=[1, 3]>()
        there = Unsqueeze(m, around)
        hidden = Mul(present, there)
        two = Constant<value=int64 {2}>()
        s = CumSum(hidden, two)
        size = Shape<start=1>(ids)
        start = Neg(size)
        end = Constant<value_ints=[9999]>()
        axes = Constant<value_ints=[2]>()
        now = Slice(s, start, end, axes)
        z = MatMul(now, head)
        y = Squeeze(z, first)
    """
    small = {name: value.astype(np.float32) for name, value in weights.items()}
    inputs = 'int64[N,S] ids, int64[N,"P + S"] mask, float[N,1,P,8] past'
    model = load(net(body, inputs=inputs, outputs="y present", **small), dim_params={"N": 1, "S": 6, "P": 3})
    assert model.input_shapes == {"ids": (1, 6), "mask": (1, 9), "past": (1, 1, 3, 8)}
    read = writer(model, reader(model))
    assert (read.past, read.present, read.logits) == ({"past": 2}, {"past": "present"}, "y")
    written = sequences(model, read, 4, seed=3)
    assert written["past"].shape == (4, 1, 0, 8)
    assert written["mask"].tolist() == [[1] * 6] * 4
    logits, noise = Runner(model)(written)["y"], np.random.default_rng([3, 2, 0])
    for at in range(5):
        expected = np.argmax(logits[:, at] + noise.gumbel(size=(4, WORDS)), axis=1)
        assert written["ids"][:, at + 1].tolist() == expected.tolist()


def test_a_smaller_vocabulary_is_kept_to_and_one_that_cannot_be_is_refused() -> None:
    model = language_model()
    assert sequences(model, reader(model, 5), 20, seed=0)["ids"].max() < 5
    with pytest.raises(UsageError, match="knows 12 tokens, not 13"):
        reader(model, 13)
    dense = load(net("y = Relu(x)"))
    assert reader(dense) is None
    with pytest.raises(UsageError, match="no input of token ids"):
        reader(dense, 5)


def test_calibration_says_what_it_read_and_has_enough_of_it() -> None:
    found = calibrate(language_model(), {}, count=4)
    assert enough(WIDTH, reader(language_model())) == 4
    assert found.source == (
        "4 sequences of 6 tokens written by the model: 'ids' holds tokens of a vocabulary of 12; "
        "'y' predicts the next token"
    )
    assert np.isfinite(found.moments["head"].second).all()
