"""Rows as inputs: against scikit-learn's own pipeline, and through JSON."""

import json
from dataclasses import asdict

import numpy as np
import pandas as pd
import pytest
from sklearn.compose import make_column_transformer
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, OneHotEncoder, StandardScaler

from hf_cap.errors import DataError
from hf_cap.laat.settings import Scaling
from hf_cap.laat.table import Preprocessor
from tests.laat.cases import fitted


def frame() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "age": [20, 30, None, 58],
            "pay": [-1.5, 0.25, 9.0, 2.0],
            "job": ["cook", "smith", None, "cook"],
            "y": ["no", "yes", "no", "yes"],
        }
    )


@pytest.mark.parametrize(
    ("scaling", "scaler"), [("min_max", MinMaxScaler()), ("standard", StandardScaler())]
)
def test_inputs_are_those_of_a_scikit_learn_pipeline(scaling: Scaling, scaler: object) -> None:
    peer = make_column_transformer(
        (make_pipeline(SimpleImputer(strategy="median"), scaler), ["age", "pay"]),
        (OneHotEncoder(categories=[["cook", "smith"]], handle_unknown="ignore"), ["job"]),
        sparse_threshold=0,
    ).fit(frame())
    other = frame().assign(age=[25, None, 100, 0], pay=[4, 5, -6, 7.0])
    preprocessor = fitted(frame(), scaling=scaling)
    for rows in (frame(), other):
        np.testing.assert_allclose(preprocessor.features(rows), peer.transform(rows), atol=1e-6)


def test_unscaled_numbers_stay_as_they_are() -> None:
    inputs = fitted(frame(), scaling="none").features(frame())
    np.testing.assert_allclose(inputs[:, 0], [20, 30, 30, 58], atol=1e-5)


def test_a_preprocessor_survives_json() -> None:
    before = fitted(frame())
    after = Preprocessor.from_dict(json.loads(json.dumps(asdict(before))))
    assert after == before
    np.testing.assert_array_equal(after.targets(frame()), [0, 1, 0, 1])


def test_an_unknown_level_has_no_feature_and_is_told(caplog: pytest.LogCaptureFixture) -> None:
    inputs = fitted(frame()).features(frame().assign(job=["cook", "baker", None, "smith"]))
    np.testing.assert_array_equal(inputs[:, 2:], [[1, 0], [0, 0], [0, 0], [0, 1]])
    assert "baker" in caplog.text


def test_a_column_that_is_constant_in_few_rows_is_zero(caplog: pytest.LogCaptureFixture) -> None:
    schema = fitted(frame()).schema
    few = Preprocessor.fit(frame().assign(pay=3.0), schema)
    assert not few.features(frame())[:, 1].any()
    assert "'pay' is constant" in caplog.text


def test_one_row_with_nothing_known_can_be_encoded() -> None:
    row = pd.DataFrame({"age": [None], "pay": [np.nan], "job": [None]})
    inputs = fitted(frame(), scaling="none").features(row)
    np.testing.assert_allclose(inputs, [[30, 1.125, 0, 0]], atol=1e-6)  # medians


def test_numbers_as_target_are_standardised_and_come_back() -> None:
    rows = frame().assign(y=[1.0, 2.0, 3.0, 10.0])
    preprocessor = fitted(rows, kind="regression")
    targets = preprocessor.targets(rows)
    assert targets.mean() == pytest.approx(0, abs=1e-6)
    assert targets.std() == pytest.approx(1, abs=1e-6)
    np.testing.assert_allclose(preprocessor.numbers(targets), rows["y"], atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"age": ["x", "y", "z", "w"]}, "'age' should hold numbers"),
        ({"y": ["no", "yes", "maybe", "no"]}, "Row 2: the target 'maybe'"),
        ({"y": ["no", None, "no", "no"]}, "Row 1: the target 'y' is missing"),
    ],
)
def test_cells_that_do_not_fit_are_refused(change: dict[str, list[object]], message: str) -> None:
    preprocessor, rows = fitted(frame()), frame().assign(**change)
    with pytest.raises(DataError, match=message):
        preprocessor.features(rows), preprocessor.targets(rows)


def test_a_missing_column_or_one_without_numbers_is_refused() -> None:
    with pytest.raises(DataError, match="no column 'pay'"):
        fitted(frame()).features(frame().drop(columns="pay"))
    schema = fitted(frame()).schema
    with pytest.raises(DataError, match="holds no number"):
        Preprocessor.fit(frame().assign(age=[None] * 4), schema)
