"""Robust accuracy on the attacked texts that still carry their label, by a calibrated judge.

A chat model scores every text, a person a random part of them. Isotonic regression, which keeps the mean,
turns scores into probabilities (AutoCal-R of "Causal Judge Evaluation"), fitted without the fold that it
predicts. What it misses on the person's texts is added, so that a judge that knows nothing costs width
and no bias. The interval leaves out a fold of the person's verdicts at a time and fits anew (OUA), and so
holds the uncertainty of the calibration beside that of the texts.
"""

import csv
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression
from scipy.special import expit
from scipy.stats import t

from hf_cap.data import read_csv
from hf_cap.errors import DataError, ModelError
from hf_cap.evaluation.attack_rules import ENGLISH
from hf_cap.evaluation.results import Estimate
from hf_cap.labels import label_phrase
from hf_cap.lm.base import LMSettings, Query
from hf_cap.lm.open import ModelLike, open_language_model
from hf_cap.utils import Place, atomic_path, generator

Floats = NDArray[np.float64]
FEWEST = 50  # verdicts of a person that an interval needs
FOLDS = 10
FIELDS = ("text", "label", "valid")
_VERDICTS = {"1": 1.0, "yes": 1.0, "true": 1.0, "0": 0.0, "no": 0.0, "false": 0.0}


@dataclass(frozen=True)
class Judged:
    """Shares in [0, 1] with 95 % intervals.

    Attributes:
        valid: Of attacked texts, those that carry their label.
        accuracy: Of these, those that the classifier predicts right.
        verdicts: Texts that a person judged.
    """

    valid: Estimate
    accuracy: Estimate
    verdicts: int


def isotonic(scores: Floats, verdicts: Floats, at: Floats) -> Floats:
    """Probability at each score of `at`, by the non-decreasing fit to verdicts in {0, 1}.

    The mean over the scores that it is fitted on is that of the verdicts; equal scores share a value.
    """
    places, row, counts = np.unique(scores, return_inverse=True, return_counts=True)
    means = np.bincount(row, verdicts) / counts
    found: Floats = np.interp(at, places, isotonic_regression(means, weights=counts).x)
    return found


def calibrated_shares(
    scores: Sequence[float], right: Sequence[bool], verdicts: Sequence[float | None], seed: int = 0
) -> Judged:
    """Shares of valid texts, and of right predictions among them.

    Args:
        scores: The judge's score of each attacked text, any finite number, higher for valid ones.
        right: Whether the classifier predicts each text right.
        verdicts: What a person says of a random part of the texts: 1 valid, 0 not, `None` elsewhere.
        seed: Seed of the folds.
    """
    given = np.array([np.nan if v is None else v for v in verdicts], dtype=np.float64)
    asked = np.flatnonzero(~np.isnan(given))
    _check_count(len(asked), "verdicts of a person")
    held, hits = np.array(scores, dtype=np.float64), np.array(right, dtype=np.float64)
    order = generator(seed, "folds", len(asked)).permutation(len(asked))
    folds = [asked[order[k::FOLDS]] for k in range(FOLDS)]
    whole, chances = _shares(held, hits, given, folds)
    without = [_shares(held, hits, given, folds[:k] + folds[k + 1 :])[0] for k in range(FOLDS)]
    spread = np.array(without) - np.mean(without, axis=0)
    calibration = (FOLDS - 1) / FOLDS * np.square(spread).sum(0)
    influence = np.stack([chances, chances * (hits - whole[1]) / whole[0]])
    texts = influence.var(axis=1, ddof=1) / len(held)
    pairs = zip(whole, texts, calibration, strict=True)
    valid, accuracy = (_estimate(*each, len(held)) for each in pairs)
    return Judged(valid, accuracy, len(asked))


def _check_count(count: int, what: str) -> None:
    if count < FEWEST:
        raise DataError(
            f"There are {count} {what}, too few for an interval; at least {FEWEST} are needed: give "
            f"{FEWEST - count} more."
        )


