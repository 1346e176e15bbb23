"""Make an adversarial test set: `attack_dataset(test, train, AttackSettings(...))`."""

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from hf_cap.embedded import LANGUAGE_MODEL
from hf_cap.errors import ConfigError, DataError
from hf_cap.evaluation.attacks.keywords import (
    Keywords,
    chi_squared_keywords,
    difficulties,
    prior_keywords,
)
from hf_cap.evaluation.attacks.rewriting import Kind, Plan, rewrite
from hf_cap.evaluation.attacks.rules import Lexicon, add_mention, load_lexicon, replace_keywords
from hf_cap.lm.base import LMSettings, Sampling
from hf_cap.schema import LABEL, PRIOR, TEXT
from hf_cap.utils import check_choices, check_range, documented, generator, option
from hf_cap.words import WORD_PATTERN, fold, word_strings

if TYPE_CHECKING:
    from datasets import Dataset

    from hf_cap.lm.open import ModelLike

Maker = Literal["rules", "chat"]
CHANGED = "changed"
COLUMNS = ("original", "keyword", "source_label", "difficulty", CHANGED, "maker", "note")
"""What an attack adds beside `text` and `label`."""
_BATCH = 32  # texts per step of the progress bar, and per call of the language model
_logger = logging.getLogger(__name__)


@documented
@dataclass(frozen=True, kw_only=True)
class AttackSettings:
    """Which attack, who writes it, and where its keywords come from."""

    kind: Kind = option(
        "keyword_addition",
        "keyword_addition brings a word of another class into the text, keyword_replacement puts "
        "other words in the place of the class's own keywords; the label stays right in both.",
    )
    maker: Maker = option(
        "rules", "Who writes the attacked text: fixed rules, or a chat model with checks."
    )
    keywords_from: Literal["training", "prior"] = option(
        "training",
        "training takes keywords by chi-squared from the training texts alone, which favours no "
        "method, prior the words with the highest sum of prior scores.",
    )
    prior_column: str = option(
        PRIOR, "Column of the training data that holds the prior, for keywords_from=prior."
    )
    keywords: int = option(10, "Most keywords per class; at least 1.")
    keyword_texts: int = option(
        2, "Training texts of its class that a keyword must occur in; 1 admits chance words."
    )
    difficulty: Literal["any", "easy", "medium", "hard"] = option(
        "any",
        "Which classes added keywords come from, by overlap of their keywords with the text's class: "
        "the most similar third (hard), the least similar (easy), the middle (medium), or any.",
    )
    synonyms: str | None = option(
        None, "JSON file of synonyms, word to list of words; it overrides the own lexicon."
    )
    unchanged: Literal["keep", "drop", "rules"] = option(
        "keep",
        "A text that the attack cannot change, or whose version by the chat model fails a check: "
        "keep it as it is, drop it, or let the rules write it (for maker=chat).",
    )
    model: str = option(LANGUAGE_MODEL, "Chat model for maker=chat.")
    base_url: str | None = option(
        None,
        "Root of an OpenAI-compatible server that serves `model`, e.g. http://localhost:8000/v1.",
    )
    max_new_tokens: int = option(96, "Longest reply of the chat model, in tokens.")
    word_pattern: str = option(WORD_PATTERN, "Regular expression of a word.")
    seed: int = option(0, "Seed of every choice; a choice depends on it and the text alone.")

    def __post_init__(self) -> None:
        check_choices(self)
        check_range(self, "keywords", "keyword_texts", "max_new_tokens", at_least=1)
        if self.unchanged == "rules" and self.maker == "rules":
            raise ConfigError(
                "unchanged='rules' lets the rules write what a chat model cannot, but maker='rules' "
                "writes everything by rule already. Choose 'keep' or 'drop', or maker='chat'."
            )


class Outcome(NamedTuple):
    """An attacked text."""

    text: str
    keywords: tuple[str, ...]
    maker: Maker | None = None
    """Who changed the text; `None` where it is as it was."""
    note: str = ""
    """Why the text is unchanged, or why the rules had to write it."""


