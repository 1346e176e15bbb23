"""Words, their removal, and the tokens that belong to them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_cap.words import NO_WORD, Span, keep_words, split_words, token_words, word_strings


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
