"""Configuration of `LAATTrainer`."""

import math
from dataclasses import dataclass

from ..errors import ConfigError
from ..options import option
from ..training.config import CAPConfig
from ..training.settings import Reduction
from .settings import LAATOptions

EPOCHS, STEPS = 200, 5_000
"""How long a run is by default: so many passes through a small table, or so many steps where it is large."""


@dataclass
class LAATConfig(LAATOptions, CAPConfig):
    """Settings of [`LAATTrainer`]: those of `LAATOptions` and of `CAPConfig`.

    The paper's form of the alignment is the default: γ = 100 times the squared distance of unit vectors, as a
    mean over the features, on every step. A small model starts from nothing and trains in seconds: learning
    rate, epochs and batch differ from those of fine-tuning, twenty lines are logged, and no checkpoint is
    written. Settings about words, texts and paths have no meaning here.

    Raises:
        ConfigError: a setting is out of range, or cannot work for tables.
    """

    alignment_weight: float = option(
        100.0,
        "Weight γ of the alignment term; at least 0. At 0 the trainer is the plain `Trainer`.",
    )
    alignment_reduction: Reduction = option(
        "mean", "Sum or mean of the squared distance over the features; `mse` alone has both."
    )
    alignment_every: int = option(1, "Align on every n-th optimizer step, with n times the weight.")
    learning_rate: float = option(1e-2, "Learning rate of AdamW.")
    num_train_epochs: float = option(
        -1.0,
        f"Passes through the training rows. -1: {EPOCHS}, on a large table what {STEPS:,} steps come to.",
    )
    per_device_train_batch_size: int = option(64, "Rows of a step.")
    per_device_eval_batch_size: int = option(1024, "Rows evaluated at a time.")
    logging_steps: float = option(
        0.05, "Steps between two lines of the log; below 1 as a share of all steps."
    )
    save_strategy: str = option(
        "no",
        "When to write a checkpoint to resume from, `steps` or `epoch`; the model is written anyway.",
    )
    dataloader_pin_memory: bool = option(
        False, "Page-locked memory for copies to a GPU; not worth it for rows."
    )

    def __post_init__(self) -> None:
        if self.alignment_loss != "mse" and self.alignment_reduction == "mean":
            self.alignment_reduction = "sum"  # the default here, which the other losses have not
        super().__post_init__()
        if self.alignment_gradient == "finite_difference":
            raise ConfigError(
                "`alignment_gradient='finite_difference'` is for large text models. A small tabular model "
                "always differentiates its input gradient; leave it out."
            )

    def epochs(self, rows: int) -> float:
        """Passes through a table of so many rows: what was asked for, else what the default comes to."""
        if self.num_train_epochs >= 0:
            return self.num_train_epochs
        at_once: int = self.train_batch_size * self.world_size * self.gradient_accumulation_steps
        return min(EPOCHS, STEPS / math.ceil(rows / at_once))
