"""Sources that explain a classifier: against the libraries, against definitions, and their errors."""

import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from captum.attr import LayerIntegratedGradients
from lime.lime_text import LimeTextExplainer
from numpy.typing import NDArray
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from hf_cap.classifiers import TextClassifier
from hf_cap.errors import MissingExtra, ModelError
from hf_cap.priors.classifier import (
    ClassifierSource,
    IntegratedGradientsPrior,
    LimePrior,
    OcclusionPrior,
    ShapPrior,
)
from hf_cap.utils import text_seed
from hf_cap.words import keep_words, split_words
from tests.priors.conftest import LABELS, OUTPUTS, labelled, needs_shap
from tests.tiny import roberta_classifier, word_tokenizer

# shap 0.51 itself calls Colormap.set_bad and its like, which matplotlib 3.11 is going to deprecate
pytestmark = pytest.mark.filterwarnings("ignore:The set_.* function:PendingDeprecationWarning")

TEXTS = ["please renew my  book", "card lost!", "pay", "i need to pay the fine, now", "pay pay pay"]
GOLD = ["renew", "lost", "pay", "pay", "pay"]
ROWS = list(zip(TEXTS, GOLD, strict=True))


def made(source: ClassifierSource, texts: Sequence[str] = TEXTS, gold: Sequence[Any] = GOLD) -> Any:
    """The columns of a source for some texts."""
    return source({"text": texts, "label": gold})


def occlusion(folder: str, labels: tuple[str, ...] = LABELS) -> OcclusionPrior:
    return OcclusionPrior(labels=labels, classifier=folder)


def gradients(reference: str, **options: Any) -> IntegratedGradientsPrior:
    return IntegratedGradientsPrior(labels=LABELS, classifier=reference, **options)


def parts(reference: str) -> tuple[Any, Any]:
    """The classifier and its tokenizer, as transformers loads them."""
    model = AutoModelForSequenceClassification.from_pretrained(reference).eval()
    return model, AutoTokenizer.from_pretrained(reference)


@pytest.mark.parametrize(("module", "cls"), [("lime.lime_text", LimePrior), ("shap", ShapPrior)])
def test_without_the_package_the_error_names_the_extra(
    reference: str, module: str, cls: type[ClassifierSource], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtra, match=rf"pip install 'hf-cap\[{cls.name}\]'"):
        made(cls(labels=LABELS, classifier=reference))


# --- The classifier


def test_log_probabilities_are_the_models_own_in_the_order_of_the_datas_labels(reference: str) -> None:
    model, tokenizer = parts(reference)
    texts = [*TEXTS, "", TEXTS[0], "book " * 100]
    opened = occlusion(reference).open()
    with patch.object(TextClassifier, "encode", autospec=True, side_effect=TextClassifier.encode) as e:
        found = opened.log_probs(texts)
    assert e.call_args.args[1] == list(dict.fromkeys(texts))  # each distinct text once
    for text, row in zip(texts, found, strict=True):
        with torch.no_grad():
            encoded = tokenizer(text, truncation=True, max_length=64, return_tensors="pt")
            logits = model(**encoded).logits[0]
        expected = logits.log_softmax(-1)[[1, 2, 0]]  # pay, renew, lost -> renew, lost, pay
        torch.testing.assert_close(row, expected, rtol=1e-5, atol=1e-6)


def test_what_is_no_classifier_of_the_data_is_refused(
    reference: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ModelError, match=r"lacks \['hold'\] and has \['pay'\] besides"):
        occlusion(reference, ("renew", "lost", "hold")).open()
    with pytest.raises(ModelError, match=r"There is no model folder '\./nowhere'"):
        occlusion("./nowhere")
    with pytest.raises(ModelError, match="cannot be loaded"):
        occlusion(str(tmp_path)).open()
    monkeypatch.setattr(type(word_tokenizer()), "is_fast", False)
    slow = shutil.copytree(reference, tmp_path / "slow")
    with pytest.raises(ModelError, match="does not give"):
        occlusion(str(slow)).open()


