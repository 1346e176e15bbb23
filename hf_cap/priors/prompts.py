"""Settings of the priors that come from a language model. Imports neither torch nor transformers."""

import logging
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from typing import Literal

import yaml

from hf_cap.errors import ConfigError, DataError, ModelError
from hf_cap.utils import check_choices, check_range, documented, fingerprint, option

Score = Literal["log_prob", "mean_log_prob", "contrast"]
Masking = Literal["delete", "replace"]
Sign = Literal["positive", "signed", "absolute"]
Evidence = Literal["posterior", "uniform"]

DEFAULT_TEMPLATE = "default"
"""Stands for the template that comes with the prior."""


@documented
@dataclass(frozen=True, kw_only=True)
class PromptSettings:
    """How a language model is asked, shared by `CAPPrior` and `ChannelPrior`."""

    template: str = option(
        DEFAULT_TEMPLATE,
        "Prompt template: 'default' (the file that comes with the prior) or the path of a YAML file like it.",
    )
    chat: bool = option(
        True, "Put the prompt into the model's chat template, where it has one; else plain text."
    )
    verbalise: bool = option(
        True, "Write labels as words in the prompt: card_arrival becomes 'card arrival'."
    )
    demonstrations: int = option(
        1,
        "Labelled training texts a label in the prompt, at least 0. Two disjoint sets are kept, and no "
        "text is scored under a set that it is in.",
    )
    sign: Sign = option(
        "positive",
        "Which scores the prior keeps: evidence for the label only, signed scores, or absolute values.",
    )
    keep_label_scores: bool = option(
        False,
        "Also score every label on the whole text: the language model's own answer, as a diagnostic.",
    )
    seed: int = option(0, "Determines the demonstrations and the perturbations of every text.")

    def __post_init__(self) -> None:
        check_choices(self)
        check_range(self, "demonstrations", at_least=0)


@documented
@dataclass(frozen=True, kw_only=True)
class CAPSettings:
    """Settings of the perturbation prior `cap`."""

    n: int = option(100, "Perturbations a text, at least 1; all of them where fewer exist.")
    penalty: float = option(0.1, "Ridge penalty λ, more than 0.")
    score: Score = option(
        "log_prob",
        "What a perturbation is scored by: log-probability of the gold label, the same per token, or its "
        "contrast with the strongest rival labels.",
    )
    rivals: int = option(5, "Rival labels that `contrast` compares with, at least 1.")
    calibration_texts: int = option(
        200,
        "Texts from which `contrast` learns how much the model favours each label anyway; 0 turns it off.",
    )
    masking: Masking = option("delete", "Whether a masked word is deleted or replaced.")
    replacement: str = option("...", "What stands in for a masked word when masking is `replace`.")

    def __post_init__(self) -> None:
        check_choices(self)
        check_range(self, "n", "rivals", at_least=1)
        check_range(self, "calibration_texts", at_least=0)
        check_range(self, "penalty", above=0)


@documented
@dataclass(frozen=True, kw_only=True)
class ChannelSettings:
    """Settings of the class-conditional prior `channel`."""

    evidence: Evidence = option(
        "posterior",
        "What a word under the gold label is compared with: the labels weighted by what the words before "
        "it say (scores then add up to log p(label | text) - log p(label)), or all labels alike.",
    )
    temperature: float = option(
        1.0,
        "Divides the log-probabilities of the words, more than 0; above 1 tempers over-confidence.",
    )
    keep_label_words: bool = option(
        False, "Also keep the word scores of every label, not only of the gold one."
    )

    def __post_init__(self) -> None:
        check_choices(self)
        check_range(self, "temperature", above=0)


@documented
@dataclass(frozen=True, kw_only=True)
class ExtractionSettings:
    """How the stage `extract` goes through a data set. Changes no score."""

    splits: tuple[str, ...] = option(
        ("train",),
        "Splits whose texts get priors. `hf-cap extract` reads and writes no others; its sources learn "
        "(demonstrations, keywords) from train where it is among them, else from the first.",
    )
    chunk_size: int = option(
        32, "Texts that are scored, and kept, together. What is lost by a crash is one chunk."
    )
    progress: bool = option(True, "Show a progress bar.")

    def __post_init__(self) -> None:
        check_range(self, "chunk_size", at_least=1)


