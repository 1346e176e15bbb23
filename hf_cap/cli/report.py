"""One HTML page on training runs."""

from dataclasses import dataclass

from hf_cap.cli.core import Result, Values, build
from hf_cap.report.load import ReportSettings
from hf_cap.utils import option, required


@dataclass(frozen=True, kw_only=True)
class ReportArguments:
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
        "Folder that `hf-cap audit` wrote. Default: looked for in and beside that of the priors.",
    )
    output: str = option("report.html", "HTML file to write.")


EXAMPLE = "runs/a runs/b --output report.html"
SETTINGS = [ReportArguments, ReportSettings]
POSITIONAL = "runs"


def run(values: Values) -> Result:
    """Write the page."""
    from hf_cap.report.page import write_report

    given = build(ReportArguments, values)
    write_report(
        given.runs,
        given.output,
        baselines=given.baseline,
        priors=given.priors,
        audit=given.audit,
        settings=build(ReportSettings, values),
    )
    return Result({"output": given.output}, f"Wrote the report to {given.output}")
