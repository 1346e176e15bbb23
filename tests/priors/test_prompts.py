"""The wording of prompts, and which labelled texts they show."""

import logging
import random
from pathlib import Path
from typing import Any

import pytest
from datasets import ClassLabel, Dataset, Features, Value

from hf_cap.errors import ConfigError, DataError, ModelError
from hf_cap.lm.base import MockLanguageModel
from hf_cap.priors import CAPPrior, ChannelPrior, LanguageModelSource, prompts
from hf_cap.priors.prompts import (
    NO_DEMONSTRATIONS,
    build_prompt,
    choose_demonstrations,
    held_out_demonstrations,
    load_template,
)

LABELS = ["card arrival", "lost card"]
SHOWN = [("it is {label} late", "card arrival")]
CAP = load_template("default", "cap")
WORDING = (Path(prompts.__file__).parent / "templates" / "cap.yaml").read_text()


def chat(user: str) -> str:
    return f"<user>{user}</user>\n<bot>"


def test_plain_prompt_is_whole_and_in_order() -> None:
    prompt = build_prompt(CAP, LABELS, SHOWN)
    whole = prompt.prefix + prompt.body("where is {text}") + prompt.answer("lost card")
    assert whole.endswith(
        "Categories: card arrival, lost card.\n\n"
        "Message: it is {label} late\nCategory: card arrival\n\n"
        "Message: where is {text}\nCategory: lost card"
    )
    # the prefix ends before the space of a word
    assert prompt.prefix.endswith("Message:")
    assert prompt.answer("x") == " x"


def test_the_chat_template_goes_around_the_prompt() -> None:
    prompt = build_prompt(CAP, LABELS, [], chat, "<end>")
    assert prompt.prefix.startswith("<user>")
    assert prompt.body("hi") == " hi</user>\n<bot>Category:"
    assert prompt.end == "<end>"
    assert build_prompt(CAP, LABELS, [], None, "<end>").end == "\n\n"


def test_an_answer_on_a_line_of_its_own_has_no_space(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(WORDING.replace('"Category:"', '""'))
    prompt = build_prompt(load_template(str(tmp_path / "own.yaml"), "cap"), LABELS, [])
    assert prompt.body("hi").endswith("hi\n")
    assert prompt.answer("x") == "x"


def test_the_channel_prompt_ends_before_the_text() -> None:
    prompt = build_prompt(load_template("default", "channel"), LABELS, SHOWN)
    assert prompt.body("lost card") + prompt.answer("hi") == " lost card\nMessage: hi"
    assert prompt.prefix.endswith("Category:")


def test_a_model_without_chat_template_is_asked_plainly_with_one_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    prompts._warn_of_no_chat.cache_clear()
    with caplog.at_level(logging.WARNING):
        asked = [build_prompt(CAP, LABELS, [], lambda user: None, "<end>") for _ in range(3)]
    assert asked[0] == build_prompt(CAP, LABELS, [])
    assert len(caplog.records) == 1


@pytest.mark.parametrize("render", [lambda user: "lost", lambda user: user + user])
def test_a_chat_template_that_loses_the_message_is_refused(render: object) -> None:
    with pytest.raises(ModelError, match="must contain the user's message once"):
        build_prompt(CAP, LABELS, [], render)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("instruction: [", "own.yaml' is not valid YAML"),
        ("instruction: hello", "exactly the text fields"),
        ("- a", "exactly the text fields"),
        (WORDING.replace('question: "Message: {text}"', "question: hm"), r"question.*'text'"),
        (WORDING + "answer: again", "occurs twice"),
        (None, "There is no prompt template"),
    ],
)
def test_a_broken_template_is_refused(tmp_path: Path, content: str | None, message: str) -> None:
    path = tmp_path / "own.yaml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError, match=message):
        load_template(str(path), "cap")


