"""A decoder-only transformers model as scorer."""

import inspect
import logging
import math
import time
from collections.abc import Sequence
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from ..embedded import resolve_model
from ..errors import ExtractError, ModelError
from .identity import model_identity
from .plain import Continuation, batches, score_batch
from .protocol import Query, Scored
from .settings import ScorerRuntime, ScorerSettings
from .statistics import ScorerStatistics
from .tokens import PromptTokenizer

_logger = logging.getLogger(__name__)


class LocalScorer:
    """Scores with a causal language model of `transformers`.

    Args:
        model: The model, on its device, in evaluation mode.
        tokenizer: Its tokenizer.
        name: What the model is called in `identity`; default its `name_or_path`.
        runtime: Token budget and memory.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        name: str | None = None,
        runtime: ScorerRuntime | None = None,
    ) -> None:
        self.model = model.train(False)
        self.tokens = PromptTokenizer(tokenizer)
        self.statistics = ScorerStatistics()
        runtime = runtime or ScorerRuntime()
        self._budget = runtime.token_budget or (256 if model.device.type == "cpu" else 8192)
        self._identity = model_identity(model, tokenizer, name)
        self._keeps_logits = "logits_to_keep" in inspect.signature(model.forward).parameters

    @classmethod
    def from_settings(cls, settings: ScorerSettings, runtime: ScorerRuntime) -> "LocalScorer":
        """Load the model that the settings name.

        Raises:
            ModelError: there is no such model, or it is not a causal language model.
        """
        folder = resolve_model(settings.model)
        device = _device(runtime.device)
        common = {"revision": settings.revision, "trust_remote_code": settings.trust_remote_code}
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder, **common)
            model = AutoModelForCausalLM.from_pretrained(
                folder, dtype=_dtype(settings, device), **common, **_quantized(settings, device)
            )
        except (OSError, ValueError, KeyError) as error:
            raise ModelError(
                f"The language model {settings.model!r} cannot be loaded: {error}"
            ) from error
        if settings.quantization == "none":
            torch.nn.Module.to(model, device)
        return cls(model, tokenizer, name=settings.model, runtime=runtime)

    @property
    def identity(self) -> str:
        """Name, commit, weights, tokenizer and number format."""
        return self._identity

    def score(self, queries: Sequence[Query]) -> list[Scored]:
        """Score each query; equal ones once.

        Raises:
            ExtractError: a score is not finite, or a query is longer than the model can read.
        """
        started = time.perf_counter()
        distinct = list(dict.fromkeys(queries))
        rows = [self._continuation(query) for query in distinct]
        log_probs: dict[Query, Scored] = {}
        for group in batches([len(row.ids) for row in rows], max(self._budget, 2048)):
            values = score_batch(
                self.model, [rows[i] for i in group], keeps_logits=self._keeps_logits
            )
            for index, value in zip(group, values, strict=True):
                query = distinct[index]
                log_probs[query] = _finite(query, value, self.tokens.answer(query.answer).starts)
        self.statistics += ScorerStatistics(
            queries=len(queries), distinct=len(distinct), seconds=time.perf_counter() - started
        )
        return [log_probs[query] for query in queries]

    def render_chat(self, user: str) -> str | None:
        """The user's turn in the model's chat template, with the opening of the answer."""
        tokenizer = self.tokens.tokenizer
        if not tokenizer.chat_template:
            return None
        return str(
            tokenizer.apply_chat_template(
                [{"role": "user", "content": user}], tokenize=False, add_generation_prompt=True
            )
        )

    def _continuation(self, query: Query) -> Continuation:
        stable = self.tokens.prefix(query.prefix)
        answer = self.tokens.answer(query.answer).ids
        prompt = stable.ids + self.tokens.body(query.prefix, query.body)
        if not prompt:
            raise ExtractError(f"The prompt of {query!r} has no tokens; give a prefix or a body.")
        return Continuation(prompt + answer, len(answer))


def _finite(query: Query, log_probs: tuple[float, ...], starts: tuple[int, ...]) -> Scored:
    if not all(map(math.isfinite, log_probs)):
        raise ExtractError(
            f"The model gave {log_probs!r} for the answer {query.answer!r}. Where the number format "
            "overflows, dtype='float32' or 'bfloat16' helps."
        )
    return Scored(log_probs, starts)


def _device(name: str) -> torch.device:
    if name != "auto":
        return torch.device(name)
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    return accelerator if accelerator is not None else torch.device("cpu")


def _dtype(settings: ScorerSettings, device: torch.device) -> torch.dtype:
    if settings.dtype != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[
            settings.dtype
        ]
    if device.type == "cpu":
        return torch.float32
    return (
        torch.bfloat16 if device.type != "cuda" or torch.cuda.is_bf16_supported() else torch.float16
    )


def _quantized(settings: ScorerSettings, device: torch.device) -> dict[str, Any]:
    return {}
