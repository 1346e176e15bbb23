"""Values that outlive the process: one table of an SQLite file that several processes may share."""

import json
import logging
import os
import sqlite3
import struct
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import Any, Generic, TypeVar

from hf_cap.lm.base import (
    Bounded,
    Query,
    Scored,
    Scorer,
    ScorerStatistics,
    Streaming,
    answer_tokens,
    end_of_turn,
)

_logger = logging.getLogger(__name__)
T = TypeVar("T")
V = TypeVar("V")

_BUSY_SECONDS = 60.0
_LOOKUP = 500
"""Keys of one SELECT; SQLite allows 999 parameters in old builds."""


class SQLiteStore(Generic[V]):
    """Values by key, in a table of an SQLite file.

    A file that is no database, or a damaged one, is reported, moved aside and begun anew; a single value
    that cannot be read is reported and counts as absent. What was put is there after the process was killed.

    Args:
        path: The file; made where it does not exist.
        table: Name of the table; a file may have several.
        pack: Bytes of a value.
        unpack: The value, or `None` where the bytes are not what was written.
    """

    def __init__(
        self,
        path: Path,
        table: str,
        pack: Callable[[V], bytes],
        unpack: Callable[[bytes], V | None],
    ) -> None:
        self.path, self.table = path, table
        self._pack, self._unpack = pack, unpack
        self._connection: sqlite3.Connection | None = None
        self._owner = 0

    def get(self, keys: Sequence[bytes]) -> dict[bytes, V]:
        """The values that are there."""
        found: dict[bytes, V] = {}
        for some in chunks(keys, _LOOKUP):
            marks = ",".join("?" * len(some))
            rows = self._execute(
                f"SELECT key, value FROM {self.table} WHERE key IN ({marks})", some
            )
            for key, packed in rows:
                if (value := self._unpack(packed)) is None:
                    _logger.warning("A value in %s is damaged; it is computed again.", self.path)
                else:
                    found[key] = value
        return found

    def put(self, values: Mapping[bytes, V]) -> None:
        """Add values, all or none; present ones of the same key are replaced."""
        connection = self._open()
        with connection:
            connection.executemany(
                f"INSERT OR REPLACE INTO {self.table} VALUES (?, ?)",
                [(key, self._pack(value)) for key, value in values.items()],
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
                self._connection = _connect(self.path, self.table)
            except sqlite3.DatabaseError as error:
                self._give_up(error)
                self._connection = _connect(self.path, self.table)
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
            "The store %s is damaged (%s). It was moved to %s and a new one begun; what it held is computed "
            "again when it is needed.",
            self.path,
            error,
            aside.name,
        )


def _connect(path: Path, table: str) -> sqlite3.Connection:
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
        connection.execute(
            f"CREATE TABLE IF NOT EXISTS {table} "
            "(key BLOB PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID"
        )
    except sqlite3.DatabaseError:
        connection.close()
        raise
    return connection


def key_of(*parts: Any) -> bytes:
    """Key of a value: a hash of everything that determines it, as JSON values."""
    return blake2b(json.dumps(parts).encode(), digest_size=20).digest()


def chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """The items in lists of `size`, the last one perhaps shorter."""
    rest = iter(items)
    while chunk := list(islice(rest, size)):
        yield chunk


# --- Never score twice: a scorer that remembers, in a store on disk.


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
