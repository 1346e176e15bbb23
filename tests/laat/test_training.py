"""Alignment of tabular models, on cases whose answer is known on paper."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hf_cap.errors import ConfigError, DataError, ModelError, PriorError
from hf_cap.laat.models import attribute_features
from hf_cap.laat.table import EncodedTable
from hf_cap.laat.trainer import LAATConfig, LAATTrainer, tabular_trainer
from tests.laat.cases import (
    MLP,
    SCORES,
    centred,
    first,
    fitted,
    numbers,
    scores_of,
    tabular_model,
    trainer,
    unit,
)
from tests.tiny import roberta_classifier

NONE = float("nan")


def batch_of(run: LAATTrainer) -> dict[str, Any]:
    """All training rows as one batch."""
    return {"features": run.train_dataset.features, "labels": run.train_dataset.labels}


@pytest.mark.parametrize(
    ("scope", "options", "values"),
    [
        ("global", {}, [[3, -1, 0, 2], [1, 2, -4, 0], [0, 1, 1, 1]]),
        ("local", {**MLP, "activation": "gelu"}, [[3, -1, 0, 2], [1, 2, -4, 0]]),
        ("global", {}, [[NONE] * 4, [5, -5, 1, 0]]),
    ],
)
def test_with_a_large_weight_the_gradients_take_the_direction_of_the_scores(
    scope: str, options: dict[str, Any], values: Any, tmp_path: Path
) -> None:
    frame = numbers(classes=len(values))
    model = tabular_model(fitted(frame), **options)
    # what class scores can express: each feature's scores add up to 0 over the classes
    wanted = np.array(values, dtype=float)
    wanted = wanted if np.isnan(wanted).any() else wanted - wanted.mean(0)
    run = trainer(
        model, frame, tmp_path, wanted, attribution_scope=scope, alignment_weight=1e4,
        max_steps=300, learning_rate=0.02, lr_scheduler_type="cosine",
    )  # fmt: skip
    run.train()
    rows = [frame] if scope == "global" else [frame.iloc[[row]] for row in range(len(frame))]
    cosines = [(unit(attribute_features(model, row)) * unit(wanted)).sum(-1) for row in rows]
    assert np.nanmean(cosines) > (0.995 if scope == "global" else 0.9)


def test_a_feature_without_a_score_is_left_free(tmp_path: Path) -> None:
    frame = numbers()
    model = tabular_model(fitted(frame))
    with torch.no_grad():  # already along the scores, but for the feature that has none
        first(model).copy_(torch.tensor([[-1.0, 0, 9, -2], [1, 0, 4, 2]]))
    run = trainer(model, frame, tmp_path, [[-1, 0, NONE, -2], [1, 0, NONE, 2]])
    features = run.train_dataset.features.requires_grad_()
    loss, cosine = run.align(model(features=features).logits, features, True)
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert cosine.tolist() == pytest.approx([1, 1])


@pytest.mark.parametrize(("scope", "sharpen"), [("global", False), ("local", False), ("global", True)])
def test_the_loss_is_the_mean_square_of_the_difference_of_unit_vectors(
    scope: str, sharpen: bool, tmp_path: Path
) -> None:
    frame = numbers(rows=10)
    model = tabular_model(fitted(frame))
    options = {"attribution_scope": scope, "sharpen": sharpen}
    run = trainer(model, frame, tmp_path, SCORES, alignment_weight=3.0, **options)
    model.train(True)
    batch = batch_of(run)
    total = run.compute_loss(model, dict(batch))
    task = torch.nn.functional.cross_entropy(model(batch["features"]).logits, batch["labels"])
    wanted = np.sign(SCORES) * np.exp(np.abs(SCORES)) if sharpen else np.array(SCORES)
    difference = unit(centred(first(model).detach()).numpy()) - unit(wanted)
    assert (total - task).item() == pytest.approx(3 * (difference**2).mean(), rel=1e-5)


@pytest.mark.parametrize("activation", ["relu", "gelu", "tanh"])
@pytest.mark.parametrize("scope", ["global", "local"])
def test_the_gradient_of_the_alignment_reaches_every_layer_in_proportion_to_the_weight(
    activation: str, scope: str, tmp_path: Path
) -> None:
    frame = numbers()
    found: dict[float, dict[str, Any]] = {}
    for weight in (0.0, 1.0, 3.0):
        model = tabular_model(fitted(frame), **{**MLP, "activation": activation})
        run = trainer(model, frame, tmp_path, SCORES, alignment_weight=weight, attribution_scope=scope)
        model.train(True)
        run.compute_loss(model, batch_of(run)).backward()
        found[weight] = {name: p.grad for name, p in model.named_parameters()}
    for name, plain in found[0.0].items():
        once, thrice = found[1.0][name] - plain, found[3.0][name] - plain
        torch.testing.assert_close(thrice, 3 * once, rtol=1e-4, atol=1e-5)
        # a slope of ReLU does not depend on the bias, and no slope on that of the last layer
        assert once.any() or name == "layers.4.bias" or (activation, name[-4:]) == ("relu", "bias")


def test_training_resumes_where_it_stopped(tmp_path: Path) -> None:
    frame, saving = numbers(), {"save_strategy": "steps", "save_steps": 3, "max_steps": 6}
    whole, resumed = tabular_model(fitted(frame)), tabular_model(fitted(frame), seed=5)
    trainer(whole, frame, tmp_path, SCORES, **saving).train()
    run = trainer(resumed, frame, tmp_path, SCORES, **saving)
    run.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    torch.testing.assert_close(first(resumed), first(whole))


def test_evaluation_gives_the_parts_of_the_loss(tmp_path: Path) -> None:
    frame = numbers()
    model = tabular_model(fitted(frame))
    steps = {"logging_strategy": "steps", "logging_steps": 1, "max_steps": 2}
    run = trainer(model, frame, tmp_path, SCORES, **steps)
    found = run.evaluate(run.train_dataset)
    cosine = (unit(attribute_features(model, frame)) * unit(np.array(SCORES))).sum(-1)
    assert found["eval_align_cosine"] == pytest.approx(cosine.mean(), abs=1e-5)
    parts = found["eval_loss_task"] + 100 * found["eval_loss_align"]
    assert found["eval_loss"] == pytest.approx(parts, rel=1e-5)
    run.train()
    assert {"loss_task", "loss_align", "align_cosine"} <= run.state.log_history[0].keys()


def test_the_trainer_writes_the_card(tmp_path: Path) -> None:
    frame = numbers()
    run = trainer(tabular_model(fitted(frame)), frame, tmp_path / "run", SCORES)
    run.create_model_card(model_name="Little | model")
    card = (tmp_path / "run" / "README.md").read_text()
    header = "| Input | Description | c0: score | c0: attribution | c1: score | c1: attribution |"
    for line in ("tabular-classification", "Little \\| model", header, "| x1 | x1 | 2 |"):
        assert line in card


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"scores": None}, ConfigError, "needs feature scores"),
        ({"scale": 100}, DataError, "'x0'.* not scaled"),
        ({"model": roberta_classifier}, ModelError, "TabularModel"),
        ({"scores": {"c0": {"z": 1.0}}}, PriorError, r"\('c0', 'z'\)"),
        ({"scores": {"c2": {"x0": 1.0}}}, PriorError, r"\('c2', 'x0'\)"),
        ({"scores": {"c0": {"x0": 0.0}}}, PriorError, "0 or missing"),
    ],
)
def test_what_cannot_be_aligned_is_an_error(
    change: dict[str, Any], error: type[Exception], message: str, tmp_path: Path
) -> None:
    frame = numbers()
    frame["x0"] *= change.get("scale", 1)
    preprocessor = fitted(frame, scaling="none" if "scale" in change else "standard")
    scores, values = scores_of(preprocessor.schema, np.ones((2, 4))), change.get("scores", {})
    scores = scores.of(values) if values else scores
    model: Any = change.get("model", lambda: tabular_model(preprocessor))()
    config = LAATConfig(str(tmp_path), use_cpu=True, report_to="none")
    table = EncodedTable(frame, preprocessor)
    with pytest.raises(error, match=message):
        LAATTrainer(model, config, None if values is None else scores, train_dataset=table)


def test_the_default_run_is_bounded() -> None:
    for rows, settings, epochs in (
        (10, {}, 200),
        (1_600, {}, 200),  # 25 steps per pass: exactly the 5,000 steps
        (50_000, {"gradient_accumulation_steps": 2}, 5_000 / 391),
        (50_000, {"num_train_epochs": 3}, 3),
        (10, {"num_train_epochs": 0}, 0),
    ):
        config = LAATConfig("x", use_cpu=True, **settings)  # type: ignore[arg-type]
        assert config.epochs(rows) == pytest.approx(epochs)


def test_the_best_model_cannot_have_the_highest_of_what_is_not_measured(tmp_path: Path) -> None:
    frame = numbers().assign(y=range(40))
    schema = fitted(frame, kind="regression").schema
    with pytest.raises(ConfigError, match="is 'accuracy', which only classes have; take 'loss'"):
        tabular_trainer(frame, schema, LAATConfig(str(tmp_path), metric_for_best_model="eval_accuracy"))


def test_a_configuration_serves_one_table_after_another(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"use_cpu": True, "report_to": "none", "learning_rate": 0.0}
    config = LAATConfig(str(tmp_path), per_device_train_batch_size=128, **settings)
    for rows, steps in ((40, 200), (129, 400)):
        frame = numbers(rows)
        schema = fitted(frame).schema
        made = tabular_trainer(frame, schema, config)
        assert made.alignment.alignment_weight == 0
        made.train()
        assert made.state.global_step == steps
        assert 20 <= len([line for line in made.state.log_history if "loss" in line]) <= 21
        aligned = tabular_trainer(frame, schema, config, scores=scores_of(schema, SCORES))
        assert aligned.alignment.alignment_weight == 100
    assert config.num_train_epochs == -1
    assert not list(tmp_path.glob("checkpoint-*"))
