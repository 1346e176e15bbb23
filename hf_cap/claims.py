"""Who does what, among processes that see the same files.

A claim is a file lock: the operating system gives it back when a process dies, however it dies.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout


class Busy(Exception):
    """Another process is at it."""


@contextmanager
def claimed(lock: Path, target: Path, *, wait: bool = False) -> Iterator[None]:
    """Be the only process that works on `target`.

    Args:
        lock: File to lock; its folder is made.
        target: What is to be made, for the message.
        wait: Wait for the other process instead of raising.

    Raises:
        Busy: another process has claimed it.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    held = FileLock(lock, timeout=-1 if wait else 0)
    try:
        held.acquire()
    except Timeout as error:
        raise Busy(f"Another process works on {target}.") from error
    try:
        yield
    finally:
        held.release()
