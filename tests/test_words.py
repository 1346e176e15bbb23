"""Words, their removal, the tokens that belong to them, and their counts per class."""

import logging
import math
import re
from collections.abc import Callable

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.stats import chi2_contingency
from sklearn.feature_extraction.text import TfidfTransformer

from hf_cap.words import (
    NO_WORD,
    UNSPACED,
    WordCounts,
    check_units,
    count_words,
    fold,
    keep_words,
    log_odds,
    phi,
    pool_shared,
    share_scores,
    split_words,
    tfidf,
    token_hosts,
    token_words,
    word_strings,
)


@pytest.mark.parametrize(
    ("text", "pattern", "words"),
    [
        (" I'm\there,  now ", r"\S+", ["I'm", "here,", "now"]),
        ("Hi, 你好", r"\w+|[^\w\s]", ["Hi", ",", "你好"]),
        ("你好", r"\S", ["你", "好"]),
        ("a b", r"\w*", ["a", "b"]),
        ("我想取消。", r"(?:\S+)", ["我想取消。"]),
    ],
)
def test_a_pattern_makes_the_units(text: str, pattern: str, words: list[str]) -> None:
    assert word_strings(text, pattern) == words
    assert [text[start:end] for start, end in split_words(text, pattern)] == words


@pytest.mark.parametrize(
    "words",
    [
        "我想 取消 我的 信用卡， 谢谢。",
        "東京 へ 行き たい",
        "ฉัน ต้องการ ยกเลิก บัตร",
        "ខ្ញុំ ចង់ លុប កាត",
        "ຂ້ອຍ ຕ້ອງການ ຍົກເລີກ",
        "ᨠ ᨾᩮᩬᩥ ꀀ ꀁ",  # without a dictionary: characters
        "iPhone15 很好。 「他」 来 了 （新）",  # punctuation stays with the word that it belongs to
        "𠀀 好 🇩🇪 是 👨\u200d👩\u200d👧 好 \ud83d 好的",  # beyond 16 bits, joined, and half a character
    ],
    ids=ascii,
)
def test_scripts_without_blanks_are_divided_into_words(words: str) -> None:
    assert word_strings(words.replace(" ", "")) == words.split()
    assert word_strings(f"a {words.replace(' ', '')}\tb") == ["a", *words.split(), "b"]


@given(
    st.text(st.characters(codec="utf-8", exclude_categories=["Lo", "Mn", "Mc"]) | st.sampled_from(" 。！카"))
)
def test_other_texts_have_the_words_between_blanks(text: str) -> None:
    assume(not UNSPACED.search(text))
    assert split_words(text) == [match.span() for match in re.finditer(r"\S+", text)]


@given(st.text(alphabet="ab 1-.,“(好我吗，。「」นะดีのカー카\u200d", max_size=30))
def test_a_division_loses_nothing(text: str) -> None:
    assert "".join(word_strings(text)) == "".join(text.split())


def test_divided_texts_are_counted_and_single_words_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        check_units(["你好吗", "hello there"])
        check_units(["你好吗", "hello"], r"(?:\S+)", "test")
    said = [record.getMessage() for record in caplog.records]
    assert said[0].startswith("1 of 2 texts of the training set hold a script without blanks")
    assert said[1].startswith("2 of 2 texts of the test set are a single word by word_pattern=")
    assert len(said) == 2


@pytest.mark.parametrize(
    ("text", "pattern", "kept", "expected"),
    [
        ("a  b c ", r"\S+", (True, True, True), "a  b c"),
        ("a  b c ", r"\S+", (False, True, True), "b c"),
        ("a  b c ", r"\S+", (True, False, True), "a  c"),
        ("a  b c ", r"\S+", (True, True, False), "a  b"),
        ("a  b c ", r"\S+", (False, False, False), ""),
        # neighbours are not glued together, nor apart in a script without spaces
        ("hello, world", r"\w+|[^\w\s]", (True, False, True), "hello world"),
        ("你好吗", r"\S", (True, False, True), "你吗"),
    ],
)
def test_deleting_leaves_one_gap(text: str, pattern: str, kept: tuple[bool, ...], expected: str) -> None:
    assert keep_words(text, split_words(text, pattern), kept) == expected


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


