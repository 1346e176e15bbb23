"""Audit of priors: what each source names, whether sources say the same, whether classes share keywords.

Nothing is trained. The measures are pure functions in `audit_measures`; figures are drawn in `audit_figures`.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from datasets import Dataset

from ..data import label_names, prior_sources
from ..errors import ConfigError, DataError
from ..files import write_json
from ..schema import (
    LABEL,
    PRIOR,
    PROVENANCE,
    TEXT,
    WORDS,
    check_prior,
    prior_column,
    read_provenance,
)
from ..word_counts import count_words, fold, log_odds
from ..words import WORD_PATTERN
from .audit_measures import (
    ClassPair,
    Mean,
    Prior,
    average_precision,
    class_keywords,
    class_overlaps,
    degenerate_cases,
    mass_by_kind,
    mean,
    pairwise,
    spearman,
    top_agreement,
)
from .controls import random_scores
from .source_settings import AuditSettings

_RATIONALE = "rationale"
_BINS = 20


@dataclass(frozen=True, slots=True)
class Distribution:
    """A diagnostic column over the texts.

    Attributes:
        quantiles: Minimum, quartiles and maximum.
        edges: Edges of the histogram's bins, one more than counts.
        counts: Texts in each bin.
    """

    quantiles: tuple[float, ...]
    edges: tuple[float, ...]
    counts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Agreement:
    """How well a source orders the words of a text, against a standard for each word.

    Attributes:
        rank_correlation: Spearman's correlation with the standard over the words of a text.
        top_word: How often the source's highest word is the standard's.
        average_precision: Of the words that the standard speaks for (score above 0), ranked by the source.
    """

    rank_correlation: Mean
    top_word: Mean
    average_precision: Mean


@dataclass(frozen=True, slots=True)
class Audit:
    """Result of an audit; every table is keyed by source.

    Attributes:
        texts: Texts audited.
        sources: Sources audited; `prior` is the fused column.
        rank_correlation: Spearman's correlation between two sources (and the controls) over the words of
            a text, averaged over texts. High values everywhere: the sources say the same (homogenisation).
        top_k_agreement: Share of the `top_k` highest words that two sources have in common.
        keywords: For each class its keywords with their mean prior.
        class_overlap: Mean Jaccard index of the keywords over all pairs of classes.
        confused_classes: The pairs of classes with the most overlap.
        mass: Share of the absolute scores on each kind of word.
        degenerate: Shares of texts with a prior that says little.
        certainty: Distribution of each diagnostic column.
        rationales: Agreement with what people marked, where there is a `prior_rationale`.
        log_odds: Agreement with the log-odds of each word for the gold class in the reference data
            (`word_counts.log_odds`), where there are any: a measure of a prior's worth without training.
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
    dataset: Dataset,
    reference: Dataset | None = None,
    output: str | os.PathLike[str] | None = None,
    settings: AuditSettings | None = None,
) -> Audit:
    """Audit the priors of a data set.

    Args:
        dataset: With `words`, a `ClassLabel` column `label`, and at least one prior column.
        reference: A larger labelled split of the same label space, with `text` and `label`. It should be
            data that no source has learnt from, or has seen as a whole.
        output: Folder for `audit.json` and the figures; nothing is written by default.
        settings: Settings of the audit.

    Raises:
        ConfigError: the priors were made with another word pattern than that of the settings, or with
            several.
        DataError: a column is missing, or the reference has other labels.
        PriorError: a prior has not one finite score a word.
        MissingExtra: figures are asked for, and matplotlib is not installed.
    """
    settings = settings or AuditSettings()
    data = _read(dataset)
    compared = {**data.priors, **_controls(data)}
    standard = None
    if reference is not None:
        pattern = _word_pattern(dataset, settings.word_pattern)
        standard = _reference_scores(data, reference, pattern)
    audit = Audit(
        texts=len(dataset),
        sources=tuple(data.priors),
        top_k=settings.top_k,
        rank_correlation=pairwise(compared, spearman),
        top_k_agreement=pairwise(compared, partial(top_agreement, k=settings.top_k)),
        **_keyword_tables(data, settings),
        mass={source: mass_by_kind(data.words, scores) for source, scores in compared.items()},
        degenerate={
            source: degenerate_cases(data.words, data.gold, scores)
            for source, scores in data.priors.items()
        },
        certainty=_certainty(dataset, data.priors),
        rationales=_agreements(compared, compared.get(_RATIONALE)),
        log_odds=_agreements(compared, standard),
    )
    if output is not None:
        write_audit(audit, output)
    return audit


