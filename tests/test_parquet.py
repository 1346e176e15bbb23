"""Parquet files: any damage is seen, and what others write is read."""

import datetime
import random
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, Features, Value, concatenate_datasets, load_dataset

from hf_cap.data import read_parquet
from hf_cap.errors import DataError
from hf_cap.parquet import read_table, write_parquet


@pytest.fixture
def data() -> Dataset:
    rows = {
        "text": ["my card is lost", "renew my loan", "a lone \ud800"[:-1]],
        "label": [0, 1, 1],
        "prior": [[0.5, -0.0, 1e-300, 2.0], [1.0, float("inf"), 3.0], [0.1, None, 0.3]],
        "kept": [True, None, False],
    }
    data = Dataset.from_dict(rows)
    return data.cast(Features({**data.features, "label": ClassLabel(names=["lost_card", "renew_loan"])}))


def test_a_flipped_bit_is_refused_or_changes_nothing(data: Dataset, tmp_path: Path) -> None:
    file, draw, refused = tmp_path / "train.parquet", random.Random(0), 0
    write_parquet(data, file)
    whole = file.read_bytes()
    table = read_table(file)
    assert read_parquet(file).to_list() == data.to_list()
    for _ in range(300):
        spoilt = bytearray(whole)
        spoilt[draw.randrange(len(whole))] ^= 1 << draw.randrange(8)
        file.write_bytes(spoilt)
        try:
            found = read_table(file)
        except DataError as error:
            assert str(file) in str(error)  # noqa: PT017
            refused += 1
        else:
            assert found.equals(table)
            assert found.schema.metadata[b"huggingface"] == table.schema.metadata[b"huggingface"]
    assert refused > 290  # a bit in the name of the digest hides it


def test_a_changed_name_of_a_label_is_refused(data: Dataset, tmp_path: Path) -> None:
    file = tmp_path / "train.parquet"
    write_parquet(data, file)
    content = file.read_bytes()
    assert content.count(b'"renew_loan"') == 1
    file.write_bytes(content.replace(b'"renew_loan"', b'"renew_loam"'))
    with pytest.raises(DataError, match="is damaged: it does not hold what was written"):
        read_parquet(file)
    unchecked = Dataset(pq.ParquetFile(file).read()).features["label"]
    assert unchecked.names[1] == "renew_loam"


def test_every_type_that_parquet_stores_comes_back(tmp_path: Path) -> None:
    moment = datetime.datetime(2024, 1, 2, 3, 4, 5)
    columns = {
        "second": pa.array([moment, None], pa.timestamp("s")),
        "zone": pa.array([moment, None], pa.timestamp("us", "Europe/Berlin")),
        "day": pa.array([moment.date(), None]),
        "none": pa.array([None, None], pa.list_(pa.null())),
        "kind": pa.array(["a", "b"]).dictionary_encode(),
        "long": pa.array(["a", None], pa.large_string()),
        "half": pa.array([0.5, float("nan")], pa.float16()),
        "unsigned": pa.array([1, 2**32 - 1], pa.uint32()),
        "pair": pa.array([[1, 2], None], pa.list_(pa.int8(), 2)),
        "named": pa.array([{"a": None}, None], pa.struct([("a", pa.int64())])),
        "bytes": pa.array([b"\xff", b""]),
        "by": pa.array([[("a", 1)], []], pa.map_(pa.string(), pa.int64())),
    }
    table = pa.table(columns)
    write_parquet([table], tmp_path / "all.parquet")
    assert repr(read_table(tmp_path / "all.parquet").to_pylist()) == repr(table.to_pylist())
    parts = pa.concat_tables([table] * 1500)  # more than one part of a digest, in chunks
    write_parquet([parts], tmp_path / "all.parquet")
    assert read_table(tmp_path / "all.parquet").num_rows == 3000


def test_what_others_make_of_a_file_is_read(data: Dataset, tmp_path: Path) -> None:
    file, other = tmp_path / "train.parquet", tmp_path / "other.parquet"
    write_parquet(data, file)
    read_parquet(file).map(lambda row: {"text": row["text"].upper()}).to_parquet(str(other))
    assert read_parquet(other)["text"][0] == "MY CARD IS LOST"
    pd.read_parquet(file).assign(label=0).to_parquet(other)
    assert read_parquet(other)["label"][:] == [0, 0, 0]
    loaded = load_dataset("parquet", data_files=str(file), cache_dir=str(tmp_path), split="train")
    assert loaded.features == data.features
    loaded.select([1]).to_parquet(str(other))
    assert read_parquet(other)["text"][:] == ["renew my loan"]


def test_rows_are_written_in_groups_as_they_come(data: Dataset, tmp_path: Path) -> None:
    many = concatenate_datasets([data] * 900)
    tables = (many.with_format("arrow")[start : start + 30] for start in range(0, len(many), 30))
    for name, rows in (("one", many), ("two", tables)):
        write_parquet(rows, tmp_path / name)
        assert read_parquet(tmp_path / name)[:] == many[:]
        found = pq.read_metadata(tmp_path / name)
        assert max(found.row_group(n).num_rows for n in range(found.num_row_groups)) < 1100


def test_a_selection_is_written_as_it_is(data: Dataset, tmp_path: Path) -> None:
    chosen = data.select([2, 0]).with_format("torch").cast_column("kept", Value("string"))
    write_parquet(chosen, tmp_path / "x.parquet")
    found = read_parquet(tmp_path / "x.parquet")
    assert found["label"][:] == [1, 0]
    assert found.features == chosen.features
