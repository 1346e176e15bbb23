"""Prompts: instruction, label space, demonstrations, text, answer slot, in this order."""

import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import lru_cache
from pathlib import Path

from hf_cap.errors import ConfigError, ModelError
from hf_cap.utils import fingerprint, read_yaml

_logger = logging.getLogger(__name__)
_SLOT = "hfcapslot"
_PLACEHOLDER = re.compile(r"\{(text|labels?)\}")

DEFAULT_TEMPLATE = "default"  # stands for the template that comes with the prior

Example = tuple[str, str]  # a text and its label as written in the prompt


@dataclass(frozen=True)
class PromptTemplate:
    """Wording of a prompt. Only `{text}`, `{label}` and `{labels}` are filled in, as plain strings.

    `question` has `{text}` for `cap` and `{label}` for `channel`, `demonstration` has both,
    `label_space` has `{labels}`. Any may be empty. The scored words continue `answer`.
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
        return fingerprint(*asdict(self).values())


def load_template(name: str, prior: str) -> PromptTemplate:
    """The default template of a prior (`cap`, `channel`) or a YAML file, as it is now, or a `ConfigError`."""
    default = Path(__file__).parent / "templates" / f"{prior}.yaml"
    path = default if name == DEFAULT_TEMPLATE else Path(name).expanduser()
    if not path.is_file():
        raise ConfigError(
            f"There is no prompt template {name!r}; give 'default' or a YAML file like {default}."
        )
    values = read_yaml(path)
    expected = {item.name for item in fields(PromptTemplate)}
    whole = isinstance(values, dict) and set(values) == expected
    if not whole or not all(isinstance(value, str) for value in values.values()):
        raise ConfigError(
            f"The prompt template {str(path)!r} must be YAML with exactly the text fields "
            f"{sorted(expected)}, got {values!r:.300}."
        )
    question = {"cap": {"text"}, "channel": {"label"}}[prior]
    needed = {"label_space": {"labels"}, "demonstration": {"text", "label"}, "question": question}
    for item, names in needed.items():
        if values[item] and set(_PLACEHOLDER.findall(values[item])) != names:
            raise ConfigError(
                f"Field {item!r} of the prompt template {str(path)!r} must hold the placeholders "
                f"{sorted(names)} and no other, got {values[item]!r}."
            )
    return PromptTemplate(**values)


@dataclass(frozen=True)
class Prompt:
    """A prompt around one slot: `prefix + body(value)`, continued by `answer(value)`.

    All values share the `prefix`. `lead` is the white space that begins an answer, `end` what
    follows a whole one.
    """

    prefix: str
    before: str
    after: str
    lead: str
    end: str
    as_data: Callable[[str], str] = field(default=str, repr=False, compare=False)

    def body(self, value: str) -> str:
        """The rest of the prompt for one value of the slot."""
        return self.before + self.as_data(value) + self.after

    def answer(self, value: str) -> str:
        """The continuation to score."""
        return self.lead + self.as_data(value)


def build_prompt(
    template: PromptTemplate,
    labels: Sequence[str],
    demonstrations: Sequence[Example],
    chat_prompt: Callable[[str], str | None] | None = None,
    end_of_turn: str | None = None,
    as_data: Callable[[str], str] = str,
) -> Prompt:
    """Build the prompt of a template around a slot for the text (`cap`) or the label (`channel`).

    Args:
        labels: The label space as written in the prompt.
        chat_prompt: The model's chat template. Plain text is used without one, and with one notice
            where it returns `None`.
        end_of_turn: What the chat template puts behind an answer.
        as_data: Marks control tokens that a text or a label spells out.
    """
    parts = [template.instruction]
    shown = as_data(template.label_separator.join(labels))
    parts.append(_fill(template.label_space, labels=shown))
    parts += [
        _fill(template.demonstration, text=as_data(text), label=as_data(label))
        for text, label in demonstrations
    ]
    user = "".join(part + template.separator for part in parts if part)
    user += _fill(template.question, text=_SLOT, label=_SLOT)
    rendered = chat_prompt(user) if chat_prompt else None
    if chat_prompt and rendered is None:
        _warn_of_no_chat()
    prompt = user + "\n" if rendered is None else rendered
    if prompt.count(_SLOT) != 1:
        raise ModelError(
            f"The chat template must contain the user's message once, but renders it "
            f"{prompt.count(_SLOT)} times. Use chat=False to ask in plain text."
        )
    head, after = (prompt + template.answer).split(_SLOT)
    prefix, after_lead = head.rstrip(" "), after.rstrip(" ")
    lead = after[len(after_lead) :]
    if not lead and not after.endswith("\n"):
        lead = " "  # a word goes on after a space, except on a line of its own
    turn_ends = end_of_turn if rendered is not None else None
    line_ends = template.separator if template.separator.startswith("\n") else "\n"
    return Prompt(prefix, head[len(prefix) :], after_lead, lead, turn_ends or line_ends, as_data)


def _fill(wording: str, **values: str) -> str:
    """One pass of plain replacement: braces in a text are never read as placeholders."""
    return _PLACEHOLDER.sub(lambda match: values.get(match[1], match[0]), wording)


@lru_cache(maxsize=1)
def _warn_of_no_chat() -> None:
    _logger.warning("The language model has no chat template; it is asked in plain text.")


# --- Demonstrations: two disjoint sets, so that no text is scored beside its own label.


DemonstrationSets = tuple[tuple[Example, ...], ...]
"""Two sets of (text, label name) that share no text (ignoring case and white space), or one empty
set for no demonstrations."""

NO_DEMONSTRATIONS: DemonstrationSets = ((),)


def choose_demonstrations(
    texts: Sequence[str], labels: Sequence[str], *, per_label: int, seed: int
) -> DemonstrationSets:
    """Choose two disjoint sets of `per_label` demonstrations for each label name.

    The choice depends on the seed and the set of examples only, not on their order. Where a class
    has fewer than two texts per demonstration, the sets share what there is, with one warning.
    """
    if per_label == 0:
        return NO_DEMONSTRATIONS

    def place(example: Example) -> str:
        return fingerprint(str(seed), *example[::-1])

    pools: dict[str, list[Example]] = {label: [] for label in sorted(set(labels))}
    seen = {""}
    for text, label in sorted(set(zip(texts, labels, strict=True)), key=place):
        if (key := _fold(text)) not in seen:  # each text under one label only
            seen.add(key)
            pools[label].append((" ".join(text.split()), label))
    found = [pool for pool in pools.values() if pool]
    if short := [pool[0][1] for pool in found if len(pool) < 2 * per_label]:
        _logger.warning(
            "%d of %d labels have fewer than %d different texts, so that some prompts show fewer "
            "than %d demonstrations of them: %s",
            len(short), len(found), 2 * per_label, per_label, ", ".join(short[:8]),
        )  # fmt: skip
    # Alternating, so that the sets stay as equal as they can where a class is short of texts.
    chosen = [[example for pool in found for example in pool[: 2 * per_label][part::2]] for part in (0, 1)]
    return tuple(tuple(sorted(part, key=place)) for part in chosen)


def held_out_demonstrations(sets: DemonstrationSets, text: str) -> int:
    """Index of the first set in which `text` does not occur, ignoring case and white space."""
    key = _fold(text)
    return next(i for i, part in enumerate(sets) if all(_fold(shown) != key for shown, _ in part))


def _fold(text: str) -> str:
    return " ".join(text.split()).casefold()
