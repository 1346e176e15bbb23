"""Rivals of `cap` that ask the same language model: the sources `reagent` and `llm_gradient`.

`reagent` is what the label loses when words give way to those of other training texts, after Zhao & Shan,
"ReAGent: A Model-agnostic Feature Attribution Method for Generative Language Models" (arXiv 2402.00794).
Each step replaces some words at random; what the label loses is added to their scores and taken off the
others', until the words of the highest scores, the rest being replaced, keep the label as likely as it was.
Ours are: replacements from the training texts instead of a masked language model (nothing else is loaded),
the mean log-probability of a label of any number of tokens instead of the probability of one token, and
scores that are never put through a softmax and its inverse, which lose their last digits and then give NaN.
"""

import copy
import math
from collections.abc import Sequence
from dataclasses import field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from hf_cap.errors import ConfigError, DataError, ModelError
from hf_cap.lm.base import without_marks
from hf_cap.lm.cache import CachedLanguageModel
from hf_cap.priors.base import LEARNED, Row, SourceResult
from hf_cap.priors.language_model import LanguageModelSource, PromptedModel
from hf_cap.priors.prompts import Prompt
from hf_cap.utils import generator, option, settings_class
from hf_cap.words import Span, fold, share_scores, token_hosts, token_words, with_words

if TYPE_CHECKING:
    from datasets import Dataset

    from hf_cap.lm.local import LocalLanguageModel

_FIRST_STEPS = 3
"""Steps per word before the stop rule: fewer leave words that were always replaced together."""


@settings_class
class ReAGentPrior(LanguageModelSource):
    """Scores each word by what the label loses when it is replaced, compared with the text's other words.

    In nats per token of the label, before `sign`; positive = the word speaks more for the label than the
    mean word of the text, so the scores of a text add up to 0. A text of one word gets 1. Words that the
    language model has no room for get 0. The diagnostic `reagent_questions` is the number of questions.

    Attributes:
        pool: The different words of the training texts; `from_dataset` reads them.
    """

    name: ClassVar[str] = "reagent"
    wording: ClassVar[str] = "cap"

    probes: int = option(3, "Repetitions from the start, whose scores are averaged, at least 1.", at_least=1)
    n: int = option(100, "Steps per probe, at least 2; the stop rule may end it earlier.", at_least=2)
    replaced: float = option(
        0.3, "Share of the words that a step replaces, above 0 and below 1.", above=0, below=1
    )
    kept: float = option(0.3, "Share of the words that must do for the stop rule, above 0.", above=0, below=1)
    tolerance: float = option(
        0.1, "Nats per token that the label may lose by it, at least 0.", at_least=0, below=math.inf
    )
    pool: tuple[str, ...] = field(default=(), metadata=LEARNED)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.keep_label_scores:
            raise ConfigError("keep_label_scores=True: 'reagent' asks about the gold label only. Use 'cap'.")

    @classmethod
    def from_dataset(cls, dataset: "Dataset", **options: Any) -> Self:
        """The source with the words of a split to replace others by."""
        source = super().from_dataset(dataset, **options)
        words = {word for row in source.read_rows(dataset[:]) for word in row.words}
        return replace(source, pool=tuple(sorted(words)))

    def score_words(self, rows: Sequence[Row]) -> SourceResult:
        """Score the words of some rows; a text that has every word of the pool is a `DataError`."""
        opened = self.open()
        parts = opened.fit(rows, opened.query, self._longest)
        prompts = [opened.prompt(row.text) for row in rows]
        asked = [(prompt, part, [part.text]) for part, prompt in zip(parts, prompts, strict=True)]
        whole = _ask(opened, asked)
        groups = [self._probes(part) for part in parts]
        pending = [
            (probe, prompt, before)
            for group, prompt, (before,) in zip(groups, prompts, whole, strict=True)
            for probe in group
        ]
        while pending:
            for ask, learn in (_Probe.next_steps, _Probe.learn), (_Probe.best_words, _Probe.judge):
                asked = [(prompt, probe.row, ask(probe)) for probe, prompt, _ in pending]
                for (probe, _, before), after in zip(pending, _ask(opened, asked), strict=True):
                    learn(probe, before - np.array(after))
            pending = [line for line in pending if not line[0].done]
        scores = []
        for row, group in zip(rows, groups, strict=True):
            found = np.mean([probe.scores for probe in group], axis=0).tolist() if group else [1.0]
            scores.append([*self.signed(found), *[0.0] * (len(row.spans) - len(found))])
        questions = [1 + sum(probe.questions for probe in group) for group in groups]
        return SourceResult(scores, {"questions": questions}, self.model_facts(opened))

    def _probes(self, row: Row) -> "list[_Probe]":
        """The probes of a text, whose draws depend on the seed and the text only."""
        if len(row.spans) == 1:
            return []
        own = set(map(fold, row.words))
        others = [word for word in self.pool if fold(word) not in own]
        if not others:
            raise DataError(
                f"No word of `pool` is missing from the text {row.text!r:.60}, so that nothing can replace "
                "its words. Make the source by `from_dataset` from a split with other texts."
            )
        return [_Probe(self, row, others, number) for number in range(self.probes)]

    def _longest(self, row: Row, room: int) -> list[str]:
        """A text that is as long as any that is asked in place of a row's, if it has over `room` bytes."""
        texts = [probe.longest() for probe in self._probes(row)]
        return [text for text in texts if len(text.encode("utf-8", "surrogatepass")) > room]


