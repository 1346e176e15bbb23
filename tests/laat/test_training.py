"""Models and their alignment, on cases whose answer is known on paper."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from hf_cap.errors import ConfigError, DataError, ModelError, PriorError
from hf_cap.laat.models import (
    TabularModel,
    attribute_features,
    input_gradients,
    load_tabular_model,
    predict_table,
)
from hf_cap.laat.table import EncodedTable
from hf_cap.laat.trainer import (
    LAATConfig,
    LAATTrainer,
    ScoreRows,
    tabular_trainer,
)
from tests.laat.cases import fitted, numbers, scores_of, tabular_model, trainer
from tests.tiny import roberta_classifier


def first(model: TabularModel) -> Tensor:
    """Weights of the first layer, `(units, features)`."""
    weight = model.layers[0].weight
    assert isinstance(weight, Tensor)
    return weight


def centred(weights: Tensor) -> Tensor:
    return weights - weights.mean(0)


def unit(rows: Any) -> Any:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def gradients_of(model: TabularModel, frame: Any, *, differentiable: bool = False) -> Tensor:
    features = torch.from_numpy(model.config.preprocessor.features(frame)).requires_grad_()
    logits = model(features=features).logits
    classes = torch.arange(logits.shape[1])
    return input_gradients(logits, features, classes, differentiable=differentiable)


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_the_input_gradient_of_a_linear_model_is_its_weights(classes: int) -> None:
    frame = numbers(classes=classes, rows=20)
    model = tabular_model(fitted(frame))
    expected = centred(first(model))
    found = gradients_of(model, frame)
    torch.testing.assert_close(found, expected.expand(20, -1, -1))
    np.testing.assert_allclose(attribute_features(model, frame), expected.detach(), atol=1e-6)


def test_the_input_gradient_of_a_network_is_that_of_finite_differences() -> None:
    frame = numbers(classes=3)
    model = tabular_model(
        fitted(frame), architecture="mlp", hidden_sizes=(7, 5), activation="tanh"
    ).double()
    inputs = torch.from_numpy(fitted(frame).features(frame)).double()
    found = input_gradients(
        model(features=(x := inputs.clone().requires_grad_())).logits,
        x,
        torch.arange(3),
        differentiable=False,
    )
    step = 1e-5
    for feature in range(inputs.shape[1]):
        shift = torch.zeros_like(inputs)
        shift[:, feature] = step
        with torch.no_grad():
            ends = [centred(model(features=inputs + sign * shift).logits.T).T for sign in (1, -1)]
        torch.testing.assert_close(found[:, :, feature], (ends[0] - ends[1]) / (2 * step))


def test_a_number_as_target_is_attributed_as_it_is() -> None:
    frame = numbers().assign(y=np.arange(40.0))
    model = tabular_model(fitted(frame, kind="regression"))
    torch.testing.assert_close(gradients_of(model, frame), first(model).expand(40, 1, -1))


@pytest.mark.parametrize("scope", ["global", "local"])
@pytest.mark.parametrize(
    "options", [{}, {"architecture": "mlp", "hidden_sizes": (8,), "activation": "gelu"}]
)
@pytest.mark.parametrize("classes", [2, 3])
def test_with_a_large_weight_the_gradients_take_the_direction_of_the_scores(
    scope: str, options: dict[str, Any], classes: int, tmp_path: Path
) -> None:
    frame = numbers(classes=classes)
    preprocessor = fitted(frame)
    # what class scores can express: each feature's scores add up to 0 over the classes
    values = np.array([[3, -1, 0, 2], [1, 2, -4, 0], [0, 1, 1, 1.0]])[:classes]
    values = values - values.mean(0)
    model = tabular_model(preprocessor, **options)
    run = trainer(
        model, frame, tmp_path, scores_of(preprocessor.schema, values),
        attribution_scope=scope, alignment_weight=1e4, max_steps=300, learning_rate=0.02,
        lr_scheduler_type="cosine",
    )  # fmt: skip
    run.train()
    cosines = (unit(attribute_features(model, frame)) * unit(values)).sum(-1)
    assert cosines.min() > 0.995
    # local alignment is of each example, which the mean over them does not show
    if scope == "local":
        each = gradients_of(model, frame).detach().numpy()
        assert (unit(each) * unit(values)).sum(-1).mean() > (0.9 if options else 0.995)


def test_scores_of_one_class_alone_align_that_class(tmp_path: Path) -> None:
    frame = numbers()
    preprocessor = fitted(frame)
    values = np.array([[np.nan] * 4, [5, -5, 1, 0]])
    model = tabular_model(preprocessor)
    scores = scores_of(preprocessor.schema, values)
    trainer(
        model, frame, tmp_path, scores, alignment_weight=1e4, max_steps=300, learning_rate=0.02
    ).train()
    assert (unit(attribute_features(model, frame)[1]) * unit(values[1])).sum() > 0.995


def test_a_feature_without_a_score_is_left_free() -> None:
    frame = numbers()
    preprocessor = fitted(frame)
    schema = preprocessor.schema
    model = tabular_model(preprocessor)
    with torch.no_grad():  # already along the scores, but for the feature that has none
        first(model).copy_(torch.tensor([[-1.0, 0, 9, -2], [1, 0, 4, 2]]))
    scores = scores_of(schema, [[-1, 0, np.nan, -2], [1, 0, np.nan, 2]])
    rows = ScoreRows.of(scores, schema, sharpen=False, device=torch.device("cpu"))
    features = torch.from_numpy(preprocessor.features(frame)).requires_grad_()
    run = LAATTrainer(model, LAATConfig("x", use_cpu=True), scores)
    loss, cosine = run.align(model(features=features).logits, features, rows, True)
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert cosine.tolist() == pytest.approx([1, 1])


@pytest.mark.parametrize("scope", ["global", "local"])
def test_the_loss_is_the_mean_square_of_the_difference_of_unit_vectors(
    scope: str, tmp_path: Path
) -> None:
    frame = numbers(rows=10)
    preprocessor = fitted(frame)
    values = np.array([[-1.0, 2, 0, 1], [4, 0, -1, 2]])
    model = tabular_model(preprocessor)
    run = trainer(
        model, frame, tmp_path, scores_of(preprocessor.schema, values),
        alignment_weight=3.0, attribution_scope=scope,
    )  # fmt: skip
    model.train(True)
    batch = {"features": run.train_dataset.features, "labels": run.train_dataset.labels}
    total = run.compute_loss(model, dict(batch))
    task = torch.nn.functional.cross_entropy(model(batch["features"]).logits, batch["labels"])
    difference = unit(centred(first(model).detach()).numpy()) - unit(values)
    assert (total - task).item() == pytest.approx(3 * (difference**2).mean(), rel=1e-5)


@pytest.mark.parametrize("activation", ["relu", "gelu", "tanh"])
@pytest.mark.parametrize("scope", ["global", "local"])
def test_the_gradient_of_the_alignment_reaches_every_layer(activation: str, scope: Any) -> None:
    frame = numbers(classes=3)
    preprocessor = fitted(frame)
    model = tabular_model(
        preprocessor, architecture="mlp", hidden_sizes=(6, 5), activation=activation
    )
    values = np.random.default_rng(0).normal(size=(3, 4))
    scores = scores_of(preprocessor.schema, values)
    rows = ScoreRows.of(scores, preprocessor.schema, sharpen=False, device=torch.device("cpu"))
    features = torch.from_numpy(preprocessor.features(frame)).requires_grad_()
    options = LAATConfig("x", use_cpu=True, attribution_scope=scope)
    run = LAATTrainer(model, options, scores)
    run.align(model(features=features).logits, features, rows, True)[0].backward()
    reached = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    weights = {name for name, _ in model.named_parameters() if name.endswith("weight")}
    assert weights <= reached
    if activation != "relu":  # its slope does not depend on the bias, but at the kink
        assert {"layers.0.bias", "layers.2.bias"} <= reached


def test_loss_and_gradient_are_linear_in_the_weight(tmp_path: Path) -> None:
    frame = numbers()
    preprocessor = fitted(frame)
    scores = scores_of(preprocessor.schema, [[-1, 2, 0, 1], [4, 0, -1, 2]])
    found = {}
    for weight in (0.0, 1.0, 3.0):
        model = tabular_model(preprocessor, architecture="mlp", hidden_sizes=(6,))
        model.train(True)
        run = trainer(model, frame, tmp_path, scores, alignment_weight=weight)
        batch = {"features": run.train_dataset.features, "labels": run.train_dataset.labels}
        loss = run.compute_loss(model, batch)
        loss.backward()
        flat = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        found[weight] = torch.cat([loss.detach()[None], flat])
    once, thrice = found[1.0] - found[0.0], found[3.0] - found[0.0]
    assert once.abs().max() > 1e-3
    torch.testing.assert_close(thrice, 3 * once, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("batch", [8, 4])
def test_global_attributions_accumulate_over_equal_batches_of_a_linear_model(
    batch: int, tmp_path: Path
) -> None:
    frame = numbers(rows=16)
    preprocessor = fitted(frame)
    scores = scores_of(preprocessor.schema, [[-1, 2, 0, 1], [4, 0, -1, 2]])
    weights = []
    for size, parts in ((16, 1), (batch, 16 // batch)):
        model = tabular_model(preprocessor)
        trainer(
            model, frame, tmp_path, scores, max_steps=3, optim="sgd", max_grad_norm=0.0,
            per_device_train_batch_size=size, gradient_accumulation_steps=parts,
            learning_rate=0.01,
        ).train()  # fmt: skip
        weights.append(first(model).detach())
    torch.testing.assert_close(weights[0], weights[1], rtol=1e-4, atol=1e-6)


def test_sharpening_lets_the_strongest_feature_decide() -> None:
    schema = fitted(numbers()).schema
    scores = scores_of(schema, [[0, 1, -2, 0], [0, 0, 0, 3]])
    rows = ScoreRows.of(scores, schema, sharpen=True, device=torch.device("cpu"))
    expected = torch.tensor([[0, np.e, -(np.e**2), 0], [0, 0, 0, np.e**3]], dtype=torch.float32)
    torch.testing.assert_close(rows.scores, expected)


def test_a_model_comes_back_from_its_folder_without_pickle(tmp_path: Path) -> None:
    frame = numbers(classes=3)
    preprocessor = fitted(frame)
    model = tabular_model(preprocessor, architecture="mlp", hidden_sizes=(6,))
    scores = scores_of(preprocessor.schema, np.eye(3, 4))
    run = trainer(model, frame, tmp_path / "a", scores, max_steps=2)
    run.train()
    run.save_model(str(tmp_path / "b"))
    found = predict_table(load_tabular_model(tmp_path / "b"), frame.drop(columns="y"))
    assert list(found.columns) == ["c0", "c1", "c2"]
    np.testing.assert_allclose(found, predict_table(model, frame), atol=1e-7)
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-6)
    assert {"config.json", "model.safetensors"} <= {f.name for f in (tmp_path / "b").iterdir()}
    assert load_tabular_model(tmp_path / "b").config.hf_cap["method"] == "input_gradient"


def test_a_number_as_target_is_learned_and_predicted_in_its_unit(tmp_path: Path) -> None:
    frame = numbers(rows=60)
    frame["y"] = 100 + 30 * frame["x0"] - 10 * frame["x1"]
    model = tabular_model(fitted(frame, kind="regression"))
    trainer(model, frame, tmp_path, max_steps=300, learning_rate=0.05).train()
    np.testing.assert_allclose(predict_table(model, frame)["y"], frame["y"], atol=2)


def test_training_resumes_where_it_stopped(tmp_path: Path) -> None:
    frame = numbers()
    preprocessor = fitted(frame)
    scores = scores_of(preprocessor.schema, [[-1, 2, 0, 1], [4, 0, -1, 2]])
    whole = tabular_model(preprocessor)
    trainer(whole, frame, tmp_path / "whole", scores, max_steps=6).train()
    part = tabular_model(preprocessor)
    saving = {"save_strategy": "steps", "save_steps": 3}
    trainer(part, frame, tmp_path / "part", scores, max_steps=6, **saving).train()
    resumed = tabular_model(preprocessor, seed=5)
    trainer(resumed, frame, tmp_path / "part", scores, max_steps=6, **saving).train(
        resume_from_checkpoint=str(tmp_path / "part" / "checkpoint-3")
    )
    torch.testing.assert_close(first(resumed), first(whole))


def test_evaluation_tells_the_parts_of_the_loss(tmp_path: Path) -> None:
    frame = numbers()
    preprocessor = fitted(frame)
    scores = scores_of(preprocessor.schema, [[-1, 2, 0, 1], [1, -2, 0, -1]])
    model = tabular_model(preprocessor)
    run = trainer(
        model, frame, tmp_path, scores, logging_strategy="steps", logging_steps=1, max_steps=2
    )
    found = run.evaluate(run.train_dataset)
    cosine = (
        unit(attribute_features(model, frame)) * unit(np.array([[-1, 2, 0, 1], [1, -2, 0, -1]]))
    ).sum(-1)
    assert found["eval_align_cosine"] == pytest.approx(cosine.mean(), abs=1e-5)
    assert found["eval_loss"] == pytest.approx(
        found["eval_loss_task"] + 100 * found["eval_loss_align"], rel=1e-5
    )
    run.train()
    assert {"loss_task", "loss_align", "align_cosine"} <= run.state.log_history[0].keys()


def test_the_card_tells_features_and_scores(tmp_path: Path) -> None:
    frame = numbers()
    preprocessor = fitted(frame)
    scores = scores_of(preprocessor.schema, [[-1, 2, 0, 1], [4, 0, -1, 2]])
    run = trainer(tabular_model(preprocessor), frame, tmp_path / "run", scores, max_steps=1)
    run.train()
    run.create_model_card(model_name="Little | model")
    card = (tmp_path / "run" / "README.md").read_text()
    assert "tabular-classification" in card
    assert "Little \\| model" in card
    assert (
        "| Input | Description | c0: score | c0: attribution | c1: score | c1: attribution |"
        in card
    )
    cells = next(line for line in card.splitlines() if line.startswith("| x1 ")).split(" | ")
    learned = attribute_features(run.model, frame)
    assert [float(cell.strip(" |")) for cell in cells[2:]] == pytest.approx(
        [2, learned[0, 1], 0, learned[1, 1]], abs=1e-3
    )
    assert "arxiv:2502.20268" in card


@pytest.mark.parametrize(
    ("case", "error", "message"),
    [
        ("no scores", ConfigError, "needs feature scores"),
        ("unscaled", DataError, "'x0'.* not scaled"),
        ("text model", ModelError, "TabularModel"),
        ("strange scores", PriorError, "feature .'z'"),
        ("zero scores", PriorError, "0 or missing"),
    ],
)
def test_what_cannot_be_aligned_is_refused(
    case: str, error: type[Exception], message: str, tmp_path: Path
) -> None:
    frame = numbers()
    if case == "unscaled":
        frame["x0"] *= 100
    preprocessor = fitted(frame, scaling="none" if case == "unscaled" else "standard")
    names = {"strange scores": "z"}
    scores = scores_of(preprocessor.schema, np.full((2, 4), 0.0 if case == "zero scores" else 1.0))
    if case in names:
        scores = scores.of({"c0": {names[case]: 1.0}})
    model: Any = roberta_classifier() if case == "text model" else tabular_model(preprocessor)
    table = EncodedTable(frame, preprocessor)
    config = LAATConfig(str(tmp_path), use_cpu=True, report_to="none")
    with pytest.raises(error, match=message):
        LAATTrainer(model, config, None if case == "no scores" else scores, train_dataset=table)


@pytest.mark.parametrize(
    ("rows", "settings", "epochs"),
    [
        (10, {}, 200),
        (1_600, {}, 200),  # 25 steps a pass: exactly the 5,000 steps
        (50_000, {}, 5_000 / 782),
        (50_000, {"gradient_accumulation_steps": 2}, 5_000 / 391),
        (50_000, {"num_train_epochs": 3}, 3),
        (10, {"num_train_epochs": 0}, 0),
    ],
)
def test_the_default_run_is_bounded(rows: int, settings: dict[str, Any], epochs: float) -> None:
    assert LAATConfig("x", use_cpu=True, **settings).epochs(rows) == pytest.approx(epochs)


def test_a_configuration_serves_one_table_after_another(tmp_path: Path) -> None:
    config = LAATConfig(str(tmp_path), use_cpu=True, alignment_weight=0.0, learning_rate=0.0)
    model = tabular_model(fitted(numbers()))
    for rows, steps in ((40, 200), (128, 400)):
        table = EncodedTable(numbers(rows), model.config.preprocessor)
        made = LAATTrainer(model, config, train_dataset=table)
        made.train()
        assert made.state.global_step == steps
        assert 20 <= len([line for line in made.state.log_history if "loss" in line]) <= 21
        assert made.args.num_train_epochs == 200
    assert config.num_train_epochs == -1
    assert not list(tmp_path.glob("checkpoint-*"))


def test_a_run_without_scores_leaves_the_configuration_to_one_with_scores(tmp_path: Path) -> None:
    frame = numbers()
    schema = fitted(frame).schema
    config = LAATConfig(str(tmp_path), use_cpu=True, report_to="none")
    plain = tabular_trainer(frame, schema, config)
    aligned = tabular_trainer(frame, schema, config, scores=scores_of(schema, np.eye(2, 4)))
    assert [made.alignment.alignment_weight for made in (plain, aligned)] == [0, 100]
