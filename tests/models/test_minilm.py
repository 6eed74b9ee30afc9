"""The retrieval task of MiniLM: its committed texts, and what the score counts. The network is in `test_fetched`."""

from collections import Counter

import numpy as np

from models.minilm import EACH, SECTIONS, TEXTS, Texts, embeddings, retrieval


def test_the_committed_texts_are_as_many_as_they_should_be_and_all_different():
    rows = [line.split("\t") for line in TEXTS.read_text("utf-8").splitlines()]
    assert Counter(Counter(section for section, _ in rows).values()) == {EACH: SECTIONS}
    assert len({text for _, text in rows}) == EACH * SECTIONS


def test_texts_go_through_filled_up_to_one_length_and_come_back_in_order():
    tokens = [np.arange(1, 1 + n) for n in (5, 2, 9, 1)]

    def summed(inputs):
        assert inputs["input_ids"].shape == inputs["attention_mask"].shape == (4, 9)
        assert np.array_equal(inputs["attention_mask"], inputs["input_ids"] > 0)
        return inputs["input_ids"].sum(axis=1, keepdims=True).astype(np.float32)

    assert embeddings(summed, tokens)[:, 0].tolist() == [15, 3, 45, 1]


def test_a_text_is_right_when_most_of_its_neighbours_share_its_section():
    angles = np.r_[np.linspace(0, 0.1, 11), np.linspace(1.5, 1.6, 11)]
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    sections = np.repeat([0, 1], 11)
    sections[0] = 1  # lies among those of section 0
    texts = Texts([np.array([k]) for k in range(22)], sections)
    (score,) = retrieval(lambda inputs: vectors[inputs["input_ids"][:, 0]], texts)
    assert (score.count, round(score.accuracy * 22)) == (22, 21)
