"""`hf-cap elicit`, `train --task tabular`, `evaluate` and `push`: from a file to published folders."""

import json
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pytest
from huggingface_hub import ModelCard

from hf_cap import hub
from hf_cap.laat.elicitation import FeatureScores, load_scores
from hf_cap.laat.models import attribute_features, load_tabular_model, predict_table
from tests import launching
from tests.laat.cases import numbers
from tests.tiny import llama, save


def write(folder: Path, change: Any = None, **options: Any) -> list[str]:
    """The arguments for a table of two splits, which `change` may have altered."""
    folder.mkdir()
    for split, seed in (("train", 0), ("test", 1)):
        frame = numbers(seed=seed)
        frame["x0"] += (frame["y"] == "c1") * 3
        frame = frame if change is None else change(frame)
        frame.to_csv(folder / f"{split}.csv", index=False, **options)
    return ["--dataset", str(folder), "--label_column", "y"]


def train(run: Path, *words: str) -> dict[str, Any]:
    """Train on a table, and give the evaluation, which the saved model must give again."""
    quiet = ["--disable_tqdm", "true", "--use_cpu", "true", "--eval_split", "test"]
    launching.run("train", "--task", "tabular", *words, *quiet, "--output_dir", run)
    measured: dict[str, Any] = json.loads((run / "evaluation" / "test.json").read_text())
    data = words[words.index("--dataset") + 1]
    places = ("--model", run, "--dataset", data, "--output_dir", run.parent / "again")
    launching.run("evaluate", *places, "--split", "test")
    assert json.loads((run.parent / "again" / "test.json").read_text()) == measured
    return measured


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table, its scores and an aligned model, in `table`, `scores` and `run`."""
    place = tmp_path_factory.mktemp("home")
    table = write(place / "table")
    save(llama(vocabulary=512), place / "lm")
    asked = ("--model", place / "lm", "--lm.store", "none", "--lm.device", "cpu")
    launching.run("elicit", *table, *asked, "--output_dir", place / "scores")
    settings = ["--scores", str(place / "scores"), "--num_train_epochs", "30"]
    assert "roc_auc" in train(place / "run", *table, *settings)
    return place


def test_scores_are_elicited_and_a_model_is_aligned_with_them(folder: Path) -> None:
    made = load_scores(folder / "scores")
    assert len(made.rows) == 2 * 4
    assert made.provenance["model"] == "lm"  # no local path
    assert "| x0 |" in (folder / "scores" / "README.md").read_text()
    record = json.loads((folder / "run" / "run.json").read_text())
    assert record["alignment"]["alignment_weight"] == 100
    assert record["scores"]["method"] == "expectation"
    elicited = {(one["class"], one["feature"]): one["score"] for one in record["features"]}
    assert elicited == made.values
    model, rows = load_tabular_model(folder / "run"), folder / "table" / "train.csv"
    learned = [one["attribution"] for one in record["features"]]
    assert learned == attribute_features(model, rows).flatten().tolist()
    found = predict_table(model, folder / "table" / "test.csv")
    assert list(found.columns) == ["c0", "c1"]
    assert not (folder / "run" / "training_args.bin").exists()


def test_a_folder_in_use_is_refused_before_anything_is_asked(tmp_path: Path) -> None:
    table = write(tmp_path / "table")
    places = ("--model", "./nothing", "--output_dir", tmp_path / "table")
    assert "would be replaced" in launching.refused("elicit", *table, *places)


def test_the_staged_model_is_the_model_and_its_card_names_no_path(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    run = folder / "run"
    launching.run("push", "model", "--folder", run, "--repo_id", "alice/desk", "--license", "mit")
    assert "Nothing was uploaded" in caplog.text
    staged = run / "hub"
    files = ["README.md", "config.json", "model.safetensors"]
    assert sorted(file.name for file in staged.iterdir()) == files
    frame = numbers()
    before, after = (predict_table(load_tabular_model(place), frame) for place in (run, staged))
    assert before.equals(after)
    config = json.loads((staged / "config.json").read_text())
    assert config["hf_cap"] == {"method": "input_gradient", "scope": "global"}
    card = (staged / "README.md").read_text()
    for line in ('load_tabular_model("alice/desk")', "| `method` | `expectation` |",
                 "| Input | Description | c0: score | c0: attribution |"):  # fmt: skip
        assert line in card
    assert str(folder) not in card
    data: Any = ModelCard(card).data
    assert (data.license, data.pipeline_tag) == ("mit", "tabular-classification")
    measured = json.loads((run / "evaluation" / "test.json").read_text())
    shown = {one.metric_type: one.metric_value for one in data.eval_results}
    names = {"accuracy": "accuracy", "f1": "macro_f1", "roc_auc": "roc_auc"}
    assert shown == {name: pytest.approx(measured[ours], abs=1e-4) for name, ours in names.items()}


def test_without_scores_the_task_alone_is_trained(tmp_path: Path) -> None:
    run = tmp_path / "run"
    settings = ["--num_train_epochs", "60", "--architecture", "mlp"]
    measured = train(run, *write(tmp_path / "table"), *settings)
    assert measured["rows"] == 40
    assert measured["roc_auc"] > 0.9
    assert json.loads((run / "run.json").read_text())["alignment"]["alignment_weight"] == 0
    assert not list(run.glob("checkpoint-*"))
    assert f"| test | 40 | {measured['accuracy']:.4g} |" in (run / "README.md").read_text()
    launching.run("push", "model", "--folder", run, "--repo_id", "alice/desk")
    assert "hf_cap" not in json.loads((run / "hub" / "config.json").read_text())


def test_a_number_as_target_is_measured_in_its_unit(tmp_path: Path) -> None:
    table = write(tmp_path / "table", lambda frame: frame.assign(y=100 + 30 * frame["x0"]))
    settings = ["--target_kind", "regression", "--learning_rate", "0.1"]
    measured = train(tmp_path / "run", *table, *settings)
    assert measured["r2"] > 0.99
    assert 0 < measured["rmse"] < 3
    assert "type: tabular-regression" in (tmp_path / "run" / "README.md").read_text()


def test_cells_that_meant_a_missing_value_in_training_mean_it_ever_after(tmp_path: Path) -> None:
    def gaps(frame: pd.DataFrame) -> pd.DataFrame:
        return frame.assign(x0=frame["x0"].where(frame.index % 3 > 0))

    table = write(tmp_path / "table", gaps, na_rep="-999")
    train(tmp_path / "run", *table, "--missing_values=-999", "--num_train_epochs", "30")
    model, rows = load_tabular_model(tmp_path / "run"), tmp_path / "table" / "test.csv"
    frame = pd.read_csv(rows, na_values=["-999"])
    pd.testing.assert_frame_equal(predict_table(model, rows), predict_table(model, frame))
    np.testing.assert_array_equal(attribute_features(model, rows), attribute_features(model, frame))


def test_scores_are_published_with_their_card_and_without_places(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = Mock(return_value="address")
    monkeypatch.setattr(hub, "check_access", Mock())
    monkeypatch.setattr(hub, "upload", upload)
    made = {"model": "/home/alice/lm", "base_url": "http://10.0.0.1/v1", "prompt_tokens": 70}
    command = "hf-cap elicit --dataset /home/alice/desk.csv"
    scores = FeatureScores.of({"c1": {"x0": 3.0, "x1": None}}, **made, command=command)
    (tmp_path / "s").mkdir()
    scores.to_dataset().to_parquet(str(tmp_path / "s" / "train.parquet"))
    there = ("--folder", tmp_path / "s", "--repo_id", "alice/elicited", "--license", "mit")
    launching.run("push", "scores", *there)
    assert not upload.called
    launching.run("push", "scores", *there, "--push")
    _, options, kind = upload.call_args.args
    assert (options.repo_id, kind, options.private) == ("alice/elicited", "dataset", True)
    assert {file.name for file in (tmp_path / "s-hub").iterdir()} == {"README.md", "train.parquet"}
    staged = load_scores(tmp_path / "s-hub")
    assert staged.rows == scores.rows
    public = {"model": "lm", "prompt_tokens": 70, "command": "hf-cap elicit --dataset desk.csv"}
    assert staged.provenance == public
    card = (tmp_path / "s-hub" / "README.md").read_text()
    for line in ("| x0 | 3 |", "| `prompt_tokens` | `70` |", "| x1 | unknown |", "license: mit",
                 'load_scores("alice/elicited")'):  # fmt: skip
        assert line in card
    assert "/home/alice" not in card
    assert "10.0.0.1" not in card
