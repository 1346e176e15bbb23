"""Calibration through the public face, on classifiers whose right temperature is known."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset
from scipy.special import softmax
from transformers import AutoConfig, AutoModel
from transformers import pipeline as typed_pipeline

from hf_cap import CAPConfig, CAPTrainer, evaluate_classifier
from hf_cap.classifiers import TextClassifier, load_model, load_tokenizer, new_classifier
from hf_cap.data import save_splits
from hf_cap.errors import ConfigError, DataError, ModelError
from hf_cap.evaluation import EvaluationSettings, calibrate, calibration
from hf_cap.labels import ClassifierOptions
from hf_cap.pipelines import TASK, register_pipeline
from hf_cap.sentence_encoder import CONFIG_ENTRY, SentenceEncoderClassifier, label_config
from tests.launching import refused, run
from tests.tiny import WORDS, roberta_classifier, save, word_tokenizer

LABELS = ["card", "loan", "fine"]
TEXTS = [f"{first} {second}" for first in WORDS[:20] for second in WORDS[20:30]]
QUICK = EvaluationSettings(faithfulness=False)
pipeline: Any = typed_pipeline  # its types know no task but those of transformers


def sequence() -> Any:
    return roberta_classifier(**label_config(LABELS))


def sentence() -> Any:
    encoder: Any = AutoModel.from_config(config := roberta_classifier().config)
    config.update({CONFIG_ENTRY: {"pooling": "mean"}, **label_config(LABELS)})
    return SentenceEncoderClassifier(config, encoder).train(False)


def multiply(model: Any, factor: float) -> None:
    """Multiply the logits."""
    last = model.head if hasattr(model, "head") else model.classifier.out_proj
    with torch.no_grad():
        last.weight.mul_(factor)
        last.bias.mul_(factor)


@pytest.fixture(params=[sequence, sentence], ids=lambda make: make.__name__)
def model(request: pytest.FixtureRequest) -> Any:
    """A classifier with logits of a spread of 1.5."""
    made = request.param()
    spread = TextClassifier(made, word_tokenizer()).logits(TEXTS).std().item()
    multiply(made, 1.5 / spread)
    return made


def calibrated_data(model: Any, copies: int = 40) -> Dataset:
    """Copies of each text, labelled in the proportions that the model predicts."""
    chances = TextClassifier(model, word_tokenizer()).logits(TEXTS).double().softmax(-1).numpy()
    places = (np.arange(copies) + 0.5) / copies
    labels = [np.searchsorted(np.cumsum(row)[:-1], places) for row in chances]
    data = {"text": np.repeat(TEXTS, copies).tolist(), "label": np.concatenate(labels).tolist()}
    return Dataset.from_dict(data).cast_column("label", ClassLabel(names=LABELS))


def test_the_temperature_travels_with_the_model_to_evaluation_and_pipeline(
    model: Any, tmp_path: Path
) -> None:
    data = calibrated_data(model)
    right = TextClassifier(model, word_tokenizer()).logits(TEXTS).double().softmax(-1).numpy()
    honest = evaluate_classifier(model, word_tokenizer(), data, QUICK)
    multiply(model, 3.0)
    folder = save(model, tmp_path / "model")
    too_sure = evaluate_classifier(folder, None, data, QUICK)
    assert too_sure.ece > 0.1 > 0.02 > honest.ece
    assert too_sure.nll > honest.nll
    assert (too_sure.temperature, too_sure.set_size) == (1.0, None)

    found: Any = calibrate(folder, None, data, coverage=0.8)
    assert found.temperature == pytest.approx(3.0, rel=0.03)
    assert (found.coverage, found.texts) == (0.8, len(data))
    assert json.loads((tmp_path / "model" / "config.json").read_text())["calibration"] == vars(found)

    after = evaluate_classifier(folder, None, data, QUICK)
    assert after.temperature == found.temperature
    assert after.nll == pytest.approx(honest.nll, abs=1e-3)
    assert after.brier == pytest.approx(honest.brier, abs=1e-3)
    assert after.ece < 0.02
    assert after.set_coverage == pytest.approx(0.8, abs=0.02)
    assert (after.accuracy, after.accuracy_at_50 > after.accuracy) == (honest.accuracy, True)

    register_pipeline()
    rows = pipeline(TASK, model=folder)(TEXTS[:20], steps=1)
    for row, expected in zip(rows, right, strict=False):
        assert row["score"] == pytest.approx(expected.max(), abs=0.01)
        assert (row["labels"][0], row["coverage"]) == (row["label"], 0.8)
        sizes = {(expected >= found.threshold + move).sum() for move in (-0.01, 0.01)}
        assert len(row["labels"]) in {max(1, size) for size in sizes}
    again = calibrate(folder, None, data, coverage=0.8)  # fits the logits, not calibrated ones
    assert again == found


def test_a_loaded_model_carries_its_calibration_until_it_is_trained_again(model: Any, tmp_path: Path) -> None:
    data, tokenizer = calibrated_data(model, 5), word_tokenizer()
    found = calibrate(model, tokenizer, data)
    folder = save(model, tmp_path / "model")
    assert AutoConfig.from_pretrained(folder).calibration == vars(found)
    head: Any = "sentence" if hasattr(model, "head") else "sequence"
    options = ClassifierOptions(head=head, label_names_in="none")
    assert not hasattr(new_classifier(folder, LABELS, options).model.config, "calibration")
    config: Any = {"output_dir": str(tmp_path / "out"), "max_steps": 1, "report_to": "none"}
    config |= {"dataloader_pin_memory": False}
    copy, arguments = load_model(folder), CAPConfig(**config, alignment_weight=0.0)
    trainer = CAPTrainer(
        model=copy, args=arguments, train_dataset=data.select(range(8)), processing_class=tokenizer
    )
    trainer.evaluate(data.select(range(8)))
    assert copy.config.calibration == vars(found)
    trainer.train()
    assert not hasattr(copy.config, "calibration")


def test_faithfulness_does_not_depend_on_the_calibration(model: Any) -> None:
    data = calibrated_data(model, 1)
    before = evaluate_classifier(model, word_tokenizer(), data)
    model.config.update({"calibration": {"temperature": 5.0}})
    after = evaluate_classifier(model, word_tokenizer(), data)
    assert after.nll != before.nll
    for name in ("accuracy", "macro_f1", "comprehensiveness", "sufficiency"):
        assert getattr(after, name) == getattr(before, name)


def test_numbers_are_those_of_the_probabilities(model: Any) -> None:
    data = calibrated_data(model, 3)
    logits = TextClassifier(model, word_tokenizer()).logits(data["text"]).double().numpy()
    gold, chances = np.array(data["label"]), softmax(logits / 2.0, axis=1)
    model.config.update({"calibration": {"temperature": 2.0, "coverage": 0.9, "threshold": 0.35}})
    found = evaluate_classifier(model, word_tokenizer(), data, QUICK)
    of_gold = chances[np.arange(len(gold)), gold]
    assert found.nll == pytest.approx(-np.log(of_gold).mean())
    assert found.brier == pytest.approx(((chances - np.eye(3)[gold]) ** 2).sum(1).mean())
    surest = np.argsort(-chances.max(1))[:540]
    assert found.accuracy_at_90 == pytest.approx((chances.argmax(1) == gold)[surest].mean())
    top = chances.argmax(1)
    assert found.set_coverage == pytest.approx(((of_gold >= 0.35) | (top == gold)).mean())
    assert found.set_size == pytest.approx(np.maximum((chances >= 0.35).sum(1), 1).mean())


def test_right_everywhere_sets_no_temperature(caplog: pytest.LogCaptureFixture) -> None:
    model = sequence()
    logits = TextClassifier(model, word_tokenizer()).logits(TEXTS)
    labels = [LABELS[i] for i in logits.argmax(-1)]
    found = calibrate(model, word_tokenizer(), Dataset.from_dict({"text": TEXTS, "label": labels}))
    assert found.temperature == 1.0
    assert "All 200 texts are predicted right" in caplog.text


def test_mistakes_are_found_before_a_model_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hf_cap.evaluation.calibration.load_classifier", Mock(side_effect=AssertionError))
    data = Dataset.from_dict({"text": ["a"] * 8, "label": ["card"] * 8})
    call: Callable[..., Any] = calibrate
    with pytest.raises(DataError, match=r"coverage of 0\.9 need at least 9 texts, got 8"):
        call(str(tmp_path), None, data)
    for coverage in (0.0, 1.0, float("nan")):
        with pytest.raises(ConfigError, match="`coverage` must be more than 0 and less than 1"):
            call(str(tmp_path), None, data, coverage=coverage)
    for place in (str(tmp_path / "none"), "embedded/minilm-l6"):
        with pytest.raises(ConfigError, match="not a local folder of a model"):
            call(place, None, data, coverage=0.5)


@pytest.mark.parametrize(
    "stored",
    [{"temperature": 0}, {"temperature": "hot"}, {"threshold": 2.0, "coverage": 0.9}, {"threshold": 0.1}],
)
def test_a_damaged_entry_is_an_error_and_that_of_others_is_not_ours(stored: dict[str, Any]) -> None:
    model = sequence()
    model.config.update({"calibration": stored})
    data = Dataset.from_dict({"text": ["a card"], "label": ["card"]})
    with pytest.raises(ModelError, match="is no calibration"):
        evaluate_classifier(model, word_tokenizer(), data, QUICK)
    model.config.update({"calibration": {"bits": 4}})
    assert evaluate_classifier(model, word_tokenizer(), data, QUICK).temperature == 1.0


# --- The command.


def test_the_command_calibrates_and_warns_of_training_texts(
    model: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    data, folder = calibrated_data(model, 5), save(model, tmp_path / "model")
    words = [f"{text} {extra}" for text, extra in zip(data["text"], WORDS * 200, strict=False)]
    other = data.remove_columns("text").add_column("text", words)
    save_splits({"train": data, "valid": other}, tmp_path / "data")
    save_splits({"renamed": data.rename_column("text", "body")}, tmp_path / "copy")
    record = {"data": {"dataset": str(tmp_path / "data"), "train_split": "train"}, "settings": {}}
    (tmp_path / "model" / "run.json").write_text(json.dumps(record))
    before = (tmp_path / "model" / "config.json").read_text()
    base = ("--model", folder, "--dataset", tmp_path / "data")
    run("calibrate", *base, "--coverage", "0.8", "--json")
    assert "trained on" not in caplog.text
    facts = json.loads(capsys.readouterr().out)
    assert (facts["coverage"], facts["texts"]) == (0.8, len(data))
    stored = json.loads((tmp_path / "model" / "config.json").read_text())
    assert stored.pop("calibration") == facts
    assert stored == json.loads(before)
    run("evaluate", *base, "--split", "valid", "--faithfulness", "false")
    shown = capsys.readouterr().out
    for name in ("nll", "brier", "ece", "accuracy_at_90", "temperature", "set_coverage"):
        assert f"{name}: " in shown

    # the same texts, whatever the folder and split are called
    copy = ("--dataset", tmp_path / "copy", "--split", "renamed", "--text_column", "body")
    for place in (("--split", "train"), copy):
        caplog.clear()
        run("calibrate", *base, *place)
        assert "was trained on 1000 of these 1000 texts" in caplog.text
    assert "need at least 9999 texts, got 1000" in refused("calibrate", *base, "--coverage", "0.9999")


def test_a_model_of_a_table_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "hf_cap_tabular"}))
    places = ("--model", tmp_path, "--dataset", "embedded/library-desk")
    assert "is a model of a table" in refused("calibrate", *places)


def test_an_adapter_keeps_its_calibration_in_the_record(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    data, base = calibrated_data(sequence(), 1), save(sequence(), tmp_path / "base")
    calibrate(base, None, data, coverage=0.5)  # that of the base is not that of the adapted model
    save_splits({"train": data}, tmp_path / "data")
    folder = str(tmp_path / "run")
    words = "--alignment_weight 0 --max_steps 1 --lora.rank 2 --report_to none --save_strategy no".split()
    run("train", "--dataset", tmp_path / "data", "--model", base, "--output_dir", folder, *words)
    assert not hasattr(load_model(folder).config, "calibration")
    found = calibrate(folder, None, data, coverage=0.7)
    assert load_model(folder).config.calibration == vars(found)
    assert load_tokenizer(folder)("card")["input_ids"]
    assert sorted(file.name for file in (tmp_path / "run").glob("*config.json")) == [
        "adapter_config.json", "tokenizer_config.json",
    ]  # fmt: skip


# --- Confidence against answers on paper and simulations.


def simulated(count: int, seed: int, labels: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Logits and labels that are drawn from their softmax: perfectly calibrated."""
    rng = np.random.default_rng(seed)
    logits = 2 * rng.normal(size=(count, labels))
    noise = rng.gumbel(size=logits.shape)
    return logits, (logits + noise).argmax(1)


