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
def claim(room: Path, target: Path, *, wait: bool = False) -> Iterator[None]:
    """Be the only process that works on `target`.

    Args:
        room: Folder of the benchmark; the locks lie in `.locks` there.
        target: File or folder in it that is to be made.
        wait: Wait for the other process instead of raising.

    Raises:
        Busy: another process has claimed it.
    """
    name = hashlib.sha256(target.relative_to(room).as_posix().encode()).hexdigest()[:16]
    locks = room / ".locks"
    locks.mkdir(parents=True, exist_ok=True)
    lock = FileLock(locks / f"{name}.lock", timeout=-1 if wait else 0)
    try:
        lock.acquire()
    except Timeout as error:
        raise Busy(f"Another process works on {target}.") from error
    try:
        yield
    finally:
        lock.release()
