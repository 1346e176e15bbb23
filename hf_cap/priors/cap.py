"""The class-aware prior `cap`: which words make a language model name the gold label, by perturbation.

Source: "Hybrid Attribution Priors for Explainable and Robust Model Training" (arXiv 2512.14719). Ours
are the demonstrations, the exact masks of short texts, the centred fit and the `contrast` score.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, ClassVar, NamedTuple, Self

import torch
from datasets import Dataset

from ..data import evenly
from ..errors import ConfigError
from ..randomness import generator
from ..scoring.protocol import Query, Scored
from ..words import keep_words
from .asking import SIGNS, Asker, rank_of, warn_of_cuts
from .language_model import LanguageModelSource
from .perturbation import Masks, draw_masks
from .prompts import Prompt
from .ridge import WordFit, fit_words
from .rows import Row, read_rows
from .settings import CAPSettings, Score
from .word_source import LEARNT, Explanations

SCORES: Mapping[Score, Callable[[Sequence[Scored], Sequence[float]], float]] = {
    "log_prob": lambda asked, _: asked[0].total,
    "mean_log_prob": lambda asked, _: asked[0].mean,
    "contrast": lambda asked, offsets: _contrast([one.total for one in asked], offsets),
}
"""Score of a perturbed text from the answers asked for (gold label first, then its rivals) and their
calibration offsets."""


class _Asked(NamedTuple):
    """What one text needs: the words that fit the model, its prompt, and the labels asked for."""

    row: Row
    prompt: Prompt
    masks: Masks
    labels: list[int]


@dataclass(frozen=True, kw_only=True)
class CAPPrior(LanguageModelSource, CAPSettings):
    """Adds the prior `cap` to a data set: `dataset.map(CAPPrior.from_dataset(dataset), batched=True)`.

    Each text gets a score a word, in nats: by how much the log-probability of the gold label rises when
    the word is kept (after `sign`; positive = evidence for the label). A text of one word gets 1. Words
    that the language model has no room for get 0. The columns added are `words`, `prior_cap`, `cap_std`
    (posterior standard deviation of each score), `cap_r2` (fit of the ridge regression, null for one
    word), `cap_masks` (distinct masks), `cap_cut` (words that did not fit), `provenance`, and with
    `keep_label_scores` also `cap_label_scores` (log-probability of every label on the whole text) and
    `cap_rank` (of the gold label among them, 1 = the model's own answer).

    The settings of `CAPSettings`, `PromptSettings` and `RowOptions` are fields too.

    Attributes:
        offsets: For `contrast`, the mean log-probability of each label whatever the text says; empty
            for none. `calibrated` computes them.
    """

    name: ClassVar[str] = "cap"
    wording: ClassVar[str] = "cap"

    offsets: tuple[float, ...] = field(default=(), metadata=LEARNT)

    def __post_init__(self) -> None:
        super().__post_init__()
        CAPSettings.__post_init__(self)
        if self.offsets and len(self.offsets) != len(self.labels):
            raise ConfigError(
                f"{len(self.offsets)} calibration offsets for {len(self.labels)} labels. Compute them "
                "again with `calibrated`."
            )

    @classmethod
    def from_dataset(cls, dataset: Dataset, **options: Any) -> Self:
        """As for every `LanguageModelSource`; for `contrast` the calibration comes from the split as well."""
        prior = super().from_dataset(dataset, **options)
        return prior.calibrated(dataset) if prior.score == "contrast" else prior

    def calibrated(self, dataset: Dataset) -> Self:
        """This prior with each label's mean log-probability over `calibration_texts` texts as its offset."""
        if self.calibration_texts == 0:
            return replace(self, offsets=())
        chosen = dataset.select(evenly(range(len(dataset)), self.calibration_texts))
        rows = read_rows(chosen[:], self.labels, self)
        asker = self.open()
        scores = torch.tensor(self.label_scores(asker, rows), dtype=torch.float64)
        return replace(self, offsets=tuple(scores.mean(0).tolist()))

    def explain(self, rows: Sequence[Row]) -> Explanations:
        """Score the words of some rows.

        Raises:
            ExtractError: the language model gave a score that is not finite.
            ModelError: the model cannot be opened, or has no room for the prompt.
        """
        asker = self.open()
        label_scores = self.label_scores(asker, rows) if self._needs_label_scores else None
        asked = self._asked(asker, rows, label_scores)
        fits = self._fits(asked, self._scores(asker, asked))
        cuts = [len(row.spans) - len(one.row.spans) for row, one in zip(rows, asked, strict=True)]
        warn_of_cuts(cuts)
        kept = SIGNS[self.sign]
        pairs = list(zip(fits, cuts, strict=True))
        diagnostics: dict[str, list[Any]] = {
            "std": [[*fit.std, *[0.0] * cut] for fit, cut in pairs],
            "r2": [fit.r2 for fit in fits],
            "masks": [len(one.masks) for one in asked],
            "cut": cuts,
        }
        if self.keep_label_scores and label_scores is not None:
            diagnostics["label_scores"] = label_scores
            diagnostics["rank"] = [
                rank_of(row.label, scores) for row, scores in zip(rows, label_scores, strict=True)
            ]
        scores = [[*map(kept, fit.coefficients), *[0.0] * cut] for fit, cut in pairs]
        return Explanations(scores, diagnostics, self.model_facts(asker))

    @property
    def _needs_label_scores(self) -> bool:
        return self.keep_label_scores or self.score == "contrast"

    def examples(self, asker: Asker, rows: Sequence[Row], *, copies: int = 0) -> list[Query]:
        """Prompts with the right answer, for a language model to learn from.

        Args:
            asker: This prior, opened.
            rows: Labelled texts.
            copies: Perturbations of each text that are to be answered like the whole text.
        """
        found = []
        for row, read in zip(rows, self._fitted(asker, rows), strict=True):
            prompt = asker.prompt(row.text)
            masks = draw_masks(read.text, len(read.spans), self.n, self.seed)
            chances = masks.weights / masks.weights.sum() if len(masks) else None
            rng = generator(self.seed, "examples", read.text)
            drawn = masks.kept[rng.choice(len(masks), copies, p=chances)] if len(masks) else ()
            texts = [
                keep_words(read.text, read.spans, kept.tolist(), self._filler) for kept in drawn
            ]
            label = asker.labels[row.label]
            found += [_query(asker, prompt, text, label) for text in (read.text, *texts)]
        return found

    def label_scores(self, asker: Asker, rows: Sequence[Row]) -> list[list[float]]:
        """`(rows, labels)`: log-probability of every label on the whole text, in nats."""
        queries = []
        for row, read in zip(rows, self._fitted(asker, rows), strict=True):
            prompt = asker.prompt(row.text)
            queries += [_query(asker, prompt, read.text, label) for label in asker.labels]
        totals = [scored.total for scored in asker.scorer.score(queries)]
        size = len(asker.labels)
        return [totals[start : start + size] for start in range(0, len(totals), size)]

    def _asked(
        self, asker: Asker, rows: Sequence[Row], label_scores: Sequence[Sequence[float]] | None
    ) -> list[_Asked]:
        asked = []
        for index, (row, read) in enumerate(zip(rows, self._fitted(asker, rows), strict=True)):
            masks = draw_masks(read.text, len(read.spans), self.n, self.seed)
            labels = [row.label]
            if self.score == "contrast" and label_scores is not None:
                labels += self._strongest_rivals(row.label, label_scores[index])
            asked.append(_Asked(read, asker.prompt(row.text), masks, labels))
        return asked

    def _strongest_rivals(self, gold: int, scores: Sequence[float]) -> list[int]:
        calibrated = [score - self._offset(label) for label, score in enumerate(scores)]
        others = [label for label in range(len(scores)) if label != gold]
        return sorted(others, key=lambda label: -calibrated[label])[: self.rivals]

    def _offset(self, label: int) -> float:
        return self.offsets[label] if self.offsets else 0.0

    def _scores(self, asker: Asker, asked: Sequence[_Asked]) -> list[list[float]]:
        """Score of each mask of each text, in nats."""
        queries = []
        for row, prompt, masks, labels in asked:
            for text in self._perturbed(row, masks):
                queries += [_query(asker, prompt, text, asker.labels[label]) for label in labels]
        answers = iter(asker.scorer.score(queries))
        value = SCORES[self.score]
        return [
            [
                value([next(answers) for _ in labels], [self._offset(label) for label in labels])
                for _ in range(len(masks))
            ]
            for _, _, masks, labels in asked
        ]

    @property
    def _filler(self) -> str | None:
        """What stands in for a masked word; `None` where it is deleted."""
        return self.replacement if self.masking == "replace" else None

    def _perturbed(self, row: Row, masks: Masks) -> list[str]:
        return [keep_words(row.text, row.spans, kept.tolist(), self._filler) for kept in masks.kept]

    def _fitted(self, asker: Asker, rows: Sequence[Row]) -> list[Row]:
        return asker.fit(rows, partial(_query, asker), self._longer_texts)

    def _longer_texts(self, row: Row, room: int) -> list[str]:
        """The perturbed texts of a row that have more than `room` bytes."""
        most = _bytes(row.text) + len(row.spans) * _bytes(self._filler or "")
        if most <= room:
            return []
        masks = draw_masks(row.text, len(row.spans), self.n, self.seed)
        return [text for text in self._perturbed(row, masks) if _bytes(text) > room]

    def _fits(self, asked: Sequence[_Asked], scores: Sequence[Sequence[float]]) -> list[WordFit]:
        perturbed = [index for index, one in enumerate(asked) if len(one.masks)]
        fits = fit_words(
            [asked[index].masks for index in perturbed],
            [scores[index] for index in perturbed],
            self.penalty,
        )
        found = dict(zip(perturbed, fits, strict=True))
        # No perturbation leaves anything of a single word: it is all the evidence there is.
        one_word = WordFit([1.0], None, [0.0])
        return [found.get(index, one_word) for index in range(len(asked))]


def _bytes(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))


def _query(asker: Asker, prompt: Prompt, text: str, label: str) -> Query:
    return asker.query(prompt, text.strip(), label)


def _contrast(log_probs: Sequence[float], offsets: Sequence[float]) -> float:
    """Calibrated log-odds of the first label against the others together, in nats."""
    calibrated = torch.tensor(log_probs, dtype=torch.float64) - torch.tensor(
        offsets, dtype=torch.float64
    )
    return float(calibrated[0] - calibrated[1:].logsumexp(0))
