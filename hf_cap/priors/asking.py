"""An opened language model with the prompts of one prior: what it is asked, and what fits into it."""

import logging
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ..errors import ModelError
from ..scoring.open import open_scorer
from ..scoring.protocol import Bounded, Query, Scorer
from ..scoring.settings import ScorerSettings
from .demonstrations import DemonstrationSets, set_without
from .prompts import Prompt, build_prompt, load_template, written_labels
from .rows import Row
from .settings import PromptSettings, Sign

_logger = logging.getLogger(__name__)

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
