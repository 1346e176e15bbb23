"""The class-aware priors `channel`, how much likelier each word is under the gold label, and `lexicon`.

For `channel` the language model is asked the other way round: for the text, given the label. The score of a
word is its pointwise mutual information with the label, α_w = ℓ_y(w) − log Σ_y' π(y') exp ℓ_y'(w), where
ℓ_y(w) is the log-probability of the word's tokens under label y. It needs no perturbations, and a
word that every label expects scores 0. Ours; noisy-channel prompting is due to Min et al., "Noisy
Channel Language Model Prompting for Few-Shot Text Classification" (ACL 2022).
"""

import math
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np

from hf_cap.lm.base import Query, Scored
from hf_cap.priors.base import LEARNED, Row, SourceResult
from hf_cap.priors.language_model import LanguageModelSource, rank_of
from hf_cap.priors.prompts import Prompt
from hf_cap.utils import option, settings_class
from hf_cap.words import Span, fold, share_scores, token_hosts, token_words

if TYPE_CHECKING:
    from datasets import Dataset
    from jaxtyping import Float, Int
    from torch import Tensor

Evidence = Literal["posterior", "uniform"]


def word_evidence(
    log_probs: "Float[Tensor, 'labels tokens']",
    owners: "Int[Tensor, ' tokens']",
    words: int,
    evidence: Evidence,
) -> "Float[Tensor, 'labels words']":
    """How much each word speaks for each label, in nats.

    `posterior`: by how much the word raises the label's log-posterior, given the words before it. The
    posterior starts uniform and follows Bayes' rule from token to token, so the scores of a label add up
    exactly to log p(label | text) − log p(label) where every token belongs to a word. `uniform`: pointwise
    mutual information of word and label, all labels being equally likely. No score exceeds log(labels).

    `log_probs` of the tokens are in nats; the owner of one of no word is `words`, the number of words.
    """
    import torch

    if evidence == "posterior":
        after = log_probs.cumsum(1).log_softmax(0)
        before = torch.full_like(after[:, :1], -math.log(len(after)))
        log_probs = torch.cat([before, after], 1).diff(dim=1)
    zeros = log_probs.new_zeros(len(log_probs), words + 1)
    pooled = zeros.index_add(1, owners, log_probs)[:, :words]
    return pooled if evidence == "posterior" else pooled.log_softmax(0) + math.log(len(pooled))


@settings_class
class ChannelPrior(LanguageModelSource):
    """Adds the prior `channel`: `dataset.map(ChannelPrior.from_dataset(dataset), batched=True)`.

    Each word gets a score in nats (after `sign`; positive = the word is likelier under the gold
    label than under the labels taken together). Words that the language model has no room for get
    0. The diagnostics are `channel_rank` (of the gold label by the likelihood of the text, 1 = the
    model's own answer), `channel_cut` (words that did not fit), with `keep_label_scores` also
    `channel_label_scores` (log-probability of the text under every label), and with
    `keep_label_words` also `channel_label_words` (signed scores, one list per label).
    """

    name: ClassVar[str] = "channel"
    wording: ClassVar[str] = "channel"

    evidence: Evidence = option(
        "posterior",
        "What a word under the gold label is compared with: the labels weighted by what the words "
        "before it say, or all labels alike.",
    )
    temperature: float = option(1.0, "Divides log-probabilities, more than 0; above 1 tempers.", above=0)
    keep_label_words: bool = option(False, "Also keep the word scores of every label.")

    def score_words(self, rows: Sequence[Row]) -> SourceResult:
        """Score the words of some rows."""
        opened = self.open()
        parts = opened.fit(rows, _query)
        prompts = [opened.prompt(row.text) for row in rows]
        queries = [
            _query(prompt, part.text, label)
            for prompt, part in zip(prompts, parts, strict=True)
            for label in opened.labels
        ]
        answers = iter(opened.model.log_probs(queries))
        found: dict[str, list[Any]] = defaultdict(list)
        scores = []
        for prompt, row, part in zip(prompts, rows, parts, strict=True):
            likelihoods, words = self._weigh(prompt, part, [next(answers) for _ in self.labels])
            cut = len(row.spans) - len(part.spans)
            words = [[*label_words, *[0.0] * cut] for label_words in words]
            scores.append(self.signed(words[row.label]))
            found["rank"].append(rank_of(row.label, likelihoods))
            found["cut"].append(cut)
            if self.keep_label_scores:
                found["label_scores"].append(likelihoods)
            if self.keep_label_words:
                found["label_words"].append(words)
        return SourceResult(scores, found, self.model_facts(opened))

    def _weigh(
        self, prompt: Prompt, row: Row, scored: Sequence[Scored]
    ) -> tuple[list[float], list[list[float]]]:
        """Log-probability of the text under each label, and the evidence of each of its words."""
        import torch

        log_probs = torch.tensor([one.log_probs for one in scored], dtype=torch.float64)
        # the answer is the lead and the text without white space at its ends
        answer = prompt.lead + row.text.strip()
        shift = len(prompt.lead) - len(row.text) + len(row.text.lstrip())
        spans = [Span(start + shift, end + shift) for start, end in row.spans]
        offsets = _offsets(scored[0].starts, answer)
        owners = token_words(offsets, spans, answer)
        hosts = token_hosts(offsets, owners, spans)
        words = torch.tensor([word if word >= 0 else len(spans) for word in owners])
        scores = word_evidence(log_probs / self.temperature, words, len(spans), self.evidence)
        return log_probs.sum(1).tolist(), [share_scores(row, hosts) for row in scores.tolist()]


