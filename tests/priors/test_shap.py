import math
import sys
from itertools import permutations
from typing import Any

import numpy as np
import pytest

from hf_cap.errors import ConfigError, MissingExtra
from hf_cap.priors.shap import ShapPrior, word_tree
from hf_cap.words import keep_words, split_words
from tests.priors.conftest import LABELS

# shap 0.51 itself calls Colormap.set_bad, which matplotlib 3.11 is going to deprecate
pytestmark = pytest.mark.filterwarnings("ignore:The set_bad function:PendingDeprecationWarning")

TEXTS = ["please renew  my book card", "card lost", "pay"]
GOLD = ["renew", "lost", "pay"]


def source(reference: str, **options: Any) -> ShapPrior:
    return ShapPrior(labels=LABELS, classifier=reference, **options)


def test_the_tree_joins_halves_of_the_text() -> None:
    assert word_tree(5).tolist() == [
        [0, 1, 2 / 5, 2],
        [5, 2, 3 / 5, 3],
        [3, 4, 2 / 5, 2],
        [6, 7, 1.0, 5],
    ]
    assert word_tree(1).shape == (0, 4)


def test_scores_add_up_to_what_all_words_together_change(reference: str) -> None:
    pytest.importorskip("shap")
    prior = source(reference)
    made = prior({"text": TEXTS, "label": GOLD})["prior_shap"]
    for text, gold, scores in zip(TEXTS, GOLD, made, strict=True):
        log_probs = prior.open().log_probs([text, ""])[:, LABELS.index(gold)].tolist()
        assert len(scores) == len(text.split())
        assert sum(scores) == pytest.approx(log_probs[0] - log_probs[1], abs=1e-5)


def test_scores_are_the_mean_over_the_orders_that_the_tree_allows(reference: str) -> None:
    """The definition of an Owen value, by brute force: each half comes whole, in either order."""
    pytest.importorskip("shap")
    prior = source(reference)
    text, gold = "please renew my book", 0
    spans = split_words(text)

    def value(words: tuple[int, ...]) -> float:
        kept = keep_words(text, spans, [word in words for word in range(4)])
        return prior.open().log_probs([kept])[0, gold].item()

    orders = [order for order in permutations(range(4)) if {order[0], order[1]} in ({0, 1}, {2, 3})]
    expected = np.zeros(4)
    for order in orders:
        for place, word in enumerate(order):
            expected[word] += value(order[: place + 1]) - value(order[:place])
    made = prior({"text": [text], "label": [gold]})["prior_shap"][0]
    assert made == pytest.approx((expected / len(orders)).tolist(), abs=1e-5)


def test_the_batch_changes_nothing(reference: str) -> None:
    pytest.importorskip("shap")
    together = source(reference)({"text": TEXTS, "label": GOLD})["prior_shap"]
    for text, gold, scores in zip(TEXTS, GOLD, together, strict=True):
        alone = source(reference)({"text": [text], "label": [gold]})["prior_shap"][0]
        assert alone == pytest.approx(scores, abs=1e-6)
        assert all(map(math.isfinite, alone))


def test_without_the_package_the_error_names_the_extra(
    reference: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "shap", None)
    with pytest.raises(MissingExtra, match=r"pip install 'hf-cap\[shap\]'"):
        source(reference)({"text": TEXTS, "label": GOLD})


def test_too_few_evaluations_are_refused(reference: str) -> None:
    with pytest.raises(ConfigError, match="`evaluations` must be at least 2, got 1"):
        source(reference, evaluations=1)
