"""Audit of priors without training: what each source names, and whether sources say the same.

Measures are pure functions of words and scores. A prior is one list of scores per text, or null.
Texts of a single word have no order of words and are left out of every measure of order.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import combinations
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any, NamedTuple

from hf_cap.errors import ConfigError, DataError
from hf_cap.priors.fusion import normalise
from hf_cap.priors.keywords import random_scores
from hf_cap.schema import (
    LABEL,
    PRIOR,
    PROVENANCE,
    TEXT,
    WORDS,
    check_prior,
    prior_column,
    prior_sources,
    read_provenance,
)
from hf_cap.utils import check_range, documented, option
from hf_cap.words import WORD_PATTERN, count_words, fold, log_odds

if TYPE_CHECKING:
    from datasets import Dataset

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


@documented
@dataclass(frozen=True, kw_only=True)
class AuditSettings:
    """Settings of the audit of priors."""

    top_k: int = option(3, "Highest words of a text that are compared between two sources.")
    keywords: int = option(10, "Keywords of a class: its words with the highest mean prior.")
    pairs: int = option(15, "Pairs of classes with the most shared keywords that are reported.")
    word_pattern: str | None = option(
        None,
        "Regular expression of a word in the reference data; by default the one of the priors.",
    )

    def __post_init__(self) -> None:
        check_range(self, "top_k", "keywords", "pairs", at_least=1)


# --- Measures of the priors of one text.


def spearman(first: Prior, second: Prior) -> float | None:
    """Spearman's rank correlation, in [-1, 1]; ties get their mean rank.

    `None` where a prior is missing or the same for every word.
    """
    import numpy as np
    from scipy.stats import rankdata

    if first is None or second is None or len(set(first)) < 2 or len(set(second)) < 2:
        return None
    return float(np.corrcoef(rankdata(first), rankdata(second))[0, 1])


def top_agreement(first: Prior, second: Prior, k: int = 1) -> float | None:
    """Share of the k highest words that two priors have in common, in [0, 1].

    A word that ties with the k-th counts by its chance to be among the k. `None` where a prior is
    missing, or where k is not less than the number of words.
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


def average_precision(prior: Prior, marked: Prior) -> float | None:
    """Average precision of the words with a positive mark, ranked by the prior, in [0, 1].

    Tied words enter the ranking together. `None` where a prior is missing, or no word or all are marked.
    """
    if prior is None or marked is None or len({score > 0 for score in marked}) < 2:
        return None
    total, found, seen, area = sum(score > 0 for score in marked), 0, 0, 0.0
    for level in sorted(set(prior), reverse=True):
        here = [mark > 0 for score, mark in zip(prior, marked, strict=True) if score == level]
        seen, found = seen + len(here), found + sum(here)
        area += sum(here) / total * found / seen
    return area


def word_kind(word: str) -> str:
    """One of `KINDS`."""
    if not any(map(str.isalnum, word)):
        return "punctuation"
    if any(map(str.isdigit, word)):
        return "number"
    return "stop word" if fold(word) in STOP_WORDS else "other"


# --- Measures over texts.


@dataclass(frozen=True, slots=True)
class Mean:
    """Mean over the `texts` that could be measured, `None` without any.

    `half_width` is half the width of the 95 % interval, from the standard error over texts.
    """

    value: float | None
    half_width: float | None
    texts: int


def mean(values: Iterable[float | None]) -> Mean:
    """Mean of the values that are not `None`."""
    found = [value for value in values if value is not None]
    if not found:
        return Mean(None, None, 0)
    error = stdev(found) / math.sqrt(len(found)) if len(found) > 1 else None
    return Mean(fmean(found), None if error is None else 1.96 * error, len(found))


def pairwise(
    priors: Mapping[str, Sequence[Prior]], measure: Callable[[Prior, Prior], float | None]
) -> dict[str, dict[str, float | None]]:
    """Mean of a measure between every two sources, as a symmetric table with 1 on the diagonal."""
    table: dict[str, dict[str, float | None]] = {name: {name: 1.0} for name in priors}
    for first, second in combinations(priors, 2):
        found = mean(map(measure, priors[first], priors[second]))
        table[first][second] = table[second][first] = found.value
    return table


