"""Numbers as text, with a true minus sign."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet

from hf_cap.cards import EVALUATIONS, RUN_FILE
from hf_cap.errors import DataError
from hf_cap.evaluation.results import Interval
from hf_cap.utils import check_range, documented, option


def number_text(value: float, percent: bool = False, *, signed: bool = False) -> str:
    """A value: three decimals, or percent with one. Trailing zeros stay, so that columns line up."""
    text = f"{100 * value:.1f}" if percent else f"{value:.3f}"
    if signed and not text.startswith("-"):
        text = f"+{text}"
    return text.replace("-", "\N{MINUS SIGN}")


def tick_text(value: float) -> str:
    """A value on an axis, as short as it can be."""
    return f"{value:.6g}".replace("-", "\N{MINUS SIGN}")


def estimate_text(value: Interval, percent: bool = False, *, signed: bool = False) -> str:
    """A mean with its interval, such as `76.5 (75.2 to 77.8)`; percent carries its sign."""
    unit = " %" if percent else ""
    mean = number_text(value.mean, percent, signed=signed)
    if value.low is None or value.high is None:
        return f"{mean}{unit}"
    low, high = (number_text(end, percent, signed=signed) for end in (value.low, value.high))
    return f"{mean}{unit} ({low} to {high})"


# --- Settings of the report. Imports nothing heavy, so that `hf-cap report --help` is instant.


@documented
@dataclass(frozen=True, kw_only=True)
class ReportSettings:
    """What goes into a report, and how much of it."""

    title: str = option("What the model learned", "Heading of the page.")
    split: str | None = option(
        None,
        "Evaluation whose errors, calibration and texts are shown; `test` by default, else the first.",
    )
    examples: int = option(
        1000,
        "At most so many texts in the example browser, evenly spread over the data; at least 0.",
    )
    megabytes: float = option(
        4.0, "Room for the texts and their scores; fewer texts are shown where they need more."
    )

    def __post_init__(self) -> None:
        check_range(self, "examples", at_least=0)
        check_range(self, "megabytes", above=0)


# --- Read what the command line leaves on disk: run folders and folders of priors.


AUDIT_FILE = "audit.json"

Columns = Mapping[str, Sequence[Any]]
"""Column name to one value a row."""


@dataclass(frozen=True)
class Run:
    """What one training run left behind.

    Attributes:
        name: Name of its folder.
        facts: Content of `run.json`.
        evaluations: Name of an evaluation set to its numbers.
        records: Name of an evaluation set to its texts: `text, label, prediction, probabilities, words,
            attributions, prior` and perhaps `prior_<source>`.
    """

    name: str
    facts: Mapping[str, Any]
    evaluations: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    records: Mapping[str, Columns] = field(default_factory=dict)


@dataclass(frozen=True)
class PriorFolder:
    """A data set with priors.

    Attributes:
        splits: Split name to its columns, with label names in `label`.
        audit: Content of `audit.json`; `None` where the folder was not audited.
    """

    splits: Mapping[str, Columns]
    audit: Mapping[str, Any] | None = None


def load_run(folder: str | os.PathLike[str]) -> Run:
    """Read a run folder.

    Raises:
        DataError: there is no such folder, or it was not written by `hf-cap train`.
    """
    path = Path(folder).expanduser()
    if not (path / RUN_FILE).is_file():
        found = sorted(item.name for item in path.iterdir())[:8] if path.is_dir() else "nothing"
        raise DataError(
            f"{str(path)!r} is not a run: it holds no {RUN_FILE} (found {found}). Give a folder that "
            "`hf-cap train` wrote."
        )
    evaluations = path / EVALUATIONS
    return Run(
        name=path.resolve().name,
        facts=_read_json(path / RUN_FILE),
        evaluations={file.stem: _read_json(file) for file in sorted(evaluations.glob("*.json"))},
        records={file.stem: read_columns(file) for file in sorted(evaluations.glob("*.parquet"))},
    )


def load_priors(
    folder: str | os.PathLike[str], audit: str | os.PathLike[str] | None = None
) -> PriorFolder:
    """Read a folder of priors, one parquet file a split.

    Args:
        folder: The folder.
        audit: Folder with the `audit.json` of these priors; by default the folder itself, or the one
            beside it whose name ends in `-audit`, where `hf-cap audit` puts it.

    Raises:
        DataError: there is no such folder, it holds no parquet file, or `audit` no `audit.json`.
    """
    path = Path(folder).expanduser()
    files = sorted(path.glob("*.parquet"))
    if not files:
        raise DataError(
            f"{str(path)!r} holds no priors: there is no parquet file in it. Give a folder that "
            "`hf-cap extract` or `hf-cap fuse` wrote."
        )
    places = (
        [path, path.with_name(f"{path.name}-audit")]
        if audit is None
        else [Path(audit).expanduser()]
    )
    audits = [place / AUDIT_FILE for place in places if (place / AUDIT_FILE).is_file()]
    if audit is not None and not audits:
        raise DataError(
            f"{str(audit)!r} holds no {AUDIT_FILE}. Give a folder that `hf-cap audit` wrote."
        )
    return PriorFolder(
        splits={file.stem: read_columns(file) for file in files},
        audit=_read_json(audits[0]) if audits else None,
    )


def read_columns(file: Path) -> dict[str, list[Any]]:
    """The columns of a parquet file; class indices become label names where the file knows them."""
    table = pyarrow.parquet.read_table(file)
    columns: dict[str, list[Any]] = table.to_pydict()
    stored = (table.schema.metadata or {}).get(b"huggingface", b"{}")
    features = json.loads(stored).get("info", {}).get("features", {})
    names = features.get("label", {}).get("names")
    if names:
        columns["label"] = [None if label is None else names[label] for label in columns["label"]]
    return columns


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(
            f"{str(file)!r} is not valid JSON: {error}. Write it again with the command that made it."
        ) from error
    if not isinstance(content, dict):
        raise DataError(f"{str(file)!r} must hold a JSON object, got {type(content).__name__}.")
    return content
