"""A classifier as ONNX: the logits of torch, by onnxruntime alone."""

import json
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import onnxruntime
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer, PreTrainedModel

from hf_cap import export
from hf_cap.classifiers import new_classifier
from hf_cap.errors import ConfigError, MissingExtra, ModelError
from tests.launching import refused, run
from tests.test_sentence_encoder import LABELS, sentence_encoder
from tests.tiny import roberta_classifier, save, word_tokenizer

BATCHES = (["my card"], ["card"] * 3, ["my card is lost please help", "a", "renew the old book"])


def named_classifier() -> PreTrainedModel:
    return roberta_classifier(layers=1, id2label=dict(enumerate(LABELS)))


# the exporter itself takes seconds
@pytest.mark.parametrize("pooling", ["mean", "lasttoken", None])
def test_onnxruntime_gives_the_logits_of_torch(tmp_path: Path, pooling: str | None) -> None:
    model: Any = named_classifier()
    if pooling:
        model = new_classifier(str(sentence_encoder(tmp_path / "encoder", pooling)), LABELS).model
    save(model.eval(), tmp_path / "model")
    out = tmp_path / "onnx"
    run("export", "--model", tmp_path / "model", "--output_dir", out)
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
        export.export_onnx(roberta_classifier(layers=1), word_tokenizer(), tmp_path)
    assert (tmp_path / "config.json").read_bytes() == before


def test_eight_bits_are_smaller_and_nearly_the_same(tmp_path: Path) -> None:
    model: Any = roberta_classifier(layers=1, vocabulary=4096, hidden_size=64)
    small = export.export_onnx(model, word_tokenizer(), tmp_path / "small", int8=True)
    assert small.stat().st_size < 0.5 * 4 * model.num_parameters()
    session = onnxruntime.InferenceSession(small, providers=["CPUExecutionProvider"])
    batch = word_tokenizer()(BATCHES[2], padding=True, return_tensors="pt")
    (found,) = session.run(None, {name: batch[name].numpy() for name in ("input_ids", "attention_mask")})
    with torch.no_grad():
        expected = model(batch["input_ids"], batch["attention_mask"]).logits
    error = (torch.tensor(found) - expected).abs().max()
    assert 1e-5 < error < 0.5 * expected.std()


def test_without_the_extra_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnxscript", None)
    with pytest.raises(MissingExtra, match=r"hf-cap\[onnx\]"):
        export.export_onnx(named_classifier(), word_tokenizer(), tmp_path / "onnx")
    assert not (tmp_path / "onnx").exists()


@pytest.mark.parametrize("kind", ["onnx", "delta", "whole"])
def test_what_cannot_be_written_is_an_error_before_a_model_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    for place in ("classifiers.load_model", "export._read", "export._hash"):
        monkeypatch.setattr(f"hf_cap.{place}", Mock(side_effect=AssertionError))
    named_classifier().save_pretrained(tmp_path / "taken")
    (tmp_path / "model").mkdir()
    (tmp_path / "model/delta.safetensors").touch()
    words = ["--model", str(tmp_path / "model"), "--base", "base", "--format", kind]
    assert "holds a model" in refused("export", *words, "--output_dir", tmp_path / "taken")


# --- deltas


def checkpoints(folder: Path) -> tuple[str, str]:
    """A base, and what training made of it: other values here and there, and a head of another size."""
    base: Any = roberta_classifier()
    base.base_model.save_pretrained(folder / "base")
    tuned: Any = roberta_classifier(labels=4)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in tuned.base_model.parameters():
            parameter += torch.randn_like(parameter) * (torch.rand_like(parameter) < 0.3)
    save(tuned, folder / "tuned")
    return str(folder / "tuned"), str(folder / "base")


def test_without_dropping_it_comes_back_to_the_bit(tmp_path: Path) -> None:
    tuned, base = checkpoints(tmp_path)
    delta, out = str(tmp_path / "delta"), str(tmp_path / "out")
    run("export", "--model", tuned, "--format", "delta", "--base", base, "--output_dir", delta)
    assert not (tmp_path / "delta" / export.WEIGHTS).exists()
    run("export", "--model", delta, "--format", "whole", "--output_dir", out)
    before, after = (load_file(Path(folder) / export.WEIGHTS) for folder in (tuned, out))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    for file in ("config.json", "tokenizer.json"):
        assert (tmp_path / "out" / file).read_bytes() == (tmp_path / "tuned" / file).read_bytes()
    stored = load_file(Path(delta) / export.DELTA_FILE)
    assert "whole:classifier.out_proj.weight" in stored  # the base has no head
    places = stored["places:roberta.embeddings.word_embeddings.weight"]
    assert len(places) == pytest.approx(0.3 * 64 * 16, rel=0.2)  # what did not change is not stored


def test_dropping_is_right_in_the_mean() -> None:
    torch.manual_seed(0)
    base = {"w": torch.randn(4, 5)}
    tuned = {"bert.w": base["w"] + torch.randn(4, 5), "head": torch.randn(2)}
    draws = [export.whole(export.sparse(tuned, base, drop=0.8, seed=seed), base) for seed in range(500)]
    mean = torch.stack([one["bert.w"] for one in draws]).mean(0)
    change = tuned["bert.w"] - base["w"]
    # one draw has the standard deviation |change| sqrt(0.8 / 0.2) = 2 |change|
    assert ((mean - tuned["bert.w"]).abs() < 4 * 2 * change.abs() / 500**0.5).all()
    kept = torch.stack([one["bert.w"] != base["w"] for one in draws]).float().mean()
    assert kept == pytest.approx(0.2, abs=0.02)
    assert all(torch.equal(one["head"], tuned["head"]) for one in draws)


def test_the_scale_is_chosen_by_a_score() -> None:
    base, tuned = {"w": torch.zeros(1000)}, {"w": torch.ones(1000)}
    wanted = {0.2: 1.0, 0.4: 0.5}  # means of the weights after a drop of 0.8
    for q, mean in wanted.items():

        def near(state: Any, mean: float = mean) -> float:
            return -abs(float(state["w"].mean()) - mean)

        assert export.best_rescale(tuned, base, near, 0.8, [0.1, 0.2, 0.4, 0.8]) == q


def test_a_base_that_is_another_is_an_error(tmp_path: Path) -> None:
    tuned, base = checkpoints(tmp_path)
    export.save_delta(tuned, base, tmp_path / "delta")
    other: Any = roberta_classifier(seed=1)
    other.base_model.save_pretrained(base)
    with pytest.raises(ModelError, match="other weights"):
        export.restore(str(tmp_path / "delta"), tmp_path / "out")
    with pytest.raises(ModelError, match="no delta"):
        export.restore(tuned, tmp_path / "out")
    with pytest.raises(ConfigError, match="base"):
        export.save_delta(tuned, None, tmp_path / "delta")
    for bad in ({"drop": 1.0}, {"drop": 0.5, "rescale": 0.0}):
        with pytest.raises(ConfigError, match="drop"):
            export.save_delta(tuned, base, tmp_path / "other", **bad)
    assert not (tmp_path / "other").exists()
