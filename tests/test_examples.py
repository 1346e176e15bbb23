"""The scripts in examples/ run."""

from pathlib import Path
from typing import Any

import pytest
from datasets import ClassLabel, Dataset, Features, Value
from transformers import AutoModelForCausalLM

from hf_cap import CAPPrior
from tests.tiny import byte_tokenizer, llama

pytest.importorskip("trl")


# trl 1.16 still uses the former names of activation checkpointing, which transformers 5.23 deprecates
@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning")
@pytest.mark.slow
def test_a_language_model_is_adapted_with_the_prompts_of_cap(tmp_path: Path) -> None:
    from examples.adapt_language_model import adapt, prompts_and_answers

    llama().save_pretrained(tmp_path / "llama")
    byte_tokenizer().save_pretrained(tmp_path / "llama")
    features = Features({"text": Value("string"), "label": ClassLabel(names=["lost", "renew"])})
    rows: dict[str, list[Any]] = {
        "text": ["my card is lost", "renew my loan"] * 2,
        "label": [0, 1] * 2,
    }
    data = Dataset.from_dict(rows, features=features)

    losses = adapt(
        data, str(tmp_path / "llama"), tmp_path / "out", num_train_epochs=8, learning_rate=0.05
    )
    assert losses[-1] < losses[0]
    made = AutoModelForCausalLM.from_pretrained(tmp_path / "out" / "model")
    before = llama().state_dict()["model.layers.0.mlp.up_proj.weight"]
    assert not made.state_dict()["model.layers.0.mlp.up_proj.weight"].equal(before)

    prior = CAPPrior.from_dataset(
        data, model=(llama(), byte_tokenizer()), chat=False, demonstrations=0
    )
    pairs = prompts_and_answers(prior, data)
    assert [answer.strip() for answer in pairs["completion"]] == ["lost", "renew"] * 2
    assert all(text in prompt for text, prompt in zip(rows["text"], pairs["prompt"], strict=True))
