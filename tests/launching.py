"""Programs of the tests in several processes, started as users start theirs."""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


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
