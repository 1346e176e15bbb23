"""The prior `lexicon` on a language model whose answers are known."""

import math
from typing import Any

import numpy as np
import pytest

from hf_cap.lm import MockLanguageModel
from hf_cap.priors import LexiconPrior
from tests.priors.conftest import labelled

FAVOUR = {"renew": 0.0, "lost": -3.0, "pay": 2.0}
SAYS = {"extend": {"renew": 1.5}, "fine": {"pay": 2.0}, "gone": {"lost": 1.0}, "my": {}}


def answers(prompt: str, answer: str) -> float:
    """What the model favours whatever it reads, and what the last word asked about adds."""
    asked = prompt.rsplit("Message:", 1)[-1].split()[0]
    label = answer.split()[0]
    return FAVOUR[label] + SAYS[asked].get(label, 0.0)


def prior(**options: Any) -> LexiconPrior:
    data = labelled(["extend my fine", "My fine, gone", "extend"], [0, 1, 2])
    return LexiconPrior.from_dataset(
        data, model=MockLanguageModel(answers), probe_texts=0, **options
    )


def test_each_word_gets_its_probability_of_the_label_whatever_the_model_favours() -> None:
    source = prior(sign="signed")
    assert set(source.table) == {"extend", "my", "fine", "gone"}
    says = np.array([[SAYS[w].get(label, 0.0) for label in FAVOUR] for w in source.table])
    odds = np.exp(says - says.mean(0))
    expected = odds / odds.sum(1, keepdims=True)
    np.testing.assert_allclose([*source.table.values()], expected, rtol=1e-9)
    found = source({"text": ["gone, extend new"], "label": ["renew"]})["prior_lexicon"][0]
    rows = dict(zip(source.table, expected, strict=True))
    assert found == pytest.approx([rows["gone"][0] - 1 / 3, rows["extend"][0] - 1 / 3, 0.0])
    assert found[1] > 0 > found[0]
    assert math.isclose(sum(rows["fine"]), 1)


def test_each_word_is_asked_about_once_and_alone() -> None:
    model = MockLanguageModel(answers)
    data = labelled(["extend my fine", "My fine, gone"], [0, 1])
    source = LexiconPrior.from_dataset(data, model=model, probe_texts=0)
    assert len(model.calls) == 4 * 3
    assert not any("my fine" in (query.prefix + query.body).lower() for query in model.calls)
    source({"text": ["extend my fine"], "label": [0]})
    assert len(model.calls) == 4 * 3
    assert min(source({"text": ["gone"], "label": [0]})["prior_lexicon"][0]) >= 0
