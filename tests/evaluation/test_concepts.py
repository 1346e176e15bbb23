"""Concepts: planted mixtures come back, what they add sums to the logit, words and confusions are found."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from hf_cap.errors import ConfigError, ModelError
from hf_cap.evaluation import EvaluationSettings, evaluate_classifier
from hf_cap.evaluation.classifier import Classifier
from hf_cap.evaluation.concepts import (
    LastLayer,
    amounts,
    concept_audit,
    contributions,
    directions,
    find_concepts,
)
from hf_cap.report.contents import report_contents
from hf_cap.report.page import render_report
from hf_cap.sentence_encoder import CosineHead, label_config
from tests.report.runs import EVIL
from tests.report.test_contents import make_run
from tests.tiny import WordSum, llama, roberta_classifier, word_tokenizer

TOKENIZER = word_tokenizer()
LABELS = ["replace", "renew"]
VECTORS = {
    "card": (2.0, 0.0, 0.0), "lost": (0.0, -1.0, 0.0), "loan": (0.0, 0.0, 1.0), "late": (0.0, 0.0, 0.5),
}  # fmt: skip
WEIGHT = np.array([[1.0, -1.0, 0.0], [0.0, 0.0, 4.0]])


class Sum(WordSum):
    """A linear classifier of the sum of the words' vectors, which are not zero for four words."""

    def __init__(self) -> None:
        super().__init__(TOKENIZER, VECTORS)
        self.config.update(label_config(LABELS))
        self.head = nn.Linear(3, 2)
        with torch.no_grad():
            self.head.weight.copy_(torch.tensor(WEIGHT))
            self.head.bias.copy_(torch.tensor([0.5, -0.5]))

    def forward(self, input_ids: Tensor, **inputs: Any) -> SequenceClassifierOutput:
        return SequenceClassifierOutput(logits=self.head(super().forward(input_ids).logits))


TEXTS = [
    "my card please", "the card is my card", "i lost it", "lost it", "renew my loan", "the loan is late",
    "card for a loan lost lost",
]  # fmt: skip
GOLD = [0, 0, 0, 0, 1, 1, 1]


