"""Which words to take out of a text: the perturbation scheme of the CAP prior.

A perturbation masks s words of a text of d words: s is uniform in {2, .., floor(d/2) + 1}, then the s
positions are uniform without replacement. Two words allow only s = 1 (the scheme's own range would
delete the text); one word allows no perturbation. Short texts have so few distinct masks that all of
them are used, weighted by their exact probability: their priors carry no sampling noise.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from hashlib import blake2b
from itertools import combinations
from math import comb
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
import torch
from datasets import Dataset
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from hf_cap.errors import ConfigError, ExtractError
from hf_cap.lm.base import Query, Scored
from hf_cap.priors.base import LEARNED, Row, SourceResult
from hf_cap.priors.language_model import SIGNS, Asker, LanguageModelSource, rank_of, warn_of_cuts
from hf_cap.priors.prompts import CAPSettings, Prompt, Score
from hf_cap.utils import generator, subsample
from hf_cap.words import keep_words


@dataclass(frozen=True)
class Masks:
    """The distinct masks of one text.

    Attributes:
        kept: `(masks, words)`, true where the word stays. No row repeats.
        weights: `(masks,)`, positive, summing to n: how often a mask was drawn, or n times its
            probability where all masks are enumerated.
    """

    kept: NDArray[np.bool_]
    weights: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.weights)


def masked_counts(words: int) -> range:
    """Numbers of masked words, equally likely, for a text of `words` words. Empty for one word."""
    return range(min(2, words - 1), min(words // 2 + 1, words - 1) + 1) if words > 1 else range(0)


def distinct_masks(words: int) -> int:
    """Number of different masks that the scheme can draw for a text of `words` words."""
    return sum(comb(words, masked) for masked in masked_counts(words))


def draw_masks(text: str, words: int, n: int, seed: int) -> Masks:
    """The perturbations of one text.

    Args:
        text: The text itself; it and `seed` determine the draw, whatever batch or process it is in.
        words: Number of its words, d.
        n: Perturbations to draw, at least 1. The first n draws of a larger n are the same ones.
        seed: Any integer.

    Returns:
        All masks with their exact weights where no more than `n` exist, else `n` draws with repeated
        masks counted. No masks where `words` is 0 or 1.

    Raises:
        ConfigError: `n` is less than 1.
    """
    if n < 1:
        raise ConfigError(
            f"`n` must be at least 1, got {n!r}: it is the number of perturbations a text."
        )
    # Two words or more have at least as many masks as words: spares huge binomials for long texts.
    few = words <= n and distinct_masks(words) <= n
    return _enumerate(words, n) if few else _sample(text, words, n, seed)


def _enumerate(words: int, n: int) -> Masks:
    counts = masked_counts(words)
    kept = np.ones((distinct_masks(words), words), dtype=bool)
    weights = np.empty(len(kept))
    masks = ((masked, out) for masked in counts for out in combinations(range(words), masked))
    for row, (masked, out) in enumerate(masks):
        kept[row, list(out)] = False
        weights[row] = n / len(counts) / comb(words, masked)
    return Masks(kept, weights)


def _sample(text: str, words: int, n: int, seed: int) -> Masks:
    counts = masked_counts(words)
    # One row of uniforms a draw, so that a larger n begins with the draws of a smaller one.
    uniforms = _generator(text, words, seed).random((n, words + 1))
    masked = counts.start + np.floor(uniforms[:, 0] * len(counts))
    ranks = uniforms[:, 1:].argsort(axis=1).argsort(axis=1)
    kept, drawn = np.unique(ranks >= masked[:, None], axis=0, return_counts=True)
    return Masks(kept, drawn.astype(np.float64))


def _generator(text: str, words: int, seed: int) -> np.random.Generator:
    """A stream of its own for each (seed, text, d); Python's `hash` would differ between processes."""
    digest = blake2b(f"{seed}\0{words}\0{text}".encode("utf-8", "surrogatepass"), digest_size=16)
    return np.random.default_rng(int.from_bytes(digest.digest(), "big"))


# --- Centred weighted ridge regression of scores on masks, in float64, by Cholesky.


@dataclass(frozen=True)
class RidgeFit:
    """One regression for each text of a batch.

    Attributes:
        coefficients: `(texts, words)`, in nats a word: what the score gains by keeping the word.
        r2: `(texts,)`, weighted share of the scores' variance that the fit explains, at most 1; 0
            where all scores are equal.
        std: `(texts, words)`, posterior standard deviation of the coefficients, in nats.
    """

    coefficients: Float[Tensor, "texts words"]
    r2: Float[Tensor, " texts"]
    std: Float[Tensor, "texts words"]


