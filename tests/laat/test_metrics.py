"""Numbers on predictions, on cases whose answer is known on paper."""

import numpy as np
import pytest

from hf_cap.errors import DataError, ModelError
from hf_cap.laat.models import classification_metrics, load_tabular_model, regression_metrics


def test_metrics_of_two_classes() -> None:
    second = np.array([0.1, 0.4, 0.35, 0.8])  # of the four pairs one is the wrong way round
    found = classification_metrics(np.stack([1 - second, second], 1), np.array([0, 0, 1, 1]))
    # chosen: 0 0 0 1; F1 of class 0 is 4/5, of class 1 2/3
    assert found == pytest.approx(
        {"roc_auc": 0.75, "accuracy": 0.75, "macro_f1": (0.8 + 2 / 3) / 2}
    )


def test_metrics_of_three_classes_average_one_class_against_the_rest() -> None:
    perfect = np.eye(3)[[0, 1, 2, 0]]
    found = classification_metrics(perfect, np.array([0, 1, 2, 0]))
    assert found == pytest.approx({"roc_auc": 1, "accuracy": 1, "macro_f1": 1})


def test_one_class_alone_has_no_area() -> None:
    with pytest.raises(DataError, match="ROC-AUC needs two"):
        classification_metrics(np.ones((2, 2)) / 2, np.array([1, 1]))


def test_metrics_of_numbers() -> None:
    found = regression_metrics(np.array([1.0, 2, 4]), np.array([1.0, 2, 3]))
    assert found == pytest.approx({"r2": 0.5, "rmse": 3**-0.5})


def test_a_model_that_is_not_there_is_refused() -> None:
    with pytest.raises(ModelError, match="tabular model"):
        load_tabular_model("/nowhere/at/all")
