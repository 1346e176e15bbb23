"""Nothing is asked twice: a language model that keeps its answers in an SQLite file.

Several processes may share the file. What one of them is computing is claimed there, and the others wait
for it instead of paying for the same again. An answer is written as soon as it is there, so a process that
is killed at any moment loses at most what was in flight.
"""

import json
import logging
import os
import sqlite3
import threading
import time
import uuid
import weakref
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import astuple
from hashlib import blake2b
from pathlib import Path
from typing import Any, TypeVar

from hf_cap.errors import ConfigError
from hf_cap.lm.base import LanguageModel, LMStatistics, OnReply, OnScore, Query, Reply, Sampling, Scored
from hf_cap.progress import Progress, progress
from hf_cap.utils import Place, is_running, process_mark

_logger = logging.getLogger(__name__)
T = TypeVar("T")
V = TypeVar("V")

_BUSY_SECONDS = 60.0
_LONGEST_PAUSE = 1.0
_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_SCHEMA = {
    "answers": "CREATE TABLE answers (key BLOB PRIMARY KEY, value BLOB) WITHOUT ROWID",
    "claims": "CREATE TABLE claims (key BLOB PRIMARY KEY, owner TEXT) WITHOUT ROWID",
}


class AnswerStore:
    """Answers by key, in an SQLite file. A value that cannot be read is reported and counts as absent."""

    def __init__(self, path: Place) -> None:
        self.path = Path(path)
        self._connection: sqlite3.Connection | None = None
        self._process = 0
        self._file: tuple[int, int] | None = None
        self._lock = threading.RLock()

    def get(self, keys: Iterable[bytes]) -> dict[bytes, Any]:
        """The answers that are there, as JSON values."""
        found: dict[bytes, Any] = {}
        with self.transaction("BEGIN") as run:
            for key in keys:
                for (packed,) in run("SELECT value FROM answers WHERE key = ?", (key,)):
                    if isinstance(packed, bytes) and _checksum(packed[4:]) == packed[:4]:
                        found[key] = json.loads(packed[4:])
                    else:
                        _logger.warning("A value in %s is damaged; it is asked again.", self.path)
        return found

    def put(self, key: bytes, value: Any) -> None:
        """Add an answer and end the claim on it."""
        body = json.dumps(value).encode()
        with self.transaction() as run:
            run("INSERT OR REPLACE INTO answers VALUES (?, ?)", (key, _checksum(body) + body))
            run("DELETE FROM claims WHERE key = ?", (key,))

    @contextmanager
    def claim(self, keys: Iterable[bytes]) -> Iterator[set[bytes]]:
        """Those keys that this process may compute now: no other one that still runs has claimed them.

        An answer may have come in meanwhile: look a claimed key up again before computing it.
        """
        owner = new_owner()
        try:
            with self.transaction() as run:
                for (other,) in run("SELECT DISTINCT owner FROM claims").fetchall():
                    if not is_running(other.rpartition(" ")[0]):
                        run("DELETE FROM claims WHERE owner = ?", (other,))
                for key in keys:
                    run("INSERT OR IGNORE INTO claims VALUES (?, ?)", (key, owner))
                mine = {key for (key,) in run("SELECT key FROM claims WHERE owner = ?", (owner,))}
            yield mine
        finally:
            with self.transaction() as run:
                run("DELETE FROM claims WHERE owner = ?", (owner,))

    @contextmanager
    def transaction(self, begin: str = "BEGIN IMMEDIATE") -> Iterator[Callable[..., sqlite3.Cursor]]:
        """Runs statements, all or none."""
        try:
            with self._lock, self._open() as connection:  # commits, or rolls back after an error
                connection.execute(begin)
                yield connection.execute
        except (sqlite3.DatabaseError, OSError) as error:
            if getattr(error, "sqlite_errorcode", 0) & 0xFF in _DAMAGED:
                raise ConfigError(
                    f"The store {str(self.path)!r} is damaged ({error}). Remove it, or name another file; "
                    "its answers are computed again when they are needed."
                ) from error
            raise ConfigError(
                f"The store {str(self.path)!r} cannot be used: {error}. Name another file with `store`, or "
                "'none' for no store."
            ) from error

    def _open(self) -> sqlite3.Connection:
        # a connection must not be used across a fork
        if self._connection is not None and self._process == os.getpid():
            if _file_id(self.path) == self._file:
                return self._connection
            self._complete_moved(self._connection)
        wal = Path(f"{self.path}-wal")
        if wal.exists() and not self.path.exists():
            raise ConfigError(
                f"The store {str(self.path)!r} was moved away while it was in use, and {wal.name} holds a "
                "part of it. Run again once the process that uses it has gone on or ended; if there is "
                f"none, move {wal.name} along under the new name, or remove it."
            )
        self.path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(
            self.path, timeout=_BUSY_SECONDS, check_same_thread=False, isolation_level=None
        )
        weakref.finalize(self, connection.close)  # Python 3.13 warns of one that is only dropped
        self._check_schema(connection)
        _use_wal(connection)
        # in WAL mode NORMAL keeps every commit through a killed process, if not through a power cut
        connection.execute("PRAGMA synchronous=NORMAL")
        with connection:
            connection.execute("BEGIN IMMEDIATE")
            for statement in _SCHEMA.values():
                connection.execute(statement.replace("TABLE", "TABLE IF NOT EXISTS"))
        self._connection, self._process = connection, os.getpid()
        self._file = _file_id(self.path)
        return connection

    def _check_schema(self, connection: sqlite3.Connection) -> None:
        found = dict(connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'table'"))
        if found not in ({}, _SCHEMA):
            connection.close()
            raise ConfigError(
                f"The file {str(self.path)!r} is a database with other tables ({', '.join(found)}), not a "
                "store of hf_cap. Name another file with `store`."
            )

    def _complete_moved(self, connection: sqlite3.Connection) -> None:
        """Write what a moved file lacks into it, and leave it."""
        _logger.warning(
            "The store %s was moved or replaced while it was in use; the moved file holds all answers "
            "so far, and the next ones go to the file that has its name now.", self.path,
        )  # fmt: skip
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.close()
        self._connection = None
        if not self.path.exists():  # SQLite leaves them behind where the file was moved
            for suffix in ("-shm", "-wal"):
                Path(f"{self.path}{suffix}").unlink(missing_ok=True)


def _file_id(path: Path) -> tuple[int, int] | None:
    with suppress(OSError):
        found = path.stat()
        return found.st_dev, found.st_ino
    return None


def _use_wal(connection: sqlite3.Connection) -> None:
    """Switch to WAL mode; SQLite itself does not wait for another process that does so."""
    deadline = time.monotonic() + _BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
        time.sleep(0.02)


def _checksum(body: bytes) -> bytes:
    return zlib.crc32(body).to_bytes(4, "little")


def new_owner() -> str:
    """A name for this process's next claims, by which others can tell whether it still runs."""
    return f"{process_mark()} {uuid.uuid4().hex}"


def _key(*parts: Any) -> bytes:
    """Key of an answer: a hash of everything that determines it, as JSON values."""
    return blake2b(json.dumps(parts).encode(), digest_size=20).digest()


class CachedLanguageModel(LanguageModel):
    """`inner` with a memory.

    Args:
        inner: Gives the answers that are not in the store.
        path: File of the store; created where it does not exist.
        chunk: Questions claimed and computed at a time.
    """

    def __init__(self, inner: LanguageModel, path: Place, *, chunk: int = 1024) -> None:
        self.inner, self.store, self.chunk = inner, AnswerStore(path), chunk
        self._answered = LMStatistics()
        plain = "as_data chat_prompt end_of_turn answer_tokens excess generate_within"
        for name in plain.split():
            setattr(self, name, getattr(inner, name))

    @property
    def fingerprint(self) -> str:
        """That of the model inside."""
        return self.inner.fingerprint

    @property
    def statistics(self) -> LMStatistics:  # type: ignore[override]
        """Those of the model inside, and how many queries it was spared."""
        return self.inner.statistics + self._answered

    def log_probs(self, queries: Sequence[Query], on_result: OnScore | None = None) -> list[Scored]:
        """Look each query up; score and store what is missing. Before an error, answers are kept."""
        name = self.fingerprint
        keys = {q: _key(name, q.prefix + q.body, q.answer) for q in dict.fromkeys(queries)}
        known, asked = self._answers(
            keys, self.inner.log_probs, lambda value: Scored(*map(tuple, value)), on_result, "scores"
        )
        self._answered += LMStatistics(
            queries=len(queries) - len(asked), stored=sum(query not in asked for query in queries)
        )
        return [known[query] for query in queries]

    def generate(
        self, prompts: Sequence[str], sampling: Sampling, on_result: OnReply | None = None
    ) -> list[Reply]:
        """Look each prompt up; ask what is missing, equal prompts once, and store each reply."""
        name = self.fingerprint
        keys = {prompt: _key(name, astuple(sampling), prompt) for prompt in prompts}

        def ask(missing: list[str], keep: OnReply) -> list[Reply]:
            return self.inner.generate(missing, sampling, keep)

        known, _ = self._answers(keys, ask, lambda value: Reply(*value), on_result, "replies")
        return [known[prompt] for prompt in prompts]

    def _answers(
        self,
        keys: Mapping[T, bytes],
        ask: Callable[[list[T], Callable[[T, V], object]], list[V]],
        read: Callable[[Any], V],
        on_result: Callable[[T, V], object] | None,
        unit: str,
    ) -> tuple[dict[T, V], set[T]]:
        """The answer to each item, and the items that the model inside was asked."""
        known: dict[T, V] = {}
        asked: set[T] = set()
        work: Progress | None = None

        def learn(item: T, answer: V) -> None:
            known[item] = answer
            if work:
                work.update()
            if on_result:
                on_result(item, answer)

        def keep(item: T, answer: V) -> None:
            if item not in known:
                self.store.put(keys[item], answer)
                learn(item, answer)

        def look_up(items: Iterable[T]) -> None:
            found = self.store.get(keys[item] for item in items)
            for item in items:
                if keys[item] in found:
                    learn(item, read(found[keys[item]]))

        look_up(keys)
        pause = 0.05
        with progress(len(keys) - len(known), unit, "Language model") as begun:
            work = begun
            while missing := [item for item in keys if item not in known]:
                before = len(known)
                for start in range(0, len(missing), self.chunk):
                    chunk = missing[start : start + self.chunk]
                    with self.store.claim(keys[item] for item in chunk) as mine:
                        look_up(chunk)  # what came in since the last time
                        rest = [item for item in chunk if item not in known and keys[item] in mine]
                        asked.update(rest)
                        for item, answer in zip(rest, ask(rest, keep) if rest else (), strict=True):
                            keep(item, answer)  # for a model that does not call back
                if len(known) == before:
                    _logger.info("Waiting for answers that another process is computing.")
                    time.sleep(pause)
                    pause = min(_LONGEST_PAUSE, 2 * pause)
        return known, asked
