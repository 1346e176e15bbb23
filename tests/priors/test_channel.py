import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from hf_cap.lm.base import MockLanguageModel, Query, Scored
from hf_cap.lm.local import LocalLanguageModel
from hf_cap.priors.channel import ChannelPrior, Evidence, LexiconPrior, word_evidence
from tests.priors.conftest import labelled
from tests.tiny import byte_tokenizer, llama

LABELS = ("lost_card", "pay_fine", "renew_book")
TEXTS = ["renew my book", "  I lost\tthe card, sorry ", "fine", "où est ma carte 🙂 ?"]
GOLD = [2, 0, 1, 0]
TRAIN = labelled([f"{label} {i}" for label in LABELS for i in (0, 1)], [0, 0, 1, 1, 2, 2], LABELS)


class WordModel(MockLanguageModel):
    """One token a word, its space in front; `table[label, word]` nats, -1 for any other word."""

    def __init__(self, table: dict[tuple[str, str], float], room: int = 100) -> None:
        super().__init__(lambda prompt, answer: 0.0)
        self.table, self.room = table, room

    def excess(self, query: Query) -> int:
        return len(query.answer.split()) - self.room

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
    model = WordModel({("renew book", "renew"): 0.0, ("renew book", "my"): -1.0})
    made = channel(model=model, evidence="uniform")({"text": ["renew my"], "label": [2]})
    expected = 0 - math.log((1 + 2 * math.exp(-1)) / 3)
    np.testing.assert_allclose(made["prior_channel"][0], [expected, 0.0], atol=1e-12)
    assert made["channel_rank"] == [1]


def test_words_in_one_token_share_its_score() -> None:
    model = WordModel({("renew book", "我想取消"): 0.0, ("renew book", "my"): -1.0})
    made = channel(model=model, evidence="uniform")({"text": ["我想取消 my"], "label": [2]})
    expected = -math.log((1 + 2 * math.exp(-1)) / 3) / 2
    assert made["words"] == [["我想", "取消", "my"]]
    np.testing.assert_allclose(made["prior_channel"][0], [expected, expected, 0.0], atol=1e-12)


def test_running_posterior_on_paper() -> None:
    # the second cue says less, because the first has settled the label
    table = {("renew book", "renew"): 1.0, ("renew book", "book"): 1.0}
    made = channel(model=WordModel(table))({"text": ["renew book"], "label": [2]})
    first, second = made["prior_channel"][0]
    odds = math.e**2  # 1 nat against -1 nat
    one, two = odds / (odds + 2), odds**2 / (odds**2 + 2)
    assert first == pytest.approx(math.log(one) - math.log(1 / 3))
    assert second == pytest.approx(math.log(two) - math.log(one))


def test_words_without_room_come_last_and_score_nothing() -> None:
    model = WordModel({("renew book", "renew"): 1.0, ("renew book", "book"): 1.0}, room=2)
    made = channel(model=model)({"text": ["renew book for me", "renew"], "label": [2, 2]})
    assert made["channel_cut"] == [2, 0]
    assert made["prior_channel"][0][2:] == [0.0, 0.0]
    assert min(made["prior_channel"][0][:2]) > 0


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_scores_add_up_to_the_gain_of_the_posterior(temperature: float) -> None:
    source = channel(model=tiny_model(), keep_label_words=True, temperature=temperature)
    made = source({"text": TEXTS, "label": GOLD})
    likelihoods = made["channel_label_scores"]
    for row, (words, scores) in enumerate(zip(made["channel_label_words"], likelihoods, strict=True)):
        posterior = (torch.tensor(scores) / temperature).log_softmax(0)
        gained = torch.tensor(words).sum(1)
        np.testing.assert_allclose(gained, posterior - math.log(1 / 3), atol=1e-4)
        assert words[GOLD[row]] == made["prior_channel"][row]
        assert len(made["prior_channel"][row]) == len(made["words"][row])


def test_tokens_are_pooled_to_words_and_those_of_no_word_count_for_none() -> None:
    log_probs, owners = random_log_probs(5), torch.tensor([0, 0, 1, 2, 2])
    by_word = torch.stack([log_probs[:, owners == word].sum(1) for word in range(3)], 1)
    by_token = word_evidence(log_probs, owners, 3, "posterior")
    torch.testing.assert_close(by_token, word_evidence(by_word, torch.arange(3), 3, "posterior"))
    some = word_evidence(log_probs[:, :3], torch.tensor([0, 2, 1]), 2, "uniform")
    without = word_evidence(log_probs[:, [0, 2]], torch.arange(2), 2, "uniform")
    torch.testing.assert_close(some, without)


@pytest.mark.parametrize("evidence", ["posterior", "uniform"])
def test_a_word_that_all_labels_expect_alike_says_nothing(evidence: Evidence) -> None:
    log_probs = random_log_probs(4)
    log_probs[:, 2] = -1.5
    found = word_evidence(log_probs, torch.arange(4), 4, evidence)
    np.testing.assert_allclose(found[:, 2], 0, atol=1e-12)


def test_demonstrations_leave_the_text_out_and_labels_share_their_prefix() -> None:
    model = WordModel({})
    source = ChannelPrior.from_dataset(TRAIN, model=model, demonstrations=1)
    for text, label in zip(TRAIN["text"], TRAIN["label"], strict=True):
        model.calls.clear()
        source({"text": [text], "label": [label]})
        (prefix,) = {query.prefix for query in model.calls}
        assert len(model.calls) == len(LABELS)
        assert "Message: " in prefix
        assert f"Message: {text}\n" not in prefix


# --- the lexicon


FAVOUR = {"renew": 0.0, "lost": -3.0, "pay": 2.0}
SAYS = {"extend": {"renew": 1.5}, "fine": {"pay": 2.0}, "gone": {"lost": 1.0}, "my": {}}


def answers(prompt: str, answer: str) -> float:
    """What the model favours whatever it reads, and what the last word asked about adds."""
    asked = prompt.rsplit("Message:", 1)[-1].split()[0]
    label = answer.split()[0]
    return FAVOUR[label] + SAYS[asked].get(label, 0.0)


def prior(**options: Any) -> LexiconPrior:
    data = labelled(["extend my fine", "My fine, gone", "extend"], [0, 1, 2])
    return LexiconPrior.from_dataset(data, model=MockLanguageModel(answers), probe_texts=0, **options)


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
