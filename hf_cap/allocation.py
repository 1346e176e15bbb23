"""What the C library does with freed memory: large tensors on a CPU come and go."""

import ctypes
import os
import sys

_THRESHOLDS = {
    "MALLOC_MMAP_THRESHOLD_": (-3, 128 * 2**20),
    "MALLOC_TRIM_THRESHOLD_": (-1, 2**30),
}
"""Variables of glibc, each with the number of the same parameter of `mallopt`, and its value in bytes."""


def keep_freed_memory() -> None:
    """Let this process and its children keep the memory of freed tensors for the next ones.

    glibc gives freed blocks of some size back to the system, so that every pass of a model has its memory
    mapped and zeroed anew, page by page (docs/scoring.md has what that costs). Kept are at most 1 GiB and
    no block over 128 MiB.

    Where the user has settings for malloc, or the C library is not glibc, nothing changes. This holds for
    the whole process; so command lines call it, and functions of the package do not.
    """
    chosen = any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ)
    if chosen or sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return
    for name, (parameter, size) in _THRESHOLDS.items():
        mallopt(parameter, size)
        os.environ[name] = str(size)
