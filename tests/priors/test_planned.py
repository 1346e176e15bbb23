"""Planned masks: few answers say nearly what all of them do, and how much they leave open."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from hf_cap.errors import ExtractError
from hf_cap.priors import planned
from hf_cap.priors.masks import draw_masks, fit_words, masked_counts
from hf_cap.priors.planned import Plan, plan_masks

Floats = NDArray[np.float64]
WORDS, PENALTY = 9, 0.1
EVERYTHING = draw_masks("text", WORDS, 1000, 0)


def plan(n: int = 35, seed: int = 0, words: int = WORDS) -> Plan:
    found = plan_masks("text", words, n, seed, PENALTY)
    assert found is not None
    return found


def neighbours(kept: NDArray[np.bool_]) -> Floats:
    """Scores that depend on words, on two that now stand side by side, and on three at once."""
    own = kept @ np.linspace(-1, 2, kept.shape[1])
    beside = kept[:, 2] & kept[:, 5] & ~kept[:, 3] & ~kept[:, 4]
    found: Floats = own + 3.0 * (kept[:, 0] & kept[:, 1]) + 2.0 * beside
    return found - kept[:, [1, 6, 8]].all(axis=1)


def fitted(scores: Floats) -> Floats:
    """The ridge regression on all masks of nine words."""
    return np.array(fit_words([EVERYTHING], [scores.tolist()], PENALTY)[0].coefficients)


@pytest.mark.parametrize(("words", "n"), [(5, 3), (9, 35), (12, 60), (40, 100)])
def test_masks_are_distinct_and_lawful_and_begin_a_longer_plan(words: int, n: int) -> None:
    masks = plan(n, words=words).kept
    assert masks.shape == (n, words) == np.unique(masks, axis=0).shape
    assert set((~masks).sum(1)) <= set(masked_counts(words))
    assert np.array_equal(plan(n + 20 * (words > 5), words=words).kept[:n], masks)
    assert not np.array_equal(plan(n, words=words, seed=1).kept, masks)
    drawn = draw_masks("text", words, min(n, 8), 0).kept
    assert {row.tobytes() for row in drawn} == {row.tobytes() for row in masks[: len(drawn)]}


def test_where_all_masks_are_asked_nothing_is_planned() -> None:
    assert [plan_masks("text", words, 210, 0, PENALTY) for words in (0, 1, 2, 8)] == [None] * 4
    assert plan_masks("text", 9, 371, 0, PENALTY) is not None


def test_the_fit_is_the_regression_on_the_expected_scores_of_all_masks() -> None:
    """The same by solving for each mask's expectation, the mean unknown, and then by ridge regression."""
    own, scores = plan(), neighbours(plan().kept)
    covariance = planned._covariance(EVERYTHING.kept)
    places = [EVERYTHING.kept.tolist().index(row) for row in own.kept.tolist()]
    whole = np.ones((36, 36))
    whole[:35, :35] = covariance[np.ix_(places, places)] + planned._NOISE * np.eye(35)
    whole[35, 35] = 0
    solved = np.linalg.solve(whole, [*scores, 0])
    expected = covariance[:, places] @ solved[:35] + solved[35]
    found = own.fit(scores.tolist())
    np.testing.assert_allclose(found.coefficients, fitted(expected), atol=1e-8)
    # held out one by one: each mask's expectation without its own answer
    errors = []
    for out in range(35):
        rest = np.delete(np.arange(36), out)
        without = np.linalg.solve(whole[np.ix_(rest, rest)], np.delete([*scores, 0], out))
        errors.append(scores[out] - whole[out, rest] @ without)
    means = [scores[out] - np.delete(scores, out).mean() for out in range(35)]
    assert found.r2 == pytest.approx(1 - np.square(errors).sum() / np.square(means).sum())


def test_thirty_five_planned_masks_are_better_than_a_hundred_drawn_ones() -> None:
    truth = fitted(neighbours(EVERYTHING.kept))
    seeds = range(30)
    plans = [plan(seed=seed) for seed in seeds]
    error = np.array([p.fit(neighbours(p.kept).tolist()).coefficients for p in plans]) - truth
    drawn = [draw_masks("text", WORDS, 100, seed) for seed in seeds]
    fits = fit_words(drawn, [neighbours(m.kept).tolist() for m in drawn], PENALTY)
    plain = np.array([fit.coefficients for fit in fits]) - truth
    assert np.square(error).mean() < np.square(plain).mean()
    # over draws the errors cancel: little of them is there in each
    assert np.square(error.mean(0)).mean() < 0.25 * np.square(error).mean()


def test_the_standard_deviation_is_that_of_the_error() -> None:
    """Scores drawn from the process itself: errors over standard deviations have a mean square of 1."""
    rng = np.random.default_rng(0)
    covariance = planned._covariance(EVERYTHING.kept)
    drawn = rng.multivariate_normal(np.zeros(372), 4 * covariance, 150, method="cholesky")
    own = plan()
    places = [EVERYTHING.kept.tolist().index(row) for row in own.kept.tolist()]
    noise = rng.normal(0, (4 * planned._NOISE) ** 0.5, (150, 35))
    ratios = []
    for scores, extra in zip(drawn, noise, strict=True):
        found = own.fit((scores[places] + extra).tolist())
        ratios.append((np.array(found.coefficients) - fitted(scores)) / found.std)
    assert np.square(ratios).mean() == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize("scores", [[-2.0], [-2.0] * 20])
def test_equal_scores_are_no_evidence_and_those_that_are_not_finite_an_error(scores: Any) -> None:
    with pytest.raises(ExtractError, match="NaN or infinite"):
        plan().fit([*scores, float("nan"), -1.0])
    found = plan().fit(scores)
    assert found.r2 is None
    np.testing.assert_allclose(found.coefficients + found.std, 0, atol=1e-6)
