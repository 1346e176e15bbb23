"""The explaining pipeline against attributions that were computed directly."""

from typing import Any

import pytest
from transformers import pipeline as typed_pipeline

from hf_cap.attribution import attribute_words
from hf_cap.classifiers import longest_input
from hf_cap.errors import ConfigError
from hf_cap.pipelines import register_pipeline
from hf_cap.schema import AttributionSettings
from tests.tiny import roberta_classifier, word_tokenizer

pipeline: Any = typed_pipeline  # its types know no task but those of transformers
TEXTS = ["renew my card please", "pay"]


@pytest.fixture
def model() -> Any:
    return roberta_classifier()


@pytest.fixture
def explain(model: Any) -> Any:
    register_pipeline()
    register_pipeline()  # a second time changes nothing
    return pipeline("explained-text-classification", model=model, tokenizer=word_tokenizer())


def test_label_and_score_are_those_of_the_plain_pipeline(model: Any, explain: Any) -> None:
    plain = pipeline("text-classification", model=model, tokenizer=word_tokenizer())
    for expected, found in zip(plain(TEXTS), explain(TEXTS, steps=2), strict=True):
        assert found["label"] == expected["label"]
        assert found["score"] == pytest.approx(expected["score"], abs=1e-6)


def test_the_predicted_label_is_explained(model: Any, explain: Any) -> None:
    (found,) = explain(TEXTS[:1], steps=8)
    target = model.config.label2id[found["label"]]
    (expected,) = attribute_words(
        model, word_tokenizer(), TEXTS[:1], [target], steps=8, rule="midpoint"
    )
    assert found["words"] == ["renew", "my", "card", "please"]
    assert found["attributions"] == pytest.approx(expected, abs=1e-7)


def test_attributions_add_up_to_the_change_of_the_logit(explain: Any) -> None:
    few, many = explain(TEXTS[0], steps=50), explain(TEXTS[0], steps=200)
    assert sum(few["attributions"]) == pytest.approx(sum(many["attributions"]), abs=1e-4)


def test_the_method_of_the_alignment_is_used(model: Any, explain: Any) -> None:
    stored = AttributionSettings(method="input_x_gradient", target="contrast", word_pattern=r"\w")
    model.config.update(stored.entry())
    found = explain("pay it", label="LABEL_2")
    (expected,) = attribute_words(
        model, word_tokenizer(), ["pay it"], [2],
        method="input_x_gradient", target="contrast", word_pattern=r"\w",
    )  # fmt: skip
    assert found["label"] == "LABEL_2"
    assert found["words"] == list("payit")
    assert found["attributions"] == pytest.approx(expected, abs=1e-7)
    other = explain("pay it", label="LABEL_2", method="integrated_gradients")
    assert other["attributions"] != pytest.approx(expected, abs=1e-4)


def test_a_text_beyond_the_model_is_cut_as_in_training(model: Any) -> None:
    register_pipeline()
    tokenizer = word_tokenizer()
    tokenizer.model_max_length = 10**30  # as of a tokenizer that tells no limit
    explain = pipeline("explained-text-classification", model=model, tokenizer=tokenizer)
    (found,) = explain(["renew my card please " * 60], steps=2)
    assert len(found["words"]) == len(found["attributions"]) == 240
    cut = longest_input(model, tokenizer) - 2
    assert found["attributions"][cut - 1] != 0.0
    assert set(found["attributions"][cut:]) == {0.0}


def test_a_batch_gives_what_single_texts_give(explain: Any) -> None:
    single = [explain(text, steps=4) for text in TEXTS]
    for found in (explain(TEXTS, steps=4), explain(TEXTS, steps=4, batch_size=2)):
        for one, other in zip(single, found, strict=True):
            assert one["attributions"] == pytest.approx(other["attributions"], abs=1e-6)


def test_an_unknown_label_is_refused(explain: Any) -> None:
    with pytest.raises(ConfigError, match=r"no label 'LABEL_9'.*LABEL_0"):
        explain("pay", label="LABEL_9")
