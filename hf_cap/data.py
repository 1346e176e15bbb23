"""Labelled text in and out: from the Hub, a folder, a file or the package, always in one shape.

Every data set returned here has a string column `text` and a `ClassLabel` column `label`, so that
the label space travels with the data; other columns pass through.
"""

import csv
import errno
import gzip
import json
import logging
import os
import re
import unicodedata
import zlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import regex
from datasets import ClassLabel, Dataset, DatasetDict, Value

from hf_cap.embedded import resolve_data
from hf_cap.errors import ConfigError, DataError
from hf_cap.parquet import Rows, read_table, write_parquet
from hf_cap.schema import LABEL, TEXT
from hf_cap.utils import Place, atomic_path, file_name, rank, refuse_loss

_logger = logging.getLogger(__name__)

_SHARD = re.compile(r"-\d{5}-of-(\d{5})$")
_LABEL_FILE = "labels.json"
UNLABELLED = "unlabelled"  # split of texts that need no labels
_UNREAD = re.compile(r"(?i)\.(tsv|xlsx?|ndjson|arrow|(csv|jsonl?|parquet)\.\w+)$")
_UNSEEN = regex.compile(r"[\p{Cc}\p{Cf}--\s]", regex.VERSION1)
_NUMBER = re.compile(r"0|[1-9][0-9]*")


