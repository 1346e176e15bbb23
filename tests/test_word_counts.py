import math
from typing import get_args

import pytest
from scipy.stats import chi2_contingency
from sklearn.feature_extraction.text import TfidfTransformer

from hf_cap.priors.keywords import STATISTICS, Statistic
from hf_cap.words import count_words, fold, log_odds, phi, tfidf

TEXTS = ["Renew the book!", "renew, renew my card", "lost the card", "lost book", "pay the card"]
LABELS = [0, 0, 1, 1, 1]
COUNTS = count_words(TEXTS, LABELS, 2)


def test_every_statistic_of_the_settings_has_a_function() -> None:
    assert set(STATISTICS) == set(get_args(Statistic))


@pytest.mark.parametrize(
    ("word", "folded"),
    [("Book!", "book"), ("“Don't”", "don't"), ("?!", "?!"), ("STRASSE", "strasse")],
)
def test_words_are_counted_without_case_and_punctuation(word: str, folded: str) -> None:
    assert fold(word) == folded


def test_a_word_counts_once_a_text() -> None:
    assert list(COUNTS.texts) == [2, 3]
    assert COUNTS.words["renew"] == [2, 0]
    assert COUNTS.words["card"] == [1, 2]


@pytest.mark.parametrize("word", ["renew", "card", "lost", "the", "pay"])
def test_phi_squared_is_scipys_chi_squared_over_the_number_of_texts(word: str) -> None:
    in_class, outside = COUNTS.words[word]
    table = [[in_class, outside], [2 - in_class, 3 - outside]]
    expected = chi2_contingency(table, correction=False).statistic / 5
    scores = phi(COUNTS, word)
    assert [score**2 for score in scores] == pytest.approx([expected, expected])
    assert scores[0] == pytest.approx(-scores[1])


def test_phi_is_one_for_a_word_of_exactly_one_class_and_zero_for_a_word_of_all() -> None:
    counts = count_words(["a x", "b x"], [0, 1], 2)
    assert phi(counts, "a") == pytest.approx([1.0, -1.0])
    assert phi(counts, "x") == [0.0, 0.0]


def test_tfidf_has_scikit_learns_inverse_document_frequency() -> None:
    presence = [[1, 0], [1, 0], [0, 1], [0, 0], [0, 1]]  # renew, and card but for one text
    idf = TfidfTransformer().fit(presence).idf_[0]
    assert tfidf(COUNTS, "renew") == pytest.approx([idf, 0.0])
    assert tfidf(COUNTS, "book") == pytest.approx([idf / 2, idf / 3])


def test_log_odds_of_a_two_by_two_table_by_hand() -> None:
    first = math.log(2.5 / 0.5) - math.log(0.5 / 3.5)
    assert log_odds(COUNTS, "renew") == pytest.approx([first, -first])


@pytest.mark.parametrize("statistic", STATISTICS.values(), ids=list(STATISTICS))
def test_unknown_words_and_empty_classes_score_zero(statistic: object) -> None:
    assert callable(statistic)
    assert statistic(COUNTS, "never") == [0.0, 0.0]
    counts = count_words(["a", "b"], [0, 0], 2)
    assert all(math.isfinite(score) for score in statistic(counts, "a"))
