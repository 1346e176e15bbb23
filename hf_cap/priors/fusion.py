"""Normalisation of the scores of one text, so that priors of different sources can be compared.

Sources differ by orders of magnitude (nats for `cap`, probabilities for `lime`, characters for
`word_length`), and one source differs from text to text. Pure functions of one list of scores.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any, Literal, TypeVar

from datasets import Dataset, DatasetDict, Features, List, Value

from hf_cap.errors import ConfigError, DataError, PriorError
from hf_cap.priors.base import FusionSettings, How, Normalisation
from hf_cap.schema import (
    PRIOR,
    PROVENANCE,
    WORDS,
    add_provenance,
    check_prior,
    prior_column,
    prior_sources,
    read_provenance,
)


def normalise(scores: Sequence[float], how: Normalisation = "l2") -> list[float]:
    """Scores of one text on the scale that `how` names.

    Args:
        scores: One finite score a word, positive = evidence for the gold label.
        how: `l2` divides by the Euclidean norm and `max_abs` by the largest absolute score (both keep
            signs and ratios, and leave all zeros as they are). `min_max` maps the lowest score to 0 and
            the highest to 1; equal scores all become 1, or stay 0. `softmax` gives positive scores that
            add up to 1. `none` changes nothing. `min_max` and `softmax` lose the sign.

    Raises:
        ConfigError: `how` is none of these.
    """
    if how not in NORMALISATIONS:
        raise ConfigError(f"`normalisation` must be one of {sorted(NORMALISATIONS)}, got {how!r}.")
    return NORMALISATIONS[how](scores)


def _l2(scores: Sequence[float]) -> list[float]:
    norm = math.hypot(*scores)  # whose squares neither overflow nor vanish
    return [score / norm for score in scores] if norm else list(scores)


def _max_abs(scores: Sequence[float]) -> list[float]:
    largest = max(map(abs, scores), default=0.0)
    return [score / largest for score in scores] if largest else list(scores)


def _min_max(scores: Sequence[float]) -> list[float]:
    low, high = min(scores, default=0.0), max(scores, default=0.0)
    if low == high:
        return [float(score != 0) for score in scores]
    return [(score - low) / (high - low) for score in scores]


def _softmax(scores: Sequence[float]) -> list[float]:
    high = max(scores, default=0.0)
    exponentials = [math.exp(score - high) for score in scores]
    total = sum(exponentials)
    return [value / total for value in exponentials]


NORMALISATIONS: Mapping[Normalisation, Callable[[Sequence[float]], list[float]]] = MappingProxyType(
    {"l2": _l2, "max_abs": _max_abs, "min_max": _min_max, "softmax": _softmax, "none": list}
)


# --- Fusion: several priors of one text become the one that training reads.


Defect = Literal["missing", "not_finite", "all_zero", "weightless"]
Splits = TypeVar("Splits", Dataset, DatasetDict)

HOW: Mapping[How, Callable[[Iterable[float]], float]] = MappingProxyType(
    # the weights of a text are scaled to a mean of 1, so a plain mean is the weighted one
    {"mean": lambda scores: math.fsum(found := list(scores)) / len(found), "max": max}
)
_SHARED_FACTS = ("word_pattern", "label_space")
"""Facts that all sources of one prior must have in common; the fused prior inherits them."""


@dataclass(frozen=True, slots=True)
class FusionSummary:
    """What a fusion had to leave out.

    Attributes:
        texts: Texts seen.
        without_prior: Texts that no source had a usable prior for, or whose sources cancelled out.
        left_out: For each source the number of texts it was left out of, by reason: `missing` (null),
            `not_finite` (NaN or infinite), `all_zero`, `weightless` (its certainty is 0 or unknown).
    """

    texts: int
    without_prior: int
    left_out: Mapping[str, Mapping[Defect, int]]

    def __str__(self) -> str:
        """One line for a log."""
        gaps = [
            f"{source}: {count} {reason.replace('_', ' ')}"
            for source, reasons in self.left_out.items()
            for reason, count in reasons.items()
        ]
        left_out = f"; left out of the fusion: {', '.join(gaps)}" if gaps else ""
        return f"{self.without_prior} of {self.texts} texts have no prior{left_out}."

    def to_dict(self) -> dict[str, Any]:
        """The summary as plain JSON values."""
        return {
            "texts": self.texts,
            "without_prior": self.without_prior,
            "left_out": {source: dict(reasons) for source, reasons in self.left_out.items()},
        }


def find_defect(scores: Sequence[float] | None, weight: float = 1.0) -> Defect | None:
    """Why a source cannot take part in the fusion of one text; `None` where it can."""
    if scores is None:
        return "missing"
    if not all(score is not None and math.isfinite(score) for score in scores):
        return "not_finite"
    if not any(scores):
        return "all_zero"
    return None if weight > 0 else "weightless"


def fuse(
    priors: Sequence[Sequence[float] | None],
    weights: Sequence[float] | None = None,
    *,
    how: How = "mean",
    normalisation: Normalisation = "l2",
) -> list[float] | None:
    """Fuse the priors of one text.

    Args:
        priors: One prior a source, each with one score a word, or null.
        weights: One weight a source, at least 0; equal by default. Those of the sources that take part
            are scaled to a mean of 1 and multiply the normalised scores.
        how: `mean` or `max` over the sources, word by word. `max` is the signed maximum.
        normalisation: Applied to each source over the words of the text, before fusing.

    Returns:
        One score a word; `None` where no source is usable, or where the usable ones cancel out.
    """
    weights = [1.0] * len(priors) if weights is None else weights
    usable = [
        (normalise(prior, normalisation), weight)
        for prior, weight in zip(priors, weights, strict=True)
        if prior is not None and find_defect(prior, weight) is None
    ]
    if not usable:
        return None
    mean_weight = sum(weight for _, weight in usable) / len(usable)
    weighted = [[score * weight / mean_weight for score in prior] for prior, weight in usable]
    fused = [HOW[how](scores) for scores in zip(*weighted, strict=True)]
    return fused if any(fused) else None


@dataclass(frozen=True, kw_only=True)
class PriorFusion(FusionSettings):
    """Map function that adds the column `prior` to a batch of rows. Settings: see `FusionSettings`."""

    def __call__(self, batch: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
        """The columns `prior` and `provenance` of these rows."""
        fused = []
        for row, words in enumerate(batch[WORDS]):
            priors = [batch[prior_column(source)][row] for source in self.sources]
            for source, prior in zip(self.sources, priors, strict=True):
                if find_defect(prior) != "not_finite":
                    check_prior(prior, words, column=prior_column(source), row=row)
            weights = self.row_weights(batch, row)
            fused.append(fuse(priors, weights, how=self.how, normalisation=self.normalisation))
        cells = batch.get(PROVENANCE) or [None] * len(fused)
        with_facts = {cell: _with_facts(cell, self) for cell in set(cells)}
        return {PRIOR: fused, PROVENANCE: [with_facts[cell] for cell in cells]}

    def row_weights(self, batch: Mapping[str, list[Any]], row: int) -> list[float]:
        """Weight of each source on one row: its own times its certainty, 0 where that is unknown."""
        return [
            self.weights.get(source, 1.0)
            * (_certainty(batch[self.certainty[source]][row]) if source in self.certainty else 1.0)
            for source in self.sources
        ]


def fuse_priors(
    dataset: Splits,
    sources: Sequence[str] = (),
    *,
    how: How = "mean",
    normalisation: Normalisation = "l2",
    weights: Mapping[str, float] | None = None,
    certainty: Mapping[str, str] | None = None,
) -> Splits:
    """Add the column `prior`, fused from the columns `prior_<source>`.

    Args:
        dataset: Data set, or splits of one, with the columns `words` and `prior_<source>`.
        sources: Sources to fuse; all that the data set has by default.
        how: `mean` or `max` over the sources, word by word.
        normalisation: `l2`, `max_abs`, `min_max`, `softmax` or `none`, over the words of each text.
        weights: Source to weight, at least 0; 1 where it is not named. Only ratios matter.
        certainty: Source to a diagnostic column, such as `{"cap": "cap_r2"}`, whose value on a text (0 or
            less: leave the source out) multiplies the weight of the source on that text.

    Returns:
        The data set with `prior` (null where no source is usable) and its entry in `provenance`.

    Raises:
        ConfigError: a setting cannot work.
        DataError: a column is missing.
        PriorError: a prior has not one score a word, or sources were made with different words or labels.
    """
    settings = PriorFusion(
        sources=tuple(sources),
        how=how,
        normalisation=normalisation,
        weights=dict(weights or {}),
        certainty=dict(certainty or {}),
    )
    return fuse_with_summary(dataset, settings)[0]


def fuse_with_summary(dataset: Splits, settings: FusionSettings) -> tuple[Splits, FusionSummary]:
    """As `fuse_priors`, with a summary of what had to be left out."""
    splits = dataset if isinstance(dataset, DatasetDict) else DatasetDict({"": dataset})
    first = next(iter(splits.values()))
    sources = settings.sources or tuple(prior_sources(first.features))
    fusion = PriorFusion(**{**vars(settings), "sources": sources})
    _check_settings(fusion, first.column_names)
    fused = DatasetDict({name: _fuse_split(split, fusion) for name, split in splits.items()})
    summary = _summarise(fused, fusion)
    return (fused if isinstance(dataset, DatasetDict) else fused[""]), summary


def _fuse_split(split: Dataset, fusion: PriorFusion) -> Dataset:
    needed = [WORDS, *map(prior_column, fusion.sources), *fusion.certainty.values()]
    if missing := [column for column in needed if column not in split.column_names]:
        raise DataError(
            f"The fusion needs the column {missing[0]!r}; the data set has {split.column_names}. "
            "Extract this prior first, or leave its source out."
        )
    features = Features(
        {**split.features, PRIOR: List(Value("float64")), PROVENANCE: Value("string")}
    )
    return split.map(fusion, batched=True, features=features, desc="Fusing priors")


def _check_settings(fusion: PriorFusion, columns: Sequence[str]) -> None:
    if not fusion.sources:
        raise DataError(
            f"There is no prior to fuse: no column prior_<source> among {list(columns)}. "
            "Run `hf-cap extract`, or map a source such as `CAPPrior` over the data set."
        )
    for setting in (fusion.weights, fusion.certainty):
        if unknown := sorted(set(setting) - set(fusion.sources)):
            raise ConfigError(
                f"{unknown[0]!r} has a weight or a certainty but is not fused; the sources are "
                f"{list(fusion.sources)}."
            )
    for source, weight in fusion.weights.items():
        if not (math.isfinite(weight) and weight >= 0):
            raise ConfigError(f"The weight of {source!r} must be at least 0, got {weight!r}.")
    if not any(fusion.weights.get(source, 1.0) for source in fusion.sources):
        raise ConfigError("All sources have a weight of 0; give at least one a positive weight.")


def _summarise(splits: DatasetDict, fusion: PriorFusion) -> FusionSummary:
    left_out: dict[str, Counter[Defect]] = {source: Counter() for source in fusion.sources}
    empty = 0
    for split in splits.values():
        columns = [PRIOR, *map(prior_column, fusion.sources), *fusion.certainty.values()]
        batch = {column: split[column][:] for column in dict.fromkeys(columns)}
        empty += sum(prior is None for prior in batch[PRIOR])
        for row in range(len(split)):
            row_weights = fusion.row_weights(batch, row)
            for source, weight in zip(fusion.sources, row_weights, strict=True):
                if defect := find_defect(batch[prior_column(source)][row], weight):
                    left_out[source][defect] += 1
    return FusionSummary(
        texts=sum(map(len, splits.values())),
        without_prior=empty,
        left_out={source: dict(reasons) for source, reasons in left_out.items() if reasons},
    )


def _certainty(value: float | None) -> float:
    return max(float(value), 0.0) if value is not None and math.isfinite(value) else 0.0


def _with_facts(cell: str | None, fusion: PriorFusion) -> str:
    """The provenance `cell` with the facts of the fusion and what its sources have in common."""
    made = read_provenance(cell)
    facts = asdict(fusion)
    for fact in _SHARED_FACTS:
        found = {s: made[s][fact] for s in fusion.sources if fact in made.get(s, {})}
        if len(set(map(repr, found.values()))) > 1:
            raise PriorError(
                f"The sources were made with different {fact!r}: {found!r:.400}. Extract them with the "
                "same settings before fusing them."
            )
        if found:
            facts[fact] = next(iter(found.values()))
    return add_provenance(cell, PRIOR, facts)
