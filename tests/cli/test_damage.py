"""Damaged models, run records and evaluations end in one sentence."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from hf_cap.classifiers import load_model, new_classifier
from hf_cap.cli import main
from hf_cap.errors import ModelError

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
    room: Path, tmp_path: Path, command: str, damage: Damage, message: str, capsys: Output
) -> None:
    folder = shutil.copytree(room / "classifier", tmp_path / "model")
    damage(folder)
    words = [command, "--model", str(folder), "--dataset", str(room / "data")]
    words += ["--output_dir", str(tmp_path / "out")]
    words += ["--faithfulness", "false"] if command == "evaluate" else ["--alignment_weight", "0"]
    assert main(words) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("hf-cap: ")
    assert message.format(folder=folder) in error
    assert not list(tmp_path.glob("out/*"))


def test_an_encoder_without_a_head_is_no_classifier(
    room: Path, tmp_path: Path, capsys: Output
) -> None:
    places = ["--model", str(room / "encoder"), "--dataset", str(room / "data")]
    assert main(["evaluate", *places, "--output_dir", str(tmp_path / "out")]) == 2
    assert "lacks the weights ['classifier.dense.bias'" in capsys.readouterr().err


@pytest.mark.parametrize("model", [5, None, "", "/nowhere/at/all", ["a"]])
def test_a_model_is_a_name(model: Any) -> None:
    with pytest.raises(ModelError, match=r"A model is a folder, a Hub id|There is no model folder"):
        load_model(model)
    with pytest.raises(ModelError, match=r"A model is a folder, a Hub id|There is no model folder"):
        new_classifier(model, ["a", "b"])
