"""Fusion: several priors of one text become the one that training reads."""

import logging
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from hf_cap import schema
from hf_cap.cues import Mark, load_marks, without_shortcuts
from hf_cap.errors import ConfigError, DataError, PriorError
from hf_cap.utils import check_settings, fingerprint, option, settings_class
from hf_cap.words import is_punctuation, word_strings

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

_logger = logging.getLogger(__name__)

Splits = TypeVar("Splits", "Dataset", "DatasetDict")
Scores = Sequence[float]
Normalisation = Literal["l2", "max_abs", "min_max", "softmax", "none"]
Method = Literal["mean", "max"]


# --- The priors of one text.


def _divided(scores: Scores, size: float) -> list[float]:
    return [score / size for score in scores] if size else list(scores)


def _min_max(scores: Scores) -> list[float]:
    low, high = min(scores, default=0.0), max(scores, default=0.0)
    if low == high:
        return [float(score != 0) for score in scores]
    return [(score - low) / (high - low) for score in scores]


def _softmax(scores: Scores) -> list[float]:
    high = max(scores, default=0.0)
    exponentials = [math.exp(score - high) for score in scores]
    return _divided(exponentials, sum(exponentials))


NORMALISATIONS: Mapping[Normalisation, Callable[[Scores], list[float]]] = {
    "l2": lambda scores: _divided(scores, math.hypot(*scores)),  # squares would over- or underflow
    "max_abs": lambda scores: _divided(scores, max(map(abs, scores), default=0.0)),
    "min_max": _min_max,
    "softmax": _softmax,
    "none": list,
}
"""How the finite scores of one text are scaled; sources differ by orders of magnitude.

`l2` divides by the Euclidean norm and `max_abs` by the largest absolute score; both keep signs and
ratios, and leave all zeros as they are. `min_max` maps the lowest score to 0 and the highest to 1 (equal
scores all become 1, or stay 0), and `softmax` gives positive scores that add up to 1; both lose the sign.
"""
METHODS: Mapping[Method, Callable[[Scores], float]] = {
    "mean": lambda scores: math.fsum(scores) / len(scores),  # the weights have a mean of 1
    "max": max,
}


def find_defect(scores: Scores | None, weight: float = 1.0) -> str | None:
    """Why a source cannot take part in the fusion of one text; `None` where it can."""
    if scores is None:
        return "missing"
    known = [score for score in scores if score is not None]
    if len(known) < len(scores) or any(isinstance(s, float) and not math.isfinite(s) for s in known):
        return "not finite"
    if not any(scores):
        return "all zero"
    return None if weight > 0 else "weightless"


def fuse(
    priors: Sequence[Scores | None],
    weights: Sequence[float],
    method: Method = "mean",
    normalisation: Normalisation = "l2",
) -> list[float] | None:
    """Fuse the priors of one text.

    There is one prior per source, each with one score per word, or null, and one weight per source, at least
    0: those of the sources that take part are scaled to a mean of 1 and multiply the normalised scores.
    Returns one score per word; `None` where no source is usable, or where the usable ones cancel out.
    """
    usable = [
        (NORMALISATIONS[normalisation](prior), weight)
        for prior, weight in zip(priors, weights, strict=True)
        if prior is not None and find_defect(prior, weight) is None
    ]
    if not usable:
        return None
    mean_weight = sum(weight for _, weight in usable) / len(usable)
    weighted = [[score * weight / mean_weight for score in prior] for prior, weight in usable]
    fused = [METHODS[method](scores) for scores in zip(*weighted, strict=True)]
    return fused if any(fused) else None


# --- The priors of a data set.


