"""Data sets in and out, their prior columns and provenance, and what is said about bad ones."""

import errno
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, Features, List, Value

from hf_cap import schema
from hf_cap.data import _READERS, choose_split, label_ids, label_names, load_splits, save_splits
from hf_cap.errors import ConfigError, DataError
from hf_cap.evaluation import few_shot
from hf_cap.priors.keywords import KeywordsPrior
from hf_cap.report.load import read_rows
from hf_cap.training.trainer import CAPTrainer


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
    assert {name: split["label"][:] for name, split in splits.items()} == {"train": [1, 2], "test": [0]}
    assert label_names(splits["train"]) == ["z", "y", "x"]
    assert load_splits(folder, labels=["x", "y", "z"])["train"]["label"][:] == [1, 0]
    (folder / "labels.json").unlink()
    with pytest.raises(DataError, match=r"Split 'test', row 0: the label 'z'.*2 labels \['x', 'y'\]"):
        load_splits(folder)
    assert label_names(load_splits(folder, splits=["train"])["train"]) == ["x", "y"]


def test_saved_splits_come_back_and_nothing_else_is_replaced(folder: Path, tmp_path: Path) -> None:
    splits, out = load_splits(folder), tmp_path / "out"
    splits["train"] = splits["train"].add_column("prior", [[0.5, -1.0], None])
    save_splits(splits, out)
    back = load_splits(out)["train"]
    assert (back.features, back[:]) == (splits["train"].features, splits["train"][:])
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


def test_a_flipped_bit_of_saved_texts_is_found(tmp_path: Path) -> None:
    data = Dataset.from_dict({"text": ["a needle in hay"], "label": [0]})
    save_splits({"train": data.cast_column("label", ClassLabel(names=["x"]))}, tmp_path / "out")
    file = tmp_path / "out" / "train.parquet"
    content = bytearray(file.read_bytes())
    content[content.index(b"needle")] ^= 1
    file.write_bytes(content)
    with pytest.raises(DataError, match=r"train.parquet' cannot be read .*checksum"):
        load_splits(tmp_path / "out")
    with pytest.raises(DataError, match=r"train.parquet' cannot be read as parquet: .*checksum"):
        read_rows(file)


def test_a_repository_of_the_hub_in_a_folder_is_read(folder: Path, tmp_path: Path) -> None:
    split = load_splits(folder)["train"]
    data = tmp_path / "repository" / "data"
    data.mkdir(parents=True)
    for part in range(2):
        split.select([part]).to_parquet(str(data / f"train-0000{part}-of-00002.parquet"))
    assert load_splits(data.parent)["train"][:] == split[:]
    (data / "train-00001-of-00002.parquet").unlink()
    with pytest.raises(DataError, match=r"1 files of the split 'train'.* or all parts of one"):
        load_splits(data.parent)


@pytest.mark.parametrize("name", ["data[12]", "dat?1", "*", "a::b", "split=3"])
@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_a_path_is_never_a_pattern(tmp_path: Path, name: str, ending: str) -> None:
    for folder, text in ((name, "right"), ("data1", "wrong"), ("a", "wrong")):
        (tmp_path / folder).mkdir()
        file = tmp_path / folder / f"train.{ending}"
        rows = [{"text": text, "label": "x"}]
        if ending == "csv":
            file.write_text(f"text,label\n{text},x\n")
        elif ending == "jsonl":
            write(file, rows)
        else:
            pq.write_table(pa.Table.from_pylist(rows), file)
    data = load_splits(tmp_path / name)["train"]
    assert (data["text"][:], data.column_names) == (["right"], ["text", "label"])


def test_cells_of_a_csv_file_are_the_texts_that_were_written(tmp_path: Path) -> None:
    cells = ["null", "007", "1.50", "true", "2026-01-02", "1e3", "1,000", "40%"]
    labels = ["None", "01", "1", "true", "TRUE", "007", "7", "1.0"]
    rows = "".join(f'"{cell}", "{label}"\n' for cell, label in zip(cells, labels, strict=True))
    (tmp_path / "data.csv").write_text(f"text, label\n{rows}\n", encoding="utf-8-sig")
    data = load_splits(tmp_path / "data.csv")["train"]
    names = label_names(data)
    assert (data["text"][:], [names[label] for label in data["label"]]) == (cells, labels)
    assert names == sorted(labels)


