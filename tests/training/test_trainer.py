"""`CAPTrainer` keeps what `Trainer` promises, and its loss is the method's."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, TaskType, get_peft_model
from torch import Tensor, nn
from transformers import PreTrainedModel, Trainer, TrainingArguments
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from hf_cap.attribution import attribute_words
from hf_cap.errors import AlignmentError, ConfigError, DataError, ModelError, PriorError
from hf_cap.schema import AttributionSettings
from hf_cap.training.collator import CAPCollator, Priors, encode_dataset, take_priors
from hf_cap.training.gradient import double_backward
from hf_cap.training.options import AlignmentOptions, weight_at
from hf_cap.training.trainer import AlignedTrainer, CAPTrainer
from tests.tiny import roberta_classifier, word_tokenizer
from tests.training.cases import (
    LABEL2ID,
    config,
    exact_classifier,
    farthest,
    raw_rows,
    summed_loss,
    trainer,
    weights,
)

MODES = ["double_backward", "finite_difference"]


def batch_loss(subject: CAPTrainer, *, training: bool = True) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss of the whole training set as one batch, and its gradient."""
    batch = subject.data_collator(list(subject.train_dataset))
    subject.model.train(training).zero_grad()
    loss = subject.compute_loss(subject.model, batch)
    loss.backward()
    return loss.detach(), {
        name: torch.zeros_like(p) if p.grad is None else p.grad.clone()
        for name, p in subject.model.named_parameters()
    }


def test_weight_zero_is_the_plain_trainer_to_the_bit(tmp_path: Path) -> None:
    def model() -> PreTrainedModel:
        return roberta_classifier(hidden_dropout_prob=0.3, attention_probs_dropout_prob=0.3)

    ours = trainer(tmp_path, model=model, alignment_weight=0.0, max_grad_norm=1.0)
    ours.train()
    names = {field.name for field in dataclasses.fields(TrainingArguments) if field.init}
    ours_args = {name: getattr(ours.args, name) for name in names if hasattr(ours.args, name)}
    encoded = encode_dataset(raw_rows(), word_tokenizer(), LABEL2ID)
    plain = Trainer(
        model=model(),
        args=TrainingArguments(**{**ours_args, "output_dir": str(tmp_path / "plain")}),
        train_dataset=encoded.remove_columns(["token_words", "prior", "prior_weight"]),
        processing_class=word_tokenizer(),
    )
    plain.train()
    assert isinstance(plain.model, nn.Module)
    assert farthest(weights(ours.model), weights(plain.model)) == 0.0


def test_plain_arguments_switch_alignment_off(tmp_path: Path) -> None:
    encoded = encode_dataset(raw_rows(), word_tokenizer(), LABEL2ID)
    args = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none")
    subject = CAPTrainer(model=roberta_classifier(), args=args, train_dataset=encoded)
    assert subject.loss_is_scaled_for_ga is None
    assert subject.gradient_mode is None


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "method", ["integrated_gradients", "input_x_gradient", "expected_gradients"]
)
def test_loss_and_gradient_are_linear_in_the_weight(tmp_path: Path, mode: str, method: str) -> None:
    results = []
    for weight in (1e-9, 1.0, 3.0):
        settings: dict[str, Any] = {
            "alignment_weight": weight,
            "alignment_gradient": mode,
            "attribution_method": method,
        }
        results.append(batch_loss(trainer(tmp_path, **settings)))
    (l0, g0), (l1, g1), (l3, g3) = results
    torch.testing.assert_close(l3 - l0, 3 * (l1 - l0), rtol=1e-3, atol=1e-5)
    assert float(l1 - l0) > 0.1
    one = torch.cat([(g1[n] - g0[n]).flatten() for n in g0])
    three = torch.cat([(g3[n] - g0[n]).flatten() for n in g0])
    assert float(one.norm()) > 0.1
    assert float((three - 3 * one).norm() / three.norm()) < 2e-3


