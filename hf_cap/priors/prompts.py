"""Prompts: instruction, label space, demonstrations, text, answer slot, in this order.

Everything before the text is the same for many prompts, so a scorer reads it once. The cut between the
shared prefix and the rest falls where a tokenizer cuts as well: before the space of a word, or after a
line break.
"""

import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from pathlib import Path

import yaml

from ..errors import ConfigError, DataError, ModelError
from ..schema import digest
from .settings import DEFAULT_TEMPLATE

_logger = logging.getLogger(__name__)
_BUILT_IN = Path(__file__).parent / "templates"
_SLOT = "hfcapslot"
_PLACEHOLDERS = {"label_space": {"labels"}, "demonstration": {"text", "label"}}

Example = tuple[str, str]
"""A text and its label as written in the prompt."""


@dataclass(frozen=True)
class PromptTemplate:
    """Wording of a prompt. Only `{text}`, `{label}` and `{labels}` are filled in, once, as plain strings.

    Attributes:
        instruction: What to do; the first words of the prompt. May be empty.
        label_space: Line with `{labels}`, or empty to leave the label space out.
        label_separator: Stands between two labels.
        demonstration: One worked example, with `{text}` and `{label}`.
        question: What is asked: with `{text}` for `cap`, with `{label}` for `channel`.
        answer: Beginning of the answer that the scored words continue. May be empty.
        separator: Stands between two parts of the prompt.
    """

    instruction: str
    label_space: str
    label_separator: str
    demonstration: str
    question: str
    answer: str
    separator: str

    @property
    def digest(self) -> str:
        """Short hash of the wording, for provenance."""
        return digest(*asdict(self).values())

    def head(self, labels: Sequence[str], demonstrations: Sequence[Example]) -> str:
        """Everything before the question, for labels as they are written in the prompt."""
        space = _fill(self.label_space, labels=self.label_separator.join(labels))
        shown = [
            _fill(self.demonstration, text=text, label=label) for text, label in demonstrations
        ]
        return "".join(part + self.separator for part in [self.instruction, space, *shown] if part)

    def ask(self, value: str) -> str:
        """The question about one text or label."""
        return _fill(self.question, text=value, label=value)


@dataclass(frozen=True)
class Prompt:
    """A prompt around one slot: `prefix + body(value)`, continued by `lead + answer`.

    Attributes:
        prefix: Shared by all values of the slot.
        before: Between the prefix and the value.
        after: Between the value and the answer.
        lead: White space that begins the answer.
        end: What follows a whole answer.
    """

    prefix: str
    before: str
    after: str
    lead: str
    end: str

    def body(self, value: str) -> str:
        """The rest of the prompt for one value of the slot."""
        return self.before + value + self.after

    def answer(self, value: str) -> str:
        """The continuation to score."""
        return self.lead + value


def load_template(name: str, prior: str) -> PromptTemplate:
    """Read a template, as its file stands now.

    Args:
        name: `default`, or the path of a YAML file with the fields of `PromptTemplate`.
        prior: The prior (`cap`, `channel`) whose default it is.

    Raises:
        ConfigError: the file is missing, is not YAML, or has missing or unknown fields or placeholders.
    """
    path = _BUILT_IN / f"{prior}.yaml" if name == DEFAULT_TEMPLATE else Path(name).expanduser()
    if not path.is_file():
        raise ConfigError(
            f"There is no prompt template {name!r}; give 'default' or a YAML file like "
            f"{_BUILT_IN}/{prior}.yaml."
        )
    return _parsed(path.read_bytes(), path, prior)


@lru_cache
def _parsed(content: bytes, path: Path, prior: str) -> PromptTemplate:
    """The template in the content of a file."""
    try:
        values = yaml.safe_load(content.decode("utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"The prompt template {str(path)!r} is not YAML: {error}") from error
    expected = {field.name for field in fields(PromptTemplate)}
    if (
        not isinstance(values, dict)
        or set(values) != expected
        or not all(isinstance(v, str) for v in values.values())
    ):
        raise ConfigError(
            f"The prompt template {str(path)!r} must have exactly the text fields {sorted(expected)}, "
            f"got {values!r:.300}."
        )
    return _checked(
        PromptTemplate(**values), path, question={"cap": "text", "channel": "label"}[prior]
    )


def _checked(template: PromptTemplate, path: Path, question: str) -> PromptTemplate:
    for name, needed in (_PLACEHOLDERS | {"question": {question}}).items():
        wording = getattr(template, name)
        found = set(re.findall(r"\{(text|labels?)\}", wording))
        if found != needed and wording:
            raise ConfigError(
                f"Field {name!r} of the prompt template {str(path)!r} must hold the placeholders "
                f"{sorted(needed)} and no other, got {wording!r}."
            )
    return template


def build_prompt(
    template: PromptTemplate,
    labels: Sequence[str],
    demonstrations: Sequence[Example],
    render_chat: Callable[[str], str | None] | None = None,
    end_of_turn: str | None = None,
) -> Prompt:
    """The prompt of a template around a slot for the text (`cap`) or the label (`channel`).

    Args:
        template: The wording.
        labels: The label space as written in the prompt.
        demonstrations: Worked examples, in order.
        render_chat: The model's chat template (`Scorer.render_chat`); `None` for plain text. Where it
            returns `None` the plain text is used as well, with one notice.
        end_of_turn: What the chat template puts behind an answer; `None` for nothing.

    Raises:
        ModelError: the chat template does not contain the user's message exactly once.
    """
    user = template.head(labels, demonstrations) + template.ask(_SLOT)
    rendered = render_chat(user) if render_chat else None
    if render_chat and rendered is None:
        _notify_no_chat()
    prompt = user + "\n" if rendered is None else rendered
    if prompt.count(_SLOT) != 1:
        raise ModelError(
            f"The chat template must contain the user's message once, but renders it {prompt.count(_SLOT)} "
            "times. Use chat=False (`--chat false`) to ask in plain text."
        )
    head, after = (prompt + template.answer).split(_SLOT)
    prefix, before = _split_trailing_space(head)
    after, lead = _split_trailing_space(after)
    # A word goes on after a space, except on a line of its own.
    glued = not lead and not after.endswith("\n")
    turn_ends = end_of_turn if rendered is not None else None
    line_ends = template.separator if template.separator.startswith("\n") else "\n"
    return Prompt(prefix, before, after, " " if glued else lead, turn_ends or line_ends)


def verbalise(label: str) -> str:
    """A label as words: `card_arrival` becomes `card arrival`."""
    return " ".join(label.replace("_", " ").split())


def written_labels(labels: Sequence[str], *, verbalised: bool) -> list[str]:
    """The label space as written in prompts.

    Raises:
        DataError: a label is empty, or two labels are written alike.
    """
    written = [verbalise(label) if verbalised else label.strip() for label in labels]
    for index, words in enumerate(written):
        if not words or words in written[:index]:
            raise DataError(
                f"Label {labels[index]!r} is written {words!r} in the prompt, which is empty or another "
                "label's as well. Rename it, or use verbalise=False."
            )
    return written


def _fill(wording: str, **values: str) -> str:
    """One pass of plain replacement: braces in a text are never read as placeholders."""
    return re.sub(r"\{(text|labels?)\}", lambda match: values.get(match[1], match[0]), wording)


def _split_trailing_space(text: str) -> tuple[str, str]:
    stripped = text.rstrip(" ")
    return stripped, text[len(stripped) :]


@lru_cache(maxsize=1)
def _notify_no_chat() -> None:
    _logger.warning("The language model has no chat template; it is asked in plain text.")
