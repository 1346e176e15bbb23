"""Attacks: keywords, rules, checks of a chat model's replies, and what happens to a data set."""

import json
import typing
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import ClassLabel, Dataset
from sklearn.feature_selection import chi2

from hf_cap.errors import ConfigError, DataError, PriorError
from hf_cap.evaluation import attack_rules
from hf_cap.evaluation.attacks import (
    Attack,
    attack_dataset,
    clean_reply,
    describe,
    faults,
    may_pass,
    prepare_attack,
    run_attack,
)
from hf_cap.evaluation.settings import AttackSettings, Kind
from hf_cap.lm.base import LMSettings, MockLanguageModel, Reply, Sampling
from hf_cap.words import WORD_PATTERN, fold

NAMES = ["lost_card", "renew_loan", "pay_fine"]
TRAIN = {
    "lost_card": ["my card is lost", "lost card again", "card lost on the bus"],
    "renew_loan": ["renew my loan", "loan renewal please renew", "renew the loan again"],
    "pay_fine": ["pay the fine", "fine to pay", "pay my late fine"],
}


def dataset(texts: Sequence[str], labels: Sequence[str], names: Sequence[str] = NAMES) -> Dataset:
    columns = {"text": list(texts), "label": [names.index(label) for label in labels]}
    return Dataset.from_dict(columns).cast_column("label", ClassLabel(names=list(names)))


def train() -> Dataset:
    pairs = [(text, name) for name, texts in TRAIN.items() for text in texts]
    return dataset([text for text, _ in pairs], [name for _, name in pairs])


TEST = dataset(["I lost it, the card.", "renew this", "can i pay now", "hello"], [*NAMES, NAMES[2]])

# --- A data set


def test_addition_by_rule() -> None:
    attacked = attack_dataset(TEST, train())
    added = ["original", "keyword", "source_label", "difficulty", "changed", "maker", "note"]
    assert attacked.column_names == ["text", "label", *added]
    assert attacked.features["label"].names == NAMES
    keywords = dict(zip(NAMES, prepare_attack(train(), AttackSettings()).keywords, strict=True))
    for row, before in zip(attacked, TEST, strict=True):
        assert (row["original"], row["label"]) == (before["text"], before["label"])
        assert (row["changed"], row["maker"], row["note"]) == (True, "rules", "")
        assert row["keyword"] in row["text"].casefold()
        assert row["keyword"] in keywords[row["source_label"]]
        assert row["keyword"] not in keywords[NAMES[row["label"]]]


def test_the_attacked_texts_never_change() -> None:
    # published results name their test texts by kind and seed
    assert attack_dataset(TEST, train())["text"][:] == [
        "Never mind the fine thing. I lost it, the card.",
        "renew this, the fine thing can wait",
        "can i pay now, i did not say renew",
        "hello, i did not say lost",
    ]
    for difficulty in ("easy", "hard"):
        wanted: Any = {"difficulty": difficulty}
        attacked = attack_dataset(TEST, train(), AttackSettings(**wanted))
        assert set(attacked["difficulty"]) == {difficulty}


@pytest.mark.parametrize("unchanged", ["keep", "drop"])
def test_replacement_by_rule_reports_what_it_leaves(unchanged: Any, caplog: pytest.LogCaptureFixture) -> None:
    settings = AttackSettings(kind="keyword_replacement", unchanged=unchanged)
    attacked = attack_dataset(TEST, train(), settings).to_list()
    columns = ("text", "keyword", "source_label", "changed", "note")
    left = [("hello", "", "pay_fine", False, "no keyword")] if unchanged == "keep" else []
    assert [tuple(row[name] for name in columns) for row in attacked[2:]] == [
        ("can i settle now", "pay", "pay_fine", True, ""), *left
    ]  # fmt: skip
    assert "3 of 4 texts changed; 1 unchanged; notes: no keyword 1." in caplog.text


def test_a_choice_depends_on_seed_and_text_only() -> None:
    attack, batch = prepare_attack(train(), AttackSettings()), TEST[:]
    whole = attack(batch)["text"]
    rows = [{name: [batch[name][row]] for name in batch} for row in range(len(TEST))]
    assert whole == [attack(row)["text"][0] for row in rows]
    assert whole != prepare_attack(train(), AttackSettings(seed=1))(batch)["text"]