def test_an_edited_template_is_read_anew_and_its_words_stay_words(tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text(WORDING)
    assert load_template(str(own), "cap").digest == CAP.digest
    own.write_text(WORDING.replace('answer: "Category:"', "answer: No").replace('", "', "on"))
    template = load_template(str(own), "cap")
    assert (template.answer, template.label_separator) == ("No", "on")


def prompt_labels(*labels: str, **settings: Any) -> list[str]:
    data = Dataset.from_dict({"text": ["pay", "lend"], "label": [0, 1]})
    data = data.cast_column("label", ClassLabel(names=list(labels)))
    mock = MockLanguageModel(lambda prompt, answer: -1.0)
    prior = CAPPrior.from_dataset(data, model=mock, chat=False, demonstrations=0, **settings)
    opened = prior.open()
    assert ", ".join(opened.labels) in opened.prompts[0].prefix
    return list(opened.labels)


def test_labels_are_written_as_words() -> None:
    assert prompt_labels("CardArrival", "sci/tech") == ["card arrival", "sci tech"]
    assert prompt_labels("CardArrival", "a_b", verbalise=False) == ["CardArrival", "a_b"]
    named = prompt_labels("ABBR", "a_b", label_phrases={"ABBR": "short form"})
    assert named == ["short form", "a b"]
    for alike in (["a_b", "a b"], ["_", "c"]):
        with pytest.raises(DataError, match="label_phrases"):
            prompt_labels(*alike)
    with pytest.raises(ConfigError, match="'abbr'"):
        prompt_labels("ABBR", "LOC", label_phrases={"abbr": "short form"})


def test_labels_without_meaning_are_named_once(caplog: pytest.LogCaptureFixture) -> None:
    prompt_labels("LABEL_0", "refund")
    (warning,) = [record.getMessage() for record in caplog.records]
    assert "['LABEL_0'] say nothing about their texts" in warning
    assert "label_phrases" in warning
    caplog.clear()
    prompt_labels("LABEL_0", "refund", label_phrases={"LABEL_0": "lost card"})
    assert not caplog.records


# --- The model's own answers.

COLOURS = ("red", "blue", "green")


def last(field: str, prompt: str) -> str:
    return prompt.rpartition(f"{field}:")[2].partition("\n")[0].strip()


def knowing(prompt: str, answer: str) -> float:
    """Knows the label by its word, but likes `red` far more whatever the text says."""
    text, label = last("Message", prompt + answer), last("Category", prompt + answer)
    return -9.0 + 1.0 * (label in text) + 5.0 * (label == "red")


def liking(prompt: str, answer: str) -> float:
    """Only likes `red`."""
    return -9.0 + 5.0 * (last("Category", prompt + answer) == "red")


def coloured(each: int) -> Dataset:
    texts = [f"{number} {colour}" for colour in COLOURS for number in range(each)]
    features = Features({"text": Value("string"), "label": ClassLabel(names=[*COLOURS])})
    labels = [label for label in range(len(COLOURS)) for _ in range(each)]
    return Dataset.from_dict({"text": texts, "label": labels}, features)


@pytest.mark.parametrize("source", [CAPPrior, ChannelPrior])
def test_a_language_model_at_chance_is_warned_of(
    source: type[LanguageModelSource], caplog: pytest.LogCaptureFixture
) -> None:
    data, shared = coloured(30), {"demonstrations": 0, "chat": False}
    good, poor = MockLanguageModel(knowing), MockLanguageModel(liking)
    source.from_dataset(data, model=good, **shared)
    assert not caplog.records
    assert len(good.calls) == 50 * len(COLOURS)
    source.from_dataset(data, model=poor, **shared)
    (warning,) = [record.getMessage() for record in caplog.records]
    assert "over 50 texts the right label has the mean rank 2.0 of 3, where chance has 2.0" in warning
    caplog.clear()
    source.from_dataset(data, model=poor, probe_texts=0, **shared)
    source.from_dataset(data.select(range(1)), model=poor, **shared)  # too few to tell
    assert not caplog.records


def render(user: str) -> str:
    return f"<user>{user}</user>Category:"


@pytest.mark.parametrize("plain_is_better", [True, False])
def test_chat_follows_the_model(plain_is_better: bool, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "hf_cap")

    def answer(prompt: str, label: str) -> float:
        knows = ("<user>" in prompt) != plain_is_better
        return knowing(prompt.replace("</user>", "\n"), label) if knows else liking(prompt, label)

    model, data = MockLanguageModel(answer, chat=render), coloured(30)
    source = CAPPrior.from_dataset(data, model=model, demonstrations=0)
    assert source.chat is not plain_is_better
    assert ("<user>" in source.open().prompts[0].prefix) is source.chat
    way = "plain lines" if plain_is_better else "its chat template"
    expected = f"asked in {way}. Over 50 texts the right label has the mean rank 1.00 of 3 there, 2.00"
    assert expected in caplog.text
    assert "chance" not in caplog.text
    asked = len(model.calls)
    channel = ChannelPrior.from_dataset(data, model=model, demonstrations=0)
    assert channel.chat is source.chat
    # nothing new where there is a store
    assert set(model.calls[asked:]) == set(model.calls[:asked])
    given = CAPPrior.from_dataset(data, model=model, demonstrations=0, chat=plain_is_better)
    assert given.chat is plain_is_better
    assert "chance" in caplog.text


def test_a_model_without_a_chat_template_is_asked_in_plain_lines_once() -> None:
    model = MockLanguageModel(knowing)
    source = CAPPrior.from_dataset(coloured(30), model=model, demonstrations=0)
    assert source.chat is False
    assert len(model.calls) == 50 * len(COLOURS)


# --- Demonstrations.


TEXTS = [f"{label} text {i}" for label in ("red", "blue", "green") for i in range(6)]
GOLD = [label for label in ("red", "blue", "green") for _ in range(6)]


@pytest.mark.parametrize("per_label", [1, 2, 3])
def test_two_disjoint_sets_with_k_of_each_label(per_label: int) -> None:
    sets = choose_demonstrations(TEXTS, GOLD, per_label=per_label, seed=0)
    assert len(sets) == 2
    for part in sets:
        shown = [label for _, label in part]
        assert {label: shown.count(label) for label in shown} == dict.fromkeys(GOLD, per_label)
        assert all(text.startswith(label) for text, label in part)
    assert not {text for text, _ in sets[0]} & {text for text, _ in sets[1]}


def test_the_choice_depends_on_the_seed_not_on_the_order() -> None:
    chosen = choose_demonstrations(TEXTS, GOLD, per_label=1, seed=0)
    rows = list(zip(TEXTS, GOLD, strict=True))
    random.Random(0).shuffle(rows)
    texts, labels = zip(*rows, strict=True)
    assert choose_demonstrations(texts, labels, per_label=1, seed=0) == chosen
    assert choose_demonstrations(texts, labels, per_label=1, seed=1) != chosen


def test_no_text_is_scored_under_a_set_that_it_is_in() -> None:
    sets = choose_demonstrations(TEXTS, GOLD, per_label=3, seed=0)
    for text in TEXTS:
        for variant in (text, f"  {text.upper()}\n", text.replace(" ", "  ")):
            shown = [shown for shown, _ in sets[held_out_demonstrations(sets, variant)]]
            assert text not in shown
    none = choose_demonstrations(TEXTS, GOLD, per_label=0, seed=0)
    assert none == NO_DEMONSTRATIONS
    assert held_out_demonstrations(none, "anything") == 0


def test_duplicates_are_in_one_set_only() -> None:
    texts = ["Hello there", "hello  THERE ", "hello there", "bye", " "]
    labels = ["greet", "greet", "leave", "leave", "leave"]
    sets = choose_demonstrations(texts, labels, per_label=1, seed=0)
    shown = [text.casefold() for part in sets for text, _ in part]
    assert sorted(shown) == ["bye", "hello there"]


def test_short_classes_are_shared_out_with_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        sets = choose_demonstrations([*TEXTS, "only one"], [*GOLD, "rare"], per_label=1, seed=0)
    assert sorted(label for part in sets for _, label in part).count("rare") == 1
    (record,) = caplog.records
    assert "1 of 4 labels" in record.message
    assert "rare" in record.message