@dataclass(frozen=True)
class Attack:
    """A map function that attacks texts: `dataset.map(Attack(...), batched=True)`.

    Attributes:
        settings: What is done and by whom.
        labels: The label space.
        keywords: Keywords of each label.
        model: The language model for maker=chat.
    """

    settings: AttackSettings
    labels: tuple[str, ...]
    keywords: Keywords
    model: "ModelLike | None" = None

    def __call__(self, batch: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
        """Replace the column `text` and add `COLUMNS`; `label` indexes the label space."""
        plans = list(map(self.plan, batch[TEXT], batch[LABEL]))
        ready = [plan for plan in plans if plan.keywords]
        written = iter(self._write(ready) if ready else [])
        outcomes = [
            next(written) if plan.keywords else Outcome(plan.text, (), note="no keyword")
            for plan in plans
        ]
        rows = [
            (
                *(outcome.text, plan.text, " ".join(outcome.keywords)),
                *(plan.source_label, plan.difficulty),
                *(outcome.maker is not None, outcome.maker or "", outcome.note),
            )
            for plan, outcome in zip(plans, outcomes, strict=True)
        ]
        columns = map(list, zip(*rows, strict=True))
        return dict(zip((TEXT, *COLUMNS), columns, strict=True))

    def plan(self, text: str, label: int) -> Plan:
        """Choose the keywords for a text, by the seed and the text alone."""
        words = [fold(word) for word in word_strings(text, self.settings.word_pattern)]
        own, name = self.keywords[label], self.labels[label]
        if self.settings.kind == "keyword_replacement":
            present = tuple(word for word in dict.fromkeys(words) if word in own)
            return Plan(text, name, present, name)
        levels = difficulties(label, self.keywords)
        offers = {
            other: [word for word in self.keywords[other] if word not in {*words, *own}]
            for other, level in levels.items()
            if self.settings.difficulty in ("any", level)
        }
        sources = [other for other, offered in offers.items() if offered]
        if not sources:
            return Plan(text, name, ())
        rng = generator(self.settings.seed, "plan", text)
        source = int(rng.choice(sources))
        keyword = str(rng.choice(offers[source]))
        return Plan(text, name, (keyword,), self.labels[source], levels[source])

    def _write(self, plans: Sequence[Plan]) -> list[Outcome]:
        from hf_cap.lm.open import open_language_model

        settings, lexicon = self.settings, load_lexicon(self.settings.synonyms)
        if settings.maker == "rules":
            return [self._by_rule(plan, lexicon) for plan in plans]
        sampling = Sampling(max_new_tokens=settings.max_new_tokens, seed=settings.seed)
        named = LMSettings(model=settings.model, base_url=settings.base_url)
        model = open_language_model(named if self.model is None else self.model)
        found = rewrite(model, settings.kind, plans, sampling, settings.word_pattern)
        outcomes = []
        for plan, (text, fault) in zip(plans, found, strict=True):
            outcome = Outcome(text, plan.keywords, "chat")
            if fault:
                outcome = Outcome(plan.text, plan.keywords, note=fault)
                if settings.unchanged == "rules":
                    outcome = self._by_rule(plan, lexicon)
                    note = "; ".join(filter(None, (fault, outcome.note)))
                    outcome = outcome._replace(note=note)
            outcomes.append(outcome)
        return outcomes

    def _by_rule(self, plan: Plan, lexicon: Lexicon) -> Outcome:
        rng = generator(self.settings.seed, "write", plan.text)
        if self.settings.kind == "keyword_addition":
            return Outcome(add_mention(plan.text, plan.keywords[0], rng), plan.keywords, "rules")
        own, pattern = self.keywords[self.labels.index(plan.label)], self.settings.word_pattern
        text, replaced = replace_keywords(plan.text, own, lexicon, rng, pattern)
        if not replaced:
            return Outcome(plan.text, plan.keywords, note="no synonym")
        return Outcome(text, tuple(replaced), "rules")


def prepare_attack(
    train: "Dataset", settings: AttackSettings, model: "ModelLike | None" = None
) -> Attack:
    """The attack with the keywords of a training set.

    Args:
        train: Columns `text` and `label` (a `ClassLabel`), and a prior for keywords_from=prior.
        settings: What to do.
        model: An opened language model, used instead of the one that the settings name.

    Raises:
        DataError: a column is missing, or no class has a keyword.
        PriorError: a prior does not fit the words of its text.
    """
    from hf_cap.data import label_names

    labels, column = label_names(train), settings.prior_column
    texts, gold = list(train[TEXT]), list(train[LABEL])
    sizes, pattern = (len(labels), settings.keywords), settings.word_pattern
    if settings.keywords_from == "training":
        least = settings.keyword_texts
        keywords = chi_squared_keywords(texts, gold, *sizes, least_texts=least, pattern=pattern)
    elif column in train.column_names:
        priors = list(train[column])
        keywords = prior_keywords(texts, gold, priors, *sizes, pattern=pattern, column=column)
    else:
        raise DataError(
            f"Keywords from a prior need the column {column!r}; the training data has "
            f"{train.column_names}. Extract a prior first, or take `keywords_from=training`."
        )
    if not any(keywords):
        raise DataError(
            f"No class has a keyword in the {len(texts)} training texts, so there is nothing to "
            "attack with. Give more texts, or lower `keyword_texts`."
        )
    return Attack(settings, tuple(labels), keywords, model)


@dataclass(frozen=True, slots=True)
class AttackSummary:
    """What an attack did to a test set, in numbers of texts.

    Attributes:
        texts: Texts of the test set.
        changed: Texts that the attack changed.
        dropped: Unchanged texts that were left out.
        makers: Changed texts by who wrote them.
        difficulties: Changed texts by difficulty; empty for a kind of attack that has none.
        notes: Why texts are unchanged, or why the rules had to write them.
    """

    texts: int
    changed: int
    dropped: int
    makers: Mapping[str, int]
    difficulties: Mapping[str, int]
    notes: Mapping[str, int]

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
    dataset: "Dataset",
    train: "Dataset",
    settings: AttackSettings | None = None,
    model: "ModelLike | None" = None,
) -> "Dataset":
    """Attack test texts. A warning counts those that are unchanged, and says why.

    Args:
        dataset: Test texts: columns `text` and `label`, with the label space of `train`.
        train: Training texts that the keywords come from.
        settings: What to do; the defaults of `AttackSettings` if not given.
        model: An opened language model, used instead of the one that the settings name.

    Returns:
        `text` (attacked), `label`, and `COLUMNS`.

    Raises:
        DataError: the label spaces differ, a test label has no training text, or no text changes.
        PriorError: keywords come from a prior that does not fit the words of its texts.
        ModelError: the chat model cannot be used.
        ServerError: its server keeps failing; run again to continue with the replies so far.
    """
    attack = prepare_attack(train, settings or AttackSettings(), model)
    attacked, summary = run_attack(dataset, train, attack)
    if summary.changed < summary.texts:
        _logger.warning("The attack %s: %s.", attack.settings.kind, summary)
    return attacked


