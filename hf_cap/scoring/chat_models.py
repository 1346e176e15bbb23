"""The two kinds of chat models: a local one that generates, and one behind an OpenAI-compatible server."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch

from ..errors import ModelError, ServerError
from ..randomness import text_seed
from .chat import Arrived, Reply, Sampling
from .http import Connection, wait_for
from .identity import model_identity
from .loading import choose_device, load_language_model
from .settings import ScorerRuntime, ScorerSettings
from .tokens import FIXED_DATE

_BATCH = 16
"""Prompts that a local model answers at a time; fixed, because a sampled answer depends on its batch."""


class LocalChat:
    """A transformers model with a chat template.

    Args:
        settings: Which model.
        runtime: Its device.

    Raises:
        ModelError: the model cannot be loaded, or has no chat template.
    """

    def __init__(self, settings: ScorerSettings, runtime: ScorerRuntime) -> None:
        # the auto class does not promise `generate`, though every causal model has it
        self.model: Any
        self.tokenizer: Any
        self.model, self.tokenizer = load_language_model(settings, choose_device(runtime.device))
        if not self.tokenizer.chat_template:
            raise ModelError(
                f"{settings.model!r} has no chat template and so cannot be asked in words. Choose an "
                "instruction-tuned model (its name often ends in -Instruct), or a way that asks none."
            )
        self.tokenizer.padding_side = "left"
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        self._name = settings.model

    @cached_property
    def identity(self) -> str:
        """Name, number format, and fingerprints of weights and tokenizer."""
        return f"{model_identity(self.model, self.tokenizer, self._name)}|chat"

    def reply(
        self, prompts: Sequence[str], sampling: Sampling, arrived: Arrived | None = None
    ) -> list[Reply]:
        """One reply a prompt, without special tokens."""
        replies: list[Reply] = []
        for start in range(0, len(prompts), _BATCH):
            batch = prompts[start : start + _BATCH]
            replies += self._answers(batch, sampling)
            if arrived:
                for prompt, reply in zip(batch, replies[start:], strict=True):
                    arrived(prompt, reply)
        return replies

    @torch.no_grad()
    def _answers(self, prompts: Sequence[str], sampling: Sampling) -> list[Reply]:
        inputs = self.tokenizer.apply_chat_template(
            [[{"role": "user", "content": prompt}] for prompt in prompts],
            add_generation_prompt=True,
            padding=True,
            return_tensors="pt",
            return_dict=True,
            date_string=FIXED_DATE,
        ).to(self.model.device)
        pad = self.tokenizer.pad_token_id
        device = inputs["input_ids"].device
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            # seeded batch by batch, so that a run that goes on draws what it would have drawn
            torch.manual_seed(text_seed(sampling.seed, "\0".join(prompts)))
            generated = self.model.generate(
                **inputs,
                **_drawing(sampling.temperature),
                max_new_tokens=sampling.max_new_tokens,
                pad_token_id=pad,
            )[:, inputs["input_ids"].shape[1] :]
        texts = self.tokenizer.batch_decode(generated, skip_special_tokens=True)
        read, written = inputs["attention_mask"].sum(1), (generated != pad).sum(1)
        return [Reply(*one) for one in zip(texts, read.tolist(), written.tolist(), strict=True)]


class ServedChat:
    """A model behind `/chat/completions`.

    Args:
        connection: The server.
        model: Name under which it serves the model.
    """

    def __init__(self, connection: Connection, model: str) -> None:
        self.connection = connection
        self.model = model

    @property
    def identity(self) -> str:
        """Server and model: the server does not tell its weights."""
        return f"{self.connection.base_url}|{self.model}|chat"

    def reply(
        self, prompts: Sequence[str], sampling: Sampling, arrived: Arrived | None = None
    ) -> list[Reply]:
        """One reply a prompt.

        Raises:
            ServerError: the server cannot be reached, keeps refusing, or answers without a message.
        """
        bodies = [
            {
                "model": self.model,
                "messages": [{"role": "user", "content": prompt}],
                "temperature": sampling.temperature,
                "max_tokens": sampling.max_new_tokens,
                "seed": sampling.seed,
            }
            for prompt in prompts
        ]

        def tell(number: int, answer: dict[str, Any]) -> None:
            if arrived:
                arrived(prompts[number], read_reply(answer))

        answers = wait_for(self.connection.post_all("/chat/completions", bodies, tell))
        return [read_reply(answer) for answer in answers]


def read_reply(answer: dict[str, Any]) -> Reply:
    """The reply in the JSON of `/chat/completions`; a message without content is an empty text.

    Raises:
        ServerError: there is no message.
    """
    try:
        text = answer["choices"][0]["message"]["content"] or ""
    except (KeyError, IndexError, TypeError) as error:
        raise ServerError(
            f"The server's answer holds no message: {str(answer)[:200]!r}. Is base_url the root of an "
            "OpenAI-compatible API with /chat/completions?"
        ) from error
    usage = answer.get("usage") or {}
    return Reply(text, usage.get("prompt_tokens") or 0, usage.get("completion_tokens") or 0)


def _drawing(temperature: float) -> dict[str, Any]:
    """Settings of `generate`; what a model's own settings say of sampling has no place in a greedy answer."""
    if temperature:
        return {"do_sample": True, "temperature": temperature}
    return {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
