import math
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Value

from hf_cap.errors import ConfigError
from hf_cap.lm.base import MockLanguageModel, Query, Scored
from hf_cap.lm.cache import CachedLanguageModel
from hf_cap.lm.local import LocalLanguageModel
from hf_cap.priors.channel import (
    EVIDENCE,
    ChannelPrior,
    Evidence,
    posterior_evidence,
    uniform_evidence,
)
from tests.tiny import byte_tokenizer, llama

LABELS = ("lost_card", "pay_fine", "renew_book")
TEXTS = ["renew my book", "  I lost\tthe card, sorry ", "fine", "où est ma carte 🙂 ?"]
GOLD = [2, 0, 1, 0]


class WordScorer(MockLanguageModel):
    """One token a word, its space in front; `table[label, word]` nats, -1 for any other word."""

    def __init__(self, table: dict[tuple[str, str], float]) -> None:
        super().__init__(lambda prompt, answer: 0.0)
        self.table = table

    def log_probs(self, queries: Sequence[Query], on_result: Any = None) -> list[Scored]:
        self.calls += queries
        return [self._one(query) for query in queries]

    def _one(self, query: Query) -> Scored:
        label = query.body.removesuffix("\nMessage:").strip()
        words = query.answer.split()
        starts = [query.answer.index(word) - 1 for word in words]
        return Scored(tuple(self.table.get((label, w), -1.0) for w in words), tuple(starts))


def channel(**options: Any) -> ChannelPrior:
    return ChannelPrior(labels=LABELS, **{"sign": "signed", "keep_label_scores": True, **options})


def tiny_model() -> LocalLanguageModel:
    return LocalLanguageModel(llama(), byte_tokenizer())


def random_log_probs(tokens: int) -> torch.Tensor:
    torch.manual_seed(0)
    return -3 * torch.rand(4, tokens, dtype=torch.float64)


def test_pmi_on_paper() -> None:
    model = WordScorer({("renew book", "renew"): 0.0, ("renew book", "my"): -1.0})
    made = channel(model=model, evidence="uniform")({"text": ["renew my"], "label": [2]})
    expected = 0 - math.log((1 + 2 * math.exp(-1)) / 3)
    np.testing.assert_allclose(made["prior_channel"][0], [expected, 0.0], atol=1e-12)
    assert made["channel_rank"] == [1]


class ShortScorer(WordScorer):
    """Has room for two words of a text."""

    def excess(self, query: Query) -> int:
        return len(query.answer.split()) - 2


def test_words_without_room_come_last_and_score_nothing() -> None:
    model = ShortScorer({("renew book", "renew"): 1.0, ("renew book", "book"): 1.0})
    made = channel(model=model)({"text": ["renew book for me", "renew"], "label": [2, 2]})
    assert made["channel_cut"] == [2, 0]
    assert made["prior_channel"][0][2:] == [0.0, 0.0]
    assert min(made["prior_channel"][0][:2]) > 0


def test_running_posterior_on_paper() -> None:
    # the second cue says less, because the first has settled the label
    table = {("renew book", "renew"): 1.0, ("renew book", "book"): 1.0}
    made = channel(model=WordScorer(table))({"text": ["renew book"], "label": [2]})
    first, second = made["prior_channel"][0]
    odds = math.e**2  # 1 nat against -1 nat
    one = odds / (odds + 2)
    two = odds**2 / (odds**2 + 2)
    assert first == pytest.approx(math.log(one) - math.log(1 / 3))
    assert second == pytest.approx(math.log(two) - math.log(one))


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_scores_add_up_to_the_gain_of_the_posterior(temperature: float) -> None:
    source = channel(model=tiny_model(), keep_label_words=True, temperature=temperature)
    made = source({"text": TEXTS, "label": GOLD})
    for words, likelihoods in zip(
        made["channel_label_words"], made["channel_label_scores"], strict=True
    ):
        posterior = (torch.tensor(likelihoods) / temperature).log_softmax(0)
        gained = torch.tensor(words).sum(1)
        np.testing.assert_allclose(gained, posterior - math.log(1 / 3), atol=1e-4)


def test_kept_label_words_hold_the_prior() -> None:
    made = channel(model=tiny_model(), keep_label_words=True)({"text": TEXTS, "label": GOLD})
    for row, gold in enumerate(GOLD):
        assert made["channel_label_words"][row][gold] == made["prior_channel"][row]
        assert len(made["prior_channel"][row]) == len(made["words"][row])