@pytest.mark.parametrize(
    ("ending", "content", "message"),
    [
        ("csv", "text,label\nhi, you,x\nbye, all,y\n", r"line 2: 3 cells for the 2 columns \['text', 'la"),
        ("csv", "text,label\nhi,x\nbye\n", "line 3: 1 cells for the 2 columns"),
        ("csv", "text,label\na,1\n,2\n", "Split 'train', row 1: the text is None"),
        ("csv", "text,label\na,1\nb,\nc,3\n", r"row 1: the label None .* 2 labels \['1', '3'\]"),
        ("csv", "text,label\na,x\nb,x \n", "labels 'x' and 'x ', which look alike"),
        ("csv", "text,label,text\na,x,b\n", "two columns 'text'"),
        ("csv", 'text,label\n"a,x\n', "Cannot read .*unexpected end"),
        ("csv", "text;label\na;x\n", r"no column 'text'; it has \['text;label'\]"),
        ("csv", "text,label\n", "split 'train' is empty"),
        ("csv", "", "split 'train' is empty"),
        ("jsonl", "", "split 'train' is empty"),
        ("jsonl", '[{"text": "a", "label": "x"}]', "line 1 must hold a JSON object"),
        ("jsonl", '\n{"text": "a", "text": "b", "label": "x"}', "line 2 .* a name occurs twice"),
        ("jsonl", '{"text": "a", "label": 1}\n{"text": "b", "label": "x"}', "column 'label' .* of one kind"),
        ("jsonl", '{"text": "\\ud800", "label": "x"}', "column 'text' .* surrogates"),
        ("jsonl", '{"text": "a", "label": ["x"]}', r"column 'label' holds List"),
        ("jsonl", '{"text": "a", "label": 0.5}', "column 'label' holds .*float64"),
        ("jsonl", '{"text": "a", "label": {"x": 1}}', "column 'label' holds"),
        ("jsonl", '{"text": "a", "label": "x"}\n{"text": "b", "label": " "}', "row 1: the label ' '"),
        ("jsonl", '{"text": "a", "label": "x"}\n{"text": " ", "label": "x"}', "row 1: the text is"),
        ("jsonl", '{"text": "a", "label": "x"}\n{"text": null, "label": "x"}', "row 1: the text is None"),
        ("jsonl", '{"text": "a", "label": "x"}\n{"text": "b", "label": null}', "row 1: the label None"),
        ("jsonl", '{"text": \n', "train.jsonl'.*JSON"),
    ],
)
def test_a_file_that_could_be_misread_is_refused(
    tmp_path: Path, ending: str, content: str, message: str
) -> None:
    (tmp_path / f"train.{ending}").write_text(content)
    with pytest.raises(DataError, match=message):
        load_splits(tmp_path)


def test_columns_of_some_rows_and_truth_values_are_kept(tmp_path: Path) -> None:
    rows = [{"text": "2026-01-02", "label": True}, {"text": "b", "label": False, "more": [1]}]
    write(tmp_path / "train.jsonl", rows)
    data = load_splits(tmp_path)["train"]
    assert data[:] == {"text": ["2026-01-02", "b"], "label": [1, 0], "more": [None, [1]]}
    assert label_names(data) == ["false", "true"]


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        ('{"x": 0, "y": 1}', "labels.json' must be a list of label names"),
        ('"xy"', "labels.json' must be a list"),
        ('["x", "y", "x"]', "'x' and 'x', which look alike"),
        ('["x y", "x\u00a0y"]', "which look alike"),
        ('["x", "x\u200b"]', "which look alike"),
        ('["x", null]', "has the label None"),
        ('["x", true]', "has the label True"),
        ('[["x"], ["y"]]', r"has the label \['x'\]"),
        ('["x"', "labels.json' is not valid JSON"),
        ("[0, 1]", r"row 0: the label 'z' .* 2 labels \['0', '1'\]"),
    ],
)
def test_a_label_space_is_a_list_of_distinct_names(folder: Path, stored: str, message: str) -> None:
    (folder / "labels.json").write_text(stored)
    with pytest.raises(DataError, match=message):
        load_splits(folder)
    (folder / "labels.json").write_text('["z", "y", "x"]', encoding="utf-8-sig")
    assert label_names(load_splits(folder)["train"]) == ["z", "y", "x"]
    with pytest.raises(DataError, match="must be a list of label names, got 'zyx'"):
        load_splits(folder, labels="zyx")


def test_an_integer_is_a_class_index_wherever_a_model_is() -> None:
    def ids(labels: Any, **names: int) -> Any:
        return label_ids(Dataset.from_dict({"label": labels}), names)

    assert ids([1, 0], no=0, yes=1) == {0: 0, 1: 1}
    assert ids(["no"], no=0, yes=1) == {"no": 0, "yes": 1}
    assert ids([0, 1], **{"0": 0, "1": 1}) == {0: 0, 1: 1}
    with pytest.raises(DataError, match="the model's label '1' is its class 0"):
        ids([0, 1], **{"1": 0, "0": 1})
    for labels in ([True], [1.0], [["no"]]):
        with pytest.raises(DataError, match="holds"):
            ids(labels, no=0, yes=1)


