"""`hf-cap elicit` and `hf-cap train --task tabular` from a file to a model."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from hf_cap.cli import main
from hf_cap.laat.elicitation import FeatureScores, load_scores
from hf_cap.laat.models import attribute_features, load_tabular_model, predict_table
from tests.laat.cases import numbers
from tests.tiny import byte_tokenizer, llama


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "table"
    folder.mkdir()
    for split, seed in (("train", 0), ("test", 1)):
        frame = numbers(seed=seed)
        frame["x0"] += (frame["y"] == "c1") * 3
        frame.to_csv(folder / f"{split}.csv", index=False)
    return folder


QUIET = ["--disable_tqdm", "true", "--use_cpu", "true"]


def test_scores_are_elicited_and_a_model_is_aligned_with_them(data: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    llama(vocabulary=512).save_pretrained(model)
    byte_tokenizer().save_pretrained(model)
    scores = tmp_path / "scores"
    told = ["--label_column", "y", "--dataset", str(data)]
    asked = ["--model", str(model), "--lm.store", "none", "--lm.device", "cpu"]
    assert main(["elicit", *told, *asked, "--output_dir", str(scores)]) == 0
    made = load_scores(scores)
    assert len(made.scores) == 2 * 4
    assert made.provenance["model"] == "model"  # no local path
    card = (scores / "README.md").read_text()
    assert "| x0 |" in card
    assert "arxiv:2502.20268" in card
    run = tmp_path / "run"
    settings = ["--scores", str(scores), "--eval_split", "test", "--num_train_epochs", "30"]
    assert (
        main(["train", "--task", "tabular", *told, *settings, *QUIET, "--output_dir", str(run)])
        == 0
    )
    assert "roc_auc" in json.loads((run / "evaluation" / "test.json").read_text())
    record = json.loads((run / "run.json").read_text())
    assert record["alignment"]["alignment_weight"] == 100
    assert record["scores"]["method"] == "expectation"
    (first, *_) = record["features"]
    assert (first["class"], first["feature"]) == ("c0", "x0")
    assert first["score"] == made.scores[0].score
    assert set(predict_table(load_tabular_model(run), data / "test.csv").columns) == {"c0", "c1"}
    assert not (run / "training_args.bin").exists()
    assert (run / "README.md").exists()


def test_without_scores_the_task_alone_is_trained(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    told = ["--task", "tabular", "--label_column", "y", "--dataset", str(data)]
    settings = ["--num_train_epochs", "60", "--eval_split", "test", "--architecture", "mlp"]
    assert main(["train", *told, *settings, *QUIET, "--output_dir", str(run)]) == 0
    record = json.loads((run / "run.json").read_text())
    assert record["alignment"]["alignment_weight"] == 0
    measured = json.loads((run / "evaluation" / "test.json").read_text())
    assert measured["rows"] == 40
    assert measured["roc_auc"] > 0.9
    assert not list(run.glob("checkpoint-*"))
    # another time, by the model alone: it knows its columns and its target
    told = ["--model", str(run), "--dataset", str(data), "--split", "test", "--name", "again"]
    assert main(["evaluate", *told]) == 0
    assert json.loads((run / "evaluation" / "again.json").read_text()) == measured
    card = (run / "README.md").read_text()
    assert f"| test | 40 | {measured['accuracy']:.4g} |" in card


def test_a_number_as_target_is_measured_in_its_unit(data: Path, tmp_path: Path) -> None:
    for split in ("train", "test"):
        frame = numbers(seed=int(split == "test"))
        frame["y"] = 100 + 30 * frame["x0"]
        frame.to_csv(data / f"{split}.csv", index=False)
    run = tmp_path / "run"
    told = ["--task", "tabular", "--label_column", "y", "--dataset", str(data)]
    settings = ["--target_kind", "regression", "--eval_split", "test", "--learning_rate", "0.1"]
    assert main(["train", *told, *settings, *QUIET, "--output_dir", str(run)]) == 0
    measured = json.loads((run / "evaluation" / "test.json").read_text())
    assert measured["r2"] > 0.99
    assert 0 < measured["rmse"] < 3
    assert "task:\n      type: tabular-regression" in (run / "README.md").read_text()


def test_cells_that_meant_a_missing_value_in_training_mean_it_ever_after(
    data: Path, tmp_path: Path
) -> None:
    frame = numbers(seed=1)
    frame["x0"] += (frame["y"] == "c1") * 3
    frame.loc[::3, "x0"] = np.nan
    for split in ("train", "test"):
        frame.to_csv(data / f"{split}.csv", index=False, na_rep="-999")
    run = tmp_path / "run"
    told = ["--task", "tabular", "--label_column", "y", "--dataset", str(data)]
    settings = ["--missing_values=-999", "--eval_split", "test", "--num_train_epochs", "30"]
    assert main(["train", *told, *settings, *QUIET, "--output_dir", str(run)]) == 0
    measured = json.loads((run / "evaluation" / "test.json").read_text())
    told = ["--model", str(run), "--dataset", str(data), "--split", "test", "--name", "again"]
    assert main(["evaluate", *told]) == 0
    assert json.loads((run / "evaluation" / "again.json").read_text()) == measured
    model, rows = load_tabular_model(run), data / "test.csv"
    pd.testing.assert_frame_equal(predict_table(model, rows), predict_table(model, frame))
    np.testing.assert_array_equal(attribute_features(model, rows), attribute_features(model, frame))


def test_scores_are_published_with_their_card(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hf_cap import hub
    from hf_cap.laat import elicitation

    sent: list[tuple[str, str, bool, list[str]]] = []

    def upload(folder: Path, options: hub.PushOptions, kind: str, **_: object) -> str:
        files = sorted(file.name for file in folder.iterdir())
        sent.append((options.repo_id, kind, options.private, files))
        return options.repo_id

    monkeypatch.setattr(hub, "check_access", lambda *_, **__: None)
    monkeypatch.setattr(hub, "upload", upload)
    values = {"c0": {"x0": 1.0}, "c1": {"x0": -1.0}}
    made = FeatureScores.of(values, method="mock", base_url="http://me")
    monkeypatch.setattr(elicitation, "elicit_scores", lambda *_: made)
    words = ["--dataset", str(data), "--label_column", "y", "--output_dir", str(tmp_path / "s")]
    assert main(["elicit", *words, "--model", str(tmp_path / "lm")]) == 0
    assert not sent
    words = ["--folder", str(tmp_path / "s"), "--repo_id", "me/scores", "--license", "mit"]
    assert main(["push", "scores", *words, "--push"]) == 0
    assert sent == [("me/scores", "dataset", True, ["README.md", "train.parquet"])]
    card = (tmp_path / "s-hub" / "README.md").read_text()
    assert "license: mit" in card
    assert 'load_scores("me/scores")' in card
    written = load_scores(tmp_path / "s")
    assert written.scores == made.scores
    assert "base_url" not in written.provenance
    assert written.provenance["model"] == "lm"
    assert str(tmp_path) not in str(written.provenance)
