"""Freed memory: kept by the command line, and only there."""

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="a matter of glibc")

FAULTS = """
import resource, torch
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.ones(10_000_000)  # glibc by itself keeps no block over 32 MiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(faults())
"""
PAGES = 20 * 40_000_000 // 4096


def faults(before: str, **environment: str) -> int:
    """Pages that 20 blocks of 40 MB cost after running `before`."""
    clean = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("MALLOC_", "GLIBC_TUNABLES"))
    }
    done = subprocess.run(
        [sys.executable, "-c", before + FAULTS],
        env=clean | {"OMP_NUM_THREADS": "1"} | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return int(done.stdout.split()[-1])


KEEP = "from hf_cap.utils import keep_freed_memory; keep_freed_memory()\n"


def test_importing_the_package_changes_nothing() -> None:
    assert faults("import hf_cap\n") > PAGES // 2


def test_freed_memory_is_kept() -> None:
    assert faults(KEEP) < PAGES // 100


def test_every_command_keeps_it() -> None:
    assert faults("from hf_cap.cli import main; main(['env'])\n") < PAGES // 100


def test_children_keep_it() -> None:
    child = "import os, sys; os.execv(sys.executable, [sys.executable, '-c', CODE])"
    assert faults(f"{KEEP}CODE = {FAULTS!r}\n{child}\n") < PAGES // 100


def test_settings_of_the_user_hold() -> None:
    """The threshold is the user's, beyond which every block is mapped anew."""
    assert faults(KEEP, MALLOC_MMAP_THRESHOLD_="1000000") > PAGES // 2
