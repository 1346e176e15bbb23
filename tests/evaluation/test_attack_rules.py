"""Keywords, rules and checks: the pure parts of the attacks."""

import json
import typing
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from sklearn.feature_selection import chi2

from hf_cap.errors import ConfigError
from hf_cap.evaluation.attacks import rewriting
from hf_cap.evaluation.attacks.keywords import (
    FUNCTION_WORDS,
    chi_squared_keywords,
    difficulties,
    prior_keywords,
)
from hf_cap.evaluation.attacks.rules import (
    MENTIONS,
    Lexicon,
    Role,
    add_mention,
    load_lexicon,
    own_lexicon,
    replace_keywords,
)
from hf_cap.words import fold

TEXTS = [
    "I lost my card!",
    "card stolen",
    "new card please",
    "renew the loan",
    "loan is late",
    "late fine",
]
LABELS = [0, 0, 0, 1, 1, 2]


def test_chi_squared_keywords_on_paper() -> None:
    found = chi_squared_keywords(TEXTS, LABELS, 3, 2)
    # "card" is in all three texts of class 0 and nowhere else: chi-squared 6
    assert found[0][0] == "card"
    assert found[1][0] == "loan"
    assert found[2] == ("fine", "late")
    assert chi_squared_keywords(TEXTS, LABELS, 3, 5, least_texts=2) == (("card",), ("loan",), ())


def test_the_order_of_keywords_is_that_of_scikit_learns_chi_squared() -> None:
    rng = np.random.default_rng(0)
    vocabulary = [f"word{letter}" for letter in "abcdefgh"]
    present = rng.random((200, 8)) < rng.random(8)
    labels = rng.integers(0, 2, 200)
    texts = [" ".join(np.array(vocabulary)[row]) or "and" for row in present]
    found = chi_squared_keywords(texts, labels.tolist(), 2, 8)
    both = [np.stack([present[:, w], ~present[:, w]], 1) for w in range(8)]
    # scikit-learn gives one column of the table; the statistic is the sum over presence and absence
    statistic = {vocabulary[w]: chi2(both[w], labels)[0].sum() for w in range(8)}
    for words in found:
        assert list(words) == sorted(words, key=lambda word: -statistic[word])
    assert sorted(found[0] + found[1]) == vocabulary


def test_function_words_and_short_words_are_no_keywords() -> None:
    found = chi_squared_keywords(["the with would it 12 ok isn't", "card"], [0, 1], 2, 9)
    assert found == ((), ("card",))
    assert all(word == word.casefold() for word in FUNCTION_WORDS)


def test_prior_keywords_are_those_of_the_highest_sum() -> None:
    priors = [[0.0, 0.9, 0.0, 0.5], [0.8, -1.0], None, [0.1, 0.0, 0.7], [0.7, 0.0, 0.0], [0.0, 0.2]]
    found = prior_keywords(TEXTS, LABELS, priors, 3, 2)
    assert found == (("card", "lost"), ("loan", "renew"), ("fine",))


def test_difficulty_follows_the_overlap() -> None:
    keywords = (("a", "b"), ("x", "y"), ("a", "b"), ("a", "z"))
    assert difficulties(0, keywords) == {2: "hard", 3: "medium", 1: "easy"}
    assert difficulties(0, keywords[:2]) == {1: "hard"}


@pytest.mark.parametrize(
    ("others", "sizes"),
    [(1, (1, 0, 0)), (2, (1, 0, 1)), (3, (1, 1, 1)), (4, (1, 2, 1)), (5, (2, 1, 2)),
     (6, (2, 2, 2)), (63, (21, 21, 21)), (76, (25, 26, 25))],
)  # fmt: skip
def test_difficulties_are_thirds(others: int, sizes: tuple[int, ...]) -> None:
    # class n shares the words below n with class 0: the more, the harder
    words = [str(word) for word in range(others + 1)]
    keywords = (tuple(words), *(tuple(words[:n]) for n in range(1, others + 1)))
    found = difficulties(0, keywords)
    levels = [found[n] for n in range(others, 0, -1)]
    assert levels == [
        level
        for level, size in zip(("hard", "medium", "easy"), sizes, strict=True)
        for _ in range(size)
    ]


@pytest.mark.parametrize(
    ("text", "places"),
    [
        ("i lost my card", {"{}, i lost my card", "i lost my card, {}"}),
        ("Where is it?", {"{C}. Where is it?", "Where is it? {C}."}),
        ("Hello there, is it in", {"Hello there, {c}, is it in", "Hello there, is it in, {c}"}),
        ("A dog ate it. Sorry!", {"{C}. A dog ate it. Sorry!", "A dog ate it. {C}. Sorry!",
                                  "A dog ate it. Sorry! {C}."}),
        ("u. s. d. to euro", {"{}, u. s. d. to euro", "u. s. d. to euro, {}"}),
        ("  ok  ", {"{}, ok", "ok, {}"}),
    ],
)  # fmt: skip
def test_a_mention_stands_where_a_remark_can(text: str, places: set[str]) -> None:
    lower = [mention.format(keyword="loan").casefold() for mention in MENTIONS]
    exact = [mention.format(keyword="loan") for mention in MENTIONS]
    found = {add_mention(text, "loan", np.random.default_rng(seed)) for seed in range(200)}
    possible = {
        place.replace("{}", small).replace("{c}", big).replace("{C}", big[0].upper() + big[1:])
        for place in places
        for small, big in zip(lower, exact, strict=True)
    }
    assert found == possible