def test_an_added_word_is_neither_in_the_text_nor_a_keyword_of_its_class() -> None:
    keywords = (("card", "bank"), ("card", "loan"))
    for seed in range(8):
        attack = Attack(AttackSettings(seed=seed), ("lost_card", "renew_loan"), keywords)
        found = attack({"text": ["hello", "a Loan?"], "label": [0, 0]})
        assert found["keyword"] == ["loan", ""]
        assert found["note"] == ["", "no keyword"]


def test_keywords_from_a_prior() -> None:
    settings = AttackSettings(keywords_from="prior")
    priors = [[float(word == "bus") for word in text.split()] for text in train()["text"]]
    found = prepare_attack(train().add_column("prior", priors), settings)
    assert found.keywords == (("bus",), (), ())
    with pytest.raises(DataError, match=r"need the column 'prior'; the training data has"):
        prepare_attack(train(), settings)
    texts = dataset(["my card", "lost-card again"], ["lost_card"] * 2)
    texts = texts.add_column("prior_cap", [None, [0.5, 0.1]])
    settings = AttackSettings(keywords_from="prior", prior_column="prior_cap", word_pattern=r"\w+|[^\w\s]")
    with pytest.raises(PriorError, match=r"'prior_cap', row 1: 2 scores for 4 words .*word_p"):
        prepare_attack(texts, settings)


CARDS = dataset(TRAIN["lost_card"] + TRAIN["pay_fine"], ["lost_card"] * 3 + ["pay_fine"] * 3)


@pytest.mark.parametrize(
    ("test", "training", "message"),
    [
        (dataset(["a"], ["x"], ["x"]), train(), "one label space"),
        (TEST, dataset(["a b"], ["lost_card"]), "No class has a keyword"),
        (TEST, CARDS, r"1 test texts have labels of which .*\['renew_loan'\]"),
        (dataset(["hello"], [NAMES[2]]), train(), "nothing: 0 of 1 texts changed; 1 unchanged; no"),
    ],
)
def test_bad_data_is_refused(test: Dataset, training: Dataset, message: str) -> None:
    with pytest.raises(DataError, match=message):
        attack_dataset(test, training, AttackSettings(kind="keyword_replacement"))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"unchanged": "rules"}, "unchanged='rules' is for maker='chat'"),
        ({"maker": "rule"}, "`maker` must be one of"),
        ({"keywords": 0}, "`keywords` must be at least 1"),
        ({"constrained": True}, "constrained"),
        ({"maker": "chat", "constrained": True, "base_url": "http://x/v1"}, "constrained"),
    ],
)
def test_bad_settings_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        AttackSettings(**wrong)


# --- A chat model


def chatty(**replies: str) -> MockLanguageModel:
    """Judges yes, and rewrites as told by a word of the text."""

    def reply(prompt: str) -> str:
        if prompt.startswith("Is the topic"):
            verdicts = {"dubious": "no", "vague": "Well, yes", "odd": "yesterday"}
            return next((text for word, text in verdicts.items() if word in prompt), "Yes.")
        message = prompt.split("Message: ")[1].splitlines()[0].split()
        return next((text for word, text in replies.items() if word in message), "?")

    return MockLanguageModel(reply=reply)


def written(model: MockLanguageModel, unchanged: Any = "keep") -> list[tuple[str, str]]:
    settings = AttackSettings(kind="keyword_replacement", maker="chat", unchanged=unchanged)
    found = prepare_attack(train(), settings, model)(TEST[:])
    return list(zip(found["text"], found["note"], strict=True))


@pytest.mark.parametrize("doubt", ["dubious", "vague", "odd"])
def test_a_chat_model_rewrites_and_is_judged(doubt: str) -> None:
    chat = chatty(I="It is gone, my pass.", this=f"{doubt}: extend that", now="I cannot do that.")
    assert written(chat) == [
        ("It is gone, my pass.", ""),
        ("renew this", "label not confirmed"),
        ("can i pay now", "refusal"),
        ("hello", "no keyword"),
    ]
    rewriting, judging = chat.asked[:3], chat.asked[3:]
    assert '"lost", "card"' in rewriting[0]
    assert "The topic stays: lost card." in rewriting[0]
    assert len(judging) == 2


