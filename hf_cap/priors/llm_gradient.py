"""The source `llm_gradient`: one backward pass through the language model instead of a hundred forward ones.

Gradient times input (Shrikumar et al., arXiv 1605.01713) of the gold label's log-probability, under the very
prompt of `cap`: its cheap rival.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from hf_cap.attribution import pool_words
from hf_cap.errors import ConfigError, ModelError
from hf_cap.lm.base import LanguageModel
from hf_cap.lm.cache import CachedLanguageModel
from hf_cap.lm.local import LocalLanguageModel
from hf_cap.priors.base import Row, SourceResult
from hf_cap.priors.language_model import SIGNS, LanguageModelSource, warn_of_cuts
from hf_cap.priors.prompts import Prompt
from hf_cap.words import NO_WORD, Span, token_words


class Asked(NamedTuple):
    """Tokens of one prompt.

    Attributes:
        prefix: Those that every text of the prompt shares.
        rest: The others, up to the answer.
        words: For each of the rest, the word of the text that it belongs to, or -1.
        answer: Those of the gold label.
    """

    prefix: tuple[int, ...]
    rest: tuple[int, ...]
    words: Sequence[int]
    answer: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class LLMGradientPrior(LanguageModelSource):
    """Scores each word by the gradient of the gold label's log-probability times its embeddings, in nats.

    Summed over the embedding dimension and the tokens of a word: to first order, what the label would lose
    if the word's embeddings were zero. Words that the model has no room for get 0. The diagnostic
    `llm_gradient_log_prob` is the label's log-probability. The language model must run in this process.
    """

    name: ClassVar[str] = "llm_gradient"
    wording: ClassVar[str] = "cap"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.keep_label_scores:
            raise ConfigError(
                "keep_label_scores=True: 'llm_gradient' scores the gold label only. Use the source 'cap'."
            )

    def score_words(self, rows: Sequence[Row]) -> SourceResult:
        """Score the words of some rows.

        Raises:
            ModelError: the language model does not run in this process, or has no room for the prompt.
        """
        asker = self.open()
        local = _local(asker.model)
        caches: dict[tuple[int, ...], Any] = {}
        scores, log_probs, cuts = [], [], []
        for row, fitting in zip(rows, asker.fit(rows, asker.query), strict=True):
            prompt = asker.prompt(row.text)
            answer = asker.answer(prompt, asker.labels[row.label])
            asked = _tokens(local, prompt, fitting, answer)
            if asked.prefix not in caches:
                caches[asked.prefix] = _read(local, asked.prefix)
            word_scores, log_prob = _gradient(
                local, asked, caches[asked.prefix], len(fitting.spans)
            )
            cuts.append(len(row.spans) - len(fitting.spans))
            scores.append([*map(SIGNS[self.sign], word_scores), *[0.0] * cuts[-1]])
            log_probs.append(log_prob)
        warn_of_cuts(cuts)
        return SourceResult(scores, {"log_prob": log_probs}, self.model_facts(asker))


def _local(model: LanguageModel) -> LocalLanguageModel:
    inside = model.inner if isinstance(model, CachedLanguageModel) else model
    if not isinstance(inside, LocalLanguageModel):
        raise ModelError(
            f"The source 'llm_gradient' needs the gradient of a language model in this process, got "
            f"{type(inside).__name__}. Leave out `base_url`, or use the source 'cap'."
        )
    return inside


def _tokens(local: LocalLanguageModel, prompt: Prompt, row: Row, answer: str) -> Asked:
    shared = local.tokens.prefix(prompt.prefix)
    start = shared.cut or 0
    rest = local.tokens.body(prompt.prefix, prompt.body(row.text))
    shown = prompt.prefix[start:] + prompt.body(row.text)
    offsets = local.tokens.tokenizer(
        shown, add_special_tokens=False, return_offsets_mapping=True, verbose=False
    )["offset_mapping"]
    shift = len(prompt.prefix) - start + len(prompt.before)
    spans = [Span(first + shift, last + shift) for first, last in row.spans]
    beginning = [NO_WORD] * (len(rest) - len(offsets))  # the beginning-of-text token
    words = beginning + token_words(offsets, spans, shown)
    return Asked(shared.ids, rest, words, local.tokens.answer(answer).ids)


def _read(local: LocalLanguageModel, prefix: tuple[int, ...]) -> Any:
    """Key-value cache of a prefix; `None` for an empty one."""
    if not prefix:
        return None
    with torch.no_grad():
        ids = torch.tensor([prefix], device=local.model.device)
        return local.model(ids, use_cache=True, logits_to_keep=1).past_key_values


def _gradient(
    local: LocalLanguageModel, asked: Asked, cache: Any, words: int
) -> tuple[list[float], float]:
    """Score of each word, and the log-probability of the answer."""
    answer = torch.tensor(asked.answer, device=local.model.device)
    ids = torch.tensor([[*asked.rest, *asked.answer[:-1]]], device=local.model.device)
    embeddings: Tensor = local.model.get_input_embeddings()(ids).detach().requires_grad_()
    with torch.enable_grad():
        logits = local.model(
            inputs_embeds=embeddings,
            past_key_values=copy.deepcopy(cache),  # the model adds to the one that it is given
            logits_to_keep=len(answer),
        ).logits[0]
        log_prob = logits.float().log_softmax(-1).gather(1, answer[:, None]).sum()
        (gradient,) = torch.autograd.grad(log_prob, embeddings)
    tokens = (gradient * embeddings.detach()).float().sum(-1)[:, : len(asked.rest)]
    owners = torch.tensor([list(asked.words)], device=tokens.device)
    scores: list[float] = pool_words(tokens, owners, words)[0].tolist()
    return scores, log_prob.item()
