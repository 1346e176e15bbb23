"""Masks follow the scheme, and the ridge regression finds the weights that made the scores."""

import subprocess
import sys
from collections import Counter
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.linear_model import Ridge

from hf_cap.errors import ExtractError
from hf_cap.priors.masks import Draw, Masks, draw_masks, fit_words, masked_counts

Z = NDArray[Any]


@pytest.mark.parametrize(
    ("words", "counts", "masks"),
    [(0, [], 0), (1, [], 0), (2, [1], 2), (3, [2], 3), (4, [2, 3], 10), (8, [2, 3, 4, 5], 210)],
)
def test_short_texts_are_enumerated(words: int, counts: list[int], masks: int) -> None:
    assert list(masked_counts(words)) == counts
    drawn = draw_masks("a", words, 210, 0)
    assert drawn.kept.shape == (masks, words)
    # each number of masked words is equally likely, and so is each mask of that many
    taken = (~drawn.kept).sum(1)
    among = Counter(taken.tolist())
    expected = [210 / len(counts) / among[count] for count in taken.tolist()]
    np.testing.assert_allclose(drawn.weights, expected)


@pytest.mark.parametrize(("words", "n"), [(2, 5), (7, 100), (8, 100), (30, 100), (200, 10)])
def test_masks_are_distinct_lawful_and_weigh_n(words: int, n: int) -> None:
    masks = draw_masks("some text \ud800", words, n, 3)
    assert len(np.unique(masks.kept, axis=0)) == len(masks)
    assert set((~masks.kept).sum(1)) <= set(masked_counts(words))
    assert masks.weights.sum() == pytest.approx(n)


def test_drawn_masks_follow_the_scheme() -> None:
    words, n = 12, 60_000
    masks = draw_masks("some text", words, n, 0)
    share = masks.weights / n
    counts = (~masks.kept).sum(1)
    for masked in masked_counts(words):
        assert share[counts == masked].sum() == pytest.approx(1 / 6, abs=0.01)
    # E[s]/d of the time a word is masked, each word alike
    expected = np.mean(masked_counts(words)) / words
    np.testing.assert_allclose((~masks.kept).T @ share, expected, atol=0.01)


