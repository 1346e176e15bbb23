"""Makes an adversarial test set: `attack_dataset(test, train, settings)`.

The map function `Attack` is a frozen value of settings and keywords, so that `Dataset.map` knows its cache.
"""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import Dataset, Features, Value

from ...data import label_names
from ...errors import DataError
from ...randomness import generator
from ...schema import LABEL, TEXT
from ...word_counts import fold
from ...words import word_strings
from . import rewriting
from .chat import Chat, open_chat
from .keywords import Keywords, chi_squared_keywords, difficulties, prior_keywords
from .rules import add_mention, load_lexicon, replace_keywords
from .settings import AttackSettings

ORIGINAL, KEYWORD, SOURCE_LABEL, DIFFICULTY, CHANGED, NOTE = (
    "original",
    "keyword",
    "source_label",
    "difficulty",
    "changed",
    "note",
)
_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done to one text."""

    text: str
    label: str
    keywords: tuple[str, ...]
    """The word to add, or the words of the text to replace; none where the text offers nothing."""
    source_label: str
    """The class that the keywords come from."""
    difficulty: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one text."""

    text: str
    keywords: tuple[str, ...]
    note: str = ""
    """Why the text is unchanged; empty where it was changed."""


@dataclass(frozen=True)
class Attack:
    """Adds the columns of an attack: `dataset.map(Attack(...), batched=True)`.

    `text` becomes the attacked text, or stays as it is (then `changed` is false and `note` says why).

    Attributes:
        settings: What is done and by whom.
        labels: The label space.
        keywords: Keywords of each label.
    """

    settings: AttackSettings
    labels: tuple[str, ...]
    keywords: Keywords

    def __call__(self, batch: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
        """Attack a batch with the columns `text` and `label` (an index into the label space)."""
        plans = [
            self.plan(text, label) for text, label in zip(batch[TEXT], batch[LABEL], strict=True)
        ]
        outcomes = self.carry_out(plans)
        return {
            TEXT: [outcome.text for outcome in outcomes],
            ORIGINAL: [plan.text for plan in plans],
            KEYWORD: [" ".join(outcome.keywords) for outcome in outcomes],
            SOURCE_LABEL: [plan.source_label for plan in plans],
            DIFFICULTY: [plan.difficulty for plan in plans],
            CHANGED: [not outcome.note for outcome in outcomes],
            NOTE: [outcome.note for outcome in outcomes],
        }

    def plan(self, text: str, label: int) -> Plan:
        """The keywords for a text; they depend on the seed and the text alone."""
        chosen = self._foreign if self.settings.kind == "keyword_addition" else self._own
        return chosen(text, label, generator(self.settings.seed, "plan", text))

    def carry_out(self, plans: Sequence[Plan], chat: Chat | None = None) -> list[Outcome]:
        """Write the attacked texts; `chat` instead of the model that the settings name."""
        ready = [plan for plan in plans if plan.keywords]
        if self.settings.maker == "rule":
            outcomes = iter([self._by_rule(plan) for plan in ready])
        else:
            outcomes = iter(self._by_chat(ready, chat or open_chat(self.settings)) if ready else [])
        return [
            next(outcomes) if plan.keywords else Outcome(plan.text, (), "no keyword")
            for plan in plans
        ]

    def _foreign(self, text: str, label: int, rng: np.random.Generator) -> Plan:
        """A keyword of another class that is neither in the text nor a keyword of its own class."""
        levels = difficulties(label, self.keywords)
        taken = {fold(word) for word in word_strings(text, self.settings.word_pattern)} | set(
            self.keywords[label]
        )
        offers = {
            other: [word for word in self.keywords[other] if word not in taken]
            for other, level in levels.items()
            if self.settings.difficulty in ("any", level)
        }
        sources = [other for other, words in offers.items() if words]
        if not sources:
            return Plan(text, self.labels[label], (), "", "")
        source = int(rng.choice(sources))
        keyword = str(rng.choice(offers[source]))
        return Plan(text, self.labels[label], (keyword,), self.labels[source], levels[source])

    def _own(self, text: str, label: int, rng: np.random.Generator) -> Plan:
        """The keywords of the text's own class that are in it, in their order."""
        words = dict.fromkeys(fold(word) for word in word_strings(text, self.settings.word_pattern))
        own = tuple(word for word in words if word in self.keywords[label])
        return Plan(text, self.labels[label], own, self.labels[label], "")

    def _by_rule(self, plan: Plan) -> Outcome:
        rng = generator(self.settings.seed, "write", plan.text)
        if self.settings.kind == "keyword_addition":
            return Outcome(add_mention(plan.text, plan.keywords[0], rng), plan.keywords)
        own = self.keywords[self.labels.index(plan.label)]
        lexicon = load_lexicon(self.settings.synonyms)
        text, replaced = replace_keywords(plan.text, own, lexicon, rng, self.settings.word_pattern)
        return Outcome(text, tuple(replaced), "" if replaced else "no synonym")

    def _by_chat(self, plans: Sequence[Plan], chat: Chat) -> list[Outcome]:
        """Rewrite, check, and have a second call judge whether the label still holds."""
        adding = self.settings.kind == "keyword_addition"
        template = rewriting.ADD_PROMPT if adding else rewriting.REPLACE_PROMPT
        prompts = [
            template.format(
                keyword=plan.keywords[0],
                keywords=rewriting.listed(plan.keywords),
                label=rewriting.readable(plan.label),
                text=plan.text,
            )
            for plan in plans
        ]
        texts = [rewriting.clean_reply(reply) for reply in chat.reply(prompts)]
        faults = [
            rewriting.fault(
                plan.text,
                text,
                required=plan.keywords if adding else (),
                forbidden=() if adding else plan.keywords,
                pattern=self.settings.word_pattern,
            )
            for plan, text in zip(plans, texts, strict=True)
        ]
        questions = {
            row: rewriting.JUDGE_PROMPT.format(
                label=rewriting.readable(plans[row].label), text=texts[row]
            )
            for row, found in enumerate(faults)
            if found is None
        }
        verdicts = (
            dict(zip(questions, chat.reply(list(questions.values())), strict=True))
            if questions
            else {}
        )
        for row, verdict in verdicts.items():
            faults[row] = None if rewriting.agrees(verdict) else "label not confirmed"
        return [
            Outcome(text, plan.keywords)
            if found is None
            else Outcome(plan.text, plan.keywords, found)
            for plan, text, found in zip(plans, texts, faults, strict=True)
        ]


def prepare_attack(train: Dataset, settings: AttackSettings) -> Attack:
    """The attack with the keywords of a training set.

    Args:
        train: Columns `text` and `label` (a `ClassLabel`), and a prior where the keywords come from it.
        settings: What to do.

    Raises:
        DataError: a column is missing, or no class has a keyword.
    """
    labels = label_names(train)
    texts, gold = list(train[TEXT]), list(train[LABEL])
    if settings.keyword_source == "training":
        keywords = chi_squared_keywords(
            texts,
            gold,
            len(labels),
            settings.keywords,
            least_texts=settings.keyword_texts,
            pattern=settings.word_pattern,
        )
    else:
        priors = _priors(train, settings.prior_column)
        keywords = prior_keywords(
            texts, gold, priors, len(labels), settings.keywords, pattern=settings.word_pattern
        )
    if not any(keywords):
        raise DataError(
            f"No class has a keyword in the {len(texts)} training texts, so there is nothing to attack with. "
            "Give more texts, or lower `keyword_texts`."
        )
    return Attack(settings, tuple(labels), keywords)


def _priors(train: Dataset, column: str) -> list[Sequence[float] | None]:
    if column not in train.column_names:
        raise DataError(
            f"Keywords from a prior need the column {column!r}; the training data has {train.column_names}. "
            "Extract a prior first, or take `keyword_source=training`."
        )
    return list(train[column])


def attack_dataset(
    dataset: Dataset, train: Dataset, settings: AttackSettings | None = None
) -> Dataset:
    """An adversarial test set.

    Args:
        dataset: Test texts: columns `text` and `label`, with the label space of `train`.
        train: Training texts that the keywords come from.
        settings: What to do; the defaults of `AttackSettings` if not given.

    Returns:
        The columns `text` (attacked), `label`, `original`, `keyword`, `source_label`, `difficulty`, `changed`
        and `note` (why a text is unchanged). How many are unchanged, and why, is logged.

    Raises:
        DataError: the label spaces differ, or the attack changes no text at all.
        ModelError: the chat model cannot be used.
        ServerError: its server keeps failing; its replies so far are kept, and a new run goes on from there.
    """
    attack = prepare_attack(train, settings or AttackSettings())
    if label_names(dataset) != list(attack.labels):
        raise DataError(
            f"The test data has the labels {label_names(dataset)[:5]!r}..., the training data "
            f"{list(attack.labels)[:5]!r}...; an attack needs one label space."
        )
    features = Features(
        {
            TEXT: Value("string"),
            LABEL: dataset.features[LABEL],
            **dict.fromkeys((ORIGINAL, KEYWORD, SOURCE_LABEL, DIFFICULTY), Value("string")),
            CHANGED: Value("bool"),
            NOTE: Value("string"),
        }
    )
    plain = dataset.select_columns([TEXT, LABEL])
    attacked = plain.map(
        attack, batched=True, features=features, desc=f"Attack {attack.settings.kind}"
    )
    reasons = Counter(note for note in attacked[NOTE] if note)
    unchanged = f"{reasons.total()} of {len(attacked)} texts: {dict(reasons.most_common())}"
    if reasons.total() == len(attacked):
        raise DataError(
            f"The attack {attack.settings.kind} changes nothing. Unchanged are {unchanged}."
        )
    if reasons:
        _logger.warning("The attack %s leaves unchanged %s", attack.settings.kind, unchanged)
    return attacked
