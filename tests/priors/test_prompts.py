import logging
from pathlib import Path

import pytest

from hf_cap.errors import ConfigError, DataError, ModelError
from hf_cap.priors import prompts
from hf_cap.priors.prompts import build_prompt, load_template, verbalise, written_labels
from tests.tiny import byte_tokenizer

LABELS = ["card arrival", "lost card"]
SHOWN = [("it is {label} late", "card arrival")]


def chat(user: str) -> str:
    return f"<user>{user}</user>\n<bot>"


def test_plain_prompt_is_whole_and_in_order() -> None:
    prompt = build_prompt(load_template("default", "cap"), LABELS, SHOWN)
    whole = prompt.prefix + prompt.body("where is it") + prompt.answer("lost card")
    assert whole.endswith(
        "Categories: card arrival, lost card.\n\nMessage: it is {label} late\nCategory: card arrival\n\n"
        "Message: where is it\nCategory: lost card"
    )


def test_cut_falls_before_the_space_of_a_word() -> None:
    prompt = build_prompt(load_template("default", "cap"), LABELS, SHOWN)
    assert prompt.prefix.endswith("Message:")
    assert prompt.before == " "
    assert prompt.answer("x") == " x"


def test_chat_template_goes_around_the_prompt() -> None:
    prompt = build_prompt(load_template("default", "cap"), LABELS, [], chat)
    assert prompt.prefix.startswith("<user>")
    assert prompt.body("hi") == " hi</user>\n<bot>Category:"


def test_answer_on_a_line_of_its_own_has_no_space(tmp_path: Path) -> None:
    template = (prompts._BUILT_IN / "cap.yaml").read_text().replace('"Category:"', '""')
    (tmp_path / "own.yaml").write_text(template)
    prompt = build_prompt(load_template(str(tmp_path / "own.yaml"), "cap"), LABELS, [])
    assert prompt.body("hi").endswith("hi\n")
    assert prompt.answer("x") == "x"


def test_channel_prompt_ends_before_the_text() -> None:
    prompt = build_prompt(load_template("default", "channel"), LABELS, SHOWN)
    assert prompt.body("lost card") + prompt.answer("hi") == " lost card\nMessage: hi"
    assert prompt.prefix.endswith("Category:")


def test_text_is_never_read_as_a_placeholder() -> None:
    prompt = build_prompt(load_template("default", "cap"), LABELS, [])
    assert "{text} {labels}" in prompt.body("{text} {labels}")


def test_model_without_chat_template_is_asked_plainly_with_one_notice(
    caplog: pytest.LogCaptureFixture,
) -> None:
    prompts._notify_no_chat.cache_clear()
    template = load_template("default", "cap")
    with caplog.at_level(logging.WARNING):
        asked = [build_prompt(template, LABELS, [], lambda user: None) for _ in range(3)]
    assert asked[0] == build_prompt(template, LABELS, [])
    assert len(caplog.records) == 1


def test_real_chat_template_of_a_tokenizer() -> None:
    tokenizer = byte_tokenizer()

    def render(user: str) -> str:
        message = [{"role": "user", "content": user}]
        return str(
            tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
        )

    prompt = build_prompt(load_template("default", "cap"), LABELS, SHOWN, render)
    assert prompt.body("hi") == " hi<|im_end|>\n<|im_start|>assistant\nCategory:"


@pytest.mark.parametrize("render", [lambda user: "lost", lambda user: user + user])
def test_chat_template_that_loses_the_message_is_refused(render: object) -> None:
    with pytest.raises(ModelError, match="must contain the user's message once"):
        build_prompt(load_template("default", "cap"), LABELS, [], render)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("instruction: [", "is not YAML"),
        ("instruction: hello", "exactly the text fields"),
        ("- a", "exactly the text fields"),
        (None, "There is no prompt template"),
    ],
)
def test_broken_template_is_refused(tmp_path: Path, content: str | None, message: str) -> None:
    path = tmp_path / "own.yaml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError, match=message):
        load_template(str(path), "cap")


def test_template_without_its_placeholder_is_refused(tmp_path: Path) -> None:
    template = (prompts._BUILT_IN / "cap.yaml").read_text()
    (tmp_path / "own.yaml").write_text(
        template.replace('question: "Message: {text}"', "question: hm")
    )
    with pytest.raises(ConfigError, match=r"question.*'text'"):
        load_template(str(tmp_path / "own.yaml"), "cap")


def test_an_edited_template_is_read_anew(tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    text = (prompts._BUILT_IN / "cap.yaml").read_text()
    own.write_text(text)
    before = load_template(str(own), "cap")
    own.write_text(text.replace("Name the category", "Say the category"))
    assert load_template(str(own), "cap").instruction.startswith("Say")
    assert load_template(str(own), "cap").digest != before.digest


def test_labels_are_written_as_words() -> None:
    assert verbalise("card_arrival") == "card arrival"
    assert written_labels(["a_b", "c"], verbalised=True) == ["a b", "c"]
    assert written_labels(["a_b", "c"], verbalised=False) == ["a_b", "c"]


@pytest.mark.parametrize("labels", [["a_b", "a b"], ["_"]])
def test_labels_that_are_written_alike_are_refused(labels: list[str]) -> None:
    with pytest.raises(DataError, match="verbalise=False"):
        written_labels(labels, verbalised=True)


def test_digest_tells_wordings_apart() -> None:
    digests = {load_template("default", prior).digest for prior in ("cap", "channel")}
    assert len(digests) == 2
