"""Models of tables: what a language model told of each feature, beside what each model learnt."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from .groups import RunGroup
from .loading import Run
from .results import estimate
from .values import Feature, FeatureTable

_Vector = NDArray[np.float64]


def feature_tables(groups: Sequence[RunGroup]) -> tuple[FeatureTable, ...]:
    """The features of each output that a run tells of; none for models of texts.

    What was told is that of the first aligned group, so that controls are held against the same scores. All
    vectors have unit length, as in the alignment loss: only directions are compared.

    Args:
        groups: Runs on one table.
    """
    names = _names([run for group in groups for run in group.runs])
    told = _told(groups)
    return tuple(
        _table(output, features, told.get(output, {}), groups) for output, features in names.items()
    )


def _names(runs: Sequence[Run]) -> dict[str, list[str]]:
    """Output to its features, in the order of the inputs."""
    found: dict[str, dict[str, None]] = {}
    for run in runs:
        for one in run.facts.get("features") or ():
            found.setdefault(str(one["class"]), {})[str(one["feature"])] = None
    return {output: list(features) for output, features in found.items()}


def _told(groups: Sequence[RunGroup]) -> dict[str, dict[str, float]]:
    """Output to the scores of its features."""
    ranked = sorted(groups, key=lambda group: group.shown.role != "aligned")
    for group in ranked:
        found: dict[str, dict[str, float]] = {}
        for one in group.runs[0].facts.get("features") or ():
            if one.get("score") is not None:
                found.setdefault(str(one["class"]), {})[str(one["feature"])] = float(one["score"])
        if found:
            return found
    return {}


def _table(
    output: str, names: Sequence[str], told: Mapping[str, float], groups: Sequence[RunGroup]
) -> FeatureTable:
    scores = _unit(np.array([told.get(name, 0.0) for name in names]))
    by_group = [
        [_unit(vector) for run in group.runs if (vector := _learnt(run, output, names)) is not None]
        for group in groups
    ]
    rows = [
        Feature(
            name,
            float(scores[place]) if name in told else None,
            tuple(estimate([float(vector[place]) for vector in vectors]) for vectors in by_group),
        )
        for place, name in enumerate(names)
    ]
    known = np.array([name in told for name in names])
    cosines = [
        estimate([float(scores @ _unit(np.where(known, vector, 0.0))) for vector in vectors])
        for vectors in by_group
    ]
    return FeatureTable(
        output,
        tuple(sorted(rows, key=_weight, reverse=True)),
        {group: cosine for group, cosine in enumerate(cosines) if cosine and scores.any()},
    )


def _learnt(run: Run, output: str, names: Sequence[str]) -> _Vector | None:
    """The attributions of one output, 0 where a run does not tell of a feature."""
    found = {
        str(one["feature"]): float(one["attribution"])
        for one in run.facts.get("features") or ()
        if str(one["class"]) == output
    }
    return np.array([found.get(name, 0.0) for name in names]) if found else None


def _unit(vector: _Vector) -> _Vector:
    length = float(np.linalg.norm(vector))
    return vector / length if length else vector


def _weight(feature: Feature) -> float:
    return max(abs(feature.told or 0.0), *(abs(one.mean) for one in feature.learnt if one), 0.0)
