"""Queries and models that the scoring tests share."""

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from hf_cap.lm.base import Query, Scored

LONG = "Choose one intent: card arrival, card, card lost, top up, été.\n" * 3 + "Message: "
SHORT = 'A message with the intent "card":'
PREFIXES = (LONG, SHORT, LONG + "again ", "")
TEXTS = (
    "", "my card is lost", "my card", "naïve café 🙂🙃", "line\nbreak\n\n", "  two  spaces ", "カード",
)  # fmt: skip
ANSWERS = (" card", " card lost", " card arrival", " été 🙂", "\nnew", "x")

_SMALL: dict[str, Any] = {
    "vocab_size": 260, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 1024, "initializer_range": 0.2, "bos_token_id": 1, "eos_token_id": 2,
    "pad_token_id": 3,
}  # fmt: skip
_GROUPED = {"num_key_value_heads": 2, "intermediate_size": 64}
MODELS: dict[str, dict[str, Any]] = {
    "llama": _GROUPED,
    "qwen2": _GROUPED,
    "qwen3": {**_GROUPED, "head_dim": 8},
    "mistral": _GROUPED,
    "gemma": {**_GROUPED, "head_dim": 8},
    "gemma2": {**_GROUPED, "head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 512},
    "gpt2": {"max_position_embeddings": 512},
    "gpt_neox": {"intermediate_size": 64},
    "opt": {"ffn_dim": 64, "word_embed_proj_dim": 32, "init_std": 0.2},
}


def build(name: str, **settings: Any) -> PreTrainedModel:
    """A tiny random model of the architecture `name`."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(name, **{**_SMALL, **MODELS.get(name, {}), **settings})
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config)
    model.train(False)
    return model


def all_queries() -> list[Query]:
    """Every prefix with every text and answer, prefixes interleaved."""
    return [
        Query(prefix, text, answer)
        for text in TEXTS
        for prefix in PREFIXES
        for answer in ANSWERS
        if prefix + text
    ]


def largest_difference(one: list[Scored], other: list[Scored]) -> float:
    """Largest difference of two lists of scores, token by token, in nats."""
    return max(
        abs(a - b)
        for left, right in zip(one, other, strict=True)
        for a, b in zip(left.log_probs, right.log_probs, strict=True)
    )
