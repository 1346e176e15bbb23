"""Pruning takes out what does not matter and nothing else, and the smaller folder loads."""

from pathlib import Path
from typing import Any
from unittest.mock import Mock, call

import pytest
import torch
from datasets import ClassLabel, Dataset
from torch import nn
from transformers import AutoModelForSequenceClassification, RobertaForSequenceClassification

from hf_cap.classifiers import load_model, new_classifier
from hf_cap.data import save_splits
from hf_cap.errors import ConfigError, ModelError, PriorError
from hf_cap.progress import progress
from hf_cap.sentence_encoder import KEPT_HEADS, encoder_layers
from hf_cap.training import pruning
from hf_cap.training.options import PruneOptions
from tests.launching import run
from tests.tiny import llama, save, word_tokenizer
from tests.training.cases import LABEL2ID, family, raw_rows, trainer

DEAD_HEADS, DEAD_UNITS = (1, 0), (5, 17)  # per layer; of the heads, one of two


def with_dead_parts(kind: str = "roberta") -> Any:
    """A classifier of which one head and one unit per layer do nothing, in two different ways."""
    model: Any = family(kind)
    model.config.update({"id2label": {i: n for n, i in LABEL2ID.items()}, "label2id": LABEL2ID})
    with torch.no_grad():
        for layer, head, unit in zip(encoder_layers(model), DEAD_HEADS, DEAD_UNITS, strict=True):
            rows = slice(8 * head, 8 * head + 8)
            if head:  # its output is not read
                layer.mixed.weight[:, rows] = 0
            else:  # its values are all 0
                layer.attention.value.weight[rows] = 0
                layer.attention.value.bias[rows] = 0
            layer.down.weight[:, unit] = 0
    return model


def logits(model: Any, *texts: str) -> torch.Tensor:
    batch = word_tokenizer()(list(texts), padding=True, return_tensors="pt")
    batch.pop("token_type_ids", None)
    with torch.no_grad():
        found: torch.Tensor = model.eval()(**batch).logits
    return found


TEXTS = ("my card is lost", "renew", "please cancel the new book loan")


@pytest.mark.parametrize("kind", ["roberta", "sentence"])
@pytest.mark.parametrize("term", ["task", "alignment"])
def test_what_is_dead_goes_and_nothing_else(tmp_path: Path, kind: str, term: Any) -> None:
    model = with_dead_parts(kind)
    before, size = logits(model, *TEXTS), model.num_parameters()
    found = pruning.first_order(trainer(tmp_path, model=lambda: model), term)
    for layer, (head, unit) in enumerate(zip(DEAD_HEADS, DEAD_UNITS, strict=True)):
        assert found.heads[layer].argmin() == head
        assert found.heads[layer, head] == 0 < found.heads[layer, 1 - head]
        assert (found.units[layer] == 0).nonzero().flatten().tolist() == [unit]
    pruning.prune(model, found, heads=0.5, units=1 / 32)
    torch.testing.assert_close(logits(model, *TEXTS), before, rtol=1e-5, atol=1e-5)
    # per layer: of a head 3 · 8 rows of 16 with biases and 8 columns of 16, of a unit 2 · 16 and a bias
    assert size - model.num_parameters() == 2 * (24 * 17 + 8 * 16 + 33)


@pytest.mark.parametrize("kind", ["roberta", "sentence"])
def test_the_smaller_folder_loads_and_trains(tmp_path: Path, kind: str) -> None:
    model, folder = with_dead_parts(kind), tmp_path / "pruned"
    data = raw_rows()
    pruning.prune_classifier(
        model, word_tokenizer(), data, PruneOptions(heads=0.5, units=0.25), general=list(TEXTS)
    )
    save(model, folder)
    loaded: Any = load_model(str(folder))
    assert loaded.config.intermediate_size == 24
    assert getattr(loaded.config, KEPT_HEADS) == 1
    assert encoder_layers(loaded)[0].attention.query.weight.shape == (8, 16)
    torch.testing.assert_close(logits(loaded, *TEXTS), logits(model, *TEXTS))
    for labels in (list(LABEL2ID), ["one", "other"]):  # with the head that it has, and a new one
        again = new_classifier(str(folder), labels).model
        assert logits(again, *TEXTS).shape == (3, len(labels))
    start = loaded.head.weight.clone() if kind == "sentence" else None
    subject = trainer(tmp_path / "run", model=lambda: loaded)
    query = encoder_layers(loaded)[0].attention.query.weight.clone()
    subject.train()
    assert not torch.equal(query, encoder_layers(subject.model)[0].attention.query.weight)
    assert start is None or not torch.equal(start, subject.model.head.weight)


