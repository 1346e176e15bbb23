"""`CAPTrainer` keeps what `Trainer` promises, and its loss is the method's."""

import dataclasses
import re
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from datasets import Dataset
from torch import Tensor, nn
from transformers import PreTrainedModel, Trainer, TrainingArguments
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from hf_cap.attribution import attribute_words
from hf_cap.cards import changed_settings
from hf_cap.errors import ConfigError
from hf_cap.training.collator import CAPCollator, encode_dataset, take_priors
from hf_cap.training.config import CAPConfig
from hf_cap.training.gradient import double_backward
from hf_cap.training.trainer import CAPTrainer
from tests.tiny import roberta_classifier, word_tokenizer
from tests.training.cases import (
    LABEL2ID,
    config,
    exact_classifier,
    family,
    farthest,
    moved,
    raw_rows,
    summed_loss,
    trainer,
    weights,
)

MODES = ["double_backward", "finite_difference"]


def batch_loss(subject: CAPTrainer) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss of the whole training set as one batch, and its gradient."""
    batch = subject.data_collator(list(subject.train_dataset))
    subject.model.train().zero_grad()
    loss = subject.compute_loss(subject.model, batch)
    loss.backward()
    return loss.detach(), {
        name: torch.zeros_like(p) if p.grad is None else p.grad.clone()
        for name, p in subject.model.named_parameters()
    }


def test_weight_zero_or_plain_arguments_are_the_plain_trainer(tmp_path: Path) -> None:
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
    args = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none")
    subject = CAPTrainer(model=roberta_classifier(), args=args, train_dataset=encoded)
    assert subject.loss_is_scaled_for_ga is None
    assert subject.gradient_mode is None


@pytest.mark.parametrize(
    ("mode", "method"),
    [
        ("double_backward", "integrated_gradients"),
        ("double_backward", "expected_gradients"),
        ("finite_difference", "input_x_gradient"),
    ],
)
def test_loss_and_gradient_are_linear_in_the_weight(tmp_path: Path, mode: str, method: str) -> None:
    settings: dict[str, Any] = {"alignment_gradient": mode, "attribution_method": method}
    (l0, g0), (l1, g1), (l3, g3) = [
        batch_loss(trainer(tmp_path, alignment_weight=weight, **settings)) for weight in (1e-9, 1.0, 3.0)
    ]
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
        subject.model, word_tokenizer(), [row["text"] for row in rows], [row["label"] for row in rows],
        steps=6, rule="midpoint",
    )  # fmt: skip
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
    half = raw_rows().map(lambda row, at: {"prior": row["prior"] if at < 4 else None}, with_indices=True)
    mixed = subject.evaluate(half)
    assert mixed["eval_loss"] == pytest.approx(
        mixed["eval_loss_task"] + 0.5 * mixed["eval_loss_align"], rel=1e-4
    )
    monkeypatch.setattr("hf_cap.training.trainer.path_scores", Mock(side_effect=AssertionError))
    found = subject.evaluate(plain)
    assert found["eval_loss_task"] == pytest.approx(found["eval_loss"])
    assert not {"eval_loss_align", "eval_align_cosine"} & set(found)


@pytest.mark.compatibility("gradient accumulation")
@pytest.mark.parametrize("settings", [
    {"attribution_method": "expected_gradients", "attribution_steps": 3, "attribution_backward_steps": 1},
    {"alignment_gradient": "finite_difference"},
    {"compute_loss_func": summed_loss},
    {"example_weight_column": "weight"},
])  # fmt: skip
def test_accumulation_changes_nothing(tmp_path: Path, settings: dict[str, Any]) -> None:
    ends = []
    for size, steps in ((8, 1), (2, 4)):
        sizes: dict[str, Any] = {"per_device_train_batch_size": size, "gradient_accumulation_steps": steps}
        subject = trainer(tmp_path, model=exact_classifier, max_steps=2, **sizes, **settings)
        ends.append(moved(subject))
    assert float((ends[0] - ends[1]).abs().max()) < 1e-10
    assert float(ends[0].abs().max()) > 1e-3


@pytest.mark.compatibility("resume from checkpoint: {kind}", mode="double_backward")
@pytest.mark.parametrize("kind", ["roberta", "sentence"])
def test_a_resumed_run_is_an_uninterrupted_one(tmp_path: Path, kind: str) -> None:
    settings: dict[str, Any] = {
        "attribution_method": "expected_gradients", "attribution_steps": 3, "attribution_backward_steps": 1,
        "alignment_schedule": "cosine", "optim": "adamw_torch", "learning_rate": 1e-3,
        "save_strategy": "steps", "save_steps": 3, "max_steps": 6,
    }  # fmt: skip

    def run(seed: int, checkpoint: str | None = None) -> dict[str, Tensor]:
        model = family(kind)
        torch.manual_seed(seed)
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.2
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=0.2)
        subject = trainer(tmp_path, model=lambda: model, **settings)
        subject.train(resume_from_checkpoint=checkpoint)
        return weights(subject.model)

    whole = run(0)
    assert farthest(run(5, str(tmp_path / "checkpoint-3")), whole) == 0.0


def test_alignment_draws_nothing_from_the_global_generator(tmp_path: Path) -> None:
    subject = trainer(tmp_path, attribution_method="expected_gradients")
    state = torch.get_rng_state()
    batch_loss(subject)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_parts_of_the_loss_are_logged_raw_and_as_json(tmp_path: Path) -> None:
    subject = trainer(tmp_path, logging_strategy="steps", logging_steps=2, alignment_weight=0.25)
    subject.train()
    logs = [log for log in subject.state.log_history if "loss" in log]
    assert len(logs) == 2
    for log in logs:
        assert log["loss"] == pytest.approx(log["loss_task"] + 0.25 * log["loss_align"], rel=1e-4)
        assert 0 <= log["loss_align"] <= 4
    subject.log({"loss": 1.5, "grad_norm": float("inf")})
    assert subject.history[-1]["loss"] == 1.5
    assert subject.history[-1]["grad_norm"] is None


@pytest.mark.compatibility("bfloat16 autocast")
@pytest.mark.parametrize("mode", MODES)
def test_bf16_autocast(tmp_path: Path, mode: str) -> None:
    half = moved(trainer(tmp_path, alignment_gradient=mode, bf16=True, learning_rate=0.05))
    exact = moved(trainer(tmp_path, alignment_gradient="double_backward", learning_rate=0.05))
    assert float(torch.cosine_similarity(half, exact, 0)) > 0.99


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


@pytest.mark.compatibility("attention: a mock as limited as flash attention")
@pytest.mark.parametrize("mode", MODES)
def test_attention_of_half_precision_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS._global_mapping, "half_only", half_only)
    monkeypatch.setitem(ALL_MASK_ATTENTION_FUNCTIONS._global_mapping, "half_only", sdpa_mask)
    settings: dict[str, Any] = {"alignment_gradient": mode, "bf16": True, "max_steps": 1}
    model = partial(roberta_classifier, attn_implementation="half_only")
    flash = trainer(tmp_path, model=model, **settings)
    found, expected = moved(flash), moved(trainer(tmp_path, **settings))
    assert flash.model.config._attn_implementation == "half_only"
    assert float((found - expected).norm() / expected.norm()) < 0.2  # bfloat16


@pytest.mark.compatibility("gradient checkpointing, non-reentrant")
@pytest.mark.parametrize("mode", MODES)
def test_gradient_checkpointing_changes_nothing(tmp_path: Path, mode: str) -> None:
    kwargs: dict[str, Any] = {"activation_checkpointing_kwargs": {"use_reentrant": False}}
    ends = []
    for on in (True, False):
        kwargs |= {"activation_checkpointing": on, "alignment_gradient": mode, "max_steps": 2}
        ends.append(moved(subject := trainer(tmp_path, **kwargs)))
        assert subject.model.is_activation_checkpointing is on
    assert float((ends[0] - ends[1]).abs().max()) < 1e-4


# torch 2.13's inductor imports a module of its own that still uses torch.jit
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
@pytest.mark.compatibility("torch.compile (task pass; backend {backend})")
@pytest.mark.parametrize(
    ("backend", "mode", "kind"),
    [
        # whose compiled pass has no second derivative
        ("aot_eager", "double_backward", "roberta"),
        ("aot_eager", "double_backward", "sentence"),
        pytest.param("inductor", "finite_difference", "roberta", marks=pytest.mark.slow),
    ],
)
def test_a_torch_compiled_task_pass(tmp_path: Path, backend: str, mode: str, kind: str) -> None:
    settings: dict[str, Any] = {"alignment_gradient": mode, "max_steps": 1}
    settings["model"] = partial(family, kind)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    compiled = trainer(tmp_path, torch_compile=True, torch_compile_backend=backend, **settings)
    compiled.train()
    plain = trainer(tmp_path, **settings)
    plain.train()
    assert torch._dynamo.utils.counters["frames"]["ok"] > 0
    assert farthest(weights(compiled.model), weights(plain.model)) < 1e-4
    assert farthest(weights(plain.model), weights(family(kind))) > 1e-3


def test_predicting_needs_no_labels(tmp_path: Path) -> None:
    subject = trainer(tmp_path)
    output = subject.predict(raw_rows().remove_columns("label"))
    assert isinstance(output.predictions, np.ndarray)
    assert output.predictions.shape == (16, 3)
    assert "test_loss_align" in (subject.predict(raw_rows()).metrics or {})


def test_several_evaluation_sets(tmp_path: Path) -> None:
    metrics = trainer(tmp_path, evaluated={"a": raw_rows(4), "b": raw_rows(6, seed=2)}).evaluate()
    assert metrics["eval_a_loss_align"] != metrics["eval_b_loss_align"]


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


def aligned(subject: CAPTrainer) -> Tensor:
    """The alignment loss of the whole training set."""
    inputs, priors = take_priors(subject.data_collator(list(subject.train_dataset)))
    assert priors is not None
    return subject.align(subject.model.train(), inputs, priors)[0]


def passes_at(subject: CAPTrainer, step: int) -> tuple[Any, ...]:
    """Points and settings of the gradient function on a step of training or evaluation."""
    seen: list[Any] = []

    def spy(*arguments: Any, **options: Any) -> Any:
        seen.append((arguments[2], options))
        return double_backward(*arguments)

    subject.state.global_step = step
    subject.gradient = lambda model: spy  # type: ignore[method-assign]
    aligned(subject)
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
    mode = "finite_difference"
    subject = trainer(tmp_path, finite_difference_step=1e-2, alignment_gradient=mode)
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


def test_texts_of_like_length_share_a_batch_where_that_is_asked_for(tmp_path: Path) -> None:
    def size(strategy: str) -> tuple[int, int]:
        settings: Any = {"train_sampling_strategy": strategy, "per_device_train_batch_size": 4}
        found = list(trainer(tmp_path, rows=raw_rows(64), **settings).get_train_dataloader())
        read = sum(int(one["attention_mask"].sum()) for one in found)
        return read, sum(one["input_ids"].numel() for one in found) - read

    (read, padding), (as_much, less) = map(size, ("random", "group_by_length"))
    assert read == as_much
    assert less < padding / 2


def test_random_points_and_the_carrying_ones_are_drawn_anew_on_each_step(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"attribution_method": "expected_gradients", "attribution_steps": 3}
    subject = trainer(tmp_path, attribution_backward_steps=1, **settings)
    made = [passes_at(subject, step) for step in range(12)]
    assert {tuple(options["chosen"]) for _, options in made} == {(0,), (1,), (2,)}
    assert len({float(points[0][0, 0]) for points, _ in made}) == 12
    assert torch.equal(passes_at(subject, 3)[0][0], made[3][0][0])
    other = trainer(tmp_path, seed=1, **settings)
    assert not torch.equal(passes_at(other, 3)[0][0], made[3][0][0])
    subject = trainer(tmp_path, **settings)  # evaluation is always at the same points
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


def test_only_what_differs_from_the_defaults_is_told(tmp_path: Path) -> None:
    plain = changed_settings(CAPConfig(str(tmp_path)))
    changed = changed_settings(CAPConfig(str(tmp_path), learning_rate=1e-3, seed=7))
    assert {name: changed[name] for name in changed.keys() - plain.keys()} == {
        "learning_rate": 1e-3,
        "seed": 7,
    }


def test_an_adapter_answers_by_its_card_as_it_was_trained(tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    labels = ["renew", 'say "no"', "\U0001f4da"]
    base = str(tmp_path / "base")
    roberta_classifier().save_pretrained(base)

    def model() -> Any:
        plain = roberta_classifier()
        plain.config.id2label = dict(enumerate(labels))
        plain.name_or_path = base
        adapters = LoraConfig(task_type="SEQ_CLS", r=2, init_lora_weights=False)
        return get_peft_model(plain, adapters)

    made = trainer(tmp_path / "run", model=model)
    made.save_model()
    word_tokenizer().save_pretrained(tmp_path / "run")
    made.create_model_card(model_name=str(tmp_path / "run"))
    card = (tmp_path / "run" / "README.md").read_text(encoding="utf-8")
    assert "library_name: peft" in card
    assert "PEFT adapter" in card
    plain, explained = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    names: dict[str, Any] = {}
    exec(plain + explained, names)  # the card's own code
    inputs = word_tokenizer()(["renew my card"], return_tensors="pt")
    with torch.no_grad():
        expected = made.model.eval()(**inputs).logits.softmax(-1)[0]
    (found,) = names["classify"]("renew my card")
    assert found["label"] == labels[int(expected.argmax())]
    assert found["score"] == pytest.approx(expected.max().item(), abs=1e-6)
    assert names["explain"]("renew my card")["label"] == found["label"]
    trainer(tmp_path / "whole").create_model_card()
    card = (tmp_path / "whole" / "README.md").read_text(encoding="utf-8")
    assert "library_name: peft" not in card
    assert "Plain `transformers` is enough" in card


def test_a_trainer_publishes_no_secret(tmp_path: Path) -> None:
    made = trainer(tmp_path / "run")
    made.model.config.id2label = {0: "hf_" + "A1" * 17, 1: "b", 2: "c"}
    made.save_model()
    with pytest.raises(ConfigError, match=r"config\.json holds .*\(Hugging Face Token\)"):
        made.create_model_card()
