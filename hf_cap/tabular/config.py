"""Configuration of `LAATTrainer`."""

from dataclasses import dataclass

from ..errors import ConfigError
from ..options import option
from ..training.config import CAPConfig
from ..training.settings import Reduction
from .settings import LAATOptions


@dataclass
class LAATConfig(LAATOptions, CAPConfig):
    """Settings of [`LAATTrainer`]: those of `LAATOptions` and of `CAPConfig`.

    The paper's form of the alignment is the default: γ = 100 times the squared distance of unit vectors, as a
    mean over the features, on every step. A small model starts from nothing, so that learning rate and epochs
    differ from those of fine-tuning. Settings about words, texts and paths have no meaning here.

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
    num_train_epochs: float = option(200.0, "Passes through the training rows.")

    def __post_init__(self) -> None:
        if self.alignment_loss != "mse" and self.alignment_reduction == "mean":
            self.alignment_reduction = "sum"  # the default here, which the other losses have not
        super().__post_init__()
        if self.alignment_gradient == "finite_difference":
            raise ConfigError(
                "`alignment_gradient='finite_difference'` is for large text models. A small tabular model "
                "always differentiates its input gradient; leave it out."
            )
