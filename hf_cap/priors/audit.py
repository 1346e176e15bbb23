"""Audit of priors without training: what each source names, and whether sources say the same.

A prior is one list of scores per text, or null. Texts of a single word have no order of words and are
left out of every measure of order.
"""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import combinations
from operator import mul, sub
from statistics import fmean, stdev
from typing import Any

import numpy as np
from datasets import Dataset
from scipy.stats import rankdata
from sklearn.metrics import average_precision_score

from hf_cap import schema
from hf_cap.cues import Mark, without_shortcuts
from hf_cap.data import label_names, named_labels
from hf_cap.errors import ConfigError, DataError
from hf_cap.labels import label_phrase
from hf_cap.priors.base import AuditSettings
from hf_cap.priors.fusion import NORMALISATIONS
from hf_cap.priors.keywords import control_scores
from hf_cap.words import WORD_PATTERN, count_words, fold, log_odds

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
DEGENERATE = ("missing", "single_word", "constant", "one_word", "label_copied")


def audit_dataset(
    dataset: Dataset,
    reference: Dataset | None = None,
    settings: AuditSettings | None = None,
    *,
    shortcuts: Sequence[Mark] = (),
) -> dict[str, Any]:
    """Audit the priors of a data set.

    Args:
        dataset: With `words`, a `ClassLabel` column `label`, and at least one prior column.
        reference: A larger labelled split with the same labels, that no source has learned from.
        shortcuts: What `hf-cap shortcuts` found in these texts: only the data links it to a label.

    Returns:
        The content of `audit.json`: `texts` (their number), `sources`, `top_k`, and tables keyed by source
        (`prior` is the fused column). Correlations are in [-1, 1], shares in [0, 1]; `rationales` and
        `log_odds` compare each source with what people marked and with the log-odds of the words for the
        gold class in the reference, `leak` has `leaked_mass`; they are `None` without these.

    Raises:
        ConfigError: the word pattern is not that of the priors, or they have several.
        DataError: a column is missing, or the reference has other labels.
        PriorError: a prior has not one finite score per word.
    """
    settings, priors = settings or AuditSettings(), _read_priors(dataset)
    words, names = list(dataset[schema.WORDS]), label_names(dataset)
    gold, compared = named_labels(dataset), _with_controls(priors, words)
    keywords = {s: class_keywords(words, gold, priors[s], names, settings.keywords) for s in priors}
    confused = {source: class_overlaps(found) for source, found in keywords.items()}
    pairs = max(1, math.comb(len(names), 2))
    odds = _reference_scores(dataset, reference, settings.word_pattern)
    return {
        "texts": len(dataset),
        "sources": list(priors),
        "top_k": settings.top_k,
        "rank_correlation": pairwise(compared, spearman),
        "top_k_agreement": pairwise(compared, partial(top_agreement, k=settings.top_k)),
        "keywords": keywords,
        "class_overlap": {s: sum(p["overlap"] for p in confused[s]) / pairs for s in priors},
        "confused_classes": {s: confused[s][: settings.pairs] for s in priors},
        "mass": {source: mass_by_kind(words, scores) for source, scores in compared.items()},
        "degenerate": {s: degenerate_cases(words, gold, priors[s]) for s in priors},
        "certainty": _certainty(dataset, priors),
        "rationales": _agreements(compared, compared.get("rationale")),
        "log_odds": _agreements(compared, odds),
        "leak": leaked_mass(words, gold, compared, shortcuts) if shortcuts else None,
    }


