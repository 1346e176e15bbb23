"""Runs into groups: the same settings but for the seed. Baselines first, then controls, then the rest."""

from __future__ import annotations

import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hf_cap.cards import public_name, public_settings, public_text
from hf_cap.errors import ConfigError
from hf_cap.evaluation.results import Interval, mean_interval
from hf_cap.report.load import Columns, PriorFolder, Run, number_text
from hf_cap.schema import CONTROL_PRIORS, LABEL, PRIOR, TEXT, WORDS, prior_column, prior_sources
from hf_cap.utils import subsample

# what differs between the seeds of one experiment, or says only where and how it ran
_PLACES = frozenset(
    "seed data_seed output_dir run_name logging_dir report_to resume_from_checkpoint push_to_hub "
    "hub_model_id disable_tqdm logging_steps save_strategy save_steps save_total_limit eval_split".split()
)
_ROLE_NAMES: Mapping[Role, str] = {
    "baseline": "no alignment",
    "control": "control",
    "aligned": "aligned",
}


@dataclass(frozen=True)
class RunGroup:
    """A group as the page shows it, with its runs."""

    shown: Group
    runs: tuple[Run, ...]


def alignment_weight(run: Run) -> float | None:
    """Weight β of the alignment term; `None` where the run does not say."""
    for place in ("alignment", "settings"):
        weight = (run.facts.get(place) or {}).get("alignment_weight")
        if weight is not None:
            return float(weight)
    return None


def unit_of(runs: Sequence[Run]) -> Unit:
    """What the runs learnt from.

    Raises:
        ConfigError: some learnt from texts and some from tables.
    """
    tables = [run.name for run in runs if run.facts.get("kind") == "train_tabular"]
    if tables and len(tables) < len(runs):
        others = sorted({run.name for run in runs} - set(tables))
        raise ConfigError(
            f"One page cannot compare models of tables ({', '.join(tables)}) with models of texts "
            f"({', '.join(others)}). Make a report of each."
        )
    return "rows" if tables else "texts"


def group_runs(runs: Sequence[Run], baselines: Sequence[Run] = ()) -> list[RunGroup]:
    """Group runs by their settings.

    Args:
        runs: Any runs; those with an alignment weight of 0 are baselines.
        baselines: Further runs that are baselines whatever their settings say.

    Returns:
        Groups in the order baseline, control, aligned; within a role in the order given. Where a role has
        more than one group, the settings that tell them apart are part of their names, or numbers where
        these settings must not be shown.
    """
    found: dict[tuple[Role, str], list[Run]] = {}
    members: list[tuple[Role, Run]] = [("baseline", run) for run in baselines]
    for role, run in members + [(_role(run), run) for run in runs]:
        found.setdefault((role, repr(sorted(_settings(run).items()))), []).append(run)
    groups: list[RunGroup] = []
    for role in _ROLE_NAMES:
        of_role = [tuple(group) for (its_role, _), group in found.items() if its_role == role]
        names = _names(role, [group[0] for group in of_role])
        groups += [
            RunGroup(_shown(name, role, group), group)
            for name, group in zip(names, of_role, strict=True)
        ]
    return groups


def baseline_of(index: int, groups: Sequence[RunGroup]) -> int | None:
    """The baseline that a group is compared with: the first on the same data and model, else the first."""
    if groups[index].shown.role == "baseline":
        return None
    baselines = [i for i, group in enumerate(groups) if group.shown.role == "baseline"]
    ground = _ground(groups[index].runs[0])
    alike = [i for i in baselines if _ground(groups[i].runs[0]) == ground]
    return next(iter([*alike, *baselines]), None)


def training_data(runs: Sequence[Run]) -> tuple[Data, ...]:
    """The data sets that the runs were trained on, each once."""
    found = {}
    for run in runs:
        data = run.facts.get("data") or {}
        if data:
            found[repr(sorted(data.items()))] = Data(
                dataset=public_name(data.get("dataset")) or "unknown",
                split=str(data.get("train_split", "unknown")),
                rows=data.get("rows"),
                labels=len(data.get("labels") or ()),
            )
    return tuple(dict.fromkeys(found.values()))


