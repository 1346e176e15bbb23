"""What a table is taken to mean."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from datasets import ClassLabel, Dataset, Features, Value

from hf_cap.errors import ConfigError, DataError
from hf_cap.laat.settings import TableOptions
from hf_cap.laat.table import Description, infer_schema, read_table


def frame() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "age": [20, 30, None, 50],
            "job": ["cook", "smith", None, "cook "],
            "member": [True, False, True, True],
            "id": ["a", "b", "c", "d"],
            "same": [1, 1, 1, 1],
            "y": ["no", "yes", "no", "yes"],
        }
    )


def test_numbers_and_truth_values_are_one_feature_and_each_level_is_one(
    caplog: pytest.LogCaptureFixture,
) -> None:
    schema = infer_schema(frame(), target="y", options=TableOptions(ignore=("id",)))
    assert schema.feature_names == ["age", "job=cook", "job=smith", "member"]
    assert schema.classes == ("no", "yes")
    assert "'same' is constant" in caplog.text


def test_a_description_names_target_classes_and_columns(tmp_path: Path) -> None:
    file = tmp_path / "table.yaml"
    file.write_text(
        "target: y\nquestion: Does it pay?\nignore: [id]\nclasses: {no: does not pay}\n"
        "columns: {age: age in years}\n"
    )
    schema = infer_schema(frame(), Description.read(file))
    # `no` is a class here, though YAML calls it false
    assert schema.class_descriptions == ("does not pay", "yes")
    assert schema.question == "Does it pay?"
    assert [one.description for one in schema.features][:2] == ["age in years", "job"]


def test_whole_numbers_are_one_class_whether_int_or_float() -> None:
    floats = pd.DataFrame({"x": [1.0, 2.0, 3.0], "y": [0.0, 1.0, np.nan]})
    assert infer_schema(floats, target="y").classes == ("0", "1")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target": "z"}, "no target column 'z'"),
        ({"target": "same"}, "classification needs two"),
        ({"target": "y", "options": TableOptions(max_levels=3)}, "'id' has 4 different values"),
        ({"target": "y", "description": Description(columns={"agee": "?"})}, "'agee'"),
        (
            {"target": "y", "description": Description(classes={"0": "does not pay", "1": "pays"})},
            r"classes \['0', '1'\], and the target 'y' has \['no', 'yes'\]",
        ),
    ],
)
def test_what_cannot_be_a_table_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        infer_schema(frame(), **change)  # type: ignore[arg-type]


def test_a_table_of_nothing_but_constants_has_no_features() -> None:
    with pytest.raises(DataError, match="no column that could be a feature"):
        infer_schema(frame()[["same", "y"]], target="y")


def test_a_broken_description_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "table.yaml"
    file.write_text("targett: y\n")
    with pytest.raises(ConfigError, match="targett"):
        Description.read(file)


def test_tables_come_from_csv_parquet_folders_and_data_sets(tmp_path: Path) -> None:
    rows = frame()
    rows.to_csv(tmp_path / "train.csv.gz", index=False)
    rows.to_parquet(tmp_path / "test.parquet")
    for name, split in (("train.csv.gz", "train"), ("", "train"), ("", "test")):
        assert infer_schema(read_table(tmp_path / name, split=split), target="y").feature_names == [
            *["age", "job=cook", "job=smith", "member"],
            *["id=a", "id=b", "id=c", "id=d"],
        ]
    with pytest.raises(DataError, match="no table 'dev'"):
        read_table(tmp_path, split="dev")
    with pytest.raises(DataError, match="no table 'test'"):
        read_table(tmp_path / "train.csv.gz", split="test")
    with pytest.raises(DataError, match="no rows"):
        read_table(rows.head(0))


def test_cells_that_mean_missing_are_missing(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("x,y\n?,a\n2,b\n")
    assert read_table(tmp_path / "t.csv", missing_values=["?"])["x"].isna().tolist() == [
        True,
        False,
    ]


def test_class_labels_of_a_data_set_are_read_by_name() -> None:
    features = Features({"x": Value("float32"), "y": ClassLabel(names=["bad", "good"])})
    rows = Dataset.from_dict({"x": [1.0, 2.0], "y": [1, 0]}, features=features)
    assert read_table(rows)["y"].tolist() == ["good", "bad"]
