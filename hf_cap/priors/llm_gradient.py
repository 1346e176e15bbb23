"""The source `llm_gradient`: one backward pass through the language model per text.

Gradient times input (Shrikumar et al., arXiv 1605.01713) of the gold label's log-probability, under
the very prompt of `cap`: its cheap rival.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from hf_cap.errors import ConfigError, ModelError
from hf_cap.lm.base import without_marks
from hf_cap.priors.base import Row, SourceResult
from hf_cap.priors.language_model import LanguageModelSource
from hf_cap.priors.prompts import Prompt
from hf_cap.utils import documented
from hf_cap.words import Span, share_scores, token_hosts, token_words

if TYPE_CHECKING:
    from hf_cap.lm.local import LocalLanguageModel


@documented
@dataclass(frozen=True, kw_only=True)
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
            raise ConfigError(
                "keep_label_scores=True: 'llm_gradient' scores the gold label only. Use 'cap'."
            )

    def score_words(self, rows: Sequence[Row]) -> SourceResult:
        """Score the words of some rows; a model outside this process is a `ModelError`."""
        import torch

        from hf_cap.lm.cache import CachedLanguageModel
        from hf_cap.lm.local import LocalLanguageModel

        opened = self.open()
        local = (
            opened.model.inner if isinstance(opened.model, CachedLanguageModel) else opened.model
        )
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
        outputs = local.model(
            inputs_embeds=embedded, past_key_values=cache, logits_to_keep=len(target)
        )
        log_probs = outputs.logits[0].float().log_softmax(-1)
        log_prob = log_probs.gather(1, torch.tensor(target, device=device)[:, None]).sum()
        (gradient,) = torch.autograd.grad(log_prob, embedded)
    products = (gradient * embedded.detach()).float().sum(-1)[:, : len(tokens)]
    words = torch.tensor([owners], device=device)
    scores = pool_words(products, words, len(spans))[0].tolist()
    return share_scores(scores, token_hosts(offsets, owners, spans)), log_prob.item()
