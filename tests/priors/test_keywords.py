import json
from typing import Any

import pytest
from datasets import ClassLabel, Dataset, Features, Value

from hf_cap.errors import ConfigError
from hf_cap.priors.keywords import STATISTICS, KeywordsPrior
from hf_cap.words import count_words
from tests.priors.conftest import LABELS

TEXTS = ["Renew the book!", "renew my card", "lost the card", "lost book", "pay the card"]
GOLD = [0, 0, 1, 1, 2]


@pytest.fixture
def train() -> Dataset:
    features = Features({"text": Value("string"), "label": ClassLabel(names=list(LABELS))})
    return Dataset.from_dict({"text": TEXTS, "label": GOLD}, features)


@pytest.mark.parametrize("statistic", list(STATISTICS))
def test_each_word_scores_its_statistic_for_the_gold_label(train: Dataset, statistic: Any) -> None:
    prior = KeywordsPrior.from_dataset(train, statistic=statistic)
    counts = count_words(TEXTS, GOLD, 3)
    made = prior({"text": ["RENEW the lost novel."], "label": ["lost"]})["prior_keywords"][0]
    expected = [STATISTICS[prior.statistic](counts, word)[1] for word in ("renew", "the", "lost")]
    assert made == pytest.approx([*expected, 0.0])


def test_a_word_list_holds_for_every_label(train: Dataset) -> None:
    prior = KeywordsPrior.from_dataset(train, word_list=("Renew", "lost"))
    made = prior({"text": ["renew lost card"] * 2, "label": [0, 2]})["prior_keywords"]
    assert made == [[1.0, 1.0, 0.0]] * 2
    assert not prior.table


def test_what_was_learnt_is_part_of_the_cache_key_and_a_digest_in_the_provenance(
    train: Dataset,
) -> None:
    prior = KeywordsPrior.from_dataset(train)
    mapped = train.map(prior, batched=True)
    again = train.map(KeywordsPrior.from_dataset(train), batched=True)
    other = train.map(KeywordsPrior.from_dataset(train.select(range(4))), batched=True)
    assert mapped._fingerprint == again._fingerprint != other._fingerprint
    facts = json.loads(mapped["provenance"][0])["keywords"]
    assert facts["statistic"] == "chi_squared"
    assert len(facts["table"]) == 16


def test_one_that_has_learnt_nothing_says_how_to_make_one() -> None:
    with pytest.raises(ConfigError, match=r"from_dataset\(train\)"):
        KeywordsPrior(labels=LABELS)({"text": ["pay"], "label": [0]})


def test_an_unknown_statistic_is_refused() -> None:
    with pytest.raises(ConfigError, match="got 'gini'"):
        KeywordsPrior(labels=LABELS, statistic="gini")  # type: ignore[arg-type]