def planted(seed: int = 0) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Amounts of three signed concepts of 24 activations; each text lacks one of them."""
    random = np.random.default_rng(seed)
    vectors = random.normal(size=(3, 24)) * (random.random((3, 24)) < 0.5)
    given = random.exponential(size=(60, 3))
    given[np.arange(60), np.arange(60) % 3] = 0
    return given, vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_planted_mixtures_are_recovered() -> None:
    given, vectors = planted()
    noise = np.random.default_rng(1).normal(scale=0.01, size=(60, 24))
    found = directions(find_concepts(given @ vectors + noise, 3))
    cosines = vectors @ (found / np.linalg.norm(found, axis=1, keepdims=True)).T
    assert cosines.max(axis=1).min() > 0.95
    assert sorted(cosines.argmax(axis=1)) == [0, 1, 2]


def test_there_are_no_more_concepts_than_texts_and_no_empty_ones() -> None:
    assert find_concepts(np.eye(4)[:2], 5).shape == (2, 8)
    assert len(find_concepts(np.ones((6, 4)), 3)) <= 3
    assert find_concepts(np.ones((6, 4)), 3).any(axis=1).all()


@pytest.mark.parametrize("seed", range(3))
def test_contributions_and_the_rest_sum_to_the_logit(seed: int) -> None:
    random = np.random.default_rng(seed)
    read, weight = random.normal(size=(20, 12)), random.normal(size=12)
    added, left = contributions(find_concepts(read, 4), read, weight)
    assert added.shape == (20, 4)
    np.testing.assert_allclose(added.sum(axis=1) + left, read @ weight, atol=1e-5)
    assert np.abs(left).max() > 1e-3  # four concepts cannot hold noise of twelve dimensions


def test_contributions_of_an_exact_mixture_leave_nothing() -> None:
    concepts = np.array([[1.0, 0, 0, 0, 0, 0], [0, 0.6, 0, 0, 0, 0.8]])  # e0, and 0.6 e1 - 0.8 e2
    given = np.array([[2.0, 0.0], [1.0, 3.0]])
    read = np.array([[2.0, 0.0, 0.0], [1.0, 1.8, -2.4]])
    np.testing.assert_allclose(amounts(concepts, read), given, atol=1e-12)
    added, left = contributions(concepts, read, np.array([1.0, 2.0, -1.0]))
    np.testing.assert_allclose(added, [[2.0, 0.0], [1.0, 6.0]], atol=1e-12)
    np.testing.assert_allclose(left, 0, atol=1e-12)


def cosines() -> PreTrainedModel:
    """The model with the head of a sentence encoder, whose scale is a part of its weights."""
    model = Sum()
    model.head = CosineHead(3, 2)  # type: ignore[assignment]
    return model


@pytest.mark.parametrize("model", [Sum(), cosines(), roberta_classifier()])
def test_the_last_layer_gives_the_logits(model: PreTrainedModel) -> None:
    classifier = Classifier(model, TOKENIZER)
    layer = LastLayer(classifier)
    read = layer(TEXTS)
    logits = classifier.logits(TEXTS).numpy()
    rest = logits - read @ layer.weights.T  # the bias, which is the same for all texts
    assert np.ptp(rest, axis=0).max() < 1e-5
    assert np.ptp(logits, axis=0).min() > 0.01


def test_words_importance_and_confusions_of_a_linear_model() -> None:
    found = concept_audit(Classifier(Sum(), TOKENIZER), TEXTS, GOLD, 2)
    # logits of the last text: 2 + 2 + 0.5 and 4 - 0.5, so it is misread as `replace`
    of_replace, of_renew = (found["labels"][name] for name in LABELS)
    assert (of_replace["texts"], of_renew["texts"]) == (5, 2)
    assert [one["words"] for one in of_replace["concepts"]] == [["card", "loan"], ["lost", "loan"]]
    assert [one["words"] for one in of_renew["concepts"]] == [["loan", "late"]]
    # half the difference of both logits, by the activations: of `renew my loan` 4 / 2, of the other 6 / 2
    total = sum(one["importance"] for one in of_renew["concepts"])
    assert total == pytest.approx(2.5, abs=1e-3)
    assert of_renew["left"] == pytest.approx(0, abs=1e-3)
    (pair,) = found["confusions"]
    assert (pair["gold"], pair["predicted"], pair["texts"]) == ("renew", "replace", 1)
    # two cards add 2 to the first logit and nothing to the other, but for what the loan takes away
    assert (pair["concept"], pair["by"]) == (0, pytest.approx(1.8, abs=0.1))
    assert {one["nearest"]["label"] for one in of_replace["concepts"]} == {"renew"}
    assert -1 <= found["shared"] <= 1


def test_a_last_layer_of_tokens_or_none_is_an_error() -> None:
    from transformers import LlamaForSequenceClassification

    config = llama(vocabulary=64).config
    config.num_labels = 2
    decoder = Classifier(LlamaForSequenceClassification(config), TOKENIZER)
    with pytest.raises(ModelError, match="one vector per text"):
        concept_audit(decoder, TEXTS, GOLD, 2)
    model = Sum()
    model.head = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 5))  # type: ignore[assignment]
    with pytest.raises(ModelError, match="last layer is linear"):
        LastLayer(Classifier(model, TOKENIZER))


def test_concepts_are_evaluated_where_asked_for_and_shown() -> None:
    data = Dataset.from_dict({"text": TEXTS, "label": [LABELS[label] for label in GOLD]})
    settings = EvaluationSettings(faithfulness=False)
    assert evaluate_classifier(Sum(), TOKENIZER, data, settings).concepts is None
    found = evaluate_classifier(Sum(), TOKENIZER, data, replace(settings, concepts=2)).concepts
    assert found is not None
    with pytest.raises(ConfigError, match="concepts"):
        EvaluationSettings(concepts=-1)
    found["labels"]["replace"]["concepts"][0]["words"] = [EVIL]
    before, after = make_run("plain", weight=0.0, accuracy=0.5), make_run("aligned", accuracy=0.5)
    assert report_contents([before, after])["concepts"] is None
    for run in (before, after):
        run.evaluations["test"]["concepts"] = found  # type: ignore[index]
    contents = report_contents([before, after])
    assert contents["concepts"]["names"] == {"before": "no alignment", "after": "aligned"}
    assert contents["concepts"]["labels"] == ["renew", "replace"]
    page = render_report(contents)
    assert 'id="concepts"' in page
    assert EVIL not in page