class _Probe:
    """The scores of the words of a text, as they are learned step by step.

    Attributes:
        scores: Per word, in nats per token of the label, adding up to 0.
        done: Whether the stop rule holds, or all steps are done.
    """

    def __init__(self, source: ReAGentPrior, row: Row, others: Sequence[str], number: int) -> None:
        draws, words = generator(source.seed, row.text, number), len(row.spans)
        self.row, self.source, self.done, self.questions = row, source, False, 0
        self._size = min(words - 1, max(1, round(source.replaced * words)))
        places = draws.random((source.n, words)).argsort(axis=1).argsort(axis=1)
        self._replaced = places < self._size
        self._words = np.array(others, dtype=object)[draws.integers(len(others), size=places.shape)]
        self._lost = np.zeros(0)

    @property
    def scores(self) -> NDArray[np.float64]:
        """What was lost when a word was replaced, and gained when it was kept, of all steps so far."""
        share = self._size / len(self.row.spans)
        signs = (self._replaced[: len(self._lost)] - share) / (share * (1 - share))
        # steps of a fixed size find each word's effect minus the mean one, times d / (d − 1)
        # the mean loss is left out, since it tells words apart by chance only
        lost = self._lost - self._lost.mean()
        found: NDArray[np.float64] = lost @ signs / len(lost) * (1 - 1 / len(self.row.spans))
        return found

    def next_steps(self) -> list[str]:
        """The texts of the steps before the stop rule is asked."""
        done, words = len(self._lost), len(self.row.spans)
        end = min(self.source.n, max(_FIRST_STEPS * words, done + words))
        return [self._text(step, self._replaced[step]) for step in range(done, end)]

    def learn(self, lost: NDArray[np.float64]) -> None:
        """Take in what the label lost in these steps, in nats per token."""
        self._lost = np.append(self._lost, lost)
        self.questions += len(lost)

    def best_words(self) -> list[str]:
        """The text in which only the words with the highest scores are left."""
        most = math.ceil(self.source.kept * len(self.row.spans))
        ranks = (-self.scores).argsort(kind="stable").argsort()
        return [self._text(len(self._lost) - 1, ranks >= most)]

    def judge(self, lost: NDArray[np.float64]) -> None:
        """Stop where the label loses no more than the tolerance by it."""
        self.questions += 1
        self.done = lost[0] <= self.source.tolerance or len(self._lost) == self.source.n

    def longest(self) -> str:
        """The text with the longest word in each place that a step may put there."""
        places = zip(self.row.words, *self._words, strict=True)
        return self._with([max(words, key=len) for words in places])

    def _text(self, step: int, replaced: NDArray[np.bool_]) -> str:
        return self._with(np.where(replaced, self._words[step], self.row.words).tolist())

    def _with(self, words: Sequence[str]) -> str:
        return with_words(self.row.text, self.row.spans, words).strip()


def _ask(opened: PromptedModel, asked: Sequence[tuple[Prompt, Row, Sequence[str]]]) -> list[list[float]]:
    """Mean log-probability of the gold label's tokens for each text of each entry, in nats."""
    prompts, rows, texts = zip(*asked, strict=True)
    found = opened.ask(prompts, texts, [[row.label] for row in rows])
    return [[one.mean for (one,) in of_texts] for of_texts in found]