def _role(run: Run) -> Role:
    if alignment_weight(run) == 0:
        return "baseline"
    return "control" if _control(run) else "aligned"


def _control(run: Run) -> str | None:
    """The control that the run was aligned with, such as `shuffled`; `None` for a real prior."""
    scores = run.facts.get("scores") or {}
    if scores.get("control"):
        return str(scores["control"])
    column = str((run.facts.get("settings") or {}).get("prior_column", ""))
    return next((name for name in CONTROL_PRIORS if column.endswith(name)), None)


def _settings(run: Run) -> dict[str, str]:
    given = {"model": run.facts.get("model"), **(run.facts.get("settings") or {})}
    return {
        name: str(value)
        for name, value in given.items()
        if name not in _PLACES and value is not None
    }


def _ground(run: Run) -> tuple[Any, ...]:
    # not the data set's name: the same texts with priors lie in another folder
    data = run.facts.get("data") or {}
    return data.get("rows"), data.get("labels"), run.facts.get("model")


def _names(role: Role, firsts: Sequence[Run]) -> list[str]:
    plain = [
        ": ".join([_ROLE_NAMES[role], *filter(None, [_control(run)])])
        if role == "control"
        else _ROLE_NAMES[role]
        for run in firsts
    ]
    if len(set(plain)) == len(plain):
        return plain
    settings = [public_settings(_settings(run)) for run in firsts]
    differing = [
        name
        for name in dict.fromkeys(name for group in settings for name in group)
        if len({group.get(name) for group in settings}) > 1
    ]
    return _numbered(
        [
            f"{name} ({', '.join(f'{key}={group.get(key)}' for key in differing if key in group)})"
            if any(key in group for key in differing)
            else name
            for name, group in zip(plain, settings, strict=True)
        ]
    )


def _numbered(names: Sequence[str]) -> list[str]:
    """The names, with a number where several are the same: what tells these groups apart is not shown."""
    return [
        f"{name}, group {names[:place].count(name) + 1}" if names.count(name) > 1 else name
        for place, name in enumerate(names)
    ]


def _shown(name: str, role: Role, runs: Sequence[Run]) -> Group:
    first = runs[0]
    command = first.facts.get("command")
    model = first.facts.get("model")
    return Group(
        name=name,
        role=role,
        runs=tuple(run.name for run in runs),
        seeds=tuple(run.facts.get("seed") for run in runs),
        model=public_name(model),
        settings=public_settings(_settings(first)),
        command=None if command is None else public_text(str(command)),
    )


# --- What a report shows, as frozen typed values: the page is drawn from these and from nothing else.


Role = Literal["baseline", "control", "aligned"]
LaneKind = Literal["source", "prior", "attribution"]
Unit = Literal["texts", "rows"]
"""What the runs learnt from: texts, or the rows of a table."""


@dataclass(frozen=True, slots=True)
class Group:
    """Runs that differ in nothing but their seed."""

    name: str
    role: Role
    runs: tuple[str, ...]
    """Folder names."""
    seeds: tuple[int | None, ...]
    model: str | None
    settings: Mapping[str, str]
    """The settings that were given, as text."""
    command: str | None
    """The command of the first run."""


@dataclass(frozen=True, slots=True)
class Data:
    """What the runs were trained on."""

    dataset: str
    split: str
    rows: int | None
    labels: int


@dataclass(frozen=True, slots=True)
class Row:
    """One measure of one evaluation set: an estimate a group, and its paired difference from the baseline."""

    measure: str
    title: str
    better: Literal["higher", "lower"]
    percent: bool
    """Whether the values are shares, to be written in percent."""
    values: tuple[Interval | None, ...]
    differences: tuple[Interval | None, ...]
    """Over the seeds that group and baseline share; `None` for the baseline itself."""