def _shares(
    scores: Floats, right: Floats, verdicts: Floats, folds: Sequence[NDArray[np.intp]]
) -> tuple[tuple[float, float], Floats]:
    """Both shares by the verdicts of some folds, and the probability that each text is valid."""
    asked = np.concatenate(folds)
    chances = isotonic(scores[asked], verdicts[asked], scores)
    for fold in folds:  # a text's own verdict never calibrates its score
        rest = np.setdiff1d(asked, fold)
        chances[fold] = isotonic(scores[rest], verdicts[rest], scores[fold])
    missed = verdicts[asked] - chances[asked]
    valid = chances.mean() + missed.mean()
    if valid <= 0:
        raise DataError("No attacked text seems to carry its label; make other attacks.")
    hits = (chances * right).mean() + (missed * right[asked]).mean()
    return (float(valid), float(hits / valid)), chances


def _estimate(share: float, texts: float, calibration: float, count: int) -> Estimate:
    """A share with its interval; the freedom of the sum of two variances is that of Satterthwaite."""
    variance = texts + calibration
    freedom = variance**2 / (texts**2 / (count - 1) + calibration**2 / (FOLDS - 1)) if variance else 1
    half = float(t.ppf(0.975, freedom)) * variance**0.5
    within = min(max(share, 0.0), 1.0)
    return Estimate(within, max(share - half, 0.0), min(share + half, 1.0), count)


def judge_scores(texts: Sequence[str], labels: Sequence[str], model: ModelLike | None = None) -> list[float]:
    """How sure a chat model is that each text has the topic of its label, in (0, 1).

    It is the probability of the answer "Yes" where "No" is the only other one.
    """
    judge = open_language_model(LMSettings() if model is None else model)
    queries = []
    for text, label in zip(texts, labels, strict=True):
        question = ENGLISH["question"].format(label=label_phrase(label), text=judge.as_data(text))
        prompt = judge.chat_prompt(question)
        if prompt is None:
            raise ModelError("The judge has no chat template; name a model that was trained to chat.")
        queries += [Query(prompt, "", answer) for answer in ("Yes", "No")]
    totals = [scored.total for scored in judge.log_probs(queries)]
    return [float(expit(y - n)) for y, n in zip(totals[::2], totals[1::2], strict=True)]


def write_sheet(file: Place, texts: Sequence[str], labels: Sequence[str], most: int, seed: int = 0) -> int:
    """Write a random part of the texts, in random order, for a person to fill in `valid`; how many."""
    _check_count(len(texts), "attacked texts")
    chosen = generator(seed, "verdicts", len(texts)).permutation(len(texts))[:most]
    with atomic_path(file) as path, path.open("w", encoding="utf-8", newline="") as target:
        sheet = csv.writer(target)
        sheet.writerow(FIELDS)
        sheet.writerows((texts[row], labels[row], "") for row in chosen)
    return len(chosen)


def read_sheet(file: Place, texts: Sequence[str], labels: Sequence[str]) -> list[float | None]:
    """The verdict on each text that the sheet has one of: 1 for 1, yes or true, 0 for 0, no or false."""
    sheet = read_csv(file)
    if missing := set(FIELDS) - set(sheet):
        raise DataError(f"{str(file)!r} lacks the columns {sorted(missing)}; delete it to begin anew.")
    known, found = set(zip(texts, labels, strict=True)), dict[tuple[str, str], float]()
    for row, (text, label, word) in enumerate(zip(*(sheet[n] for n in FIELDS), strict=True), 2):
        pair, said = (text or "", label or ""), (word or "").strip().lower()
        if pair not in known:
            raise DataError(
                f"Row {row} of {str(file)!r} is none of the attacked texts; give the data it was written for."
            )
        if said and said not in _VERDICTS:
            raise DataError(f"Row {row} of {str(file)!r} says {word!r}; write 1, 0 or nothing.")
        if said and found.setdefault(pair, _VERDICTS[said]) != _VERDICTS[said]:
            raise DataError(
                f"Row {row} of {str(file)!r} says {word!r}, and an earlier row of the same text another "
                "verdict; give both rows one."
            )
    verdicts = [found.get(pair) for pair in zip(texts, labels, strict=True)]
    _check_count(sum(v is not None for v in verdicts), "verdicts of a person")
    return verdicts