def load_splits(
    name: Place,
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
        splits: Names of the splits to load; by default all but `unlabelled`.
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
    names = splits or [split for split in found if split != UNLABELLED]
    wanted = {split: choose_split(found, split) for split in names}
    columns = text_column, label_column
    renamed = {split: _with_columns(data, split, *columns) for split, data in wanted.items()}
    space = _checked_space(labels or stored_labels or _label_space(renamed))
    return DatasetDict({split: _with_labels(data, split, space) for split, data in renamed.items()})


def load_texts(name: Place, *, revision: str | None = None) -> list[str]:
    """Texts without labels: of the split `unlabelled` or the only one, the column `text` or the only one."""
    found, _ = _read(name, revision)
    split = UNLABELLED if UNLABELLED in found or len(found) > 1 else next(iter(found))
    data = choose_split(found, split)
    columns = data.column_names
    return list(_with_columns(data, split, columns[0] if len(columns) == 1 else TEXT)[TEXT])


def with_unlabelled(name: Place) -> str | None:
    """The name of a data set if it has a split `unlabelled`, else `None`; files are not read for it."""
    path = resolve_data(str(name)) or Path(name).expanduser()
    splits = _folder_files(path) if path.exists() else _read(name, None)[0]
    return str(name) if UNLABELLED in splits else None


def choose_split(splits: Mapping[str, Dataset], split: str) -> Dataset:
    """The split of this name; `DataError` where there is none, or it has no rows."""
    if file_name(split) not in splits:
        raise DataError(f"There is no split {split!r}; the data set has {sorted(splits)}.")
    if len(splits[split]) == 0:
        raise DataError(f"The split {split!r} is empty; there is nothing to work on.")
    return splits[split]


def read_parquet(file: Place) -> Dataset:
    """A parquet file, as it is now; its name is no pattern, nor a key of a cache. Damage is a `DataError`.

    Not `load_dataset(folder)`, which caches a folder with a card by its path alone (datasets 5.2).
    """
    return Dataset(read_table(file))


def read_csv(file: Place) -> dict[str, list[str | None]]:
    """The columns of a `.csv` or `.csv.gz` file: each cell is the text that was written, `None` if empty."""
    csv.field_size_limit(2**31 - 1)
    opened = gzip.open if str(file).endswith(".gz") else open
    try:
        with opened(file, "rt", encoding="utf-8-sig", newline="") as lines:
            reader = csv.reader(lines, strict=True, skipinitialspace=True)
            header = [name.strip() or f"Unnamed: {at}" for at, name in enumerate(next(reader, []))]
            rows = [(row, reader.line_num) for row in reader if row]
    except (csv.Error, UnicodeError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"Cannot read {str(file)!r}: {error}. Save it as CSV in UTF-8.") from error
    for row, line in rows:
        if len(row) != len(header):
            raise DataError(
                f"{str(file)!r}, line {line}: {len(row)} cells for the {len(header)} columns "
                f"{header[:8]!r}; put a cell that holds a comma in double quotes."
            )
    if twice := [name for at, name in enumerate(header) if name in header[:at]]:
        raise DataError(f"{str(file)!r} has two columns {twice[0]!r}; rename one.")
    return {name: [row[at] or None for row, _ in rows] for at, name in enumerate(header)}


def _read_jsonl(file: Place) -> dict[str, list[Any]]:
    with open(file, encoding="utf-8-sig") as text:
        lines = [(line, f"{str(file)!r}, line {n}") for n, line in enumerate(text, 1)]
    rows = [_json_object(*pair) for pair in lines if pair[0].strip()]
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


def _json_object(line: str, where: str) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(found := dict(pairs)) < len(pairs):
            raise ValueError(f"a name occurs twice among {[name for name, _ in pairs][:8]!r}")
        return found

    try:
        row = json.loads(line, object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where} is not valid JSON: {error}.") from error
    if not isinstance(row, dict):
        raise DataError(f'{where} must hold a JSON object such as {{"text": ...}}, got {line.strip():.40}.')
    return row


def _as_dataset(columns: Mapping[str, Sequence[Any]], file: Place) -> Dataset:
    arrays = {}
    for name, cells in columns.items():
        try:
            arrays[name] = pa.array(cells)
        except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
            raise DataError(
                f"Cannot read the column {name!r} of {str(file)!r}, whose cells must be of one kind: {error}."
            ) from error
    return Dataset(pa.table(arrays))


_READERS: dict[str, Callable[[Path], Dataset]] = {
    ".jsonl": lambda file: _as_dataset(_read_jsonl(file), file),
    ".csv": lambda file: _as_dataset(read_csv(file), file),
    ".parquet": read_parquet,
}


def label_names(dataset: Dataset, column: str = LABEL, *, at_least: int = 0) -> list[str]:
    """Label space of a data set; `DataError` unless the label column is a `ClassLabel` of so many names."""
    feature = dataset.features.get(column)
    if not isinstance(feature, ClassLabel):
        raise DataError(
            f"Column {column!r} must be a ClassLabel, got {feature!r} among the columns "
            f"{dataset.column_names}. Load the data with `hf_cap.load_splits`."
        )
    if len(feature.names) < at_least:
        raise DataError(
            f"The label space is {feature.names!r}; a classifier needs at least {at_least} labels. Add texts "
            "of another, or name the right column as `label_column`."
        )
    return list(feature.names)


def named_labels(dataset: Dataset) -> list[str]:
    """The label name of each text; the errors are those of `label_names`."""
    names = label_names(dataset)
    return [names[label] for label in dataset[LABEL]]


def label_ids(dataset: Dataset, label2id: Mapping[str, int]) -> dict[Any, int]:
    """What a label cell may hold, to the class index of a model: in training and evaluation alike.

    A text is the name of a label, the index of a `ClassLabel` stands for its name, and any other integer is
    the class index of the model. A model whose labels were never named (`LABEL_0`, ...) takes the indices of
    a `ClassLabel` as they are.
    """
    feature = dataset.features.get(LABEL)
    kind, indices = _kind(feature), {index: index for index in label2id.values()}
    if isinstance(feature, ClassLabel):
        unknown = [name for name in feature.names if name not in label2id]
        if not unknown:
            return {index: label2id[name] for index, name in enumerate(feature.names)}
        nameless = set(label2id) == {f"LABEL_{index}" for index in indices}
        if len(unknown) == len(feature.names) <= len(indices) and nameless:
            return indices
        raise DataError(
            f"The data set's labels {unknown[:8]!r} are not among the model's {list(label2id)[:8]!r}...; "
            "set `id2label` and `label2id` of the model's config, or use data with its labels."
        )
    if kind == "integer":
        if moved := [n for n, at in label2id.items() if _NUMBER.fullmatch(n) and n != str(at)]:
            raise DataError(
                f"The labels are integers, and the model's label {moved[0]!r} is its class "
                f"{label2id[moved[0]]}, so that they could be names or indices; load the data with "
                "`hf_cap.load_splits`, or cast the column to a string or `ClassLabel`."
            )
        return indices
    if kind is None and feature is not None:
        raise DataError(
            f"The column {LABEL!r} holds {feature!r}; give names, integers or a `ClassLabel`, one per text."
        )
    return dict(label2id)


def _kind(feature: Any) -> str | None:
    """`text` or `integer` for the type of a column, `None` for one that holds no labels."""
    dtype = str(getattr(feature, "dtype", ""))
    if "string" in dtype or dtype == "null":
        return "text"
    return "integer" if re.fullmatch(r"u?int\d+", dtype) else None


def add_label_texts(dataset: Dataset, phrases: Sequence[str]) -> Dataset:
    """The data set with each label's phrase as one more text of it; other columns are null there."""
    rows = {TEXT: list(phrases), LABEL: list(range(len(phrases)))}
    rows |= {name: [None] * len(phrases) for name in dataset.column_names if name not in rows}
    return datasets.concatenate_datasets([dataset, Dataset.from_dict(rows, dataset.features)])


def check_output(folder: Place, splits: Iterable[str], *, beside: Collection[str] = ()) -> None:
    """Raise `ConfigError` if a folder for `splits` is a file or holds more than them and `beside`."""
    refuse_loss(folder, [*beside, *(f"{file_name(split)}.parquet" for split in splits)])


def with_test_split(splits: Mapping[str, Dataset], test_size: float, seed: int) -> dict[str, Dataset]:
    """The splits `train` and `test`; where there is no `test`, a part of each class is held out."""
    train = choose_split(splits, "train").select_columns([TEXT, LABEL])
    names = label_names(train, at_least=2)
    if "test" in splits:
        return {"train": train, "test": splits["test"].select_columns([TEXT, LABEL])}
    texts, classes = train[TEXT][:], train[LABEL][:]
    ranked = sorted(range(len(train)), key=lambda row: rank(seed, texts[row], row))
    held_out: set[int] = set()
    for label, name in enumerate(names):
        rows = [row for row in ranked if classes[row] == label]
        if len(rows) == 1:
            raise DataError(
                f"The label {name!r} has one text only, so none can be held out for the test; add texts "
                "of it, or give a split `test`."
            )
        held_out.update(rows[: min(len(rows) - 1, max(1, round(test_size * len(rows))))])
    parts = {"train": {*range(len(train))} - held_out, "test": held_out}
    return {name: train.select(sorted(rows)) for name, rows in parts.items()}


def save_splits(splits: Mapping[str, Rows], folder: Place, *, beside: Collection[str] = ()) -> None:
    """Write one parquet file per split, atomically: the folder is complete or as it was before.

    Raises:
        ConfigError: the folder, which is replaced, holds more than these splits and the files `beside`.
    """
    check_output(folder, splits, beside=beside)
    with atomic_path(folder) as path:
        path.mkdir()
        for split, data in splits.items():
            write_parquet(data, path / f"{split}.parquet")


def _read(name: Place, revision: str | None) -> tuple[dict[str, Dataset], list[str] | None]:
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
    except (RuntimeError, ValueError, OSError) as error:  # a loading script; a name; the Hub
        raise DataError(
            f"{str(name)!r} is no file or folder here, and cannot be loaded from the Hub: "
            f"{' '.join(str(error).split())}"
        ) from error


def _read_folder(path: Path) -> tuple[dict[str, Dataset], list[str] | None]:
    files = _folder_files(path)
    if not files:
        raise DataError(
            f"The folder {str(path)!r} holds no data: it needs one {', '.join(_READERS)} file per "
            f"split, such as train.jsonl; found {sorted(file.name for file in path.iterdir())[:10]}."
        )
    if unread := [file.name for file in path.iterdir() if _UNREAD.search(file.name)]:
        _logger.warning("Not read in %s: %s; save them as csv or jsonl.", path, ", ".join(unread))
    parts = {split: list(map(_read_file, paths)) for split, paths in files.items()}
    try:
        splits = {split: datasets.concatenate_datasets(each) for split, each in parts.items()}
    except ValueError as error:
        raise DataError(f"The parts of a split in {str(path)!r} do not fit: {error}.") from error
    return splits, _stored_labels(path / _LABEL_FILE)


def _stored_labels(file: Path) -> list[str] | None:
    if not file.exists():
        return None
    try:
        found = json.loads(file.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{str(file)!r} is not valid JSON: {error}.") from error
    if found == []:
        raise DataError(f"{str(file)!r} names no labels; list them, or remove the file.")
    return _checked_space(found, repr(str(file)))


def _folder_files(folder: Path) -> dict[str, list[Path]]:
    """The files of each split of a folder, or of its folder `data`; none of a file."""
    return _data_files(folder) or _data_files(folder / "data")


def _data_files(folder: Path) -> dict[str, list[Path]]:
    """The files of each split: one, or parts such as `train-00000-of-00002.parquet`."""
    found: dict[str, list[Path]] = {}
    for file in sorted(folder.iterdir()) if folder.is_dir() else []:
        if file.suffix in _READERS:
            found.setdefault(_SHARD.sub("", file.stem), []).append(file)
    for split, files in found.items():
        parts = {int(part[1]) if part else 1 for part in (_SHARD.search(f.stem) for f in files)}
        if parts != {len(files)}:
            raise DataError(
                f"The folder {str(folder)!r} holds {len(files)} files of the split {split!r}: "
                f"{', '.join(file.name for file in files[:5])}. Keep one of them, or all parts of one."
            )
    return found


def _read_file(file: Path) -> Dataset:
    try:
        return _READERS[file.suffix](file)
    except (pa.ArrowException, ValueError, OSError) as error:
        of_disk = getattr(error, "errno", None) not in (None, errno.EISDIR, errno.ENOENT)
        if isinstance(error, DataError) or of_disk:
            raise
        told = f"Cannot read {str(file)!r}: {' '.join(str(error).split())}"
        raise DataError(f"{told}. Write it again, as JSON lines in UTF-8.") from error


def _with_columns(data: Dataset, split: str, text_column: str, label_column: str | None = None) -> Dataset:
    wanted = {text_column: TEXT} | ({label_column: LABEL} if label_column else {})
    if text_column == label_column:
        raise DataError(f"`text_column` and `label_column` are both {text_column!r}; name two columns.")
    if missing := [column for column in wanted if column not in data.column_names]:
        raise DataError(
            f"Split {split!r} has no column {missing[0]!r}; it has {data.column_names}. Name the "
            "right one with `text_column` or `label_column`."
        )
    replaced = [new for new in wanted.values() if new in data.column_names and new not in wanted]
    renamed = {old: new for old, new in wanted.items() if old != new}
    data = data.remove_columns(replaced).rename_columns(renamed)
    for row, text in enumerate(data[TEXT][:]):
        if not isinstance(text, str) or not text.strip():
            raise DataError(
                f"Split {split!r}, row {row}: the text is {text!r}; give the row one, or remove it."
            )
    return data


def _label_space(splits: Mapping[str, Dataset]) -> list[str]:
    for data in splits.values():
        if isinstance(data.features[LABEL], ClassLabel):
            return list(data.features[LABEL].names)
    chosen = {"train": splits["train"]} if "train" in splits else splits
    cells = {cell for pair in chosen.items() for cell in _label_cells(*pair)}
    found = [cell for cell in cells if cell and cell.strip()]
    return sorted(found, key=int if all(map(_NUMBER.fullmatch, found)) else str)


def _checked_space(space: Any, what: str = "The label space") -> list[str]:
    """Label names in order; `DataError` unless they are a list of distinct texts (or integers)."""
    if not isinstance(space, list | tuple):
        raise DataError(f"{what} must be a list of label names, got {space!r:.80}.")
    found: dict[str, str] = {}
    for label in space:
        name = str(label) if type(label) is int else label
        if not isinstance(name, str) or not name.strip():
            raise DataError(f"{what} has the label {label!r}; give each a name.")
        key = " ".join(_UNSEEN.sub("", unicodedata.normalize("NFKC", name)).split())
        if key in found:
            raise DataError(
                f"{what} has the labels {found[key]!r} and {name!r}, which look alike; write them alike, "
                "or leave one out."
            )
        found[key] = name
    return list(found.values())


def _label_cells(split: str, data: Dataset) -> list[Any]:
    """Name of each row's label; what is none, such as `None`, stays as it is."""
    feature, cells = data.features[LABEL], data[LABEL][:]
    if isinstance(feature, ClassLabel):  # -1, as of rows without a label on the Hub, has no name
        of_index: dict[Any, str] = dict(enumerate(feature.names))
        return [of_index.get(label, label) for label in cells]
    if getattr(feature, "dtype", None) == "bool":
        return [None if label is None else json.dumps(label) for label in cells]
    if _kind(feature) is None:
        raise DataError(
            f"Split {split!r}: the column {LABEL!r} holds {feature!r}; give names or integers, one per text."
        )
    return [None if label is None else str(label) for label in cells]


def _with_labels(data: Dataset, split: str, space: list[str]) -> Dataset:
    feature, names = data.features[LABEL], _label_cells(split, data)
    known = {label: index for index, label in enumerate(space)}
    for row, label in enumerate(names):
        if label not in known:
            raise DataError(
                f"Split {split!r}, row {row}: the label {label!r} is not in the label space of {len(space)} "
                f"labels {space[:5]!r}... Correct it, give all `labels`, or load only other `splits`."
            )
    if isinstance(feature, ClassLabel) and feature.names == space:
        return data
    kinds = {**data.features, LABEL: ClassLabel(names=space), TEXT: Value("string")}
    data = data.remove_columns(LABEL).add_column(LABEL, [known[label] for label in names])
    return data.select_columns(list(kinds)).cast(datasets.Features(kinds))


def few_shot(dataset: Dataset, k: int, *, draw: int = 0, seed: int = 0, allow_fewer: bool = False) -> Dataset:
    """A training set of `k` texts per class.

    The choice depends on the seed, the draw and the labelled texts alone: not on the order of the
    rows, on other columns or on other classes. The rows come in an order that mixes the classes.
    The k-shot set of a draw is part of its (k + 1)-shot set.

    Args:
        dataset: Columns `text` and `label` (a `ClassLabel`).
        k: Texts per class, at least 1. A text that occurs twice counts once.
        draw, seed: Number of the draw, from 0, and seed of the draws.
        allow_fewer: Take all texts of a class that has fewer than `k`, with one warning.

    Raises:
        DataError: a class has fewer than `k` different texts, or there is no `ClassLabel`.
    """
    if k < 1:
        raise ConfigError(f"A few-shot set has at least 1 text per class, got k={k!r}.")
    names = label_names(dataset)
    ranked: dict[str, dict[bytes, int]] = {name: {} for name in names}
    for row, (text, label) in enumerate(zip(dataset[TEXT], dataset[LABEL], strict=True)):
        ranked[names[label]].setdefault(rank(seed, draw, names[label], text), row)
    if short := [f"{name!r} has {len(rows)}" for name, rows in ranked.items() if len(rows) < k]:
        told = f"{len(short)} classes have fewer than {k} different texts: {', '.join(short[:5])}"
        if not allow_fewer:
            raise DataError(f"{told}. Choose a smaller k, or allow fewer (`allow_fewer=True`).")
        _logger.warning("%s; all of them are taken.", told)
    chosen = [item for rows in ranked.values() for item in sorted(rows.items())[:k]]
    return dataset.select([row for _, row in sorted(chosen)])
