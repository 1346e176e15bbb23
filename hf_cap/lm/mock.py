"""A language model made of a function: for tests, and for replaying a paid run."""

import math
from collections.abc import Callable, Sequence

from hf_cap.errors import ExtractError
from hf_cap.lm.base import Query, Scored, ScorerStatistics

Answer = Callable[[str, str], float | Sequence[float]]
"""(prompt, answer) to the log-probability of the answer, or of each of its tokens."""


class StandInScorer:
    """A `Scorer` whose scores come from a function.

    Args:
        function: Given prompt and answer, the log-probability of the answer (one token), or one
            value a token; several tokens share the answer's characters evenly.
        identity: What the score store takes this model for.
        chat: Renders a user's turn; without it the stand-in has no chat template.

    Attributes:
        calls: The queries that the function was asked, in order.
    """

    def __init__(
        self,
        function: Answer,
        identity: str = "stand-in",
        *,
        chat: Callable[[str], str] | None = None,
    ) -> None:
        self.calls: list[Query] = []
        self.statistics = ScorerStatistics()
        self._function = function
        self._identity = identity
        self._chat = chat

    @property
    def identity(self) -> str:
        """The identity given."""
        return self._identity

    def score(self, queries: Sequence[Query]) -> list[Scored]:
        """Ask the function once a query.

        Raises:
            ExtractError: the function gave a value that is not finite, or none at all.
        """
        results = [self._scored(query) for query in queries]
        self.calls += queries
        self.statistics += ScorerStatistics(queries=len(queries), distinct=len(set(queries)))
        return results

    def render_chat(self, user: str) -> str | None:
        """The user's turn through `chat`, or `None`."""
        return self._chat(user) if self._chat else None

    def _scored(self, query: Query) -> Scored:
        value = self._function(query.prefix + query.body, query.answer)
        log_probs = (float(value),) if isinstance(value, int | float) else tuple(map(float, value))
        if not log_probs or not all(map(math.isfinite, log_probs)):
            raise ExtractError(
                f"The stand-in answered {value!r} to {query!r}; scores must be finite."
            )
        length = len(query.answer)
        starts = tuple(index * length // len(log_probs) for index in range(len(log_probs)))
        return Scored(log_probs, starts)
