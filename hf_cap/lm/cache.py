"""Nothing is asked twice: a language model that keeps its answers in an SQLite file.

Several processes may share the file. What one of them is computing is claimed there, and the others wait
for it instead of paying for the same again. An answer is written as soon as it is there, so a process that
is killed at any moment loses at most what was in flight.
"""

import json
import logging
import os
import platform
import sqlite3
import threading
import time
import uuid
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import astuple
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from hf_cap.lm.base import (
    LanguageModel,
    LMStatistics,
    OnReply,
    OnScore,
    Query,
    Reply,
    Sampling,
    Scored,
)

_logger = logging.getLogger(__name__)
T = TypeVar("T")
V = TypeVar("V")

_BUSY_SECONDS = 60.0
_LOOKUP = 500
"""Keys per SELECT; SQLite allows 999 parameters in old builds."""
_FOREIGN_SECONDS = 600.0
"""Age at which a claim from another machine counts as abandoned: its process cannot be looked up here."""
_LONGEST_PAUSE = 1.0


class AnswerStore:
    """Answers by key, in an SQLite file.

    A file that is no database, or a damaged one, is reported, moved aside and begun anew; a single value
    that cannot be read is reported and counts as absent.

    Args:
        path: The file; created where it does not exist.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._connection: sqlite3.Connection | None = None
        self._process = 0
        self._lock = threading.RLock()

    def get(self, keys: Iterable[bytes]) -> dict[bytes, Any]:
        """The answers that are there, as JSON values."""
        found: dict[bytes, Any] = {}
        for some in chunks(keys, _LOOKUP):
            for key, packed in self._select("SELECT key, value FROM answers WHERE key IN", some):
                body = packed[4:]
                if zlib.crc32(body).to_bytes(4, "little") == packed[:4]:
                    found[key] = json.loads(body)
                else:
                    _logger.warning("A value in %s is damaged; it is computed again.", self.path)
        return found

    def put(self, values: Mapping[bytes, Any]) -> None:
        """Add answers, all or none, and end the claims on them; answers of the same key are replaced."""
        bodies = {key: json.dumps(value).encode() for key, value in values.items()}
        rows = [(k, zlib.crc32(b).to_bytes(4, "little") + b) for k, b in bodies.items()]
        with self._transaction() as connection:
            connection.executemany("INSERT OR REPLACE INTO answers VALUES (?, ?)", rows)
            connection.executemany("DELETE FROM claims WHERE key = ?", [(key,) for key in values])

    def claim(self, keys: Sequence[bytes], owner: str) -> set[bytes]:
        """The keys that `owner` may compute now: no live owner has claimed them.

        An answer may have come in meanwhile: look a claimed key up once more before computing it.
        """
        with self._transaction() as connection:
            for other, since in connection.execute(
                "SELECT owner, min(time) FROM claims GROUP BY 1"
            ):
                if not _alive(other, since):
                    connection.execute("DELETE FROM claims WHERE owner = ?", (other,))
            rows = [(key, owner, time.time()) for key in keys]
            connection.executemany("INSERT OR IGNORE INTO claims VALUES (?, ?, ?)", rows)
            mine = connection.execute("SELECT key FROM claims WHERE owner = ?", (owner,))
            return {key for (key,) in mine}

    def release(self, owner: str) -> None:
        """End all claims of `owner`."""
        with self._transaction() as connection:
            connection.execute("DELETE FROM claims WHERE owner = ?", (owner,))

    def close(self) -> None:
        """Close the file; it opens again by itself."""
        if self._connection is not None and self._process == os.getpid():
            self._connection.close()
        self._connection = None

    def _select(self, statement: str, values: Sequence[bytes]) -> list[tuple[bytes, bytes]]:
        marks = ",".join("?" * len(values))
        with self._lock:
            try:
                return self._open().execute(f"{statement} ({marks})", values).fetchall()
            except sqlite3.DatabaseError as error:
                self._set_aside(error)
                return []

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            connection = self._open()
            connection.execute("BEGIN IMMEDIATE")
            with connection:  # commits, or rolls back after an error
                yield connection

    def _open(self) -> sqlite3.Connection:
        # a connection must not be used across a fork
        if self._connection is None or self._process != os.getpid():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            try:
                self._connection = _connect(self.path)
            except sqlite3.DatabaseError as error:
                self._set_aside(error)
                self._connection = _connect(self.path)
            self._process = os.getpid()
        return self._connection

    def _set_aside(self, error: sqlite3.DatabaseError) -> None:
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


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(
        path, timeout=_BUSY_SECONDS, check_same_thread=False, isolation_level=None
    )
    try:
        _use_wal(connection)
        # in WAL mode NORMAL keeps every commit through a killed process; only a power cut may lose the last
        connection.execute("PRAGMA synchronous=NORMAL")
        (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            error = sqlite3.DatabaseError(verdict)
            error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
            raise error
        for table in (
            "answers (key BLOB PRIMARY KEY, value BLOB NOT NULL)",
            "claims (key BLOB PRIMARY KEY, owner TEXT NOT NULL, time REAL NOT NULL)",
        ):
            connection.execute(f"CREATE TABLE IF NOT EXISTS {table} WITHOUT ROWID")
    except sqlite3.DatabaseError:
        connection.close()
        raise
    return connection


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


def new_owner() -> str:
    """A name for this process's next claims, by which others can tell whether it still runs."""
    return json.dumps([platform.node(), os.getpid(), _started(os.getpid()), uuid.uuid4().hex])


