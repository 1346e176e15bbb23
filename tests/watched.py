"""A prior source that tells what it is asked."""

from collections.abc import Callable, Sequence
from typing import Any

from hf_cap.priors.base import Row, SourceResult
from hf_cap.priors.keywords import WordLengthPrior


class Watched(WordLengthPrior):
    """Word lengths.

    Args:
        labels: The label space.
        seen: Takes the texts that are scored.
        first: Called with the first text of a batch, before it is scored.
    """

    def __init__(
        self, labels: Sequence[str], seen: list[str], first: Callable[[str], object] = len
    ) -> None:
        super().__init__(labels=tuple(labels))
        object.__setattr__(self, "seen", seen)
        object.__setattr__(self, "first", first)

    def __reduce__(self) -> tuple[Any, ...]:
        return WordLengthPrior, (), {"labels": self.labels}  # what it saw is no setting

    def score_words(self, rows: Sequence[Row]) -> SourceResult:
        """Score the words of some rows."""
        watched: Any = self
        watched.first(rows[0].text)
        watched.seen.extend(row.text for row in rows)
        return super().score_words(rows)