def test_replacement_keeps_capitals_punctuation_and_the_rest() -> None:
    lexicon = {"cancel": ["call off"], "fee": ["charge"]}
    rng = np.random.default_rng(0)
    attacked, replaced = replace_keywords(
        "Cancel my  (FEE), fees!", {"cancel", "fee", "fees"}, lexicon, rng
    )
    assert attacked == "Call off my  (CHARGE), fees!"
    assert replaced == ["cancel", "fee"]


@pytest.mark.parametrize(
    ("text", "attacked"),
    [
        ("book a flight", "reserve a flight"),
        ("can you book it", "can you reserve it"),
        ("i lost the book", "i lost the volume"),
        ("book club", "book club"),
        ("please book", "please reserve"),
        ("An alarm for a BILL", "A wake-up call for an INVOICE"),
        ("cancel it", "cancel it"),
        ("this music is loud", "this music is loud"),
        ("the music is loud", "the tunes is loud"),
        ("news of headlines", "news of headlines"),
    ],
)
def test_synonyms_fit_their_sentence(text: str, attacked: str) -> None:
    lexicon: Lexicon = {
        "book": {"noun": ["volume"], "verb": ["reserve"]},
        "alarm": ["wake-up call"],
        "bill": ["invoice"],
        "cancel": ["call off"],
        "music": ["tunes"],
        "news": ["headlines"],
    }
    rng = np.random.default_rng(0)
    assert replace_keywords(text, set(lexicon), lexicon, rng)[0] == attacked


def test_a_synonym_is_never_a_keyword_itself() -> None:
    lexicon = {"fee": ["charge", "price"]}
    for seed in range(10):
        attacked, _ = replace_keywords(
            "fee", {"fee", "charge"}, lexicon, np.random.default_rng(seed)
        )
        assert attacked == "price"
    rng = np.random.default_rng(0)
    assert replace_keywords("fee", {"fee", "charge", "price"}, lexicon, rng) == ("fee", [])
    assert replace_keywords("fee", {"card"}, lexicon, rng) == ("fee", [])


def test_the_own_lexicon_is_folded_and_never_maps_a_word_to_itself() -> None:
    for word, entry in own_lexicon().items():
        parts = entry if isinstance(entry, Mapping) else {"noun": entry}
        assert set(parts) <= set(typing.get_args(Role))
        assert word == fold(word)
        for synonyms in parts.values():
            assert synonyms
            assert word not in synonyms


def test_a_users_lexicon_goes_first(tmp_path: Path) -> None:
    path = tmp_path / "synonyms.json"
    path.write_text(json.dumps({"Fee": ["toll"]}))
    lexicon = load_lexicon(str(path))
    assert lexicon["fee"] == ["toll"]
    assert lexicon["cancel"] == own_lexicon()["cancel"]


@pytest.mark.parametrize("content", ["[]", "{", '{"fee": "toll"}', '{"fee": {"noum": ["toll"]}}'])
def test_a_bad_lexicon_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "synonyms.json"
    path.write_text(content)
    with pytest.raises(ConfigError, match="Cannot read synonyms"):
        load_lexicon(str(path))
    with pytest.raises(ConfigError, match="Cannot read synonyms"):
        load_lexicon(str(tmp_path / "none.json"))


@pytest.mark.parametrize(
    ("reply", "clean"),
    [
        (' "A card."\n', "A card."),
        ("Rewritten message: a card", "a card"),
        ("plain", "plain"),
        ('"', '"'),
    ],
)
def test_replies_are_cleaned(reply: str, clean: str) -> None:
    assert rewriting.clean_reply(reply) == clean


@pytest.mark.parametrize(
    ("rewritten", "reason"),
    [
        ("", "empty reply"),
        ("I'm sorry, but I can't help with that.", "refusal"),
        ("I’m sorry, but I can’t help with my pass.", "refusal"),
        ("Unfortunately, I cannot rewrite my pass.", "refusal"),
        ("I lost my loan\ncard", "several lines"),
        ("i LOST my card.", "nothing changed"),
        ("loan", "wrong length"),
        ("my loan " * 20, "wrong length"),
        ("Here is the rewritten message: my loan", "request echoed"),
        ("my bank pass is gone", "keyword missing"),
        ("my loan card is gone", "keyword still there"),
        ("my pass is gone, not the loan", None),
    ],
)
def test_faults_of_a_rewritten_text(rewritten: str, reason: str | None) -> None:
    found = rewriting.fault("I lost my card", rewritten, required=["loan"], forbidden=["card"])
    assert found == reason


def test_an_apology_of_the_writer_is_no_refusal() -> None:
    original, rewritten = "sorry, i can not find my card", "sorry, i cannot find my pass"
    assert rewriting.fault(original, rewritten) is None


def test_only_a_plain_yes_agrees() -> None:
    assert rewriting.agrees("Yes.")
    assert not any(map(rewriting.agrees, ["no", "", "Well, yes", "yesterday"]))