@dataclass(frozen=True, slots=True)
class EvaluationSet:
    """The measures of one evaluation set, such as the test split or an attacked copy of it."""

    name: str
    size: int | None
    """How many texts, or rows of a table."""
    rows: tuple[Row, ...]


@dataclass(frozen=True, slots=True)
class Point:
    """A point of a training curve: mean, lowest and highest value over the runs of a group."""

    step: float
    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Curve:
    """One logged quantity of one group."""

    group: int
    points: tuple[Point, ...]


@dataclass(frozen=True, slots=True)
class Panel:
    """The curves of one logged quantity."""

    title: str
    curves: tuple[Curve, ...]


@dataclass(frozen=True, slots=True)
class Feature:
    """What was told of a feature of a table, and what the models learnt; as parts of unit vectors."""

    name: str
    told: float | None
    """Its score, in [-1, 1]; `None` where there is none."""
    learnt: tuple[Interval | None, ...]
    """Its mean input gradient over the training rows, one a group."""


@dataclass(frozen=True, slots=True)
class FeatureTable:
    """The features of one output of a table."""

    output: str
    features: tuple[Feature, ...]
    """First those that weigh most, by score or by any model."""
    agreement: Mapping[int, Interval]
    """Group to the cosine of what was told and what it learnt; empty where nothing was told."""


@dataclass(frozen=True, slots=True)
class Bin:
    """Texts whose predicted label got a probability in one range."""

    confidence: float
    accuracy: float
    texts: int


@dataclass(frozen=True, slots=True)
class Calibration:
    """Confidence against accuracy of one group, all its runs together."""

    group: int
    error: float
    """Expected calibration error over ten bins of equal width, in [0, 1]; lower is better."""
    bins: tuple[Bin, ...]


@dataclass(frozen=True, slots=True)
class ConfusedPair:
    """Texts of one label that were predicted as another."""

    gold: str
    predicted: str
    texts: int
    of: int
    """Texts with the gold label."""
    shared: tuple[str, ...]
    """Keywords that both labels have."""


@dataclass(frozen=True, slots=True)
class Confusion:
    """Gold against predicted labels of one group, all its runs together."""

    group: int
    labels: tuple[str, ...]
    counts: Mapping[tuple[int, int], int]
    """(gold, predicted) to the number of texts; pairs that never occur are left out."""
    pairs: tuple[ConfusedPair, ...]
    """The most frequent errors, first the most frequent."""
    keywords_from: str | None
    """What the keywords are made of: `prior` (its audit), or else the models' `attribution`."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One number of a prior audit: a source and its value."""

    source: str
    value: float


@dataclass(frozen=True, slots=True)
class AuditTable:
    """One figure for each source, such as the share of its weight that lies on stop words."""

    title: str
    note: str
    figures: tuple[Figure, ...]