def test_the_aligned_attribution_is_the_plain_one(tmp_path: Path) -> None:
    subject = trainer(tmp_path, attribution_steps=6)
    rows = [row for row in raw_rows() if row["prior"]]
    scores = attribute_words(
        subject.model,
        word_tokenizer(),
        [row["text"] for row in rows],
        [row["label"] for row in rows],
        steps=6,
        rule="midpoint",
    )
    distance = 0.0
    for row, words in zip(rows, scores, strict=True):
        a, p = torch.tensor(words), torch.tensor(row["prior"])
        distance += float((a / a.norm() - p / p.norm()).square().sum())
    metrics = subject.evaluate()
    assert metrics["eval_loss_align"] == pytest.approx(distance / 16, rel=1e-3)
    assert metrics["eval_loss"] == pytest.approx(
        metrics["eval_loss_task"] + 0.5 * metrics["eval_loss_align"], rel=1e-4
    )
    assert -1 <= metrics["eval_align_cosine"] <= 1


def test_held_out_texts_without_priors_are_not_called_aligned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = trainer(tmp_path)
    plain = raw_rows().remove_columns("prior")
    half = raw_rows().map(
        lambda row, at: {"prior": row["prior"] if at < 4 else None}, with_indices=True
    )
    mixed = subject.evaluate(half)
    assert mixed["eval_loss"] == pytest.approx(
        mixed["eval_loss_task"] + 0.5 * mixed["eval_loss_align"], rel=1e-4
    )

    def explain(*_: Any, **__: Any) -> None:
        raise AssertionError("explained without need")

    monkeypatch.setattr("hf_cap.training.trainer.path_scores", explain)
    found = subject.evaluate(plain)
    assert found["eval_loss_task"] == pytest.approx(found["eval_loss"])
    assert not {"eval_loss_align", "eval_align_cosine"} & set(found)


def test_rows_without_a_prior_pull_at_nothing(tmp_path: Path) -> None:
    none = raw_rows().map(lambda row: {"prior": None}, features=raw_rows().features)
    _, with_weight = batch_loss(trainer(tmp_path, rows=none, alignment_weight=5.0))
    _, without = batch_loss(trainer(tmp_path, rows=none, alignment_weight=0.0))
    assert farthest(with_weight, without) < 1e-6


@pytest.mark.parametrize("settings", [
    {"attribution_method": "expected_gradients", "attribution_steps": 2},
    {"attribution_method": "input_x_gradient"},
    {"attribution_steps": 3, "attribution_backward_steps": 1},
    {"alignment_gradient": "finite_difference"},
])  # fmt: skip
@pytest.mark.compatibility("gradient accumulation")
@pytest.mark.parametrize(("batch", "accumulate"), [(4, 2), (2, 4)])
def test_accumulation_changes_nothing(
    tmp_path: Path, settings: dict[str, Any], batch: int, accumulate: int
) -> None:
    def final(size: int, steps: int) -> dict[str, Tensor]:
        subject = trainer(
            tmp_path,
            model=exact_classifier,
            per_device_train_batch_size=size,
            gradient_accumulation_steps=steps,
            max_steps=2,
            **settings,
        )
        subject.train()
        return weights(subject.model)

    whole = final(8, 1)
    assert farthest(final(batch, accumulate), whole) < 1e-10
    assert farthest(whole, weights(exact_classifier())) > 1e-3


def test_accumulation_with_a_scaled_task_loss(tmp_path: Path) -> None:
    def final(size: int, steps: int) -> dict[str, Tensor]:
        subject = trainer(
            tmp_path,
            compute_loss_func=summed_loss,
            per_device_train_batch_size=size,
            gradient_accumulation_steps=steps,
            max_steps=2,
        )
        subject.train()
        return weights(subject.model)

    assert farthest(final(2, 4), final(8, 1)) < 2e-5


