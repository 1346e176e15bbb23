"""`hf-cap train` leaves a folder that is whole, of one kind, and unpublished."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModel

from hf_cap.classifiers import load_model
from hf_cap.cli import main
from hf_cap.training.base import AlignedTrainer
from tests.tiny import roberta_classifier, word_tokenizer
from tests.training.cases import family

ROWS = [
    ("i lost my card", "lost"), ("renew my loan please", "renew"), ("my card is lost", "lost"),
    ("please renew the book", "renew"), ("where is my card", "lost"), ("i want a new loan", "renew"),
]  # fmt: skip


@pytest.fixture
def room(tmp_path: Path) -> Path:
    """Texts, a table and encoders without heads, in folders."""
    lines = (json.dumps({"text": text, "label": label}) + "\n" for text, label in ROWS)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.jsonl").write_text("".join(lines))
    (tmp_path / "table.csv").write_text("x,y,label\n0,1,a\n1,0,b\n0.5,1,a\n1,0.5,b\n")
    for name, model in (("roberta", roberta_classifier(2)), ("deberta-v2", family("deberta-v2"))):
        AutoModel.from_config(model.config).save_pretrained(tmp_path / name)
        word_tokenizer().save_pretrained(tmp_path / name)
    return tmp_path


def train(room: Path, *flags: str, model: str = "roberta") -> Path:
    """Two steps without alignment; gives the folder."""
    out = room / "out"
    places = [
        "--dataset",
        str(room / "data"),
        "--model",
        str(room / model),
        "--output_dir",
        str(out),
    ]
    fixed = ["--alignment_weight", "0", "--max_steps", "2", "--save_strategy", "no", "--learning_rate", "0.1",
             "--report_to", "none"]  # fmt: skip
    assert main(["train", *places, *fixed, *flags]) == 0
    return out


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model.eval()(
            **word_tokenizer()(["my card"], return_tensors="pt")
        ).logits
    return found


def test_an_adapter_brings_every_module_that_its_base_has_not(room: Path) -> None:
    out = train(room, "--lora_rank", "2", model="deberta-v2")
    saved = json.loads((out / "adapter_config.json").read_text())["modules_to_save"]
    assert {"classifier", "pooler"} <= set(saved)
    torch.manual_seed(1)
    first = load_model(str(out))
    torch.manual_seed(2)
    again = load_model(str(out))
    torch.testing.assert_close(logits(first), logits(again))


def test_a_folder_that_is_used_again_holds_the_last_model_alone(room: Path) -> None:
    lora = train(room, "--lora_rank", "2")
    adapted = load_model(str(lora))
    whole = train(room)
    assert whole == lora
    assert not list(whole.glob("adapter*"))
    assert not torch.equal(logits(load_model(str(whole))), logits(adapted))
    train(room, "--lora_rank", "2")
    assert not list(whole.glob("model*"))
    torch.testing.assert_close(logits(load_model(str(whole))), logits(adapted))


@pytest.fixture
def lost_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step whose gradient overflows is skipped, but its norm is logged."""
    log = AlignedTrainer.log

    def with_norm(self: AlignedTrainer, logs: dict[str, float], *rest: Any) -> None:
        log(self, {**logs, "grad_norm": float("inf")}, *rest)

    monkeypatch.setattr(AlignedTrainer, "log", with_norm)


@pytest.mark.usefixtures("lost_step")
@pytest.mark.parametrize("task", ["text", "tabular"])
def test_a_step_that_overflowed_does_not_cost_the_record(room: Path, task: str) -> None:
    table = ["--task", "tabular", "--dataset", str(room / "table.csv"), "--label_column", "label"]
    out = train(room, *(table if task == "tabular" else ()))
    run = json.loads((out / "run.json").read_text())
    assert run["history"]
    assert all(line["grad_norm"] is None for line in run["history"])


@pytest.mark.parametrize("task", ["text", "tabular"])
def test_nothing_is_published_unseen(
    room: Path, task: str, capsys: pytest.CaptureFixture[str]
) -> None:
    data = {"text": "data", "tabular": "table.csv"}[task]
    flags = ["--task", task, "--dataset", str(room / data), "--output_dir", str(room / "out")]
    flags += [
        "--label_column",
        "label",
        "--alignment_weight",
        "0",
        "--model",
        str(room / "roberta"),
    ]
    assert main(["train", *flags, "--push_to_hub", "true"]) == 2
    assert "hf-cap push model --folder" in capsys.readouterr().err
    assert not (room / "out").exists()


def test_heat_maps_show_the_priors_that_are_trained_on(room: Path) -> None:
    from hf_cap.cli.train import heat_maps
    from hf_cap.data import load_splits
    from hf_cap.training.callbacks import HeatMapCallback
    from hf_cap.training.config import CAPConfig

    texts = load_splits(str(room / "data"))["train"]
    texts = texts.add_column("mine", [[1.0] * len(text.split()) for text, _ in ROWS])
    config = CAPConfig(str(room), report_to="tensorboard", prior_column="mine", max_length=7)
    (callback,) = heat_maps(texts, config)
    assert isinstance(callback, HeatMapCallback)
    assert callback.priors[0] == [1.0] * 4
    assert callback.max_length == 7
