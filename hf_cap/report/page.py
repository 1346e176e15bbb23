"""The examples as compact JSON that is safe inside a `<script>` element."""

import base64
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from hf_cap.errors import ConfigError
from hf_cap.report.contents import (
    MEASURES,
    Example,
    Examples,
    Prediction,
    Report,
    RunGroup,
    Unit,
    audit_keywords,
    calibration,
    choose_pair,
    collect_examples,
    confusion,
    evaluation_sets,
    feature_tables,
    findings,
    group_runs,
    model_keywords,
    panels,
    prior_audit,
    training_data,
    unit_of,
)
from hf_cap.report.figures import (
    bar_chart,
    calibration_chart,
    confusion_chart,
    correlation_chart,
    curve_chart,
    feature_chart,
    interval_chart,
    mark,
)
from hf_cap.report.load import PriorFolder, ReportSettings, Run, load_priors, load_run, number_text
from hf_cap.utils import subsample, write_text

STEPS = 999
"""A score is kept as a whole number of this many parts of the largest score of its lane: three digits."""

# `</script>` and `<!--` must not end or change the element; the separators end a line in older JavaScript
_ESCAPES = {ord(character): f"\\u{ord(character):04x}" for character in "<>&\u2028\u2029"}


def script_json(value: Any) -> str:
    """JSON that HTML and JavaScript parsers leave alone, whatever the strings in it hold."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.translate(_ESCAPES)


def embed_examples(examples: Examples, bytes_at_most: int) -> dict[str, Any]:
    """The examples as plain values, as many as there is room for.

    A row is `[set, gold, words, text, lanes, before, after]`: set and labels as indices, `text` null where
    it is the words with single spaces, a lane null or `[largest, part, part, ...]`, a prediction null or
    `[label, probability in thousandths]`.

    Args:
        examples: The examples.
        bytes_at_most: Room for the rows in UTF-8; evenly spread rows are left out until they fit.
    """
    labels: dict[str, int] = {}
    rows = [_row(row, labels) for row in examples.rows]
    kept = _fitting(rows, bytes_at_most)
    return {
        "labels": list(labels),
        "sets": list(examples.sets),
        "lanes": [
            {"name": lane.name, "kind": lane.kind, "note": lane.note} for lane in examples.lanes
        ],
        "steps": STEPS,
        "rows": kept,
        "total": examples.total,
    }


def _fitting(rows: Sequence[Any], room: int) -> list[Any]:
    sizes = [len(script_json(row).encode("utf-8", "replace")) + 1 for row in rows]
    numbers = list(range(len(rows)))
    while numbers and (size := sum(sizes[number] for number in numbers)) > room:
        numbers = subsample(numbers, min(len(numbers) - 1, len(numbers) * room // size))
    return [rows[number] for number in numbers]


def _row(row: Example, labels: dict[str, int]) -> list[Any]:
    return [
        row.set,
        labels.setdefault(row.label, len(labels)),
        list(row.words),
        None if row.text == " ".join(row.words) else row.text,
        [None if lane is None else _lane(lane) for lane in row.lanes],
        _prediction(row.before, labels),
        _prediction(row.after, labels),
    ]


def _lane(scores: Sequence[float]) -> list[float]:
    largest = max(map(abs, scores), default=0.0)
    parts = [round(score / largest * STEPS) if largest else 0 for score in scores]
    return [float(f"{largest:.3g}"), *parts]


def _prediction(prediction: Prediction | None, labels: dict[str, int]) -> list[int] | None:
    if prediction is None:
        return None
    label = labels.setdefault(prediction.label, len(labels))
    return [label, round(1000 * prediction.probability)]


# --- The report as one HTML page that needs nothing else and asks the network for nothing.


_PAGE = Path(__file__).parent / "page"
_FUNCTIONS = (
    bar_chart,
    calibration_chart,
    confusion_chart,
    correlation_chart,
    curve_chart,
    feature_chart,
    mark,
    number_text,
)


def render_report(report: Report, *, megabytes: float = 4.0) -> str:
    """The page of a report.

    Args:
        report: What it shows.
        megabytes: Room for the texts of the example browser; fewer are shown where they need more.
    """
    environment = Environment(
        loader=FileSystemLoader(_PAGE), autoescape=True, undefined=StrictUndefined
    )
    environment.globals |= {function.__name__: function for function in _FUNCTIONS}
    style, script = ((_PAGE / name).read_text("utf-8") for name in ("report.css", "report.js"))
    data = embed_examples(report.examples, int(megabytes * 1e6))
    page = environment.get_template("report.html.j2").render(
        report=report,
        policy=content_policy(style, script),
        style=Markup(style),
        script=Markup(script),
        data=Markup(script_json(data)),
        shown=len(data["rows"]),
        interval_charts=_interval_charts(report),
    )
    # a lone surrogate, which JSON can carry, has no place in UTF-8
    return page.encode("utf-8", "replace").decode()


def content_policy(style: str, script: str) -> str:
    """Content security policy: our own style and script run, nothing is loaded from anywhere."""
    return (
        f"default-src 'none'; style-src '{_digest(style)}'; script-src '{_digest(script)}'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )


def _digest(content: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()


def _interval_charts(report: Report) -> list[tuple[str, Markup]]:
    """One chart a measure, over the evaluation sets that have it."""
    found = []
    for measure, kind in MEASURES.items():
        rows = [
            (one.name, row)
            for one in report.evaluations
            for row in one.rows
            if row.measure == measure
        ]
        if rows:
            found.append((kind.title, interval_chart(kind.title, rows, report.groups)))
    return found


# --- From what was read to what is shown: the report as a pure function of runs and priors.


_DEFAULT_SPLIT = "test"
_BASELINE: Mapping[Unit, str] = {
    "texts": "--alignment_weight 0",
    "rows": "--task tabular` without `--scores",
}
_TOLD: Mapping[Unit, str] = {"texts": "priors say", "rows": "scores say"}


def build_report(
    runs: Sequence[Run],
    baselines: Sequence[Run] = (),
    priors: PriorFolder | None = None,
    settings: ReportSettings | None = None,
) -> Report:
    """The report on some runs.

    Args:
        runs: Runs of any kind; those with an alignment weight of 0 are the baseline of the others.
        baselines: Further runs that are baselines.
        priors: The priors that they were aligned with, for the audit and the texts.
        settings: What goes in.

    Raises:
        ConfigError: there is no run, runs on texts and on tables are mixed, or tables are to have priors.
    """
    settings = settings or ReportSettings()
    groups = group_runs(runs, baselines)
    if not groups:
        raise ConfigError("A report needs at least one run; got none.")
    unit = unit_of([*runs, *baselines])
    if unit == "rows" and priors is not None:
        raise ConfigError(
            "`priors` are scores of the words of texts, and these runs are models of tables, whose feature "
            "scores the report finds in the runs. Leave `priors` out."
        )
    split = settings.split or _main_split(groups)
    keywords, source = _keywords(groups, split, priors)
    sets = evaluation_sets(groups, split)
    calibrations = [calibration(i, group, split) for i, group in enumerate(groups)]
    confusions = [confusion(i, g, split, keywords, source) for i, g in enumerate(groups)]
    return Report(
        title=settings.title,
        split=split,
        findings=findings(groups, sets, unit),
        groups=tuple(group.shown for group in groups),
        data=training_data([run for group in groups for run in group.runs]),
        versions=_versions(groups),
        evaluations=sets,
        panels=panels(groups),
        calibrations=tuple(found for found in calibrations if found),
        confusions=tuple(found for found in confusions if found),
        audit=None if priors is None or priors.audit is None else prior_audit(priors.audit),
        examples=collect_examples(choose_pair(groups), priors, first=split, most=settings.examples),
        unit=unit,
        features=feature_tables(groups),
        gaps=tuple(_gaps(groups, split, priors, unit)),
    )


def _main_split(groups: Sequence[RunGroup]) -> str:
    """`test` where it was evaluated, else the first set that was, those with records before others."""
    runs = [run for group in groups for run in group.runs]
    names = [name for run in runs for name in run.records]
    names += [name for run in runs for name in run.evaluations]
    return _DEFAULT_SPLIT if _DEFAULT_SPLIT in names or not names else names[0]


def _keywords(
    groups: Sequence[RunGroup], split: str, priors: PriorFolder | None
) -> tuple[dict[str, tuple[str, ...]], str | None]:
    """Keywords of each label, by the audited prior where there is one, else by what the models attribute."""
    if priors is not None and (found := audit_keywords(priors.audit or {})):
        return found, "prior"
    records = [run.records[split] for group in groups for run in group.runs if split in run.records]
    found = model_keywords(columns for columns in records if "attributions" in columns)
    return found, "attribution" if found else None


def _versions(groups: Sequence[RunGroup]) -> Mapping[str, str]:
    """Versions of the packages; of several, all that occur."""
    found: dict[str, dict[str, None]] = {}
    for group in groups:
        for run in group.runs:
            for name, version in (run.facts.get("versions") or {}).items():
                found.setdefault(str(name), {})[str(version)] = None
    return {name: ", ".join(versions) for name, versions in found.items()}


def _gaps(
    groups: Sequence[RunGroup], split: str, priors: PriorFolder | None, unit: Unit
) -> Iterator[str]:
    """What is missing, and the command that makes it."""
    runs = [run for group in groups for run in group.runs]
    roles = {group.shown.role for group in groups}
    if not any(run.evaluations for run in runs):
        yield "No run was evaluated, so there are no results: `hf-cap evaluate --model RUN --dataset DATA`."
    elif missing := [run.name for run in runs if split not in run.evaluations]:
        yield f"Not evaluated on {split}, and so left out of its figures: {', '.join(missing)}."
    if "baseline" not in roles:
        yield (
            "There is no run without alignment, so nothing here says what alignment changed: "
            f"`hf-cap train {_BASELINE[unit]}`."
        )
    if "aligned" in roles and "control" not in roles:
        yield (
            f"There is no control run. A gain is due to what the {_TOLD[unit]} only if it exceeds that of "
            f"shuffled ones."
        )
    if any(len(group.runs) == 1 for group in groups):
        yield "A group of one run has no interval: train with several seeds."
    if unit == "texts" and not any(split in run.records for run in runs):
        yield (
            f"There are no records of single texts of {split}, so calibration, confusions and heat maps "
            "of the models are left out: `hf-cap evaluate --records`."
        )
    if not any(run.facts.get("history") for run in runs):
        yield "The runs carry no training history, so there are no training curves."
    if unit == "texts":
        yield from _prior_gaps(priors)


def _prior_gaps(priors: PriorFolder | None) -> Iterator[str]:
    if priors is None:
        yield "No priors were given, so their audit is left out: `hf-cap report RUN --priors FOLDER`."
    elif priors.audit is None:
        yield "The priors were not audited, so there are no figures on them: `hf-cap audit`."


# --- Write the report: folders in, one HTML file out.


_Folder = str | os.PathLike[str]


def write_report(
    runs: Sequence[_Folder],
    output: _Folder,
    *,
    baselines: Sequence[_Folder] = (),
    priors: _Folder | None = None,
    audit: _Folder | None = None,
    settings: ReportSettings | None = None,
) -> None:
    """Write one self-contained HTML page on some training runs.

    Args:
        runs: Folders that `hf-cap train` wrote, with what `hf-cap evaluate` added. Runs that differ only
            in their seed are one group; those with an alignment weight of 0 are the baseline.
        output: HTML file to write.
        baselines: Further runs that are baselines, whatever their settings.
        priors: Folder of the priors, for their audit and for the heat maps of each source.
        audit: Folder that `hf-cap audit` wrote; by default looked for in and beside the folder of the priors.
        settings: What goes in.

    Raises:
        DataError: a folder is not what it should be.
        ConfigError: there is no run.
    """
    settings = settings or ReportSettings()
    report = build_report(
        [load_run(folder) for folder in runs],
        [load_run(folder) for folder in baselines],
        None if priors is None else load_priors(priors, audit),
        settings,
    )
    write_text(output, render_report(report, megabytes=settings.megabytes))
