"""Never score twice: a scorer that remembers, in a store on disk.

A score's key is a hash of everything that determines it: the model's identity, the whole prompt and the
answer. What is done with scores afterwards (ridge strength, score kind, normalisation) is no part of it,
so changing that costs no language model. Scores are committed chunk by chunk, those of a served model one
by one: a process killed at any moment loses at most the chunk it was computing, or the requests under way.
"""

import os
import struct
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from .protocol import Bounded, Query, Scored, Scorer, Streaming, answer_tokens, end_of_turn
from .sqlite_store import SQLiteStore, chunks, key_of
from .statistics import ScorerStatistics


def score_store(path: str | os.PathLike[str]) -> SQLiteStore[Scored]:
    """Scores by key, in the file `path`."""
    return SQLiteStore(Path(path), "scores", _pack, _unpack)


class StoredScorer:
    """`scorer` with a memory.

    Args:
        scorer: Computes the scores that are not in the store.
        path: File of the store; made where it does not exist.
        chunk: Queries computed between two commits: what a kill can lose.
    """

    def __init__(self, scorer: Scorer, path: str | os.PathLike[str], *, chunk: int = 1024) -> None:
        self.scorer = scorer
        self.store = score_store(path)
        self.chunk = chunk
        self._answered = ScorerStatistics()

    @property
    def identity(self) -> str:
        """That of the scorer inside."""
        return self.scorer.identity

    @property
    def statistics(self) -> ScorerStatistics:
        """Those of the scorer inside, and how many queries it was spared."""
        inner = getattr(self.scorer, "statistics", ScorerStatistics())
        return inner + self._answered

    def score(self, queries: Sequence[Query]) -> list[Scored]:
        """Look each query up; score and store what is missing.

        Raises:
            ExtractError: the scorer inside cannot score a query; what came before it is kept.
        """
        keys = {query: self._key(query) for query in dict.fromkeys(queries)}
        known = self.store.get(list(keys.values()))
        missing = [query for query, key in keys.items() if key not in known]
        stored = sum(keys[query] in known for query in queries)
        for chunk in chunks(missing, self.chunk):
            known.update(self._computed({query: keys[query] for query in chunk}))
        repeats = len(queries) - stored - len(missing)
        self._answered += ScorerStatistics(queries=stored + repeats, stored=stored)
        return [known[keys[query]] for query in queries]

    def _computed(self, keys: Mapping[Query, bytes]) -> dict[bytes, Scored]:
        """Score queries and store the scores, each as it arrives where the scorer tells it."""
        queries = list(keys)
        if isinstance(self.scorer, Streaming):

            def keep(query: Query, scored: Scored) -> None:
                self.store.put({keys[query]: scored})

            scores = self.scorer.score_each(queries, keep)
            return dict(zip(keys.values(), scores, strict=True))
        fresh = dict(zip(keys.values(), self.scorer.score(queries), strict=True))
        self.store.put(fresh)
        return fresh

    def render_chat(self, user: str) -> str | None:
        """That of the scorer inside."""
        return self.scorer.render_chat(user)

    def answer_tokens(self, answer: str) -> tuple[int, ...]:
        """That of the scorer inside; characters where it does not know."""
        return answer_tokens(self.scorer, answer)

    def end_of_turn(self) -> str | None:
        """That of the scorer inside; `None` where it does not know."""
        return end_of_turn(self.scorer)

    def excess(self, query: Query) -> int:
        """That of the scorer inside; 0 where it does not know."""
        return self.scorer.excess(query) if isinstance(self.scorer, Bounded) else 0

    def _key(self, query: Query) -> bytes:
        return key_of(self.identity, query.prefix + query.body, query.answer)


def _pack(scored: Scored) -> bytes:
    """Log-probabilities (float64), starts (uint32), and a checksum of both."""
    size = len(scored.log_probs)
    body = struct.pack(f"<{size}d{size}I", *scored.log_probs, *scored.starts)
    return body + struct.pack("<I", zlib.crc32(body))


def _unpack(value: bytes) -> Scored | None:
    """The score, or `None` where the bytes are not what was written."""
    size, rest = divmod(len(value) - 4, 12)
    if size < 1 or rest or struct.unpack("<I", value[-4:])[0] != zlib.crc32(value[:-4]):
        return None
    numbers = struct.unpack(f"<{size}d{size}I", value[:-4])
    return Scored(numbers[:size], numbers[size:])
