"""The class-aware prior `channel`: how much likelier each word is under the gold label than under all labels.

The language model is asked the other way round: for the text, given the label. The score of a word is
its pointwise mutual information with the label, α_w = ℓ_y(w) − log Σ_y' π(y') exp ℓ_y'(w), where ℓ_y(w) is
the log-probability of the word's tokens under label y. It needs no perturbations, and it is class-aware by
construction: a word that every label expects says nothing. Ours; noisy-channel prompting is due to
Min et al., "Noisy Channel Language Model Prompting for Few-Shot Text Classification" (ACL 2022).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hf_cap.lm.base import Query, Scored
from hf_cap.priors.base import Row, SourceResult
from hf_cap.priors.language_model import SIGNS, Asker, LanguageModelSource, rank_of, warn_of_cuts
from hf_cap.priors.prompts import ChannelSettings, Evidence, Prompt
from hf_cap.words import Span, token_words

LabelTokens = Float[Tensor, "labels tokens"]
LabelWords = Float[Tensor, "labels words"]
Owners = Int[Tensor, " tokens"]


def posterior_evidence(log_probs: LabelTokens, owners: Owners, words: int) -> LabelWords:
    """By how much each word raises the log-posterior of each label, the words before it being known.

    The posterior starts uniform and follows Bayes' rule from token to token, so the scores of a label add
    up exactly to log p(label | text) − log p(label) where every token belongs to a word.

    Args:
        log_probs: Log-probability of each token under each label, in nats.
        owners: Word of each token; `words` for a token of no word.
        words: Number of words.
    """
    after = log_probs.cumsum(1).log_softmax(0)
    before = torch.full_like(after[:, :1], -math.log(len(after)))
    return _pool(torch.cat([before, after], 1).diff(dim=1), owners, words)


def uniform_evidence(log_probs: LabelTokens, owners: Owners, words: int) -> LabelWords:
    """Pointwise mutual information of each word with each label, all labels being equally likely.

    Arguments as for `posterior_evidence`. No score exceeds log(labels).
    """
    return _pool(log_probs, owners, words).log_softmax(0) + math.log(len(log_probs))


EVIDENCE: Mapping[Evidence, Callable[[LabelTokens, Owners, int], LabelWords]] = {
    "posterior": posterior_evidence,
    "uniform": uniform_evidence,
}


class _Heard(NamedTuple):
    """What the model says about one text."""

    log_probs: LabelTokens
    evidence: LabelWords


@dataclass(frozen=True, kw_only=True)
class ChannelPrior(LanguageModelSource, ChannelSettings):
    """Adds the prior `channel`: `dataset.map(ChannelPrior.from_dataset(dataset), batched=True)`.

    Each text gets a score a word, in nats (after `sign`; positive = the word is likelier under the gold
    label than under the labels taken together). Words that the language model has no room for get 0.
    The columns added are `words`, `prior_channel`, `channel_rank` (of the gold label by the likelihood of
    the text, 1 = the model's own answer), `channel_cut` (words that did not fit), `provenance`, with
    `keep_label_scores` also `channel_label_scores` (log-probability of the text under every label), and
    with `keep_label_words` also `channel_label_words` (signed scores, one list a label).

    The settings of `ChannelSettings`, and `PromptSettings` are fields too.
    """

    name: ClassVar[str] = "channel"
    wording: ClassVar[str] = "channel"

    def __post_init__(self) -> None:
        super().__post_init__()
        ChannelSettings.__post_init__(self)

    def score_words(self, rows: Sequence[Row]) -> SourceResult:
        """Score the words of some rows.

        Raises:
            ExtractError: the language model gave a score that is not finite.
            ModelError: the model cannot be opened, or has no room for the prompt.
        """
        asker = self.open()
        read = asker.fit(rows, _query)
        cuts = [len(row.spans) - len(part.spans) for row, part in zip(rows, read, strict=True)]
        warn_of_cuts(cuts)
        heard = self._heard(asker, rows, read)
        likelihoods = [one.log_probs.sum(1).tolist() for one in heard]
        words = [
            torch.nn.functional.pad(one.evidence, (0, cut)).tolist()
            for one, cut in zip(heard, cuts, strict=True)
        ]
        diagnostics: dict[str, list[Any]] = {
            "rank": [
                rank_of(row.label, scores) for row, scores in zip(rows, likelihoods, strict=True)
            ],
            "cut": cuts,
        }
        if self.keep_label_scores:
            diagnostics["label_scores"] = likelihoods
        if self.keep_label_words:
            diagnostics["label_words"] = words
        kept = SIGNS[self.sign]
        gold = [scores[row.label] for row, scores in zip(rows, words, strict=True)]
        return SourceResult(
            [[*map(kept, scores)] for scores in gold], diagnostics, self.model_facts(asker)
        )

    def _heard(self, asker: Asker, rows: Sequence[Row], read: Sequence[Row]) -> list[_Heard]:
        prompts = [asker.prompt(row.text) for row in rows]
        answers = iter(
            asker.model.log_probs(
                [
                    _query(prompt, part.text, label)
                    for prompt, part in zip(prompts, read, strict=True)
                    for label in asker.labels
                ]
            )
        )
        return [
            self._weigh(prompt, part, [next(answers) for _ in asker.labels])
            for prompt, part in zip(prompts, read, strict=True)
        ]

    def _weigh(self, prompt: Prompt, row: Row, scored: Sequence[Scored]) -> _Heard:
        log_probs = torch.tensor([one.log_probs for one in scored], dtype=torch.float64)
        owners = torch.tensor(_owners(prompt, row, scored[0].starts))
        evidence = EVIDENCE[self.evidence](log_probs / self.temperature, owners, len(row.spans))
        return _Heard(log_probs, evidence)


def _pool(tokens: LabelTokens, owners: Owners, words: int) -> LabelWords:
    pooled = tokens.new_zeros(len(tokens), words + 1).index_add(1, owners, tokens)
    return pooled[:, :words]


def _owners(prompt: Prompt, row: Row, starts: Sequence[int]) -> list[int]:
    """Word of each token; the number of words for a token of no word.

    A token of white space belongs to the word that follows, as the space inside a token does.
    """
    answer = _answer(prompt, row.text)
    # `answer` is the lead and the text without white space at its ends
    shift = len(answer) - len(row.text.strip()) - (len(row.text) - len(row.text.lstrip()))
    spans = [Span(start + shift, end + shift) for start, end in row.spans]
    words = token_words([(start, len(answer)) for start in starts], spans, answer)
    return [word if word >= 0 else len(spans) for word in words]


def _answer(prompt: Prompt, text: str) -> str:
    return prompt.answer(text.strip())


def _query(prompt: Prompt, text: str, label: str) -> Query:
    return Query(prompt.prefix, prompt.body(label), _answer(prompt, text))
