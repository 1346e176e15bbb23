import json
import pickle
from typing import Any

import pytest

from hf_cap.errors import DataError
from hf_cap.priors.keywords import WordLengthPrior
from tests.priors.conftest import LABELS


def test_each_word_scores_its_characters() -> None:
    batch: dict[str, list[Any]] = {"text": ["renew my  book!"], "label": ["renew"], "id": [7]}
    made = WordLengthPrior(labels=LABELS)(batch)
    assert made["prior_word_length"] == [[5.0, 2.0, 5.0]]
    assert made["words"] == [["renew", "my", "book!"]]
    assert made["id"] == [7]


def test_words_are_those_of_the_pattern() -> None:
    prior = WordLengthPrior(labels=LABELS, word_pattern=r"\w+|[^\w\s]")
    made = prior({"text": ["book!"], "label": [0]})
    assert made["prior_word_length"] == [[4.0, 1.0]]
    assert made["words"] == [["book", "!"]]


def test_provenance_is_added_to_what_is_there() -> None:
    cell = json.dumps({"cap": {"n": 100}})
    made = WordLengthPrior(labels=LABELS)({"text": ["a"], "label": [0], "provenance": [cell]})
    facts = json.loads(made["provenance"][0])
    assert facts["cap"] == {"n": 100}
    assert facts["word_length"]["source"] == "word_length"
    assert set(facts["word_length"]) == {
        "source",
        "label_space",
        "versions",
        "word_pattern",
        "text_column",
        "label_column",
    }


def test_a_single_row_is_refused() -> None:
    with pytest.raises(DataError, match=r"`dataset.map\(source, batched=True\)`"):
        WordLengthPrior(labels=LABELS)({"text": "a b", "label": 0})  # type: ignore[dict-item]


def test_the_label_space_has_one_digest_whatever_the_source() -> None:
    first = WordLengthPrior(labels=LABELS).facts["label_space"]
    assert WordLengthPrior(labels=LABELS, word_pattern=r"\S").facts["label_space"] == first
    assert WordLengthPrior(labels=LABELS[::-1]).facts["label_space"] != first


def test_it_travels_to_another_process() -> None:
    prior = WordLengthPrior(labels=LABELS)
    assert pickle.loads(pickle.dumps(prior)) == prior  # noqa: S301  # our own pickle


@pytest.mark.parametrize("text", ["", "  ", None])
def test_a_text_without_words_is_refused(text: str | None) -> None:
    with pytest.raises(DataError, match="finds no words"):
        WordLengthPrior(labels=LABELS)({"text": [text], "label": [0]})
