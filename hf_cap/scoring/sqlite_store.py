"""Values that outlive the process: one table of an SQLite file that several processes may share."""

import json
import logging
import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import Any, Generic, TypeVar

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