def test_posterior_by_tokens_is_the_posterior_by_words() -> None:
    log_probs, owners = random_log_probs(5), torch.tensor([0, 0, 1, 2, 2])
    by_word = torch.stack([log_probs[:, owners == word].sum(1) for word in range(3)], 1)
    torch.testing.assert_close(
        posterior_evidence(log_probs, owners, 3), posterior_evidence(by_word, torch.arange(3), 3)
    )


def test_tokens_of_no_word_count_for_none() -> None:
    log_probs = random_log_probs(3)
    found = uniform_evidence(log_probs, torch.tensor([0, 2, 1]), 2)
    torch.testing.assert_close(found, uniform_evidence(log_probs[:, [0, 2]], torch.arange(2), 2))


@pytest.mark.parametrize("evidence", typing.get_args(Evidence))
def test_a_word_that_all_labels_expect_alike_says_nothing(evidence: Evidence) -> None:
    log_probs = random_log_probs(4)
    log_probs[:, 2] = -1.5
    found = EVIDENCE[evidence](log_probs, torch.arange(4), 4)
    np.testing.assert_allclose(found[:, 2], 0, atol=1e-12)


def test_prior_is_the_same_in_any_batch() -> None:
    source = channel(model=tiny_model())
    whole = source({"text": TEXTS, "label": GOLD})["prior_channel"]
    for row, text in enumerate(TEXTS):
        alone = source({"text": [text], "label": [GOLD[row]]})["prior_channel"][0]
        np.testing.assert_allclose(alone, whole[row], atol=1e-4)


def test_prefix_is_shared_by_labels_and_texts() -> None:
    model = WordScorer({})
    channel(model=model)({"text": ["a b", "c"], "label": [0, 1]})
    assert len({query.prefix for query in model.calls}) == 1
    assert len(model.calls) == 2 * len(LABELS)


def training_data() -> Dataset:
    features = Features({"text": Value("string"), "label": ClassLabel(names=list(LABELS))})
    texts = [f"{label} {i}" for label in LABELS for i in range(2)]
    return Dataset.from_dict({"text": texts, "label": [0, 0, 1, 1, 2, 2]}, features=features)


def test_demonstrations_come_from_the_data_and_leave_the_text_out() -> None:
    data, model = training_data(), WordScorer({})
    source = ChannelPrior.from_dataset(data, model=model)
    for text, label in zip(data["text"], data["label"], strict=True):
        model.calls.clear()
        source({"text": [text], "label": [label]})
        assert all(f"Message: {text}\n" not in query.prefix for query in model.calls)
        assert "Message: " in model.calls[0].prefix


def test_with_demonstrations_a_text_depends_on_no_other() -> None:
    source = ChannelPrior.from_dataset(training_data(), model=tiny_model(), sign="signed")
    texts, gold = [*TEXTS, "lost_card 0"], [*GOLD, 0]
    whole = source({"text": texts, "label": gold})["prior_channel"]
    for row, text in enumerate(texts):
        alone = source({"text": [text], "label": [gold[row]]})["prior_channel"][0]
        np.testing.assert_allclose(alone, whole[row], atol=1e-4)
    plain = channel(model=source.model)({"text": texts, "label": gold})["prior_channel"]
    assert np.abs(np.subtract(plain[0], whole[0])).max() > 1e-3


def test_scores_are_remembered_with_demonstrations_too(tmp_path: Path) -> None:
    inside = WordScorer({("lost card", "card"): 0.0})
    model = CachedLanguageModel(inside, tmp_path / "scores.sqlite")
    source = ChannelPrior.from_dataset(training_data(), model=model)
    first = source({"text": TEXTS, "label": GOLD})
    assert len(inside.calls) == len(TEXTS) * len(LABELS)
    inside.calls.clear()
    assert source({"text": TEXTS, "label": GOLD}) == first
    assert inside.calls == []


@pytest.mark.parametrize("options", [{"temperature": 0.0}, {"evidence": "all"}, {"sign": "x"}])
def test_settings_that_cannot_work_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        channel(**options)


def test_every_choice_has_its_function() -> None:
    assert set(typing.get_args(Evidence)) == set(EVIDENCE)
