"""Weights of the training examples, on losses whose weights are known on paper."""

import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from hf_cap.errors import ConfigError, DataError
from hf_cap.training.examples import example_weights, temperature_at
from hf_cap.training.options import WeightingOptions
from tests.tiny import roberta_classifier
from tests.training.cases import (
    config,
    exact_classifier,
    farthest,
    moved,
    raw_rows,
    summed_loss,
    trainer,
    weights,
)

METHODS = ["loss_linupper", "loss_quadratic", "loss_extremes", "dro", "class_dro"]
E = math.e
LOSSES, LABELS = torch.tensor([0.0, 1.0, 2.0]), torch.tensor([0, 1, 1])


@pytest.mark.parametrize(
    ("method", "h"),
    [
        ("loss_linupper", [0, 1, 1]),
        ("loss_quadratic", [0, 1, 0]),
        ("loss_extremes", [1, 0, 1]),
        ("dro", [0, 1, 2]),
        ("class_dro", [0, 1.5, 1.5]),
        ("none", [0, 0, 0]),
    ],
)
def test_weights_on_paper(method: Any, h: list[float]) -> None:
    total = sum(map(math.exp, h))
    expected = [3 * math.exp(one) / total for one in h]
    assert example_weights(method, LOSSES, LABELS, 1.0).tolist() == pytest.approx(expected)
    if method == "loss_linupper":
        assert [w / 3 for w in expected] == pytest.approx([0.155, 0.422, 0.422], abs=5e-4)
    nearly = example_weights(method, LOSSES, LABELS, 1e6)
    assert nearly.tolist() == pytest.approx([1, 1, 1], abs=1e-5)
    equal = example_weights(method, torch.full((4,), 0.7), torch.tensor([0, 1, 1, 2]), 0.1)
    assert equal.tolist() == pytest.approx([1, 1, 1, 1])


def test_weights_of_dro_are_the_gradient_of_its_closed_form() -> None:
    losses = torch.tensor([0.2, 1.5, 0.1, 3.0], dtype=torch.float64, requires_grad=True)
    for temperature in (0.5, 2.0):
        value = temperature * ((losses / temperature).logsumexp(0) - math.log(4))
        (gradient,) = torch.autograd.grad(value, losses)
        found = example_weights("dro", losses.detach(), torch.zeros(4), temperature)
        torch.testing.assert_close(found / 4, gradient)
    worst = example_weights("dro", losses.detach(), torch.zeros(4), 1e-3)
    assert worst.tolist() == pytest.approx([0, 0, 0, 4])
    classes = example_weights("class_dro", losses.detach(), torch.tensor([0, 1, 0, 1]), 1e-3)
    assert classes.tolist() == pytest.approx([0, 2, 0, 2])  # the worst class, its texts alike


def test_weights_come_in_over_the_warm_up() -> None:
    options = WeightingOptions(example_weighting_temperature=2.0, example_weighting_warmup=0.5)
    assert [temperature_at(options, part) for part in (0.25, 0.5, 1.0)] == [4.0, 2.0, 2.0]
    start = example_weights("dro", LOSSES, LABELS, temperature_at(options, 0.0))
    assert start.tolist() == pytest.approx([1, 1, 1], abs=1e-5)


def task(subject: Any) -> tuple[Tensor, Tensor]:
    """Loss of all training texts as one batch in training, and the gradient of the weights."""
    subject.model.train().zero_grad()
    loss = subject.compute_loss(subject.model, subject.data_collator(list(subject.train_dataset)))
    loss.backward()
    found = [p.grad for p in subject.model.parameters() if p.grad is not None]
    return loss.detach(), torch.cat([one.flatten() for one in found])