# --- Prompts: instruction, label space, demonstrations, text, answer slot, in this order.


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
        return fingerprint(*asdict(self).values())

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
    chat_prompt: Callable[[str], str | None] | None = None,
    end_of_turn: str | None = None,
) -> Prompt:
    """The prompt of a template around a slot for the text (`cap`) or the label (`channel`).

    Args:
        template: The wording.
        labels: The label space as written in the prompt.
        demonstrations: Worked examples, in order.
        chat_prompt: The model's chat template (`LanguageModel.chat_prompt`); `None` for plain text. Where it
            returns `None` the plain text is used as well, with one notice.
        end_of_turn: What the chat template puts behind an answer; `None` for nothing.

    Raises:
        ModelError: the chat template does not contain the user's message exactly once.
    """
    user = template.head(labels, demonstrations) + template.ask(_SLOT)
    rendered = chat_prompt(user) if chat_prompt else None
    if chat_prompt and rendered is None:
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


# --- Worked examples in the prompt: two disjoint sets, so that no text is scored beside its own label.


DemonstrationSets = tuple[tuple[Example, ...], ...]
"""Two sets that share no text (ignoring case and white space), or one empty set for no demonstrations.
Labels are names of the label space."""

NO_DEMONSTRATIONS: DemonstrationSets = ((),)


def choose_demonstrations(
    texts: Sequence[str], labels: Sequence[str], *, per_label: int, seed: int
) -> DemonstrationSets:
    """Choose two disjoint sets of demonstrations.

    The choice depends on the seed and the set of examples only, not on their order. Where a class has
    fewer than two texts per demonstration asked for, the sets share out what there is, with one notice.

    Args:
        texts: Training texts.
        labels: Their label names.
        per_label: Demonstrations a label in each set, at least 0.
        seed: Any integer.

    Raises:
        ConfigError: `per_label` is negative.
    """
    if per_label < 0:
        raise ConfigError(f"`per_label` must be at least 0, got {per_label!r}.")
    if per_label == 0:
        return NO_DEMONSTRATIONS
    pools = _pools(texts, labels, seed)
    # Alternating, so that the sets stay as equal as they can where a class is short of texts.
    chosen = [
        [example for pool in pools for example in pool[: 2 * per_label][part::2]] for part in (0, 1)
    ]
    short = [pool[0][1] for pool in pools if len(pool) < 2 * per_label]
    if short:
        _logger.warning(
            "%d of %d labels have fewer than %d different texts, so that some prompts show fewer than %d "
            "demonstrations of them: %s",
            len(short), len(pools), 2 * per_label, per_label, ", ".join(short[:8]),
        )  # fmt: skip
    return tuple(tuple(sorted(part, key=lambda example: _rank(seed, *example))) for part in chosen)


def set_without(sets: DemonstrationSets, text: str) -> int:
    """Index of the first set in which `text` does not occur, ignoring case and white space."""
    key = _same(text)
    return next(i for i, part in enumerate(sets) if all(_same(shown) != key for shown, _ in part))


def _pools(texts: Sequence[str], labels: Sequence[str], seed: int) -> list[list[Example]]:
    """The different texts of each label, each under one label only, in an order of the seed's making."""
    pools: dict[str, list[Example]] = {label: [] for label in sorted(set(labels))}
    seen: set[str] = set()
    for text, label in sorted(_pairs(texts, labels), key=lambda example: _rank(seed, *example)):
        if (key := _same(text)) and key not in seen:
            seen.add(key)
            pools[label].append((" ".join(text.split()), label))
    return [pool for pool in pools.values() if pool]


def _pairs(texts: Iterable[str], labels: Iterable[str]) -> set[Example]:
    return set(zip(texts, labels, strict=True))


def _same(text: str) -> str:
    """What two texts share that are the same but for case and white space."""
    return " ".join(text.split()).casefold()


def _rank(seed: int, text: str, label: str) -> bytes:
    digest = blake2b(f"{seed}\0{label}\0{text}".encode("utf-8", "surrogatepass"), digest_size=8)
    return digest.digest()
