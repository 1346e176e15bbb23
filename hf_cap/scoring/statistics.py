"""What a scorer did, and what each way of not repeating work saved."""

from dataclasses import dataclass, fields


@dataclass
class ScorerStatistics:
    """Running totals of a scorer. Tokens are tokens that the model would have to read.

    `naive_tokens` = `distinct_saved` + `prefix_saved` + `trie_saved` + `tokens_computed`, always.
    """

    queries: int = 0
    """Queries asked, repeats included."""
    stored: int = 0
    """Queries answered from the score store."""
    distinct: int = 0
    """Different queries that reached the language model."""
    naive_tokens: int = 0
    """Tokens if every query were a prompt of its own."""
    distinct_saved: int = 0
    """Tokens saved because equal queries are scored once."""
    prefix_saved: int = 0
    """Tokens saved because a prefix is encoded once."""
    trie_saved: int = 0
    """Tokens saved because equal beginnings of texts and answers are computed once."""
    tokens_computed: int = 0
    """Tokens that went through the model."""
    seconds: float = 0.0
    """Wall time spent in `score`."""

    @property
    def tokens_per_second(self) -> float:
        """Tokens computed a second; 0 before the first."""
        return self.tokens_computed / self.seconds if self.seconds else 0.0

    @property
    def naive_seconds(self) -> float:
        """Estimated time of the naive way: all its tokens at the rate reached here."""
        rate = self.tokens_per_second
        return self.naive_tokens / rate if rate else 0.0

    def __add__(self, other: "ScorerStatistics") -> "ScorerStatistics":
        return ScorerStatistics(
            *(getattr(self, f.name) + getattr(other, f.name) for f in fields(self))
        )