@dataclass(frozen=True, slots=True)
class ClassPair:
    """Two labels whose keywords overlap."""

    one: str
    other: str
    overlap: float
    """Jaccard index of their keywords, in [0, 1]."""
    shared: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PriorAudit:
    """How the sources of a prior agree, and what each is worth."""

    texts: int | None
    sources: tuple[str, ...]
    correlations: Mapping[tuple[str, str], float]
    """Mean rank correlation of two sources over words, in [-1, 1]."""
    tables: tuple[AuditTable, ...]
    keywords: Mapping[str, tuple[str, ...]]
    """Label to the words that speak most for it."""
    overlaps: tuple[ClassPair, ...]
    """First the labels that share most."""
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Lane:
    """One row of scores under each example: a prior source, the fused prior, or a model's attribution."""

    name: str
    kind: LaneKind
    note: str
    """What the scores speak for; lanes with one note stand together."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """What one model says about a text."""

    label: str
    probability: float
    """Of that label, in [0, 1]."""


@dataclass(frozen=True, slots=True)
class Example:
    """One text with its score lanes."""

    text: str
    words: tuple[str, ...]
    label: str
    set: int
    lanes: tuple[tuple[float, ...] | None, ...]
    """One a `Lane`, each one score a word; `None` where there is none for this text."""
    before: Prediction | None
    after: Prediction | None


@dataclass(frozen=True, slots=True)
class Examples:
    """The content of the example browser."""

    sets: tuple[str, ...]
    lanes: tuple[Lane, ...]
    rows: tuple[Example, ...]
    total: int
    """Texts that there were; more than `len(rows)` where some were left out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Everything that the page shows."""

    title: str
    split: str
    """The evaluation set of the calibration and the confusions."""
    findings: tuple[str, ...]
    groups: tuple[Group, ...]
    data: tuple[Data, ...] = ()
    versions: Mapping[str, str]
    evaluations: tuple[EvaluationSet, ...]
    panels: tuple[Panel, ...] = ()
    calibrations: tuple[Calibration, ...] = ()
    confusions: tuple[Confusion, ...] = ()
    audit: PriorAudit | None = None
    examples: Examples
    unit: Unit = "texts"
    features: tuple[FeatureTable, ...] = ()
    """Of models of tables, one an output."""
    gaps: tuple[str, ...] = ()
    """What could not be shown, and what to run to have it."""


# --- Estimates over seeds, paired differences from the baseline, training curves, and what they say in words.


class Measure(NamedTuple):
    """How a number of an evaluation is written."""

    title: str
    better: Literal["higher", "lower"]
    percent: bool


MEASURES: Mapping[str, Measure] = {
    "accuracy": Measure("Accuracy", "higher", True),
    "macro_f1": Measure("Macro F1", "higher", True),
    "roc_auc": Measure("ROC-AUC", "higher", False),
    "r2": Measure("R²", "higher", False),
    "rmse": Measure("Root mean squared error", "lower", False),
    "alignment": Measure("Agreement with the prior (cosine)", "higher", False),
    "comprehensiveness": Measure("Comprehensiveness", "higher", False),
    "sufficiency": Measure("Sufficiency", "lower", False),
    "soft_nc": Measure("Soft comprehensiveness (Soft-NC)", "higher", False),
    "soft_ns": Measure("Soft sufficiency (Soft-NS)", "higher", False),
}
"""Fields of an evaluation that the report shows, in its order."""

CURVES: Mapping[str, str] = {
    "loss_task": "Task loss",
    "loss_align": "Alignment loss (before its weight)",
    "align_cosine": "Cosine of attribution and prior",
    "eval_loss_task": "Task loss, held out",
    "eval_loss_align": "Alignment loss, held out",
}
"""Logged quantities that the report draws, in its order."""

# without alignment the loss has one part, and a plain `Trainer` logs it under its own name
_WITHOUT_ALIGNMENT = {"loss_task": "loss", "eval_loss_task": "eval_loss"}


def estimate(values: Sequence[float]) -> Interval | None:
    """Mean with its 95 % interval; `None` without values."""
    return mean_interval(values) if values else None


def evaluation_sets(
    groups: Sequence[RunGroup], first: str | None = None
) -> tuple[EvaluationSet, ...]:
    """Every evaluation set with its measures.

    Args:
        groups: The groups, in the order of the columns.
        first: Name of the set that comes first.
    """
    names = dict.fromkeys(
        name for group in groups for run in group.runs for name in run.evaluations
    )
    ordered = sorted(names, key=lambda name: name != first)
    return tuple(_evaluation_set(name, groups) for name in ordered)


def _evaluation_set(name: str, groups: Sequence[RunGroup]) -> EvaluationSet:
    sizes = [
        run.evaluations[name].get("texts", run.evaluations[name].get("rows"))
        for group in groups
        for run in group.runs
        if name in run.evaluations
    ]
    rows = (_row(name, measure, groups) for measure in MEASURES)
    return EvaluationSet(name, sizes[0], tuple(row for row in rows if any(row.values)))


def _row(name: str, measure: str, groups: Sequence[RunGroup]) -> Row:
    by_seed = [_by_seed(group, name, measure) for group in groups]
    differences = []
    for index, of_group in enumerate(by_seed):
        baseline = baseline_of(index, groups)
        of_baseline = {} if baseline is None else by_seed[baseline]
        differences.append(
            estimate(
                [of_group[seed] - of_baseline[seed] for seed in of_group if seed in of_baseline]
            )
        )
    return Row(
        measure=measure,
        **MEASURES[measure]._asdict(),
        values=tuple(estimate(list(of_group.values())) for of_group in by_seed),
        differences=tuple(differences),
    )


def _by_seed(group: RunGroup, name: str, measure: str) -> dict[Any, float]:
    found: dict[Any, float] = {}
    for position, (run, seed) in enumerate(zip(group.runs, group.shown.seeds, strict=True)):
        value = run.evaluations.get(name, {}).get(measure)
        if value is not None:
            # a second run of one seed counts too, but has no partner in the baseline
            found[seed if seed not in found else (seed, position)] = float(value)
    return found


def panels(groups: Sequence[RunGroup]) -> tuple[Panel, ...]:
    """The training curves, one panel a logged quantity."""
    found = []
    for key, title in CURVES.items():
        by_group = [_points(group, key) for group in groups]
        curves = tuple(Curve(index, points) for index, points in enumerate(by_group) if points)
        if curves:
            found.append(Panel(title, curves))
    return tuple(found)


def _points(group: RunGroup, key: str) -> tuple[Point, ...]:
    """The logged values of `key` at each step, over the runs of the group."""
    at_step: dict[float, list[float]] = {}
    for run in group.runs:
        history = run.facts.get("history") or ()
        name = key if any(key in entry for entry in history) else _WITHOUT_ALIGNMENT.get(key, key)
        for entry in history:
            if entry.get(name) is not None and entry.get("step") is not None:
                at_step.setdefault(float(entry["step"]), []).append(float(entry[name]))
    return tuple(
        Point(step, float(np.mean(values)), min(values), max(values))
        for step, values in sorted(at_step.items())
    )


def findings(
    groups: Sequence[RunGroup], sets: Sequence[EvaluationSet], unit: Unit = "texts"
) -> tuple[str, ...]:
    """What alignment did to accuracy, one sentence a group and set; controls only on the first set."""
    found = []
    for number, evaluation in enumerate(sets):
        accuracy = [row for row in evaluation.rows if row.measure == "accuracy"]
        for row, index in itertools.product(accuracy, reversed(range(len(groups)))):
            baseline = baseline_of(index, groups)
            if baseline is not None and (number == 0 or groups[index].shown.role == "aligned"):
                value, before, change = (
                    row.values[index],
                    row.values[baseline],
                    row.differences[index],
                )
                if value and before and change:
                    start = (
                        f"On {evaluation.name}, the model “{groups[index].shown.name}” is right on "
                    )
                    found.append(start + _comparison(value, before, change, unit))
    return tuple(found)


def _comparison(value: Interval, before: Interval, change: Interval, unit: Unit) -> str:
    start = (
        f"{100 * value.mean:.1f} % of the {unit}, against {100 * before.mean:.1f} % without alignment: "
        f"{_signed(100 * change.mean)} points"
    )
    if change.low is None or change.high is None:
        return f"{start}. One seed says nothing about chance; train more."
    verdict = (
        "a change beyond the spread of the seeds"
        if change.low > 0 or change.high < 0
        else "no change that stands out from the spread of the seeds"
    )
    return (
        f"{start} (95 % interval {_signed(100 * change.low)} to {_signed(100 * change.high)}, "
        f"{change.count} seeds), {verdict}."
    )


def _signed(value: float) -> str:
    return f"{value:+.1f}".replace("-", "\N{MINUS SIGN}")


# --- The texts of the example browser, with every score that there is for them, side by side.


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
    chosen = subsample(found, most)
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


# --- What the predictions of a group look like: calibration, confusions, keywords that labels share.


BINS = 10
PAIRS = 12
KEYWORDS = 10


def calibration(index: int, group: RunGroup, name: str) -> Calibration | None:
    """Expected calibration error (Naeini et al., 2015) of a group on one evaluation set.

    The confidence is the probability of the predicted label. A bin counts by its share of the texts.
    """
    confidence: list[float] = []
    right: list[bool] = []
    for records in _records(group, name):
        confidence += [max(row) for row in records["probabilities"]]
        right += _right(records)
    if not confidence:
        return None
    place = np.minimum((np.array(confidence) * BINS).astype(int), BINS - 1)
    bins = tuple(
        Bin(
            confidence=float(np.mean(np.array(confidence)[place == number])),
            accuracy=float(np.mean(np.array(right)[place == number])),
            texts=int(np.sum(place == number)),
        )
        for number in range(BINS)
        if np.any(place == number)
    )
    error = sum(abs(b.confidence - b.accuracy) * b.texts for b in bins) / len(confidence)
    return Calibration(index, float(error), bins)


def confusion(
    index: int,
    group: RunGroup,
    name: str,
    keywords: Mapping[str, Sequence[str]],
    source: str | None,
) -> Confusion | None:
    """Gold against predicted labels of a group on one evaluation set.

    Args:
        index: Position of the group.
        group: The group.
        name: The evaluation set.
        keywords: Keywords of each label, from the audit or `model_keywords`.
        source: What the keywords are made of.
    """
    pairs: Counter[tuple[str, str]] = Counter()
    space: dict[str, None] = {}
    for run in group.runs:
        if name in run.records:
            records = run.records[name]
            space |= dict.fromkeys(run.evaluations.get(name, {}).get("labels") or ())
            pairs.update(
                zip(map(str, records["label"]), map(str, records["prediction"]), strict=True)
            )
    if not pairs:
        return None
    labels = tuple(dict.fromkeys([*space, *sorted({label for pair in pairs for label in pair})]))
    position = {label: number for number, label in enumerate(labels)}
    texts = Counter[str]()
    for (gold, _), count in pairs.items():
        texts[gold] += count
    errors = [(pair, count) for pair, count in pairs.most_common() if pair[0] != pair[1]]
    return Confusion(
        group=index,
        labels=labels,
        counts={(position[gold], position[said]): count for (gold, said), count in pairs.items()},
        pairs=tuple(
            ConfusedPair(gold, said, count, texts[gold], _shared(keywords, gold, said))
            for (gold, said), count in errors[:PAIRS]
        ),
        keywords_from=source,
    )


def model_keywords(records: Iterable[Columns]) -> dict[str, tuple[str, ...]]:
    """The words that models count most for each label they predict: the highest totals, if positive."""
    totals: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for data in records:
        rows = zip(data[WORDS], data["attributions"], data["prediction"], strict=True)
        for words, scores, label in rows:
            for word, score in zip(words, scores or (), strict=False):
                totals[str(label)][word.lower()] += score
    return {
        label: tuple(word for word, total in words.most_common(KEYWORDS) if total > 0)
        for label, words in totals.items()
    }


def _shared(keywords: Mapping[str, Sequence[str]], one: str, other: str) -> tuple[str, ...]:
    return tuple(word for word in keywords.get(one, ()) if word in keywords.get(other, ()))


def _right(records: Columns) -> list[bool]:
    return [
        str(gold) == str(said)
        for gold, said in zip(records["label"], records["prediction"], strict=True)
    ]


def _records(group: RunGroup, name: str) -> list[Mapping[str, Sequence[Any]]]:
    return [run.records[name] for run in group.runs if name in run.records]


# --- Models of tables: what a language model told of each feature, beside what each model learnt.


_Vector = NDArray[np.float64]


def feature_tables(groups: Sequence[RunGroup]) -> tuple[FeatureTable, ...]:
    """The features of each output that a run tells of; none for models of texts.

    What was told is that of the first aligned group, so that controls are held against the same scores. All
    vectors have unit length, as in the alignment loss: only directions are compared.

    Args:
        groups: Runs on one table.
    """
    names = _features_names([run for group in groups for run in group.runs])
    told = _told(groups)
    return tuple(
        _table(output, features, told.get(output, {}), groups) for output, features in names.items()
    )


def _features_names(runs: Sequence[Run]) -> dict[str, list[str]]:
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


# --- The figures of a prior audit, from `audit.json`, for the page.


FUSED = "fused prior"
_PAIRS = 12
_DEGENERATE = {
    "missing": "have no prior, or one of zeros",
    "constant": "have the same score on every word",
    "one_word": "have a score on a single word",
    "label_copied": "have a word of the label's name as their highest",
}


def prior_audit(audit: Mapping[str, Any]) -> PriorAudit:
    """What the page shows of an audit; what it does not hold is left out.

    Args:
        audit: The content of `audit.json`.
    """
    correlations = audit.get("rank_correlation") or {}
    overlaps = (audit.get("confused_classes") or {}).get(PRIOR) or ()
    return PriorAudit(
        texts=audit.get("texts"),
        sources=tuple(map(_name, correlations)),
        correlations={
            (_name(one), _name(other)): float(value)
            for one, row in correlations.items()
            for other, value in row.items()
            if value is not None
        },
        tables=tuple(table for table in _tables(audit) if table.figures),
        keywords=audit_keywords(audit),
        overlaps=tuple(map(_pair, overlaps[:_PAIRS])),
        warnings=tuple(
            f"{_name(source)}: {number_text(share, True)} % of the texts {what}."
            for source, shares in (audit.get("degenerate") or {}).items()
            for case, what in _DEGENERATE.items()
            if (share := float(shares.get(case) or 0)) > 0
        ),
    )


def audit_keywords(audit: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """Keywords of each label by the fused prior, else by the first source; empty where there are none."""
    by_source = audit.get("keywords") or {}
    found: Mapping[str, Any] = by_source.get(PRIOR) or next(iter(by_source.values()), {})
    return {label: tuple(str(word) for word, _ in words) for label, words in found.items()}


def _tables(audit: Mapping[str, Any]) -> list[AuditTable]:
    log_odds, marked = audit.get("log_odds") or {}, audit.get("rationales") or {}
    return [
        AuditTable(
            "What is a source worth?",
            "Mean rank correlation of its scores with the log-odds of each word for the label in reference "
            "data. A prior should beat random scores and word length.",
            _figures(_means(log_odds, "rank_correlation")),
        ),
        AuditTable(
            "Does it mark what people mark?",
            "Mean average precision of the words that people marked, ranked by the source.",
            _figures(_means(marked, "average_precision")),
        ),
        AuditTable(
            "How much lies on stop words?",
            "Share of the absolute scores that falls on stop words.",
            _figures(
                {name: row.get("stop word") for name, row in (audit.get("mass") or {}).items()}
            ),
        ),
        AuditTable(
            "Do labels share keywords?",
            "Mean Jaccard index of the keywords of two labels; high values confuse classes.",
            _figures(audit.get("class_overlap") or {}),
        ),
    ]


def _means(rows: Mapping[str, Any], measure: str) -> dict[str, float | None]:
    """Mean of a measure for each source; `None` where it could not be taken."""
    return {name: (row.get(measure) or {}).get("value") for name, row in rows.items()}


def _pair(pair: Mapping[str, Any]) -> ClassPair:
    one, other = pair["classes"]
    return ClassPair(one, other, float(pair["overlap"]), tuple(pair["shared"]))


def _figures(values: Mapping[str, float | None]) -> tuple[Figure, ...]:
    return tuple(Figure(_name(name), float(v)) for name, v in values.items() if v is not None)


def _name(source: str) -> str:
    return FUSED if source == PRIOR else source
