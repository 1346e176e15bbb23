"""What a table is taken to mean, and its rows as inputs: against scikit-learn's pipeline, through JSON."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from datasets import ClassLabel, Dataset, Features, Value
from sklearn.compose import make_column_transformer
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, OneHotEncoder, StandardScaler

from hf_cap.errors import ConfigError, DataError
from hf_cap.laat.settings import Scaling, TableOptions
from hf_cap.laat.table import Preprocessor, infer_schema, read_schema, read_table
from tests.laat.cases import fitted

FRAME = pd.DataFrame(
    {
        "age": [20, 30, None, 58], "pay": [-1.5, 0.25, 9.0, 2.0], "job": ["cook", "smith", None, "cook "],
        "member": [True, False, True, True], "y": ["no", "yes", "no", "yes"],
    }
)  # fmt: skip
WIDER = FRAME.assign(id=["a", "b", "c", "d"], same=1)


# --- Schema.


def test_numbers_and_truth_values_are_one_feature_and_each_level_is_one(
    caplog: pytest.LogCaptureFixture,
) -> None:
    schema = infer_schema(WIDER, target="y", options=TableOptions(ignore=("id",)))
    assert schema.feature_names == ["age", "pay", "job=cook", "job=smith", "member"]
    assert schema.classes == ("no", "yes")
    assert "'same' is constant" in caplog.text
    floats = pd.DataFrame({"x": [1.0, 2.0, 3.0], "y": [0.0, 1.0, np.nan]})
    assert infer_schema(floats, target="y").classes == ("0", "1")


def test_a_description_names_target_classes_and_columns(tmp_path: Path) -> None:
    file = tmp_path / "table.yaml"
    file.write_text(
        "target: y\nquestion: Does it pay?\nignore: [id]\nclasses: {no: does not pay}\n"
        "columns: {age: age in years}\n"
    )
    _, schema = read_schema(WIDER, TableOptions(table=str(file)))
    # `no` is a class here, though YAML calls it false
    assert schema.class_descriptions == ("does not pay", "yes")
    assert schema.question == "Does it pay?"
    assert [one.description for one in schema.features][:2] == ["age in years", "pay"]
    for content in ("targett: y\n", "[y]", "{"):
        file.write_text(content)
        with pytest.raises(ConfigError, match=r"table\.yaml'"):
            read_schema(WIDER, TableOptions(table=str(file)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target": "z"}, "no target column 'z'"),
        ({"target": "same"}, "classification needs two"),
        ({"options": TableOptions(max_levels=3)}, "'id' has 4 different values"),
        ({"columns": {"agee": "?"}}, "'agee'"),
        ({"ignore": [*FRAME.columns[:4], "id"]}, "no column that could be a feature"),
        (
            {"classes": {"0": "does not pay", "1": "pays"}},
            r"classes \['0', '1'\], and the target 'y' has \['no', 'yes'\]",
        ),
    ],
)
def test_a_schema_that_cannot_be_is_an_error(change: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        infer_schema(WIDER, **{"target": "y", **change})


# --- Reading.


def test_tables_come_from_csv_parquet_folders_and_data_sets(tmp_path: Path) -> None:
    FRAME.to_csv(tmp_path / "train.csv.gz", index=False)
    FRAME.to_parquet(tmp_path / "test.parquet")
    expected = infer_schema(FRAME, target="y")
    for name, split in (("train.csv.gz", "train"), ("", "train"), ("", "test")):
        assert infer_schema(read_table(tmp_path / name, split=split), target="y") == expected
    for name, split in (("", "dev"), ("train.csv.gz", "test"), ("none.csv", "train")):
        with pytest.raises(DataError, match=f"no table .*split '{split}'"):
            read_table(tmp_path / name, split=split)
    with pytest.raises(DataError, match="no rows"):
        read_table(FRAME.head(0))
    features = Features({"x": Value("float32"), "y": ClassLabel(names=["bad", "good"])})
    rows = Dataset.from_dict({"x": [1.0, 2.0], "y": [1, 0]}, features=features)
    assert read_table(rows)["y"].tolist() == ["good", "bad"]
    (tmp_path / "t.csv").write_text("x,y\n?,a\n2,b\n")
    assert read_table(tmp_path / "t.csv")["x"].isna().tolist() == [True, False]


def test_a_csv_table_keeps_what_was_written(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text(
        ",age,code,paid,note,y\n"
        + "0, 20,007,True,NA,01\n1,,012,false,b,1\n2,1e2,7,TRUE,None,01\n3,.5,007,true,b,\n"
    )
    frame = read_table(tmp_path, texts=["y"])
    assert frame["age"].tolist()[0::2] == [20, 100]
    assert frame["paid"].tolist() == [1, 0, 1, 1]
    schema = infer_schema(frame, "y")
    assert schema.feature_names == [
        "age", "code=007", "code=012", "code=7", "paid", "note=None", "note=b"
    ]  # fmt: skip
    assert (schema.classes, schema.texts) == (("01", "1"), ["y", "code", "note"])
    with pytest.raises(DataError, match="Row 3: the target 'y' is missing"):
        Preprocessor.fit(frame, schema).targets(frame)
    (tmp_path / "test.csv").write_text("age,code,paid,note,y\n1,7,true,b,01\n")
    test = read_table(tmp_path, split="test", texts=schema.texts)
    np.testing.assert_array_equal(Preprocessor.fit(frame, schema).targets(test), [0])
    assert Preprocessor.fit(frame, schema).features(test)[0, 1:4].tolist() == [0, 0, 1]


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        (["1,000", "25,500", "12"], "numbers such as '1,000'; write them as 1234.5"),
        (["3,5", "4", "10,25"], "numbers such as '10,25'"),
        (["40%", "5 %", "12.5%"], "numbers such as '12.5%'"),
        (["$4", "$1,000.50", "7"], r"numbers such as '\$1,000.50'"),
        ([f"p{row}" for row in range(10)], r"another value in each row, such as \['p0', 'p1', 'p2'\]"),
    ],
)  # fmt: skip
def test_numbers_as_people_write_them_and_ids_are_refused(cells: list[str], message: str) -> None:
    frame = pd.DataFrame({"x": cells, "y": [f"c{row % 2}" for row in range(len(cells))]})
    with pytest.raises(DataError, match=message):
        infer_schema(frame, "y")
    if cells[0] == "p0":
        known = infer_schema(frame, "y", columns={"x": "the shop"})
        assert len(known.feature_names) == len(cells)


def test_columns_that_look_wrong_are_named(caplog: pytest.LogCaptureFixture) -> None:
    frame = pd.DataFrame({"Unnamed: 0": [0, 1, 2], "x": ["1", "2", "n/a"], "y": ["a", "b", "a"]})
    assert infer_schema(frame, "y").feature_names == ["x=1", "x=2", "x=n/a"]
    assert "['Unnamed: 0'] have no name" in caplog.text
    assert "'x' holds numbers and texts such as 'n/a'" in caplog.text
    ages = pd.DataFrame({"x": ["0-17", "18-25", "2026-01-02"], "y": ["a", "b", "a"]})
    assert len(infer_schema(ages, "y").feature_names) == 3
    with pytest.raises(DataError, match="two columns '1'"):
        read_table(pd.DataFrame([[1, 2]], columns=[1, "1"]))


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"train.csv": "x,y\n1,5,a\n2,5,b\n"}, "line 2: 3 cells for the 2 columns"),
        ({"train.csv": 'x,y\n"1,a\n'}, "Cannot read .*train.csv"),
        ({"train.csv": "x,y\n"}, "The table has no rows"),
        ({"train.csv": ""}, "The table has no rows"),
        ({"train.csv.gz": "x,y\n"}, "Cannot read .*train.csv.gz"),
        ({"train.csv": "x,y\n1,a\n", "train.parquet": ""}, "two tables of the split 'train'"),
        ({"train.old.csv": "x,y\n1,a\n"}, r"it has \['train.old'\]"),
        ({"train.parquet": "PAR1"}, "train.parquet' cannot be read as parquet"),
    ],
)
def test_a_table_that_could_be_misread_is_refused(
    tmp_path: Path, files: dict[str, str], message: str
) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=message):
        read_table(tmp_path)


def test_a_folder_with_brackets_is_no_pattern(tmp_path: Path) -> None:
    for name, value in (("t[1]", "right"), ("t1", "wrong")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "train.csv").write_text(f"x,y\n{value},a\n")
        frame = pd.DataFrame({"x": [value]})
        frame.to_parquet(tmp_path / name / "test.parquet")
    for split in ("train", "test"):
        assert read_table(tmp_path / "t[1]", split=split)["x"].tolist() == ["right"]


# --- Inputs.


@pytest.mark.parametrize(
    ("scaling", "scaler"),
    [("min_max", MinMaxScaler()), ("standard", StandardScaler()), ("none", "passthrough")],
)
def test_inputs_are_those_of_a_scikit_learn_pipeline(scaling: Scaling, scaler: Any) -> None:
    frame = FRAME.drop(columns="member").replace("cook ", "cook")
    peer = make_column_transformer(
        (make_pipeline(SimpleImputer(strategy="median"), scaler), ["age", "pay"]),
        (OneHotEncoder(categories=[["cook", "smith"]], handle_unknown="ignore"), ["job"]),
        sparse_threshold=0,
    ).fit(frame)
    other = frame.assign(age=[25, None, 100, 0], pay=[4, 5, -6, np.nan], job=None)
    preprocessor = fitted(frame, scaling=scaling)
    after = Preprocessor.from_dict(json.loads(json.dumps(asdict(preprocessor))))
    assert after == preprocessor
    np.testing.assert_array_equal(after.targets(frame), [0, 1, 0, 1])
    for rows in (frame, other):
        np.testing.assert_allclose(preprocessor.features(rows), peer.transform(rows), atol=1e-6)


def test_unknown_levels_and_constant_columns_are_zero_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    inputs = fitted(FRAME).features(FRAME.assign(job=["cook", "baker", None, "smith"]))
    np.testing.assert_array_equal(inputs[:, 2:4], [[1, 0], [0, 0], [0, 0], [0, 1]])
    few = Preprocessor.fit(FRAME.assign(pay=3.0), fitted(FRAME).schema)
    assert not few.features(FRAME)[:, 1].any()
    assert "baker" in caplog.text
    assert "'pay' is constant" in caplog.text


def test_numbers_as_target_are_standardised_and_come_back() -> None:
    rows = FRAME.assign(y=[1.0, 2.0, 3.0, 10.0])
    preprocessor = fitted(rows, kind="regression")
    targets = preprocessor.targets(rows)
    assert (targets.mean(), targets.std()) == pytest.approx((0, 1), abs=1e-6)
    np.testing.assert_allclose(preprocessor.numbers(targets), rows["y"], atol=1e-5)
    written = rows.assign(y=["1", "2.0", "3", "1e1"])
    np.testing.assert_array_equal(preprocessor.targets(written), targets)
    for broken in (["1", "2", "1,000", "3"], ["1", "nan", "2", "3"], [1.0, np.inf, 2.0, 3.0]):
        with pytest.raises(DataError, match=r"should hold numbers|Row 1: the target"):
            preprocessor.targets(rows.assign(y=broken))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"age": ["x", "y", "z", "w"]}, "'age' should hold numbers"),
        ({"y": ["no", "yes", "maybe", "no"]}, "Row 2: the target 'maybe'"),
        ({"y": ["no", None, "no", "no"]}, "Row 1: the target 'y' is missing"),
    ],
)
def test_cells_that_do_not_fit_are_an_error(change: dict[str, list[Any]], message: str) -> None:
    preprocessor, rows = fitted(FRAME), FRAME.assign(**change).set_index("pay", drop=False)
    with pytest.raises(DataError, match=message):
        preprocessor.features(rows), preprocessor.targets(rows)
    with pytest.raises(DataError, match="no column 'pay'"):
        preprocessor.features(FRAME.drop(columns="pay"))
    with pytest.raises(DataError, match="holds no number"):
        Preprocessor.fit(FRAME.assign(age=[None] * 4), preprocessor.schema)
