"""The class-aware prior `cap`: which words make a language model name the gold label."""

import logging
import math
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import field, replace
from functools import lru_cache
from operator import mul
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np

from hf_cap.errors import ConfigError
from hf_cap.lm.base import LMSettings, Query, Scored, current_runtime
from hf_cap.priors.base import LEARNED, Row, SourceResult
from hf_cap.priors.language_model import LanguageModelSource, PromptedModel, rank_of
from hf_cap.priors.masks import Draw, Masks, WordFit, draw_masks, fit_words
from hf_cap.priors.planned import Plan, plan_masks
from hf_cap.priors.prompts import Prompt
from hf_cap.schema import LABEL
from hf_cap.utils import option, settings_class, subsample
from hf_cap.words import keep_words

if TYPE_CHECKING:
    from datasets import Dataset

_logger = logging.getLogger(__name__)

Score = Literal["log_prob", "mean_log_prob", "contrast"]
Masking = Literal["delete", "replace"]
Design = Literal["iid", "balanced", "planned"]


@settings_class
class CAPPrior(LanguageModelSource):
    """Adds the prior `cap`: `dataset.map(CAPPrior.from_dataset(dataset), batched=True)`.

    Each word gets a score in nats: by how much the log-probability of the gold label rises when the
    word is kept (after `sign`; positive = evidence for the label). A text of one word gets 1. Words
    that the language model has no room for get 0. The diagnostics are `cap_std` (posterior standard
    deviation of each score), `cap_r2` (held-out fit of the ridge regression, null up to three words),
    `cap_masks` (distinct masks), `cap_cut` (words that did not fit), and with `keep_label_scores` also
    `cap_label_scores` (log-probability of every label on the whole text) and `cap_rank` (of the
    gold label among them, 1 = the model's own answer).

    Attributes:
        offsets: For `contrast`, the mean log-probability of each label whatever the text says;
            empty for none. `calibrated` computes them.
    """

    name: ClassVar[str] = "cap"
    wording: ClassVar[str] = "cap"

    n: int = option(100, "Perturbations per text, at least 1; all of them where fewer exist.", at_least=1)
    design: Design = option(
        "iid",
        "Whether perturbations are independent, mask each word of a text equally often, or are planned: "
        "those that tell most about the scores, where words that stand beside each other interact.",
    )
    target_std: float | None = option(
        None,
        "Standard error in nats, more than 0, from which on a text is asked about no further: root mean "
        "square of its `cap_std`. `n` stays the most perturbations. Default: always `n`.",
        above=0,
    )
    penalty: float = option(0.1, "Ridge penalty λ, more than 0.", above=0)
    score: Score = option(
        "log_prob", "Log-probability of the gold label, per token, or contrast with rival labels."
    )
    rivals: int = option(5, "Rival labels that `contrast` compares with, at least 1.", at_least=1)
    calibration_texts: int = option(
        200, "Texts from which `contrast` learns how much the model favours each label; 0: none.", at_least=0
    )
    masking: Masking = option("delete", "Whether a masked word is deleted or replaced.")
    replacement: str = option("...", "What stands in for a masked word when masking is `replace`.")
    offsets: tuple[float, ...] = field(default=(), metadata=LEARNED)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.offsets and len(self.offsets) != len(self.labels):
            raise ConfigError(
                f"{len(self.offsets)} offsets for {len(self.labels)} labels; call `calibrated`."
            )

    @classmethod
    def from_dataset(cls, dataset: "Dataset", **options: Any) -> Self:
        """As for every `LanguageModelSource`; `contrast` is calibrated on the split as well."""
        prior = super().from_dataset(dataset, **options)
        words = [len(row.spans) for row in prior.read_rows(dataset[:])]
        if few := sum(prior.n < 2 * count for count in words if count > 3):
            _logger.warning(
                "%d of %d texts have more than %d words, too many for n=%d perturbations: their scores are "
                "mostly noise. Use n=%d, twice the words of the longest, or leave them out by `cap_r2`.",
                few, len(words), prior.n // 2, prior.n, 2 * max(words),
            )  # fmt: skip
        return prior.calibrated(dataset) if prior.score == "contrast" else prior

    def calibrated(self, dataset: "Dataset") -> Self:
        """This prior with each label's mean log-probability over `calibration_texts` texts."""
        import torch

        if self.calibration_texts == 0:
            return replace(self, offsets=())
        chosen = dataset.select(subsample(range(len(dataset)), self.calibration_texts))
        opened = self.open()
        scores = opened.label_scores(*self._fit(opened, self.read_rows(chosen[:])))
        means = torch.tensor(scores, dtype=torch.float64).mean(0)
        return replace(self, offsets=tuple(means.tolist()))

    def score_words(self, rows: Sequence[Row]) -> SourceResult:
        """Score the words of some rows; a score that is not finite is an `ExtractError`."""
        opened = self.open()
        parts, prompts = self._fit(opened, rows)
        cuts = [len(row.spans) - len(part.spans) for row, part in zip(rows, parts, strict=True)]
        label_scores: list[list[float]] = [[]] * len(rows)
        if self.keep_label_scores or self.score == "contrast":
            label_scores = opened.label_scores(parts, prompts)
        labels = [self._asked(*pair) for pair in zip(parts, label_scores, strict=True)]
        masks, scores = self._answered(opened, parts, prompts, labels)
        fits = list(zip(self._fitted(parts, masks, scores), cuts, strict=True))
        diagnostics: dict[str, list[Any]] = {
            "std": [[*fit.std, *[0.0] * cut] for fit, cut in fits],
            "r2": [fit.r2 for fit, _ in fits],
            "masks": [len(mask) for mask in masks],
            "cut": cuts,
        }
        if self.keep_label_scores:
            pairs = zip(rows, label_scores, strict=True)
            diagnostics["label_scores"] = label_scores
            diagnostics["rank"] = [rank_of(row.label, totals) for row, totals in pairs]
        priors = [[*self.signed(fit.coefficients), *[0.0] * cut] for fit, cut in fits]
        return SourceResult(priors, diagnostics, self.model_facts(opened))

    def _fit(self, opened: PromptedModel, rows: Sequence[Row]) -> tuple[list[Row], list[Prompt]]:
        """The words that the model has room for, and their prompts."""

        def query(prompt: Prompt, text: str, label: str) -> Query:
            return opened.query(prompt, text.strip(), label)

        parts = opened.fit(rows, query, self._longer)
        return parts, [opened.prompt(row.text) for row in rows]

    def _answered(
        self,
        opened: PromptedModel,
        parts: Sequence[Row],
        prompts: Sequence[Prompt],
        labels: Sequence[Sequence[int]],
    ) -> tuple[list[Masks], list[list[float]]]:
        """The masks of each text, and the score of the text under each of them.

        With a `target_std` they are asked for in rounds, each of which begins with the masks of the one
        before. When a text is done depends on its own answers alone, not on the rest of the batch.
        """
        masks = [self._masks(part, 1) for part in parts]
        scores: list[list[float]] = [[]] * len(parts)
        known: list[dict[str, float]] = [{} for _ in parts]
        rounds = [self._rounds(len(part.spans)) for part in parts]
        pending = list(range(len(parts)))
        while pending:
            texts = []
            for row in pending:
                masks[row] = self._masks(parts[row], rounds[row].pop(0))
                texts.append(self._perturbed(parts[row], masks[row]))
            pairs = zip(pending, texts, strict=True)
            new = [[text for text in some if text not in known[row]] for row, some in pairs]
            answers = opened.ask([prompts[row] for row in pending], new, [labels[row] for row in pending])
            for row, some, added, found in zip(pending, texts, new, answers, strict=True):
                totals = (self._score(one, labels[row]) for one in found)
                known[row].update(zip(added, totals, strict=True))
                scores[row] = [known[row][text] for text in some]
            pending = [
                row for row in pending if rounds[row] and not self._known(parts[row], masks[row], scores[row])
            ]
        return masks, scores

    def _rounds(self, words: int) -> list[int]:
        """Numbers of perturbations, increasing, after which to see whether they are enough."""
        return [*(range(2 * words, self.n, words) if self.target_std else ()), self.n]

    def _known(self, row: Row, masks: Masks, scores: Sequence[float]) -> bool:
        """Whether the scores of a text are known to `target_std`; fitted alone, so in any batch alike."""
        ((_, _, std),) = self._fitted([row], [masks], [scores])
        return math.hypot(*std) <= (self.target_std or 0) * math.sqrt(len(std))

    def _fitted(
        self, parts: Sequence[Row], masks: Sequence[Masks], scores: Sequence[Sequence[float]]
    ) -> list[WordFit]:
        plans = [self._plan(part) for part in parts]
        drawn = [place for place, plan in enumerate(plans) if plan is None]
        fits = fit_words([masks[at] for at in drawn], [scores[at] for at in drawn], self.penalty)
        rest = iter(fits)
        return [plan.fit(each) if plan else next(rest) for plan, each in zip(plans, scores, strict=True)]

    def _plan(self, row: Row) -> Plan | None:
        """The planned masks, in the order in which they are asked; `None` where all are."""
        if self.design != "planned":
            return None
        return plan_masks(row.text, len(row.spans), self.n, self.seed, self.penalty)

    def _masks(self, row: Row, n: int) -> Masks:
        if plan := self._plan(row):
            return Masks(plan.kept[:n], np.ones(min(n, len(plan.kept))))
        draw: Draw = "balanced" if self.design == "balanced" else "iid"
        return draw_masks(row.text, len(row.spans), n, self.seed, draw)

    def _perturbed(self, row: Row, masks: Masks) -> list[str]:
        """The text under each of the masks."""
        kept = masks.kept.tolist()
        return [keep_words(row.text, row.spans, words, self._filler) for words in kept]

    @property
    def _filler(self) -> str | None:
        return self.replacement if self.masking == "replace" else None

    def _longer(self, row: Row, room: int) -> list[str]:
        """The texts with more than `room` bytes that may be asked in place of a row's."""
        if _bytes(row.text) + len(row.spans) * _bytes(self._filler or "") <= room:
            return []
        return [t for t in self._perturbed(row, self._masks(row, self.n)) if _bytes(t) > room]

    def _offset(self, label: int) -> float:
        return self.offsets[label] if self.offsets else 0.0

    def _asked(self, row: Row, totals: Sequence[float]) -> list[int]:
        """The gold label and, for `contrast`, its strongest rivals."""
        if self.score != "contrast":
            return [row.label]
        calibrated = [total - self._offset(label) for label, total in enumerate(totals)]
        others = [label for label in range(len(totals)) if label != row.label]
        rivals = sorted(others, key=lambda label: -calibrated[label])
        return [row.label, *rivals[: self.rivals]]

    def _score(self, answers: Sequence[Scored], labels: Sequence[int]) -> float:
        """Score of a perturbed text, in nats, from the answers asked for, the gold label first."""
        if self.score != "contrast":
            return answers[0].total if self.score == "log_prob" else answers[0].mean
        import torch

        totals = torch.tensor([one.total for one in answers], dtype=torch.float64)
        offsets = torch.tensor([self._offset(label) for label in labels], dtype=torch.float64)
        calibrated = totals - offsets
        return float(calibrated[0] - calibrated[1:].logsumexp(0))