def _read_priors(dataset: Dataset) -> dict[str, list[Prior]]:
    columns = {source: schema.prior_column(source) for source in schema.prior_sources(dataset.features)}
    if schema.PRIOR in dataset.column_names:
        columns[schema.PRIOR] = schema.PRIOR
    if not columns or schema.WORDS not in dataset.column_names:
        raise DataError(
            f"There are no priors to audit: the data set has the columns {dataset.column_names}, but "
            f"needs {schema.WORDS!r} and a column prior_<source>. Run `hf-cap extract` first."
        )
    texts = dataset[schema.TEXT] if schema.TEXT in dataset.column_names else ()
    for row, (text, words) in enumerate(zip(texts, dataset[schema.WORDS], strict=False)):
        schema.check_found(text, words or (), row=row)
    for column in columns.values():
        for row, (prior, words) in enumerate(zip(dataset[column], dataset[schema.WORDS], strict=True)):
            schema.check_prior(prior, words, column=column, row=row)
    return {source: list(dataset[column]) for source, column in columns.items()}


def _with_controls(
    priors: Mapping[str, list[Prior]], words: Sequence[Sequence[str]]
) -> dict[str, list[Prior]]:
    drawn = [control_scores("random", [0.0] * len(row), " ".join(row), 0) for row in words]
    lengths: list[Prior] = [list(map(len, row)) for row in words]
    # a source may have one of these names
    return {**priors, "random": [*drawn], "word_length": lengths, **priors}


def _agreements(
    priors: Mapping[str, Sequence[Prior]], standard: Sequence[Prior] | None
) -> dict[str, dict[str, Any]] | None:
    """How well each source orders the words, against a standard score for each; `None` without one."""
    if standard is None:
        return None
    measures = (
        ("rank_correlation", spearman),
        ("top_word", top_agreement),
        ("average_precision", average_precision),
    )
    return {
        source: {name: mean(map(measure, scores, standard)) for name, measure in measures}
        for source, scores in priors.items()
        if scores is not standard
    }


def _reference_scores(
    dataset: Dataset, reference: Dataset | None, asked: str | None
) -> list[list[float]] | None:
    """Log-odds of each word for the gold class of its text, counted in the reference, if there is one."""
    if reference is None:
        return None
    names, others = label_names(dataset), label_names(reference)
    if set(others) != set(names):
        raise DataError(
            f"The reference has other labels than the priors: {sorted(set(others) ^ set(names))[:5]!r} "
            "are in only one of them. Give a split of this data."
        )
    cells = set(dataset[schema.PROVENANCE]) if schema.PROVENANCE in dataset.column_names else set()
    facts = [made for cell in cells for made in schema.read_provenance(cell).values()]
    made_by = {made["word_pattern"] for made in facts if "word_pattern" in made}
    patterns = {asked} if asked else made_by or {WORD_PATTERN}
    if len(patterns) > 1 or (made_by and not patterns <= made_by):
        raise ConfigError(
            f"word_pattern={asked!r} does not tell the words of the reference: those of the priors are "
            f"found by {sorted(made_by)}. Name one of these, or leave it out where there is one."
        )
    labels = [names.index(others[label]) for label in reference[schema.LABEL]]
    counts = count_words(reference[schema.TEXT], labels, len(names), *patterns)
    table = {word: log_odds(counts, word) for row in dataset[schema.WORDS] for word in map(fold, row)}
    return [
        [table[fold(word)][label] for word in row]
        for row, label in zip(dataset[schema.WORDS], dataset[schema.LABEL], strict=True)
    ]


def _certainty(dataset: Dataset, sources: Iterable[str]) -> dict[str, dict[str, list[float]]]:
    """Of the numeric columns `<source>_<what>`: minimum, quartiles and maximum, and a histogram."""
    found = {}
    prefixes = tuple(f"{source}_" for source in sources)
    for column, feature in dataset.features.items():
        numeric = str(getattr(feature, "dtype", "")).startswith(("float", "int"))
        if not (numeric and column.startswith(prefixes)):
            continue
        values = np.array([v for v in dataset[column] if v is not None], dtype=float)
        if values.size and np.isfinite(values).all():
            counts, edges = np.histogram(values, bins=20)
            quantiles = np.quantile(values, [0, 0.25, 0.5, 0.75, 1]).tolist()
            shape = {"edges": edges.tolist(), "counts": counts.tolist()}
            found[column] = {"quantiles": quantiles, **shape}
    return found


