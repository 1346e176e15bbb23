"""Soft-NC and Soft-NS: limits known on paper, and a planted word that carries the decision."""

import typing
from collections.abc import Sequence

import numpy as np
import pytest

from hf_cap.errors import DataError
from hf_cap.evaluation.metrics import (
    DISTANCES,
    Classifier,
    FloatArray,
    SoftDistance,
    hellinger,
    importance,
    probability_drop,
    soft_nc,
    soft_ns,
)
from hf_cap.words import split_words
from tests.tiny import roberta_classifier, word_tokenizer

TEXTS = ["i lost my card", "renew the loan please", "close"]
CLASSIFIER = Classifier(roberta_classifier(seed=3), word_tokenizer())


def test_importance_is_scaled_to_the_unit_interval() -> None:
    np.testing.assert_allclose(importance([-1.0, 0.0, 3.0]), [0.0, 0.25, 1.0])
    np.testing.assert_allclose(importance([2.0, 2.0]), [0.5, 0.5])
    assert importance([]).shape == (0,)


def test_distances_on_paper() -> None:
    whole = np.array([[0.5, 0.5], [1.0, 0.0], [0.2, 0.8]])
    other = np.array([[0.5, 0.5], [0.0, 1.0], [0.6, 0.4]])
    np.testing.assert_allclose(probability_drop(whole, other, [0, 0, 0]), [0.0, 1.0, 0.0])
    np.testing.assert_allclose(probability_drop(whole, other, [1, 1, 1]), [0.0, 0.0, 0.4])
    expected = np.sqrt(1 - (np.sqrt(0.12) + np.sqrt(0.32)))
    np.testing.assert_allclose(hellinger(whole, other, []), [0.0, 1.0, expected], atol=1e-12)


def test_every_distance_has_a_function() -> None:
    assert set(typing.get_args(SoftDistance)) == set(DISTANCES)


@pytest.mark.parametrize("distance", typing.get_args(SoftDistance))
def test_certain_masks_have_certain_values(distance: SoftDistance) -> None:
    # Scores 0 and 1 only make each mask certain, so that the definition can be followed by hand.
    text, scores = "i lost my card", [0.0, 1.0, 0.0, 1.0]
    whole = CLASSIFIER([text])
    target = [int(whole[0].argmax())]

    def output(*words: int) -> np.ndarray[typing.Any, np.dtype[np.float64]]:
        mask = np.ones((6, 16))
        mask[[word + 1 for word in words]] = 0.0
        return CLASSIFIER.masked([text], [mask])

    move = DISTANCES[distance]
    zero = move(whole, output(0, 1, 2, 3), target)[0]
    without, only = move(whole, output(1, 3), target)[0], move(whole, output(0, 2), target)[0]
    assert zero > 0.01
    nc = soft_nc(CLASSIFIER, [text], target, [scores], distance=distance)[0]
    ns = soft_ns(CLASSIFIER, [text], target, [scores], distance=distance)[0]
    assert nc == pytest.approx(np.clip(without / zero, 0, 1), abs=1e-6)
    assert ns == pytest.approx(np.clip(1 - only / zero, 0, 1), abs=1e-6)


class Planted:
    """Each word adds its weight to p(class 1), by the share of its token's elements that are left."""

    embedding_width = 2000
    weights: typing.ClassVar = {"lost": 0.5, "card": 0.3}

    def __call__(self, texts: Sequence[str]) -> FloatArray:
        return self.masked(texts, [np.ones((len(text.split()) + 2, 1)) for text in texts])

    def offsets(self, texts: Sequence[str]) -> list[list[tuple[int, int]]]:
        return [[(0, 0), *split_words(text), (0, 0)] for text in texts]

    def masked(self, texts: Sequence[str], masks: Sequence[FloatArray]) -> FloatArray:
        left = [mask.mean(axis=1)[1:-1] for mask in masks]
        assert all((mask[[0, -1]] == 1).all() for mask in masks)  # special tokens stay
        rows = [
            0.1
            + sum(
                self.weights.get(word, 0.0) * part
                for word, part in zip(text.split(), parts, strict=True)
            )
            for text, parts in zip(texts, left, strict=True)
        ]
        return np.array([[1 - p, p] for p in rows])


@pytest.mark.parametrize(
    ("scores", "nc", "ns"),
    [
        # importance 0, 1, 0.5, 0.8: (0.5 + 0.3 * 0.8) / 0.8 of what the words carry
        ([0.0, 1.0, 0.5, 0.8], 0.925, 0.925),
        ([1.0, 0.0, 0.5, 0.2], 0.075, 0.075),
        ([0.3, 0.3, 0.3, 0.3], 0.5, 0.5),
    ],
)
def test_a_planted_word_that_carries_the_decision(
    scores: list[float], nc: float, ns: float
) -> None:
    # single elements are erased: were it whole tokens, a word would be there or not in each of 4 masks
    planted: typing.Any = Planted()
    text = ["i lost my card"]
    assert soft_nc(planted, text, [1], [scores])[0] == pytest.approx(nc, abs=0.02)
    assert soft_ns(planted, text, [1], [scores])[0] == pytest.approx(ns, abs=0.02)


@pytest.mark.parametrize("metric", [soft_nc, soft_ns])
def test_one_target_for_many_texts_is_refused(metric: typing.Any) -> None:
    with pytest.raises(DataError, match="3 texts but 1 targets"):
        metric(CLASSIFIER, TEXTS, [0], [[0.1] * 4, [0.2] * 4, [0.3]])


def test_masks_depend_on_seed_and_text_only() -> None:
    scores = [[0.1, 0.5, 0.2, 0.9], [0.4, 0.3, 0.2, 0.1], [1.0]]
    targets = CLASSIFIER(TEXTS).argmax(1).tolist()
    together = soft_nc(CLASSIFIER, TEXTS, targets, scores, distance="hellinger")
    alone = soft_nc(CLASSIFIER, TEXTS[1:2], targets[1:2], scores[1:2], distance="hellinger")
    other = soft_nc(CLASSIFIER, TEXTS, targets, scores, distance="hellinger", seed=1)
    np.testing.assert_allclose(alone[0], together[1], atol=1e-5)
    assert np.abs(together - other).max() > 1e-4


def test_undefined_where_the_zero_input_moves_nothing() -> None:
    # the class that the model likes least for the whole text can only gain: no drop to normalise by
    targets = CLASSIFIER(TEXTS).argmin(1).tolist()
    values = soft_nc(CLASSIFIER, TEXTS, targets, [[1.0, 2.0, 3.0, 4.0]] * 2 + [[1.0]])
    assert np.isnan(values).any()
