"""Trains a tiny classifier in however many processes it is launched in: a test's program."""

import sys
from pathlib import Path
from typing import Any

import torch

from tests.training.cases import trainer


def main(folder: Path, settings: list[str]) -> None:
    options: dict[str, Any] = {
        name: int(value) if value.isdigit() else value
        for name, value in (s.split("=") for s in settings)
    }
    subject = trainer(folder, max_steps=2, seed=7, ddp_backend="gloo", **options)
    subject.train()
    subject.accelerator.wait_for_everyone()
    state = subject.accelerator.get_state_dict(subject.model_wrapped)
    if subject.is_world_process_zero():
        torch.save({name: value.clone() for name, value in state.items()}, folder / "weights.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
