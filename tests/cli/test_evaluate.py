"""`hf-cap evaluate` as a user runs it, once and again."""

import json
from pathlib import Path
from typing import Any

import pytest

from hf_cap.cli import main
from tests.tiny import roberta_classifier, word_tokenizer

LABELS = ["lost_card", "renew_loan"]


@pytest.fixture
def evaluate(tmp_path: Path) -> list[str]:
    """The command for a tiny classifier on two texts, without flags."""
    labels: dict[str, Any] = {
        "id2label": dict(enumerate(LABELS)),
        "label2id": {name: index for index, name in enumerate(LABELS)},
    }
    roberta_classifier(2, **labels).save_pretrained(tmp_path / "model")
    word_tokenizer().save_pretrained(tmp_path / "model")
    rows = [
        {"text": "my card is lost", "label": "lost_card"},
        {"text": "renew", "label": LABELS[1]},
    ]
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = ["--model", str(tmp_path / "model"), "--dataset", str(tmp_path / "data")]
    return ["evaluate", *given, "--attribution_steps", "2", "--faithfulness", "false"]


def test_records_of_an_earlier_evaluation_do_not_stay_beside_new_numbers(
    evaluate: list[str], tmp_path: Path
) -> None:
    folder = tmp_path / "model" / "evaluation"
    for name in ("test", "other"):
        assert main([*evaluate, "--records", "--name", name]) == 0
    assert main(evaluate) == 0
    names = sorted(file.name for file in folder.iterdir())
    assert names == ["other.json", "other.parquet", "test.json"]


CODE = """
from transformers import RobertaConfig, RobertaForSequenceClassification

class OwnConfig(RobertaConfig):
    model_type = "own"

class OwnClassifier(RobertaForSequenceClassification):
    config_class = OwnConfig
"""


def test_code_of_a_model_runs_on_request_only(
    evaluate: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "model"
    (folder / "own.py").write_text(CODE)
    config = json.loads((folder / "config.json").read_text())
    names = {"AutoConfig": "OwnConfig", "AutoModelForSequenceClassification": "OwnClassifier"}
    config |= {"model_type": "own", "auto_map": {key: f"own.{name}" for key, name in names.items()}}
    (folder / "config.json").write_text(json.dumps(config))
    assert main(evaluate) == 2
    assert "trust_remote_code=True" in capsys.readouterr().err
    assert not (folder / "evaluation").exists()
    assert main([*evaluate, "--trust_remote_code"]) == 0
    assert (folder / "evaluation" / "test.json").exists()

    data = ["--dataset", str(tmp_path / "data"), "--splits", "test", "--sources", "occlusion"]
    extract = ["extract", *data, "--classifier", str(folder)]
    extract += ["--train_split", "test", "--output_dir", str(tmp_path / "priors")]
    assert main(extract) == 2
    assert "trust_remote_code=True" in capsys.readouterr().err
    assert main([*extract, "--trust_remote_code"]) == 0