def test_the_rules_write_what_the_chat_model_cannot() -> None:
    chat = chatty(I="It is gone, my pass.", this="As an AI, no.", now="Sorry?\nWhat?")
    assert written(chat, unchanged="rules") == [
        ("It is gone, my pass.", ""),
        ("extend this", "refusal"),
        ("can i settle now", "several lines"),
        ("hello", "no keyword"),
    ]
    settings = AttackSettings(kind="keyword_replacement", maker="chat", unchanged="rules")
    _, summary = run_attack(TEST, train(), prepare_attack(train(), settings, chat))
    assert summary == {
        "texts": 4,
        "changed": 3,
        "dropped": 0,
        "makers": {"rules": 2, "chat": 1},
        "difficulties": {},
        "notes": {"refusal": 1, "several lines": 1, "no keyword": 1},
    }
    assert "written by rules 2, chat 1" in describe(summary)


def test_the_settings_name_the_chat_model_and_how_it_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    opened, sampled = [], []

    class Chat(MockLanguageModel):
        def generate(self, prompts: Any, sampling: Any, on_result: Any = None) -> Any:
            sampled.append(sampling)
            return super().generate(prompts, sampling, on_result)

    def open_language_model(model: LMSettings) -> Chat:
        opened.append(model)
        return Chat(reply=lambda prompt: "Gone, my pass, truly.")

    monkeypatch.setattr("hf_cap.evaluation.attacks.open_language_model", open_language_model)
    settings = AttackSettings(
        kind="keyword_replacement", maker="chat", model="m", base_url="http://x/v1", seed=7,
        max_new_tokens=5, unchanged="rules",
    )  # fmt: skip
    attack_dataset(TEST, train(), settings)
    assert opened == [LMSettings(model="m", base_url="http://x/v1")]
    assert set(sampled) == {Sampling(max_new_tokens=5, temperature=0.0, seed=7)}


@pytest.mark.parametrize(
    ("reply", "clean"),
    [(' "A card."\n', "A card."), ("Rewritten message: a card", "a card"), ("plain",) * 2, ('"',) * 2],
)
def test_replies_are_cleaned(reply: str, clean: str) -> None:
    assert clean_reply(reply) == clean


@pytest.mark.parametrize(
    ("rewritten", "reason"),
    [
        ("", "empty reply"),
        ("?", "empty reply"),
        ("I'm sorry, but I can't help with that.", "refusal"),
        ("I’m sorry, but I can’t help with my pass.", "refusal"),
        ("Unfortunately, I cannot rewrite my pass.", "refusal"),
        ("I lost my loan\ncard", "several lines"),
        ("i LOST my card.", "nothing changed"),
        ("loan", "too short"),
        ("my loan " * 20, "too long"),
        ("Here is the rewritten message: my loan", "request echoed"),
        ("my bank pass is gone", "keyword missing"),
        ("my loan card is gone", "keyword still there"),
        ("my pass is gone, not the loan, plane", "keyword of another class"),
        ("my pass is gone, not the loan", None),
    ],
)
def test_faults_of_a_rewritten_text(rewritten: str, reason: str | None) -> None:
    found = faults("I lost my card", rewritten, ["loan"], ["card"], WORD_PATTERN, {"card", "plane"})
    assert next(iter(found), None) == reason


def test_an_apology_of_the_writer_is_no_refusal() -> None:
    apology = "sorry, i can not find my card"
    assert faults(apology, "sorry, i cannot find my pass", [], [], WORD_PATTERN) == []


CHECK = partial(
    faults, "I lost my card", required=["loan"], forbidden=["card"], pattern=WORD_PATTERN, others={"plane"},
)  # fmt: skip