@settings_class
class PriorFusion:
    """How several priors become one: a map function that adds the column `prior`."""

    sources: tuple[str, ...] = option(
        (), "Sources to fuse, in the columns prior_<source>; all that there are by default."
    )
    method: Method = option("mean", "Mean or (signed) maximum over the sources, word by word.")
    normalisation: Normalisation = option(
        "l2", "Puts each source on one scale over the words of a text, before fusing."
    )
    weights: Mapping[str, float] = option(
        help="Source to weight, at least 0; 1 where it is not named. Only ratios matter.", factory=dict
    )
    certainty: Mapping[str, str] = option(
        help="Source to the diagnostic column (such as cap_r2) that multiplies its weight on each text.",
        factory=dict,
    )

    punctuation: bool = option(
        False, "Keep the scores of words that are punctuation alone, such as a `?` apart; else 0."
    )
    shortcuts: str | None = option(
        None,
        "YAML file of `hf-cap shortcuts`: words marked `shortcut` for a text's label get the score 0. "
        "Without any source, all other words get 1.",
    )
    marks: Sequence[Mark] = ()
    labels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_settings(self)
        if self.shortcuts is not None:
            loaded = load_marks(self.shortcuts, self.labels)
            object.__setattr__(self, "marks", [*self.marks, *loaded])
        strange = {mark.label for mark in self.marks} - {*self.labels}
        if self.labels and strange:  # the settings alone are checked before the data are read
            raise DataError(
                f"A shortcut is marked for the label {min(strange)!r}, which the data do not have; they have "
                f"{sorted(self.labels)[:8]!r}."
            )
        for source, weight in self.weights.items():
            if not 0 <= weight < math.inf:
                raise ConfigError(f"The weight of {source!r} must be at least 0, got {weight!r}.")
        if not self.sources:
            return
        if unknown := {*self.weights, *self.certainty} - set(self.sources):
            raise ConfigError(
                f"{min(unknown)!r} has a weight or a certainty but is not among the sources, "
                f"{list(self.sources)}."
            )
        if not any(self.weights.get(source, 1.0) for source in self.sources):
            raise ConfigError("All sources have a weight of 0; one must be positive.")

    def __call__(self, batch: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
        """The columns `prior` and `provenance` of these rows."""
        fused = []
        for row, words in enumerate(batch[schema.WORDS]):
            if schema.TEXT in batch:
                schema.check_found(batch[schema.TEXT][row], words, row=row)
            priors = [batch[schema.prior_column(source)][row] for source in self.sources]
            for source, prior in zip(self.sources, priors, strict=True):
                if find_defect(prior) != "not finite":
                    schema.check_prior(prior, words, column=schema.prior_column(source), row=row)
            weights = self.row_weights(batch, row)
            kept = [i for i, w in enumerate(words) if self.punctuation or not is_punctuation(w)]
            parts = [prior and [prior[i] for i in kept] for prior in priors]
            prior = fuse(parts, weights, self.method, self.normalisation)
            if prior:
                scores = dict(zip(kept, prior, strict=True))
                prior = [scores.get(i, 0.0) for i in range(len(words))]
            if self.marks and (prior or not self.sources):
                prior = without_shortcuts(words, self.labels[batch[schema.LABEL][row]], prior, self.marks)
            fused.append(prior)
        cells = batch.get(schema.PROVENANCE) or [None] * len(fused)
        with_facts = {cell: self._provenance(cell) for cell in set(cells)}
        return {schema.PRIOR: fused, schema.PROVENANCE: [with_facts[cell] for cell in cells]}

    def row_weights(self, batch: Mapping[str, list[Any]], row: int) -> list[float]:
        """Weight of each source on one row: its own times its certainty, 0 where that is unknown."""
        weights = []
        for source in self.sources:
            column = self.certainty.get(source)
            value = 1.0 if column is None else batch[column][row]
            known = value is not None and math.isfinite(value)
            weights.append(self.weights.get(source, 1.0) * (value if known else 0.0))
        return weights

    def _provenance(self, cell: str | None) -> str:
        """The provenance `cell` with the settings of the fusion and what its sources share."""
        made = schema.read_provenance(cell)
        left_out = ("marks", "labels", "shortcuts")
        facts = {name: value for name, value in asdict(self).items() if name not in left_out}
        if self.marks:  # what was decided, not where the file is
            facts["shortcuts"] = fingerprint(*map(str, self.marks))
        for fact in ("word_pattern", "label_space"):
            found = {s: made[s][fact] for s in self.sources if fact in made.get(s, {})}
            if len(set(map(repr, found.values()))) > 1:
                raise PriorError(
                    f"The sources were made with different {fact!r}: {found!r:.400}. Extract them "
                    "with the same settings before fusing them."
                )
            if found:
                facts[fact] = next(iter(found.values()))
        return schema.add_provenance(cell, schema.PRIOR, facts)


def fuse_priors(
    dataset: Splits, sources: Iterable[str] | None = None, method: Method = "mean", **settings: Any
) -> Splits:
    """Add the column `prior`, fused from the columns `prior_<source>`, and log what was left out.

    Args:
        dataset: Data set, or splits of one, with the columns `words` and `prior_<source>`.
        sources: Sources to fuse; all that the data set has by default.
        method: `mean` or (signed) `max` over the sources, word by word.
        settings: Other fields of `PriorFusion`: `normalisation`, `weights`, `certainty`, `punctuation`, the
            file `shortcuts`, or `marks`: shortcuts in Python, as `[one.mark for one in find_shortcuts(...)]`.

    Returns:
        The data set with `prior` (null where no source is usable) and its entry in `provenance`.

    Raises:
        ConfigError: a setting cannot work.
        DataError: a column is missing.
        PriorError: a prior has not one score per word, or sources differ in words or labels.
    """
    from datasets import DatasetDict, Features, List, Value

    from hf_cap.data import label_names

    splits: Any = dataset if isinstance(dataset, DatasetDict) else {"": dataset}
    first = next(iter(splits.values()))
    names: tuple[str, ...] = tuple(sources or schema.prior_sources(first.features))
    if settings.get("shortcuts") or settings.get("marks"):
        settings["labels"] = tuple(label_names(first))
        splits = {name: _with_words(split) for name, split in splits.items()}
    fusion: PriorFusion = PriorFusion(sources=names, method=method, **settings)
    if not names and not fusion.marks:
        names = ("<source>",)
    needed = [schema.WORDS, *map(schema.prior_column, names), *fusion.certainty.values()]
    added = {schema.PRIOR: List(Value("float64")), schema.PROVENANCE: Value("string")}
    fused = DatasetDict()
    for name, split in splits.items():
        if missing := [column for column in needed if column not in split.column_names]:
            raise DataError(
                f"The fusion needs the column {missing[0]!r}; the data set has {split.column_names}. "
                "Run `hf-cap extract` first, or leave this source out."
            )
        features = Features({**split.features, **added})
        fused[name] = split.map(fusion, batched=True, features=features, desc="Fusing priors")
    _log_left_out(fused, fusion)
    return fused if isinstance(dataset, DatasetDict) else fused[""]


def _with_words(split: "Dataset") -> "Dataset":
    """A split that has the column `words`: that of the sources, else made here."""
    if schema.WORDS in split.column_names:
        return split
    return split.add_column(schema.WORDS, [word_strings(text) for text in split[schema.TEXT]])


def _log_left_out(splits: "DatasetDict", fusion: PriorFusion) -> None:
    left_out: Counter[tuple[str, str]] = Counter()
    empty = 0
    for split in splits.values():
        columns = {schema.PRIOR, *map(schema.prior_column, fusion.sources), *fusion.certainty.values()}
        batch = {column: split[column][:] for column in columns}
        empty += sum(prior is None for prior in batch[schema.PRIOR])
        for row in range(len(split)):
            row_weights = fusion.row_weights(batch, row)
            for source, weight in zip(fusion.sources, row_weights, strict=True):
                if defect := find_defect(batch[schema.prior_column(source)][row], weight):
                    left_out[source, defect] += 1
    if empty or left_out:
        _logger.info(
            "%d of %d texts have no prior%s.", empty, sum(map(len, splits.values())),
            "".join(f"; {s} was left out of {n} ({why})" for (s, why), n in sorted(left_out.items())),
        )  # fmt: skip
