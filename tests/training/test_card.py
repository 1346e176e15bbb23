import re
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from hf_cap.cards import changed_settings
from hf_cap.errors import ConfigError
from hf_cap.training.config import CAPConfig
from tests.tiny import roberta_classifier, word_tokenizer
from tests.training.cases import trainer


def test_only_what_differs_from_the_defaults_is_told(tmp_path: Path) -> None:
    plain = changed_settings(CAPConfig(str(tmp_path)))
    changed = changed_settings(CAPConfig(str(tmp_path), learning_rate=1e-3, seed=7))
    assert {name: changed[name] for name in changed.keys() - plain.keys()} == {
        "learning_rate": 1e-3,
        "seed": 7,
    }


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
def test_an_adapter_answers_by_its_card_as_it_was_trained(tmp_path: Path) -> None:
    labels = ["renew", 'say "no"', "\U0001f4da"]
    base = str(tmp_path / "base")
    roberta_classifier().save_pretrained(base)

    def model() -> Any:
        plain = roberta_classifier()
        plain.config.id2label = dict(enumerate(labels))
        plain.name_or_path = base
        adapters = LoraConfig(task_type="SEQ_CLS", r=2, init_lora_weights=False)
        return get_peft_model(plain, adapters)

    made = trainer(tmp_path / "run", model=model)
    made.save_model()
    word_tokenizer().save_pretrained(tmp_path / "run")
    made.create_model_card(model_name=str(tmp_path / "run"))
    card = (tmp_path / "run" / "README.md").read_text(encoding="utf-8")
    assert "library_name: peft" in card
    assert "PEFT adapter" in card
    plain, explained = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    names: dict[str, Any] = {}
    exec(plain + explained, names)  # the card's own code
    inputs = word_tokenizer()(["renew my card"], return_tensors="pt")
    with torch.no_grad():
        expected = made.model.eval()(**inputs).logits.softmax(-1)[0]
    (found,) = names["classify"]("renew my card")
    assert found["label"] == labels[int(expected.argmax())]
    assert found["score"] == pytest.approx(expected.max().item(), abs=1e-6)
    assert names["explain"]("renew my card")["label"] == found["label"]
    trainer(tmp_path / "whole").create_model_card()
    card = (tmp_path / "whole" / "README.md").read_text(encoding="utf-8")
    assert "library_name: peft" not in card
    assert "Plain `transformers` is enough" in card


def test_a_trainer_publishes_no_secret(tmp_path: Path) -> None:
    made = trainer(tmp_path / "run")
    made.model.config.id2label = {0: "hf_" + "A1" * 17, 1: "b", 2: "c"}
    made.save_model()
    with pytest.raises(ConfigError, match=r"config\.json holds .*\(Hugging Face Token\)"):
        made.create_model_card()
