"""Labelled text in and out: from the Hub, a folder, a file or the package, always in one shape.

Every data set returned here has a string column `text` and a `ClassLabel` column `label`, so that
the label space travels with the data; other columns pass through.
"""

import json
import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import ClassLabel, Dataset, DatasetDict, Value
from datasets.exceptions import DatasetsError

from hf_cap.embedded import resolve_data
from hf_cap.errors import DataError
from hf_cap.schema import LABEL, TEXT
from hf_cap.utils import atomic_path, file_name, refuse_loss

_SHARD = re.compile(r"-\d{5}-of-\d{5}$")
_LABEL_FILE = "labels.json"
_READERS: dict[str, Callable[[str], Any]] = {
    ".jsonl": Dataset.from_json,
    # "null" and "NA" are words; only an empty cell is missing
    ".csv": partial(Dataset.from_csv, keep_default_na=False, na_values=[""]),
    ".parquet": Dataset.from_parquet,
}


def load_splits(
    name: str | os.PathLike[str],
    *,
    splits: Sequence[str] | None = None,
    text_column: str = TEXT,
    label_column: str = LABEL,
    labels: Sequence[str] | None = None,
    revision: str | None = None,
) -> DatasetDict:
    """Load a labelled data set.

    Args:
        name: `embedded/library-desk`, a folder with one `.jsonl`, `.csv` or `.parquet` file per split
            and perhaps `labels.json`, a data-set repository in a folder, a single file (the split
            `train`), or a data set on the Hub.
        splits: Names of the splits to load; all by default.
        text_column: Column that holds the text; renamed to `text`, instead of another of that name.
        label_column: Column that holds the label, as a name or a `ClassLabel`; renamed to `label`.
        labels: The label space, in order. By default the `ClassLabel` of the data, else `labels.json`,
            else the sorted label names of the `train` split (of all splits without one).
        revision: Revision of a data set on the Hub.

    Raises:
        DataError: nothing is found, a split or a column is missing, a text is empty, or a label is
            outside the label space. The message names the split and the row.
    """
    found, stored_labels = _read(name, revision)
    wanted = found if splits is None else {split: choose_split(found, split) for split in splits}
    renamed = {
        split: _with_columns(data, split, text_column, label_column)
        for split, data in wanted.items()
    }
    space = list(labels or stored_labels or _label_space(renamed))
    return DatasetDict({split: _with_labels(data, split, space) for split, data in renamed.items()})


def choose_split(splits: Mapping[str, Dataset], split: str) -> Dataset:
    """The split of this name; `DataError` where there is none, or it has no rows."""
    if file_name(split) not in splits:
        raise DataError(f"There is no split {split!r}; the data set has {sorted(splits)}.")
    if len(splits[split]) == 0:
        raise DataError(f"The split {split!r} is empty; there is nothing to work on.")
    return splits[split]


def read_parquet(file: str | os.PathLike[str]) -> Dataset:
    """A parquet file of a published folder, as it is now.

    Not `load_dataset(folder)`, which caches a folder with a card by its path alone (datasets 5.2).
    """
    return Dataset(pq.read_table(file))


def label_names(dataset: Dataset, column: str = LABEL) -> list[str]:
    """Label space of a data set; `DataError` unless the label column is a `ClassLabel`."""
    feature = dataset.features.get(column)
    if not isinstance(feature, ClassLabel):
        raise DataError(
            f"Column {column!r} must be a ClassLabel, got {feature!r} among the columns "
            f"{dataset.column_names}. Load the data with `hf_cap.load_splits`, or call "
            f"`dataset.class_encode_column({column!r})`."
        )
    return list(feature.names)


def add_label_texts(dataset: Dataset, phrases: Sequence[str]) -> Dataset:
    """The data set with each label's phrase as one more text of it; other columns are null there."""
    rows = {TEXT: list(phrases), LABEL: list(range(len(phrases)))}
    rows |= {name: [None] * len(phrases) for name in dataset.column_names if name not in rows}
    named = Dataset.from_dict(rows, features=dataset.features)
    return datasets.concatenate_datasets([dataset, named])


def check_output(
    folder: str | os.PathLike[str], splits: Iterable[str], *, beside: Collection[str] = ()
) -> None:
    """Raise `ConfigError` if a folder for `splits` is a file or holds more than them and `beside`."""
    refuse_loss(folder, [*beside, *(f"{file_name(split)}.parquet" for split in splits)])


def save_splits(
    splits: Mapping[str, Dataset], folder: str | os.PathLike[str], *, beside: Collection[str] = ()
) -> None:
    """Write one parquet file per split, atomically: the folder is complete or as it was before.

    Raises:
        ConfigError: the folder, which is replaced, holds more than these splits and the files `beside`.
    """
    check_output(folder, splits, beside=beside)
    with atomic_path(folder) as path:
        path.mkdir()
        for split, data in splits.items():
            data.to_parquet(str(path / f"{split}.parquet"))


