"""A chat model that rewrites texts: local or served, with every reply kept on disk."""

import hashlib
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

from ...embedded import cache_folder
from ...errors import ModelError, ServerError
from .settings import AttackSettings

_CHUNK = 32
"""Prompts answered between two commits of the kept replies: what a kill can lose."""


class Chat(Protocol):
    """Answers single-turn prompts, in order; the same prompt always gets the same reply."""

    @property
    def identity(self) -> str:
        """Everything about the model that determines a reply."""

    def reply(self, prompts: Sequence[str]) -> list[str]:
        """One reply a prompt."""


class StandInChat:
    """A public stand-in for tests and for replaying a paid run; counts what it was asked."""

    def __init__(self, function: Callable[[str], str], identity: str = "stand-in") -> None:
        self.function = function
        self.identity = identity
        self.asked: list[str] = []

    def reply(self, prompts: Sequence[str]) -> list[str]:
        """The function's reply to each prompt."""
        self.asked += prompts
        return [self.function(prompt) for prompt in prompts]


class LocalChat:
    """A transformers chat model, decoding greedily.

    Raises:
        ModelError: the model cannot be loaded, or its tokenizer has no chat template.
    """

    def __init__(self, model: str, max_new_tokens: int, device: str = "auto") -> None:
        from ...scoring.identity import model_identity
        from ...scoring.loading import choose_device, load_language_model
        from ...scoring.settings import ScorerSettings

        # the auto class does not promise `generate`, though every causal model has it
        self.model: Any
        self.model, self.tokenizer = load_language_model(
            ScorerSettings(model=model), choose_device(device)
        )
        if not self.tokenizer.chat_template:
            raise ModelError(
                f"{model!r} has no chat template, so it cannot be asked to rewrite a text. Choose an "
                "instructed model (its name often ends in -Instruct), or `maker=rules`."
            )
        self.tokenizer.padding_side = "left"
        self.max_new_tokens = max_new_tokens
        self.identity = f"{model_identity(self.model, self.tokenizer, model)}|{max_new_tokens}"

    def reply(self, prompts: Sequence[str]) -> list[str]:
        """The greedy reply to each prompt, without special tokens."""
        rendered = [
            self.tokenizer.apply_chat_template(
                [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True
            )
            for prompt in prompts
        ]
        inputs = self.tokenizer(
            rendered, padding=True, add_special_tokens=False, return_tensors="pt"
        ).to(self.model.device)
        made = self.model.generate(
            **inputs,
            max_new_tokens=self.max_new_tokens,
            do_sample=False,
            temperature=None,
            top_p=None,
            pad_token_id=self.tokenizer.pad_token_id or self.tokenizer.eos_token_id,
        )
        replies: list[str] = self.tokenizer.batch_decode(
            made[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True
        )
        return replies


class ServedChat:
    """An OpenAI-compatible `/chat/completions` endpoint, at temperature 0.

    Args:
        connection: Its server (`hf_cap.scoring.http.Connection`): patience, concurrency and key.
        settings: Model, seed and longest reply.
    """

    def __init__(self, connection: Any, settings: AttackSettings) -> None:
        self.connection = connection
        self.settings = settings

    @property
    def identity(self) -> str:
        """Server, model and what shapes a reply."""
        settings = self.settings
        return f"{settings.base_url}|{settings.model}|{settings.max_new_tokens}|{settings.seed}"

    def reply(self, prompts: Sequence[str]) -> list[str]:
        """The reply to each prompt.

        Raises:
            ServerError: the server cannot be reached, keeps refusing, or answers in another form.
        """
        bodies = [
            {
                "model": self.settings.model,
                "messages": [{"role": "user", "content": prompt}],
                "temperature": 0,
                "seed": self.settings.seed,
                "max_tokens": self.settings.max_new_tokens,
            }
            for prompt in prompts
        ]
        from ...scoring.http import wait_for

        answers = wait_for(self.connection.post_all("/chat/completions", bodies))
        return [_content(answer) for answer in answers]


class CachedChat:
    """Keeps every reply in a SQLite file as it comes, so that a run that was killed asks nothing twice.

    Args:
        chat: The model that is asked.
        path: The file; made if it does not exist.
    """

    def __init__(self, chat: Chat, path: Path) -> None:
        self.chat = chat
        self.identity = chat.identity
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        with closing(self._open()) as store, store:
            store.execute(
                "CREATE TABLE IF NOT EXISTS replies (key TEXT PRIMARY KEY, reply TEXT NOT NULL)"
            )

    def reply(self, prompts: Sequence[str]) -> list[str]:
        """The kept reply to each prompt; the model is asked for those that are missing, each once."""
        keys = [
            hashlib.sha256(f"{self.identity}\0{prompt}".encode()).hexdigest() for prompt in prompts
        ]
        with closing(self._open()) as store:
            known = {
                key: row[0]
                for key in keys
                if (
                    row := store.execute(
                        "SELECT reply FROM replies WHERE key = ?", (key,)
                    ).fetchone()
                )
            }
            missing = list(
                {
                    key: prompt
                    for key, prompt in zip(keys, prompts, strict=True)
                    if key not in known
                }.items()
            )
            for start in range(0, len(missing), _CHUNK):
                chunk = missing[start : start + _CHUNK]
                replies = self.chat.reply([prompt for _, prompt in chunk])
                made = dict(zip([key for key, _ in chunk], replies, strict=True))
                with store:
                    store.executemany("INSERT OR REPLACE INTO replies VALUES (?, ?)", made.items())
                known |= made
        return [known[key] for key in keys]

    def _open(self) -> sqlite3.Connection:
        return sqlite3.connect(self._path, timeout=60)


@lru_cache(maxsize=1)
def open_chat(settings: AttackSettings) -> Chat:
    """The chat model that the settings name, its replies kept in the cache folder; opened once a process.

    Raises:
        ModelError: the model cannot be loaded or has no chat template.
        ServerError: the server cannot be reached.
    """
    from ...scoring.http import Connection
    from ...scoring.settings import current_runtime

    runtime = current_runtime()
    chat: Chat = (
        LocalChat(settings.model, settings.max_new_tokens, runtime.device)
        if settings.base_url is None
        else ServedChat(Connection(settings.base_url, runtime), settings)
    )
    return CachedChat(chat, cache_folder() / "replies.sqlite")


def _content(answer: dict[str, Any]) -> str:
    try:
        return str(answer["choices"][0]["message"]["content"] or "")
    except (KeyError, IndexError, TypeError) as error:
        raise ServerError(
            f"The server's answer holds no message: {str(answer)[:200]!r}. Does it serve /chat/completions?"
        ) from error
