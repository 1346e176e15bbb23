"""Claims on what a benchmark makes in its folder."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hf_cap.priors.extract import claimed


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
    with claimed(room / ".locks" / f"{name}.lock", target, wait=wait):
        yield
