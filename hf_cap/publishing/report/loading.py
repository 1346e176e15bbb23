"""Read what the command line leaves on disk: run folders and folders of priors."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet

from ...cards.run import EVALUATIONS, RUN_FILE
from ...errors import DataError

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
