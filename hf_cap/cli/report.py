"""`hf-cap report`: one HTML page on training runs."""

import logging
from dataclasses import dataclass
from typing import Any

from hf_cap.cli.config import build
from hf_cap.report.load import ReportSettings
from hf_cap.utils import documented, option, required

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
    from hf_cap.report.page import write_report

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
