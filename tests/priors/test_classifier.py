import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from hf_cap.classifiers import Encoded, TextClassifier
from hf_cap.errors import ModelError
from hf_cap.priors.classifier import ClassifierSource, OcclusionPrior
from tests.priors.conftest import LABELS
from tests.tiny import roberta_classifier, word_tokenizer

TEXTS = [
    "renew my book please",
    "card lost",
    "",
    "renew my book please",
    "i need to pay the fine now",
]


def open_source(folder: str, labels: tuple[str, ...] = LABELS) -> OcclusionPrior:
    return OcclusionPrior(labels=labels, classifier=folder)


def test_log_probabilities_are_the_models_own_in_the_order_of_the_datas_labels(
    reference: str,
) -> None:
    found = open_source(reference).open().log_probs(TEXTS)
    model = AutoModelForSequenceClassification.from_pretrained(reference)
    tokenizer = AutoTokenizer.from_pretrained(reference)
    with torch.no_grad():
        for text, row in zip(TEXTS, found, strict=True):
            logits = model(**tokenizer(text, return_tensors="pt")).logits[0]
            expected = logits.log_softmax(-1)[[1, 2, 0]]  # pay, renew, lost -> renew, lost, pay
            torch.testing.assert_close(row, expected, rtol=1e-5, atol=1e-6)


def test_no_texts_give_no_rows(reference: str) -> None:
    assert open_source(reference).open().log_probs([]).shape == (0, 3)


def test_each_distinct_text_is_computed_once(
    reference: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[str] = []
    encode = TextClassifier.encode

    def counted(self: TextClassifier, texts: Sequence[str], **options: bool) -> list[Encoded]:
        encoded.extend(texts)
        return encode(self, texts, **options)

    monkeypatch.setattr(TextClassifier, "encode", counted)
    open_source(reference).open().log_probs(["a", "b", "a", "a"])
    assert encoded == ["a", "b"]


def test_texts_beyond_the_limit_are_cut(reference: str) -> None:
    opened = open_source(reference).open()
    classifier = opened.text_classifier
    assert classifier.max_length == 64
    long = "book " * 100
    (encoded,) = classifier.encode([long])
    assert len(encoded["input_ids"]) == 64
    assert torch.equal(opened.log_probs([long])[0], opened.log_probs(["book " * 62])[0])


def test_other_labels_are_refused_by_name(reference: str) -> None:
    with pytest.raises(ModelError, match=r"lacks \['hold'\] and has \['pay'\] besides"):
        open_source(reference, ("renew", "lost", "hold")).open()


def test_a_classifier_that_does_not_exist_is_refused_when_the_source_is_made() -> None:
    with pytest.raises(ModelError, match=r"There is no model folder '\./nowhere'"):
        open_source("./nowhere")


def test_a_folder_without_a_classifier_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot be loaded"):
        open_source(str(tmp_path)).open()


def test_a_classifier_trained_anew_in_the_same_folder_is_another_source(
    reference: str, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(reference, folder)
    before = open_source(str(folder))
    assert open_source(str(folder)) == before
    unopened = OcclusionPrior(labels=LABELS[::-1], classifier=str(folder))
    old = before.open().log_probs(["lost"])
    names = {0: "pay", 1: "renew", 2: "lost"}
    roberta_classifier(3, seed=7, id2label=names).save_pretrained(folder)
    after = open_source(str(folder))
    assert after != before
    assert not torch.equal(after.open().log_probs(["lost"]), old)
    with pytest.raises(ModelError, match="changed on disk after the prior source was created"):
        unopened.open()


def test_a_slow_tokenizer_is_refused(
    tmp_path: Path, reference: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(word_tokenizer()), "is_fast", False)
    folder = tmp_path / "model"
    shutil.copytree(reference, folder)
    with pytest.raises(ModelError, match="does not give"):
        open_source(str(folder)).open()


def test_the_settings_of_a_source_hold_no_model(reference: str) -> None:
    source = open_source(reference)
    source.open()
    assert isinstance(source, ClassifierSource)
    assert all(isinstance(value, str | tuple | bool | None) for value in vars(source).values())
