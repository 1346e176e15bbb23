"""The folders that go to the Hub: a tabular model, and a data set of feature scores."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from hf_cap.cli import main
from hf_cap.errors import DataError, ModelError
from hf_cap.hub import PushOptions, push_model
from hf_cap.laat.elicitation import FeatureScores, load_scores
from hf_cap.laat.models import (
    TabularConfig,
    is_tabular_model,
    load_tabular_model,
    predict_table,
    tabular_facts,
)
from hf_cap.laat.trainer import tabular_record
from tests.laat.cases import fitted, numbers, scores_of, tabular_model, trainer
from tests.tiny import roberta_classifier

FRAME = numbers()


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run as `hf-cap train --task tabular` leaves it."""
    model = tabular_model(fitted(FRAME))
    scores = scores_of(model.config.preprocessor.schema, [[-1, 2, 0, 1], [4, 0, -1, 2]])
    scores = FeatureScores(scores.scores, {"method": "chat", "model": "/home/alice/lm"})
    made = trainer(model, FRAME, tmp_path / "desk", scores, max_steps=3)
    made.train()
    made.save_model()
    record = tabular_record(made, dataset="/home/alice/desk.csv")
    (tmp_path / "desk" / "run.json").write_text(json.dumps(record))
    (tmp_path / "desk" / "evaluation").mkdir()
    numbers_ = {"rows": 40, "roc_auc": 0.75, "macro_f1": 0.5, "accuracy": 0.625}
    (tmp_path / "desk" / "evaluation" / "test.json").write_text(json.dumps(numbers_))
    return tmp_path / "desk"


def push(run: Path, **options: Any) -> Path:
    config = TabularConfig.from_pretrained(run)
    facts = partial(tabular_facts, config=config)
    return push_model(run, PushOptions(repo_id="alice/desk", **options), facts=facts)


def test_the_staged_model_is_the_model_and_its_card_names_no_path(run: Path) -> None:
    folder = push(run, license="mit")
    names = sorted(file.name for file in folder.iterdir())
    assert names == ["README.md", "config.json", "model.safetensors"]
    before, after = (predict_table(load_tabular_model(place), FRAME) for place in (run, folder))
    assert before.equals(after)
    config = json.loads((folder / "config.json").read_text())
    assert config["hf_cap"] == {"method": "input_gradient", "scope": "global"}
    card = (folder / "README.md").read_text()
    assert 'load_tabular_model("alice/desk")' in card
    assert "| Input | Description | c0: score | c0: attribution |" in card
    assert "| test | 40 | 0.625 | 0.5 | 0.75 |" in card
    assert "| `method` | `chat` |" in card
    assert "/home/alice" not in card
    data: Any = ModelCard(card).data
    assert (data.license, data.pipeline_tag) == ("mit", "tabular-classification")
    assert {one.metric_type: one.metric_value for one in data.eval_results} == {
        "accuracy": 0.625,
        "f1": 0.5,
        "roc_auc": 0.75,
    }


def test_a_model_without_scores_is_not_called_explained(run: Path) -> None:
    config = json.loads((run / "config.json").read_text())
    del config["hf_cap"]
    (run / "config.json").write_text(json.dumps(config))
    assert "hf_cap" not in json.loads((push(run) / "config.json").read_text())


def test_what_cannot_be_published_is_refused(run: Path) -> None:
    (run / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="safetensors"):
        push(run)
    assert not (run / "hub").exists()


def test_tabular_models_are_told_from_text_models(run: Path, tmp_path: Path) -> None:
    roberta_classifier().save_pretrained(tmp_path / "text")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("{")
    found = [
        is_tabular_model(place) for place in (run, tmp_path / "text", tmp_path / "broken", "none")
    ]
    assert found == [True, False, False, False]


def test_the_command_lists_a_model_and_uploads_nothing(
    run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    words = ["push", "model", "--folder", str(run), "--repo_id", "alice/desk", "--license", "mit"]
    assert main(words) == 0
    assert "tabular-classification" in (run / "hub" / "README.md").read_text()
    assert "model.safetensors" in caplog.text
    assert "Nothing was uploaded" in caplog.text


def test_scores_are_staged_with_their_card_and_without_places(tmp_path: Path) -> None:
    made = {"model": "/home/alice/lm", "base_url": "http://10.0.0.1/v1", "prompt_tokens": 70}
    command = "hf-cap elicit --dataset /home/alice/desk.csv"
    scores = FeatureScores.of({"c1": {"x0": 3.0, "x1": None}}, **made, command=command)
    (tmp_path / "s").mkdir()
    scores.to_dataset().to_parquet(str(tmp_path / "s" / "train.parquet"))
    words = ["push", "scores", "--folder", str(tmp_path / "s"), "--repo_id", "alice/elicited"]
    assert main([*words, "--license", "mit"]) == 0
    folder = tmp_path / "s-hub"
    assert sorted(file.name for file in folder.iterdir()) == ["README.md", "train.parquet"]
    staged = load_scores(folder)
    assert staged.scores == scores.scores
    public = {"model": "lm", "prompt_tokens": 70, "command": "hf-cap elicit --dataset desk.csv"}
    assert staged.provenance == public
    card = (folder / "README.md").read_text()
    assert 'load_scores("alice/elicited")' in card
    for line in ("| x0 | 3 |", "| `prompt_tokens` | `70` |", "| x1 | unknown |", "license: mit"):
        assert line in card
    assert "/home/alice" not in card
    assert "10.0.0.1" not in card


def test_a_secret_stops_the_publication(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "s.yaml").write_text("c1: {hf_" + "A1" * 17 + ": 3}")
    words = ["push", "scores", "--folder", str(tmp_path / "s.yaml"), "--repo_id", "alice/elicited"]
    assert main(words) == 2
    assert "access token" in capsys.readouterr().err
    assert not (tmp_path / "s-hub").exists()
    with pytest.raises(DataError, match="no feature scores"):
        load_scores(tmp_path)
