"""The calibrated judge: coverage in a simulation, a mean that is kept, and the command."""

import csv
from pathlib import Path

import numpy as np
import pytest

from hf_cap.errors import DataError, ModelError
from hf_cap.evaluation import judge
from hf_cap.lm.base import MockLanguageModel

VALID, ACCURACY = 0.55, 0.75
"""Of the simulation: shares of valid texts, and of right predictions among them."""


def simulated(seed: int) -> tuple[np.ndarray, np.ndarray, list[float | None]]:
    """A judge that is far too kind, whose scores are in the right order."""
    rng = np.random.default_rng(seed)
    latent = rng.random(600)
    valid = rng.random(600) < 0.15 + 0.8 * latent
    right = rng.random(600) < np.where(valid, ACCURACY, 0.2)
    asked = set(rng.choice(600, 100, replace=False).tolist())
    return latent**0.3, right, [float(v) if i in asked else None for i, v in enumerate(valid)]


def naive(weights: np.ndarray, values: np.ndarray) -> tuple[float, float]:
    """A weighted mean's usual interval of 95 %."""
    mean = (weights * values).sum() / weights.sum()
    half = 1.96 * np.sqrt(np.square(weights * (values - mean)).sum()) / weights.sum()
    return mean - half, mean + half


def test_intervals_hold_the_truth_where_those_of_the_bare_scores_do_not() -> None:
    held, bare, runs = np.zeros(2), np.zeros(2), 300
    for seed in range(runs):
        scores, right, verdicts = simulated(seed)
        found = judge.calibrated_shares(scores.tolist(), right.tolist(), verdicts)
        pairs = zip((found.valid, found.accuracy), (VALID, ACCURACY), strict=True)
        held += [(one.low or 0) <= true <= (one.high or 0) for one, true in pairs]
        bounds = naive(np.ones(600), scores), naive(scores, right)
        bare += [low <= true <= high for (low, high), true in zip(bounds, (VALID, ACCURACY), strict=True)]
    assert np.all((held / runs >= 0.93) & (held / runs <= 0.97)), held / runs
    assert np.all(bare / runs < 0.02)


def test_isotonic_calibration_keeps_the_mean_and_the_order() -> None:
    scores, _, verdicts = simulated(0)
    known = np.array([v is not None for v in verdicts])
    given = np.array([v for v in verdicts if v is not None])
    assert judge.isotonic(scores[known], given, scores[known]).mean() == pytest.approx(given.mean())
    assert np.all(np.diff(judge.isotonic(scores[known], given, np.sort(scores))) >= 0)


def test_a_judge_that_knows_nothing_costs_width_and_no_bias() -> None:
    _, right, verdicts = simulated(1)
    blind = judge.calibrated_shares([0.5] * 600, right.tolist(), verdicts)
    given = [v for v in verdicts if v is not None]
    assert blind.valid.mean == pytest.approx(np.mean(given))
    perfect = [1.0 if v is None else v for v in verdicts]
    assert judge.calibrated_shares(perfect, right.tolist(), verdicts).valid.n == 600


def test_fewer_than_fifty_verdicts_are_an_error() -> None:
    with pytest.raises(DataError, match=r"49 verdicts .* 1 more\."):
        judge.calibrated_shares([0.1] * 60, [True] * 60, [1.0] * 49 + [None] * 11)


def test_the_score_is_the_chance_of_yes_against_no() -> None:
    model = MockLanguageModel(
        lambda prompt, answer: -0.5 if answer == "Yes" and "lost" in prompt else -1.5, chat=str
    )
    scores = judge.judge_scores(["my card is lost", "a fine"], ["lost_card", "pay_fine"], model)
    assert scores == pytest.approx([1 / (1 + np.exp(-1)), 0.5])
    assert '"lost card"' in model.calls[0].prefix
    with pytest.raises(ModelError, match="chat template"):
        judge.judge_scores(["a"], ["b"], MockLanguageModel(lambda prompt, answer: -1.0))


def test_a_sheet_is_filled_in_by_a_person(tmp_path: Path) -> None:
    file, texts = tmp_path / "sheet.csv", [f'text "{i}", more' for i in range(80)]
    assert judge.write_sheet(file, texts, ["a"] * 80, 65) == 65
    rows = list(csv.DictReader(file.read_text().splitlines()))
    assert [row["text"] for row in rows] != texts[:60]  # drawn at random
    words = ["1", "Yes", "no", "0", ""]
    text = [[row["text"], "a", words[i % 5]] for i, row in enumerate(rows)]
    with file.open("w", newline="") as target:
        csv.writer(target).writerows([["text", "label", "valid"], *text])
    verdicts = judge.read_sheet(file, texts, ["a"] * 80)
    assert [verdicts[texts.index(row["text"])] for row in rows[:5]] == [1, 1, 0, 0, None]
    assert sum(v is not None for v in verdicts) == 52
    with pytest.raises(DataError, match="none of the attacked texts"):
        judge.read_sheet(file, texts, ["b"] * 80)
    with file.open("a", newline="") as target:
        csv.writer(target).writerow([rows[0]["text"], "a", "0"])
    with pytest.raises(DataError, match=r"Row 67 .* says '0', and an earlier row .* another verdict"):
        judge.read_sheet(file, texts, ["a"] * 80)
    file.write_text("text,label,valid\na,b,1\n")
    with pytest.raises(DataError, match=r"1 verdicts .* 49 more\."):
        judge.read_sheet(file, ["a"], ["b"])
    with pytest.raises(DataError, match="49 attacked texts"):
        judge.write_sheet(file, texts[:49], ["a"] * 49, 60)
    file.write_text("text,label,valid\na,b,maybe\n")
    with pytest.raises(DataError, match="'maybe'"):
        judge.read_sheet(file, ["a"], ["b"])