def _bytes(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))


# --- The number format in which a language model is asked on a CPU.

FASTER = 1.5
"""By how much products in bfloat16 must be faster: with AMX they are several times, without it rarely 1.5."""
AGREEMENT = 0.99  # mean cosine of the priors in both formats from which on bfloat16 is taken
MOST_CHECKED, FEWEST_CHECKED, PART_CHECKED = 32, 4, 10
"""Texts of the check: one in ten, so that it costs little of what bfloat16 saves."""


def choose_dtype(model: Any, dataset: "Dataset", options: Mapping[str, Any]) -> Any:
    """The settings of `model` with bfloat16 in place of `auto` where a CPU gives the same priors faster.

    The priors of some texts by `CAPPrior` with these options are compared in both formats. All else is
    returned as it is; a CPU then takes `auto` for float32.
    """
    from hf_cap.data import label_names

    count = min(MOST_CHECKED, len(dataset) // PART_CHECKED)
    if not _is_open(model) or count < FEWEST_CHECKED or bfloat16_speedup() < FASTER:
        return model
    some = dataset.select(subsample(range(len(dataset)), count))
    labels = tuple(label_names(dataset, options.get("label_column", LABEL), at_least=2))
    formats = [replace(model, dtype=dtype) for dtype in ("float32", "bfloat16")]
    # neither calibrated nor with demonstrations, for which there is no model yet
    sources = [CAPPrior(labels=labels, **{**options, "model": one}) for one in formats]
    found = agreement(*[one.score_words(one.read_rows(some[:])).scores for one in sources])
    chosen = formats[found >= AGREEMENT]
    _logger.info(
        "The language model runs in %s: here products in bfloat16 are %.1f times as fast, and over %d texts "
        "its priors have a mean cosine of %.4f with those in float32 (at least %.2f is needed).",
        chosen.dtype, bfloat16_speedup(), count, found, AGREEMENT,
    )  # fmt: skip
    return chosen


def _is_open(model: Any) -> bool:
    """Whether `model` leaves the number format open and runs on a CPU."""
    if not isinstance(model, LMSettings) or model.dtype != "auto" or model.base_url is not None:
        return False
    from hf_cap.lm.local import choose_device  # imports torch

    return model.quantization == "none" and choose_device(current_runtime().device).type == "cpu"


def agreement(priors: Sequence[Sequence[float]], others: Sequence[Sequence[float]]) -> float:
    """Mean cosine of the priors of the same texts, in [-1, 1]; two that are all zero agree."""
    found = []
    for one, other in zip(priors, others, strict=True):
        lengths = math.hypot(*one) * math.hypot(*other)
        product = sum(map(mul, one, other))
        found.append(product / lengths if lengths else float(not any([*one, *other])))
    return statistics.fmean(found)


@lru_cache
def bfloat16_speedup() -> float:
    """How many times as fast as in float32 a CPU multiplies matrices in bfloat16 to score, measured once."""
    import torch

    from hf_cap.lm.cpu import multiplying

    single, half = (torch.nn.Linear(1024, 1024, dtype=dtype) for dtype in (torch.float32, torch.bfloat16))

    def seconds(layer: torch.nn.Linear) -> float:
        inputs = torch.ones(384, 1024, dtype=layer.weight.dtype)
        with torch.inference_mode(), multiplying(layer):
            started = time.perf_counter()
            layer(inputs)
            return time.perf_counter() - started

    # in turn, so that a slow moment of the machine hits both
    turns = [(seconds(single), seconds(half)) for _ in range(15)]
    return statistics.median(one / other for one, other in turns)
