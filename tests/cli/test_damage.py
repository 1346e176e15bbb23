"""Damaged models, run records and evaluations end in one sentence."""

import errno
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file, save_file
from transformers import PreTrainedTokenizerBase

from hf_cap.classifiers import load_model, new_classifier
from hf_cap.cli import main
from hf_cap.errors import ModelError
from tests.launching import refused, run

Output = pytest.CaptureFixture[str]
Damage = Callable[[Path], object]
WEIGHTS, LAYER = "model.safetensors", "roberta.encoder.layer.1.output.dense.weight"


def cut(name: str, size: int = -100) -> Damage:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:size])


def write(name: str, text: str | bytes) -> Damage:
    content = text.encode() if isinstance(text, str) else text
    return lambda folder: (folder / name).write_bytes(content)


def remove(name: str) -> Damage:
    return lambda folder: (folder / name).unlink()


def flip(name: str, place: int) -> Damage:
    def damage(folder: Path) -> None:
        content = bytearray((folder / name).read_bytes())
        content[place] ^= 255
        (folder / name).write_bytes(content)

    return damage


def entry(name: str, *keys: Any, value: Any) -> Damage:
    """Another value in a JSON file; `...` removes it."""

    def damage(folder: Path) -> None:
        whole = json.loads((folder / name).read_text())
        inner = whole
        for key in keys[:-1]:
            inner = inner[key]
        inner[keys[-1]] = value
        if value is ...:
            del inner[keys[-1]]
        (folder / name).write_text(json.dumps(whole))

    return damage


def weight(name: str, change: Callable[[torch.Tensor], torch.Tensor] | None) -> Damage:
    """Another tensor in the weights, or none."""

    def damage(folder: Path) -> None:
        weights = load_file(folder / WEIGHTS)
        old = weights.pop(name)
        if change:
            weights[name] = change(old).contiguous()
        save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})

    return damage


MODELS: list[tuple[Damage, str]] = [
    (cut(WEIGHTS), "incomplete"),
    (cut(WEIGHTS, 0), "header"),
    (cut(WEIGHTS, 40), "header"),
    (flip(WEIGHTS, 0), "header"),
    (flip(WEIGHTS, 7), "header"),
    (flip(WEIGHTS, 12), "header"),
    (write(WEIGHTS, "<html>not found</html>"), "header"),
    (remove(WEIGHTS), "no file named"),
    (weight(LAYER, None), f"lacks the weights ['{LAYER}']"),
    (weight(LAYER, lambda old: old[:3]), "size"),
    (
        weight(LAYER, lambda old: old * torch.nan),
        f"The weights ['{LAYER}'] of the model '{{folder}}' are not finite",
    ),
    (cut("config.json"), "config.json"),
    (write("config.json", "[]"), "'{folder}'"),
    (write("config.json", b"\xff\xfe{}"), "'{folder}'"),
    (entry("config.json", "hidden_size", value="wide"), "hidden_size"),
    (entry("config.json", "num_attention_heads", value=0), "'{folder}'"),
    (entry("config.json", "id2label", value=7), "'{folder}'"),
    (entry("config.json", "model_type", value="robertta"), "robertta"),
    (cut("tokenizer.json"), "'{folder}'"),
    (write("tokenizer.json", "{}"), "'{folder}'"),
    (remove("tokenizer.json"), "'{folder}'"),
    (entry("tokenizer.json", "model", "vocab", "lost", value=900), "900"),
]


@pytest.mark.parametrize(("damage", "message"), MODELS)
@pytest.mark.parametrize("command", ["evaluate", "train"])
def test_a_damaged_model_is_named(
    room: Path, tmp_path: Path, command: str, damage: Damage, message: str
) -> None:
    folder = shutil.copytree(room / "classifier", tmp_path / "model")
    damage(folder)
    places = ("--model", folder, "--dataset", room / "data", "--output_dir", tmp_path / "out")
    flag = ("--faithfulness", "false") if command == "evaluate" else ("--alignment_weight", "0")
    assert message.format(folder=folder) in refused(command, *places, *flag)
    assert not list(tmp_path.glob("out/*"))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("hf_cap", {"word_pattern": "("}, "'hf_cap' of the model's configuration cannot be used: word_p"),
        ("hf_cap", {"word_pattern": 7}, "'hf_cap' of the model's configuration cannot be used"),
        ("hf_cap", {"method": "magic"}, "`method` must be one of 'integrated_gradients'"),
        ("hf_cap", {"max_length": "x"}, "'hf_cap' of the model's configuration cannot be used"),
        ("calibration", {"temperature": "hot"}, "which is no calibration"),
    ],
)  # fmt: skip
def test_a_damaged_entry_of_a_configuration_is_named(
    room: Path, tmp_path: Path, key: str, value: Any, message: str
) -> None:
    folder = shutil.copytree(room / "classifier", tmp_path / "model")
    entry("config.json", key, value=value)(folder)
    places = ("--model", folder, "--dataset", room / "data", "--output_dir", tmp_path / "out")
    assert message in refused("evaluate", *places)
    assert not list(tmp_path.glob("out/*"))


