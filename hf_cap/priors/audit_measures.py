"""What can be measured on priors without training: pure functions of words and scores.

A prior is one list of scores a word, or null for a text without one. Texts of a single word say nothing about
an order of words and are left out of every measure of order.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean, stdev

import numpy as np
from scipy.stats import rankdata

from ..word_counts import fold
from .normalisation import normalise

Prior = Sequence[float] | None

STOP_WORDS = frozenset(
    "a about after again all also am an and any are as at be because been before being but by can could "
    "did do does doing don't down for from get had has have having he her here hers him his how i i'd i'll "
    "i'm i've if in into is isn't it it's its just let like me more most my no nor not now of off on once "
    "only or other our out over own please same shall she should so some such than that that's the their "
    "them then there these they this those through to too under until up us very was we were what when "
    "where which while who whom why will with would you your yours".split()
)
KINDS = ("stop word", "number", "punctuation", "other")
DEGENERATE = ("missing", "constant", "one_word", "label_copied")


@dataclass(frozen=True, slots=True)
class Mean:
    """Mean over texts.

    Attributes:
        value: The mean; `None` where no text could be measured.
        half_width: Half the width of its 95 % interval, from the standard error over texts.
        texts: Texts measured.
    """

    value: float | None
    half_width: float | None
    texts: int


@dataclass(frozen=True, slots=True)
class ClassPair:
    """Two classes whose keywords overlap.

    Attributes:
        classes: Their names.
        overlap: Jaccard index of their keywords, in [0, 1].
        shared: The keywords that both have.
    """

    classes: tuple[str, str]
    overlap: float
    shared: tuple[str, ...]


def mean(values: Sequence[float | None]) -> Mean:
    """Mean of what could be measured."""
    found = [value for value in values if value is not None]
    if not found:
        return Mean(None, None, 0)
    error = stdev(found) / math.sqrt(len(found)) if len(found) > 1 else None
    return Mean(fmean(found), None if error is None else 1.96 * error, len(found))


def spearman(first: Prior, second: Prior) -> float | None:
    """Spearman's rank correlation of two priors of one text, in [-1, 1]; ties get their mean rank.

    `None` where a prior is missing or the same for every word.
    """
    if first is None or second is None or len(set(first)) < 2 or len(set(second)) < 2:
        return None
    return float(np.corrcoef(rankdata(first), rankdata(second))[0, 1])


def top_agreement(first: Prior, second: Prior, k: int = 1) -> float | None:
    """Share of the k highest words that two priors of one text have in common, in [0, 1].

    A word that ties with the k-th counts by the chance to be among the k. `None` where a prior is missing,
    or where k is not less than the number of words.
    """
    if first is None or second is None or k >= len(first):
        return None
    chances = zip(_top_chances(first, k), _top_chances(second, k), strict=True)
    return sum(one * other for one, other in chances) / k


def _top_chances(scores: Sequence[float], k: int) -> list[float]:
    """Probability of each word to be among the k highest when ties are broken at random."""
    edge = sorted(scores, reverse=True)[k - 1]
    above, level = sum(score > edge for score in scores), sum(score == edge for score in scores)
    return [
        1.0 if score > edge else (k - above) / level if score == edge else 0.0 for score in scores
    ]


def pairwise(
    priors: Mapping[str, Sequence[Prior]], measure: Callable[[Prior, Prior], float | None]
) -> dict[str, dict[str, float | None]]:
    """Mean over the texts of a measure between every two sources, as a symmetric table with 1 inside."""
    table: dict[str, dict[str, float | None]] = {name: {name: 1.0} for name in priors}
    for first, second in combinations(priors, 2):
        found = mean([measure(*pair) for pair in zip(priors[first], priors[second], strict=True)])
        table[first][second] = table[second][first] = found.value
    return table


def word_kind(word: str) -> str:
    """One of `KINDS`."""
    if not any(map(str.isalnum, word)):
        return "punctuation"
    if any(map(str.isdigit, word)):
        return "number"
    return "stop word" if fold(word) in STOP_WORDS else "other"


def mass_by_kind(words: Sequence[Sequence[str]], priors: Sequence[Prior]) -> dict[str, float]:
    """Share of the absolute scores that falls on each kind of word, averaged over the texts."""
    shares: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for row, prior in zip(words, priors, strict=True):
        if prior is None or not any(prior):
            continue
        mass = dict.fromkeys(KINDS, 0.0)
        for word, score in zip(row, normalise(prior, "max_abs"), strict=True):
            mass[word_kind(word)] += abs(score)
        for kind in KINDS:
            shares[kind].append(mass[kind] / sum(mass.values()))
    return {kind: fmean(found) if found else 0.0 for kind, found in shares.items()}


def class_keywords(
    words: Sequence[Sequence[str]],
    labels: Sequence[int],
    priors: Sequence[Prior],
    classes: int,
    k: int,
) -> list[list[tuple[str, float]]]:
    """The k words with the highest mean prior in each class, with that mean.

    Priors are L2-normalised over each text, and a word's score is averaged over all texts of the class, 0
    where the word is absent, so that a word seen once does not win. Words whose mean is not positive are
    no keywords.
    """
    sums: list[defaultdict[str, float]] = [defaultdict(float) for _ in range(classes)]
    texts = Counter(labels)
    for row, label, prior in zip(words, labels, priors, strict=True):
        for word, score in zip(row, normalise(prior or []), strict=False):
            sums[label][fold(word)] += score
    return [
        [
            (word, score / texts[label])
            for word, score in sorted(found.items(), key=lambda item: (-item[1], item[0]))[:k]
            if score > 0
        ]
        for label, found in enumerate(sums)
    ]


def class_overlaps(keywords: Mapping[str, Sequence[str]]) -> list[ClassPair]:
    """Every two classes that share a keyword, the most confused pair first."""
    pairs = []
    for (first, one), (second, other) in combinations(keywords.items(), 2):
        if shared := set(one) & set(other):
            overlap = len(shared) / len(set(one) | set(other))
            pairs.append(ClassPair((first, second), overlap, tuple(sorted(shared))))
    return sorted(pairs, key=lambda pair: (-pair.overlap, pair.classes))


def degenerate_cases(
    words: Sequence[Sequence[str]], label_names: Sequence[str], priors: Sequence[Prior]
) -> dict[str, float]:
    """Shares of texts whose prior says little, in [0, 1].

    `missing` is null or all zero. Of the texts of two words and more: `constant` has one score for every
    word, `one_word` has a single word that is not 0. `label_copied`: the highest word is a word of the
    label's name.
    """
    counts: Counter[str] = Counter()
    for row, label, prior in zip(words, label_names, priors, strict=True):
        if prior is None or not any(prior):
            counts["missing"] += 1
            continue
        counts["constant"] += len(prior) > 1 and len(set(prior)) == 1
        counts["one_word"] += len(prior) > 1 and sum(map(bool, prior)) == 1
        label_words = label.replace("_", " ").replace("-", " ").casefold().split()
        counts["label_copied"] += fold(row[int(np.argmax(prior))]) in label_words
    return {case: counts[case] / max(1, len(priors)) for case in DEGENERATE}


def average_precision(prior: Prior, marked: Prior) -> float | None:
    """Average precision of the words that people marked, ranked by the prior, in [0, 1].

    Tied words enter the ranking together. `None` where a prior is missing, or people marked no word or all.
    """
    if prior is None or marked is None or len({score > 0 for score in marked}) < 2:
        return None
    total, found, seen, area = sum(score > 0 for score in marked), 0, 0, 0.0
    for level in sorted(set(prior), reverse=True):
        here = [mark > 0 for score, mark in zip(prior, marked, strict=True) if score == level]
        seen, found = seen + len(here), found + sum(here)
        area += sum(here) / total * found / seen
    return area