def test_one_label_is_no_classification(tmp_path: Path) -> None:
    write(tmp_path / "d.jsonl", [{"text": "a", "label": "x"}])
    data = load_splits(tmp_path / "d.jsonl")["train"]
    with pytest.raises(DataError, match=r"\['x'\]; a classifier needs at least 2"):
        label_names(data, at_least=2)
    for make in (KeywordsPrior.from_dataset, lambda data: CAPTrainer("m", train_dataset=data)):
        with pytest.raises(DataError, match="at least 2"):
            make(data)


def test_integer_labels_become_names(tmp_path: Path) -> None:
    write(tmp_path / "d.jsonl", [{"text": "a", "label": 10}, {"text": "b", "label": 2}])
    assert label_names(load_splits(tmp_path / "d.jsonl")["train"]) == ["2", "10"]


def test_a_chosen_column_takes_the_place_of_the_usual_one(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", [{"text": "t", "label": 7, "body": "b", "label_text": "card"}])
    data = load_splits(tmp_path, text_column="body", label_column="label_text")["train"]
    assert (data[0], label_names(data)) == ({"text": "b", "label": 0}, ["card"])
    swapped = load_splits(tmp_path, text_column="label_text", label_column="text")["train"]
    assert (swapped["text"][:], label_names(swapped)) == (["card"], ["t"])
    with pytest.raises(DataError, match=r"no column 'sentence'; it has \['text', 'label', 'body'"):
        load_splits(tmp_path, text_column="sentence")


@pytest.mark.parametrize("space", [None, ["y", "x"]])
def test_a_class_label_outside_its_names_is_refused(tmp_path: Path, space: list[str] | None) -> None:
    data = Dataset.from_dict({"text": ["a", "b"], "label": [0, -1]})  # a test split without labels
    data = data.cast_column("label", ClassLabel(names=["x", "y"]))
    data.to_parquet(str(tmp_path / "test.parquet"))
    with pytest.raises(DataError, match="Split 'test', row 1: the label -1 is not in the label sp"):
        load_splits(tmp_path, labels=space)


@pytest.mark.parametrize("error", [ConnectionError("no network"), RuntimeError("Dataset scripts")])
def test_a_data_set_that_the_hub_does_not_give(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.load_dataset", Mock(side_effect=error))
    with pytest.raises(DataError, match=f"'me/none' is no file or folder here.*{error}"):
        load_splits("me/none")


@pytest.mark.parametrize("name", ["train.csv", "train.jsonl"])
@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
def test_another_encoding_is_named(tmp_path: Path, name: str, encoding: str) -> None:
    (tmp_path / name).write_text("café,a\n", encoding=encoding)
    with pytest.raises(DataError, match=f"Cannot read .*{name}': .*utf-8.* Save|Write .* in UTF-8"):
        load_splits(tmp_path)


@pytest.mark.parametrize("name", ["test.tsv", "test.csv.gz", "test.xlsx", "test.CSV.GZ"])
def test_a_file_of_another_format_is_not_left_out_in_silence(
    folder: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    load_splits(folder)
    assert not caplog.records
    (folder / name).touch()
    assert {*load_splits(folder)} == {"train", "test"}
    assert f"Not read in {folder}: {name}; save" in caplog.text


@pytest.mark.parametrize("kind", ["folder", "link"])
def test_a_folder_or_a_broken_link_is_no_file(folder: Path, kind: str) -> None:
    place = folder / "more.csv"
    place.mkdir() if kind == "folder" else place.symlink_to("none")
    with pytest.raises(DataError, match=r"Cannot read .*more\.csv"):
        load_splits(folder)


def test_a_full_disk_is_no_fault_of_the_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setitem(_READERS, ".jsonl", Mock(side_effect=full))
    with pytest.raises(OSError, match="No space left"):
        load_splits(folder)


def test_splits_and_places_without_data(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no split 'dev'; the data set has \['test', 'train'\]"):
        load_splits(folder, splits=["dev"])
    with pytest.raises(DataError, match="empty"):
        choose_split({"train": Dataset.from_dict({"text": []})}, "train")
    load_splits(folder)["train"].to_parquet(str(folder / "train.parquet"))
    with pytest.raises(DataError, match=r"2 files of the split 'train': train.jsonl, train.parquet"):
        load_splits(folder)
    (tmp_path / "empty").mkdir()
    (tmp_path / "x.pkl").touch()
    for place, message in (("none", "no file"), ("empty", "no data"), ("x.pkl", "must end in")):
        with pytest.raises(DataError, match=message):
            load_splits(tmp_path / place)
    with pytest.raises(ConfigError, match="embedded/library-desk"):
        load_splits("embedded/nothing")
    with pytest.raises(DataError, match="must be a ClassLabel"):
        label_names(Dataset.from_dict({"label": ["a"]}))


# --- Priors and their provenance.


def test_provenance_grows_and_is_the_same_text_for_the_same_facts() -> None:
    cell = schema.add_provenance(None, "cap", {"n": 100, "model": "m"})
    cell = schema.add_provenance(cell, "lime", {"seed": 0})
    assert schema.read_provenance(cell) == {"cap": {"n": 100, "model": "m"}, "lime": {"seed": 0}}
    other = schema.add_provenance(
        schema.add_provenance("", "lime", {"seed": 0}), "cap", {"model": "m", "n": 100}
    )
    assert cell == other


@pytest.mark.parametrize(
    ("columns", "wanted", "found"),
    [
        (["text", "prior", "prior_cap", "prior_lime"], None, "prior"),
        (["text", "prior_cap"], None, "prior_cap"),
        (["prior_cap", "prior_lime"], "prior_lime", "prior_lime"),
        (["mine", "prior"], "mine", "mine"),
    ],
)
def test_the_prior_column_to_train_with(columns: list[str], wanted: str | None, found: str) -> None:
    assert schema.find_prior_column(columns, wanted) == found


def test_columns_of_single_values_are_no_priors() -> None:
    scores = List(Value("float64"))
    kinds = {"prior_weight": Value("float64"), "cap_r2": Value("float64"), "prior_cap": scores}
    assert schema.find_prior_column(Features(kinds)) == "prior_cap"
    # null: no text has one
    every = Features({**kinds, "prior": scores, "prior_lime": Value("null")})
    assert schema.prior_sources(every) == ["cap", "lime"]


# --- Few-shot draws: k per class, the same for every method, and a clear error where texts are short.


NAMES = ["card", "loan", "fine"]
TEXTS = [f"{name} text {i}" for i in range(20) for name in NAMES]


def dataset(texts: Sequence[str], names: Sequence[str] = NAMES) -> Dataset:
    """The label of a text is its first word."""
    labels = [names.index(text.split()[0]) for text in texts]
    data = Dataset.from_dict({"text": list(texts), "label": labels})
    return data.cast_column("label", ClassLabel(names=list(names)))


ALL = dataset(TEXTS)


def drawn(data: Dataset, k: int, **options: Any) -> list[str]:
    texts: list[str] = few_shot(data, k, **options)["text"][:]
    return texts


@pytest.mark.parametrize(
    ("draw", "seed", "rows"),
    [
        (0, 0, [25, 28, 31, 3, 12, 44, 45, 2, 26]),
        (1, 0, [47, 21, 31, 19, 34, 14, 6, 23, 57]),
        (0, 1, [4, 52, 34, 0, 48, 8, 33, 50, 56]),
    ],
)
def test_the_draws_never_change(draw: int, seed: int, rows: list[int]) -> None:
    # published results name their training texts by draw and seed
    found = few_shot(ALL, 3, draw=draw, seed=seed)
    assert found["text"][:] == [TEXTS[row] for row in rows]
    assert [found["label"][:].count(label) for label in range(3)] == [3, 3, 3]
    assert found.features["label"].names == NAMES


def test_neither_the_order_of_rows_nor_other_classes_matter() -> None:
    found = drawn(ALL, 4)
    assert drawn(dataset(TEXTS[::-1]), 4) == found
    loans = [text for text in TEXTS if text.startswith("loan")]
    alone = drawn(dataset(loans, ["loan"]), 4)
    assert set(alone) == {text for text in found if text.startswith("loan")}


def test_fewer_shots_are_part_of_more() -> None:
    assert set(drawn(ALL, 3)) < set(drawn(ALL, 4))


def test_short_classes_are_refused_or_logged(caplog: pytest.LogCaptureFixture) -> None:
    short = dataset(["card p", "card q", "loan r", "loan r"])  # a repeated text counts once
    with pytest.raises(DataError, match=r"2 classes .*'loan' has 1, 'fine' has 0\. Choose a smaller"):
        few_shot(short, 2)
    assert sorted(drawn(short, 2, allow_fewer=True)) == ["card p", "card q", "loan r"]
    assert "2 classes have fewer than 2" in caplog.text
    with pytest.raises(ConfigError, match="got k=0"):
        few_shot(short, 0)
