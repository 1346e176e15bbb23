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
