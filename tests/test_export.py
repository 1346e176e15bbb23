"""A classifier as ONNX: the logits of torch, by onnxruntime alone."""

import json
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
from transformers import AutoTokenizer, PreTrainedModel

from hf_cap.classifiers import new_classifier
from hf_cap.cli import main
from hf_cap.errors import ConfigError, MissingExtra
from hf_cap.export import export_onnx
from tests.test_sentence_encoder import LABELS, sentence_encoder
from tests.tiny import roberta_classifier, word_tokenizer

BATCHES = (["my card"], ["card"] * 3, ["my card is lost please help", "a", "renew the old book"])


def named_classifier() -> PreTrainedModel:
    return roberta_classifier(layers=1, id2label=dict(enumerate(LABELS)))


# the exporter itself takes seconds
@pytest.mark.parametrize("pooling", ["mean", "lasttoken", None])
def test_onnxruntime_gives_the_logits_of_torch(tmp_path: Path, pooling: str | None) -> None:
    model: Any = named_classifier()
    if pooling:
        model = new_classifier(str(sentence_encoder(tmp_path / "encoder", pooling)), LABELS).model
    model.eval().save_pretrained(tmp_path / "model")
    word_tokenizer().save_pretrained(tmp_path / "model")
    out = tmp_path / "onnx"
    assert main(["export", "--model", str(tmp_path / "model"), "--output_dir", str(out)]) == 0
    session = onnxruntime.InferenceSession(out / "model.onnx", providers=["CPUExecutionProvider"])
    tokenizer = AutoTokenizer.from_pretrained(out)
    names = [item.name for item in session.get_inputs()]
    assert names == ["input_ids", "attention_mask"]
    assert [item.name for item in session.get_outputs()] == ["logits"]
    for texts in BATCHES:
        batch = tokenizer(texts, padding=True, return_tensors="pt")
        (found,) = session.run(None, {name: batch[name].numpy() for name in names})
        with torch.no_grad():
            expected = model(**{name: batch[name] for name in names}).logits
        assert found.shape == (len(texts), 3)
        torch.testing.assert_close(torch.tensor(found), expected, rtol=0, atol=1e-4)
    stored = json.loads((out / "config.json").read_text())
    assert stored["id2label"] == {str(index): label for index, label in enumerate(LABELS)}
    assert {file.suffix for file in out.iterdir()} == {".json", ".onnx"}


def test_the_folder_of_another_model_is_left_alone(tmp_path: Path) -> None:
    named_classifier().save_pretrained(tmp_path)
    before = (tmp_path / "config.json").read_bytes()
    with pytest.raises(ConfigError, match="holds a model"):
        export_onnx(roberta_classifier(layers=1), word_tokenizer(), tmp_path)
    assert (tmp_path / "config.json").read_bytes() == before


def test_eight_bits_are_smaller_and_nearly_the_same(tmp_path: Path) -> None:
    model: Any = roberta_classifier(layers=1, vocabulary=4096, hidden_size=64)
    small = export_onnx(model, word_tokenizer(), tmp_path / "small", int8=True)
    assert small.stat().st_size < 0.5 * 4 * model.num_parameters()
    session = onnxruntime.InferenceSession(small, providers=["CPUExecutionProvider"])
    batch = word_tokenizer()(BATCHES[2], padding=True, return_tensors="pt")
    (found,) = session.run(
        None, {name: batch[name].numpy() for name in ("input_ids", "attention_mask")}
    )
    with torch.no_grad():
        expected = model(batch["input_ids"], batch["attention_mask"]).logits
    error = (torch.tensor(found) - expected).abs().max()
    assert 1e-5 < error < 0.5 * expected.std()


def test_without_the_extra_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnxscript", None)
    with pytest.raises(MissingExtra, match=r"hf-cap\[onnx\]"):
        export_onnx(named_classifier(), word_tokenizer(), tmp_path / "onnx")
    assert not (tmp_path / "onnx").exists()


@pytest.mark.parametrize("kind", ["onnx", "delta", "whole"])
def test_what_cannot_be_written_is_an_error_before_a_model_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    def load(*arguments: object) -> None:
        raise AssertionError

    for place in ("classifiers.load_model", "export._weights", "export._hash"):
        monkeypatch.setattr(f"hf_cap.{place}", load)
    named_classifier().save_pretrained(tmp_path / "taken")
    (tmp_path / "model").mkdir()
    (tmp_path / "model/delta.safetensors").touch()
    words = ["--model", str(tmp_path / "model"), "--base", "base", "--format", kind]
    assert main(["export", *words, "--output_dir", str(tmp_path / "taken")]) == 2
    assert "holds a model" in capsys.readouterr().err
