"""Makes an adversarial test set: `attack_dataset(test, train, settings)`.

The map function `Attack` is a frozen value of settings and keywords.
"""

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import Dataset, Features, Value

from hf_cap.data import label_names
from hf_cap.errors import DataError
from hf_cap.evaluation.attacks.rules import (
    Keywords,
    Outcome,
    Plan,
    chi_squared_keywords,
    difficulties,
    prior_keywords,
)
from hf_cap.evaluation.attacks.settings import AttackSettings
from hf_cap.evaluation.attacks.writers import ChatWriter, RuleWriter, repaired
from hf_cap.lm.base import LanguageModel
from hf_cap.lm.open import open_language_model
from hf_cap.schema import LABEL, TEXT
from hf_cap.utils import generator
from hf_cap.words import fold, word_strings

ORIGINAL, KEYWORD, SOURCE_LABEL, DIFFICULTY, CHANGED, MAKER, NOTE = (
    "original",
    "keyword",
    "source_label",
    "difficulty",
    "changed",
    "maker",
    "note",
)
_BATCH = 32
"""Texts between two steps of the progress bar; a chat model is asked about so many at a time."""
_logger = logging.getLogger(__name__)


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
            CHANGED: [outcome.maker is not None for outcome in outcomes],
            MAKER: [outcome.maker or "" for outcome in outcomes],
            NOTE: [outcome.note for outcome in outcomes],
        }

    def plan(self, text: str, label: int) -> Plan:
        """The keywords for a text; they depend on the seed and the text alone."""
        chosen = self._foreign if self.settings.kind == "keyword_addition" else self._own
        return chosen(text, label, generator(self.settings.seed, "plan", text))

    def carry_out(self, plans: Sequence[Plan], chat: LanguageModel | None = None) -> list[Outcome]:
        """Write the attacked texts; `chat` instead of the model that the settings name."""
        ready = [plan for plan in plans if plan.keywords]
        outcomes = iter(self._written(ready, chat) if ready else [])
        return [
            next(outcomes) if plan.keywords else Outcome(plan.text, (), note="no keyword")
            for plan in plans
        ]

    def _written(self, plans: Sequence[Plan], chat: LanguageModel | None) -> list[Outcome]:
        rules = RuleWriter(self.settings, dict(zip(self.labels, self.keywords, strict=True)))
        if self.settings.maker == "rules":
            return rules(plans)
        outcomes = ChatWriter(self.settings, chat or open_language_model(self.settings.chat_model))(
            plans
        )
        return repaired(outcomes, plans, rules) if self.settings.unchanged == "rules" else outcomes

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


def prepare_attack(train: Dataset, settings: AttackSettings) -> Attack:
    """The attack with the keywords of a training set.

    Args:
        train: Columns `text` and `label` (a `ClassLabel`), and a prior where the keywords come from it.
        settings: What to do.

    Raises:
        DataError: a column is missing, or no class has a keyword.
        PriorError: keywords come from a prior that does not fit the words of its texts.
    """
    labels = label_names(train)
    texts, gold = list(train[TEXT]), list(train[LABEL])
    if settings.keywords_from == "training":
        keywords = chi_squared_keywords(
            texts,
            gold,
            len(labels),
            settings.keywords,
            least_texts=settings.keyword_texts,
            pattern=settings.word_pattern,
        )
    else:
        keywords = prior_keywords(
            texts,
            gold,
            _priors(train, settings.prior_column),
            len(labels),
            settings.keywords,
            pattern=settings.word_pattern,
            column=settings.prior_column,
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
            "Extract a prior first, or take `keywords_from=training`."
        )
    return list(train[column])


@dataclass(frozen=True, slots=True)
class AttackSummary:
    """What an attack did to a test set, in texts."""

    texts: int
    """Texts that were to be attacked."""
    changed: int
    """Texts that are not what they were."""
    dropped: int
    """Unchanged texts that were left out."""
    makers: Mapping[str, int]
    """Changed texts by who wrote them."""
    difficulties: Mapping[str, int]
    """Changed texts by difficulty; empty for a kind of attack that has none."""
    notes: Mapping[str, int]
    """Why texts are unchanged, or why the rules had to write them."""

    def __str__(self) -> str:
        """A sentence or two for the end of a run."""
        unchanged = self.texts - self.changed
        parts = [f"{self.changed} of {self.texts} texts changed"]
        if len(self.makers) > 1:
            parts.append(f"written by {_listed(self.makers)}")
        if self.difficulties:
            parts.append(_listed(self.difficulties))
        if unchanged:
            parts.append(f"{unchanged} unchanged" + (" and left out" if self.dropped else ""))
        if self.notes:
            parts.append(f"notes: {_listed(self.notes)}")
        return "; ".join(parts)


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())


