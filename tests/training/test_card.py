from pathlib import Path
from typing import Any

import pytest
from peft import LoraConfig, get_peft_model
from transformers import TrainingArguments

from hf_cap.training.card import changed_settings, run_record
from hf_cap.training.config import CAPConfig
from tests.tiny import roberta_classifier
from tests.training.cases import trainer


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


# peft 0.21 reads the old name of `is_activation_checkpointing` when it wraps a model
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.parametrize("adapter", [True, False])
def test_the_card_tells_an_adapter_from_a_whole_model(tmp_path: Path, adapter: bool) -> None:
    def model() -> Any:
        adapters = LoraConfig(task_type="SEQ_CLS", r=2)
        return get_peft_model(roberta_classifier(), adapters) if adapter else roberta_classifier()

    trainer(tmp_path, model=model).create_model_card()
    card = (tmp_path / "README.md").read_text()
    assert ("library_name: peft" in card) is adapter
    assert ("PEFT adapter" in card) is adapter
    assert ("Plain `transformers` is enough" in card) is not adapter