def test_every_beginning_of_a_text_that_passes_may_pass_and_only_what_passes_may_end() -> None:
    longest = " ".join(["my pass is gone"] * 4 + ["and the loan"])  # 19 words, of 18 at most
    assert CHECK(longest) == ["too long"]
    for text in ("my pass is gone, not the loan", "Planes lost my cards, no loan", longest[3:]):
        assert CHECK(text) == []
        assert may_pass(CHECK, ["loan"], text, True)
        for end in range(len(text) + 1):
            assert may_pass(CHECK, ["loan"], text[:end], False), text[:end]
    for text in ("my pass is gone", ""):
        assert not may_pass(CHECK, ["loan"], text, True)
    beyond_repair = ("my card ", "a plane t", "As an AI, ", "my\n", "rewritten a", "no " * 17 + "lot")
    for text in (*beyond_repair, "my loan " * 10):
        assert not may_pass(CHECK, ["loan"], text, False), text


def test_a_constrained_model_gets_the_checks() -> None:
    asked = []

    class Local(MockLanguageModel):
        def generate_within(self, prompts: Any, sampling: Any, constraints: Any) -> Any:
            asked.append(sampling)
            offers = ["my card is gone", "my pass is gone", "let me extend that"]
            ends = [[one for one in offers if allowed(one, True)] for allowed in constraints]
            return [Reply(found[0]) if found else None for found in ends]

    model = Local(reply=lambda prompt: "Yes")
    settings = AttackSettings(kind="keyword_replacement", maker="chat", constrained=True, seed=3)
    made = attack_dataset(TEST, train(), settings, model)
    assert made["text"][0] == "my pass is gone"
    assert made["changed"][0]
    assert set(asked) == {Sampling(max_new_tokens=96, temperature=1.0, seed=3)}


# --- Keywords

TEXTS = ["I lost my card!", "card stolen", "new card please", "renew the loan", "loan is late"]
TEXTS += ["late fine"]
LABELS = [0, 0, 0, 1, 1, 2]


@pytest.mark.parametrize(
    ("texts", "keywords"),
    [
        (["罰金を払いたいです", "罰金はいくら"], ("罰金",)),
        (["मुझे किताब चाहिए", "किताब कहाँ है"], ("किताब",)),  # vowel signs are marks, not letters
        (["e-mail an dich", "e-mail --- 12:30"], ("e-mail",)),
    ],
)
def test_keywords_of_other_scripts(texts: list[str], keywords: tuple[str, ...]) -> None:
    assert attack_rules.class_keywords([*texts, "card", "x"], [0, 0, 1, 1], 2, 1, 2)[0] == keywords


def test_chi_squared_keywords_on_paper() -> None:
    found = attack_rules.class_keywords(TEXTS, LABELS, 3, 2)
    # "card" is in all three texts of class 0 and nowhere else: chi-squared 6
    assert (found[0][0], found[1][0], found[2]) == ("card", "loan", ("fine", "late"))
    assert attack_rules.class_keywords(TEXTS, LABELS, 3, 5, 2) == (("card",), ("loan",), ())
    content = attack_rules.class_keywords(["the with would it 12 ok isn't", "card"], [0, 1], 2, 9)
    assert content == ((), ("card",))
    assert all(word == word.casefold() for word in attack_rules.FUNCTION_WORDS)


def test_the_order_of_keywords_is_that_of_scikit_learns_chi_squared() -> None:
    rng = np.random.default_rng(0)
    vocabulary = [f"word{letter}" for letter in "abcdefgh"]
    present = rng.random((200, 8)) < rng.random(8)
    labels = rng.integers(0, 2, 200)
    texts = [" ".join(np.array(vocabulary)[row]) or "and" for row in present]
    found = attack_rules.class_keywords(texts, labels.tolist(), 2, 8)
    both = [np.stack([present[:, w], ~present[:, w]], 1) for w in range(8)]
    # scikit-learn gives one column of the table; the statistic is the sum over presence and absence
    statistic = {vocabulary[w]: chi2(both[w], labels)[0].sum() for w in range(8)}
    for words in found:
        assert list(words) == sorted(words, key=lambda word: -statistic[word])
    assert sorted(found[0] + found[1]) == vocabulary


def test_prior_keywords_are_those_of_the_highest_sum() -> None:
    priors = [[0.0, 0.9, 0.0, 0.5], [0.8, -1.0], None, [0.1, 0.0, 0.7], [0.7, 0.0, 0.0], [0.0, 0.2]]
    found = attack_rules.class_keywords(TEXTS, LABELS, 3, 2, priors=priors)
    assert found == (("card", "lost"), ("loan", "renew"), ("fine",))


