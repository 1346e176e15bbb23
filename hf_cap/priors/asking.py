"""What the priors that ask a language model have in common: its prompts, its limit, its facts."""

import logging
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple, TypeVar

from datasets import Dataset

from ..errors import ConfigError, ModelError
from ..scoring.open import open_scorer
from ..scoring.protocol import Bounded, Query, Scorer
from ..scoring.settings import ScorerSettings
from .demonstrations import DemonstrationSets, choose_demonstrations, set_without
from .prompts import Prompt, build_prompt, digest, load_template, written_labels
from .rows import Row, label_space, read_rows
from .settings import PromptSettings, Sign
from .source_settings import RowOptions

T = TypeVar("T")

_logger = logging.getLogger(__name__)

DEFAULT_SCORER = ScorerSettings()

SIGNS: Mapping[Sign, Callable[[float], float]] = {
    "positive": lambda score: max(score, 0.0),
    "signed": lambda score: score,
    "absolute": abs,
}


@dataclass(frozen=True)
class Asker:
    """An opened language model with the prompts of one prior, one a demonstration set.

    Attributes:
        scorer: The language model.
        labels: The label space as written in the prompts.
        sets: Demonstration sets, with label names.
        prompts: The prompt of each set.
    """

    scorer: Scorer
    labels: Sequence[str]
    sets: DemonstrationSets
    prompts: Sequence[Prompt]

    def prompt(self, text: str) -> Prompt:
        """The prompt whose demonstrations do not contain `text`."""
        return self.prompts[set_without(self.sets, text)]

    @property
    def longest_label(self) -> str:
        """The label with the most characters."""
        return max(self.labels, key=len)

    def fit(self, row: Row, query: Callable[[Row], Query]) -> Row:
        """The row without the last words that the model has no room for.

        Args:
            row: The whole row.
            query: The longest query that a row needs.

        Raises:
            ModelError: not even the first word fits.
        """
        scorer = self.scorer
        if not isinstance(scorer, Bounded):
            return row

        def excess(words: int) -> int:
            return scorer.excess(query(row.first_words(words)))

        if excess(len(row.spans)) <= 0:
            return row
        kept = bisect_left(range(1, len(row.spans)), 1, key=excess)
        if kept == 0:
            raise ModelError(
                "The prompt leaves no room for a single word: the language model reads fewer tokens than "
                f"instruction, {len(self.labels)} labels and demonstrations take. Use fewer "
                "demonstrations (`demonstrations=0`), a shorter template, or a model that reads more."
            )
        return row.first_words(kept)


def open_asker(
    prior: str,
    settings: PromptSettings,
    labels: Sequence[str],
    scorer: ScorerSettings | Scorer,
    sets: DemonstrationSets,
) -> Asker:
    """Open the language model and write its prompts.

    Raises:
        ConfigError: the template cannot be used.
        DataError: two labels are written alike.
        ModelError: the model or its chat template cannot serve.
    """
    opened = open_scorer(scorer) if isinstance(scorer, ScorerSettings) else scorer
    template = load_template(settings.template, prior)
    written = written_labels(labels, verbalised=settings.verbalise)
    names = dict(zip(labels, written, strict=True))
    prompts = [
        build_prompt(
            template,
            written,
            [(text, names[label]) for text, label in examples],
            opened.render_chat if settings.chat else None,
        )
        for examples in sets
    ]
    return Asker(opened, written, sets, prompts)


def warn_of_cuts(cuts: Sequence[int]) -> None:
    """One warning a batch for texts that were longer than the model can read."""
    texts = sum(cut > 0 for cut in cuts)
    if texts:
        _logger.warning(
            "%d of %d texts are longer than the language model reads; their last words "
            "(%d in all) get the score 0.",
            texts, len(cuts), sum(cuts),
        )  # fmt: skip


def rank_of(label: int, scores: Sequence[float]) -> int:
    """Rank of a label among the scores of all labels: 1 where it is the model's own answer."""
    return 1 + sum(score > scores[label] for score in scores)


class Choice(NamedTuple):
    """What a training split decides: fields of `CAPPrior` and `ChannelPrior`."""

    labels: tuple[str, ...]
    scorer: ScorerSettings | Scorer
    demonstration_sets: DemonstrationSets


def choose_from(
    dataset: Dataset,
    model: str | None,
    scorer: ScorerSettings | Scorer | None,
    options: Mapping[str, Any],
) -> Choice:
    """Label space and demonstrations of a training split, with the scorer that `model` or `scorer` names.

    Raises:
        ConfigError: both `model` and `scorer` are given, or an option cannot work.
        DataError: a column is missing, or a row has no text or no label of the label space.
    """
    if model is not None and scorer is not None:
        raise ConfigError(
            "Give `model` or `scorer`, not both; `ScorerSettings(model=...)` holds both."
        )
    settings, where = _given(PromptSettings, options), _given(RowOptions, options)
    labels = label_space(dataset, where.label_column)
    rows = read_rows(dataset[:], labels, where)
    sets = choose_demonstrations(
        [row.text for row in rows],
        [labels[row.label] for row in rows],
        per_label=settings.demonstrations,
        seed=settings.seed,
    )
    named = ScorerSettings(model=model) if model else DEFAULT_SCORER
    return Choice(labels, scorer or named, sets)


def _given(settings: type[T], options: Mapping[str, Any]) -> T:
    """Settings of a class from those of `options` that are its fields."""
    names = [item.name for item in fields(settings)]  # type: ignore[arg-type]
    return settings(**{name: options[name] for name in names if name in options})


def model_facts(prior: Any, asker: Asker) -> dict[str, Any]:
    """Facts of the language model and its prompts, for the provenance of a prior that has both."""
    known = isinstance(prior.scorer, ScorerSettings)
    return {
        "model": prior.scorer.model if known else asker.scorer.identity,
        "revision": prior.scorer.revision if known else None,
        "scorer": asker.scorer.identity,
        "template_digest": load_template(prior.template, prior.name).digest,
        "prompt_digest": digest(*(prompt.prefix + prompt.after for prompt in asker.prompts)),
    }
