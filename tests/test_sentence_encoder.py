"""The classifier on a sentence encoder, against sentence-transformers and answers on paper."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from sentence_transformers import SentenceTransformer
from transformers import AutoModel, AutoTokenizer, RobertaConfig

from hf_cap.classifiers import load_model, load_tokenizer, new_classifier
from hf_cap.embedded import ENCODER, resolve_model
from hf_cap.errors import ConfigError, DataError, ModelError
from hf_cap.labels import ClassifierOptions, label_phrase, label_phrases, without_meaning
from hf_cap.sentence_encoder import POOLINGS, SentenceEncoderClassifier, read_sentence_encoder
from tests.tiny import save

LABELS = ["lost_card", "renew loan", "OpenAccount"]
TEXTS = ["i need help with my card", "please renew the old book loan"]


def sentence_encoder(folder: Path, pooling: str = "mean", **changes: Any) -> Path:
    """The folder of a tiny encoder as sentence-transformers saves it."""
    torch.manual_seed(0)
    config = RobertaConfig(
        vocab_size=64, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=80, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        initializer_range=0.2, pad_token_id=1, bos_token_id=0, eos_token_id=2,
    )  # fmt: skip
    save(AutoModel.from_config(config), folder)
    kinds = {"Transformer": "", "Pooling": "1_Pooling", "Normalize": "2_Normalize"}
    modules: list[dict[str, Any]] = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (kind, path) in enumerate(kinds.items())
    ]
    flags = {"mean": "mean_tokens", "cls": "cls_token", "lasttoken": "lasttoken"}
    modes = {f"pooling_mode_{flag}": name == pooling for name, flag in flags.items()}
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(
        json.dumps({"word_embedding_dimension": 16, **modes, **changes})
    )
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 24}))
    return folder


def new(*arguments: Any) -> Any:
    """A classifier before training, whose parts are looked into."""
    return new_classifier(*arguments)


def encoded(tokenizer: Any, **options: Any) -> dict[str, torch.Tensor]:
    batch = tokenizer(TEXTS, padding=True, return_tensors="pt", **options)
    return {name: batch[name] for name in ("input_ids", "attention_mask")}


@pytest.mark.parametrize(
    ("pooling", "expected"), [("mean", [3.0, 4.0]), ("cls", [1.0, 2.0]), ("lasttoken", [5.0, 6.0])]
)
@pytest.mark.parametrize("side", ["left", "right"])
def test_pooling_sees_no_padding(pooling: str, expected: list[float], side: str) -> None:
    real, pad = [[1.0, 2.0], [5.0, 6.0]], [[9.0, 9.0]]
    rows, mask = ([*real, *pad], [1, 1, 0]) if side == "right" else ([*pad, *real], [0, 1, 1])
    found = POOLINGS[pooling](torch.tensor([rows]), torch.tensor([mask]))
    assert found.tolist() == [expected]


@pytest.mark.parametrize("pooling", POOLINGS)
def test_it_is_the_encoder_of_sentence_transformers(pooling: str, tmp_path: Path) -> None:
    folder = sentence_encoder(tmp_path / "encoder", pooling)
    model, tokenizer, fresh = new(str(folder), LABELS)
    assert isinstance(model, SentenceEncoderClassifier)
    assert fresh == ("head",)
    assert tokenizer.model_max_length == 24
    peer = SentenceTransformer(str(folder), device="cpu")
    model.eval()  # type: ignore[no-untyped-call]
    ours = model.embed(**encoded(tokenizer))
    torch.testing.assert_close(ours, torch.tensor(peer.encode(TEXTS)), rtol=1e-5, atol=1e-6)


def test_the_head_starts_from_the_label_names(tmp_path: Path) -> None:
    folder = sentence_encoder(tmp_path / "encoder")
    given = ClassifierOptions(label_phrases={"renew loan": "renew my book"})
    model, _, _ = new(str(folder), LABELS, given)
    peer = SentenceTransformer(str(folder), device="cpu")
    names = torch.tensor(peer.encode(["lost card", "renew my book", "open account"]))
    torch.testing.assert_close(model.head.weight.detach(), names, rtol=1e-5, atol=1e-6)
    texts = torch.tensor(peer.encode(TEXTS))
    model.eval()
    logits = model(**encoded(AutoTokenizer.from_pretrained(folder))).logits
    torch.testing.assert_close(logits, 16 * texts @ names.T, rtol=1e-4, atol=1e-4)


def test_labels_without_meaning_start_at_random_and_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = sentence_encoder(tmp_path / "encoder")
    one = new(str(folder), ["LOC", "NUM", "HUM"]).model
    assert "['LOC', 'NUM', 'HUM']" in caplog.text
    assert "label_phrases" in caplog.text
    two = new(str(folder), ["LOC", "NUM", "HUM"]).model
    assert not torch.equal(one.head.weight, two.head.weight)


def test_a_few_labels_without_meaning_do_not_cost_the_others_their_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = str(sentence_encoder(tmp_path / "encoder"))
    found = new(folder, ["lost_card", "LOC", "renew_loan"]).model
    told = new(folder, ["lost_card", "LOC", "renew_loan"], ClassifierOptions(label_names_in="head"))
    assert torch.equal(found.head.weight, told.model.head.weight)
    assert "['LOC'] say nothing about their texts, so they are a poor start" in caplog.text


@pytest.mark.parametrize(
    ("label", "phrase"),
    [("card_arrival", "card arrival"), ("CardArrival", "card arrival"), ("card/arrival", "card arrival"),
     (" e-mail  sent ", "e-mail sent"), ("MP3Player", "mp3 player"), ("Wi-Fi", "Wi-Fi"), ("退款", "退款")],
)  # fmt: skip
def test_a_label_is_written_as_words(label: str, phrase: str) -> None:
    assert label_phrase(label) == phrase


def test_phrases_are_checked() -> None:
    with pytest.raises(ConfigError, match="'refnd'"):
        label_phrases(["refund"], {"refnd": "money back"})
    with pytest.raises(DataError, match="another label's"):
        label_phrases(["card_lost", "card/lost"])
    unclear = ["0", "LABEL 3", "class-7", "ABBR", "x", "no"]
    assert without_meaning([*unclear, "joy", "退款", "POSITIVE", "credit card"]) == unclear


def test_a_saved_classifier_is_one_for_hf_cap_and_for_sentence_transformers(tmp_path: Path) -> None:
    folder, saved = sentence_encoder(tmp_path / "encoder"), tmp_path / "saved"
    model, tokenizer, _ = new(str(folder), LABELS)
    with torch.no_grad():
        model.head.bias.copy_(torch.tensor([0.5, -1.0, 2.0]))
        model.head.scale.fill_(7.0)
    model.save_pretrained(saved)
    tokenizer.save_pretrained(saved)
    model.eval()
    logits = model(**encoded(tokenizer)).logits.detach()
    ours = load_model(str(saved)).train(False)
    assert torch.equal(ours(**encoded(load_tokenizer(str(saved)))).logits, logits)
    assert ours.config.id2label == dict(enumerate(LABELS))
    peer = SentenceTransformer(str(saved), device="cpu", local_files_only=True)
    torch.testing.assert_close(torch.tensor(peer.encode(TEXTS)), logits, rtol=1e-5, atol=1e-5)
    files = {file.suffix for file in saved.rglob("*") if file.is_file()}
    assert files == {".json", ".safetensors"}
    again = new(str(saved), LABELS)
    assert again.fresh == ()
    assert torch.equal(again.model.head.weight, model.head.weight)
    other = new(str(saved), ["a cat", "a dog"])
    assert other.fresh == ("head",)
    body = zip(other.model.encoder.parameters(), model.encoder.parameters(), strict=True)
    assert all(torch.equal(one, two) for one, two in body)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"pooling_mode_max_tokens": True}, "'mean', 'max'"), ({"pooling_mode": "weightedmean"}, "weighted")],
)  # fmt: skip
def test_a_pooling_that_is_unknown_here_is_refused(
    change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=message):
        new(str(sentence_encoder(tmp_path / "encoder", **change)), LABELS)


def test_a_model_that_is_no_sentence_encoder_gets_the_usual_head(tmp_path: Path) -> None:
    folder = sentence_encoder(tmp_path / "encoder")
    asked = ClassifierOptions(head="sequence")
    assert type(new(str(folder), LABELS, asked).model).__name__.startswith("Roberta")
    (folder / "modules.json").unlink()
    assert read_sentence_encoder(str(folder)) is None
    assert type(new(str(folder), LABELS).model).__name__.startswith("Roberta")
    for wrong in ({"head": "sentence"}, {"label_names_in": "head"}):
        with pytest.raises(ConfigError, match="needs a sentence encoder"):
            new(str(folder), LABELS, ClassifierOptions(**wrong))  # type: ignore[arg-type]


@pytest.mark.real
def test_the_embedded_encoder_is_pooled_as_it_was_trained() -> None:
    model, tokenizer, _ = new(ENCODER, ["play music", "set alarm"])
    peer = SentenceTransformer(resolve_model(ENCODER), device="cpu")
    model.eval()
    batch = tokenizer(TEXTS, padding=True, return_tensors="pt")
    ours = model.embed(**batch).detach()
    torch.testing.assert_close(ours, torch.tensor(peer.encode(TEXTS)), rtol=1e-5, atol=1e-6)
