"""Write the report: folders in, one HTML file out."""

import os
from collections.abc import Sequence

from ...files import write_text
from .building import build_report
from .loading import load_priors, load_run
from .rendering import render_report
from .settings import ReportSettings

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