def run_attack(
    dataset: "Dataset", train: "Dataset", attack: Attack
) -> "tuple[Dataset, AttackSummary]":
    """Attack with a prepared attack; the data set of `attack_dataset` and what was done."""
    from datasets import Features, Value

    _check_labels(dataset, train)
    columns = {name: Value("bool" if name == CHANGED else "string") for name in COLUMNS}
    attacked = dataset.select_columns([TEXT, LABEL]).map(
        attack,
        batched=True,
        batch_size=_BATCH,
        features=Features({TEXT: Value("string"), LABEL: dataset.features[LABEL], **columns}),
        # the rules are quick and replies are stored: a cache could only be stale
        load_from_cache_file=False,
        desc=f"Attack {attack.settings.kind}",
    )
    kept = [row for row, changed in enumerate(attacked[CHANGED]) if changed]
    dropping, changed = attack.settings.unchanged == "drop", attacked.select(kept)
    summary = AttackSummary(
        texts=len(attacked),
        changed=len(kept),
        dropped=len(attacked) - len(kept) if dropping else 0,
        makers=_counted(changed["maker"]),
        difficulties=_counted(changed["difficulty"]),
        notes=_counted(attacked["note"]),
    )
    if not summary.changed:
        raise DataError(
            f"The attack {attack.settings.kind} changes nothing: {summary}. Take another kind or "
            "maker, more `keywords`, or your own `synonyms`."
        )
    return (changed if dropping else attacked), summary


def _check_labels(dataset: "Dataset", train: "Dataset") -> None:
    """Refuse test labels without training texts."""
    from hf_cap.data import label_names

    labels = label_names(train)
    if label_names(dataset) != labels:
        raise DataError(
            f"The test data has the labels {label_names(dataset)[:5]!r}..., the training data "
            f"{labels[:5]!r}...; an attack needs one label space."
        )
    gold = Counter(dataset[LABEL])
    if unseen := sorted(set(gold) - set(train[LABEL])):
        raise DataError(
            f"{sum(gold[label] for label in unseen)} test texts have labels of which there is no "
            f"training text: {[labels[label] for label in unseen][:5]!r}. Keywords come from training "
            "texts: give some of each label (the full training set, say), or leave those texts out."
        )


def _counted(values: Iterable[str]) -> dict[str, int]:
    """How often each value occurs, the most frequent first; empty strings are not counted."""
    return dict(Counter(filter(None, values)).most_common())
