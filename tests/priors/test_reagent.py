from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from hf_cap.errors import DataError
from hf_cap.lm.base import MockLanguageModel
from hf_cap.priors.rivals import ReAGentPrior
from tests.priors.conftest import labelled
from tests.priors.test_cap import LABELS, TEXTS, Narrow, asked_text

POOL = ("alpha", "beta", "gamma", "delta", "epsilon")
DECISIVE = "could you please tell me whether anything at all was stolen there"


def stolen(prompt: str, answer: str) -> list[float]:
    """A label of three tokens, that one word decides."""
    return [-1.0 - 6 * ("stolen" not in asked_text(prompt).split()), -2.0, -0.5]


def source(**options: Any) -> ReAGentPrior:
    model = options.pop("model", None) or MockLanguageModel(stolen)
    return ReAGentPrior(labels=LABELS, model=model, **{"sign": "signed", "pool": POOL, **options})


def added(prior: ReAGentPrior, texts: Sequence[str]) -> Any:
    return prior({"text": list(texts), "label": [0] * len(texts)})


@pytest.mark.parametrize("seed", range(20))
def test_a_decisive_word_is_first_in_every_probe(seed: int) -> None:
    made = added(source(seed=seed, probes=1), [DECISIVE])
    scores = np.array(made["prior_reagent"][0])
    assert scores.argmax() == made["words"][0].index("stolen")
    assert np.partition(scores, -2)[-2] < 0.9 * scores.max()
    assert abs(scores.sum()) < 1e-9
    # whole text, three steps per word, one question of the stop rule: the word is among the best
    assert made["reagent_questions"] == [1 + 3 * 12 + 1]


def test_scores_are_the_weight_of_each_word_over_the_mean_weight() -> None:
    weights = dict(zip("abcdefgh", [2.0, 0.4, 0.4, 0.4, 0.5, 0.4, 3.0, 0.4], strict=True))

    def additive(prompt: str, answer: str) -> list[float]:
        return [sum(weights.get(word, 0.0) for word in asked_text(prompt).split()) - 20.0] * 2

    prior = source(model=MockLanguageModel(additive), n=3000, probes=1, tolerance=0)
    made = added(prior, [" ".join(weights)])
    expected = np.array(list(weights.values())) - np.mean(list(weights.values()))
    np.testing.assert_allclose(made["prior_reagent"][0], expected, atol=0.25)


def test_the_stop_rule_ends_a_probe_and_n_does_otherwise() -> None:
    """All of six words are needed, so that no third of them will do."""

    def all_needed(prompt: str, answer: str) -> float:
        return -30.0 + 2.0 * sum(word not in POOL for word in asked_text(prompt).split())

    text = "one two three four five six"
    for n, questions in ((100, 1 + 100 + 15), (18, 1 + 18 + 1)):
        model = MockLanguageModel(all_needed)
        made = added(source(model=model, n=n, probes=1), [text])
        assert made["reagent_questions"] == [questions] == [len(model.calls)]
    lenient = added(source(model=MockLanguageModel(all_needed), probes=1, tolerance=30), [text])
    assert lenient["reagent_questions"] == [1 + 18 + 1]


def test_a_text_is_scored_alike_alone_and_in_a_batch_without_nan() -> None:
    def extreme(prompt: str, answer: str) -> float:
        return -1e5 * ("lost" not in asked_text(prompt)) - 1e-12

    def prior() -> ReAGentPrior:
        return source(model=MockLanguageModel(extreme))

    together = added(prior(), TEXTS)
    assert np.isfinite(np.concatenate(together["prior_reagent"])).all()
    assert together["prior_reagent"][2] == [1.0]  # a single word
    for row, text in enumerate(TEXTS):
        alone = added(prior(), [text])
        assert alone["prior_reagent"][0] == together["prior_reagent"][row]
        assert alone["reagent_questions"][0] == together["reagent_questions"][row]
    assert together["prior_reagent"] != added(source(model=MockLanguageModel(extreme), seed=1), TEXTS)


def test_words_of_other_texts_replace_those_of_a_text_and_its_white_space_stays() -> None:
    data = labelled(["pay  the\nfine", "Pay the", "renew it"], [1, 1, 2], LABELS)
    model = MockLanguageModel(stolen)
    prior = ReAGentPrior.from_dataset(data, model=model, demonstrations=0, probe_texts=0)
    assert prior.pool == ("Pay", "fine", "it", "pay", "renew", "the")
    model.calls.clear()
    prior({"text": data["text"][:1], "label": [1]})
    texts = {asked_text(query.prefix + query.body) for query in model.calls}
    assert {word for text in texts for word in text.split()} == {
        "pay", "the", "fine", "it", "renew",
    }  # fmt: skip
    assert all("  " in text and "\n" in text for text in texts)


def test_a_text_with_all_words_of_the_pool_is_an_error_and_a_long_one_is_cut(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with pytest.raises(DataError, match="No word of `pool` is missing"):
        added(source(pool=("Lost", "card")), ["lost card"])
    made = added(source(model=Narrow(30, stolen)), [DECISIVE])
    assert "1 of 1 texts are longer" in caplog.text
    assert made["prior_reagent"][0][-6:] == [0.0] * 6