@pytest.mark.parametrize(
    ("others", "sizes"),
    [(1, (1, 0, 0)), (2, (1, 0, 1)), (3, (1, 1, 1)), (4, (1, 2, 1)), (5, (2, 1, 2)),
     (6, (2, 2, 2)), (63, (21, 21, 21)), (76, (25, 26, 25))],
)  # fmt: skip
def test_difficulties_are_thirds_by_overlap(others: int, sizes: tuple[int, ...]) -> None:
    # class n shares the words below n with class 0: the more, the harder
    words = [str(word) for word in range(others + 1)]
    keywords = (tuple(words), *(tuple(words[:n]) for n in range(1, others + 1)))
    found = attack_rules.difficulties(0, keywords)
    levels = [found[n] for n in range(others, 0, -1)]
    names = zip(("hard", "medium", "easy"), sizes, strict=True)
    assert levels == [level for level, size in names for _ in range(size)]


def test_a_word_that_is_not_shared_makes_a_class_easier() -> None:
    found = attack_rules.difficulties(0, (("a", "b"), ("a", "x", "y"), ("a", "b"), ("a", "z")))
    assert found == {2: "hard", 3: "medium", 1: "easy"}


# --- Rules


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
    exact = [mention.format(keyword="loan") for mention in attack_rules.ENGLISH["mentions"]]
    found = {attack_rules.add_mention(text, "loan", np.random.default_rng(seed)) for seed in range(200)}
    assert found == {
        place.replace("{}", big.casefold()).replace("{c}", big).replace("{C}", big[0].upper() + big[1:])
        for place in places
        for big in exact
    }


def test_replacement_keeps_capitals_punctuation_and_the_rest() -> None:
    lexicon = {"cancel": ["call off"], "fee": ["charge"]}
    attacked, replaced = attack_rules.replace_keywords(
        "Cancel my  (FEE), fees!", {"cancel", "fee", "fees"}, lexicon, np.random.default_rng(0)
    )
    assert (attacked, replaced) == ("Call off my  (CHARGE), fees!", ["cancel", "fee"])


@pytest.mark.parametrize(
    ("text", "attacked"),
    [
        ("book a flight", "reserve a flight"), ("can you book it", "can you reserve it"),
        ("i lost the book", "i lost the volume"), ("book club", "book club"),
        ("please book", "please reserve"), ("cancel it", "cancel it"),
        ("An alarm for a BILL", "A wake-up call for an INVOICE"),
        ("this music is loud", "this music is loud"), ("the music is loud", "the tunes is loud"),
        ("news of headlines", "news of headlines"),
    ],
)  # fmt: skip
def test_synonyms_fit_their_sentence(text: str, attacked: str) -> None:
    lexicon: attack_rules.Lexicon = {
        "book": {"noun": ["volume"], "verb": ["reserve"]}, "alarm": ["wake-up call"],
        "bill": ["invoice"], "cancel": ["call off"], "music": ["tunes"], "news": ["headlines"],
    }  # fmt: skip
    rng = np.random.default_rng(0)
    assert attack_rules.replace_keywords(text, set(lexicon), lexicon, rng)[0] == attacked


def test_a_synonym_is_never_a_keyword_itself() -> None:
    for seed in range(10):
        for keywords, attacked in (("fee charge", "price"), ("fee charge price", "fee"), ("x", "fee")):
            rng, lexicon = np.random.default_rng(seed), {"fee": ["charge", "price"]}
            found, replaced = attack_rules.replace_keywords("fee", set(keywords.split()), lexicon, rng)
            assert (found, replaced) == (attacked, ["fee"] if attacked == "price" else [])


def test_a_synonym_is_never_a_keyword_of_another_class(tmp_path: Path) -> None:
    path = tmp_path / "synonyms.json"
    path.write_text(json.dumps({"flight": ["plane", "air trip"]}))
    settings = AttackSettings(kind="keyword_replacement", synonyms=str(path))
    for keywords, seen in (
        ((("flight",), ("boat",)), {"my plane", "my air trip"}),
        ((("flight",), ("plane",)), {"my air trip"}),
        ((("flight",), ("plane", "air")), {"my flight"}),
    ):
        texts = set()
        for seed in range(20):
            attack = Attack(replace(settings, seed=seed), ("fly", "sail"), keywords)
            texts |= {*attack({"text": ["my flight"], "label": [0]})["text"]}
        assert texts == seen