@pytest.mark.parametrize(
    ("text", "pattern", "offsets", "owners"),
    [
        #                         special   don     '       t     " go"   spaces  " now"   special
        ("don't go  now", r"\S+", [(0, 0), (0, 3), (3, 4), (4, 5), (5, 8), (8, 10), (9, 13), (0, 0)],
         [NO_WORD, 0, 0, 0, 1, NO_WORD, 2, NO_WORD]),
        ("a bc", r"\S+", [(0, 4)], [0]),
        ("a , b", r"\w+", [(0, 1), (2, 3), (4, 5)], [0, NO_WORD, 1]),
        ("(card)", r"\w+", [(0, 5), (5, 6)], [0, NO_WORD]),  # as in the tokenizers of Llama 3 and Qwen
    ],
)  # fmt: skip
def test_a_token_belongs_to_the_first_word_that_its_span_touches(
    text: str, pattern: str, offsets: list[tuple[int, int]], owners: list[int]
) -> None:
    assert token_words(offsets, split_words(text, pattern), text) == owners


def test_words_in_one_token_share_its_score_and_pool_their_priors() -> None:
    spans = split_words("abcde fg", r"\w")
    offsets = [(0, 0), (0, 2), (2, 4), (3, 5), (5, 7), (0, 0)]  # a-b, c-d, d-e, f; g is cut off
    owners = token_words(offsets, spans, "abcde fg")
    assert owners == [NO_WORD, 0, 2, 3, 5, NO_WORD]
    hosts = token_hosts(offsets, owners, spans)
    assert hosts == [0, 0, 2, 3, 3, 5, 6]
    assert share_scores([2.0, 0.0, 3.0, 4.0, 0.0, 5.0, 0.0], hosts) == [1, 1, 3, 2, 2, 5, 0]
    assert pool_shared([1.0, 2.0, 3.0, 4.0, -1.0, 5.0, 6.0], hosts) == [3, 0, 3, 3, 0, 5, 6]


# --- Counts


TEXTS = ["Renew the book!", "renew, renew my card", "lost the card", "lost book", "pay the card"]
LABELS = [0, 0, 1, 1, 1]
COUNTS = count_words(TEXTS, LABELS, 2)


def test_words_are_counted_once_per_text_without_case_and_punctuation() -> None:
    folded = {"Book!": "book", "“Don't”": "don't", "?!": "?!", "STRASSE": "strasse"}
    assert [fold(word) for word in folded] == list(folded.values())
    assert list(COUNTS.texts) == [2, 3]
    assert (COUNTS.words["renew"], COUNTS.words["card"]) == ([2, 0], [1, 2])


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


def test_tfidf_is_scikit_learns_and_log_odds_are_those_of_a_two_by_two_table() -> None:
    presence = [[1, 0], [1, 0], [0, 1], [0, 0], [0, 1]]  # renew, and card but for one text
    idf = TfidfTransformer().fit(presence).idf_[0]
    assert tfidf(COUNTS, "renew") == pytest.approx([idf, 0.0])
    assert tfidf(COUNTS, "book") == pytest.approx([idf / 2, idf / 3])
    first = math.log(2.5 / 0.5) - math.log(0.5 / 3.5)
    assert log_odds(COUNTS, "renew") == pytest.approx([first, -first])


@pytest.mark.parametrize("statistic", [phi, tfidf, log_odds])
def test_unknown_words_and_empty_classes_score_zero(
    statistic: Callable[[WordCounts, str], list[float]],
) -> None:
    assert statistic(COUNTS, "never") == [0.0, 0.0]
    counts = count_words(["a", "b"], [0, 0], 2)
    assert all(math.isfinite(score) for score in statistic(counts, "a"))
