"""The report as one HTML page that needs nothing else and asks the network for nothing."""

import base64
import hashlib
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from .charts import (
    bar_chart,
    calibration_chart,
    confusion_chart,
    correlation_chart,
    curve_chart,
    feature_chart,
    interval_chart,
)
from .embedding import embed_examples, script_json
from .results import MEASURES
from .svg import mark
from .values import Report
from .writing import number_text

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
