"""Configuration of `CAPTrainer`."""

from dataclasses import dataclass

from transformers import TrainingArguments
from transformers.trainer_utils import HubStrategy

from hf_cap.errors import ConfigError
from hf_cap.losses import find_loss
from hf_cap.training.options import AlignmentOptions


@dataclass
class CAPConfig(AlignmentOptions, TrainingArguments):
    """Settings of [`CAPTrainer`]: those of `AlignmentOptions` and of `transformers.TrainingArguments`.

    No default of `TrainingArguments` is changed.

    Raises:
        ConfigError: a setting is out of range, or cannot work with differentiated attributions.
    """

    def __post_init__(self) -> None:
        if self.greater_is_better is None and self.metric_for_best_model is not None:
            # `Trainer` takes only names that end in "loss" for losses
            name = self.metric_for_best_model.removeprefix("eval_")
            self.greater_is_better = False if name in ("loss_task", "loss_align") else None
        # A hyperparameter search casts each value to the type of the old one, 0.3 to the integer 0.
        self.alignment_weight = float(self.alignment_weight)
        super().__post_init__()  # type: ignore[no-untyped-call]
        self.check()
        find_loss(self.alignment_loss)
        self.check_publishing()
        if self.alignment_weight:
            self.check_differentiable()

    def check_differentiable(self) -> None:
        """Check the settings that matter where attributions are differentiated.

        Raises:
            ConfigError: a setting cannot work with it.
        """
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
        if self.n_gpu > 1:
            raise ConfigError(
                f"DataParallel over {self.n_gpu} GPUs cannot differentiate attributions. Start the "
                "program with `accelerate launch` (one process per GPU), or show it one GPU by "
                "`CUDA_VISIBLE_DEVICES=0`."
            )

    def check_publishing(self) -> None:
        """Check that `Trainer` does not upload the output folder at each save, whatever the weight.

        Raises:
            ConfigError: `push_to_hub` is set with another strategy than `end`.
        """
        if self.push_to_hub and self.hub_strategy != HubStrategy.END:
            raise ConfigError(
                f"`push_to_hub=True` with `hub_strategy={HubStrategy(self.hub_strategy).value!r}` uploads "
                "the output folder at each save, with pickled arguments, local paths and whatever else is in "
                "it. Set `hub_strategy='end'`, or call `push_to_hub()` after training."
            )
