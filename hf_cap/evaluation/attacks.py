"""Make an adversarial test set: `attack_dataset(test, train, AttackSettings(...))`."""

import logging
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

from datasets import Dataset, Features, Value

from hf_cap.data import label_names
from hf_cap.errors import DataError
from hf_cap.evaluation.attack_rules import (
    ENGLISH,
    Keywords,
    Lexicon,
    add_mention,
    class_keywords,
    difficulties,
    is_english,
    is_latin,
    load_lexicon,
    replace_keywords,
)
from hf_cap.evaluation.settings import AttackSettings
from hf_cap.labels import label_phrase
from hf_cap.lm.base import LMSettings, Reply, Sampling
from hf_cap.lm.open import ModelLike, open_language_model
from hf_cap.progress import progress
from hf_cap.schema import CHANGED, LABEL, ORIGINAL, TEXT
from hf_cap.utils import generator, text_seed
from hf_cap.words import fold, word_strings

COLUMNS = (ORIGINAL, "keyword", "source_label", "difficulty", CHANGED, "maker", "note")
"""What an attack adds beside `text` and `label`."""
_logger = logging.getLogger(__name__)

# what more words can put right
_MENDED = frozenset(("empty reply", "nothing changed", "too short", "keyword missing"))
_REFUSALS = tuple(ENGLISH["refusals"])
_ECHO = re.compile(rf"\b(?:{'|'.join(ENGLISH['echoes'])})\b", re.IGNORECASE)


class Attacked(NamedTuple):
    """One text, before or after its attack."""

    original: str
    text: str
    label: int
    keywords: tuple[str, ...] = ()  # to add, or of the text to replace
    source_label: str = ""  # the class that the keywords come from
    difficulty: str = ""
    maker: str = ""  # empty where the text is as it was
    note: str = ""  # why that is so, or why the rules had to write it


