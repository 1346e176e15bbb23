"""Write the report: one HTML page that needs nothing else and requests nothing from the network."""

import base64
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from hf_cap.report import figures
from hf_cap.report.contents import MEASURES, number_text, report_contents
from hf_cap.report.load import ReportSettings, load_priors, load_run
from hf_cap.utils import real_path, subsample, write_text

STEPS = 999
"""A score is kept as a whole number of this many parts of the largest score of its row."""

_PAGE = Path(__file__).parent / "page"
# `</script>` and `<!--` must not end or change the element, nor old line separators a string in it
_ESCAPES = {ord(character): f"\\u{ord(character):04x}" for character in "<>&\u2028\u2029"}
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
        runs: Folders that `hf-cap train` wrote, with what `hf-cap evaluate` added. Runs that differ
            only in their seed are one group; those with an alignment weight of 0 are the baseline.
        output: HTML file to write.
        baselines: Further runs that are baselines, whatever their settings.
        priors: Folder of the priors, for their audit and for the heat maps of each source.
        audit: Folder that `hf-cap audit` wrote; by default looked for in and beside that of the
            priors.
        settings: What goes in.

    Raises:
        DataError: a folder is not what it should be, or a file is damaged.
        ConfigError: there is no run, or the runs cannot be compared.
        MissingExtra: matplotlib is not installed.
    """
    settings = settings or ReportSettings()
    of_baseline = {real_path(folder): folder for folder in baselines}
    others = {real_path(folder): folder for folder in runs}
    contents = report_contents(
        [load_run(folder) for path, folder in others.items() if path not in of_baseline],
        [load_run(folder) for folder in of_baseline.values()],
        None if priors is None else load_priors(priors, audit),
        settings,
    )
    write_text(output, render_report(contents, megabytes=settings.megabytes))


def render_report(contents: Mapping[str, Any], *, megabytes: float = 4.0) -> str:
    """The page that shows some contents.

    Args:
        contents: What `report_contents` returned.
        megabytes: Room for the texts of the example browser; fewer are shown where they need more.
    """
    environment = Environment(
        loader=FileSystemLoader(_PAGE), autoescape=True, undefined=StrictUndefined
    )
    colours, style, script = (
        (_PAGE / name).read_text("utf-8") for name in ("colours.css", "report.css", "report.js")
    )
    data = embed_examples(contents["examples"], int(megabytes * 1e6))
    page = environment.get_template("report.html.j2").render(
        report=contents,
        policy=content_policy(colours + style, script),
        style=Markup(colours + style),
        script=Markup(script),
        data=Markup(script_json(data)),
        shown=len(data["examples"]),
        charts=_charts(contents),
        number_text=number_text,
        markers=figures.MARKERS,
        audit_titles=figures.AUDIT_FIGURES,
    )
    # a lone surrogate, which JSON can carry, has no place in UTF-8
    return page.encode("utf-8", "replace").decode()


def content_policy(style: str, script: str) -> str:
    """Content security policy: our own style and script run, nothing is loaded from anywhere."""
    style_hash, script_hash = (
        f"'sha256-{base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()}'"
        for code in (style, script)
    )
    return (
        f"default-src 'none'; style-src {style_hash}; script-src {script_hash}; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )


def script_json(value: Any) -> str:
    """JSON that HTML and JavaScript parsers leave alone, whatever the strings in it hold."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.translate(_ESCAPES)


def embed_examples(examples: Mapping[str, Any], bytes_at_most: int) -> dict[str, Any]:
    """The examples as compact values, as many as there is room for, evenly spread.

    An example is `[set, gold, words, text, rows, before, after]`: labels are indices, `text` is null
    where it is the words with single spaces, a row of scores is null or `[largest, part, part, ...]`,
    a prediction is null or `[label, probability in thousandths]`.
    """
    labels: dict[str, int] = {}
    keys = [row["key"] for row in examples["rows"]]
    rows = [_compact(example, keys, labels) for example in examples["examples"]]
    sizes = [len(script_json(row).encode("utf-8", "replace")) + 1 for row in rows]
    kept = list(range(len(rows)))
    while kept and (size := sum(sizes[number] for number in kept)) > bytes_at_most:
        kept = subsample(kept, min(len(kept) - 1, len(kept) * bytes_at_most // size))
    return {
        "labels": list(labels),
        "sets": examples["sets"],
        "rows": examples["rows"],
        "steps": STEPS,
        "examples": [rows[number] for number in kept],
        "total": examples["total"],
    }


def _compact(example: Mapping[str, Any], keys: Sequence[str], labels: dict[str, int]) -> list[Any]:
    def index(label: str) -> int:
        return labels.setdefault(label, len(labels))

    def parts(scores: Sequence[float] | None) -> list[float] | None:
        if scores is None:
            return None
        largest = max(map(abs, scores), default=0.0)
        return [float(f"{largest:.3g}"), *(round(s / (largest or 1) * STEPS) for s in scores)]

    gold, text, words = index(example["label"]), example["text"], list(example["words"])
    said = [
        example[key] and [index(example[key][0]), round(1000 * example[key][1])]
        for key in ("before", "after")
    ]
    return [
        example["set"],
        gold,
        words,
        None if text == " ".join(words) else text,
        [parts(example["scores"].get(key)) for key in keys],
        *said,
    ]


def _charts(contents: Mapping[str, Any]) -> dict[str, Any]:
    """Every chart of the page, by section; those of the results by title."""
    groups = [group["name"] for group in contents["groups"]]
    intervals = {}
    for measure, (title, *_) in MEASURES.items():
        rows = [
            (one["name"], row)
            for one in contents["evaluations"]
            for row in one["rows"]
            if row["measure"] == measure
        ]
        if rows:
            intervals[title] = figures.interval_chart(title, rows, groups)
    calibrations, audit = contents["calibrations"], contents["audit"]
    return {
        "intervals": intervals,
        "curves": [figures.curve_chart(panel, groups) for panel in contents["panels"]],
        "features": [figures.feature_chart(table, groups) for table in contents["features"]],
        "calibration": figures.calibration_chart(calibrations, groups) if calibrations else None,
        "confusions": [
            figures.confusion_chart(one, groups[one["group"]]) for one in contents["confusions"]
        ],
        "audit": figures.audit_figures(audit["facts"]) if audit else {},
    }
