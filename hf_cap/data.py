"""Labelled text in and out: from the Hub, a folder, a file or the package, always in one shape.

Every data set that leaves here has a string column `text` and a `ClassLabel` column `label`, so that the
label space travels with the data; other columns pass through.
"""

import json
import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import (
    ClassLabel,
    Dataset,
    DatasetDict,
    Features,
    Value,
    concatenate_datasets,
    load_dataset,
)
from datasets.exceptions import DatasetsError

from hf_cap.embedded import resolve_data
from hf_cap.errors import DataError
from hf_cap.schema import LABEL, TEXT, prior_column
from hf_cap.utils import atomic_path, refuse_loss

T = TypeVar("T")
_SHARD = re.compile(r"-\d{5}-of-\d{5}$")

LABEL_FILE = "labels.json"

_READERS: dict[str, Callable[[str], Any]] = {
    ".jsonl": Dataset.from_json,
    # words such as "null" and "NA" are words; only an empty cell is none
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
        name: `embedded/library-desk`, a folder with one `.jsonl`, `.csv` or `.parquet` file a split
            (and, if wished, `labels.json`), a repository of the Hub in a folder, a single file (its split
            is called `train`), or a data set on the Hub.
        splits: Names of the splits to load (a file `train_5.jsonl` is the split `train_5`); all by default.
        text_column: Column that holds the text; renamed to `text`, instead of another of that name.
        label_column: Column that holds the label, as a name or as a `ClassLabel`; renamed to `label`.
        labels: The label space, in order. By default the `ClassLabel` of the data, else `labels.json`,
            else the sorted label names of the `train` split (of all splits where there is none).
        revision: Revision of a data set on the Hub.

    Raises:
        DataError: nothing is there, a split or a column is missing, a text is empty, or a label lies
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
    """The split of this name.

    Raises:
        DataError: there is none, or it has no rows. The message lists those that exist.
    """
    if split not in splits:
        raise DataError(f"There is no split {split!r}; the data set has {sorted(splits)}.")
    if len(splits[split]) == 0:
        raise DataError(f"The split {split!r} is empty; there is nothing to work on.")
    return splits[split]


def read_parquet(file: str | os.PathLike[str]) -> Dataset:
    """A parquet file of a published folder, as it is now.

    Not `load_dataset(folder)`, which caches a folder with a card by its path alone (datasets 5.2).
    """
    return Dataset(pq.read_table(file))


def evenly(rows: Sequence[T], most: int) -> list[T]:
    """At most `most` of the rows, evenly spread, in their order; data may be sorted by label."""
    count = min(most, len(rows))
    return [rows[number * len(rows) // count] for number in range(count)]


def label_names(dataset: Dataset) -> list[str]:
    """Label space of a data set whose `label` column is a `ClassLabel`.

    Raises:
        DataError: the column is missing or holds plain values.
    """
    feature = dataset.features.get(LABEL)
    if not isinstance(feature, ClassLabel):
        raise DataError(
            f"Column {LABEL!r} must be a ClassLabel, so that the label names travel with the data; got "
            f"{feature!r} among the columns {dataset.column_names}. Load the data with `hf_cap.load_splits`, "
            "or call `dataset.class_encode_column('label')`."
        )
    return list(feature.names)


def prior_sources(features: Mapping[str, Any]) -> list[str]:
    """Sources whose prior columns are among the `features` of a data set, in their order.

    A column of single values, say `prior_weight`, is no prior.
    """
    prefix = prior_column("")
    return [
        name.removeprefix(prefix)
        for name, feature in features.items()
        if name.startswith(prefix)
        and not (isinstance(feature, Value) and feature.dtype != "null")  # null: no text has one
    ]


def check_output(
    folder: str | os.PathLike[str], splits: Iterable[str], *, beside: Collection[str] = ()
) -> None:
    """Refuse a place for a data set where something would be lost that is not written again.

    Args:
        folder: Where the data set is to go.
        splits: Names of its splits.
        beside: Other files that the same command writes into the folder.

    Raises:
        ConfigError: it is a file, or a folder that holds other files, or other splits.
    """
    refuse_loss(folder, [*beside, *(f"{split}.parquet" for split in splits)])


def save_splits(
    splits: Mapping[str, Dataset],
    folder: str | os.PathLike[str],
    *,
    beside: Collection[str] = (),
) -> None:
    """Write one parquet file a split, atomically: the folder is complete or as it was before.

    Args:
        splits: The data sets.
        folder: A folder that is new, or holds nothing but these splits and the files `beside`.
        beside: As for `check_output`.

    Raises:
        ConfigError: the folder holds something else.
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
        files = _data_files(path) or _data_files(path / "data")
        if not files:
            raise DataError(
                f"The folder {str(path)!r} holds no data: it needs one {', '.join(_READERS)} file a split, "
                f"such as train.jsonl and test.jsonl; found {sorted(f.name for f in path.iterdir())[:10]}."
            )
        labels = path / LABEL_FILE
        stored = json.loads(labels.read_text(encoding="utf-8")) if labels.exists() else None
        return {split: _read_files(some) for split, some in files.items()}, stored
    if path.is_file():
        if path.suffix not in _READERS:
            raise DataError(f"Cannot read {str(path)!r}: it must end in {', '.join(_READERS)}.")
        return {"train": _read_file(path)}, None
    if os.path.isabs(name) or str(name).startswith((".", "~")) or path.suffix in _READERS:
        raise DataError(f"There is no file or folder {str(path)!r}.")
    try:
        return dict(load_dataset(str(name), revision=revision)), None
    except RuntimeError as error:  # a loading script, which datasets 4 and later refuse
        raise DataError(
            f"The data set {str(name)!r} of the Hub cannot be loaded: {error}"
        ) from error
    except OSError as error:  # of the network, or of the Hub
        raise DataError(
            f"{str(name)!r} is no file or folder here, and cannot be had from the Hub: {error}"
        ) from error


def _data_files(folder: Path) -> dict[str, list[Path]]:
    """The files of each split, `train.csv` or, as on the Hub, `train-00000-of-00002.parquet` and so on.

    Raises:
        DataError: several files that are no such parts are of one split.
    """
    found: dict[str, list[Path]] = {}
    for file in sorted(folder.iterdir()) if folder.is_dir() else []:
        if file.suffix in _READERS:
            found.setdefault(_SHARD.sub("", file.stem), []).append(file)
    for split, files in found.items():
        if len(files) > 1 and not all(_SHARD.search(file.stem) for file in files):
            raise DataError(
                f"The folder {str(folder)!r} holds {len(files)} files of the split {split!r}: "
                f"{', '.join(file.name for file in files)}. Keep one of them there; only parts such as "
                f"{split}-00000-of-00002.parquet are put together."
            )
    return found


def _read_files(files: Sequence[Path]) -> Dataset:
    parts = [_read_file(file) for file in files]
    return concatenate_datasets(parts) if len(parts) > 1 else parts[0]


def _read_file(file: Path) -> Dataset:
    """Raises: DataError: the file is not what its name says."""
    try:
        return cast(Dataset, _READERS[file.suffix](str(file)))
    except (DatasetsError, pa.ArrowException) as error:
        cause = error.__cause__ or error
        if isinstance(cause, OSError):  # a full disk, say, is no fault of the file
            raise cause from error
        raise DataError(f"Cannot read {str(file)!r}: {cause}") from error


def _with_columns(data: Dataset, split: str, text_column: str, label_column: str) -> Dataset:
    wanted = {text_column: TEXT, label_column: LABEL}
    missing = [column for column in wanted if column not in data.column_names]
    if missing:
        raise DataError(
            f"Split {split!r} has no column {missing[0]!r}; it has {data.column_names}. Name the right one "
            "with `text_column` or `label_column`."
        )
    in_the_way = [new for new in wanted.values() if new in data.column_names and new not in wanted]
    data = data.remove_columns(in_the_way)
    data = data.rename_columns({old: new for old, new in wanted.items() if old != new})
    for row, text in enumerate(data[TEXT]):
        if not isinstance(text, str) or not text.strip():
            raise DataError(
                f"Split {split!r}, row {row}: the text is {text!r}. Every row needs a text with at "
                "least one word; remove the row or give it one."
            )
    return data


def _label_space(splits: Mapping[str, Dataset]) -> list[str]:
    features = [data.features[LABEL] for data in splits.values()]
    for feature in features:
        if isinstance(feature, ClassLabel):
            return list(feature.names)
    sources = [splits["train"]] if "train" in splits else splits.values()
    return sorted({str(label) for data in sources for label in data[LABEL] if label is not None})


def _with_labels(data: Dataset, split: str, space: list[str]) -> Dataset:
    feature = data.features[LABEL]
    if isinstance(feature, ClassLabel):
        # -1, as of rows without a label on the Hub, has no name
        of_index = dict(enumerate(feature.names))
        names = [of_index.get(label, label) for label in data[LABEL]]
    else:
        names = [None if label is None else str(label) for label in data[LABEL]]
    known = {label: index for index, label in enumerate(space)}
    for row, label in enumerate(names):
        if label not in known:
            raise DataError(
                f"Split {split!r}, row {row}: the label {label!r} is not in the label space of "
                f"{len(space)} labels ({', '.join(space[:5])}, ...). Correct the row, give the whole label "
                "space as `labels`, or load other splits alone (`splits`)."
            )
    if isinstance(feature, ClassLabel) and feature.names == space:
        return data
    target = ClassLabel(names=space)
    indices = [known[label] for label in names if label is not None]
    features = Features({**data.features, LABEL: target, TEXT: Value("string")})
    return (
        data.remove_columns(LABEL)
        .add_column(LABEL, indices)
        .select_columns(data.column_names)
        .cast(features)
    )
