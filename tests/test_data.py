"""Data sets in and out, and what is said about bad ones."""

import errno
import json
from pathlib import Path
from typing import Any

import pytest
from datasets import ClassLabel, Dataset
from datasets.exceptions import DatasetGenerationError

from hf_cap.data import (
    _READERS,
    choose_split,
    label_names,
    load_splits,
    save_splits,
)
from hf_cap.errors import ConfigError, DataError
from hf_cap.schema import prior_sources


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Train and test as JSON lines with a label space that has an unused label."""
    write(tmp_path / "train.jsonl", [{"text": "a b", "label": "y"}, {"text": "c", "label": "x"}])
    write(tmp_path / "test.jsonl", [{"text": "d", "label": "z"}])
    (tmp_path / "labels.json").write_text('["z", "y", "x"]')
    return tmp_path


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_a_folder_is_read_with_its_label_space(folder: Path) -> None:
    splits = load_splits(folder)
    assert sorted(splits) == ["test", "train"]
    assert label_names(splits["train"]) == ["z", "y", "x"]
    assert splits["train"]["label"][:] == [1, 2]
    assert splits["test"]["label"][:] == [0]
    assert load_splits(folder, labels=["x", "y", "z"])["train"]["label"][:] == [1, 0]


def test_without_a_label_file_the_training_split_says_the_labels(folder: Path) -> None:
    (folder / "labels.json").unlink()
    with pytest.raises(DataError, match=r"Split 'test', row 0: the label 'z'.*2 labels \(x, y"):
        load_splits(folder)
    assert label_names(load_splits(folder, splits=["train"])["train"]) == ["x", "y"]


def test_saved_splits_come_back_as_they_were(folder: Path, tmp_path: Path) -> None:
    splits = load_splits(folder)
    splits["train"] = splits["train"].add_column("prior", [[0.5, -1.0], None])
    save_splits(splits, tmp_path / "out")
    back = load_splits(tmp_path / "out")
    assert back["train"].features == splits["train"].features
    assert back["train"][:] == splits["train"][:]


def test_nothing_but_the_splits_is_replaced(folder: Path, tmp_path: Path) -> None:
    splits, out = load_splits(folder), tmp_path / "out"
    save_splits(splits, out)
    save_splits(splits, out)
    with pytest.raises(ConfigError, match=r"would be replaced, and with it 'test.parquet'"):
        save_splits({"train": splits["train"]}, out)
    (out / "notes.txt").touch()
    with pytest.raises(ConfigError, match=r"with it 'notes.txt'. Name another"):
        save_splits(splits, out)
    save_splits(splits, out, beside=["notes.txt"])
    with pytest.raises(ConfigError, match=r"with it 'labels\.json', 'out', 'test\.jsonl'"):
        save_splits(splits, folder)
    assert (folder / "train.jsonl").exists()
    with pytest.raises(ConfigError, match="is a file"):
        save_splits(splits, folder / "train.jsonl")


def test_a_repository_of_the_hub_in_a_folder_is_read(folder: Path, tmp_path: Path) -> None:
    split = load_splits(folder)["train"]
    data = tmp_path / "repository" / "data"
    data.mkdir(parents=True)
    for part in range(2):
        split.select([part]).to_parquet(str(data / f"train-0000{part}-of-00002.parquet"))
    assert load_splits(data.parent)["train"][:] == split[:]


def test_words_that_pandas_takes_for_nothing_are_words(tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_text("text,label\nnull,None\nNA,greet\n")
    data = load_splits(tmp_path / "data.csv")["train"]
    assert data["text"][:] == ["null", "NA"]
    assert label_names(data) == ["None", "greet"]


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        (
            "me/nowhere",
            ConnectionError("no network"),
            "'me/nowhere' is no file or folder here.*no net",
        ),
        ("a/bank", RuntimeError("Dataset scripts are out"), "'a/bank' of the Hub: Dataset scripts"),
    ],
)
def test_a_data_set_that_the_hub_does_not_give(
    name: str, error: Exception, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr("hf_cap.data.load_dataset", load)
    with pytest.raises(DataError, match=message):
        load_splits(name)


def test_csv_and_single_files(tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_text("message,intent\nhello there,greet\nbye,part\n")
    data = load_splits(tmp_path / "data.csv", text_column="message", label_column="intent")
    assert data["train"].column_names == ["text", "label"]
    assert data["train"]["label"][:] == [0, 1]


def test_integer_labels_become_names(tmp_path: Path) -> None:
    write(tmp_path / "d.jsonl", [{"text": "a", "label": 10}, {"text": "b", "label": 2}])
    assert label_names(load_splits(tmp_path / "d.jsonl")["train"]) == ["10", "2"]


def test_a_wrong_column_shows_those_that_exist(folder: Path) -> None:
    with pytest.raises(DataError, match=r"no column 'sentence'; it has \['text', 'label'\]"):
        load_splits(folder, text_column="sentence")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": "", "label": "x"}, "row 1: the text is ''"),
        ({"text": " \n", "label": "x"}, "row 1: the text is"),
        ({"text": None, "label": "x"}, "row 1: the text is None"),
        ({"text": "b", "label": None}, "row 1: the label None"),
    ],
)
def test_a_row_without_text_or_label_is_refused(
    tmp_path: Path, row: dict[str, Any], message: str
) -> None:
    write(tmp_path / "t.jsonl", [{"text": "a", "label": "x"}, row])
    with pytest.raises(DataError, match=message):
        load_splits(tmp_path / "t.jsonl")


@pytest.mark.parametrize("space", [None, ["y", "x"]])
def test_a_class_label_outside_its_names_is_refused(
    tmp_path: Path, space: list[str] | None
) -> None:
    data = Dataset.from_dict(
        {"text": ["a", "b"], "label": [0, -1]}
    )  # as of a test split without labels
    data = data.cast_column("label", ClassLabel(names=["x", "y"]))
    data.to_parquet(str(tmp_path / "test.parquet"))
    with pytest.raises(
        DataError, match=r"Split 'test', row 1: the label -1 is not in the label sp"
    ):
        load_splits(tmp_path, labels=space)


def test_a_chosen_column_takes_the_place_of_the_usual_one(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", [{"text": "t", "label": 7, "body": "b", "label_text": "card"}])
    data = load_splits(tmp_path, text_column="body", label_column="label_text")["train"]
    assert data[0] == {"text": "b", "label": 0}
    assert label_names(data) == ["card"]
    swapped = load_splits(tmp_path, text_column="label_text", label_column="text")["train"]
    assert (swapped["text"][:], label_names(swapped)) == (["card"], ["t"])


def test_two_files_of_one_split_are_refused(folder: Path) -> None:
    load_splits(folder)["train"].to_parquet(str(folder / "train.parquet"))
    with pytest.raises(
        DataError, match=r"2 files of the split 'train': train.jsonl, train.parquet"
    ):
        load_splits(folder)


@pytest.mark.parametrize("name", ["train.jsonl", "train.parquet"])
def test_a_broken_file_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text('{"text": \n')
    with pytest.raises(DataError, match=f"Cannot read .*{name}'"):
        load_splits(tmp_path)


def test_a_full_disk_is_no_fault_of_the_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(_: str) -> None:
        full = OSError(errno.ENOSPC, "No space left on device")
        raise DatasetGenerationError("An error occurred while generating the dataset") from full

    monkeypatch.setitem(_READERS, ".jsonl", read)
    with pytest.raises(OSError, match="No space left"):
        load_splits(folder)


def test_sources_are_read_back_from_columns() -> None:
    data = Dataset.from_dict(
        {
            "text": ["a b"],
            "words": [["a", "b"]],
            "prior_lime": [[0.1, 0.2]],
            "prior_cap": [None],  # no text has one
            "prior": [[0.1, 0.2]],
            "prior_weight": [0.5],
            "cap_r2": [0.9],
        }
    )
    assert prior_sources(data.features) == ["lime", "cap"]


def test_splits_that_do_not_exist_or_are_empty(folder: Path) -> None:
    with pytest.raises(DataError, match=r"no split 'dev'; the data set has \['test', 'train'\]"):
        load_splits(folder, splits=["dev"])
    with pytest.raises(DataError, match="empty"):
        choose_split({"train": Dataset.from_dict({"text": []})}, "train")


def test_places_without_data(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no file or folder"):
        load_splits(tmp_path / "nothing")
    with pytest.raises(DataError, match="holds no data"):
        load_splits(tmp_path)
    (tmp_path / "x.pkl").touch()
    with pytest.raises(DataError, match="must end in"):
        load_splits(tmp_path / "x.pkl")
    with pytest.raises(ConfigError, match="embedded/library-desk"):
        load_splits("embedded/nothing")


def test_plain_label_columns_are_no_label_space() -> None:
    with pytest.raises(DataError, match="must be a ClassLabel"):
        label_names(Dataset.from_dict({"label": ["a"]}))
    assert label_names(
        Dataset.from_dict({"label": ["a"]}).cast_column("label", ClassLabel(names=["a"]))
    ) == ["a"]


def test_the_embedded_data_set() -> None:
    splits = load_splits("embedded/library-desk")
    assert {name: len(split) for name, split in splits.items()} == {"train": 120, "test": 168}
    assert len(label_names(splits["train"])) == 12