@pytest.mark.compatibility("resume from checkpoint")
@pytest.mark.parametrize("mode", MODES)
def test_a_resumed_run_is_an_uninterrupted_one(tmp_path: Path, mode: str) -> None:
    settings: dict[str, Any] = {
        "alignment_gradient": mode,
        "attribution_method": "expected_gradients",
        "attribution_steps": 3,
        "attribution_backward_steps": 1,
        "alignment_schedule": "cosine",
        "optim": "adamw_torch",
        "learning_rate": 1e-3,
        "save_strategy": "steps",
        "save_steps": 3,
        "max_steps": 6,
    }

    def model(seed: int = 0) -> PreTrainedModel:
        return roberta_classifier(hidden_dropout_prob=0.2, seed=seed)

    whole = trainer(tmp_path, model=model, **settings)
    whole.train()
    resumed = trainer(tmp_path, model=lambda: model(seed=5), **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert farthest(weights(resumed.model), weights(whole.model)) == 0.0


def test_alignment_draws_nothing_from_the_global_generator(tmp_path: Path) -> None:
    subject = trainer(tmp_path, attribution_method="expected_gradients")
    state = torch.get_rng_state()
    batch_loss(subject)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_parts_of_the_loss_are_logged_raw(tmp_path: Path) -> None:
    subject = trainer(tmp_path, logging_strategy="steps", logging_steps=2, alignment_weight=0.25)
    subject.train()
    logs = [log for log in subject.state.log_history if "loss" in log]
    assert len(logs) == 2
    for log in logs:
        assert log["loss"] == pytest.approx(log["loss_task"] + 0.25 * log["loss_align"], rel=1e-4)
        assert 0 <= log["loss_align"] <= 4


@pytest.mark.compatibility("attention: {attention}")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_attention_is_no_hindrance_in_evaluation_mode(
    tmp_path: Path, mode: str, attention: str
) -> None:
    _, gradient = batch_loss(
        trainer(
            tmp_path,
            model=lambda: roberta_classifier(attn_implementation=attention),
            alignment_gradient=mode,
        )
    )
    _, expected = batch_loss(trainer(tmp_path, alignment_gradient="double_backward"))
    assert farthest(gradient, expected) < 5e-3


@pytest.mark.compatibility("bfloat16 autocast")
@pytest.mark.parametrize("mode", MODES)
def test_bf16_autocast(tmp_path: Path, mode: str) -> None:
    subject = trainer(tmp_path, alignment_gradient=mode, bf16=True, learning_rate=0.05)
    subject.train()
    exact = trainer(tmp_path, alignment_gradient="double_backward", learning_rate=0.05)
    exact.train()
    start = weights(roberta_classifier())
    moved, truth = (
        torch.cat([(end[name] - start[name]).flatten() for name in start])
        for end in (weights(subject.model), weights(exact.model))
    )
    assert float(torch.cosine_similarity(moved, truth, 0)) > 0.99


class HalfOnly(torch.autograd.Function):
    """What flash attention allows: half precision, and no second derivative."""

    @staticmethod
    def forward(ctx: Any, query: Tensor) -> Tensor:
        if query.dtype == torch.float32:
            raise RuntimeError("FlashAttention only support fp16 and bf16 data type")
        return query.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


def half_only(module: nn.Module, query: Tensor, *args: Any, **kwargs: Any) -> Any:
    return sdpa_attention_forward(module, HalfOnly.apply(query), *args, **kwargs)  # type: ignore[no-untyped-call]


@pytest.mark.compatibility("attention: a stand-in as limited as flash attention")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("method", ["integrated_gradients", "input_x_gradient"])
def test_attention_of_half_precision_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str, method: str
) -> None:
    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS._global_mapping, "half_only", half_only)
    monkeypatch.setitem(ALL_MASK_ATTENTION_FUNCTIONS._global_mapping, "half_only", sdpa_mask)

    def model(attention: str) -> Callable[[], PreTrainedModel]:
        return lambda: roberta_classifier(attn_implementation=attention)

    settings: dict[str, Any] = {
        "alignment_gradient": mode,
        "attribution_method": method,
        "bf16": True,
        "max_steps": 1,
    }
    flash = trainer(tmp_path, model=model("half_only"), **settings)
    flash.train()
    assert flash.model.config._attn_implementation == "half_only"
    common = trainer(tmp_path, model=model("sdpa"), **settings)
    common.train()
    start = weights(roberta_classifier())
    moved, expected = (
        torch.cat([(end[name] - start[name]).flatten() for name in start])
        for end in (weights(flash.model), weights(common.model))
    )
    assert float((moved - expected).norm() / expected.norm()) < 0.2  # bfloat16


