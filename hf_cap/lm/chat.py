"""A language model that answers in words, and a memory for what it said.

A reply costs more than a score: many forward passes, or money. So every reply is kept as it comes, and a run
that was killed asks nothing twice. Imports no torch.
"""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import NamedTuple, Protocol, TypeAlias

from hf_cap.lm.cache import SQLiteStore, key_of


class Reply(NamedTuple):
    """An answer and what it cost."""

    text: str
    """Empty where the model said nothing."""
    prompt_tokens: int = 0
    completion_tokens: int = 0


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How an answer is drawn."""

    max_new_tokens: int
    temperature: float = 0.0
    """At 0 the likeliest token is taken each time."""
    seed: int = 0
    """Another seed gives another answer, if the temperature is above 0."""


Arrived: TypeAlias = Callable[[str, Reply], object]
"""Told a prompt and its reply as soon as there is one; in any order, perhaps from another thread."""


class Chat(Protocol):
    """Answers prompts of a single turn."""

    @property
    def identity(self) -> str:
        """Everything about the model that determines a reply."""

    def reply(
        self, prompts: Sequence[str], sampling: Sampling, arrived: Arrived | None = None
    ) -> list[Reply]:
        """One reply a prompt, in order.

        Raises:
            ServerError: the server keeps failing; what arrived before was told.
        """


class StandInChat:
    """A public stand-in for tests and for replaying a paid run; counts what it was asked."""

    def __init__(self, function: Callable[[str], str], identity: str = "stand-in") -> None:
        self.function = function
        self.identity = identity
        self.asked: list[str] = []

    def reply(
        self, prompts: Sequence[str], sampling: Sampling, arrived: Arrived | None = None
    ) -> list[Reply]:
        """The function's reply to each prompt; a word counts as a token."""
        replies = []
        for prompt in prompts:
            self.asked.append(prompt)
            text = self.function(prompt)
            replies.append(Reply(text, len(prompt.split()), len(text.split())))
            if arrived:
                arrived(prompt, replies[-1])
        return replies


class StoredChat:
    """`chat` with a memory.

    Args:
        chat: Gives the replies that are not in the store.
        path: File of the store; made where it does not exist. That of a `StoredScorer` will do.
    """

    def __init__(self, chat: Chat, path: str | os.PathLike[str]) -> None:
        self.chat = chat
        self.store: SQLiteStore[Reply] = SQLiteStore(Path(path), "replies", _pack, _unpack)

    @property
    def identity(self) -> str:
        """That of the model inside."""
        return self.chat.identity

    def reply(
        self, prompts: Sequence[str], sampling: Sampling, arrived: Arrived | None = None
    ) -> list[Reply]:
        """Look each prompt up; ask what is missing, equal prompts once, and keep each reply as it comes."""
        keys = {prompt: self._key(prompt, sampling) for prompt in prompts}
        stored = self.store.get(list(keys.values()))
        known = {prompt: stored[key] for prompt, key in keys.items() if key in stored}

        def keep(prompt: str, reply: Reply) -> None:
            self.store.put({keys[prompt]: reply})
            known[prompt] = reply
            if arrived:
                arrived(prompt, reply)

        if arrived:
            for prompt, reply in known.items():
                arrived(prompt, reply)
        if missing := [prompt for prompt in keys if prompt not in known]:
            self.chat.reply(missing, sampling, keep)
        return [known[prompt] for prompt in prompts]

    def _key(self, prompt: str, sampling: Sampling) -> bytes:
        return key_of(self.identity, astuple(sampling), prompt)


def _pack(reply: Reply) -> bytes:
    return json.dumps(reply).encode()


def _unpack(value: bytes) -> Reply | None:
    """The reply, or `None` where the bytes are not what was written."""
    try:
        text, *tokens = json.loads(value)
        return Reply(str(text), *map(int, tokens))
    except (ValueError, TypeError):
        return None