# --- Measures of the priors of one text.


def spearman(first: Prior, second: Prior) -> float | None:
    """Spearman's rank correlation, in [-1, 1]; ties get their mean rank.

    `None` where a prior is missing or the same for every word.
    """
    if first is None or second is None or len(set(first)) < 2 or len(set(second)) < 2:
        return None
    return float(np.corrcoef(rankdata(first), rankdata(second))[0, 1])


def top_agreement(first: Prior, second: Prior, k: int = 1) -> float | None:
    """Share of the k highest words that two priors have in common, in [0, 1].

    A word that ties with the k-th counts by its chance to be among the k. `None` where a prior is missing or
    the same for every word (a text without a mark), or where k is not less than the number of words.
    """
    if first is None or second is None or k >= len(first):
        return None
    if len(set(first)) < 2 or len(set(second)) < 2:
        return None
    chances: list[list[float]] = []
    for scores in (first, second):
        edge = sorted(scores, reverse=True)[k - 1]
        above, level = sum(score > edge for score in scores), sum(score == edge for score in scores)
        tied = (k - above) / level
        chances.append([1.0 if s > edge else tied if s == edge else 0.0 for s in scores])
    return float(sum(one * other for one, other in zip(*chances, strict=True))) / k


def average_precision(prior: Prior, marked: Prior) -> float | None:
    """Average precision of the words with a positive mark, ranked by the prior, in [0, 1].

    Tied words enter the ranking together. `None` where a prior is missing, or no word or all are marked.
    """
    if prior is None or marked is None or len({score > 0 for score in marked}) < 2:
        return None
    return float(average_precision_score([score > 0 for score in marked], prior))


# --- Measures over texts.


def mean(values: Iterable[float | None]) -> dict[str, float | int | None]:
    """Mean of the values that are not `None`: `value`, `half_width` of its 95 % interval, and `texts`."""
    found = [value for value in values if value is not None]
    error = stdev(found) / math.sqrt(len(found)) if len(found) > 1 else None
    return {
        "value": fmean(found) if found else None,
        "half_width": None if error is None else 1.96 * error,
        "texts": len(found),
    }


def pairwise(
    priors: Mapping[str, Sequence[Prior]], measure: Callable[[Prior, Prior], float | None]
) -> dict[str, dict[str, float | None]]:
    """Mean of a measure between every two sources, as a symmetric table with 1 on the diagonal."""
    table: dict[str, dict[str, float | None]] = {name: {name: 1.0} for name in priors}
    for first, second in combinations(priors, 2):
        found = mean(map(measure, priors[first], priors[second]))["value"]
        table[first][second] = table[second][first] = found
    return table


def mass_by_kind(words: Sequence[Sequence[str]], priors: Sequence[Prior]) -> dict[str, float]:
    """Share of the absolute scores on each kind of word, averaged over the texts."""
    shares: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for row, prior in zip(words, priors, strict=True):
        if prior is None or not any(prior):
            continue
        mass = dict.fromkeys(KINDS, 0.0)
        for word, score in zip(row, NORMALISATIONS["max_abs"](prior), strict=True):
            kind = "stop word" if fold(word) in STOP_WORDS else "other"
            if not any(map(str.isalnum, word)):
                kind = "punctuation"
            elif any(map(str.isdigit, word)):
                kind = "number"
            mass[kind] += abs(score)
        for kind in KINDS:
            shares[kind].append(mass[kind] / sum(mass.values()))
    return {kind: fmean(found) if found else 0.0 for kind, found in shares.items()}


