"""Feature scores: how much each feature speaks for each class, with what is known of how they were made.

On disk a small data set, one row a class and feature:

    class, feature, description, score, estimates, missing, reasons, provenance
"""

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from datasets import Dataset, Features, List, Value, load_dataset
from numpy.typing import NDArray

from ..data import read_parquet
from ..errors import ConfigError, DataError, PriorError
from ..randomness import generator
from ..schema import PROVENANCE
from .schema import read_words

CLASS, FEATURE, SCORE = "class", "feature", "score"

COLUMNS = Features(
    {
        CLASS: Value("string"),
        FEATURE: Value("string"),
        "description": Value("string"),
        SCORE: Value("float64"),
        "estimates": List(Value("float64")),
        "missing": Value("int32"),
        "reasons": List(Value("string")),
        PROVENANCE: Value("string"),
    }
)


@dataclass(frozen=True)
class FeatureScore:
    """One feature's score for one class."""

    label: str
    """The class, or the target of a regression."""
    feature: str
    score: float | None
    """Positive where a larger value makes the class likelier; in [-10, 10] as elicited. `None`: not known."""
    description: str = ""
    estimates: tuple[float, ...] = ()
    """The answers that the score is the mean of."""
    missing: int = 0
    """Answers in which no score was found."""
    reasons: tuple[str, ...] = ()
    """What the language model wrote, one a counted answer."""


@dataclass(frozen=True)
class FeatureScores:
    """The scores of a table's features, and how they were made.

    Raises:
        PriorError: a score is not finite, or a class and feature occurs twice.
    """

    scores: tuple[FeatureScore, ...]
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        seen = set()
        for one in self.scores:
            if one.score is not None and not math.isfinite(one.score):
                raise PriorError(
                    f"The score of {one.feature!r} for {one.label!r} is {one.score!r}; scores are finite "
                    "numbers, or null where nothing is known."
                )
            if (one.label, one.feature) in seen:
                raise PriorError(f"{one.feature!r} has two scores for the class {one.label!r}.")
            seen.add((one.label, one.feature))

    @classmethod
    def of(
        cls, values: Mapping[str, Mapping[str, float | None]], **provenance: Any
    ) -> "FeatureScores":
        """Scores given as class -> feature -> score."""
        return cls(
            tuple(
                FeatureScore(label, str(feature), None if score is None else float(score))
                for label, row in values.items()
                for feature, score in row.items()
            ),
            provenance,
        )

    def matrix(
        self, outputs: Sequence[str], features: Sequence[str]
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Scores as `(outputs, features)`, 0 where there is none, and where there is one.

        Raises:
            PriorError: no score fits, or scores name a class or feature that the model has not.
        """
        rows = {name: index for index, name in enumerate(outputs)}
        places = {name: index for index, name in enumerate(features)}
        for kind, got, known in (
            ("class", {one.label for one in self.scores}, rows),
            ("feature", {one.feature for one in self.scores}, places),
        ):
            if strange := sorted(got - known.keys()):
                raise PriorError(
                    f"There are scores for the {kind} {strange[:3]!r}, but the table has "
                    f"{list(known)[:8]!r}. Elicit them for this table and description."
                )
        values = np.zeros((len(outputs), len(features)))
        known_ = np.zeros_like(values, dtype=bool)
        for one in self.scores:
            if one.score is not None:
                values[rows[one.label], places[one.feature]] = one.score
                known_[rows[one.label], places[one.feature]] = True
        if not values.any():
            raise PriorError("All feature scores are 0 or missing; there is nothing to align with.")
        return values, known_

    def control(self, name: str, seed: int = 0) -> "FeatureScores":
        """Scores that a control of `CONTROLS` puts in the place of these, drawn by `seed`.

        Raises:
            ConfigError: there is no such control.
        """
        if name not in CONTROLS:
            raise ConfigError(f"There is no control {name!r}; there are {sorted(CONTROLS)}.")
        rng = generator(seed, name)
        made: list[FeatureScore] = []
        for label in dict.fromkeys(one.label for one in self.scores):
            row = [one for one in self.scores if one.label == label]
            known = np.array([one.score for one in row if one.score is not None])
            drawn = iter(CONTROLS[name](known, rng).tolist())
            made += [replace(one, score=None if one.score is None else next(drawn)) for one in row]
        return FeatureScores(tuple(made), {**self.provenance, "control": name})

    def to_dataset(self) -> Dataset:
        """The scores as a data set with the columns `COLUMNS`."""
        cell = json.dumps(dict(self.provenance), sort_keys=True)
        rows = [
            {
                CLASS: one.label,
                FEATURE: one.feature,
                "description": one.description,
                SCORE: one.score,
                "estimates": list(one.estimates),
                "missing": one.missing,
                "reasons": list(one.reasons),
                PROVENANCE: cell,
            }
            for one in self.scores
        ]
        return Dataset.from_list(rows, features=COLUMNS)

    @classmethod
    def from_dataset(cls, dataset: Dataset) -> "FeatureScores":
        """The scores of a data set; all columns but class, feature and score may be absent.

        Raises:
            DataError: one of these columns is missing.
        """
        if absent := {CLASS, FEATURE, SCORE} - set(dataset.column_names):
            raise DataError(
                f"Feature scores need the columns {sorted(absent)!r}; found {dataset.column_names}."
            )
        rows: list[dict[str, Any]] = list(dataset)
        scores = tuple(
            FeatureScore(
                row[CLASS],
                row[FEATURE],
                row[SCORE],
                row.get("description") or "",
                tuple(row.get("estimates") or ()),
                row.get("missing") or 0,
                tuple(row.get("reasons") or ()),
            )
            for row in rows
        )
        cell = rows[0].get(PROVENANCE) if rows else None
        return cls(scores, json.loads(cell) if cell else {})


def load_scores(name: str | os.PathLike[str]) -> FeatureScores:
    """Scores from a YAML or JSON file (class: {feature: score}), a folder of `hf-cap elicit`, or the Hub.

    Raises:
        DataError: there is nothing of that name, or it does not hold scores.
    """
    path = Path(name).expanduser()
    if path.suffix in (".json", ".yaml", ".yml"):
        try:
            values = {
                label: {feature: float(score) for feature, score in row.items()}
                for label, row in read_words(path).items()
            }
        except (OSError, yaml.YAMLError, AttributeError, ValueError) as error:
            raise DataError(
                f"Cannot read feature scores from {str(name)!r}: {error}. It holds class: {{feature: score}}."
            ) from error
        return FeatureScores.of(values, source="file")
    try:
        if path.is_dir():
            dataset = read_parquet(path / "train.parquet")
        else:
            dataset = load_dataset(str(name), split="train")
    except (FileNotFoundError, ValueError) as error:
        raise DataError(f"There are no feature scores {str(name)!r}: {error}") from error
    return FeatureScores.from_dataset(dataset)


CONTROLS = {
    "shuffled": lambda scores, rng: rng.permutation(scores),
    "sign_flipped": lambda scores, rng: -scores,
    "random": lambda scores, rng: rng.normal(size=len(scores)),
}
"""Name of a control to a function of the scores of one class and a generator."""


def sharpened(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """sign(s)·exp|s|; 0 stays 0."""
    return np.sign(scores) * np.exp(np.abs(scores))
