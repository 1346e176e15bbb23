"""`hf-cap report`: one HTML page on training runs."""

import logging
from dataclasses import dataclass
from typing import Any

from ..options import documented, option, required
from ..publishing.report.settings import ReportSettings
from .config import build

_logger = logging.getLogger(__name__)


@documented
@dataclass(frozen=True, kw_only=True)
class ReportPlaces:
    """What is reported on, and where the page goes."""

    runs: tuple[str, ...] = required(
        "Folders that `hf-cap train` wrote; those with an alignment weight of 0 are the baseline."
    )
    baseline: tuple[str, ...] = option((), "Further runs that are the baseline.")
    priors: str | None = option(
        None, "Folder with prior columns, for their audit and the heat maps of each source."
    )
    audit: str | None = option(
        None,
        "Folder that `hf-cap audit` wrote; by default looked for in and beside that of the priors.",
    )
    output: str = option("report.html", "HTML file to write.")


SETTINGS = (ReportPlaces, ReportSettings)
POSITIONAL = "runs"


def run(values: dict[str, Any]) -> None:
    """Write the page and say where it is."""
    from ..publishing.report.writer import write_report

    places = build(ReportPlaces, values)
    write_report(
        places.runs,
        places.output,
        baselines=places.baseline,
        priors=places.priors,
        audit=places.audit,
        settings=build(ReportSettings, values),
    )
    _logger.info("Wrote the report to %s", places.output)