@pytest.mark.compatibility("gradient checkpointing, non-reentrant")
@pytest.mark.parametrize("mode", MODES)
def test_gradient_checkpointing_changes_nothing(tmp_path: Path, mode: str) -> None:
    def final(on: bool, method: str) -> dict[str, Tensor]:
        subject = trainer(
            tmp_path,
            activation_checkpointing=on,
            activation_checkpointing_kwargs={"use_reentrant": False},
            alignment_gradient=mode,
            attribution_method=method,
            max_steps=2,
        )
        subject.train()
        assert subject.model.is_activation_checkpointing is on
        return weights(subject.model)

    for method in ("integrated_gradients", "input_x_gradient"):
        assert farthest(final(True, method), final(False, method)) < 1e-4


# peft 0.21 reads the old name of `is_activation_checkpointing` when it wraps a model
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.compatibility("PEFT LoRA with modules_to_save")
@pytest.mark.parametrize("mode", MODES)
def test_lora_trains_adapters_and_head_only(tmp_path: Path, mode: str) -> None:
    def model() -> nn.Module:
        torch.manual_seed(1)
        adapters = LoraConfig(
            task_type=TaskType.SEQ_CLS,
            r=2,
            target_modules=["query", "value"],
            modules_to_save=["classifier"],
        )
        adapted: nn.Module = get_peft_model(roberta_classifier(), adapters)
        return adapted

    subject = trainer(tmp_path, model=model, alignment_gradient=mode)
    before = weights(subject.model)
    subject.train()
    after = weights(subject.model)
    moved = {name for name in after if not torch.equal(after[name], before[name])}
    assert all("lora" in name or "modules_to_save" in name for name in moved)
    assert sum("lora_B" in name for name in moved) == 4
    assert any("modules_to_save" in name for name in moved)


def test_predicting_needs_no_labels(tmp_path: Path) -> None:
    subject = trainer(tmp_path)
    output = subject.predict(raw_rows().remove_columns("label"))
    assert isinstance(output.predictions, np.ndarray)
    assert output.predictions.shape == (16, 3)
    assert "test_loss_align" in (subject.predict(raw_rows()).metrics or {})


def test_several_evaluation_sets(tmp_path: Path) -> None:
    subject = CAPTrainer(
        model=roberta_classifier(),
        args=config(tmp_path),
        train_dataset=raw_rows(),
        eval_dataset={"a": raw_rows(4), "b": raw_rows(6, seed=2)},
        processing_class=word_tokenizer(),
    )
    metrics = subject.evaluate()
    assert metrics["eval_a_loss_align"] != metrics["eval_b_loss_align"]


def test_an_alignment_without_priors_is_refused(tmp_path: Path) -> None:
    rows = raw_rows().remove_columns("prior")
    with pytest.raises(PriorError, match=r"no prior column 'prior'.*hf-cap extract"):
        trainer(tmp_path, rows=rows)
    trainer(tmp_path, rows=rows, alignment_weight=0.0)


def tokenised() -> Dataset:
    """What the usual `dataset.map(tokenize)` leaves: tokens beside text, label and prior."""
    tokenizer = word_tokenizer()
    return raw_rows().map(lambda row: dict(tokenizer(row["text"])))


def test_texts_that_are_tokenised_without_their_words_are_refused(tmp_path: Path) -> None:
    subject = trainer(tmp_path, rows=tokenised())
    with pytest.raises(DataError, match=r"no 'token_words'.*`encode_dataset`"):
        subject.train()
    assert subject.state.global_step == 0
    trainer(tmp_path, rows=tokenised(), alignment_weight=0.0).train()


def test_texts_that_are_encoded_without_their_priors_are_refused(tmp_path: Path) -> None:
    rows = encode_dataset(raw_rows(), word_tokenizer(), LABEL2ID, prior_column="prior_cap")
    with pytest.raises(
        PriorError, match=r"None of the 16 training texts has a prior.*`prior_column`"
    ):
        trainer(tmp_path, rows=rows).train()
    with pytest.raises(PriorError, match="None of the 16 training texts has a prior"):
        trainer(tmp_path, rows=rows.remove_columns("prior_weight")).train()