def test_a_classifier_trained_again_in_the_same_folder_is_another_source(
    reference: str, tmp_path: Path
) -> None:
    folder = str(shutil.copytree(reference, tmp_path / "model"))
    before = occlusion(folder)
    assert occlusion(folder) == before
    unopened = occlusion(folder, LABELS[::-1])
    old = before.open().log_probs(["lost"])
    roberta_classifier(3, seed=7, id2label=OUTPUTS).save_pretrained(folder)
    after = occlusion(folder)
    assert after != before
    assert not torch.equal(after.open().log_probs(["lost"]), old)
    with pytest.raises(ModelError, match="changed on disk after the prior source was created"):
        unopened.open()


# --- Integrated gradients


def captum_scores(reference: str, text: str, gold: str) -> list[float]:
    """Word scores by captum, one example at a time."""
    model, tokenizer = parts(reference)
    encoded = tokenizer(text, return_tensors="pt", return_offsets_mapping=True)
    ids, offsets = encoded["input_ids"], encoded["offset_mapping"][0].tolist()
    special = torch.tensor([[first == last for first, last in offsets]])
    baseline = torch.where(special, ids, tokenizer.pad_token_id)
    captum = LayerIntegratedGradients(lambda ids: model(input_ids=ids).logits, model.get_input_embeddings())
    target = model.config.label2id[gold]
    tokens = captum.attribute(ids, baselines=baseline, target=target, n_steps=50)[0].sum(-1)
    scores = []
    for start, end in split_words(text):
        inside = [start <= first < end and last > first for first, last in offsets]
        scores.append(tokens[torch.tensor(inside)].sum().item())
    return scores


def test_scores_are_captums(reference: str) -> None:
    found = made(gradients(reference))
    for (text, gold), scores in zip(ROWS, found["prior_integrated_gradients"], strict=True):
        assert scores == pytest.approx(captum_scores(reference, text, gold), abs=1e-5)
    assert max(map(abs, found["integrated_gradients_gap"])) < 1e-4


def test_words_in_one_token_share_its_score(reference: str) -> None:
    texts, gold, column = (["lost 我想取消 card", "card"], ["lost", "pay"], "prior_integrated_gradients")
    apart = made(gradients(reference), texts, gold)[column]
    whole = made(gradients(reference, word_pattern=r"(?:\S+)"), texts, gold)[column]
    first, middle, last = whole[0]
    assert abs(middle) > 1e-4
    assert apart[0] == pytest.approx([first, middle / 2, middle / 2, last])
    assert apart[1] == pytest.approx(whole[1])


def test_the_gap_measures_against_the_true_baseline(reference: str) -> None:
    """RoBERTa numbers the positions by what is padding, so pad ids are not the baseline's forward pass."""
    model, tokenizer = parts(reference)
    ids = tokenizer("card lost", return_tensors="pt")["input_ids"]
    embed = model.get_input_embeddings()
    replaced = embed(torch.tensor([[0, 1, 1, 2]])).detach()
    handle = embed.register_forward_hook(lambda module, inputs, output: replaced)
    with torch.no_grad():
        baseline = model(input_ids=ids).logits[0, 2].item()
        handle.remove()
        whole = model(input_ids=ids).logits[0, 2].item()
    found = made(gradients(reference, steps=2), ["card lost"], ["lost"])
    expected = sum(found["prior_integrated_gradients"][0]) - (whole - baseline)
    assert found["integrated_gradients_gap"][0] == pytest.approx(expected, abs=1e-5)


def test_a_tokenizer_that_pads_on_the_left_changes_nothing(
    reference: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TextClassifier, "tokens_per_pass", 100_000)
    left = gradients(str(shutil.copytree(reference, tmp_path / "left")))
    left.open().text_classifier.tokenizer.padding_side = "left"
    alone = made(left, TEXTS[:1], GOLD[:1])["prior_integrated_gradients"][0]
    assert made(left)["prior_integrated_gradients"][0] == pytest.approx(alone, abs=1e-5)


def test_words_beyond_the_limit_score_zero(reference: str) -> None:
    found = made(gradients(reference, steps=2), ["book " * 70], ["pay"])
    scores = found["prior_integrated_gradients"][0]
    assert len(scores) == 70
    assert all(scores[:62])
    assert not any(scores[62:])


# --- LIME