def test_weights_of_one_leave_loss_and_gradient_to_the_bit(tmp_path: Path) -> None:
    rows = raw_rows().add_column("sure", [1.0] * 16)
    plain = task(trainer(tmp_path, rows=rows))
    ones = task(trainer(tmp_path, rows=rows, example_weight_column="sure"))
    assert torch.equal(plain[0], ones[0])
    assert torch.equal(plain[1], ones[1])


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_a_weight_of_two_is_a_text_given_twice(tmp_path: Path, smoothing: float) -> None:
    settings: dict[str, Any] = {
        "model": exact_classifier,
        "alignment_weight": 0.0,
        "label_smoothing_factor": smoothing,
    }
    given = [2.0 * (at % 2) for at in range(16)]  # 0, 2, 0, 2, ...: the mean over the texts of 2
    rows = raw_rows().add_column("sure", given)
    weighted = task(trainer(tmp_path, rows=rows, example_weight_column="sure", **settings))
    half = task(trainer(tmp_path, rows=raw_rows().select(range(1, 16, 2)), **settings))
    torch.testing.assert_close(weighted[0], half[0])
    torch.testing.assert_close(weighted[1], half[1])


def test_the_alignment_and_evaluation_know_no_weights(tmp_path: Path) -> None:
    rows = raw_rows().add_column("sure", [0.0] * 16)
    subject = trainer(tmp_path, rows=rows, example_weight_column="sure", alignment_weight=0.5)
    loss, _ = task(subject)
    plain = trainer(tmp_path, rows=rows, alignment_weight=0.5)
    aligned = 0.5 * plain.evaluate()["eval_loss_align"]
    assert float(loss) == pytest.approx(aligned, rel=1e-4)
    assert subject.evaluate()["eval_loss"] == plain.evaluate()["eval_loss"]


@pytest.mark.parametrize("method", METHODS)
def test_weights_by_loss_change_training_and_fade_with_the_temperature(
    tmp_path: Path, method: str
) -> None:
    run = partial(trainer, tmp_path, max_steps=2, alignment_weight=0.0)
    plain = moved(run())
    near = moved(run(example_weighting=method, example_weighting_temperature=1e9))
    far = moved(run(example_weighting=method, example_weighting_temperature=0.1))
    assert float((near - plain).abs().max()) < 1e-5
    assert float((far - plain).abs().max()) > 1e-3


def test_accumulation_changes_nothing_for_a_column(tmp_path: Path) -> None:
    rows = raw_rows().add_column("sure", [0.1 * at for at in range(16)])
    ends = []
    for size, steps in ((8, 1), (2, 4)):
        sizes = {"per_device_train_batch_size": size, "gradient_accumulation_steps": steps}
        subject = trainer(
            tmp_path, model=exact_classifier, rows=rows, example_weight_column="sure", max_steps=2, **sizes
        )  # fmt: skip
        subject.train()
        ends.append(weights(subject.model))
    assert farthest(*ends) < 1e-10


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"example_weighting": "focal"}, ConfigError, "example_weighting"),
        ({"example_weighting_temperature": 0.0}, ConfigError, "example_weighting_temperature"),
        ({"example_weighting_warmup": 1.5}, ConfigError, "example_weighting_warmup"),
        ({"example_weight_column": "sure"}, DataError, r"lacks \['sure'\]"),
        (
            {"example_weighting": "dro", "compute_loss_func": summed_loss},
            ConfigError,
            "got a `compute_loss_func`",
        ),
    ],
)
def test_what_cannot_be_weighted_is_an_error(
    tmp_path: Path, settings: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        trainer(tmp_path, **settings)


def test_bad_weights_are_errors(tmp_path: Path) -> None:
    for bad in (-1.0, math.nan):
        rows = raw_rows().add_column("sure", [1.0, bad, *[1.0] * 14])
        with pytest.raises(DataError, match=r"'sure', row 1: the weight of the text is"):
            trainer(tmp_path, rows=rows, example_weight_column="sure")
    encoded = trainer(tmp_path).train_dataset  # without that column
    subject = trainer(tmp_path, rows=encoded, example_weight_column="sure")
    with pytest.raises(DataError, match="The batch has no 'example_weight'"):
        subject.train()
    model = roberta_classifier()
    model.config.problem_type = "regression"
    with pytest.raises(ConfigError, match="got problem_type='regression'"):
        trainer(tmp_path, model=lambda: model, alignment_weight=0.0, example_weighting="dro")
    assert not config(tmp_path).weighs_examples