@dataclass(frozen=True)
class Attack:
    """A map function that attacks texts: `dataset.map(Attack(...), batched=True)`."""

    settings: AttackSettings
    labels: tuple[str, ...]
    keywords: Keywords
    model: ModelLike | None = None
    english: bool = True

    def __call__(self, batch: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
        """Replace the column `text` and add `COLUMNS`; `label` indexes the label space."""
        rows = list(map(self._plan, batch[TEXT], batch[LABEL]))
        ready = [index for index, row in enumerate(rows) if row.keywords]
        if self.settings.maker == "chat" and ready:
            for index, row in zip(ready, self._by_chat([rows[i] for i in ready]), strict=True):
                rows[index] = row
        if "rules" in (self.settings.maker, self.settings.unchanged):
            lexicon = load_lexicon(self.settings.synonyms, english=self.english)
            rows = [self._by_rule(row, lexicon) if row.keywords and not row.maker else row for row in rows]
        columns: dict[str, list[Any]] = {
            name: [getattr(row, name) for row in rows]
            for name in (TEXT, "original", "source_label", "difficulty", "maker", "note")
        }
        columns["keyword"] = [" ".join(row.keywords) for row in rows]
        columns[CHANGED] = [bool(row.maker) for row in rows]
        return columns

    def _plan(self, text: str, label: int) -> Attacked:
        """Choose the keywords for a text, by the seed and the text alone."""
        words = [fold(word) for word in word_strings(text, self.settings.word_pattern)]
        own, row = self.keywords[label], Attacked(text, text, label, note="no keyword")
        if self.settings.kind == "keyword_replacement":
            present = tuple(word for word in dict.fromkeys(words) if word in own)
            row = row._replace(keywords=present, source_label=self.labels[label])
            return row._replace(note="") if present else row
        levels = difficulties(label, self.keywords)
        offers = {
            other: [word for word in self.keywords[other] if word not in {*words, *own}]
            for other, level in levels.items()
            if self.settings.difficulty in ("any", level)
        }
        sources = [other for other, offered in offers.items() if offered]
        if not sources:
            return row
        rng = generator(self.settings.seed, "plan", text)
        source = int(rng.choice(sources))
        keyword, name = str(rng.choice(offers[source])), self.labels[source]
        return Attacked(text, text, label, (keyword,), name, levels[source])

    def _by_rule(self, row: Attacked, lexicon: Lexicon) -> Attacked:
        settings, rng = self.settings, generator(self.settings.seed, "write", row.original)
        if settings.kind == "keyword_addition" and not is_latin(row.original):
            return row._replace(note="; ".join(filter(None, (row.note, "another script"))))
        if settings.kind == "keyword_addition":
            text = add_mention(row.original, row.keywords[0], rng)
            return row._replace(text=text, maker="rules")
        own, pattern = self.keywords[row.label], settings.word_pattern
        avoided = {word for words in self.keywords for word in words}
        text, done = replace_keywords(
            row.original, own, lexicon, rng, pattern, avoided=avoided, english=self.english
        )
        if done:
            return row._replace(text=text, keywords=tuple(done), maker="rules")
        return row._replace(note="; ".join(filter(None, (row.note, "no synonym"))))

    def _by_chat(self, rows: Sequence[Attacked]) -> list[Attacked]:
        """Let the model rewrite texts, check the replies, and let a second call confirm the labels."""
        settings = self.settings
        named = LMSettings(model=settings.model, base_url=settings.base_url)
        model = open_language_model(named if self.model is None else self.model)
        sampling = Sampling(max_new_tokens=settings.max_new_tokens, seed=settings.seed)
        labels = [label_phrase(self.labels[row.label]) for row in rows]
        requests = [
            ENGLISH["requests"][settings.kind].format(
                keyword=row.keywords[0],
                keywords=", ".join(f'"{word}"' for word in row.keywords),
                label=label,
                text=row.original,
            )
            for row, label in zip(rows, labels, strict=True)
        ]
        adding = settings.kind == "keyword_addition"
        others = () if adding else {word for words in self.keywords for word in words}
        checks = [
            partial(
                faults,
                row.original,
                required=row.keywords if adding else (),
                forbidden=() if adding else row.keywords,
                pattern=settings.word_pattern,
                others=others,
            )
            for row in rows
        ]
        if settings.constrained:
            drawn = replace(sampling, temperature=1.0)
            limits = [partial(may_pass, check, check.keywords["required"]) for check in checks]
            replies: Sequence[Reply | None] = model.generate_within(requests, drawn, limits)
        else:
            replies = model.generate(requests, sampling)
        texts = [clean_reply(reply.text) if reply else "" for reply in replies]
        notes = [next(iter(check(text)), None) for check, text in zip(checks, texts, strict=True)]
        passing = [index for index, found in enumerate(notes) if found is None]
        questions = [ENGLISH["question"].format(label=labels[i], text=texts[i]) for i in passing]
        verdicts = model.generate(questions, sampling) if questions else []
        for index, verdict in zip(passing, verdicts, strict=True):
            if [fold(word) for word in verdict.text.split()][:1] != ["yes"]:
                notes[index] = "label not confirmed"
        return [
            row._replace(note=found) if found else row._replace(text=text, maker="chat")
            for row, text, found in zip(rows, texts, notes, strict=True)
        ]


def clean_reply(reply: str) -> str:
    """The reply without white space, heading and quotation marks around the answer."""
    text = reply.strip()
    for heading in ("rewritten message:", "message:"):
        if text.casefold().startswith(heading):
            text = text[len(heading) :].strip()
    if len(text) > 1 and text[0] in "\"“'" and text[-1] in "\"”'":
        text = text[1:-1].strip()
    return text


def faults(
    original: str,
    rewritten: str,
    required: Sequence[str],
    forbidden: Sequence[str],
    pattern: str,
    others: Collection[str] = (),
) -> list[str]:
    """Why a cleaned reply is no attack, given folded words that it must, must not, or not newly contain."""
    # words with a letter or digit: a reply of question marks has none
    words, before = (
        [fold(word) for word in word_strings(text, pattern) if any(map(str.isalnum, word))]
        for text in (rewritten, original)
    )
    refusing, refused = (
        text.replace("’", "'").casefold().startswith(_REFUSALS) for text in (rewritten, original)
    )
    # shares of the original's number of words
    shortest, longest = 0.4 * len(before), 2.5 * len(before) + 8
    checks = {
        "empty reply": not words,
        "refusal": refusing and not refused,
        "request echoed": _ECHO.search(rewritten) and not _ECHO.search(original),
        "several lines": "\n" in rewritten,
        "nothing changed": words == before,
        "too long": len(words) > longest,
        "too short": len(words) < shortest,
        "keyword missing": not set(required) <= set(words),
        "keyword still there": set(forbidden) & set(words),
        "keyword of another class": set(others) & set(words) - set(before),
    }
    return [name for name, failed in checks.items() if failed]


def may_pass(check: Callable[[str], list[str]], required: Sequence[str], reply: str, ended: bool) -> bool:
    """Whether a reply, so far or as it ends, passes a check or may still pass it by more words."""
    text = clean_reply(reply)
    if ended:
        return not check(text)
    # the last word may go on, perhaps to one that is required; what is required needs room
    last = "" if not text or reply[-1].isspace() else text.split()[-1]
    whole = text[: len(text) - len(last)]
    goes_on = any(word.startswith(fold(last)) for word in required)
    full = " ".join([whole if goes_on else text, *required])
    found = {*check(whole)} | {*check(full)}.intersection(["too long"])
    # line breaks at the end are stripped from a text, but none belongs there
    return "\n" not in reply and not found - _MENDED


def prepare_attack(train: Dataset, settings: AttackSettings, model: ModelLike | None = None) -> Attack:
    """The attack with the keywords of a training set; arguments and errors as for `attack_dataset`."""
    labels, column = label_names(train), settings.prior_column
    if settings.keywords_from == "prior" and column not in train.column_names:
        raise DataError(
            f"Keywords from a prior need the column {column!r}; the training data has "
            f"{train.column_names}. Extract a prior first, or take keywords_from=training."
        )
    priors = list(train[column]) if settings.keywords_from == "prior" else None
    sizes = (len(labels), settings.keywords, settings.keyword_texts)
    texts, gold, pattern = list(train[TEXT]), list(train[LABEL]), settings.word_pattern
    keywords = class_keywords(texts, gold, *sizes, pattern, priors, column)
    if settings.keyword_half != "both":
        half = ("first", "second").index(settings.keyword_half)
        keywords = tuple(tuple(w for w in of if text_seed(0, w) % 2 == half) for of in keywords)
    if not any(keywords):
        raise DataError(f"No class has a keyword in the {len(texts)} training texts; lower `keyword_texts`.")
    return Attack(settings, tuple(labels), keywords, model)


def describe(summary: Mapping[str, Any]) -> str:
    """A sentence or two on what `run_attack` did."""
    texts, changed = summary["texts"], summary["changed"]
    makers, levels, notes = (
        ", ".join(f"{name} {count}" for name, count in summary[key].items())
        for key in ("makers", "difficulties", "notes")
    )
    parts = [
        f"{changed} of {texts} texts changed",
        f"written by {makers}" if len(summary["makers"]) > 1 else "",
        levels,
        f"{texts - changed} unchanged" if changed < texts else "",
        f"notes: {notes}" if notes else "",
    ]
    return "; ".join(filter(None, parts))


def attack_dataset(
    dataset: Dataset, train: Dataset, settings: AttackSettings | None = None, model: ModelLike | None = None
) -> Dataset:
    """Attack test texts. A warning counts those that are unchanged, and says why.

    Args:
        dataset: Test texts: columns `text` and `label`, with the label space of `train`.
        train: Training texts that the keywords come from.
        model: An opened language model, used instead of the one that the settings name.

    Returns `text` (attacked), `label`, and `COLUMNS`.

    Raises:
        DataError: the label spaces differ, a test label has no training text, or no text changes.
        PriorError: keywords come from a prior that does not fit the words of its texts.
        ServerError: the chat model's server keeps failing; run again to continue with the replies.
    """
    attack = prepare_attack(train, settings or AttackSettings(), model)
    attacked, summary = run_attack(dataset, train, attack)
    if summary["changed"] < summary["texts"]:
        _logger.warning("The attack %s: %s.", attack.settings.kind, describe(summary))
    return attacked


def run_attack(dataset: Dataset, train: Dataset, attack: Attack) -> tuple[Dataset, dict[str, Any]]:
    """The data set of `attack_dataset`, and numbers of its texts.

    They are all, the changed and the dropped ones, those changed by maker and by difficulty, and the
    notes on those that are unchanged or that the rules had to write.
    """
    _check_labels(dataset, train)
    pattern = attack.settings.word_pattern
    english = is_english(train[TEXT][:], pattern) and is_english(dataset[TEXT][:], pattern)
    _check_language(attack.settings, english)
    attack = replace(attack, english=english)
    columns = {name: Value("bool" if name == CHANGED else "string") for name in COLUMNS}
    features = Features({TEXT: Value("string"), LABEL: dataset.features[LABEL], **columns})
    made: dict[str, list[Any]] = {name: [] for name in features}
    with progress(len(dataset), "texts", f"Attack {attack.settings.kind}") as work:
        # the language model is asked about one batch at a time
        for batch in dataset.select_columns([TEXT, LABEL]).iter(batch_size=32):
            rows = {**batch, **attack(batch)}
            for name, values in made.items():
                values += rows[name]
            work.update(len(rows[TEXT]))
    attacked = Dataset.from_dict(made, features=features)
    changed = attacked.select([row for row, flag in enumerate(attacked[CHANGED]) if flag])
    kept = changed if attack.settings.unchanged == "drop" else attacked
    summary = {
        "texts": len(attacked),
        "changed": len(changed),
        "dropped": len(attacked) - len(kept),
        "makers": _counted(changed["maker"]),
        "difficulties": _counted(changed["difficulty"]),
        "notes": _counted(attacked["note"]),
    }
    if not summary["changed"]:
        raise DataError(
            f"The attack {attack.settings.kind} changes nothing: {describe(summary)}. Take another kind "
            "or maker, more `keywords`, or your own `synonyms`."
        )
    return kept, summary


def _check_language(settings: AttackSettings, english: bool) -> None:
    """Raise `DataError` where the rules would put English into texts of another language."""
    adding = settings.kind == "keyword_addition"
    if english:
        return
    if "rules" in (settings.maker, settings.unchanged) and (adding or settings.synonyms is None):
        raise DataError(
            "The texts do not look like English (few of its function words), and the rules of "
            f"{settings.kind} write English only; use maker=chat with a model of their language"
            + (", without unchanged=rules." if adding else ", or your own `synonyms`.")
        )
    if settings.maker == "chat":
        _logger.warning(
            "The texts do not look like English; the requests to the model are in English, so "
            "read whether its replies are in the language of the texts."
        )


def _check_labels(dataset: Dataset, train: Dataset) -> None:
    labels, found, known = label_names(train), label_names(dataset), set(train[LABEL])
    if found != labels:
        raise DataError(
            f"An attack needs one label space; the test data has {found[:5]!r}..., the training data "
            f"{labels[:5]!r}..."
        )
    if lost := [labels[label] for label in dataset[LABEL] if label not in known]:
        raise DataError(
            f"{len(lost)} test texts have labels of which there is no training text: "
            f"{sorted(set(lost))[:5]!r}; add some, or leave those out."
        )


def _counted(values: Iterable[str]) -> dict[str, int]:
    """How often each value occurs, the most frequent first; empty strings are not counted."""
    return dict(Counter(filter(None, values)).most_common())
