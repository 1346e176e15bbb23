"""What a report shows, as frozen typed values: the page is drawn from these and from nothing else.

Each part is `None` or empty where its input is missing; `Report.gaps` then holds a sentence that says so.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from ...statistics import Interval

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
