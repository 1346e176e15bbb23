"""Programs of the tests, started as users start theirs: commands, and programs in several processes."""

import atexit
import io
import os
import sys
from contextlib import redirect_stderr
from pathlib import Path

import torch

from hf_cap.cli import main

ROOT = Path(__file__).parents[1]


def run(*words: object) -> None:
    """A command that succeeds."""
    assert main([str(word) for word in words]) == 0


def refused(*words: object) -> str:
    """The sentence by which a command refuses its input."""
    with redirect_stderr(io.StringIO()) as error:
        assert main([str(word) for word in words]) == 2
    last = error.getvalue().splitlines()[-1]
    assert last.startswith("hf-cap: ")
    return last


def accelerate_launch(processes: int) -> list[str]:
    """`accelerate launch`, to be followed by a program and its arguments.

    With `--cpu` accelerate starts one process whatever the number; `--multi_gpu` starts them all, and
    they find for themselves that there is no GPU (see `environment`).
    """
    several = "--multi_gpu" if processes > 1 else "--cpu"
    return [
        sys.executable, "-m", "accelerate.commands.launch", several, "--num_machines=1",
        f"--num_processes={processes}", "--main_process_port=0", "--mixed_precision=no",
        "--dynamo_backend=no",
    ]  # fmt: skip


def environment(*, gpu: bool = False, **variables: str) -> dict[str, str]:
    """Of a program that finds the tests, takes one thread and (unless `gpu`) sees no GPU."""
    hidden = {} if gpu else {"CUDA_VISIBLE_DEVICES": ""}
    found = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return {**os.environ, **found, **hidden, **variables}


def fail_with_group() -> None:
    """Call this first: a program that ends while it is still in a group of gloo then fails.

    Threads of that group abort the process now and then, as late as when all of its work is done.
    """

    def check() -> None:
        if torch.distributed.is_initialized() and torch.distributed.get_backend() == "gloo":
            sys.stderr.write("still in a process group\n")
            os._exit(1)

    atexit.register(check)  # what is registered later runs earlier
