"""Models that answer in words: an OpenAI-compatible server, or a local model that generates."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from tqdm.auto import tqdm
from transformers import set_seed

from ..errors import ExtractError, ModelError
from ..scoring.http import Connection, wait_for
from ..scoring.loading import choose_device, load_language_model
from ..scoring.settings import ScorerRuntime, ScorerSettings
from .settings import ElicitOptions


class Reply(NamedTuple):
    """An answer and what it cost."""

    text: str
    prompt_tokens: int
    completion_tokens: int


class ChatModel(Protocol):
    """Answers prompts, in order."""

    def complete(self, prompts: Sequence[str], seed: int) -> list[Reply]:
        """One sampled answer a prompt; another seed gives another sample."""


@dataclass(frozen=True)
class ServedChat:
    """A model behind `/chat/completions`."""

    connection: Connection
    model: str
    options: ElicitOptions

    def complete(self, prompts: Sequence[str], seed: int) -> list[Reply]:
        """One sampled answer a prompt.

        Raises:
            ServerError: the server refuses, or keeps failing.
            ExtractError: a reply holds no message.
        """
        bodies = [
            {
                "model": self.model,
                "messages": [{"role": "user", "content": prompt}],
                "temperature": self.options.temperature,
                "max_tokens": self.options.max_new_tokens,
                "seed": seed,
            }
            for prompt in prompts
        ]
        replies = wait_for(self.connection.post_all("/chat/completions", bodies))
        return [_served_reply(reply) for reply in replies]


class LocalChat:
    """A local model with a chat template.

    Args:
        settings: Which model.
        options: Temperature and length of an answer.
        runtime: Device.
        batch: Prompts that are answered at a time.

    Raises:
        ModelError: there is no such model, or it has no chat template.
    """

    def __init__(
        self,
        settings: ScorerSettings,
        options: ElicitOptions,
        runtime: ScorerRuntime,
        *,
        batch: int = 16,
    ) -> None:
        # the auto class does not promise `generate`, though every causal model has it
        self.model: Any
        self.tokenizer: Any
        self.model, self.tokenizer = load_language_model(settings, choose_device(runtime.device))
        if not self.tokenizer.chat_template:
            raise ModelError(
                f"{settings.model!r} has no chat template and so cannot be asked. Use an instruction-tuned "
                "model, or `method='expectation'`, which needs none."
            )
        self.tokenizer.padding_side = "left"
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        self.options, self.batch = options, batch

    def complete(self, prompts: Sequence[str], seed: int) -> list[Reply]:
        """One sampled answer a prompt."""
        set_seed(seed)
        replies: list[Reply] = []
        starts = range(0, len(prompts), self.batch)
        for start in tqdm(starts, desc="asking", unit=f" x {self.batch} prompts", disable=None):
            replies += self._answers(prompts[start : start + self.batch])
        return replies

    @torch.no_grad()
    def _answers(self, prompts: Sequence[str]) -> list[Reply]:
        turns = [[{"role": "user", "content": prompt}] for prompt in prompts]
        inputs = self.tokenizer.apply_chat_template(
            turns, add_generation_prompt=True, padding=True, return_tensors="pt", return_dict=True
        ).to(self.model.device)
        pad = self.tokenizer.pad_token_id
        generated = self.model.generate(
            **inputs,
            do_sample=True,
            temperature=self.options.temperature,
            max_new_tokens=self.options.max_new_tokens,
            pad_token_id=pad,
        )[:, inputs["input_ids"].shape[1] :]
        texts = self.tokenizer.batch_decode(generated, skip_special_tokens=True)
        read, written = inputs["attention_mask"].sum(1), (generated != pad).sum(1)
        return [Reply(*one) for one in zip(texts, read.tolist(), written.tolist(), strict=True)]


def open_chat(
    settings: ScorerSettings, options: ElicitOptions, runtime: ScorerRuntime
) -> ChatModel:
    """The chat model that `settings` describe."""
    if settings.base_url:
        return ServedChat(Connection(settings.base_url, runtime), settings.model, options)
    return LocalChat(settings, options, runtime)


def _served_reply(reply: dict[str, Any]) -> Reply:
    try:
        text = reply["choices"][0]["message"]["content"] or ""
    except (KeyError, IndexError, TypeError) as error:
        raise ExtractError(
            f"The server's reply holds no message: {str(reply)[:200]!r}. Is base_url the root of an "
            "OpenAI-compatible API with /chat/completions?"
        ) from error
    usage = reply.get("usage") or {}
    return Reply(text, usage.get("prompt_tokens") or 0, usage.get("completion_tokens") or 0)
