"""Words, their removal, the tokens that belong to them, and their counts per class."""

import math
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chi2_contingency
from sklearn.feature_extraction.text import TfidfTransformer

from hf_cap.words import (
    NO_WORD,
    Span,
    WordCounts,
    count_words,
    fold,
    keep_words,
    log_odds,
    phi,
    split_words,
    tfidf,
    token_words,
    word_strings,
)


def test_words_are_runs_of_non_white_space() -> None:
    assert split_words(" I'm\there,  now ") == [Span(1, 4), Span(5, 10), Span(12, 15)]


def test_a_pattern_makes_other_units() -> None:
    assert word_strings("Hi, 你好", r"\w+|[^\w\s]") == ["Hi", ",", "你好"]
    assert word_strings("你好", r"\S") == ["你", "好"]


def test_a_pattern_that_matches_nothing_gives_no_empty_words() -> None:
    assert split_words("a b", r"\w*") == [Span(0, 1), Span(2, 3)]


@pytest.mark.parametrize(
    ("kept", "expected"),
    [
        ((True, True, True), "a  b c"),
        ((False, True, True), "b c"),
        ((True, False, True), "a  c"),
        ((True, True, False), "a  b"),
        ((False, False, False), ""),
    ],
)
def test_deleting_leaves_one_gap(kept: tuple[bool, ...], expected: str) -> None:
    text = "a  b c "
    assert keep_words(text, split_words(text), kept) == expected


def test_deleting_punctuation_does_not_glue_its_neighbours() -> None:
    pattern = r"\w+|[^\w\s]"
    text = "hello, world"
    assert keep_words(text, split_words(text, pattern), (True, False, True)) == "hello world"


def test_deleting_a_character_of_a_script_without_spaces_adds_none() -> None:
    text = "你好吗"
    assert keep_words(text, split_words(text, r"\S"), (True, False, True)) == "你吗"


def test_replacing_keeps_every_gap() -> None:
    text = "a  b c"
    assert keep_words(text, split_words(text), (True, False, False), "__") == "a  __ __"


@given(st.text(alphabet="ab \t\n.,", max_size=30))
def test_keeping_every_word_changes_nothing_but_the_ends(text: str) -> None:
    spans = split_words(text)
    assert keep_words(text, spans, [True] * len(spans)) == text.strip()


@given(st.lists(st.tuples(st.text("abc", min_size=1, max_size=4), st.booleans()), max_size=8))
def test_the_kept_words_are_the_words_of_the_result(words: list[tuple[str, bool]]) -> None:
    text = " ".join(word for word, _ in words)
    result = keep_words(text, split_words(text), [keep for _, keep in words])
    assert word_strings(result) == [word for word, keep in words if keep]


def test_a_token_belongs_to_the_word_that_its_span_starts_in() -> None:
    text = "don't go  now"
    spans = split_words(text)
    offsets = [(0, 0), (0, 3), (3, 4), (4, 5), (5, 8), (8, 10), (9, 13), (0, 0)]
    #         special   don     '       t     " go"   spaces  " now"   special
    assert token_words(offsets, spans, text) == [NO_WORD, 0, 0, 0, 1, NO_WORD, 2, NO_WORD]


def test_a_token_over_two_words_belongs_to_the_first() -> None:
    text = "a bc"
    assert token_words([(0, 4)], split_words(text), text) == [0]


def test_a_token_between_words_belongs_to_none() -> None:
    text = "a , b"
    assert token_words([(0, 1), (2, 3), (4, 5)], split_words(text, r"\w+"), text) == [0, NO_WORD, 1]


# --- Counts


TEXTS = ["Renew the book!", "renew, renew my card", "lost the card", "lost book", "pay the card"]
LABELS = [0, 0, 1, 1, 1]
COUNTS = count_words(TEXTS, LABELS, 2)


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


@pytest.mark.parametrize("statistic", [phi, tfidf, log_odds])
def test_unknown_words_and_empty_classes_score_zero(
    statistic: Callable[[WordCounts, str], list[float]],
) -> None:
    assert statistic(COUNTS, "never") == [0.0, 0.0]
    counts = count_words(["a", "b"], [0, 0], 2)
    assert all(math.isfinite(score) for score in statistic(counts, "a"))