def _offsets(starts: Sequence[int], answer: str) -> list[tuple[int, int]]:
    """Spans of tokens of an answer; one of white space reaches into the word that follows."""
    bounds, offsets = sorted({*starts, len(answer)}), []
    for start in starts:
        end = bounds[min(bisect_right(bounds, start), len(bounds) - 1)]
        blank = len(answer[start:]) - len(answer[start:].lstrip())
        offsets.append((start, min(max(end, start + blank + 1), len(answer))))
    return offsets


def _query(prompt: Prompt, text: str, label: str) -> Query:
    return Query(prompt.prefix, prompt.body(label), prompt.answer(text.strip()))


@settings_class
class LexiconPrior(LanguageModelSource):
    """Adds the prior `lexicon`: how far each word by itself speaks for the label.

    The language model is asked for the label of each word of the vocabulary alone. From log p(label | word)
    goes the label's mean over the vocabulary, which is how much the model favours it whatever the word; the
    softmax over the labels is p. The score is p(gold) − 1 / labels, in (−1, 1) before `sign`; positive = the
    word alone makes the gold label likelier than chance. No score is asked for with a training text or the
    label of one (they only choose `chat`), unless there are `demonstrations`, so a shortcut of theirs cannot
    leak into it. This is LAAT's idea (global scores from a language model) for text.

    Attributes:
        table: Folded word to p of each label; `from_dataset` asks for the words of the split.
    """

    name: ClassVar[str] = "lexicon"
    wording: ClassVar[str] = "cap"

    table: Mapping[str, Sequence[float]] = field(default_factory=dict, metadata=LEARNED)

    @classmethod
    def from_dataset(cls, dataset: "Dataset", **options: Any) -> Self:
        """The source for the words of a split."""
        source = super().from_dataset(dataset, **options)
        return source.asked(word for row in source.read_rows(dataset[:]) for word in row.words)

    def asked(self, words: Iterable[str]) -> Self:
        """This source with a table of these words, as `fold` gives them."""
        return replace(self, table=self.probabilities(sorted(set(map(fold, words)))))

    def probabilities(self, words: Sequence[str]) -> dict[str, list[float]]:
        """P of each label for some words or phrases; calibrated on exactly these."""
        if not words:
            return {}
        opened = self.open()
        (found,) = opened.ask(opened.prompts[:1], [words], [range(len(opened.labels))])
        scores = np.array([[one.total for one in of_labels] for of_labels in found])
        scores = scores - scores.mean(0)
        odds = np.exp(scores - scores.max(1, keepdims=True))
        return dict(zip(words, (odds / odds.sum(1, keepdims=True)).tolist(), strict=True))

    def score_words(self, rows: Sequence[Row]) -> SourceResult:
        """Score the words of some rows; words that are not in the table get 0."""
        chance = 1 / len(self.labels)
        unknown = [chance] * len(self.labels)
        scores = [
            self.signed(self.table.get(fold(word), unknown)[row.label] - chance for word in row.words)
            for row in rows
        ]
        return SourceResult(scores, facts=self.model_facts(self.open()))
