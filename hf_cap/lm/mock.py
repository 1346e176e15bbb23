"""A language model made of functions: for tests, and for replaying a paid run."""

import math
from collections.abc import Callable, Sequence

from hf_cap.errors import ExtractError
from hf_cap.lm.base import (
    LanguageModel,
    LMStatistics,
    OnReply,
    OnScore,
    Query,
    Reply,
    Sampling,
    Scored,
)


class MockLanguageModel(LanguageModel):
    """A language model whose scores and replies come from functions, and which counts what it is asked.

    Args:
        log_prob: Given prompt and answer, the log-probability of the answer (one token), or one value per
            token; several tokens share the answer's characters evenly. Without it the model cannot score.
        reply: Given a prompt, the reply; a word counts as a token. Without it the model cannot generate.
        fingerprint: What the score store takes this model for.
        chat: Renders a user's turn; without it the model has no chat template.

    Attributes:
        calls: The queries that `log_prob` was asked, in order.
        asked: The prompts that `reply` was asked, in order.
    """

    def __init__(
        self,
        log_prob: Callable[[str, str], float | Sequence[float]] | None = None,
        reply: Callable[[str], str] | None = None,
        *,
        fingerprint: str = "mock",
        chat: Callable[[str], str] | None = None,
    ) -> None:
        self.log_prob, self.reply, self.chat = log_prob, reply, chat
        self.calls: list[Query] = []
        self.asked: list[str] = []
        self._fingerprint = fingerprint

    @property
    def fingerprint(self) -> str:
        """The fingerprint given."""
        return self._fingerprint

    def log_probs(self, queries: Sequence[Query], on_result: OnScore | None = None) -> list[Scored]:
        """Ask the function once per query.

        Raises:
            ExtractError: the function gave a value that is not finite, or none at all.
        """
        if self.log_prob is None:
            return super().log_probs(queries, on_result)
        results = []
        for query in queries:
            results.append(
                self._scored(query, self.log_prob(query.prefix + query.body, query.answer))
            )
            self.calls.append(query)
            if on_result:
                on_result(query, results[-1])
        self.statistics += LMStatistics(queries=len(queries), distinct=len(set(queries)))
        return results

    def generate(
        self, prompts: Sequence[str], sampling: Sampling, on_result: OnReply | None = None
    ) -> list[Reply]:
        """Ask the function once per prompt."""
        if self.reply is None:
            return super().generate(prompts, sampling, on_result)
        replies = []
        for prompt in prompts:
            self.asked.append(prompt)
            text = self.reply(prompt)
            replies.append(Reply(text, len(prompt.split()), len(text.split())))
            if on_result:
                on_result(prompt, replies[-1])
        return replies

    def chat_prompt(self, user: str) -> str | None:
        """The user's turn through `chat`, or `None`."""
        return self.chat(user) if self.chat else None

    def _scored(self, query: Query, value: float | Sequence[float]) -> Scored:
        log_probs = (float(value),) if isinstance(value, int | float) else tuple(map(float, value))
        if not log_probs or not all(map(math.isfinite, log_probs)):
            raise ExtractError(f"The mock gave {value!r} for {query!r}; scores must be finite.")
        length = len(query.answer)
        starts = tuple(index * length // len(log_probs) for index in range(len(log_probs)))
        return Scored(log_probs, starts)