def solve_ridge(
    masks: Float[Tensor, "texts masks words"],
    scores: Float[Tensor, "texts masks"],
    weights: Float[Tensor, "texts masks"],
    penalty: float,
) -> RidgeFit:
    """Ridge fits of several texts that have equally many words.

    The posterior is that of the Bayesian model z_i ~ N(z̄ + X_i α, σ²/w_i), α ~ N(0, σ²/λ): its
    covariance is σ² A⁻¹. The noise variance is the weighted residual sum of squares over m − 1 − tr(H)
    degrees of freedom: m distinct masks (a repeated mask brings no news of a deterministic model),
    one for the mean, and tr(H) = tr(A⁻¹ Xᵀ W X) for the shrunken coefficients. It measures how far the
    language model is from linear in the words, not sampling of the model.

    Args:
        masks: 1 where a word is kept, else 0.
        scores: Score of each perturbed text, in nats.
        weights: At least 0; rows of weight 0 are padding.
        penalty: λ, more than 0.

    Raises:
        ConfigError: `penalty` is not more than 0.
    """
    if not penalty > 0:
        raise ConfigError(
            f"`penalty` (λ) must be more than 0, got {penalty!r}; the default is 0.1."
        )
    share = weights / weights.sum(1, keepdim=True)
    x = masks - torch.einsum("tm,tmw->tw", share, masks)[:, None]
    z = scores - (share * scores).sum(1, keepdim=True)
    gram = torch.einsum("tm,tmv,tmw->tvw", weights, x, x)
    identity = torch.eye(gram.shape[1], dtype=gram.dtype)
    factor = torch.linalg.cholesky(gram + penalty * identity)
    moment = torch.einsum("tm,tmw,tm->tw", weights, x, z)
    coefficients = torch.cholesky_solve(moment[..., None], factor)[..., 0]
    inverse = torch.cholesky_inverse(factor)

    residual = (weights * (z - torch.einsum("tmw,tw->tm", x, coefficients)).square()).sum(1)
    total = (weights * z.square()).sum(1)
    spent = 1 + torch.einsum("tvw,twv->t", inverse, gram)
    freedom = ((weights > 0).sum(1) - spent).clamp_min(torch.finfo(gram.dtype).eps)
    variance = (residual / freedom)[:, None] * inverse.diagonal(dim1=1, dim2=2)
    # equal scores may differ in their last bits
    constant = total <= 1e-24 * (weights * scores.square()).sum(1)
    r2 = torch.where(constant, 0.0, 1 - residual / total)
    return RidgeFit(coefficients, r2, variance.sqrt())


@dataclass(frozen=True)
class WordFit:
    """The fit of one text: see `RidgeFit`."""

    coefficients: list[float]
    r2: float | None
    std: list[float]


def fit_words(
    masks: Sequence[Masks], scores: Sequence[Sequence[float]], penalty: float
) -> list[WordFit]:
    """Ridge fits of any number of texts, solved together where they have equally many words.

    Args:
        masks: Masks of each text, at least one a text.
        scores: Score of each mask of each text, in nats.
        penalty: λ, more than 0.

    Raises:
        ConfigError: `penalty` is not more than 0.
        ExtractError: a score is not finite.
    """
    by_length: dict[int, list[int]] = defaultdict(list)
    for text, mask in enumerate(masks):
        by_length[mask.kept.shape[1]].append(text)
    fits: dict[int, WordFit] = {}
    for texts in by_length.values():
        kept = _pad([torch.from_numpy(masks[i].kept).double() for i in texts])
        weights = _pad([torch.from_numpy(masks[i].weights) for i in texts])
        z = _pad([torch.tensor(scores[i], dtype=torch.float64) for i in texts])
        if not z.isfinite().all():
            raise ExtractError(
                "A score of a perturbed text is NaN or infinite; the fit needs finite ones."
            )
        fit = solve_ridge(kept, z, weights, penalty)
        rows = zip(fit.coefficients.tolist(), fit.r2.tolist(), fit.std.tolist(), strict=True)
        fits |= {text: WordFit(*row) for text, row in zip(texts, rows, strict=True)}
    return [fits[text] for text in range(len(masks))]


def _pad(tensors: list[Tensor]) -> Tensor:
    return torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True)


# --- The class-aware prior `cap`: which words make a language model name the gold label, by perturbation.


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

    The settings of `CAPSettings`, and `PromptSettings` are fields too.

    Attributes:
        offsets: For `contrast`, the mean log-probability of each label whatever the text says; empty
            for none. `calibrated` computes them.
    """

    name: ClassVar[str] = "cap"
    wording: ClassVar[str] = "cap"

    offsets: tuple[float, ...] = field(default=(), metadata=LEARNED)

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
        chosen = dataset.select(subsample(range(len(dataset)), self.calibration_texts))
        rows = self.read_rows(chosen[:])
        asker = self.open()
        scores = torch.tensor(self.label_scores(asker, rows), dtype=torch.float64)
        return replace(self, offsets=tuple(scores.mean(0).tolist()))

    def score_words(self, rows: Sequence[Row]) -> SourceResult:
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
        return SourceResult(scores, diagnostics, self.model_facts(asker))

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
        totals = [scored.total for scored in asker.model.log_probs(queries)]
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
        answers = iter(asker.model.log_probs(queries))
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