def test_a_draw_depends_on_seed_and_text_alone_and_begins_that_of_a_larger_n() -> None:
    kept = draw_masks("some téxt", 20, 50, 1).kept
    assert not np.array_equal(kept, draw_masks("some téxt", 20, 50, 2).kept)
    assert not np.array_equal(kept, draw_masks("other text", 20, 50, 1).kept)
    code = (
        "from hf_cap.priors.masks import draw_masks;"
        "print(draw_masks('some téxt', 20, 50, 1).kept.tobytes().hex())"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == kept.tobytes().hex()
    larger = draw_masks("some téxt", 20, 400, 1).kept.tolist()
    assert {tuple(row) for row in kept.tolist()} < {tuple(row) for row in larger}


@pytest.mark.parametrize(("words", "n"), [(9, 36), (9, 100), (13, 40), (30, 29), (200, 10)])
def test_a_balanced_design_masks_every_word_and_every_number_of_words_equally_often(
    words: int, n: int
) -> None:
    masks = draw_masks("some text", words, n, 3, "balanced")
    assert masks.weights.sum() == n
    times = (~masks.kept).T @ masks.weights
    assert times.max() - times.min() <= 1  # so that they are equal where they can be
    sizes = [masks.weights[(~masks.kept).sum(1) == size].sum() for size in masked_counts(words)]
    assert max(sizes) - min(sizes) <= 1
    assert times.sum() == np.dot(sizes, masked_counts(words))


def test_a_balanced_draw_begins_that_of_a_larger_n_and_is_enumerated_alike() -> None:
    def rows(n: int, words: int = 20, seed: int = 1) -> Counter[bytes]:
        masks = draw_masks("some téxt", words, n, seed, "balanced")
        return Counter(dict(zip(map(bytes, masks.kept), masks.weights.tolist(), strict=True)))

    assert rows(50) <= rows(53) <= rows(400)
    assert rows(50) != rows(50, seed=2)
    assert rows(210, words=8) == Counter(dict.fromkeys(rows(210, words=8), 1.0) | rows(210, 8, 2))


@pytest.mark.parametrize("design", ["iid", "balanced"])
def test_the_mean_fit_is_that_of_all_masks(design: Draw) -> None:
    """Nine words with interactions: over many seeds the fit has the weights of full enumeration."""

    def score(kept: Z) -> list[float]:
        kept = kept.astype(float)
        pairs = 4 * kept[:, 0] * kept[:, 1] - 3 * kept[:, 2] * kept[:, 5] * kept[:, 7]
        return [float(z) for z in kept @ np.linspace(-2, 2, 9) + pairs]

    everything = draw_masks("text", 9, 372, 0)
    drawn = [draw_masks("text", 9, 60, seed, design) for seed in range(200)]
    (truth,) = fit_words([everything], [score(everything.kept)], 1e-8)
    fits = np.array([f.coefficients for f in fit_words(drawn, [score(m.kept) for m in drawn], 1e-8)])
    bias = fits.mean(0) - truth.coefficients
    assert np.abs(bias / (fits.std(0) / 200**0.5)).max() < 3.5
    assert np.abs(bias).max() < 0.1 < fits.std(0).min()


def test_a_balanced_design_has_the_smaller_error() -> None:
    def error(design: Draw) -> float:
        masks = [draw_masks("text", 9, 36, seed, design) for seed in range(100)]
        fits = fit_words(masks, [pair(each.kept) for each in masks], 0.1)
        return float(np.square([fit.coefficients for fit in fits] - truth).mean())

    def pair(kept: Z) -> list[float]:
        return [float(z) for z in 3.0 * kept[:, 0] * kept[:, 1]]

    everything = draw_masks("text", 9, 372, 0)
    truth = np.array(fit_words([everything], [pair(everything.kept)], 0.1)[0].coefficients)
    assert error("balanced") < 0.8 * error("iid")


# --- Ridge.


def noisy(masks: Masks, seed: int = 0) -> list[float]:
    return [float(z) for z in np.random.default_rng(seed).normal(-20, 3, len(masks))]


@pytest.mark.parametrize("words", [2, 3, 4, 7, 15])
def test_a_linear_model_gets_its_own_weights_back(words: int) -> None:
    masks = draw_masks("text", words, 100, 0)
    truth = np.random.default_rng(1).normal(size=words)
    (fit,) = fit_words([masks], [(masks.kept @ truth - 20.0).tolist()], 1e-8)
    if words < 4:  # every mask keeps one word, so a constant added to all weights cannot be seen
        truth -= truth.mean()
    np.testing.assert_allclose(fit.coefficients, truth, atol=1e-6)
    assert fit.r2 == (pytest.approx(1) if words > 3 else None)
    assert words < 4 or max(fit.std) < 1e-6


def test_a_constant_changes_nothing_and_permuted_words_permute_the_scores() -> None:
    masks = draw_masks("text", 9, 100, 0)
    order = np.random.default_rng(0).permutation(9)
    permuted = Masks(np.ascontiguousarray(masks.kept[:, order]), masks.weights)
    scores = noisy(masks)
    shifted = [z + 1000 for z in scores]
    one, moved, other = fit_words([masks, masks, permuted], [scores, shifted, scores], 0.1)
    np.testing.assert_allclose(one.coefficients, moved.coefficients, atol=1e-9)
    np.testing.assert_allclose(np.array(one.coefficients)[order], other.coefficients, atol=1e-12)
    np.testing.assert_allclose(np.array(one.std)[order], other.std, atol=1e-12)


@pytest.mark.parametrize("words", [2, 5, 20])
def test_equals_scikit_learn_and_the_formula_of_the_posterior(words: int) -> None:
    masks = draw_masks("text", words, 100, 0)
    scores, w = noisy(masks), masks.weights
    peer = Ridge(alpha=0.1, solver="cholesky").fit(masks.kept, scores, sample_weight=w)
    (fit,) = fit_words([masks], [scores], 0.1)
    np.testing.assert_allclose(fit.coefficients, peer.coef_, atol=1e-10)
    if words == 2:  # as many weights as masks: no freedom is left
        assert fit.r2 is None
        return
    errors = np.zeros((2, len(masks)))
    for left_out in range(len(masks)):
        seen = np.arange(len(masks)) != left_out
        known, others = np.array(scores)[seen], Ridge(alpha=0.1, solver="cholesky")
        others.fit(masks.kept[seen], known, sample_weight=w[seen])
        guesses = others.predict(masks.kept[[left_out]])[0], np.average(known, weights=w[seen])
        errors[:, left_out] = np.subtract(guesses, scores[left_out]) ** 2
    assert fit.r2 == pytest.approx(1 - errors[0] @ w / (errors[1] @ w))
    x, z = masks.kept.astype(float), np.array(scores)
    x, z = x - w @ x / w.sum(), z - w @ z / w.sum()
    inverse = np.linalg.inv(x.T @ np.diag(w) @ x + 0.1 * np.eye(words))
    hat = np.trace(inverse @ x.T @ np.diag(w) @ x)
    variance = w @ (z - x @ fit.coefficients) ** 2 / (len(masks) - 1 - hat)
    np.testing.assert_allclose(fit.std, np.sqrt(variance * np.diag(inverse)), rtol=1e-9)


@pytest.mark.parametrize("words", [4, 10, 80, 150])
def test_noise_is_not_explained_however_many_the_words(words: int) -> None:
    masks = [draw_masks(f"text {i}", words, 100, 0) for i in range(8)]
    fits = fit_words(masks, [noisy(mask, seed) for seed, mask in enumerate(masks)], 0.1)
    assert np.mean([fit.r2 or 0.0 for fit in fits]) < 0.02


def test_a_fit_does_not_depend_on_its_batch() -> None:
    masks = [draw_masks(f"text {i}", words, 60, 0) for i, words in enumerate([5, 12, 12, 9, 12, 2])]
    scores = [noisy(mask, seed) for seed, mask in enumerate(masks)]
    for mask, z, fit in zip(masks, scores, fit_words(masks, scores, 0.1), strict=True):
        (alone,) = fit_words([mask], [z], 0.1)
        np.testing.assert_allclose(alone.coefficients, fit.coefficients, atol=1e-12)
        np.testing.assert_allclose(alone.std, fit.std, atol=1e-12)
        assert alone.r2 == (fit.r2 and pytest.approx(fit.r2))


def test_constant_scores_give_no_evidence_and_those_that_are_not_finite_are_refused() -> None:
    masks = draw_masks("text", 6, 100, 0)
    (fit,) = fit_words([masks], [[-3.0] * len(masks)], 0.1)
    np.testing.assert_allclose(fit.coefficients, 0, atol=1e-12)
    np.testing.assert_allclose(fit.std, 0, atol=1e-7)
    assert fit.r2 is None
    with pytest.raises(ExtractError, match="NaN or infinite"):
        fit_words([masks], [[float("-inf")] * len(masks)], 0.1)
