from pathlib import Path
from typing import Any

from transformers import TrainingArguments

from hf_cap.training.card import changed_settings, run_record
from hf_cap.training.config import CAPConfig


def test_only_what_differs_from_the_defaults_is_told(tmp_path: Path) -> None:
    plain = changed_settings(CAPConfig(str(tmp_path)))
    changed = changed_settings(CAPConfig(str(tmp_path), learning_rate=1e-3, seed=7))
    assert {name: changed[name] for name in changed.keys() - plain.keys()} == {
        "learning_rate": 1e-3,
        "seed": 7,
    }


def test_a_record_tells_the_alignment_only_where_there_is_one(tmp_path: Path) -> None:
    told: dict[str, Any] = {
        "base_model": "gpt2",
        "labels": ["a"],
        "rows": 3,
        "history": [{"step": 1, "loss": 2.0}],
    }
    record = run_record(CAPConfig(str(tmp_path), alignment_weight=0.5), **told)
    assert record["alignment"]["alignment_weight"] == 0.5
    assert record["data"] == {"dataset": None, "rows": 3, "labels": ["a"]}
    assert run_record(TrainingArguments(str(tmp_path)), **told)["alignment"] == {}
