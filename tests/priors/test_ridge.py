from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.linear_model import Ridge

from hf_cap.errors import ConfigError, ExtractError
from hf_cap.priors.cap import Masks, draw_masks, fit_words, solve_ridge

Z = NDArray[Any]


def linear(masks: Masks, weights: Z, offset: float = -20.0) -> list[float]:
    return [float(score) for score in masks.kept @ weights + offset]


def noisy(masks: Masks, seed: int = 0) -> list[float]:
    return [float(z) for z in np.random.default_rng(seed).normal(-20, 3, len(masks))]


@pytest.mark.parametrize("words", [4, 7, 15])
def test_linear_scorer_gets_its_own_weights_back(words: int) -> None:
    masks = draw_masks("text", words, 100, 0)
    truth = np.random.default_rng(1).normal(size=words)
    (fit,) = fit_words([masks], [linear(masks, truth)], 1e-9)
    np.testing.assert_allclose(fit.coefficients, truth, atol=1e-7)
    assert fit.r2 == pytest.approx(1)
    assert max(fit.std) < 1e-6


@pytest.mark.parametrize("words", [2, 3])
def test_equally_many_masked_words_leave_the_weights_relative(words: int) -> None:
    # every mask keeps one word, so a constant added to all weights cannot be seen
    masks = draw_masks("text", words, 100, 0)
    truth = np.array([3.0, -1.0, 0.5])[:words]
    (fit,) = fit_words([masks], [linear(masks, truth)], 1e-6)
    np.testing.assert_allclose(fit.coefficients, truth - truth.mean(), atol=1e-6)


def test_a_constant_changes_nothing() -> None:
    masks = draw_masks("text", 9, 100, 0)
    scores = noisy(masks)
    plain, shifted = fit_words([masks, masks], [scores, [z + 1000 for z in scores]], 0.1)
    np.testing.assert_allclose(plain.coefficients, shifted.coefficients, atol=1e-9)


def test_permuted_words_permute_the_scores() -> None:
    masks = draw_masks("text", 9, 100, 0)
    order = np.random.default_rng(0).permutation(9)
    permuted = Masks(np.ascontiguousarray(masks.kept[:, order]), masks.weights)
    scores = noisy(masks)
    one, other = fit_words([masks, permuted], [scores, scores], 0.1)
    np.testing.assert_allclose(np.array(one.coefficients)[order], other.coefficients, atol=1e-12)
    np.testing.assert_allclose(np.array(one.std)[order], other.std, atol=1e-12)


def test_enumerated_and_much_sampled_fits_agree() -> None:
    def score(kept: Z) -> list[float]:  # far from linear
        return [float(z) for z in np.sin(kept @ np.arange(1, 8)) + 2 * kept[:, 0] * kept[:, 3]]

    exact = draw_masks("text", 7, 100_000, 0)
    rng = np.random.default_rng(0)
    rows = rng.choice(len(exact), size=100_000, p=exact.weights / exact.weights.sum())
    drawn = Masks(exact.kept, np.bincount(rows, minlength=len(exact)).astype(float))
    one, other = fit_words([exact, drawn], [score(m.kept) for m in (exact, drawn)], 0.1)
    np.testing.assert_allclose(one.coefficients, other.coefficients, atol=0.03)


@pytest.mark.parametrize("words", [2, 5, 20])
def test_equals_scikit_learn(words: int) -> None:
    masks = draw_masks("text", words, 100, 0)
    scores = noisy(masks)
    peer = Ridge(alpha=0.1, solver="cholesky").fit(masks.kept, scores, sample_weight=masks.weights)
    (fit,) = fit_words([masks], [scores], 0.1)
    np.testing.assert_allclose(fit.coefficients, peer.coef_, atol=1e-10)
    assert fit.r2 == pytest.approx(peer.score(masks.kept, scores, sample_weight=masks.weights))


def test_posterior_deviation_is_the_formula() -> None:
    masks = draw_masks("text", 10, 100, 0)
    z = np.array(noisy(masks))
    w, x = masks.weights, masks.kept.astype(float)
    x, z = x - w @ x / w.sum(), z - w @ z / w.sum()
    inverse = np.linalg.inv(x.T @ np.diag(w) @ x + 0.1 * np.eye(10))
    alpha = inverse @ x.T @ (w * z)
    hat = np.trace(inverse @ x.T @ np.diag(w) @ x)
    variance = w @ (z - x @ alpha) ** 2 / (len(masks) - 1 - hat)
    (fit,) = fit_words([masks], [z.tolist()], 0.1)
    np.testing.assert_allclose(fit.std, np.sqrt(variance * np.diag(inverse)), rtol=1e-9)


def test_a_fit_does_not_depend_on_its_batch() -> None:
    texts = [(f"text {i}", words) for i, words in enumerate([5, 12, 12, 9, 12, 2])]
    masks = [draw_masks(text, words, 60, 0) for text, words in texts]
    scores = [noisy(mask, seed) for seed, mask in enumerate(masks)]
    together = fit_words(masks, scores, 0.1)
    for mask, z, fit in zip(masks, scores, together, strict=True):
        (alone,) = fit_words([mask], [z], 0.1)
        np.testing.assert_allclose(alone.coefficients, fit.coefficients, atol=1e-12)
        np.testing.assert_allclose(alone.std, fit.std, atol=1e-12)
        assert alone.r2 == pytest.approx(fit.r2)


def test_constant_scores_give_no_evidence() -> None:
    masks = draw_masks("text", 6, 100, 0)
    (fit,) = fit_words([masks], [[-3.0] * len(masks)], 0.1)
    np.testing.assert_allclose(fit.coefficients, 0, atol=1e-12)
    np.testing.assert_allclose(fit.std, 0, atol=1e-7)
    assert fit.r2 == 0


def test_scores_that_are_not_finite_are_refused() -> None:
    masks = draw_masks("text", 4, 100, 0)
    with pytest.raises(ExtractError, match="NaN or infinite"):
        fit_words([masks], [[float("-inf")] * len(masks)], 0.1)


def test_penalty_must_be_positive() -> None:
    one = torch.ones(1, 2, 2, dtype=torch.float64)
    with pytest.raises(ConfigError, match="got 0"):
        solve_ridge(one, one[0], one[0], 0)
