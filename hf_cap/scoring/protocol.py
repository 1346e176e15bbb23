"""The language model as the rest of hf_cap sees it: a thing that scores continuations.

A `Query` is one prompt and one answer. The prompt comes in two parts so that a scorer can compute the
shared part once: `prefix` (instruction, label space, demonstrations: the same for many queries) and
`body` (the text and the answer slot). The tokens of a query are those of the *whole* prompt
`prefix + body` followed by those of the answer.

`cap` asks for the label given the (masked) text; `channel` asks for the text given the label; LAAT asks
for an integer given a feature. All three are queries.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias, runtime_checkable


@dataclass(frozen=True, slots=True)
class Query:
    """How likely is `answer` after `prefix + body`?"""

    prefix: str
    """Beginning of the prompt, shared by many queries. May be empty."""
    body: str
    """Rest of the prompt, up to the answer. May be empty if `prefix` is not."""
    answer: str
    """Continuation whose tokens are scored. Never empty; begins with a space where one belongs."""


@dataclass(frozen=True, slots=True)
class Scored:
    """Log-probability of each token of an answer."""

    log_probs: tuple[float, ...]
    """Natural logarithm, at most 0; one an answer token, given all tokens before it."""
    starts: tuple[int, ...]
    """Character of the answer at which each token starts; non-decreasing."""

    @property
    def total(self) -> float:
        """Log-probability of the whole answer, in nats."""
        return sum(self.log_probs)

    @property
    def mean(self) -> float:
        """Log-probability per token of the answer, in nats."""
        return self.total / len(self.log_probs)


@runtime_checkable
class Scorer(Protocol):
    """Scores queries, in order. The result of a query never depends on the other queries of a call."""

    @property
    def identity(self) -> str:
        """Everything about the model that determines a score (id, revision or weight hash, dtype)."""

    def score(self, queries: Sequence[Query]) -> list[Scored]:
        """Score each query.

        Raises:
            ExtractError: a score is not finite, or a single query does not fit the model.
        """

    def render_chat(self, user: str) -> str | None:
        """`user` as the user's turn of a conversation, up to where the model's answer begins.

        Returns `None` where the model has no chat template; the caller falls back to plain text.
        """


@runtime_checkable
class Tokenised(Protocol):
    """A scorer that knows how its model reads and ends an answer."""

    def answer_tokens(self, answer: str) -> tuple[int, ...]:
        """The tokens of an answer."""

    def end_of_turn(self) -> str | None:
        """What the chat template puts behind the model's answer; `None` where it puts nothing."""


def answer_tokens(scorer: Scorer, answer: str) -> tuple[int, ...]:
    """The tokens of an answer; its characters where the scorer does not know."""
    if isinstance(scorer, Tokenised):
        return scorer.answer_tokens(answer)
    return characters(answer)


def characters(answer: str) -> tuple[int, ...]:
    """What stands for the tokens of an answer where these are not known."""
    return tuple(map(ord, answer))


def end_of_turn(scorer: Scorer) -> str | None:
    """What stands behind an answer in a conversation; `None` where the scorer does not know."""
    return scorer.end_of_turn() if isinstance(scorer, Tokenised) else None


@runtime_checkable
class Bounded(Protocol):
    """A scorer that knows how much its model can read, so that long texts can be cut beforehand."""

    def excess(self, query: Query) -> int:
        """Tokens by which a query is longer than the model can read; 0 or less where it fits."""


Arrived: TypeAlias = Callable[[Query, Scored], object]
"""Told a query and its score as soon as there is one; in any order, perhaps from another thread."""


@runtime_checkable
class Streaming(Protocol):
    """A scorer that has some scores long before the others, and tells each so that it can be kept."""

    def score_each(self, queries: Sequence[Query], arrived: Arrived) -> list[Scored]:
        """As `score`, and tell each distinct query's score as it arrives."""
