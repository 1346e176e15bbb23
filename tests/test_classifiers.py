"""What holds for every classifier, whatever stage runs it."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification

from hf_cap import classifiers
from hf_cap.errors import ModelError
from hf_cap.loading import NO_LIMIT
from hf_cap.training.validation import drop_other_kind
from tests.tiny import byte_tokenizer, llama, roberta_classifier, save, word_tokenizer

FAMILIES = ("bert", "camembert", "electra", "roberta", "xlm-roberta")
IDS = torch.tensor([[5, 6, 7, 8, 9, 3], [5, 6, 7, 1, 1, 1]])


def tiny(family: str) -> Any:
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        family, vocab_size=12, hidden_size=16, embedding_size=16, intermediate_size=24, num_hidden_layers=2,
        num_attention_heads=2, max_position_embeddings=32, pad_token_id=1, num_labels=3,
        initializer_range=0.5,
    )  # fmt: skip
    return AutoModelForSequenceClassification.from_config(config).eval()


def logits_and_gradient(model: Any) -> tuple[torch.Tensor, torch.Tensor]:
    embeddings = model.get_input_embeddings()(IDS).detach().requires_grad_()
    logits = model(inputs_embeds=embeddings, attention_mask=(IDS != 1).long()).logits
    (gradient,) = torch.autograd.grad(logits[:, 1].sum(), embeddings)
    return logits.detach(), gradient


@pytest.mark.parametrize("family", FAMILIES)
def test_the_first_token_alone_gives_the_same_logits_and_gradients(family: str) -> None:
    model = tiny(family).double()  # so that rounding, which differs by processor, is out of sight
    widths: list[int] = []
    feed_forward = model.base_model.encoder.layer[-1].intermediate
    feed_forward.register_forward_pre_hook(lambda module, args: widths.append(args[0].shape[1]))
    expected = logits_and_gradient(model)
    with classifiers.first_token_only(model):
        found = logits_and_gradient(model)
    again = logits_and_gradient(model)
    assert widths == [6, 1, 6]
    for one, two, three in zip(expected, found, again, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(one, three, rtol=0, atol=0)


def test_other_models_are_left_alone() -> None:
    class MeanPooled(type(tiny("bert"))):  # type: ignore[misc]  # a class made at run time
        pass

    model = tiny("bert")
    model.__class__ = MeanPooled
    widths: list[int] = []
    feed_forward = model.base_model.encoder.layer[-1].intermediate
    feed_forward.register_forward_pre_hook(lambda module, args: widths.append(args[0].shape[1]))
    with classifiers.first_token_only(model):
        model(IDS)
    assert widths == [6]


def test_a_decoder_without_a_pad_token_becomes_a_classifier_that_takes_batches(tmp_path: Path) -> None:
    language_tokenizer = byte_tokenizer()
    language_tokenizer.pad_token = None
    language_tokenizer.save_pretrained(tmp_path)
    llama(pad_token_id=None).save_pretrained(tmp_path)
    model, tokenizer, _ = classifiers.new_classifier(str(tmp_path), ["no", "yes", "so"])
    assert model.config.id2label == {0: "no", 1: "yes", 2: "so"}
    assert model.config.label2id == {"no": 0, "yes": 1, "so": 2}
    texts = ["a", "longer text"]
    together = model(**tokenizer(texts, padding=True, return_tensors="pt")).logits
    for text, logits in zip(texts, together, strict=True):
        alone = model(**tokenizer(text, return_tensors="pt")).logits[0]
        torch.testing.assert_close(logits, alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("family", "longest"), [("bert", 32), ("roberta", 30)])
def test_the_longest_input_is_the_last_that_has_positions(family: str, longest: int) -> None:
    model, tokenizer = tiny(family), SimpleNamespace(model_max_length=512)
    assert classifiers.longest_input(model, tokenizer) == longest  # type: ignore[arg-type]
    model(torch.full((1, longest), 5))
    with pytest.raises((IndexError, RuntimeError)):
        model(torch.full((1, longest + 1), 5))


@pytest.mark.parametrize(("family", "longest"), [("t5", NO_LIMIT), ("xlnet", NO_LIMIT), ("bert", 512)])
def test_a_model_without_a_limit_takes_the_longest_texts(family: str, longest: int) -> None:
    tokenizer = word_tokenizer()
    tokenizer.model_max_length = int(1e30)  # as transformers writes it where there is none
    model: Any = SimpleNamespace(config=AutoConfig.for_model(family), named_modules=lambda: [])
    assert classifiers.longest_input(model, tokenizer) == longest
    cut = tokenizer(["card " * 600], truncation=True, max_length=longest)["input_ids"][0]
    assert len(cut) == min(602, longest)
    tokenizer.model_max_length = 64
    assert classifiers.longest_input(model, tokenizer) == 64


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    """A classifier of three labels."""
    save(roberta_classifier(3), tmp_path / "encoder")
    return tmp_path / "encoder"


def test_a_head_for_another_number_of_labels_is_new(encoder: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="hf_cap")
    same = classifiers.new_classifier(str(encoder), ["a", "b", "c"])
    assert same.fresh == ()
    assert not caplog.records
    other = classifiers.new_classifier(str(encoder), ["a", "b", "c", "d", "e"])
    assert other.fresh == ("classifier",)
    assert "a new one takes its place" in caplog.text
    ids = word_tokenizer()(["my card"], return_tensors="pt")
    assert other.model(**ids).logits.shape == (1, 5)
    body = zip(same.model.base_model.parameters(), other.model.base_model.parameters(), strict=True)
    assert all(torch.equal(one, two) for one, two in body)


def test_a_body_of_another_size_is_refused(encoder: Path) -> None:
    weights = load_file(encoder / "model.safetensors")
    name = "roberta.embeddings.word_embeddings.weight"
    save_file({**weights, name: weights[name][:-1].clone()}, encoder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"word_embeddings.*other sizes than its `config.json` says"):
        classifiers.new_classifier(str(encoder), ["a", "b", "c"])


@pytest.mark.parametrize(
    ("family", "fresh"),
    [
        ("bert", ("bert.pooler.dense", "classifier")),
        ("deberta-v2", ("classifier", "pooler")),
        ("roberta", ("classifier",)),
    ],
)
def test_the_modules_that_no_checkpoint_holds_are_named(
    tmp_path: Path, family: str, fresh: tuple[str, ...]
) -> None:
    options = {"add_pooling_layer": False} if family == "bert" else {}
    save(AutoModel.from_config(tiny(family).config, **options), tmp_path)
    assert classifiers.new_classifier(str(tmp_path), ["a", "b"]).fresh == fresh


@pytest.mark.parametrize(
    ("adapter", "left"),
    [
        (True, {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json", "run.json"}),
        (False, {"config.json", "model-00001-of-00002.safetensors", "model.safetensors.index.json",
                 "tokenizer.json", "run.json"}),
    ],
)  # fmt: skip
def test_a_folder_holds_one_kind_of_weights(tmp_path: Path, adapter: bool, left: set[str]) -> None:
    for name in (
        "adapter_config.json", "adapter_model.safetensors", "tokenizer.json", "run.json", "config.json",
        "model-00001-of-00002.safetensors", "model.safetensors.index.json",
    ):  # fmt: skip
        (tmp_path / name).touch()
    drop_other_kind(tmp_path, adapter=adapter)
    assert {file.name for file in tmp_path.iterdir()} == left


def test_the_families_are_the_ones_tested() -> None:
    assert {type(tiny(family)).__name__ for family in FAMILIES} == classifiers.READ_FIRST_TOKEN