@pytest.mark.parametrize("content", ["{", "[]", '{"data": 7}', '{"settings": [1]}'])
def test_calibrate_names_a_damaged_record(room: Path, tmp_path: Path, content: str) -> None:
    folder = shutil.copytree(room / "classifier", tmp_path / "model")
    write("run.json", content)(folder)
    before = (folder / "config.json").read_text()
    words = ("--model", folder, "--dataset", room / "data", "--split", "test", "--coverage", "0.5")
    assert "run.json'" in refused("calibrate", *words)
    assert (folder / "config.json").read_text() == before


def test_an_encoder_without_a_head_is_no_classifier(room: Path, tmp_path: Path) -> None:
    places = ("--model", room / "encoder", "--dataset", room / "data", "--output_dir", tmp_path / "out")
    assert "lacks the weights ['classifier.dense.bias'" in refused("evaluate", *places)


@pytest.mark.parametrize("model", [5, None, "", "/nowhere/at/all", ["a"]])
def test_a_model_is_a_name(model: Any) -> None:
    with pytest.raises(ModelError, match=r"A model is a folder, a Hub id|There is no model folder"):
        load_model(model)
    with pytest.raises(ModelError, match=r"A model is a folder, a Hub id|There is no model folder"):
        new_classifier(model, ["a", "b"])


RECORDS: list[tuple[str, Damage, str]] = [
    ("run", cut("run.json"), "run.json' is not valid JSON"),
    ("run", write("run.json", "[]"), "run.json' must hold a JSON object"),
    ("run", remove("run.json"), "is not a run: it holds no run.json"),
    ("run", lambda folder: Dataset.from_dict({"text": ["a"]}).to_parquet(folder / "evaluation/test.parquet"),
     "lacks the columns"),
    ("prior", remove("train.parquet"), "holds no parquet file"),
    ("run", entry("run.json", "data", value=7), "run.json' is damaged: data is int '7'"),
    ("run", entry("run.json", "data", "dataset", value=[1]), "data.dataset is list '[1]'"),
    ("run", entry("run.json", "data", "rows", value=True), "data.rows is bool 'True'"),
    ("run", entry("run.json", "history", 0, value=[]), "history[0] is list '[]'"),
    ("run", entry("run.json", "history", 1, "loss", value="x"), "history[1].loss is str 'x'"),
    ("run", entry("run.json", "versions", "torch", value=2), "versions.torch is int '2'"),
    ("run", entry("run.json", "alignment", "alignment_weight", value=[]), "alignment_weight is list"),
    ("run", entry("evaluation/test.json", "accuracy", value="1"), "accuracy is str '1'"),
    ("run", cut("evaluation/test.parquet"), "cannot be read as parquet"),
    ("run", flip("evaluation/test.parquet", 40), "cannot be read as parquet"),
    ("run", flip("evaluation/test.parquet", -1), "cannot be read as parquet"),
    ("prior", flip("train.parquet", 40), "cannot be read as parquet"),
    ("audit", entry("audit.json", "keywords", value=7), "keywords is int '7'"),
    ("audit", entry("audit.json", "class_overlap", "prior", value=[]), "class_overlap.prior is list"),
    ("audit", entry("audit.json", "confused_classes", "prior", 0, "classes", value=...),
     "confused_classes.prior[0] lacks 'classes'"),
]  # fmt: skip


@pytest.fixture(scope="module")
def reported(room: Path, prior: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of which a report is made: `run`, `prior` and `audit`."""
    folder = tmp_path_factory.mktemp("reported")
    shutil.copytree(model, folder / "run")
    shutil.copytree(prior, folder / "prior")
    measured = ("evaluate", "--model", folder / "run", "--dataset", room / "data", "--records")
    run(*measured, "--attribution_steps", 2)
    run("audit", "--dataset", prior, "--output_dir", folder / "audit")
    return folder


@pytest.mark.parametrize(("place", "damage", "message"), RECORDS)
def test_a_damaged_record_is_named(
    reported: Path, tmp_path: Path, place: str, damage: Damage, message: str
) -> None:
    folder = shutil.copytree(reported, tmp_path / "all")
    damage(folder / place)
    read = ("report", folder / "run", "--priors", folder / "prior", "--audit", folder / "audit")
    assert message in refused(*read, "--output", tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize(
    "words", ["prune --dataset {room}/data --units 0.1", "export --format delta --base {room}/encoder"]
)
def test_a_full_disk_leaves_no_part_of_a_model(
    room: Path, tmp_path: Path, words: str, monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    full = Mock(side_effect=OSError(errno.ENOSPC, "No space left on device"))
    monkeypatch.setattr(PreTrainedTokenizerBase, "save_pretrained", full)
    monkeypatch.setattr("hf_cap.export.save_file", full)
    places = ["--model", str(room / "classifier"), "--output_dir", str(tmp_path / "out" / "model")]
    assert main([*words.format(room=room).split(), *places]) == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith("hf-cap: The disk is full")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "fit.json' is not valid JSON"),
        ("[]", "must hold a JSON object"),
        ('{"data": 7}', "fit.json' is damaged: data is int '7'"),
        ('{"data": {"key": "a", "settings": {}}}', "fit.json' is damaged: data lacks 'finished'"),
    ],
)
def test_a_damaged_record_of_stages_is_named(room: Path, tmp_path: Path, content: str, message: str) -> None:
    write("fit.json", content)(tmp_path)
    assert message in refused("fit", room / "data", "--output_dir", tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["fit.json"]
