"""Predictions, metrics and input gradients, on cases whose answer is known on paper."""

from pathlib import Path

import numpy as np
import pytest
import torch

from hf_cap.errors import DataError, ModelError
from hf_cap.laat.models import (
    attribute_features,
    classification_metrics,
    input_gradients,
    is_tabular_model,
    load_tabular_model,
    predict_table,
    regression_metrics,
)
from tests.laat.cases import MLP, centred, first, fitted, numbers, tabular_model, trainer
from tests.tiny import roberta_classifier


@pytest.mark.parametrize("classes", [2, 3])
def test_the_input_gradient_of_a_linear_model_is_its_weights(classes: int) -> None:
    frame = numbers(classes=classes, rows=20)
    model = tabular_model(fitted(frame))
    expected = centred(first(model)).detach()
    np.testing.assert_allclose(attribute_features(model, frame), expected, atol=1e-6)
    number = frame.assign(y=np.arange(20.0))
    model = tabular_model(fitted(number, kind="regression"))
    np.testing.assert_allclose(attribute_features(model, number), first(model).detach(), atol=1e-6)


def test_the_input_gradient_of_a_network_is_that_of_finite_differences() -> None:
    frame = numbers(classes=3)
    model = tabular_model(fitted(frame), **MLP).double()
    inputs = torch.from_numpy(fitted(frame).features(frame)).double()
    logits = model(features=(x := inputs.clone().requires_grad_())).logits
    found = input_gradients(logits, x, differentiable=False)
    step = 1e-5
    for feature in range(inputs.shape[1]):
        shift = torch.zeros_like(inputs)
        shift[:, feature] = step
        with torch.no_grad():
            ends = [centred(model(features=inputs + sign * shift).logits.T).T for sign in (1, -1)]
        torch.testing.assert_close(found[:, :, feature], (ends[0] - ends[1]) / (2 * step))


def test_a_model_comes_back_from_its_folder_without_pickle(tmp_path: Path) -> None:
    frame = numbers(classes=3)
    model = tabular_model(fitted(frame), **MLP)
    run = trainer(model, frame, tmp_path / "a", np.eye(3, 4), max_steps=2)
    run.train()
    run.save_model(str(tmp_path / "b"))
    found = predict_table(load_tabular_model(tmp_path / "b"), frame.drop(columns="y"))
    assert list(found.columns) == ["c0", "c1", "c2"]
    np.testing.assert_allclose(found, predict_table(model, frame), atol=1e-7)
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-6)
    assert {"config.json", "model.safetensors"} <= {f.name for f in (tmp_path / "b").iterdir()}
    assert load_tabular_model(tmp_path / "b").config.hf_cap["method"] == "input_gradient"
    with pytest.raises(ModelError, match="tabular model"):
        load_tabular_model("/nowhere/at/all")
    roberta_classifier().save_pretrained(tmp_path / "text")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("{")
    found_kinds = [is_tabular_model(tmp_path / name) for name in ("b", "text", "broken", "none")]
    assert found_kinds == [True, False, False, False]


def test_metrics_are_those_on_paper() -> None:
    second = np.array([0.1, 0.4, 0.35, 0.8])  # of the four pairs one is the wrong way round
    found = classification_metrics(np.stack([1 - second, second], 1), np.array([0, 0, 1, 1]))
    # chosen: 0 0 0 1; F1 of class 0 is 4/5, of class 1 2/3
    expected = {"roc_auc": 0.75, "accuracy": 0.75, "macro_f1": (0.8 + 2 / 3) / 2}
    assert found == pytest.approx(expected)
    perfect = np.eye(3)[[0, 1, 2, 0]]
    found = classification_metrics(perfect, np.array([0, 1, 2, 0]))
    assert found == pytest.approx({"roc_auc": 1, "accuracy": 1, "macro_f1": 1})
    with pytest.raises(DataError, match="ROC-AUC needs two"):
        classification_metrics(np.ones((2, 2)) / 2, np.array([1, 1]))
    found = regression_metrics(np.array([1.0, 2, 4]), np.array([1.0, 2, 3]))
    assert found == pytest.approx({"r2": 0.5, "rmse": 3**-0.5})