@pytest.mark.parametrize("replacement", ["", "UNKWORDZ"])
def test_scores_are_the_librarys_own_for_one_example_at_a_time(reference: str, replacement: str) -> None:
    options: dict[str, Any] = {"samples": 40, "replacement": replacement, "seed": 3}
    prior = LimePrior(labels=LABELS, classifier=reference, **options)
    found = made(prior)
    classifier = prior.open()

    def predict(texts: list[str]) -> NDArray[np.float64]:
        probs: NDArray[np.float64] = classifier.log_probs(texts).double().exp().numpy()
        return probs

    for row, (text, gold) in enumerate(ROWS):
        explainer = LimeTextExplainer(
            bow=False, split_expression=str.split, mask_string=replacement, random_state=text_seed(3, text),
        )  # fmt: skip
        label, words = LABELS.index(gold), len(text.split())
        explained = explainer.explain_instance(
            text, predict, labels=(label,), num_features=words, num_samples=40
        )
        weights = dict(explained.as_map()[label])
        expected = [weights[word] for word in range(words)]
        assert found["prior_lime"][row] == pytest.approx(expected, abs=1e-6)
        assert found["lime_r2"][row] == pytest.approx(explained.score, abs=1e-5)


# --- Occlusion


@pytest.mark.parametrize(
    ("text", "gold", "shortened"),
    [
        ("please renew  my", 0, ["renew  my", "please  my", "please renew"]),
        ("pay", 2, [""]),
        ("pay my pay", 2, ["my pay", "pay pay", "pay my"]),
    ],
)
def test_a_word_scores_what_its_absence_costs(
    reference: str, text: str, gold: int, shortened: list[str]
) -> None:
    found = made(occlusion(reference), [text], [gold])
    whole, *without = occlusion(reference).open().log_probs([text, *shortened])[:, gold].tolist()
    assert found["prior_occlusion"][0] == pytest.approx([whole - one for one in without], abs=1e-6)
    assert found["occlusion_log_prob"][0] == pytest.approx(whole, abs=1e-6)


def test_it_maps_over_a_data_set_with_names_words_and_provenance(reference: str) -> None:
    data = labelled(TEXTS, [LABELS.index(gold) for gold in GOLD])
    prior = OcclusionPrior.from_dataset(data, classifier=reference)
    mapped = data.map(prior, batched=True, batch_size=2)
    added = ["words", "prior_occlusion", "occlusion_log_prob", "provenance"]
    assert mapped.column_names == ["text", "label", *added]
    assert mapped["words"][0] == ["please", "renew", "my", "book"]
    facts = json.loads(mapped["provenance"][0])["occlusion"]
    assert facts["classifier"] == reference
    assert facts["identity"] == prior.open().identity
    assert "labels" not in facts


# --- SHAP


@needs_shap
def test_scores_add_up_to_what_all_words_together_change(reference: str) -> None:
    prior = ShapPrior(labels=LABELS, classifier=reference)
    for (text, gold), scores in zip(ROWS, made(prior)["prior_shap"], strict=True):
        log_probs = prior.open().log_probs([text, ""])[:, LABELS.index(gold)].tolist()
        assert sum(scores) == pytest.approx(log_probs[0] - log_probs[1], abs=1e-5)


def orders(start: int, end: int) -> list[list[int]]:
    """Orders of words in which each half comes whole, in either order; the left half is the longer."""
    if end - start == 1:
        return [[start]]
    middle = (start + end + 1) // 2
    pairs = [(a, b) for a in orders(start, middle) for b in orders(middle, end)]
    return [order for a, b in pairs for order in (a + b, b + a)]


@needs_shap
def test_scores_are_the_mean_over_the_orders_that_the_tree_allows(reference: str) -> None:
    """The definition of an Owen value, by brute force."""
    prior = ShapPrior(labels=LABELS, classifier=reference)
    text, gold = "please renew my lost book", 0
    spans = split_words(text)

    def value(words: list[int]) -> float:
        kept = keep_words(text, spans, [word in words for word in range(5)])
        return prior.open().log_probs([kept])[0, gold].item()

    allowed = orders(0, 5)
    expected = np.zeros(5)
    for order in allowed:
        for place, word in enumerate(order):
            expected[word] += value(order[: place + 1]) - value(order[:place])
    found = made(prior, [text], [gold])["prior_shap"][0]
    assert found == pytest.approx((expected / len(allowed)).tolist(), abs=1e-5)
