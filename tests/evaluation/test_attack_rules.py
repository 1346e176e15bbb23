"""Keywords, rules and checks: the pure parts of the attacks."""

import json
import typing
from pathlib import Path

import numpy as np
import pytest
from sklearn.feature_selection import chi2

from hf_cap.evaluation.attacks import rewriting
from hf_cap.evaluation.attacks.keywords import (
    FUNCTION_WORDS,
    chi_squared_keywords,
    difficulties,
    overlap,
    prior_keywords,
)
from hf_cap.evaluation.attacks.rules import (
    MENTIONS,
    add_mention,
    load_lexicon,
    own_lexicon,
    replace_keywords,
)
from hf_cap.evaluation.attacks.settings import Difficulty, WantedDifficulty
from hf_cap.word_counts import fold

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


def test_overlap_on_paper() -> None:
    assert overlap(["a", "b", "c"], ["b", "c", "d"]) == 0.5
    assert overlap([], []) == 0.0


def test_difficulty_follows_the_overlap() -> None:
    keywords = (("a", "b"), ("x", "y"), ("a", "b"), ("a", "z"))
    assert difficulties(0, keywords) == {2: "hard", 3: "medium", 1: "easy"}
    assert difficulties(0, keywords[:2]) == {1: "hard"}
    assert {"any", *typing.get_args(Difficulty)} == set(typing.get_args(WantedDifficulty))


@pytest.mark.parametrize("text", ["i lost my card", "I lost my card.", "Where is it?", "  ok  "])
def test_a_mention_leaves_the_text_whole(text: str) -> None:
    for seed in range(20):
        attacked = add_mention(text, "loan", np.random.default_rng(seed))
        assert text.strip() in attacked
        assert "loan" in attacked.casefold().replace(",", " ").replace(".", " ").split()
        assert attacked == attacked.strip()
        assert attacked[:1].isupper() == text.strip()[:1].isupper()


def test_every_mention_has_its_place_for_the_keyword() -> None:
    assert all(mention.count("{keyword}") == 1 for mention in MENTIONS)


def test_replacement_keeps_capitals_punctuation_and_the_rest() -> None:
    lexicon = {"cancel": ["call off"], "fee": ["charge"]}
    rng = np.random.default_rng(0)
    attacked, replaced = replace_keywords(
        "Cancel my  (FEE), fees!", {"cancel", "fee", "fees"}, lexicon, rng
    )
    assert attacked == "Call off my  (CHARGE), fees!"
    assert replaced == ["cancel", "fee"]


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
    for word, synonyms in own_lexicon().items():
        assert word == fold(word)
        assert synonyms
        assert word not in synonyms


def test_a_users_lexicon_goes_first(tmp_path: Path) -> None:
    path = tmp_path / "synonyms.json"
    path.write_text(json.dumps({"Fee": ["toll"]}))
    lexicon = load_lexicon(str(path))
    assert lexicon["fee"] == ["toll"]
    assert lexicon["cancel"] == own_lexicon()["cancel"]


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
        ("I lost my loan\ncard", "several lines"),
        ("i LOST my card.", "nothing changed"),
        ("loan", "wrong length"),
        ("my loan " * 20, "wrong length"),
        ("my bank pass is gone", "keyword missing"),
        ("my loan card is gone", "keyword still there"),
        ("my pass is gone, not the loan", None),
    ],
)
def test_faults_of_a_rewritten_text(rewritten: str, reason: str | None) -> None:
    found = rewriting.fault("I lost my card", rewritten, required=["loan"], forbidden=["card"])
    assert found == reason


def test_only_a_plain_yes_agrees() -> None:
    assert rewriting.agrees("Yes.")
    assert not any(map(rewriting.agrees, ["no", "", "Well, yes", "yesterday"]))
