"""The classifier as a function of texts."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch

from hf_cap.classifiers import longest_input
from hf_cap.errors import ModelError
from hf_cap.evaluation.classifier import Classifier, load_classifier
from tests.tiny import roberta_classifier, word_tokenizer

TEXTS = ["i lost my card", "renew", "", "please cancel the old loan with the late fine", "renew"]


def classifier(**options: int) -> Classifier:
    return Classifier(roberta_classifier(), word_tokenizer(), **options)


def test_matches_the_plain_model_text_by_text() -> None:
    tested = classifier()
    with torch.no_grad():
        plain = [
            tested.model(**tested.tokenizer(text, return_tensors="pt"))
            .logits[0]
            .softmax(-1)
            .numpy()
            for text in TEXTS
        ]
    np.testing.assert_allclose(tested(TEXTS), plain, atol=1e-6)


@pytest.mark.parametrize("batch_size", [1, 2, 64])
def test_batch_size_changes_nothing(batch_size: int) -> None:
    np.testing.assert_allclose(
        classifier(batch_size=batch_size)(TEXTS), classifier()(TEXTS), atol=1e-6
    )


def test_equal_texts_are_computed_once() -> None:
    tested = classifier(batch_size=1)
    passes: list[int] = []
    tested.model.register_forward_hook(lambda *arguments: passes.append(1))
    tested(["renew"] * 5)
    assert len(passes) == 1


def test_the_model_is_left_as_it_was() -> None:
    model = roberta_classifier().train()
    tested = Classifier(model, word_tokenizer())
    tested.masked(TEXTS, [np.ones((len(row), 16)) for row in tested.offsets(TEXTS)])
    tested(TEXTS)
    assert model.training
    assert not model.get_input_embeddings()._forward_hooks


def test_dropout_is_off() -> None:
    model = roberta_classifier(hidden_dropout_prob=0.5).train()
    tested = Classifier(model, word_tokenizer())
    np.testing.assert_array_equal(tested(TEXTS), tested(TEXTS))


@pytest.mark.parametrize("side", ["right", "left"])
def test_masks_reach_the_right_tokens(side: str) -> None:
    tested = classifier()
    tested.tokenizer.padding_side = side
    texts = ["i lost my card", "renew"]
    ones = [np.ones((len(row), 16)) for row in tested.offsets(texts)]
    np.testing.assert_allclose(tested.masked(texts, ones), tested(texts), atol=1e-6)
    ones[0][2] = 0.0  # the second word of the first text, after <s>
    changed = tested.masked(texts, ones)
    alone = tested.masked(texts[:1], ones[:1])
    np.testing.assert_allclose(changed[0], alone[0], atol=1e-6)
    np.testing.assert_allclose(changed[1], tested(texts)[1], atol=1e-6)
    assert np.abs(changed[0] - tested(texts)[0]).max() > 1e-3


def test_long_texts_are_cut_with_one_counting_warning(caplog: pytest.LogCaptureFixture) -> None:
    tested = classifier(max_length=5)
    with caplog.at_level(logging.WARNING):
        cut = tested(["a b c d e f", "renew my card please", "renew"])
    assert [record.getMessage() for record in caplog.records] == [
        "2 of 3 texts are longer than 5 tokens and are truncated"
    ]
    np.testing.assert_allclose(cut[1], tested(["renew my card"])[0], atol=1e-6)


def test_the_longest_input_of_roberta_leaves_room_for_its_padding_position() -> None:
    tokenizer = word_tokenizer()
    tokenizer.model_max_length = int(1e30)
    tested = Classifier(roberta_classifier(max_position_embeddings=12), tokenizer)
    assert tested.max_length == 10
    assert tested(["card " * 30]).shape == (1, 3)


def test_a_model_without_a_table_of_positions_takes_what_the_tokenizer_allows() -> None:
    model = roberta_classifier()
    del model.config.max_position_embeddings
    assert longest_input(model, word_tokenizer()) == 64


def test_offsets_need_a_fast_tokenizer(monkeypatch: pytest.MonkeyPatch) -> None:
    tested = classifier()
    monkeypatch.setattr(type(tested.tokenizer), "is_fast", False)
    with pytest.raises(ModelError, match="does not give"):
        tested.offsets(["a"])


def test_no_texts_give_no_rows() -> None:
    assert classifier()([]).shape == (0, 3)


def test_loads_from_a_folder(tmp_path: Path) -> None:
    tested = classifier()
    tested.model.save_pretrained(tmp_path)
    tested.tokenizer.save_pretrained(tmp_path)
    np.testing.assert_allclose(
        load_classifier(str(tmp_path), None)(TEXTS), tested(TEXTS), atol=1e-6
    )


def test_a_loaded_model_needs_its_tokenizer() -> None:
    with pytest.raises(ModelError, match="needs its tokenizer"):
        load_classifier(roberta_classifier(), None)
    with pytest.raises(ModelError, match="no model folder"):
        load_classifier("/nowhere/at/all", None)