def leaked_mass(
    words: Sequence[Sequence[str]],
    gold: Sequence[str],
    priors: Mapping[str, Sequence[Prior]],
    shortcuts: Sequence[Mark],
) -> dict[str, dict[str, Any]]:
    """What each source puts on the words of its text's shortcuts, over the texts that have some.

    Returns:
        Per source `share`, the part of the absolute scores on these words, and `uniform`, that of a prior
        with equal scores on the same texts, both in [0, 1], with the 95 % interval of their difference as
        `excess` (see `mean`), whose texts lack those with a missing or all-zero prior.
    """
    # 0 at the words of a shortcut of the label, 1 elsewhere
    free = [without_shortcuts(row, label, None, shortcuts) for row, label in zip(words, gold, strict=True)]
    found = {}
    for source, scores in priors.items():
        shares, uniform = [], []
        for prior, kept in zip(scores, free, strict=True):
            if prior is None or not any(prior) or all(kept):
                continue
            sizes = [*map(abs, NORMALISATIONS["max_abs"](prior))]
            shares.append(1 - sum(map(mul, sizes, kept)) / sum(sizes))
            uniform.append(1 - fmean(kept))
        found[source] = {
            "share": mean(shares)["value"],
            "uniform": mean(uniform)["value"],
            "excess": mean(map(sub, shares, uniform)),
        }
    return found


def class_keywords(
    words: Sequence[Sequence[str]], gold: Sequence[str], priors: Sequence[Prior], names: Sequence[str], k: int
) -> dict[str, list[tuple[str, float]]]:
    """Of each class the k words with the highest mean prior, with that mean if it is positive.

    Priors are L2-normalised over each text. A word's score is averaged over all texts of the class,
    0 where the word is absent, so that a word seen once does not win.
    """
    texts, keywords = Counter(gold), {}
    for name in names:
        sums: defaultdict[str, float] = defaultdict(float)
        for row, label, prior in zip(words, gold, priors, strict=True):
            if label == name and prior is not None:
                for word, score in zip(row, NORMALISATIONS["l2"](prior), strict=True):
                    sums[fold(word)] += score
        ranked = sorted(sums.items(), key=lambda item: (-item[1], item[0]))[:k]
        keywords[name] = [(word, score / texts[name]) for word, score in ranked if score > 0]
    return keywords


def class_overlaps(keywords: Mapping[str, Sequence[tuple[str, float]]]) -> list[dict[str, Any]]:
    """Every two `classes` with `shared` keywords, and their Jaccard index `overlap`; the highest first."""
    pairs = []
    for first, second in combinations(keywords, 2):
        one, other = ({word for word, _ in keywords[name]} for name in (first, second))
        if shared := sorted(one & other):
            overlap = len(shared) / len(one | other)
            pairs.append({"classes": (first, second), "overlap": overlap, "shared": shared})
    return sorted(pairs, key=lambda pair: (-pair["overlap"], pair["classes"]))


def degenerate_cases(
    words: Sequence[Sequence[str]], label_names: Sequence[str], priors: Sequence[Prior]
) -> dict[str, float]:
    """Shares of texts with an uninformative prior, in [0, 1].

    `missing` is null or all zero. `single_word`: the text has one word, so nothing is compared. Of the
    texts of two words and more: `constant` has one score for every word, `one_word` a single word
    that is not 0. `label_copied`: the highest word is a word of the label's name.
    """
    counts: Counter[str] = Counter()
    for row, label, prior in zip(words, label_names, priors, strict=True):
        if prior is None or not any(prior):
            counts["missing"] += 1
            continue
        counts["single_word"] += len(prior) == 1
        counts["constant"] += len(prior) > 1 and len(set(prior)) == 1
        counts["one_word"] += len(prior) > 1 and sum(map(bool, prior)) == 1
        label_words = map(fold, re.findall(r"\w+", label_phrase(label)))
        counts["label_copied"] += fold(row[prior.index(max(prior))]) in label_words
    return {case: counts[case] / max(1, len(priors)) for case in DEGENERATE}
