"""Never score twice: a scorer that remembers, in an SQLite file that several processes may share.

A score's key is a hash of everything that determines it: the model's identity, the whole prompt and the
answer. What is done with scores afterwards (ridge strength, score kind, normalisation) is no part of it,
so changing that costs no language model. Scores are committed chunk by chunk: a process killed at any
moment loses at most the chunk it was computing.
"""

import json
import logging
import os
import sqlite3
import struct
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import TypeVar

from .protocol import Bounded, Query, Scored, Scorer
from .statistics import ScorerStatistics

_logger = logging.getLogger(__name__)
T = TypeVar("T")

_TABLE = (
    "CREATE TABLE IF NOT EXISTS scores (key BLOB PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID"
)
_BUSY_SECONDS = 60.0
_LOOKUP = 500
"""Keys of one SELECT; SQLite allows 999 parameters in old builds."""


class ScoreStore:
    """Scores by key, in the SQLite file `path`.

    A file that is no database, or a damaged one, is reported, moved aside and begun anew; a single
    value whose checksum is wrong is reported and counts as absent.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._connection: sqlite3.Connection | None = None
        self._owner = 0

    def get(self, keys: Sequence[bytes]) -> dict[bytes, Scored]:
        """The scores that are there."""
        found: dict[bytes, Scored] = {}
        for some in _chunks(keys, _LOOKUP):
            marks = ",".join("?" * len(some))
            rows = self._execute(f"SELECT key, value FROM scores WHERE key IN ({marks})", some)
            for key, value in rows:
                if (scored := _unpack(value)) is None:
                    _logger.warning("A score in %s is damaged; it is scored again.", self.path)
                else:
                    found[key] = scored
        return found

    def put(self, scores: Mapping[bytes, Scored]) -> None:
        """Add scores, all or none; present ones of the same key are replaced."""
        connection = self._open()
        with connection:
            connection.executemany(
                "INSERT OR REPLACE INTO scores VALUES (?, ?)",
                [(key, _pack(scored)) for key, scored in scores.items()],
            )

    def close(self) -> None:
        """Close the file; it opens again by itself."""
        if self._connection is not None and self._owner == os.getpid():
            self._connection.close()
        self._connection = None

    def _execute(self, statement: str, values: Sequence[bytes]) -> list[tuple[bytes, bytes]]:
        try:
            return self._open().execute(statement, values).fetchall()
        except sqlite3.DatabaseError as error:
            self._give_up(error)
            return []

    def _open(self) -> sqlite3.Connection:
        # a connection must not be used across a fork
        if self._connection is None or self._owner != os.getpid():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            try:
                self._connection = _connect(self.path)
            except sqlite3.DatabaseError as error:
                self._give_up(error)
                self._connection = _connect(self.path)
            self._owner = os.getpid()
        return self._connection

    def _give_up(self, error: sqlite3.DatabaseError) -> None:
        """Move a damaged file aside; any other error (a full disk, a lock held too long) is raised."""
        code = getattr(error, "sqlite_errorcode", None)
        if code is None or code & 0xFF not in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            raise error
        self.close()
        aside = self.path.with_name(f"{self.path.name}.damaged-{time.time_ns()}")
        self.path.rename(aside)
        for suffix in ("-wal", "-shm"):
            self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)
        _logger.warning(
            "The score store %s is damaged (%s). It was moved to %s and a new one begun; its scores are "
            "computed again when they are needed.",
            self.path,
            error,
            aside.name,
        )


class StoredScorer:
    """`scorer` with a memory.

    Args:
        scorer: Computes the scores that are not in the store.
        path: File of the store; made where it does not exist.
        chunk: Queries computed between two commits: what a kill can lose.
    """

    def __init__(self, scorer: Scorer, path: str | os.PathLike[str], *, chunk: int = 1024) -> None:
        self.scorer = scorer
        self.store = ScoreStore(Path(path))
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
        for chunk in _chunks(missing, self.chunk):
            scores = self.scorer.score(chunk)
            fresh = {keys[query]: scored for query, scored in zip(chunk, scores, strict=True)}
            self.store.put(fresh)
            known.update(fresh)
        repeats = len(queries) - stored - len(missing)
        self._answered += ScorerStatistics(queries=stored + repeats, stored=stored)
        return [known[keys[query]] for query in queries]

    def render_chat(self, user: str) -> str | None:
        """That of the scorer inside."""
        return self.scorer.render_chat(user)

    def excess(self, query: Query) -> int:
        """That of the scorer inside; 0 where it does not know."""
        return self.scorer.excess(query) if isinstance(self.scorer, Bounded) else 0

    def _key(self, query: Query) -> bytes:
        parts = json.dumps([self.identity, query.prefix + query.body, query.answer])
        return blake2b(parts.encode(), digest_size=20).digest()


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=_BUSY_SECONDS, check_same_thread=False)
    try:
        connection.execute("PRAGMA journal_mode=WAL")
        # in WAL mode NORMAL keeps every commit through a killed process; only a power cut may lose the last
        connection.execute("PRAGMA synchronous=NORMAL")
        (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            error = sqlite3.DatabaseError(verdict)
            error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
            raise error
        connection.execute(_TABLE)
    except sqlite3.DatabaseError:
        connection.close()
        raise
    return connection


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


def _chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    rest = iter(items)
    while chunk := list(islice(rest, size)):
        yield chunk
