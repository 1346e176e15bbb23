import sys
from typing import Any

import numpy as np
import pytest
from lime.lime_text import LimeTextExplainer
from numpy.typing import NDArray

from hf_cap.errors import ConfigError, MissingExtra
from hf_cap.priors.lime import LimePrior
from hf_cap.utils import text_seed
from tests.priors.conftest import LABELS

TEXTS = ["please renew my  book and my card", "card lost", "pay", "a a a need to pay the fine, now"]
GOLD = ["renew", "lost", "pay", "pay"]


def source(reference: str, **options: Any) -> LimePrior:
    return LimePrior(labels=LABELS, classifier=reference, **{"samples": 40, **options})


@pytest.mark.parametrize("replacement", ["", "UNKWORDZ"])
def test_scores_are_the_librarys_own_for_one_example_at_a_time(
    reference: str, replacement: str
) -> None:
    prior = source(reference, replacement=replacement, seed=3)
    made = prior({"text": TEXTS, "label": GOLD})
    classifier = prior.open()

    def predict(texts: list[str]) -> NDArray[np.float64]:
        probs: NDArray[np.float64] = classifier.log_probs(texts).double().exp().numpy()
        return probs

    for row, (text, gold) in enumerate(zip(TEXTS, GOLD, strict=True)):
        explainer = LimeTextExplainer(
            bow=False,
            split_expression=str.split,
            mask_string=replacement,
            random_state=text_seed(3, text),
        )
        label = LABELS.index(gold)
        words = len(text.split())
        explained = explainer.explain_instance(
            text, predict, labels=(label,), num_features=words, num_samples=40
        )
        weights = dict(explained.as_map()[label])
        assert made["prior_lime"][row] == pytest.approx(
            [weights[word] for word in range(words)], abs=1e-6
        )
        assert made["lime_r2"][row] == pytest.approx(explained.score, abs=1e-5)


def test_scores_do_not_depend_on_the_order_of_the_texts(reference: str) -> None:
    prior = source(reference)
    expected = prior({"text": TEXTS, "label": GOLD})["prior_lime"]
    reverse = prior({"text": TEXTS[::-1], "label": GOLD[::-1]})["prior_lime"][::-1]
    for scores, again in zip(expected, reverse, strict=True):
        assert again == pytest.approx(scores, abs=1e-6)


def test_repeated_words_are_features_of_their_own(reference: str) -> None:
    scores = source(reference)({"text": ["pay pay pay"], "label": ["pay"]})["prior_lime"][0]
    assert len(set(scores)) == 3


def test_the_seed_determines_the_perturbations(reference: str) -> None:
    batch = {"text": TEXTS[:1], "label": GOLD[:1]}
    first = source(reference, seed=1)(batch)["prior_lime"]
    assert source(reference, seed=1)(batch)["prior_lime"] == first
    assert source(reference, seed=2)(batch)["prior_lime"] != first


def test_without_the_package_the_error_names_the_extra(
    reference: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "lime.lime_text", None)
    with pytest.raises(MissingExtra, match=r"pip install 'hf-cap\[lime\]'"):
        source(reference)({"text": TEXTS, "label": GOLD})


def test_too_few_samples_are_refused(reference: str) -> None:
    with pytest.raises(ConfigError, match="`samples` must be at least 2, got 1"):
        source(reference, samples=1)
