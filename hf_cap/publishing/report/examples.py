"""The texts of the example browser, with every score that there is for them, side by side."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...data import evenly, prior_sources
from ...schema import LABEL, PRIOR, TEXT, WORDS, prior_column
from .audit import FUSED
from .groups import RunGroup, baseline_of
from .loading import Columns, PriorFolder, Run
from .values import Example, Examples, Lane, Prediction

_BEFORE, _AFTER = "before", "after"


@dataclass(frozen=True)
class Pair:
    """The two models whose attributions are compared: runs of one seed where there are such.

    Attributes:
        before: Without alignment; `None` where there is no baseline.
        after: With alignment; `None` where all runs are baselines.
        names: Names of their groups.
    """

    before: Run | None
    after: Run | None
    names: tuple[str, str]


@dataclass(frozen=True)
class _Row:
    """A text with its scores by lane key: a source, `prior`, `before` or `after`."""

    set: int
    text: str
    words: Sequence[str]
    label: str
    scores: Mapping[str, Sequence[float] | None]
    before: Prediction | None = None
    after: Prediction | None = None


def choose_pair(groups: Sequence[RunGroup]) -> Pair:
    """The first aligned group (a control, where there is no other) beside its baseline."""
    ranked = [
        i for role in ("aligned", "control") for i, g in enumerate(groups) if g.shown.role == role
    ]
    if not ranked:
        return Pair(groups[0].runs[0], None, (groups[0].shown.name, ""))
    after = groups[ranked[0]]
    index = baseline_of(ranked[0], groups)
    if index is None:
        return Pair(None, after.runs[0], ("", after.shown.name))
    before = groups[index]
    names = (before.shown.name, after.shown.name)
    for run, seed in zip(after.runs, after.shown.seeds, strict=True):
        if seed in before.shown.seeds:
            return Pair(before.runs[before.shown.seeds.index(seed)], run, names)
    return Pair(before.runs[0], after.runs[0], names)


def collect_examples(
    pair: Pair, priors: PriorFolder | None, *, first: str | None, most: int
) -> Examples:
    """The texts of all sets, evenly thinned out to `most`.

    Args:
        pair: The models. Their records are joined by text, as are the priors.
        priors: Further priors; its splits of which no text was evaluated are sets of their own.
        first: Name of the evaluation set that comes first.
        most: At most so many texts.
    """
    splits = {} if priors is None else {n: c for n, c in priors.splits.items() if WORDS in c}
    names = sorted(
        dict.fromkeys(name for run in (pair.after, pair.before) if run for name in run.records),
        key=lambda name: name != first,
    )
    prior_rows = {row.text: row for columns in splits.values() for row in _prior_rows(0, columns)}
    found = [
        row
        for number, name in enumerate(names)
        for row in _evaluated(number, name, pair, prior_rows)
    ]
    seen = {row.text for row in found}
    alone = [split for split, columns in splits.items() if seen.isdisjoint(columns[TEXT])]
    for number, split in enumerate(alone, start=len(names)):
        found += _prior_rows(number, splits[split])
    chosen = evenly(found, most)
    lanes = _lanes(pair, chosen)
    return Examples(
        sets=(*names, *(f"{split} (priors only)" for split in alone)),
        lanes=tuple(lanes.values()),
        rows=tuple(_example(row, list(lanes)) for row in chosen),
        total=len(found),
    )


def _evaluated(number: int, name: str, pair: Pair, priors: Mapping[str, _Row]) -> Iterator[_Row]:
    """The rows of one evaluation set: those of the aligned model, else of the baseline."""
    columns = [run.records.get(name) if run else None for run in (pair.before, pair.after)]
    before, after = ({r[TEXT]: r for r in _rows(c)} if c else {} for c in columns)
    for row in _rows(columns[1] or columns[0] or {}):
        text = row[TEXT]
        known = priors.get(text)
        scores = {**(known.scores if known else {}), **_prior_scores(row)}
        for key, model in ((_BEFORE, before), (_AFTER, after)):
            scores[key] = model.get(text, {}).get("attributions")
        yield _Row(
            number,
            text,
            row[WORDS],
            str(row[LABEL]),
            scores,
            _prediction(before.get(text)),
            _prediction(after.get(text)),
        )


def _prior_rows(number: int, columns: Columns) -> Iterator[_Row]:
    for row in _rows(columns):
        if row[WORDS]:
            yield _Row(number, row[TEXT], row[WORDS], str(row.get(LABEL)), _prior_scores(row))


def _rows(columns: Columns) -> Iterator[dict[str, Any]]:
    for values in zip(*columns.values(), strict=True):
        yield dict(zip(columns, values, strict=True))


def _prior_scores(row: Mapping[str, Any]) -> dict[str, Sequence[float] | None]:
    columns = {source: prior_column(source) for source in prior_sources(row)} | {PRIOR: PRIOR}
    return {
        key: row[column] for key, column in columns.items() if isinstance(row.get(column), Sequence)
    }


def _prediction(record: Mapping[str, Any] | None) -> Prediction | None:
    if record is None:
        return None
    return Prediction(str(record["prediction"]), float(max(record["probabilities"])))


def _lanes(pair: Pair, rows: Sequence[_Row]) -> dict[str, Lane]:
    """The lanes that have a score for any text: sources, fused prior, model before, model after."""
    used = dict.fromkeys(key for row in rows for key, scores in row.scores.items() if scores)
    sources = [key for key in used if key not in (PRIOR, _BEFORE, _AFTER)]
    of_prior, of_model = "Priors, for the gold label", "Models, for the label that each predicts"
    lanes = {key: Lane(key, "source", of_prior) for key in sources}
    lanes[PRIOR] = Lane(FUSED, "prior", of_prior)
    lanes[_BEFORE] = Lane(pair.names[0], "attribution", of_model)
    lanes[_AFTER] = Lane(pair.names[1], "attribution", of_model)
    return {key: lane for key, lane in lanes.items() if key in used}


def _example(row: _Row, keys: Sequence[str]) -> Example:
    return Example(
        text=row.text,
        words=tuple(row.words),
        label=row.label,
        set=row.set,
        lanes=tuple(_scores(row.scores.get(key), len(row.words)) for key in keys),
        before=row.before,
        after=row.after,
    )


def _scores(scores: Sequence[float] | None, words: int) -> tuple[float, ...] | None:
    """Scores that can be drawn: one finite number a word."""
    if scores is None or len(scores) != words:
        return None
    if not all(score is not None and math.isfinite(score) for score in scores):
        return None
    return tuple(scores)
