"""Attacks on a data set: by rule and by a chat model, seeded, resumable, and honest about what they left."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from datasets import ClassLabel, Dataset

from hf_cap.errors import ConfigError, DataError, PriorError
from hf_cap.evaluation.attacks.attack import (
    Attack,
    AttackSettings,
    attack_dataset,
    prepare_attack,
    run_attack,
)
from hf_cap.lm.base import LMSettings, MockLanguageModel, Sampling

NAMES = ["lost_card", "renew_loan", "pay_fine"]
TRAIN = {
    "lost_card": ["my card is lost", "lost card again", "card lost on the bus"],
    "renew_loan": ["renew my loan", "loan renewal please renew", "renew the loan again"],
    "pay_fine": ["pay the fine", "fine to pay", "pay my late fine"],
}


def dataset(texts: Sequence[str], labels: Sequence[str], names: Sequence[str] = NAMES) -> Dataset:
    data = Dataset.from_dict(
        {"text": list(texts), "label": [names.index(label) for label in labels]}
    )
    return data.cast_column("label", ClassLabel(names=list(names)))


def train() -> Dataset:
    return dataset(
        [t for texts in TRAIN.values() for t in texts], [n for n in TRAIN for _ in TRAIN[n]]
    )


TEST = dataset(
    ["I lost it, the card.", "renew this", "can i pay now", "hello"], [*NAMES, "pay_fine"]
)


def is_part(words: Sequence[str], whole: Sequence[str]) -> bool:
    """Whether the words are in the whole in their order."""
    rest = iter(whole)
    return all(word.replace(",", "") in rest for word in words)


def test_addition_by_rule() -> None:
    attacked = attack_dataset(TEST, train())
    assert attacked.column_names == [
        "text",
        "label",
        "original",
        "keyword",
        "source_label",
        "difficulty",
        "changed",
        "maker",
        "note",
    ]
    keywords = dict(zip(NAMES, prepare_attack(train(), AttackSettings()).keywords, strict=True))
    for row, before in zip(attacked, TEST, strict=True):
        assert row["changed"]
        assert row["original"] == before["text"]
        assert row["label"] == before["label"]
        assert is_part(before["text"].split(), row["text"].replace(",", "").split())
        assert (row["maker"], row["note"]) == ("rules", "")
        assert row["keyword"] in row["text"].casefold()
        assert row["source_label"] != NAMES[row["label"]]
        assert row["keyword"] in keywords[row["source_label"]]
        assert row["keyword"] not in keywords[NAMES[row["label"]]]
    assert attacked.features["label"].names == NAMES


@pytest.mark.parametrize("difficulty", ["easy", "hard"])
def test_the_wanted_difficulty(difficulty: Any) -> None:
    attacked = attack_dataset(TEST, train(), AttackSettings(difficulty=difficulty))
    assert set(attacked["difficulty"]) == {difficulty}


def test_replacement_by_rule_reports_what_it_leaves(caplog: pytest.LogCaptureFixture) -> None:
    settings = AttackSettings(kind="keyword_replacement")
    with caplog.at_level(logging.WARNING):
        attacked = attack_dataset(TEST, train(), settings).to_list()
    assert attacked[2]["text"] == "can i settle now"
    assert (attacked[2]["keyword"], attacked[2]["source_label"]) == ("pay", "pay_fine")
    assert (attacked[3]["changed"], attacked[3]["text"], attacked[3]["note"]) == (
        False,
        "hello",
        "no keyword",
    )
    assert (
        "keyword_replacement: 3 of 4 texts changed; 1 unchanged; notes: no keyword 1."
        in caplog.text
    )


def test_an_attack_that_changes_nothing_is_an_error() -> None:
    hello = dataset(["hello"], ["pay_fine"])
    with pytest.raises(
        DataError, match="changes nothing: 0 of 1 texts changed; 1 unchanged; notes: no keyword 1"
    ):
        attack_dataset(hello, train(), AttackSettings(kind="keyword_replacement"))


def test_a_choice_depends_on_seed_and_text_only() -> None:
    attack = prepare_attack(train(), AttackSettings())
    batch = TEST[:]
    whole = attack(batch)["text"]
    single = [
        attack({name: [batch[name][row]] for name in batch})["text"][0] for row in range(len(TEST))
    ]
    assert whole == single
    other = prepare_attack(train(), AttackSettings(seed=1))(batch)["text"]
    assert whole != other


def test_keywords_from_a_prior() -> None:
    texts = train()
    priors = [[float(word == "bus") for word in text.split()] for text in texts["text"]]
    found = prepare_attack(texts.add_column("prior", priors), AttackSettings(keywords_from="prior"))
    assert found.keywords == (("bus",), (), ())
    with pytest.raises(DataError, match=r"need the column 'prior'; the training data has"):
        prepare_attack(texts, AttackSettings(keywords_from="prior"))


def test_a_prior_made_for_other_words_is_refused() -> None:
    texts = dataset(["my card", "lost-card again"], ["lost_card"] * 2)
    texts = texts.add_column("prior_cap", [None, [0.5, 0.1]])
    settings = AttackSettings(
        keywords_from="prior", prior_column="prior_cap", word_pattern=r"\w+|[^\w\s]"
    )
    with pytest.raises(
        PriorError, match=r"'prior_cap', row 1: 2 scores for 4 words .*word_pattern"
    ):
        prepare_attack(texts, settings)


def test_bad_data_is_refused() -> None:
    with pytest.raises(DataError, match="one label space"):
        attack_dataset(dataset(["a"], ["x"], ["x"]), train())
    with pytest.raises(DataError, match="nothing to attack with"):
        prepare_attack(dataset(["a b"], ["lost_card"]), AttackSettings())
    unseen = dataset(["pay", "renew"], ["pay_fine", "renew_loan"])
    cards = dataset(TRAIN["lost_card"] + TRAIN["pay_fine"], ["lost_card"] * 3 + ["pay_fine"] * 3)
    with pytest.raises(DataError, match=r"1 test texts have labels of which .*\['renew_loan'\]"):
        attack_dataset(unseen, cards)
    with pytest.raises(ConfigError, match="maker='rules' writes everything by rule already"):
        AttackSettings(unchanged="rules")
    with pytest.raises(ConfigError, match="`maker` must be one of"):
        AttackSettings(maker="rule")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="`keywords` must be at least 1"):
        AttackSettings(keywords=0)


def chatty(**replies: str) -> MockLanguageModel:
    """Judges yes, and rewrites as told by a word of the text."""

    def reply(prompt: str) -> str:
        if prompt.startswith("Is the topic"):
            return "no" if "dubious" in prompt else "Yes"
        message = prompt.split("Message: ")[1].splitlines()[0].split()
        return next((text for word, text in replies.items() if word in message), "?")

    return MockLanguageModel(reply=reply)


def written(
    model: MockLanguageModel, kind: Any = "keyword_replacement", unchanged: Any = "keep"
) -> list[tuple[str, str]]:
    settings = AttackSettings(kind=kind, maker="chat", unchanged=unchanged)
    found = prepare_attack(train(), settings, model)(TEST[:])
    return list(zip(found["text"], found["note"], strict=True))


def test_a_chat_model_rewrites_and_is_judged() -> None:
    chat = chatty(
        I="It is gone, my bank pass.", this="dubious: extend that", now="I cannot do that."
    )
    assert written(chat) == [
        ("It is gone, my bank pass.", ""),
        ("renew this", "label not confirmed"),
        ("can i pay now", "refusal"),
        ("hello", "no keyword"),
    ]
    rewriting, judging = chat.asked[:3], chat.asked[3:]
    assert "'lost'" not in rewriting[0]
    assert '"lost", "card"' in rewriting[0]
    assert "The topic stays: lost card." in rewriting[0]
    assert len(judging) == 2


def test_the_rules_write_what_the_chat_model_cannot() -> None:
    chat = chatty(I="It is gone, my bank pass.", this="As an AI, no.", now="Sorry?\nWhat?")
    assert written(chat, unchanged="rules") == [
        ("It is gone, my bank pass.", ""),
        ("extend this", "refusal"),
        ("can i settle now", "several lines"),
        ("hello", "no keyword"),
    ]


def test_unchanged_texts_can_be_left_out(caplog: pytest.LogCaptureFixture) -> None:
    settings = AttackSettings(kind="keyword_replacement", unchanged="drop")
    with caplog.at_level(logging.WARNING):
        attacked = attack_dataset(TEST, train(), settings)
    assert len(attacked) == 3
    assert all(attacked["changed"])
    assert "3 of 4 texts changed; 1 unchanged and left out; notes: no keyword 1" in caplog.text


def test_a_summary_counts_who_wrote_what() -> None:
    chat = chatty(I="It is gone, my bank pass.", this="As an AI, no.", now="?")
    settings = AttackSettings(kind="keyword_replacement", maker="chat", unchanged="rules")
    _, summary = run_attack(TEST, train(), prepare_attack(train(), settings, chat))
    assert summary.makers == {"rules": 2, "chat": 1}
    assert summary.notes == {"refusal": 1, "empty reply": 1, "no keyword": 1}
    assert (summary.texts, summary.changed, summary.dropped) == (4, 3, 0)
    assert "written by rules 2, chat 1" in str(summary)


def test_the_settings_name_the_chat_model_and_how_it_answers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    opened, sampled = [], []

    class Chat(MockLanguageModel):
        def generate(self, prompts: Any, sampling: Any, on_result: Any = None) -> Any:
            sampled.append(sampling)
            return super().generate(prompts, sampling, on_result)

    def open_language_model(model: LMSettings) -> Chat:
        opened.append(model)
        return Chat(reply=lambda prompt: "Gone, my pass, truly.")

    monkeypatch.setattr("hf_cap.lm.open.open_language_model", open_language_model)
    settings = AttackSettings(
        kind="keyword_replacement", maker="chat", model="m", base_url="http://x/v1", seed=7,
        max_new_tokens=5, unchanged="rules",
    )  # fmt: skip
    attack_dataset(TEST, train(), settings)
    assert opened == [LMSettings(model="m", base_url="http://x/v1")]
    assert set(sampled) == {Sampling(max_new_tokens=5, temperature=0.0, seed=7)}


def test_an_attack_is_hashed_by_its_settings(tmp_path: Path) -> None:
    from datasets.fingerprint import Hasher

    first, again = (prepare_attack(train(), AttackSettings()) for _ in range(2))
    assert Hasher.hash(first) == Hasher.hash(again)
    assert Hasher.hash(first) != Hasher.hash(
        Attack(AttackSettings(seed=1), first.labels, first.keywords)
    )
    assert json.dumps(first.keywords)


def test_the_attacked_texts_never_change() -> None:
    # published results name their test texts by kind and seed
    assert attack_dataset(TEST, train())["text"][:] == [
        "Never mind the fine thing. I lost it, the card.",
        "renew this, the fine thing can wait",
        "can i pay now, i did not say renew",
        "hello, i did not say lost",
    ]


def test_an_added_word_is_neither_in_the_text_nor_a_keyword_of_its_class() -> None:
    keywords = (("card", "bank"), ("card", "loan"))
    for seed in range(8):
        attack = Attack(AttackSettings(seed=seed), ("lost_card", "renew_loan"), keywords)
        found = attack({"text": ["hello", "a Loan?"], "label": [0, 0]})
        assert found["keyword"] == ["loan", ""]
        assert found["note"] == ["", "no keyword"]