GERMAN = {
    "lost_card": ["meine karte ist weg", "karte verloren in der bahn", "wo ist meine karte"],
    "renew_loan": ["kredit bitte verlängern", "ich will den kredit an sich verlängern"],
    "pay_fine": ["strafe zahlen so bald wie möglich", "ich zahle a bill, die strafe"],
}
JAPANESE = {
    "lost_card": ["カードをなくしました", "カードが見つかりません"],
    "renew_loan": ["ローンを延長したいです", "ローンの延長をお願いします"],
    "pay_fine": ["罰金を払いたいです", "罰金はいくらですか"],
}


@pytest.mark.parametrize("texts", [GERMAN, JAPANESE])
def test_the_rules_put_no_english_into_other_languages(
    texts: dict[str, list[str]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pairs = [(text, name) for name, some in texts.items() for text in some]
    data = dataset([text for text, _ in pairs], [name for _, name in pairs])
    for kind in typing.get_args(Kind):
        with pytest.raises(DataError, match=rf"not look like English.*{kind} write English only"):
            attack_dataset(data, data, AttackSettings(kind=kind))
    own = tmp_path / "synonyms.json"
    own.write_text(json.dumps({"strafe": ["buße"], "罰金": ["ばっきん"]}))
    settings = AttackSettings(kind="keyword_replacement", synonyms=str(own), unchanged="drop")
    found = attack_dataset(data, data, settings)["text"][:]
    assert found in (
        ["buße zahlen so bald wie möglich", "ich zahle a bill, die buße"],
        ["ばっきんを払いたいです", "ばっきんはいくらですか"],
    )
    chat = MockLanguageModel(reply=lambda prompt: "yes")
    settings = AttackSettings(maker="chat")
    with pytest.raises(DataError, match="changes nothing"):
        attack_dataset(data, data, settings, chat)
    assert "the requests to the model are in English" in caplog.text


def test_a_text_in_another_script_is_left_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    texts = ["カードを なくし card", "Где моя карта?", "où est ma carte 12", "12?"]
    attacked = attack_dataset(dataset(texts, [NAMES[0]] * 4), train())
    assert attacked["changed"][:] == [False, False, True, True]
    assert attacked["text"][:2] == texts[:2]
    assert "notes: another script 2." in caplog.text


def test_english_is_told_by_its_function_words() -> None:
    assert attack_rules.is_english(["hola"])  # too few words to tell
    assert attack_rules.is_english(["play jazz in the kitchen", "wake me up at seven, please"] * 2)
    dutch = "ik wil in de bus een kaart, is dat nu wat of was het al so en we me"
    assert not attack_rules.is_english([dutch, dutch])


def test_the_own_lexicon_is_folded_and_never_maps_a_word_to_itself() -> None:
    for word, entry in attack_rules.load_lexicon().items():
        parts = entry if isinstance(entry, Mapping) else {"noun": entry}
        assert set(parts) <= set(typing.get_args(attack_rules.Role))
        assert word == fold(word)
        for synonyms in parts.values():
            assert synonyms
            assert word not in synonyms


def test_a_users_lexicon_goes_first(tmp_path: Path) -> None:
    path = tmp_path / "synonyms.json"
    path.write_text(json.dumps({"Fee": ["toll"]}))
    assert attack_rules.load_lexicon(str(path)) == {**attack_rules.load_lexicon(), "fee": ["toll"]}
    for content in ("[]", "{", '{"fee": "toll"}', '{"fee": {"noum": ["toll"]}}'):
        path.write_text(content)
        with pytest.raises(ConfigError, match="Cannot read synonyms"):
            attack_rules.load_lexicon(str(path))
    with pytest.raises(ConfigError, match="Cannot read synonyms"):
        attack_rules.load_lexicon(str(tmp_path / "none.json"))
