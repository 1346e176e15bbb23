"""Who does what, among processes that share a folder.

A claim is a file lock: the operating system gives it back when a process dies, however it dies.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout


class Busy(Exception):
    """Another process is at it."""


@contextmanager
def claim(target: Path, *, wait: bool = False) -> Iterator[None]:
    """Be the only process that works on `target`.

    Args:
        target: File or folder that is to be made; the lock lies in a folder `.locks` beside it.
        wait: Wait for the other process instead of raising.

    Raises:
        Busy: another process has claimed it.
    """
    locks = target.parent / ".locks"
    locks.mkdir(parents=True, exist_ok=True)
    name = hashlib.sha256(target.name.encode()).hexdigest()[:16]
    lock = FileLock(locks / f"{name}.lock", timeout=-1 if wait else 0)
    try:
        lock.acquire()
    except Timeout as error:
        raise Busy(f"Another process works on {target}.") from error
    try:
        yield
    finally:
        lock.release()