def _read(
    name: str | os.PathLike[str], revision: str | None
) -> tuple[dict[str, Dataset], list[str] | None]:
    path = resolve_data(str(name)) or Path(name).expanduser()
    if path.is_dir():
        return _read_folder(path)
    if path.is_file():
        if path.suffix not in _READERS:
            raise DataError(f"Cannot read {str(path)!r}: it must end in {', '.join(_READERS)}.")
        return {"train": _read_file(path)}, None
    if os.path.isabs(name) or str(name).startswith((".", "~")) or path.suffix in _READERS:
        raise DataError(f"There is no file or folder {str(path)!r}.")
    try:
        return dict(datasets.load_dataset(str(name), revision=revision)), None
    except (RuntimeError, OSError) as error:  # a loading script; the network or the Hub
        raise DataError(
            f"{str(name)!r} is no file or folder here, and cannot be loaded from the Hub: {error}"
        ) from error


def _read_folder(path: Path) -> tuple[dict[str, Dataset], list[str] | None]:
    files = _data_files(path) or _data_files(path / "data")
    if not files:
        raise DataError(
            f"The folder {str(path)!r} holds no data: it needs one {', '.join(_READERS)} file per "
            f"split, such as train.jsonl; found {sorted(file.name for file in path.iterdir())[:10]}."
        )
    labels = path / _LABEL_FILE
    stored = json.loads(labels.read_text(encoding="utf-8")) if labels.exists() else None
    return {
        split: datasets.concatenate_datasets(list(map(_read_file, paths)))
        for split, paths in files.items()
    }, stored


def _data_files(folder: Path) -> dict[str, list[Path]]:
    """The files of each split: one, or parts such as `train-00000-of-00002.parquet`."""
    found: dict[str, list[Path]] = {}
    for file in sorted(folder.iterdir()) if folder.is_dir() else []:
        if file.suffix in _READERS:
            found.setdefault(_SHARD.sub("", file.stem), []).append(file)
    for split, files in found.items():
        if len(files) > 1 and not all(_SHARD.search(file.stem) for file in files):
            raise DataError(
                f"The folder {str(folder)!r} holds {len(files)} files of the split {split!r}: "
                f"{', '.join(file.name for file in files)}. Keep one of them."
            )
    return found


def _read_file(file: Path) -> Dataset:
    try:
        return cast(Dataset, _READERS[file.suffix](str(file)))
    except (DatasetsError, pa.ArrowException) as error:
        cause = error.__cause__ or error
        if isinstance(cause, OSError):  # a full disk is not an error of the file
            raise cause from error
        raise DataError(f"Cannot read {str(file)!r}: {cause}") from error


def _with_columns(data: Dataset, split: str, text_column: str, label_column: str) -> Dataset:
    wanted = {text_column: TEXT, label_column: LABEL}
    missing = [column for column in wanted if column not in data.column_names]
    if missing:
        raise DataError(
            f"Split {split!r} has no column {missing[0]!r}; it has {data.column_names}. Name the "
            "right one with `text_column` or `label_column`."
        )
    replaced = [new for new in wanted.values() if new in data.column_names and new not in wanted]
    renamed = {old: new for old, new in wanted.items() if old != new}
    data = data.remove_columns(replaced).rename_columns(renamed)
    for row, text in enumerate(data[TEXT]):
        if not isinstance(text, str) or not text.strip():
            raise DataError(
                f"Split {split!r}, row {row}: the text is {text!r}; give the row one, or remove it."
            )
    return data


def _label_space(splits: Mapping[str, Dataset]) -> list[str]:
    for data in splits.values():
        if isinstance(data.features[LABEL], ClassLabel):
            return list(data.features[LABEL].names)
    sources = [splits["train"]] if "train" in splits else splits.values()
    return sorted({str(label) for data in sources for label in data[LABEL] if label is not None})


def _with_labels(data: Dataset, split: str, space: list[str]) -> Dataset:
    feature, names = data.features[LABEL], data[LABEL][:]
    if isinstance(feature, ClassLabel):
        # -1, as of rows without a label on the Hub, has no name
        of_index = dict(enumerate(feature.names))
        names = [of_index.get(label, label) for label in names]
    else:
        names = [None if label is None else str(label) for label in names]
    known = {label: index for index, label in enumerate(space)}
    for row, label in enumerate(names):
        if label not in known:
            raise DataError(
                f"Split {split!r}, row {row}: the label {label!r} is not in the label space of "
                f"{len(space)} labels ({', '.join(space[:5])}, ...). Correct the row, give the whole "
                "label space as `labels`, or load only other splits (`splits`)."
            )
    if isinstance(feature, ClassLabel) and feature.names == space:
        return data
    kinds = {**data.features, LABEL: ClassLabel(names=space), TEXT: Value("string")}
    data = data.remove_columns(LABEL).add_column(LABEL, [known[label] for label in names])
    return data.select_columns(list(kinds)).cast(datasets.Features(kinds))