def test_a_stream_without_the_words_is_refused_at_its_first_batch(tmp_path: Path) -> None:
    rows = encode_dataset(raw_rows(), word_tokenizer(), LABEL2ID)
    bare = rows.remove_columns("token_words").to_iterable_dataset()
    subject = trainer(tmp_path, rows=bare)
    with pytest.raises(DataError, match=r"batch has no 'token_words'.*`CAPCollator`"):
        subject.train()
    assert subject.state.global_step == 0
    whole = trainer(tmp_path, rows=rows.to_iterable_dataset())
    whole.train()
    assert whole.state.global_step == 4


class Cut(nn.Module):
    """A layer behind which no gradient passes."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
        with torch.no_grad():
            return self.layer(hidden, *args, **kwargs)


def test_a_blocked_gradient_is_found_before_training(tmp_path: Path) -> None:
    model: Any = roberta_classifier()
    model.roberta.encoder.layer[1] = Cut(model.roberta.encoder.layer[1])
    subject = trainer(tmp_path, model=lambda: model)
    with pytest.raises(AlignmentError, match="cannot be computed by 'double_backward'"):
        subject.train()


class CutBranch(Cut):
    """A layer that the gradient only passes by."""

    def forward(self, hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
        return hidden + super().forward(hidden, *args, **kwargs)


def test_a_layer_that_no_gradient_reaches_is_named(tmp_path: Path) -> None:
    model: Any = roberta_classifier()
    model.roberta.encoder.layer[1] = CutBranch(model.roberta.encoder.layer[1])
    with pytest.raises(AlignmentError, match=r"does not reach \['roberta.encoder.layer.1'\]"):
        trainer(tmp_path, model=lambda: model).train()


def test_an_infinite_gradient_is_found_before_training(tmp_path: Path) -> None:
    model: Any = roberta_classifier()
    with torch.no_grad():
        model.classifier.out_proj.weight.fill_(float("inf"))
    with pytest.raises(AlignmentError, match="not finite"):
        trainer(tmp_path, model=lambda: model).train()


def test_models_that_cannot_be_aligned_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="num_labels=1"):
        trainer(tmp_path, model=lambda: roberta_classifier(1))
    with pytest.raises(ModelError, match="multi_label_classification"):
        trainer(
            tmp_path, model=lambda: roberta_classifier(problem_type="multi_label_classification")
        )
    with pytest.raises(ConfigError, match="bfloat16"):
        trainer(
            tmp_path,
            model=lambda: roberta_classifier().bfloat16(),
            alignment_gradient="finite_difference",
        )


BAD: list[tuple[dict[str, Any], str]] = [
    (
        {"alignment_weight": -1.0},
        "`alignment_weight` must be at least 0 and less than inf, got -1.0",
    ),
    ({"alignment_weight": float("nan")}, "less than inf, got nan"),
    ({"alignment_loss": "l1"}, "There is no `alignment_loss` 'l1'; there are .*'mse'"),
    ({"attribution_steps": 0}, "`attribution_steps` must be at least 1, got 0"),
    ({"finite_difference_step": 0.0}, "`finite_difference_step` must be more than 0, got 0.0"),
    ({"alignment_warmup": 0.0}, "`alignment_warmup` must be more than 0 and at most 1, got 0.0"),
    (
        {"attribution_backward_steps": 2},
        "`attribution_backward_steps` must be .* at most 1, got 2",
    ),
    ({"activation_checkpointing_kwargs": {"use_reentrant": True}}, "use_reentrant"),
    ({"ddp_static_graph": True}, "ddp_static_graph"),
    ({"fp16": True}, "Mixed precision 'fp16' scales the loss"),
]


@pytest.mark.parametrize(("settings", "message"), BAD)
def test_settings_that_cannot_work_are_refused(
    tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        config(tmp_path, **settings)


def test_the_precision_of_accelerate_counts_as_that_of_the_arguments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp16")
    with pytest.raises(ConfigError, match="Mixed precision 'fp16' scales the loss"):
        config(tmp_path)
    assert config(tmp_path, bf16=True).mixed_precision == "bf16"
    assert config(tmp_path, alignment_weight=0.0).mixed_precision == "fp16"


def test_defaults_of_training_arguments_are_unchanged() -> None:
    ours = {field.name: field for field in dataclasses.fields(type(config(Path("x"))))}
    for field in dataclasses.fields(TrainingArguments):
        assert ours[field.name].default == field.default
    assert {f.name for f in dataclasses.fields(AlignmentOptions)} <= set(ours)


def test_a_schedule_gives_its_weights(tmp_path: Path) -> None:
    rising = AlignmentOptions(
        alignment_weight=2.0, alignment_schedule="warmup", alignment_warmup=0.5
    )
    assert [weight_at(rising, step, 8) for step in (0, 2, 4, 8)] == [0.0, 1.0, 2.0, 2.0]
    cosine = AlignmentOptions(alignment_weight=2.0, alignment_schedule="cosine")
    assert [weight_at(cosine, step, 8) for step in (0, 4, 8)] == pytest.approx([2.0, 1.0, 0.0])


COMPILERS = ["eager", "aot_eager", pytest.param("inductor", marks=pytest.mark.slow)]


# torch 2.13's inductor imports a module of its own that still uses torch.jit
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
@pytest.mark.compatibility("torch.compile (task pass; backend {backend})")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("backend", COMPILERS)
def test_a_torch_compiled_task_pass(tmp_path: Path, backend: str, mode: str) -> None:
    settings: dict[str, Any] = {"alignment_gradient": mode, "max_steps": 2}
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    ours = trainer(tmp_path, torch_compile=True, torch_compile_backend=backend, **settings)
    ours.train()
    assert torch._dynamo.utils.counters["frames"]["ok"] > 0
    plain = trainer(tmp_path, **settings)
    plain.train()
    assert farthest(weights(ours.model), weights(plain.model)) < 1e-4


def test_encoded_data_and_a_collator_of_ones_own(tmp_path: Path) -> None:
    tokenizer = word_tokenizer()
    encoded: Dataset = encode_dataset(raw_rows(), tokenizer, LABEL2ID)
    subject = CAPTrainer(
        model=roberta_classifier(),
        args=config(tmp_path),
        data_collator=CAPCollator(tokenizer, pad_to_multiple_of=8),
        train_dataset=encoded,
    )
    assert subject.data_collator(list(subject.train_dataset))["token_words"].shape[1] == 16
    expected, _ = batch_loss(trainer(tmp_path))
    torch.testing.assert_close(batch_loss(subject)[0], expected)


def whole_batch(subject: CAPTrainer) -> tuple[dict[str, Any], Priors]:
    """The whole training set as one batch."""
    inputs, priors = take_priors(subject.data_collator(list(subject.train_dataset)))
    assert priors is not None
    return inputs, priors


def aligned(subject: CAPTrainer) -> Tensor:
    """The alignment loss of the whole training set."""
    return subject.align(subject.model.train(), *whole_batch(subject))[0]


def passes_at(subject: CAPTrainer, step: int, **changes: Any) -> tuple[Any, ...]:
    """Points and settings of the gradient function on a step of training or evaluation."""
    seen: list[Any] = []

    def spy(*arguments: Any, **options: Any) -> Any:
        seen.append((arguments[2], options))
        return double_backward(*arguments)

    inputs, priors = whole_batch(subject)
    subject.state.global_step = step
    subject.gradient = lambda model: spy  # type: ignore[method-assign]
    subject.align(subject.model.train(), inputs, priors)
    return tuple(seen[0])


@pytest.mark.parametrize("mode", MODES)
def test_the_attribution_is_that_of_the_network_without_dropout(tmp_path: Path, mode: str) -> None:
    def model() -> PreTrainedModel:
        return roberta_classifier(hidden_dropout_prob=0.5, attention_probs_dropout_prob=0.5)

    dropping = trainer(tmp_path, model=model, alignment_gradient=mode)
    exact = trainer(tmp_path, alignment_gradient=mode)
    torch.testing.assert_close(aligned(dropping), aligned(exact))
    assert dropping.model.training


def test_settings_reach_passes_and_loss(tmp_path: Path) -> None:
    def of(**settings: Any) -> tuple[Any, Any]:
        points, options = passes_at(trainer(tmp_path, attribution_steps=2, **settings), 0)
        return points[0][:, 0].tolist(), options

    assert of(attribution_quadrature="midpoint")[0] == [0.25, 0.75]
    radau = of(attribution_quadrature="gauss_radau")[0]
    assert radau == [pytest.approx(1 / 3), pytest.approx(1.0)]
    assert of(attribution_rows=3)[1]["rows"] == 3
    assert of()[1]["rows"] is None
    mode: dict[str, Any] = {"alignment_gradient": "finite_difference"}
    subject = trainer(tmp_path, finite_difference_step=1e-2, **mode)
    gradient: Any = subject.gradient(subject.model)
    assert gradient.keywords == {"step": 1e-2, "recompute": False}
    # a floor far above every norm leaves no attribution: what is left are the unit priors, of 12 texts in 16
    far = aligned(trainer(tmp_path, alignment_norm_floor=1e6))
    assert far.item() == pytest.approx(12 / 16, abs=1e-4)
    assert aligned(trainer(tmp_path)).item() != pytest.approx(12 / 16, abs=1e-2)


def test_settings_reach_the_encoding(tmp_path: Path) -> None:
    rows = raw_rows()
    sure = rows.add_column("sure", [2.0] * len(rows)).rename_column("prior", "mine")
    subject = trainer(tmp_path, rows=sure, prior_column="mine", prior_weight_column="sure")
    weights_of = subject.train_dataset["prior_weight"][:]
    assert set(weights_of) == {0.0, 2.0}
    assert sum(weight > 0 for weight in weights_of) == sum(map(bool, rows["prior"]))
    cut = trainer(tmp_path, max_length=4)
    assert max(map(len, cut.train_dataset["input_ids"])) == 4
    assert max(map(len, subject.train_dataset["input_ids"])) > 4


def test_random_points_and_the_carrying_ones_are_drawn_anew_on_each_step(tmp_path: Path) -> None:
    subject = trainer(
        tmp_path,
        attribution_method="expected_gradients",
        attribution_steps=3,
        attribution_backward_steps=1,
    )
    made = [passes_at(subject, step) for step in range(12)]
    assert {tuple(options["chosen"]) for _, options in made} == {(0,), (1,), (2,)}
    assert len({float(points[0][0, 0]) for points, _ in made}) == 12
    assert torch.equal(passes_at(subject, 3)[0][0], made[3][0][0])
    other = trainer(tmp_path, attribution_method="expected_gradients", attribution_steps=3, seed=1)
    assert not torch.equal(passes_at(other, 3)[0][0], made[3][0][0])


def test_evaluation_is_always_at_the_same_points(tmp_path: Path) -> None:
    subject = trainer(tmp_path, attribution_method="expected_gradients", attribution_steps=2)
    first = subject.evaluate()["eval_loss_align"]
    subject.state.global_step = 5
    assert subject.evaluate()["eval_loss_align"] == first


def test_finite_differences_are_float32_under_autocast(tmp_path: Path) -> None:
    def gradient(enabled: bool) -> Tensor:
        subject = trainer(tmp_path, alignment_gradient="finite_difference")
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            loss = aligned(subject)
        loss.backward()
        found = [p.grad for p in subject.model.parameters() if p.grad is not None]
        return torch.cat([g.flatten() for g in found])

    exact = gradient(False)
    assert float((gradient(True) - exact).norm() / exact.norm()) < 1e-4


class Pull(AlignedTrainer):
    """Another attribution: the embedding table itself, pulled to zero."""

    def compute_loss(
        self, model: nn.Module, inputs: Any, return_outputs: bool = False, *_: Any, **__: Any
    ) -> Any:
        loss, outputs = Trainer.compute_loss(self, model, inputs, True)
        pull = self.model.get_input_embeddings().weight.square().sum()
        half = torch.tensor([0.5])
        self.record(model.training, inputs, loss, pull, half, torch.ones(1))
        loss = loss + self.beta(model.training) * pull
        return (loss, outputs) if return_outputs else loss


def test_another_attribution_needs_one_method(tmp_path: Path) -> None:
    encoded = encode_dataset(raw_rows(), word_tokenizer(), LABEL2ID)
    plain = encoded.remove_columns(["token_words", "prior", "prior_weight"])
    settings: dict[str, Any] = {"logging_strategy": "steps", "logging_steps": 1}
    subject = Pull(
        model=roberta_classifier(),
        args=config(tmp_path, **settings, max_steps=3, learning_rate=0.05),
        train_dataset=plain,
        eval_dataset=plain,
        processing_class=word_tokenizer(),
    )
    subject.train()
    logs = [log for log in subject.state.log_history if "loss" in log]
    pulls = [log["loss_align"] for log in logs]
    assert pulls == sorted(pulls, reverse=True)
    assert logs[0]["align_cosine"] == 0.5
    assert logs[0]["loss"] == pytest.approx(logs[0]["loss_task"] + 0.5 * pulls[0], rel=1e-4)
    assert subject.evaluate()["eval_loss_align"] < pulls[-1]


def test_each_model_of_a_search_knows_how_it_was_aligned(tmp_path: Path) -> None:
    made: list[PreTrainedModel] = []

    def fresh() -> PreTrainedModel:
        made.append(roberta_classifier())
        return made[-1]

    subject = CAPTrainer(
        args=config(tmp_path, max_steps=1, attribution_target="contrast"),
        train_dataset=raw_rows(),
        processing_class=word_tokenizer(),
        model_init=fresh,
    )
    subject.train()
    assert len(made) == 2
    assert subject.model is made[1]
    assert all(AttributionSettings.read(model.config).target == "contrast" for model in made)
    with pytest.raises(ModelError, match="num_labels=1"):
        CAPTrainer(args=config(tmp_path), model_init=lambda: roberta_classifier(1))


def test_the_history_has_no_number_that_json_cannot_tell(tmp_path: Path) -> None:
    subject = trainer(tmp_path)
    subject.log({"loss": 1.5, "grad_norm": float("inf")})
    (line,) = subject.history
    assert line["loss"] == 1.5
    assert line["grad_norm"] is None


class Hub:
    """In the place of the Hub: the files of each upload."""

    def __init__(self) -> None:
        self.uploads: list[dict[str, bytes]] = []

    def create_repo(self, name: str, **_: Any) -> Any:
        return SimpleNamespace(repo_id=f"me/{name}")

    def upload_folder(self, *, folder_path: str, **_: Any) -> None:
        folder = Path(folder_path)
        files = [file for file in folder.rglob("*") if file.is_file()]
        self.uploads.append({str(file.relative_to(folder)): file.read_bytes() for file in files})


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Hub:
    hub = Hub()
    monkeypatch.setattr("transformers.trainer.hf_api", lambda: hub)
    return hub


def leave_things(folder: Path) -> None:
    """What lies in the output folder of a run, and must not leave it."""
    for name in ("runs/heat_maps/events", "run.json", "evaluation/test.parquet", "training_args.bin",
                 "adapter_config.json", ".hub/old.bin"):  # fmt: skip
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("lost my card")


def test_nothing_but_model_tokenizer_and_card_is_published(tmp_path: Path, hub: Hub) -> None:
    folder = tmp_path / "desk"
    leave_things(folder)
    subject = trainer(folder, max_steps=1)
    subject.train()
    subject.push_to_hub()
    (files,) = hub.uploads
    assert set(files) == {
        "README.md", "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
    }  # fmt: skip
    assert b"\n# desk\n" in files["README.md"]
    assert str(tmp_path).encode() not in b"".join(files.values())
    assert subject.args.output_dir == str(folder)
    assert (folder / "run.json").exists()


def test_publishing_at_each_save_is_refused_and_at_the_end_is_not(tmp_path: Path, hub: Hub) -> None:
    leave_things(tmp_path)
    for weight in (0.5, 0.0):
        with pytest.raises(ConfigError, match=r"`hub_strategy='every_save'` uploads.*'end'"):
            config(tmp_path, push_to_hub=True, alignment_weight=weight)
        args = config(tmp_path, alignment_weight=weight)
        args.push_to_hub = True
        with pytest.raises(ConfigError, match="`hub_strategy='every_save'` uploads"):
            CAPTrainer(roberta_classifier(), args)
    settings: dict[str, Any] = {"save_strategy": "steps", "save_steps": 1, "max_steps": 2}
    subject = trainer(tmp_path, push_to_hub=True, hub_strategy="end", **settings)
    subject.train()
    assert hub.uploads == []
    subject.save_model()
    (files,) = hub.uploads
    assert {"README.md", "model.safetensors"} <= set(files)
    assert not {"training_args.bin", "run.json"} & set(files)
