"""The control `word_length`: the number of characters of each word.

It knows neither label nor model. A prior that names decisive words no better than this one is worth nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from .rows import Row
from .word_source import Explanations, WordSource


@dataclass(frozen=True, kw_only=True)
class WordLengthPrior(WordSource):
    """Scores each word by its length in characters, whatever the label."""

    name: ClassVar[str] = "word_length"

    def explain(self, rows: Sequence[Row]) -> Explanations:
        """Score the words of some rows."""
        return Explanations([[end - start for start, end in row.spans] for row in rows])