def attack_dataset(
    dataset: Dataset, train: Dataset, settings: AttackSettings | None = None
) -> Dataset:
    """An adversarial test set.

    Args:
        dataset: Test texts: columns `text` and `label`, with the label space of `train`.
        train: Training texts that the keywords come from.
        settings: What to do; the defaults of `AttackSettings` if not given.

    Returns:
        The columns `text` (attacked), `label`, `original`, `keyword`, `source_label`, `difficulty`,
        `changed`, `maker` and `note` (why a text is unchanged, or the rules wrote it). How many are
        unchanged, and why, is logged.

    Raises:
        DataError: the label spaces differ, a test label has no training text, or no text changes at all.
        PriorError: keywords come from a prior that does not fit the words of its texts.
        ModelError: the chat model cannot be used.
        ServerError: its server keeps failing; its replies so far are kept, and a new run goes on from there.
    """
    attack = prepare_attack(train, settings or AttackSettings())
    attacked, summary = run_attack(dataset, train, attack)
    if summary.changed < summary.texts:
        _logger.warning("The attack %s: %s.", attack.settings.kind, summary)
    return attacked


def run_attack(dataset: Dataset, train: Dataset, attack: Attack) -> tuple[Dataset, AttackSummary]:
    """The work of `attack_dataset` with a prepared attack, and what it did."""
    _check_labels(dataset, train)
    features = Features(
        {
            TEXT: Value("string"),
            LABEL: dataset.features[LABEL],
            **dict.fromkeys((ORIGINAL, KEYWORD, SOURCE_LABEL, DIFFICULTY), Value("string")),
            CHANGED: Value("bool"),
            **dict.fromkeys((MAKER, NOTE), Value("string")),
        }
    )
    attacked = dataset.select_columns([TEXT, LABEL]).map(
        attack,
        batched=True,
        batch_size=_BATCH,
        features=features,
        # the rules are quick and replies are kept: a cache could only be stale
        load_from_cache_file=False,
        desc=f"Attack {attack.settings.kind}",
    )
    kept = np.flatnonzero(attacked[CHANGED])
    dropping = attack.settings.unchanged == "drop"
    summary = _summary(attacked, dropped=len(attacked) - len(kept) if dropping else 0)
    if not summary.changed:
        raise DataError(
            f"The attack {attack.settings.kind} changes nothing: {summary}. Take another kind or maker, "
            "more `keywords`, or your own `synonyms`."
        )
    return (attacked.select(kept) if dropping else attacked), summary


def _check_labels(dataset: Dataset, train: Dataset) -> None:
    """Refuse test texts whose labels the training texts cannot speak for."""
    labels = label_names(train)
    if label_names(dataset) != labels:
        raise DataError(
            f"The test data has the labels {label_names(dataset)[:5]!r}..., the training data "
            f"{labels[:5]!r}...; an attack needs one label space."
        )
    gold = Counter(dataset[LABEL])
    if unseen := sorted(set(gold) - set(train[LABEL])):
        raise DataError(
            f"{sum(gold[label] for label in unseen)} test texts have labels of which there is no training "
            f"text: {[labels[label] for label in unseen][:5]!r}. Keywords come from training texts: give "
            "some of each label (the full training set, say), or leave those test texts out."
        )


def _summary(attacked: Dataset, *, dropped: int) -> AttackSummary:
    changed = [row for row in attacked.select_columns([CHANGED, MAKER, DIFFICULTY]) if row[CHANGED]]
    return AttackSummary(
        texts=len(attacked),
        changed=len(changed),
        dropped=dropped,
        makers=_counted(row[MAKER] for row in changed),
        difficulties=_counted(row[DIFFICULTY] for row in changed),
        notes=_counted(attacked[NOTE]),
    )


def _counted(values: Iterable[str]) -> dict[str, int]:
    """How often each value occurs, the most frequent first; empty strings are not counted."""
    return dict(Counter(filter(None, values)).most_common())
