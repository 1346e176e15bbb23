"""Tables in: csv, parquet, a folder, the Hub, `datasets.Dataset` or pandas, always as a pandas frame."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import pandas as pd
from datasets import Dataset, load_dataset
from datasets.exceptions import DatasetNotFoundError

from ..errors import DataError
from .settings import MISSING_VALUES

Table: TypeAlias = pd.DataFrame | Dataset | str | os.PathLike[str]

_READERS: dict[str, Callable[[Path, list[str]], pd.DataFrame]] = {
    ".csv": lambda path, missing: pd.read_csv(path, na_values=missing, skipinitialspace=True),
    ".parquet": lambda path, missing: pd.read_parquet(path),
}


def read_table(
    table: Table, *, split: str = "train", missing_values: Sequence[str] = MISSING_VALUES
) -> pd.DataFrame:
    """A table as a pandas frame with string column names.

    Args:
        table: A frame, a `Dataset`, a `.csv` (perhaps `.csv.gz`) or `.parquet` file (which is the split
            `train`), a folder with one such file a split, or the id of a data set on the Hub.
        split: The split to read.
        missing_values: Cells of a csv file that mean a missing value, beside empty ones.

    Raises:
        DataError: there is no such table or split, or it has no rows.
    """
    if isinstance(table, pd.DataFrame):
        frame = table
    elif isinstance(table, Dataset):
        frame = _to_pandas(table)
    else:
        frame = _read(Path(table).expanduser(), str(table), split, list(missing_values))
    if not len(frame):
        raise DataError("The table has no rows; there is nothing to work on.")
    return frame.rename(columns=str).reset_index(drop=True)


def _read(path: Path, name: str, split: str, missing: list[str]) -> pd.DataFrame:
    if path.is_dir():
        files = {file.name.split(".")[0]: file for file in sorted(path.iterdir()) if _kind(file)}
        if split not in files:
            raise DataError(
                f"The folder {name!r} has no table {split!r}, but {sorted(files)}. It needs one "
                ".csv, .csv.gz or .parquet file a split."
            )
        path = files[split]
    elif not path.is_file():
        return _from_hub(name, split)
    elif split != "train":
        raise DataError(
            f"{name!r} is one file, which is the split 'train'; there is no {split!r}. Give a folder with "
            "a file a split."
        )
    kind = _kind(path)
    if kind is None:
        raise DataError(f"{name!r} is no table that can be read; give a .csv or .parquet file.")
    return _READERS[kind](path, missing)


def _kind(path: Path) -> str | None:
    return next((kind for kind in _READERS if path.name.removesuffix(".gz").endswith(kind)), None)


def _from_hub(name: str, split: str) -> pd.DataFrame:
    try:
        return _to_pandas(load_dataset(name, split=split))
    except (DatasetNotFoundError, FileNotFoundError, ValueError) as error:
        raise DataError(
            f"There is no table {name!r} with a split {split!r}: no such file, folder or data set on the "
            f"Hub. {error}"
        ) from error


def _to_pandas(dataset: Dataset) -> pd.DataFrame:
    """The columns as they are; class labels by their names."""
    frame: pd.DataFrame = dataset.to_pandas()
    for name, feature in dataset.features.items():
        names: Any = getattr(feature, "names", None)
        if names is not None:
            frame[name] = [None if pd.isna(label) else names[int(label)] for label in frame[name]]
    return frame
