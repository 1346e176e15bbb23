"""The explaining pipeline against attributions that were computed directly."""

from typing import Any

import pytest
from transformers import pipeline as typed_pipeline

from hf_cap.attribution import attribute_words
from hf_cap.classifiers import longest_input
from hf_cap.errors import ConfigError, PriorError
from hf_cap.pipelines import AGAINST, FOR, register_pipeline, show_attributions
from hf_cap.schema import AttributionSettings
from hf_cap.utils import bundled
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


def test_label_and_score_are_those_of_the_plain_pipeline_whatever_the_batch(model: Any, explain: Any) -> None:
    plain = pipeline("text-classification", model=model, tokenizer=word_tokenizer())(TEXTS)
    single = [explain(text, steps=4) for text in TEXTS]
    for found in (explain(TEXTS, steps=4), explain(TEXTS, steps=4, batch_size=2)):
        for expected, one, other in zip(plain, single, found, strict=True):
            assert other["label"] == expected["label"]
            assert other["score"] == pytest.approx(expected["score"], abs=1e-6)
            assert one["attributions"] == pytest.approx(other["attributions"], abs=1e-6)


def test_the_predicted_label_is_explained(model: Any, explain: Any) -> None:
    (found,) = explain(TEXTS[:1], steps=8)
    target = model.config.label2id[found["label"]]
    (expected,) = attribute_words(model, word_tokenizer(), TEXTS[:1], [target], steps=8, rule="midpoint")
    assert found["words"] == ["renew", "my", "card", "please"]
    assert found["attributions"] == pytest.approx(expected, abs=1e-7)
    with pytest.raises(ConfigError, match=r"no label 'LABEL_9'.*LABEL_0"):
        explain("pay", label="LABEL_9")


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


# --- Heat maps.


def test_each_word_has_its_value_sign_and_strength() -> None:
    shown = show_attributions(["for", "against", "neither"], {"after": [1.0, -0.5, 0.0]}, title="pay")
    page = shown._repr_html_()
    assert 'aria-label="for: +1" title="+1"' in page
    assert 'aria-label="against: -0.5" title="-0.5"' in page
    assert "rgba(33,113,181,0.62);border-bottom:2px solid rgba(33,113,181,1.00)" in page
    assert "rgba(217,102,10,0.31);border-bottom:2px dashed rgba(217,102,10,0.50)" in page
    assert page.count("background") == 2
    louder = show_attributions(["for", "against", "neither"], [7.0, -3.5, 0.0])._repr_html_()
    assert louder.count("0.31)") == page.count("0.31)") == 1  # a part of the largest of the row
    assert all(name in output for output in (page, repr(shown)) for name in ("after", "pay"))
    assert repr(show_attributions(["lost", "a"], [1.0, 0.0])).splitlines() == ["lost  a", "█     ·"]


@pytest.mark.parametrize(
    "text", ["<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "\"&'", "\x1b[31m\u202e"]
)
def test_hostile_words_show_as_text(text: str) -> None:
    words = text.split()
    shown = show_attributions(words, {text: [1.0] * len(words)}, title=text)
    assert "<script" not in shown._repr_html_()
    assert "<img" not in shown._repr_html_()
    assert "\x1b" not in repr(shown)


def test_the_colours_are_those_of_the_report() -> None:
    style = "".join(file.read_text() for file in (bundled("report") / "page").glob("*.css"))
    for name, colour in (("for", FOR), ("against", AGAINST)):
        assert f"--{name}: {colour.replace(',', ' ')};" in style


def test_a_row_that_does_not_fit_is_refused() -> None:
    with pytest.raises(PriorError, match="'after': 1 scores for 2 words"):
        show_attributions(["a", "b"], {"after": [1.0]})
    with pytest.raises(PriorError, match="is nan"):
        show_attributions(["a"], [float("nan")])