def _alive(owner: str, since: float) -> bool:
    """Whether the process that made a claim still runs."""
    node, pid, started, _ = json.loads(owner)
    if node != platform.node() or os.name != "posix":
        return time.time() - since < _FOREIGN_SECONDS
    with suppress(PermissionError):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
    return bool(_started(pid) == started)


def _started(pid: int) -> str:
    """When a process started, so that its number used again is told apart; empty where not known."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if state in "ZX" else fields[18]  # killed, but not yet collected by its parent


def key_of(*parts: Any) -> bytes:
    """Key of an answer: a hash of everything that determines it, as JSON values."""
    return blake2b(json.dumps(parts).encode(), digest_size=20).digest()


def chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """The items in lists of `size`, the last one perhaps shorter."""
    rest = iter(items)
    while chunk := list(islice(rest, size)):
        yield chunk


class CachedLanguageModel(LanguageModel):
    """`inner` with a memory.

    Args:
        inner: Gives the answers that are not in the store.
        path: File of the store; created where it does not exist.
        chunk: Questions claimed and computed at a time.
    """

    def __init__(
        self, inner: LanguageModel, path: str | os.PathLike[str], *, chunk: int = 1024
    ) -> None:
        self.inner = inner
        self.store = AnswerStore(path)
        self.chunk = chunk
        self._answered = LMStatistics()

    @property
    def fingerprint(self) -> str:
        """That of the model inside."""
        return self.inner.fingerprint

    @property
    def statistics(self) -> LMStatistics:  # type: ignore[override]
        """Those of the model inside, and how many queries it was spared."""
        return self.inner.statistics + self._answered

    def log_probs(self, queries: Sequence[Query], on_result: OnScore | None = None) -> list[Scored]:
        """Look each query up; score and store what is missing.

        Raises:
            ExtractError: the model inside cannot score a query; what came before it is kept.
        """
        name = self.fingerprint
        keys = {q: key_of(name, q.prefix + q.body, q.answer) for q in dict.fromkeys(queries)}
        known, asked = self._answers(keys, self.inner.log_probs, _scored, on_result)
        self._answered += LMStatistics(
            queries=len(queries) - len(asked), stored=sum(query not in asked for query in queries)
        )
        return [known[query] for query in queries]

    def generate(
        self, prompts: Sequence[str], sampling: Sampling, on_result: OnReply | None = None
    ) -> list[Reply]:
        """Look each prompt up; ask what is missing, equal prompts once, and store each reply."""
        name = self.fingerprint
        keys = {prompt: key_of(name, astuple(sampling), prompt) for prompt in prompts}

        def ask(missing: list[str], keep: OnReply) -> list[Reply]:
            return self.inner.generate(missing, sampling, keep)

        known, _ = self._answers(keys, ask, lambda value: Reply(*value), on_result)
        return [known[prompt] for prompt in prompts]

    def _answers(
        self,
        keys: Mapping[T, bytes],
        ask: Callable[[list[T], Callable[[T, V], object]], list[V]],
        read: Callable[[Any], V],
        on_result: Callable[[T, V], object] | None,
    ) -> tuple[dict[T, V], set[T]]:
        """The answer to each item, and the items that the model inside was asked."""
        known: dict[T, V] = {}
        asked: set[T] = set()

        def learn(item: T, answer: V) -> None:
            known[item] = answer
            if on_result:
                on_result(item, answer)

        def keep(item: T, answer: V) -> None:
            self.store.put({keys[item]: astuple(answer) if isinstance(answer, Scored) else answer})
            learn(item, answer)

        def look_up(items: Sequence[T]) -> None:
            found = self.store.get([keys[item] for item in items])
            for item in items:
                if keys[item] in found:
                    learn(item, read(found[keys[item]]))

        look_up(list(keys))
        owner, pause = new_owner(), 0.05
        while missing := [item for item in keys if item not in known]:
            before = len(known)
            for chunk in chunks(missing, self.chunk):
                try:
                    mine = self.store.claim([keys[item] for item in chunk], owner)
                    look_up(chunk)  # what came in since the last time
                    rest = [item for item in chunk if item not in known and keys[item] in mine]
                    asked.update(rest)
                    for item, answer in zip(rest, ask(rest, keep) if rest else (), strict=True):
                        if item not in known:  # the model does not call back
                            keep(item, answer)
                finally:
                    self.store.release(owner)
            if len(known) == before:
                _logger.info("Waiting for answers that another process is computing.")
                time.sleep(pause)
                pause = min(_LONGEST_PAUSE, 2 * pause)
        return known, asked

    def chat_prompt(self, user: str) -> str | None:
        """That of the model inside."""
        return self.inner.chat_prompt(user)

    def answer_tokens(self, answer: str) -> tuple[int, ...]:
        """Those of the model inside."""
        return self.inner.answer_tokens(answer)

    def end_of_turn(self) -> str | None:
        """That of the model inside."""
        return self.inner.end_of_turn()

    def excess(self, query: Query) -> int:
        """That of the model inside."""
        return self.inner.excess(query)


def _scored(value: tuple[list[float], list[int]]) -> Scored:
    log_probs, starts = value
    return Scored(tuple(log_probs), tuple(starts))
