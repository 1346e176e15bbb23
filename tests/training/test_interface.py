"""`CAPTrainer` by its arguments: named models, adapters, losses, metrics, searches, changed settings."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset
from peft import LoraConfig, PeftModel
from sklearn.metrics import accuracy_score, f1_score
from torch import Tensor
from transformers import DataCollatorWithPadding, EvalPrediction, PreTrainedModel, hyperparameter_search
from transformers.trainer_utils import HPSearchBackend

from hf_cap.errors import ConfigError, DataError, MissingExtra, ModelError, PriorError
from hf_cap.schema import AttributionSettings
from hf_cap.training.collator import encode_dataset
from hf_cap.training.config import accuracy_and_macro_f1
from hf_cap.training.trainer import CAPTrainer
from tests.test_sentence_encoder import sentence_encoder
from tests.tiny import roberta_classifier, save, word_tokenizer
from tests.training.cases import LABEL2ID, absolute, config, farthest, moved, raw_rows, trainer, weights

NAMES = ["renew", "lost", "fine"]


def named_rows() -> Dataset:
    return raw_rows().cast_column("label", ClassLabel(names=NAMES))


@pytest.fixture
def saved(tmp_path: Path) -> str:
    """A model of two labels and its tokenizer."""
    save(roberta_classifier(2), tmp_path / "model")
    return str(tmp_path / "model")


# --- the model


def test_a_model_by_name_gets_tokenizer_and_head_for_the_labels(tmp_path: Path, saved: str) -> None:
    subject = CAPTrainer(saved, config(tmp_path), train_dataset=named_rows())
    assert subject.model.config.label2id == {"renew": 0, "lost": 1, "fine": 2}
    assert subject.model.classifier.out_proj.weight.shape[0] == 3
    subject.train()
    assert subject.processing_class is not None
    assert subject.evaluate(named_rows())["eval_loss_align"] > 0


def test_a_name_needs_the_labels(tmp_path: Path, saved: str) -> None:
    with pytest.raises(DataError, match=r"labels of `train_dataset`, got NoneType"):
        CAPTrainer(saved, config(tmp_path))
    with pytest.raises(DataError, match="must be a ClassLabel"):
        CAPTrainer(saved, config(tmp_path), train_dataset=raw_rows())
    with pytest.raises(ModelError, match="no model folder"):
        CAPTrainer(str(tmp_path / "none"), config(tmp_path), train_dataset=named_rows())


@pytest.mark.compatibility("PEFT LoRA with modules_to_save")
@pytest.mark.parametrize(
    ("kind", "mode"),
    [("sequence", "double_backward"), ("sequence", "finite_difference"), ("sentence", "double_backward")],
)
def test_adapters_of_a_peft_config_train_with_the_new_head(
    tmp_path: Path, saved: str, kind: str, mode: str
) -> None:
    saved = saved if kind == "sequence" else str(sentence_encoder(tmp_path / "encoder"))
    adapters = LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["query", "value"])
    args = config(tmp_path, alignment_gradient=mode)
    subject = CAPTrainer(saved, args, train_dataset=named_rows(), peft_config=adapters)
    assert isinstance(subject.model, PeftModel)
    before = weights(subject.model)
    subject.train()
    changed = {n for n, value in weights(subject.model).items() if not torch.equal(value, before[n])}
    assert sum("lora_B" in name for name in changed) == 4
    assert any("modules_to_save" in name for name in changed)
    assert all("lora" in name or "modules_to_save" in name for name in changed)
    assert adapters.modules_to_save is None  # the caller's own is left as it was


def test_adapters_without_peft_name_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    with pytest.raises(MissingExtra, match=r"hf-cap\[peft\]"):
        CAPTrainer(roberta_classifier(), config(tmp_path), peft_config=object())


# --- the data


def test_raw_texts_without_a_tokenizer_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"training set holds texts.*`processing_class`"):
        CAPTrainer(roberta_classifier(), config(tmp_path), train_dataset=raw_rows())
    encoded = encode_dataset(raw_rows(), word_tokenizer(), LABEL2ID)
    with pytest.raises(DataError, match=r"evaluation set holds texts.*processing_class=None"):
        CAPTrainer(roberta_classifier(), config(tmp_path), train_dataset=encoded, eval_dataset=raw_rows())


def test_at_weight_zero_a_collator_may_tokenise(tmp_path: Path) -> None:
    tokenizer = word_tokenizer()

    def collate(rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        batch = tokenizer([row["text"] for row in rows], padding=True, return_tensors="pt")
        return {**batch, "labels": torch.tensor([row["label"] for row in rows])}

    args = config(tmp_path, alignment_weight=0.0, remove_unused_columns=False)
    subject = CAPTrainer(roberta_classifier(), args, collate, train_dataset=raw_rows())
    subject.train()
    assert subject.state.global_step == 4


def test_at_weight_zero_the_priors_do_not_reach_the_collator(tmp_path: Path) -> None:
    encoded = encode_dataset(raw_rows(), word_tokenizer(), LABEL2ID)
    args = config(tmp_path, alignment_weight=0.0)
    padding = DataCollatorWithPadding(word_tokenizer())  # which cannot pad lists of other lengths
    CAPTrainer(roberta_classifier(), args, padding, train_dataset=encoded).train()


def test_a_single_prior_column_is_the_prior(tmp_path: Path) -> None:
    rows = raw_rows().rename_column("prior", "prior_cap")
    subject = trainer(tmp_path, rows=rows)
    assert subject.train_dataset["prior"][:] == trainer(tmp_path).train_dataset["prior"][:]
    assert "eval_loss_align" in subject.evaluate()
    two = rows.add_column("prior_lime", rows["prior_cap"][:])
    for wanted, message in (
        (None, r"\['prior_cap', 'prior_lime'\]\. Fuse them"),
        ("prior_shap", "no prior column 'prior_shap'; found"),
    ):
        with pytest.raises(PriorError, match=message):
            trainer(tmp_path, rows=two, prior_column=wanted)
    trainer(tmp_path, rows=two, prior_column="prior_lime")
    trainer(tmp_path, rows=two, alignment_weight=0.0)


# --- the loss


def test_a_loss_of_ones_own_by_function_and_by_place(tmp_path: Path) -> None:
    place = "tests.training.cases:absolute"
    by_function = moved(trainer(tmp_path, alignment_loss_func=absolute))
    assert torch.equal(by_function, moved(trainer(tmp_path, alignment_loss=place)))
    assert float((by_function - moved(trainer(tmp_path))).abs().max()) > 1e-3
    with pytest.raises(ConfigError, match=r"one value per example, shape \(4,\); got \(\)"):
        trainer(tmp_path, alignment_loss_func=lambda a, p, mask: a.sum()).train()


# --- metrics


def test_evaluation_gives_accuracy_and_macro_f1(tmp_path: Path) -> None:
    subject = trainer(tmp_path)
    metrics = subject.evaluate()
    output = subject.predict(raw_rows())
    predicted = np.asarray(output.predictions).argmax(-1)
    assert metrics["eval_accuracy"] == pytest.approx(accuracy_score(output.label_ids, predicted))
    f1 = f1_score(output.label_ids, predicted, average="macro")
    assert metrics["eval_macro_f1"] == pytest.approx(f1)


@pytest.mark.parametrize("hidden_states", [False, True])
def test_macro_f1_is_that_of_scikit_learn(hidden_states: bool) -> None:
    generator = np.random.default_rng(0)
    gold, logits = generator.integers(0, 4, 50), generator.normal(size=(50, 6))
    logits[:, 5] = -9  # a class that is neither gold nor predicted
    given: Any = (logits, np.zeros((50, 7, 3))) if hidden_states else logits
    found = accuracy_and_macro_f1(EvalPrediction(given, gold))
    assert found["macro_f1"] == pytest.approx(f1_score(gold, logits.argmax(-1), average="macro"))


def test_metrics_of_ones_own_take_the_place_of_the_default(tmp_path: Path) -> None:
    metrics = trainer(tmp_path, compute_metrics=lambda prediction: {"mine": 1.0}).evaluate()
    assert metrics["eval_mine"] == 1.0
    assert "eval_accuracy" not in metrics


def test_the_best_model_is_that_of_the_lowest_part(tmp_path: Path) -> None:
    assert config(tmp_path, metric_for_best_model="eval_loss_task").greater_is_better is False
    assert config(tmp_path, metric_for_best_model="align_cosine").greater_is_better is True
    chosen = config(tmp_path, metric_for_best_model="loss_task", greater_is_better=True)
    assert chosen.greater_is_better is True
    subject = trainer(
        tmp_path, metric_for_best_model="loss_align", load_best_model_at_end=True,
        eval_strategy="steps", eval_steps=1, save_strategy="steps", save_steps=1, max_steps=4,
    )  # fmt: skip
    subject.train()
    seen = [row["eval_loss_align"] for row in subject.state.log_history if "eval_loss_align" in row]
    assert subject.state.best_metric == min(seen)
    assert min(seen) < max(seen)


# --- settings that change after construction


@pytest.mark.parametrize(("start", "end"), [(0.0, 3.0), (1.0, 3.0), (1.0, 0.0)])
def test_a_weight_that_is_changed_takes_effect(tmp_path: Path, start: float, end: float) -> None:
    subject = trainer(tmp_path, alignment_weight=start)
    subject.args.alignment_weight = end
    assert torch.equal(moved(subject), moved(trainer(tmp_path, alignment_weight=end)))
    assert AttributionSettings.read(subject.model.config).rule == "midpoint"
    assert ("eval_loss_align" in subject.evaluate()) is (end > 0)


def test_what_was_no_matter_at_weight_zero_is_checked_once_it_matters(tmp_path: Path) -> None:
    kwargs: dict[str, Any] = {"activation_checkpointing_kwargs": {"use_reentrant": True}}
    subject = trainer(tmp_path, alignment_weight=0.0, **kwargs)
    subject.args.alignment_weight = 0.5
    with pytest.raises(ConfigError, match="use_reentrant"):
        subject.train()


# --- hyperparameter search


class Search:
    """In the place of optuna, as `run_hp_search_optuna` goes about it: the model is gone after a trial."""

    trials: ClassVar[list[dict[str, Any]]] = []
    objectives: ClassVar[list[float]] = []
    models: ClassVar[list[PreTrainedModel]] = []

    def ensure_available(self) -> None: ...

    def default_hp_space(self, trial: Any) -> dict[str, Any]:
        return dict(trial.params)

    def run(self, subject: Any, n_trials: int, direction: str, **_: Any) -> None:
        for params in self.trials[:n_trials]:
            subject.train(trial=SimpleNamespace(params=params, number=0))
            self.objectives.append(subject.compute_objective(subject.evaluate()))
            self.models.append(subject.model)
            subject.model_wrapped = subject.model = None


@pytest.fixture
def search(monkeypatch: pytest.MonkeyPatch) -> Callable[..., type[Search]]:
    backends = hyperparameter_search.ALL_HYPERPARAMETER_SEARCH_BACKENDS
    monkeypatch.setitem(backends, HPSearchBackend.OPTUNA, Search)
    integration = "transformers.integrations.integration_utils.hp_params"
    monkeypatch.setattr(integration, lambda trial: trial.params)
    monkeypatch.setattr("transformers.integrations.hp_params", lambda trial: trial.params)

    def run(subject: CAPTrainer, trials: list[dict[str, Any]], **options: Any) -> type[Search]:
        Search.trials, Search.objectives, Search.models = trials, [], []
        subject.hyperparameter_search(n_trials=len(trials), backend="optuna", **options)
        return Search

    return run


def searching(folder: Path, **settings: Any) -> CAPTrainer:
    return CAPTrainer(
        args=config(folder, **settings), train_dataset=raw_rows(), eval_dataset=raw_rows(),
        processing_class=word_tokenizer(), model_init=lambda: roberta_classifier(),
    )  # fmt: skip


@pytest.mark.parametrize("start", [0, 0.5])
def test_each_trial_trains_with_its_own_weight(
    tmp_path: Path, search: Callable[..., type[Search]], start: float
) -> None:
    trials = [{"alignment_weight": weight} for weight in (0.3, 2.0)]
    found = search(searching(tmp_path, alignment_weight=start), trials)
    for params, model in zip(trials, found.models, strict=True):
        expected = searching(tmp_path, **params)
        expected.train()
        assert farthest(weights(model), weights(expected.model)) == 0
        assert "method" in model.config.hf_cap
    plain = searching(tmp_path, alignment_weight=0.0)
    plain.train()
    assert farthest(weights(found.models[0]), weights(plain.model)) > 1e-3


def test_each_trial_has_its_own_gradient_mode_and_the_objective_is_the_task_loss(
    tmp_path: Path, search: Callable[..., type[Search]], monkeypatch: pytest.MonkeyPatch
) -> None:
    subject, evaluate = searching(tmp_path), CAPTrainer.evaluate
    seen: list[tuple[str | None, dict[str, float]]] = []

    def remember(self: CAPTrainer, *args: Any, **kwargs: Any) -> dict[str, float]:
        seen.append((self.gradient_mode, evaluate(self, *args, **kwargs)))
        return dict(seen[-1][1])

    monkeypatch.setattr(CAPTrainer, "evaluate", remember)
    trials = [
        {"alignment_gradient": "finite_difference", "attribution_target": "contrast"},
        {"alignment_gradient": "double_backward", "attribution_target": "gold"},
        {"alignment_weight": 0.0},
    ]
    found = search(subject, trials)
    assert [mode for mode, _ in seen[:2]] == ["finite_difference", "double_backward"]
    targets = [AttributionSettings.read(model.config).target for model in found.models[:2]]
    assert targets == ["contrast", "gold"]
    parts = ("eval_loss_task", "eval_loss_task", "eval_loss")  # at weight 0 there are no parts
    found_losses = [metrics[name] for (_, metrics), name in zip(seen, parts, strict=True)]
    assert found.objectives == found_losses
    assert seen[0][1]["eval_loss"] > found.objectives[0]


def test_a_search_over_a_model_that_cannot_be_aligned_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="num_labels=1"):
        CAPTrainer(args=config(tmp_path), model_init=lambda: roberta_classifier(1))