def test_general_texts_add_their_importance_by_the_models_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[Any] = []
    monkeypatch.setattr(pruning, "prune", lambda model, total, **parts: found.append(total))
    model, options = with_dead_parts("roberta"), PruneOptions(heads=0.5, units=0.25)
    answers = logits(model, *TEXTS).argmax(-1).tolist()
    rest = Dataset.from_dict({"text": list(TEXTS), "label": answers})
    for data, general in ((raw_rows(), ()), (rest, ()), (raw_rows(), list(TEXTS))):
        pruning.prune_classifier(model, word_tokenizer(), data, options, general=general)
    task, own, both = found
    torch.testing.assert_close(both.heads, task.heads + own.heads)
    torch.testing.assert_close(both.units, task.units + own.units)
    assert float(own.heads.max()) > 0


def test_without_heads_any_library_loads_it_and_with_them_it_raises(tmp_path: Path) -> None:
    model = with_dead_parts()
    pruning.prune(model, pruning.magnitude(model), units=0.5)
    model.save_pretrained(tmp_path / "units")
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "units")
    assert type(plain) is RobertaForSequenceClassification
    torch.testing.assert_close(logits(plain, *TEXTS), logits(model, *TEXTS))
    pruning.prune(model, pruning.magnitude(model), heads=0.5)
    model.save_pretrained(tmp_path / "heads")
    with pytest.raises(RuntimeError, match="mismatch"):
        AutoModelForSequenceClassification.from_pretrained(tmp_path / "heads")


def test_importance_is_the_change_of_the_loss_without_the_unit(tmp_path: Path) -> None:
    """On a linear path |w · g| of a unit's column is what the loss loses with it, to first order."""
    model = with_dead_parts()
    subject = trainer(tmp_path, model=lambda: model)
    found = pruning.first_order(subject, "task", batches=1)
    one = pruning.magnitude(model)
    down = encoder_layers(model)[1].down.weight
    up = encoder_layers(model)[1].up
    expected = down.abs().sum(0) + up.weight.abs().sum(1) + up.bias.abs()
    ratio = one.units[1] / expected.detach()
    torch.testing.assert_close(ratio, ratio[:1].expand(32))
    assert one.units[1, DEAD_UNITS[1]] > 0 == found.units[1, DEAD_UNITS[1]]
    both = found + 0.5 * one
    torch.testing.assert_close(both.units, found.units + 0.5 * one.units)
    assert found.units.mean().item() == pytest.approx(1)


def test_loraprune_estimates_what_a_step_takes_off_the_weight() -> None:
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 3))
    wrapped = peft.get_peft_model(
        net, peft.LoraConfig(r=2, lora_alpha=6, target_modules=["0"], init_lora_weights=False)
    )
    layer = wrapped.base_model.model[0]
    layer(torch.randn(5, 4)).square().sum().backward()
    weight, slope = pruning.weight_and_gradient(layer)
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    with torch.no_grad():
        a -= a.grad
        b -= b.grad
        after = layer.get_base_layer().weight + 3 * b @ a
    torch.testing.assert_close(weight - slope, after)
    assert slope.abs().min() > 0


def test_what_cannot_be_pruned_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="BERT family"):
        pruning.magnitude(llama())
    for bad in ({"heads": 1.0}, {"units": -0.1}, {"batches": 0}, {"score": "luck"}):
        with pytest.raises(ConfigError, match=next(iter(bad))):
            PruneOptions(**bad)
    model = with_dead_parts()
    bare = raw_rows().remove_columns("prior")
    with pytest.raises(PriorError, match="alignment"):
        pruning.first_order(
            trainer(tmp_path, model=lambda: model, rows=bare, alignment_weight=0), "alignment"
        )
    for parameter in model.base_model.parameters():
        parameter.requires_grad_(False)
    with pytest.raises(ConfigError, match="No weight"):
        pruning.first_order(trainer(tmp_path, model=lambda: model, alignment_weight=0))


def test_the_command_writes_a_model_that_is_smaller(tmp_path: Path) -> None:
    model = with_dead_parts()
    save(model, tmp_path / "model")
    data = raw_rows().cast_column("label", ClassLabel(names=list(LABEL2ID)))
    save_splits({"train": data}, tmp_path / "data")
    places = ("--model", tmp_path / "model", "--dataset", tmp_path / "data", "--output_dir", tmp_path / "out")
    run("prune", *places, "--alignment", 1, "--heads", 0.5)
    smaller: Any = load_model(str(tmp_path / "out"))
    for layer, head in zip(encoder_layers(smaller), DEAD_HEADS, strict=True):
        alive = slice(8 - 8 * head, 16 - 8 * head)
        at = encoder_layers(smaller).index(layer)
        kept = encoder_layers(model)[at].attention.query.weight[alive]
        assert torch.equal(layer.attention.query.weight, kept)
    assert smaller.config.intermediate_size == 16


def test_the_importance_has_a_progress_bar_of_its_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = Mock(side_effect=progress)
    monkeypatch.setattr("hf_cap.training.pruning.progress", shown)
    pruning.prune_classifier(
        with_dead_parts(), word_tokenizer(), raw_rows(), PruneOptions(batches=1, alignment=1.0)
    )
    expected = [call(1, "batches", f"Importance for the {term}") for term in ("task", "alignment")]
    assert shown.call_args_list == expected
