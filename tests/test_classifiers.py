"""What holds for every classifier, whatever stage runs it."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification

from hf_cap.classifiers import (
    READ_FIRST_TOKEN,
    first_token_only,
    is_lora_run,
    load_model,
    longest_input,
    new_classifier,
)
from hf_cap.errors import ModelError
from tests.tiny import byte_tokenizer, llama

FAMILIES = ("bert", "camembert", "electra", "roberta", "xlm-roberta")
IDS = torch.tensor([[5, 6, 7, 8, 9, 3], [5, 6, 7, 1, 1, 1]])


def tiny(family: str) -> Any:
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        family,
        vocab_size=12,
        hidden_size=16,
        embedding_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=32,
        pad_token_id=1,
        num_labels=3,
        initializer_range=0.5,
    )
    return AutoModelForSequenceClassification.from_config(config).eval()


def logits_and_gradient(model: Any) -> tuple[torch.Tensor, torch.Tensor]:
    embeddings = model.get_input_embeddings()(IDS).detach().requires_grad_()
    logits = model(inputs_embeds=embeddings, attention_mask=(IDS != 1).long()).logits
    (gradient,) = torch.autograd.grad(logits[:, 1].sum(), embeddings)
    return logits.detach(), gradient


@pytest.mark.parametrize("family", FAMILIES)
def test_the_first_token_alone_gives_the_same_logits_and_gradients(family: str) -> None:
    model = tiny(family)
    assert type(model).__name__ in READ_FIRST_TOKEN
    widths: list[int] = []
    feed_forward = model.base_model.encoder.layer[-1].intermediate
    feed_forward.register_forward_pre_hook(lambda module, args: widths.append(args[0].shape[1]))
    expected = logits_and_gradient(model)
    with first_token_only(model):
        found = logits_and_gradient(model)
    again = logits_and_gradient(model)
    assert widths == [6, 1, 6]
    for one, two, three in zip(expected, found, again, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(one, three, rtol=0, atol=0)


def test_other_models_are_left_alone() -> None:
    class MeanPooled(type(tiny("bert"))):  # type: ignore[misc]  # a class made at run time
        pass

    model = tiny("bert")
    model.__class__ = MeanPooled
    widths: list[int] = []
    feed_forward = model.base_model.encoder.layer[-1].intermediate
    feed_forward.register_forward_pre_hook(lambda module, args: widths.append(args[0].shape[1]))
    with first_token_only(model):
        model(IDS)
    assert widths == [6]


@pytest.fixture
def decoder(tmp_path: Path) -> Path:
    """A language model that knows no pad token."""
    tokenizer = byte_tokenizer()
    tokenizer.pad_token = None
    tokenizer.save_pretrained(tmp_path / "decoder")
    llama(pad_token_id=None).save_pretrained(tmp_path / "decoder")
    return tmp_path / "decoder"


def test_a_decoder_becomes_a_classifier_that_takes_batches(decoder: Path) -> None:
    model, tokenizer = new_classifier(str(decoder), ["no", "yes", "so"])
    assert model.config.id2label == {0: "no", 1: "yes", 2: "so"}
    assert model.config.label2id == {"no": 0, "yes": 1, "so": 2}
    texts = ["a", "longer text"]
    together = model(**tokenizer(texts, padding=True, return_tensors="pt")).logits
    for text, logits in zip(texts, together, strict=True):
        alone = model(**tokenizer(text, return_tensors="pt")).logits[0]
        torch.testing.assert_close(logits, alone, rtol=1e-4, atol=1e-5)


def test_a_missing_model_is_told_with_one_that_is_at_hand(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="embedded/minilm-l6"):
        new_classifier(str(tmp_path / "none"), ["no", "yes"])


# peft 0.21 asks transformers 5.23 by the old name; goes when peft asks by the new one
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
def test_a_lora_run_is_loaded_merged_with_its_labels(decoder: Path, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    labels, run = ["no", "yes", "so"], tmp_path / "run"
    base, tokenizer = new_classifier(str(decoder), labels)
    adapters = LoraConfig(task_type="SEQ_CLS", r=2, init_lora_weights=False)
    adapted = get_peft_model(base, adapters).eval()
    adapted.save_pretrained(str(run))
    assert not is_lora_run(run)
    record = {"model": str(decoder), "data": {"labels": labels}, "settings": {"lora_rank": 2}}
    (run / "run.json").write_text(json.dumps(record))
    found = load_model(str(run)).eval()
    assert not any("lora" in name for name, _ in found.named_parameters())
    assert found.config.label2id["so"] == 2
    batch = tokenizer(["a", "longer text"], padding=True, return_tensors="pt")
    torch.testing.assert_close(found(**batch).logits, adapted(**batch).logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("family", "longest"), [("bert", 32), ("roberta", 30)])
def test_the_longest_input_is_the_last_that_has_positions(family: str, longest: int) -> None:
    model, tokenizer = tiny(family), SimpleNamespace(model_max_length=512)
    assert longest_input(model, tokenizer) == longest  # type: ignore[arg-type]
    model(torch.full((1, longest), 5))
    with pytest.raises((IndexError, RuntimeError)):
        model(torch.full((1, longest + 1), 5))


def test_the_families_are_the_ones_tested() -> None:
    assert {type(tiny(family)).__name__ for family in FAMILIES} == READ_FIRST_TOKEN
