import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from captum.attr import LayerIntegratedGradients
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from hf_cap.classifiers import TextClassifier
from hf_cap.errors import ConfigError
from hf_cap.priors.classifier import IntegratedGradientsPrior
from tests.priors.conftest import LABELS
from tests.tiny import roberta_classifier, word_tokenizer

TEXTS = ["please renew my book", "card lost!", "pay", "i need to pay the fine, now"]
GOLD = ["renew", "lost", "pay", "pay"]
OUTPUT = {"pay": 0, "renew": 1, "lost": 2}


def source(reference: str, **options: Any) -> IntegratedGradientsPrior:
    return IntegratedGradientsPrior(labels=LABELS, classifier=reference, **options)


def captum_scores(reference: str, text: str, gold: str) -> list[float]:
    """Word scores by captum, one example at a time."""
    model = AutoModelForSequenceClassification.from_pretrained(reference).eval()
    tokenizer = AutoTokenizer.from_pretrained(reference)
    encoded = tokenizer(text, return_tensors="pt", return_offsets_mapping=True)
    ids, offsets = encoded["input_ids"], encoded["offset_mapping"][0].tolist()
    special = torch.tensor([[first == last for first, last in offsets]])
    baseline = torch.where(special, ids, tokenizer.pad_token_id)
    gradients = LayerIntegratedGradients(
        lambda ids: model(input_ids=ids).logits, model.get_input_embeddings()
    )
    token_scores = gradients.attribute(ids, baselines=baseline, target=OUTPUT[gold], n_steps=50)
    scores = []
    for start, end in word_spans(text):
        inside = [start <= first < end and last > first for first, last in offsets]
        scores.append(token_scores[0].sum(-1)[torch.tensor(inside)].sum().item())
    return scores


def word_spans(text: str) -> Iterator[tuple[int, int]]:
    start = 0
    for blank, group in itertools.groupby(text, str.isspace):
        end = start + len(list(group))
        if not blank:
            yield start, end
        start = end


def test_scores_are_captums(reference: str) -> None:
    made = source(reference)({"text": TEXTS, "label": GOLD})["prior_integrated_gradients"]
    for text, gold, scores in zip(TEXTS, GOLD, made, strict=True):
        assert scores == pytest.approx(captum_scores(reference, text, gold), abs=1e-5)


def test_the_gap_is_what_the_scores_fail_to_add_up_to(reference: str) -> None:
    coarse = source(reference, steps=1)({"text": TEXTS, "label": GOLD})
    fine = source(reference, steps=50)({"text": TEXTS, "label": GOLD})
    for few, many, few_scores, many_scores in zip(
        coarse["integrated_gradients_gap"],
        fine["integrated_gradients_gap"],
        coarse["prior_integrated_gradients"],
        fine["prior_integrated_gradients"],
        strict=True,
    ):
        assert abs(many) < 1e-4
        assert few - many == pytest.approx(sum(few_scores) - sum(many_scores), abs=1e-5)


def test_the_gap_measures_against_the_true_baseline(reference: str) -> None:
    """RoBERTa numbers the positions by what is padding, so pad ids are not the baseline's forward pass."""
    model = AutoModelForSequenceClassification.from_pretrained(reference).eval()
    tokenizer = AutoTokenizer.from_pretrained(reference)
    ids = tokenizer("card lost", return_tensors="pt")["input_ids"]
    embed = model.get_input_embeddings()
    replaced = embed(torch.tensor([[0, 1, 1, 2]])).detach()
    handle = embed.register_forward_hook(lambda module, inputs, output: replaced)
    with torch.no_grad():
        baseline = model(input_ids=ids).logits[0, 2].item()
        handle.remove()
        whole = model(input_ids=ids).logits[0, 2].item()
    made = source(reference, steps=2)({"text": ["card lost"], "label": ["lost"]})
    expected = sum(made["prior_integrated_gradients"][0]) - (whole - baseline)
    assert made["integrated_gradients_gap"][0] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("tokens", [1, 100_000])
def test_padding_and_batch_change_nothing(
    reference: str, tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = source(reference)({"text": TEXTS, "label": GOLD})["prior_integrated_gradients"]
    monkeypatch.setattr(TextClassifier, "tokens_per_pass", tokens)
    found = source(reference)({"text": TEXTS, "label": GOLD})["prior_integrated_gradients"]
    for scores, again in zip(expected, found, strict=True):
        assert again == pytest.approx(scores, abs=1e-5)


def test_a_tokenizer_that_pads_on_the_left_changes_nothing(
    reference: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TextClassifier, "tokens_per_pass", 100_000)
    names = {0: "pay", 1: "renew", 2: "lost"}
    roberta_classifier(3, id2label=names).save_pretrained(tmp_path)
    word_tokenizer().save_pretrained(tmp_path)
    batch = {"text": TEXTS, "label": GOLD}
    left = source(str(tmp_path))
    left.open().text_classifier.tokenizer.padding_side = "left"
    for expected, found in zip(
        left({"text": TEXTS[:1], "label": GOLD[:1]})["prior_integrated_gradients"],
        left(batch)["prior_integrated_gradients"][:1],
        strict=True,
    ):
        assert found == pytest.approx(expected, abs=1e-5)


def test_words_beyond_the_limit_score_zero(reference: str) -> None:
    made = source(reference, steps=2)({"text": ["book " * 70], "label": ["pay"]})
    scores = made["prior_integrated_gradients"][0]
    assert len(scores) == 70
    assert all(scores[:62])
    assert not any(scores[62:])


def test_no_steps_are_refused(reference: str) -> None:
    with pytest.raises(ConfigError, match="`steps` must be at least 1, got 0"):
        source(reference, steps=0)
