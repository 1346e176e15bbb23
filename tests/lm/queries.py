"""Queries and models that the scoring tests share."""

from collections.abc import Callable
from typing import Any

import torch
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GemmaConfig,
    GemmaForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from hf_cap.lm.base import Query, Scored
from tests.tiny import llama

LONG = "Choose one intent: card arrival, card, card lost, top up, été.\n" * 3 + "Message: "
SHORT = 'A message with the intent "card":'
PREFIXES = (LONG, SHORT, LONG + "again ", "")
TEXTS = (
    "",
    "my card is lost",
    "my card",
    "naïve café 🙂🙃",
    "line\nbreak\n\n",
    "  two  spaces ",
    "カード",
)
ANSWERS = (" card", " card lost", " card arrival", " été 🙂", "\nnew", "x")

SMALL: dict[str, Any] = {
    "vocab_size": 260,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 1024,
    "initializer_range": 0.2,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 3,
}


def _gpt2() -> PreTrainedModel:
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=260,
            n_embd=32,
            n_layer=2,
            n_head=4,
            n_positions=512,
            initializer_range=0.2,
            bos_token_id=1,
            eos_token_id=2,
        )
    )


def _opt() -> PreTrainedModel:
    small = {
        k: v for k, v in SMALL.items() if k not in ("num_key_value_heads", "intermediate_size")
    }
    return OPTForCausalLM(OPTConfig(**small, ffn_dim=64, word_embed_proj_dim=32, init_std=0.2))


MODELS: dict[str, Callable[[], PreTrainedModel]] = {
    "llama": lambda: llama(),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SMALL)),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**SMALL, head_dim=8)),
    "mistral": lambda: MistralForCausalLM(MistralConfig(**SMALL)),
    "gemma": lambda: GemmaForCausalLM(GemmaConfig(**SMALL, head_dim=8)),
    "gemma2": lambda: Gemma2ForCausalLM(
        Gemma2Config(**SMALL, head_dim=8, query_pre_attn_scalar=8, sliding_window=512)
    ),
    "gpt2": _gpt2,
    "gpt_neox": lambda: GPTNeoXForCausalLM(
        GPTNeoXConfig(**{k: v for k, v in SMALL.items() if k != "num_key_value_heads"})
    ),
    "opt": _opt,
}


def build(name: str) -> PreTrainedModel:
    """A tiny random model of the architecture `name`."""
    torch.manual_seed(0)
    model = MODELS[name]()
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
