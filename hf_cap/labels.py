"""Label names as words, for the prompt of a language model and for the head of a sentence encoder."""

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from hf_cap.errors import ConfigError, DataError
from hf_cap.utils import option

_logger = logging.getLogger(__name__)

Head = Literal["auto", "sentence", "sequence"]
LabelNames = Literal["auto", "head", "text", "none"]

_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")  # where a small letter or a digit meets a capital
_JOINTS = re.compile(rf"[_/]+|{_CAMEL.pattern}")
_NUMBERED = re.compile(r"(?:label|class|category|intent)?\W*\d+", re.IGNORECASE)


def label_phrase(label: str) -> str:
    """A label as a phrase: `card_arrival`, `CardArrival` and `card/arrival` become `card arrival`."""
    phrase = " ".join(_JOINTS.sub(" ", label).split())
    return phrase.lower() if _CAMEL.search(label) else phrase


def label_phrases(
    labels: Sequence[str], given: Mapping[str, str] | None = None, *, verbalise: bool = True
) -> list[str]:
    """The phrase of every label: the one that is given for it, else `label_phrase`, or its bare name."""
    given = given or {}
    if unknown := [name for name in given if name not in labels]:
        raise ConfigError(f"`label_phrases` names {unknown[0]!r}; the labels are {list(labels)}.")
    write = label_phrase if verbalise else str
    phrases = [given.get(label, write(label)).strip() for label in labels]
    for index, phrase in enumerate(phrases):
        if not phrase or phrase in phrases[:index]:
            raise DataError(
                f"Label {labels[index]!r} is written {phrase!r}, which is empty or another label's as "
                "well. Rename it, or give its phrase in `label_phrases`."
            )
    return phrases


def without_meaning(phrases: Sequence[str]) -> list[str]:
    """Those phrases that say nothing of their texts: numbers, single letters, short words in capitals."""
    return [phrase for phrase in phrases if not _means(phrase)]


def warn_of_unclear(labels: Sequence[str], phrases: Sequence[str], consequence: str) -> bool:
    """Whether some phrases say nothing of their texts, which is logged with its consequence."""
    if unclear := [labels[phrases.index(phrase)] for phrase in without_meaning(phrases)]:
        _logger.warning(
            "The labels %s say nothing about their texts, so %s. Say what they mean by `label_phrases`, "
            "such as {%r: 'a few words'}.", unclear[:5], consequence, unclear[0],
        )  # fmt: skip
    return bool(unclear)


def _means(phrase: str) -> bool:
    if _NUMBERED.fullmatch(phrase):
        return False
    letters = "".join(filter(str.isalpha, phrase))
    if not letters.isascii():
        return bool(letters)
    abbreviated = letters.isupper() and len(letters) <= 4
    return len(letters) > 2 and not abbreviated


@dataclass(kw_only=True)
class ClassifierOptions:
    """What is put on an encoder, and how label names and unlabelled texts enter."""

    head: Head = option(
        "auto",
        "`sentence`: pooling and unit length of a sentence encoder, read from its checkpoint, and a linear "
        "head. `sequence`: `AutoModelForSequenceClassification`. `auto` takes the first for encoders that "
        "were trained as sentence encoders.",
    )
    label_names_in: LabelNames = option(
        "auto",
        "Where the label names enter: as the start of the head's rows (`head`; sentence encoders only), as "
        "one more training text per label without a prior (`text`), or not at all (`none`). `auto` is `head` "
        "for a sentence encoder where at least half of the labels mean something, else `none`.",
    )
    refit_head: bool = option(
        False,
        "After training, fit the head anew, by logistic regression on the training texts and the label names "
        "(sentence encoders without adapters).",
    )
    encoder_kept: float | None = option(
        None,
        "Part of what training changed in the encoder that stays at its end, above 0 and at most 1 (sentence "
        "encoders without adapters). By default a third with `refit_head`, half with `unlabelled`, else all.",
    )
    unlabelled: str | None = option(
        None,
        "File, folder or Hub id of texts without labels that refine the head after training (sentence "
        "encoders only); of several splits `unlabelled` is read. `fit` and `train` take that of the data.",
    )
    label_phrases: dict[str, str] | None = option(
        None, "What a label is called in words, where its name does not say it: label to phrase."
    )


def head_phrases(labels: Sequence[str], options: ClassifierOptions) -> list[str]:
    """The phrase of each label if the head is told the label names, else none.

    With `label_names_in="auto"` it is told names of which at least half mean something.
    """
    phrases = label_phrases(labels, options.label_phrases)
    told = {"auto": 2 * len(without_meaning(phrases)) <= len(phrases), "head": True}
    return phrases if told.get(options.label_names_in) else []


def class_names(config: Any) -> list[str]:
    """The labels that a model's configuration names, in the order of its outputs."""
    return [config.id2label[index] for index in sorted(config.id2label or {})]