def mass_by_kind(words: Sequence[Sequence[str]], priors: Sequence[Prior]) -> dict[str, float]:
    """Share of the absolute scores on each kind of word, averaged over the texts."""
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
    """The k words with the highest mean prior in each class, with that mean if it is positive.

    Priors are L2-normalised over each text. A word's score is averaged over all texts of the class,
    0 where the word is absent, so that a word seen once does not win.
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


@dataclass(frozen=True, slots=True)
class ClassPair:
    """Two classes with the keywords that both have, and the Jaccard index of their keywords."""

    classes: tuple[str, str]
    overlap: float
    shared: tuple[str, ...]


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
    """Shares of texts with an uninformative prior, in [0, 1].

    `missing` is null or all zero. Of the texts of two words and more: `constant` has one score for
    every word, `one_word` a single word that is not 0. `label_copied`: the highest word is a word of
    the label's name.
    """
    counts: Counter[str] = Counter()
    for row, label, prior in zip(words, label_names, priors, strict=True):
        if prior is None or not any(prior):
            counts["missing"] += 1
            continue
        counts["constant"] += len(prior) > 1 and len(set(prior)) == 1
        counts["one_word"] += len(prior) > 1 and sum(map(bool, prior)) == 1
        label_words = label.replace("_", " ").replace("-", " ").casefold().split()
        counts["label_copied"] += fold(row[prior.index(max(prior))]) in label_words
    return {case: counts[case] / max(1, len(priors)) for case in DEGENERATE}


# --- The audit.


@dataclass(frozen=True, slots=True)
class Distribution:
    """A diagnostic column: minimum, quartiles and maximum, and a histogram (edges, texts per bin)."""

    quantiles: tuple[float, ...]
    edges: tuple[float, ...]
    counts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Agreement:
    """How well a source orders the words of a text, against a standard score for each word.

    Attributes:
        rank_correlation: Spearman's correlation with the standard.
        top_word: How often the source's highest word is the standard's.
        average_precision: Of the words whose standard is above 0, ranked by the source.
    """

    rank_correlation: Mean
    top_word: Mean
    average_precision: Mean


@dataclass(frozen=True, slots=True)
class Audit:
    """Result of an audit; every table is keyed by source.

    Attributes:
        texts: Number of texts.
        sources: Sources audited; `prior` is the fused column.
        top_k: Highest words that were compared.
        rank_correlation: Spearman's correlation between two sources (and the controls), averaged over
            texts. High values everywhere: the sources say the same.
        top_k_agreement: Share of the `top_k` highest words that two sources have in common.
        keywords: For each class its keywords with their mean prior.
        class_overlap: Mean Jaccard index of the keywords over all pairs of classes.
        confused_classes: The pairs of classes with the most overlap.
        mass: Share of the absolute scores on each kind of word.
        degenerate: Shares of texts with an uninformative prior.
        certainty: Distribution of each diagnostic column.
        rationales: Agreement with what people marked, where there is a `prior_rationale`.
        log_odds: Agreement with the log-odds of each word for the gold class in the reference data,
            where there are any: a measure of a prior's worth without training.
    """

    texts: int
    sources: tuple[str, ...]
    top_k: int
    rank_correlation: Mapping[str, Mapping[str, float | None]]
    top_k_agreement: Mapping[str, Mapping[str, float | None]]
    keywords: Mapping[str, Mapping[str, Sequence[tuple[str, float]]]]
    class_overlap: Mapping[str, float]
    confused_classes: Mapping[str, Sequence[ClassPair]]
    mass: Mapping[str, Mapping[str, float]]
    degenerate: Mapping[str, Mapping[str, float]]
    certainty: Mapping[str, Distribution]
    rationales: Mapping[str, Agreement] | None
    log_odds: Mapping[str, Agreement] | None

    def to_dict(self) -> dict[str, Any]:
        """The audit as plain JSON values."""
        return asdict(self)


def audit_dataset(
    dataset: "Dataset",
    reference: "Dataset | None" = None,
    settings: AuditSettings | None = None,
) -> Audit:
    """Audit the priors of a data set.

    Args:
        dataset: With `words`, a `ClassLabel` column `label`, and at least one prior column.
        reference: A larger labelled split of the same label space, with `text` and `label`; best data
            that no source has learned from.
        settings: Settings of the audit.

    Raises:
        ConfigError: the word pattern is not that of the priors, or they have several.
        DataError: a column is missing, or the reference has other labels.
        PriorError: a prior has not one finite score per word.
    """
    settings = settings or AuditSettings()
    data = _read(dataset)
    compared = data.priors | {n: s for n, s in _controls(data).items() if n not in data.priors}
    standard = None
    if reference is not None:
        pattern = _word_pattern(dataset, settings.word_pattern)
        standard = _reference_scores(data, reference, pattern)
    gold = [data.names[label] for label in data.labels]
    return Audit(
        texts=len(dataset),
        sources=tuple(data.priors),
        top_k=settings.top_k,
        rank_correlation=pairwise(compared, spearman),
        top_k_agreement=pairwise(compared, partial(top_agreement, k=settings.top_k)),
        **_keyword_tables(data, settings),
        mass={source: mass_by_kind(data.words, scores) for source, scores in compared.items()},
        degenerate={
            source: degenerate_cases(data.words, gold, scores)
            for source, scores in data.priors.items()
        },
        certainty=_certainty(dataset, data.priors),
        rationales=_agreements(compared, compared.get("rationale")),
        log_odds=_agreements(compared, standard),
    )


class _Data(NamedTuple):
    """Words and label of each text, label names, and the priors of each source."""

    words: list[list[str]]
    labels: list[int]
    names: list[str]
    priors: dict[str, list[Prior]]


def _read(dataset: "Dataset") -> _Data:
    from hf_cap.data import label_names

    columns = {source: prior_column(source) for source in prior_sources(dataset.features)}
    if PRIOR in dataset.column_names:
        columns[PRIOR] = PRIOR
    if not columns or WORDS not in dataset.column_names:
        raise DataError(
            f"There are no priors to audit: the data set has the columns {dataset.column_names}, but "
            f"needs {WORDS!r} and a column prior_<source>. Run `hf-cap extract` first."
        )
    names, words = label_names(dataset), list(dataset[WORDS])
    priors = {source: list(dataset[column]) for source, column in columns.items()}
    for source, scores in priors.items():
        for row, (one, row_words) in enumerate(zip(scores, words, strict=True)):
            check_prior(one, row_words, column=columns[source], row=row)
    return _Data(words, list(dataset[LABEL]), names, priors)


def _controls(data: _Data) -> dict[str, list[Prior]]:
    return {
        "random": [random_scores([0.0] * len(row), " ".join(row)) for row in data.words],
        "word_length": [list(map(len, row)) for row in data.words],
    }


def _keyword_tables(data: _Data, settings: AuditSettings) -> dict[str, Any]:
    """The fields of `Audit` about the keywords of classes."""
    tables: dict[str, Any] = {"keywords": {}, "class_overlap": {}, "confused_classes": {}}
    classes = len(data.names)
    for source, scores in data.priors.items():
        found = class_keywords(data.words, data.labels, scores, classes, settings.keywords)
        keywords = dict(zip(data.names, found, strict=True))
        pairs = class_overlaps(
            {name: [word for word, _ in kept] for name, kept in keywords.items()}
        )
        tables["keywords"][source] = keywords
        overlap = sum(pair.overlap for pair in pairs)
        tables["class_overlap"][source] = overlap / max(1, classes * (classes - 1) // 2)
        tables["confused_classes"][source] = pairs[: settings.pairs]
    return tables


def _agreements(
    priors: Mapping[str, Sequence[Prior]], standard: Sequence[Prior] | None
) -> dict[str, Agreement] | None:
    """Agreement of each source with a standard; `None` without one."""
    if standard is None:
        return None
    measures = (spearman, top_agreement, average_precision)
    return {
        source: Agreement(*(mean(map(measure, scores, standard)) for measure in measures))
        for source, scores in priors.items()
        if scores is not standard
    }


def _word_pattern(dataset: "Dataset", asked: str | None) -> str:
    """Pattern of the words that have scores: from the provenance, else `asked`, else the default."""
    cells = set(dataset[PROVENANCE]) if PROVENANCE in dataset.column_names else set()
    facts = [made for cell in cells for made in read_provenance(cell).values()]
    patterns = {made["word_pattern"] for made in facts if "word_pattern" in made}
    if asked is None and len(patterns) > 1:
        raise ConfigError(
            f"The priors were made with several word patterns, {sorted(patterns)}. Name one of them as "
            "`word_pattern`, or extract the sources again with the same."
        )
    if asked is not None and patterns and asked not in patterns:
        raise ConfigError(
            f"word_pattern={asked!r} finds other words in the reference than the priors were made for, "
            f"by {sorted(patterns)}. Leave it out."
        )
    return asked or next(iter(patterns), WORD_PATTERN)


def _reference_scores(data: _Data, reference: "Dataset", pattern: str) -> list[Prior]:
    """Log-odds of each word for the gold class of its text, counted in the reference."""
    from hf_cap.data import label_names

    others = label_names(reference)
    if set(others) != set(data.names):
        raise DataError(
            "The reference has other labels than the priors: "
            f"{sorted(set(others) ^ set(data.names))[:5]!r} are in only one of them. Give a split of "
            "this data."
        )
    index = [data.names.index(name) for name in others]
    labels = [index[label] for label in reference[LABEL]]
    counts = count_words(reference[TEXT], labels, len(data.names), pattern)
    table = {word: log_odds(counts, word) for row in data.words for word in map(fold, row)}
    return [
        [table[fold(word)][label] for word in row]
        for row, label in zip(data.words, data.labels, strict=True)
    ]


def _certainty(dataset: "Dataset", sources: Iterable[str]) -> dict[str, Distribution]:
    """Distributions of the numeric diagnostic columns `<source>_<what>`."""
    import numpy as np

    found = {}
    prefixes = tuple(f"{source}_" for source in sources)
    for column, feature in dataset.features.items():
        numeric = str(getattr(feature, "dtype", "")).startswith(("float", "int"))
        if numeric and column.startswith(prefixes):
            values = np.array([v for v in dataset[column] if v is not None], dtype=float)
            if values.size and np.isfinite(values).all():
                counts, edges = np.histogram(values, bins=20)
                quantiles = np.quantile(values, [0, 0.25, 0.5, 0.75, 1])
                found[column] = Distribution(
                    tuple(quantiles.tolist()), tuple(edges.tolist()), tuple(counts.tolist())
                )
    return found
