"""The class-aware prior `cap`: which words make a language model name the gold label."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Self

from hf_cap.errors import ConfigError
from hf_cap.lm.base import Query, Scored
from hf_cap.priors.base import LEARNED, Row, SourceResult
from hf_cap.priors.language_model import LanguageModelSource, PromptedModel, rank_of
from hf_cap.priors.masks import Masks, WordFit, draw_masks, fit_words
from hf_cap.priors.prompts import Prompt
from hf_cap.utils import check_range, documented, option, subsample
from hf_cap.words import keep_words

if TYPE_CHECKING:
    from datasets import Dataset

Score = Literal["log_prob", "mean_log_prob", "contrast"]
Masking = Literal["delete", "replace"]


def contrast(asked: Sequence[Scored], offsets: Sequence[float]) -> float:
    """Calibrated log-odds of the first label against the others together, in nats."""
    import torch

    log_probs = torch.tensor([one.total for one in asked], dtype=torch.float64)
    calibrated = log_probs - torch.tensor(offsets, dtype=torch.float64)
    return float(calibrated[0] - calibrated[1:].logsumexp(0))


SCORES: Mapping[Score, Callable[[Sequence[Scored], Sequence[float]], float]] = {
    "log_prob": lambda asked, _: asked[0].total,
    "mean_log_prob": lambda asked, _: asked[0].mean,
    "contrast": contrast,
}
"""Score of a perturbed text from the answers asked for (gold label first, then its rivals) and
their calibration offsets."""


class _Text(NamedTuple):
    """A text as it is asked about: the words that fit the model, its prompt, and its masks."""

    row: Row
    prompt: Prompt
    masks: Masks


@documented
@dataclass(frozen=True, kw_only=True)
class CAPPrior(LanguageModelSource):
    """Adds the prior `cap`: `dataset.map(CAPPrior.from_dataset(dataset), batched=True)`.

    Each word gets a score in nats: by how much the log-probability of the gold label rises when the
    word is kept (after `sign`; positive = evidence for the label). A text of one word gets 1. Words
    that the language model has no room for get 0. The diagnostics are `cap_std` (posterior standard
    deviation of each score), `cap_r2` (fit of the ridge regression, null for one word), `cap_masks`
    (distinct masks), `cap_cut` (words that did not fit), and with `keep_label_scores` also
    `cap_label_scores` (log-probability of every label on the whole text) and `cap_rank` (of the
    gold label among them, 1 = the model's own answer).

    Attributes:
        offsets: For `contrast`, the mean log-probability of each label whatever the text says;
            empty for none. `calibrated` computes them.
    """

    name: ClassVar[str] = "cap"
    wording: ClassVar[str] = "cap"

    n: int = option(100, "Perturbations per text, at least 1; all of them where fewer exist.")
    penalty: float = option(0.1, "Ridge penalty λ, more than 0.")
    score: Score = option(
        "log_prob", "Log-probability of the gold label, per token, or contrast with rival labels."
    )
    rivals: int = option(5, "Rival labels that `contrast` compares with, at least 1.")
    calibration_texts: int = option(
        200, "Texts from which `contrast` learns how much the model favours each label; 0: none."
    )
    masking: Masking = option("delete", "Whether a masked word is deleted or replaced.")
    replacement: str = option("...", "What stands in for a masked word when masking is `replace`.")
    offsets: tuple[float, ...] = field(default=(), metadata=LEARNED)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, "n", "rivals", at_least=1)
        check_range(self, "calibration_texts", at_least=0)
        check_range(self, "penalty", above=0)
        if self.offsets and len(self.offsets) != len(self.labels):
            raise ConfigError(
                f"{len(self.offsets)} offsets for {len(self.labels)} labels; call `calibrated`."
            )

    @classmethod
    def from_dataset(cls, dataset: "Dataset", **options: Any) -> Self:
        """As for every `LanguageModelSource`; `contrast` is calibrated on the split as well."""
        prior = super().from_dataset(dataset, **options)
        return prior.calibrated(dataset) if prior.score == "contrast" else prior

    def calibrated(self, dataset: "Dataset") -> Self:
        """This prior with each label's mean log-probability over `calibration_texts` texts."""
        if self.calibration_texts == 0:
            return replace(self, offsets=())
        import torch

        chosen = dataset.select(subsample(range(len(dataset)), self.calibration_texts))
        opened, rows = self.open(), self.read_rows(chosen[:])
        scores = self._label_scores(opened, self._texts(opened, rows))
        means = torch.tensor(scores, dtype=torch.float64).mean(0)
        return replace(self, offsets=tuple(means.tolist()))

    def score_words(self, rows: Sequence[Row]) -> SourceResult:
        """Score the words of some rows; a score that is not finite is an `ExtractError`."""
        opened = self.open()
        texts = self._texts(opened, rows)
        asked = [[row.label] for row in rows]
        label_scores: list[list[float]] = []
        if self.keep_label_scores or self.score == "contrast":
            label_scores = self._label_scores(opened, texts)
        if self.score == "contrast":
            for labels, totals in zip(asked, label_scores, strict=True):
                labels += self._strongest_rivals(labels[0], totals)
        scores = self._mask_scores(opened, texts, asked)
        some = [index for index, text in enumerate(texts) if len(text.masks)]
        masks, values = [texts[i].masks for i in some], [scores[i] for i in some]
        # No perturbation leaves anything of a single word: it is all the evidence there is.
        fits = [WordFit([1.0], None, [0.0])] * len(texts)
        for index, fit in zip(some, fit_words(masks, values, self.penalty), strict=True):
            fits[index] = fit
        cuts = [len(row.spans) - len(text.row.spans) for row, text in zip(rows, texts, strict=True)]
        diagnostics: dict[str, list[Any]] = {
            "std": [[*fit.std, *[0.0] * cut] for fit, cut in zip(fits, cuts, strict=True)],
            "r2": [fit.r2 for fit in fits],
            "masks": [len(text.masks) for text in texts],
            "cut": cuts,
        }
        if self.keep_label_scores:
            pairs = zip(rows, label_scores, strict=True)
            ranks = [rank_of(row.label, totals) for row, totals in pairs]
            diagnostics |= {"label_scores": label_scores, "rank": ranks}
        priors = [
            [*self.signed(fit.coefficients), *[0.0] * cut]
            for fit, cut in zip(fits, cuts, strict=True)
        ]
        return SourceResult(priors, diagnostics, self.model_facts(opened))

    def _texts(self, opened: PromptedModel, rows: Sequence[Row]) -> list[_Text]:
        fitting = opened.fit(rows, partial(_query, opened), self._perturbed)
        return [
            _Text(part, opened.prompt(row.text), self._masks(part))
            for row, part in zip(rows, fitting, strict=True)
        ]

    def _masks(self, row: Row) -> Masks:
        return draw_masks(row.text, len(row.spans), self.n, self.seed)

    def _perturbed(self, row: Row, longer_than: int = -1) -> list[str]:
        """The text under each of its masks, where it has more than so many bytes."""
        filler = self.replacement if self.masking == "replace" else None
        if _bytes(row.text) + len(row.spans) * _bytes(filler or "") <= longer_than:
            return []
        kept = self._masks(row).kept.tolist()
        texts = [keep_words(row.text, row.spans, words, filler) for words in kept]
        return [text for text in texts if _bytes(text) > longer_than]

    def _offset(self, label: int) -> float:
        return self.offsets[label] if self.offsets else 0.0

    def _strongest_rivals(self, gold: int, scores: Sequence[float]) -> list[int]:
        others = [label for label in range(len(scores)) if label != gold]
        calibrated = [score - self._offset(label) for label, score in enumerate(scores)]
        return sorted(others, key=lambda label: -calibrated[label])[: self.rivals]

    def _label_scores(self, opened: PromptedModel, texts: Sequence[_Text]) -> list[list[float]]:
        """`(texts, labels)`: log-probability of every label on the whole text, in nats."""
        labels = opened.labels
        queries = [
            _query(opened, text.prompt, text.row.text, label) for text in texts for label in labels
        ]
        answers = iter(opened.model.log_probs(queries))
        return [[next(answers).total for _ in labels] for _ in texts]

    def _mask_scores(
        self, opened: PromptedModel, texts: Sequence[_Text], asked: Sequence[Sequence[int]]
    ) -> list[list[float]]:
        """Score of each mask of each text, in nats, from the labels asked for."""
        queries = [
            _query(opened, text.prompt, perturbed, opened.labels[label])
            for text, labels in zip(texts, asked, strict=True)
            for perturbed in self._perturbed(text.row)
            for label in labels
        ]
        answers = iter(opened.model.log_probs(queries))
        value = SCORES[self.score]
        scores = []
        for text, labels in zip(texts, asked, strict=True):
            offsets = [self._offset(label) for label in labels]
            masks = range(len(text.masks))
            scores.append([value([next(answers) for _ in labels], offsets) for _ in masks])
        return scores


def _query(opened: PromptedModel, prompt: Prompt, text: str, label: str) -> Query:
    return opened.query(prompt, text.strip(), label)


def _bytes(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))