def write_audit(audit: Audit, output: str | os.PathLike[str]) -> None:
    """Write `audit.json` and the figures, each as PNG and SVG, into a folder.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    from .audit_figures import draw_figures

    folder = Path(output)
    write_json(folder / "audit.json", audit.to_dict())
    draw_figures(audit, folder)


class _Data(NamedTuple):
    """What is audited: words and label of each text, label names, and the priors of each source."""

    words: list[list[str]]
    labels: list[int]
    names: list[str]
    priors: dict[str, list[Prior]]

    @property
    def gold(self) -> list[str]:
        return [self.names[label] for label in self.labels]


def _read(dataset: Dataset) -> _Data:
    columns = {source: prior_column(source) for source in prior_sources(dataset.features)}
    if PRIOR in dataset.column_names:
        columns[PRIOR] = PRIOR
    if not columns or WORDS not in dataset.column_names:
        raise DataError(
            f"There are no priors to audit: the data set has the columns {dataset.column_names}, but needs "
            f"{WORDS!r} and a column prior_<source>. Run `hf-cap extract` first."
        )
    names = label_names(dataset)
    words = list(dataset[WORDS])
    priors = {source: list(dataset[column]) for source, column in columns.items()}
    for source, scores in priors.items():
        for row, (one, row_words) in enumerate(zip(scores, words, strict=True)):
            check_prior(one, row_words, column=columns[source], row=row)
    return _Data(words, list(dataset[LABEL]), names, priors)


def _controls(data: _Data) -> dict[str, list[Prior]]:
    controls: dict[str, list[Prior]] = {
        "random": [random_scores([0.0] * len(row), " ".join(row)) for row in data.words],
        "word_length": [list(map(len, row)) for row in data.words],
    }
    return {name: scores for name, scores in controls.items() if name not in data.priors}


def _keyword_tables(data: _Data, settings: AuditSettings) -> dict[str, Any]:
    """The fields of `Audit` about the keywords of classes."""
    classes = len(data.names)
    keywords, overlaps = {}, {}
    for source, scores in data.priors.items():
        found = class_keywords(data.words, data.labels, scores, classes, settings.keywords)
        keywords[source] = dict(zip(data.names, found, strict=True))
        overlaps[source] = class_overlaps(
            {name: [word for word, _ in kept] for name, kept in keywords[source].items()}
        )
    all_pairs = max(1, classes * (classes - 1) // 2)
    return {
        "keywords": keywords,
        "class_overlap": {
            source: sum(pair.overlap for pair in pairs) / all_pairs
            for source, pairs in overlaps.items()
        },
        "confused_classes": {source: pairs[: settings.pairs] for source, pairs in overlaps.items()},
    }


def _agreements(
    priors: Mapping[str, Sequence[Prior]], standard: Sequence[Prior] | None
) -> dict[str, Agreement] | None:
    """Agreement of each source with a standard; `None` without one."""
    if standard is None:
        return None
    return {
        source: Agreement(
            *(
                mean([measure(*pair) for pair in zip(scores, standard, strict=True)])
                for measure in (spearman, top_agreement, average_precision)
            )
        )
        for source, scores in priors.items()
        if scores is not standard
    }


def _word_pattern(dataset: Dataset, asked: str | None) -> str:
    """The pattern of the words that have scores: that of the provenance, else `asked`, else the default."""
    cells = set(dataset[PROVENANCE]) if PROVENANCE in dataset.column_names else set()
    facts = [made for cell in cells for made in read_provenance(cell).values()]
    patterns = {made["word_pattern"] for made in facts if "word_pattern" in made}
    if asked is None:
        if len(patterns) > 1:
            raise ConfigError(
                f"The priors were made with several word patterns, {sorted(patterns)}. Name one of them as "
                "`word_pattern`, or extract the sources again with the same."
            )
        return next(iter(patterns), WORD_PATTERN)
    if patterns and asked not in patterns:
        raise ConfigError(
            f"word_pattern={asked!r} finds other words in the reference than the priors were made for, by "
            f"{sorted(patterns)}. Leave it out."
        )
    return asked


def _reference_scores(data: _Data, reference: Dataset, pattern: str) -> list[Prior]:
    """Log-odds of each word for the gold class of its text, counted in the reference."""
    others = label_names(reference)
    if set(others) != set(data.names):
        raise DataError(
            "The reference has other labels than the priors: "
            f"{sorted(set(others) ^ set(data.names))[:5]!r} are in only one of them. Give a split of "
            "this data."
        )
    index = [data.names.index(name) for name in others]
    counts = count_words(
        reference[TEXT],
        [index[label] for label in reference[LABEL]],
        len(data.names),
        pattern,
    )
    table = {word: log_odds(counts, word) for row in data.words for word in map(fold, row)}
    return [
        [table[fold(word)][label] for word in row]
        for row, label in zip(data.words, data.labels, strict=True)
    ]


def _certainty(dataset: Dataset, sources: Mapping[str, Any]) -> dict[str, Distribution]:
    """Distributions of the numeric diagnostic columns `<source>_<what>`."""
    found = {}
    for column in dataset.column_names:
        numeric = getattr(dataset.features[column], "dtype", "").startswith(("float", "int"))
        if numeric and any(column.startswith(f"{source}_") for source in sources):
            values = np.array([v for v in dataset[column] if v is not None], dtype=float)
            if values.size and np.isfinite(values).all():
                counts, edges = np.histogram(values, bins=_BINS)
                quantiles = np.quantile(values, [0, 0.25, 0.5, 0.75, 1])
                found[column] = Distribution(
                    tuple(quantiles.tolist()), tuple(edges.tolist()), tuple(counts.tolist())
                )
    return found