def test_certainty_of_what_is_wrong_has_a_finite_loss() -> None:
    assert calibration.negative_log_likelihood(np.array([[1.0, 0.0]]), np.array([1])) > 700


@pytest.mark.parametrize("order", [1, -1])
def test_nine_tenths_sure_and_half_right_is_four_tenths_off(order: int) -> None:
    probabilities = np.tile([0.9, 0.1], (40, 1))
    labels = np.repeat([0, 1], 20)[::order]  # equal confidences are not sorted by who was right
    assert calibration.calibration_error(probabilities, labels) == pytest.approx(0.4)
    assert calibration.accuracy_at_coverage(probabilities, labels, [0.25]) == {0.25: pytest.approx(0.5)}


@pytest.mark.parametrize("factor", [1.0, 3.0, 0.5])
def test_the_temperature_undoes_a_factor(factor: float) -> None:
    logits, labels = simulated(40_000, seed=1)
    assert calibration.fit_temperature(factor * logits, labels) == pytest.approx(factor, rel=0.02)


def test_label_sets_hold_the_gold_label_as_often_as_promised() -> None:
    logits, labels = simulated(300_000, seed=2)
    probabilities = softmax(logits, axis=1)
    few = 199  # the promise holds for every number of texts, on average over them
    covered = []
    for start in range(0, 200_000, few):
        part = slice(start, start + few)
        threshold = calibration.conformal_threshold(probabilities[part], labels[part], 0.9)
        gold = probabilities[200_000:, :][np.arange(100_000), labels[200_000:]]
        covered.append((gold >= threshold).mean())
    assert np.mean(covered) == pytest.approx(0.9, abs=0.003)  # exactly 180 / 200


def test_label_sets_on_paper() -> None:
    gold = np.array([0.9, 0.7, 0.5, 0.3])
    probabilities = np.c_[gold, 1 - gold]
    labels = np.zeros(4, int)
    assert calibration.conformal_threshold(probabilities, labels, 0.6) == pytest.approx(0.5)  # 3rd of 4
    assert calibration.label_sets(np.array([[0.3, 0.7], [0.55, 0.45], [0.95, 0.05]]), 0.4) == [
        [1],
        [0, 1],
        [0],
    ]
    with pytest.raises(DataError, match="at least 9 texts, got 4"):
        calibration.conformal_threshold(probabilities, labels, 0.9)
    with pytest.raises(ConfigError, match="coverage"):
        calibration.conformal_threshold(probabilities, labels, 1.0)
    with pytest.raises(DataError, match="no texts"):
        calibration.calibration_error(probabilities[:0], labels[:0])
