"""Configuration of `CAPTrainer`."""

from dataclasses import dataclass

from transformers import TrainingArguments

from ..errors import ConfigError
from .settings import AlignmentOptions


@dataclass
class CAPConfig(AlignmentOptions, TrainingArguments):
    """Settings of [`CAPTrainer`]: those of `AlignmentOptions` and of `transformers.TrainingArguments`.

    No default of `TrainingArguments` is changed.

    Raises:
        ConfigError: a setting is out of range, or cannot work with differentiated attributions.
    """

    def __post_init__(self) -> None:
        super().__post_init__()  # type: ignore[no-untyped-call]
        self.check()
        if not self.alignment_weight:
            return
        checkpointing = self.activation_checkpointing_kwargs
        if isinstance(checkpointing, dict) and checkpointing.get("use_reentrant"):
            raise ConfigError(
                "Reentrant gradient checkpointing refuses the gradient that an attribution is. Set "
                "`activation_checkpointing_kwargs={'use_reentrant': False}`, or leave it out."
            )
        if self.ddp_static_graph:
            raise ConfigError(
                "`ddp_static_graph=True` gives wrong gradients, without an error, when an attribution is "
                "differentiated. Leave it out."
            )
        if self.mixed_precision == "fp16":  # by `fp16=True`, or by accelerate's own configuration
            raise ConfigError(
                "Mixed precision 'fp16' scales the loss, which overflows in the gradient of an attribution. "
                "Use 'bf16' or 'no': instead of `fp16=True` give `bf16=True` or neither, and in the "
                "configuration of accelerate change `mixed_precision`."
            )
