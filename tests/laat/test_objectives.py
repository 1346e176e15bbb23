"""Ordered classes and class shares, on cases whose answer is known on paper or from a peer."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from hf_cap.errors import ConfigError, DataError
from hf_cap.laat.models import (
    TabularConfig,
    TabularModel,
    evaluate_tabular,
    load_tabular_model,
    ordinal_logits,
    predict_table,
    share_divergence,
)
from hf_cap.laat.settings import TableOptions, TabularModelOptions
from hf_cap.laat.table import EncodedTable, Preprocessor, infer_schema
from hf_cap.laat.trainer import LAATConfig, LAATTrainer, tabular_trainer
from tests.laat.cases import first, fitted, numbers, tabular_model

ORDER = ("low", "mid", "high")


def logit(share: float) -> float:
    return math.log(share / (1 - share))


def ordinal_model(frame: pd.DataFrame, shrinkage: float) -> Any:
    schema = infer_schema(frame, target="y", options=TableOptions(class_order=ORDER))
    options = TabularModelOptions(threshold_shrinkage=shrinkage)
    torch.manual_seed(0)
    return TabularModel(TabularConfig.of(Preprocessor.fit(frame, schema, "none"), options))


def fit(model: Any, frame: pd.DataFrame, steps: int = 1200) -> float:
    """Fit in float64 by a rate that falls to 0; the loss at the end, without the L1 norm."""
    table = EncodedTable(frame, model.config.preprocessor)
    features = table.features.double()
    optimizer = torch.optim.Adam(model.double().parameters(), 0.05)
    falling = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, steps)
    for _ in range(steps):
        optimizer.zero_grad()
        model.train()(features, table.labels).loss.backward()
        optimizer.step()
        falling.step()
    return float(model.eval()(features, table.labels).loss.detach())


def test_cumulative_logits_on_paper() -> None:
    steps = torch.tensor([[0.5, -1.2, -0.3]], requires_grad=True)
    above = torch.sigmoid(torch.tensor([0.5, -0.7, -1.0])).tolist()
    expected = [1 - above[0], above[0] - above[1], above[1] - above[2], above[2]]
    assert ordinal_logits(steps).exp()[0].tolist() == pytest.approx(expected, rel=1e-5)
    assert ordinal_logits(torch.tensor([[0.4]])).softmax(-1)[0, 1] == pytest.approx(0.59869, rel=1e-4)
    crossed = torch.tensor([[0.5, 1.0]], requires_grad=True)
    shares = ordinal_logits(crossed).softmax(-1)
    assert float(shares[0, 1].detach()) < 1e-30
    ordinal_logits(crossed).log_softmax(-1)[0, 1].backward()
    assert crossed.grad is not None
    assert crossed.grad[0, 1] < -50  # a text of the class between parts the thresholds again


def test_strong_shrinkage_is_the_proportional_odds_model_of_statsmodels() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 2))
    y = np.digitize(x @ [1.0, -0.5] + rng.logistic(size=60), [-1, 0.5])
    frame = pd.DataFrame({"a": x[:, 0], "b": x[:, 1], "y": np.array(ORDER)[y]})
    model = ordinal_model(frame, shrinkage=50.0)
    loss = fit(model, frame)
    # OrderedModel(y, x, distr="logit") of statsmodels 0.15.0: params, thresholds and llf / 60
    weights, bias = model.state_dict()["layers.0.weight"], model.state_dict()["layers.0.bias"]
    assert weights[0].tolist() == pytest.approx([0.77867956, -0.55287728], abs=2e-3)
    assert weights[1].tolist() == pytest.approx([0, 0], abs=1e-3)
    assert bias.cumsum(0).tolist() == pytest.approx([1.45157199, -0.62050444], abs=2e-3)
    assert loss == pytest.approx(0.983298314, abs=1e-5)


def test_no_shrinkage_is_a_logistic_regression_per_threshold() -> None:
    # one binary input: each threshold's regression has the logits of the shares, and so has the whole
    counts = {0: (4, 3, 3), 1: (1, 2, 7)}
    names = [name for found in counts.values() for name in np.repeat(ORDER, found)]
    frame = pd.DataFrame({"x": np.repeat([0, 1], 10), "y": names})
    model = ordinal_model(frame, shrinkage=0.0)
    fit(model, frame)
    per_threshold = model.state_dict()["layers.0.weight"].cumsum(0).flatten().tolist()
    expected = [logit(0.9) - logit(0.6), logit(0.7) - logit(0.3)]
    assert per_threshold == pytest.approx(expected, abs=5e-3)
    found = predict_table(model.float(), pd.DataFrame({"x": [0, 1]})).to_numpy()
    np.testing.assert_allclose(found, [[0.4, 0.3, 0.3], [0.1, 0.2, 0.7]], atol=2e-3)


def test_an_ordinal_model_is_trained_saved_and_evaluated(tmp_path: Path) -> None:
    frame = numbers(rows=60)
    frame["y"] = np.array(ORDER)[np.digitize(frame["x0"], [-0.5, 0.5])]
    schema = infer_schema(frame, target="y", options=TableOptions(class_order=ORDER))
    assert schema.classes == ORDER
    settings = {"use_cpu": True, "report_to": "none", "disable_tqdm": True}
    config = LAATConfig(str(tmp_path), max_steps=100, learning_rate=0.3, **settings)  # type: ignore[arg-type]
    run = tabular_trainer(frame, schema, config)
    run.train()
    run.save_model()
    model = load_tabular_model(tmp_path)
    assert model.config.threshold_shrinkage == 0.1
    np.testing.assert_allclose(predict_table(model, frame), predict_table(run.model, frame))
    assert evaluate_tabular(model, frame)["accuracy"] > 0.7


def test_the_divergence_of_shares_is_least_where_the_mean_prediction_has_them() -> None:
    shares = torch.tensor([0.8, 0.2])
    even = share_divergence(torch.zeros(5, 2), shares)
    assert float(even) == pytest.approx(0.8 * math.log(1.6) + 0.2 * math.log(0.4))
    logits = torch.randn(7, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    wanted = torch.tensor([0.5, 0.3, 0.2])
    optimizer = torch.optim.LBFGS([logits], line_search_fn="strong_wolfe", max_iter=100)

    def closure() -> float:
        optimizer.zero_grad()
        loss = share_divergence(logits, wanted)
        loss.backward()
        return float(loss.detach())

    optimizer.step(closure)
    found = logits.detach().softmax(-1)
    torch.testing.assert_close(found.mean(0), wanted, atol=1e-3, rtol=0)
    assert not torch.allclose(found[0], found[1], atol=0.05)  # rows stay apart


def shares_run(folder: Path, weight: float, rows: pd.DataFrame | None = None) -> LAATTrainer:
    frame = numbers(rows=20)
    settings = {"use_cpu": True, "report_to": "none", "disable_tqdm": True}
    config = LAATConfig(
        str(folder), max_steps=100, class_shares=(0.9, 0.1), class_shares_weight=weight, **settings  # type: ignore[arg-type]
    )  # fmt: skip
    run = tabular_trainer(frame, fitted(frame).schema, config, unlabelled=rows)
    run.train()
    return run


def test_known_shares_move_the_mean_prediction(tmp_path: Path) -> None:
    others = numbers(rows=200, seed=3)
    run = shares_run(tmp_path, 100.0, others)
    mean = predict_table(run.model, others).mean()
    assert mean["c0"] == pytest.approx(0.9, abs=0.02)
    # of the batches
    assert predict_table(shares_run(tmp_path, 100.0).model, others).mean()["c0"] > 0.8
    none, plain = shares_run(tmp_path, 0.0, others), shares_run(tmp_path, 0.0)
    assert abs(predict_table(none.model, others).mean()["c0"] - 0.5) < 0.2
    frame = numbers(rows=20)
    old = tabular_trainer(
        frame, fitted(frame).schema, LAATConfig(str(tmp_path), max_steps=100, use_cpu=True, report_to="none")
    )  # fmt: skip
    old.train()
    assert torch.equal(first(plain.model), first(old.model))


def test_what_cannot_be_ordered_or_shared_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="`class_order` names each class"):
        TableOptions(class_order=("low", "low"))
    with pytest.raises(ConfigError, match="target_kind='regression'"):
        TableOptions(class_order=ORDER, target_kind="regression")
    with pytest.raises(DataError, match=r"lacks the classes \['c1'\]"):
        infer_schema(numbers(), target="y", options=TableOptions(class_order=("c0", "c2")))
    for shares in ((), (0.5, 0.4), (1.5, -0.5)):
        with pytest.raises(ConfigError, match="`class_shares` must be at least 0 and add up to 1"):
            LAATConfig("x", use_cpu=True, class_shares=shares, class_shares_weight=1.0)
    config = LAATConfig(str(tmp_path), use_cpu=True, class_shares=(0.2, 0.3, 0.5), class_shares_weight=1.0)
    with pytest.raises(ConfigError, match="3 shares for the classes"):
        LAATTrainer(tabular_model(fitted(numbers())), config)