# --- `llm_gradient`: one backward pass through the language model per text, the cheap rival: gradient times
# input (Shrikumar et al., arXiv 1605.01713) of the gold label's log-probability, under `cap`'s prompt.


@settings_class
class LLMGradientPrior(LanguageModelSource):
    """Scores each word by the gradient of the gold label's log-probability times its embeddings.

    In nats, summed over the embedding dimension and the tokens of a word: to first order, what the label
    would lose if the word's embeddings were zero. Words that the model has no room for get 0. The diagnostic
    `llm_gradient_log_prob` is the label's log-probability. The language model must run in this process.
    """

    name: ClassVar[str] = "llm_gradient"
    wording: ClassVar[str] = "cap"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.keep_label_scores:
            raise ConfigError("keep_label_scores=True: 'llm_gradient' scores the gold label only. Use 'cap'.")

    def score_words(self, rows: Sequence[Row]) -> SourceResult:
        """Score the words of some rows; a model outside this process is a `ModelError`."""
        import torch

        from hf_cap.lm.local import LocalLanguageModel

        opened = self.open()
        local = opened.model.inner if isinstance(opened.model, CachedLanguageModel) else opened.model
        if not isinstance(local, LocalLanguageModel):
            raise ModelError(
                "The source 'llm_gradient' needs the gradient of a language model in this process, got "
                f"{type(local).__name__}. Leave out `base_url`, or use the source 'cap'."
            )
        caches: dict[tuple[int, ...], Any] = {}
        scores, log_probs = [], []
        for row, part in zip(rows, opened.fit(rows, opened.query), strict=True):
            prompt = opened.prompt(row.text)
            answer = opened.answer(prompt, opened.labels[row.label])
            prefix = local.tokens.prefix(prompt.prefix).ids
            if prefix not in caches:
                with torch.no_grad():
                    ids = torch.tensor([prefix], device=local.model.device)
                    read = local.model(ids, use_cache=True, logits_to_keep=1) if prefix else None
                caches[prefix] = read.past_key_values if read else None
            # the model adds to the cache that it is given
            found, log_prob = _explain(local, copy.deepcopy(caches[prefix]), prompt, part, answer)
            missing = len(row.spans) - len(found)
            scores.append([*self.signed(found), *[0.0] * missing])
            log_probs.append(log_prob)
        return SourceResult(scores, {"log_prob": log_probs}, self.model_facts(opened))


def _explain(
    local: "LocalLanguageModel", cache: Any, prompt: Prompt, row: Row, answer: str
) -> tuple[list[float], float]:
    """Score of each word, and the log-probability of the answer."""
    import torch

    from hf_cap.attribution import pool_words

    start = local.tokens.prefix(prompt.prefix).cut or 0
    tokens = local.tokens.body(prompt.prefix, prompt.body(row.text))
    shown = prompt.prefix[start:] + prompt.body(row.text)
    offsets, shown = local.tokens.spans(shown), without_marks(shown)
    shift = len(without_marks(prompt.prefix[start:] + prompt.before))
    spans = [Span(first + shift, last + shift) for first, last in row.spans]
    offsets = [(0, 0)] * (len(tokens) - len(offsets)) + offsets  # the beginning-of-text token
    owners = token_words(offsets, spans, shown)

    device, target = local.model.device, local.tokens.answer(answer).ids
    ids = torch.tensor([[*tokens, *target[:-1]]], device=device)
    embedded = local.model.get_input_embeddings()(ids).detach().requires_grad_()
    with torch.enable_grad():
        outputs = local.model(inputs_embeds=embedded, past_key_values=cache, logits_to_keep=len(target))
        log_probs = outputs.logits[0].float().log_softmax(-1)
        log_prob = log_probs.gather(1, torch.tensor(target, device=device)[:, None]).sum()
        (gradient,) = torch.autograd.grad(log_prob, embedded)
    products = (gradient * embedded.detach()).float().sum(-1)[:, : len(tokens)]
    words = torch.tensor([owners], device=device)
    scores = pool_words(products, words, len(spans))[0].tolist()
    return share_scores(scores, token_hosts(offsets, owners, spans)), log_prob.item()
