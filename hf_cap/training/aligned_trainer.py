"""The method, whatever is attributed: a second loss that pulls attributions towards a prior."""

import shutil
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from accelerate.utils import find_batch_size
from torch import Tensor, nn
from transformers import Trainer, TrainingArguments
from transformers.trainer_utils import EvalLoopOutput, HubStrategy

from ..errors import ConfigError
from ..files import finite
from ..types import Scalar
from .meter import Meter
from .settings import AlignmentOptions, weight_at

PUBLISHED = ".hub"
"""Folder in the output folder with what `push_to_hub` uploads."""


class Alignment(NamedTuple):
    """How far the attributions of a batch are from their priors."""

    loss: Scalar
    """Before the weight β. In training its gradient reaches the model's weights."""
    cosine: Tensor
    """Cosines of attribution and prior in [-1, 1], `(n,)`: one an example, or a single one for the batch."""
    weight: Tensor
    """What each cosine counts in the mean that is logged, `(n,)`; 0 without a prior."""


class Aligner(Protocol):
    """The alignment of one batch."""

    def sharing(self) -> AbstractContextManager[object]:
        """Open during the task's forward pass, for what the attribution can take from it."""

    def __call__(self, outputs: Any) -> Alignment:
        """Align, after the task's forward pass gave `outputs`; gradients are enabled."""


class AlignedTrainer(Trainer):
    """A `Trainer` with a second loss on attributions; with weight 0 it is the plain one.

        loss = task loss + β · alignment loss

    A subclass says by `aligner` what is attributed and compared. Here is the rest: the course of β, gradient
    accumulation, and the logs `loss_task`, `loss_align` (before β) and `align_cosine`, also of evaluation.

    Args:
        model: As for `Trainer`.
        args: With the settings of `AlignmentOptions`; plain `TrainingArguments` switch the alignment off.
        rest: What follows in the signature of `Trainer`.
        kwargs: All else that `Trainer` takes.

    Raises:
        ConfigError: what is saved while training would be published.
    """

    model: Any

    def __init__(
        self, model: nn.Module | None, args: TrainingArguments, *rest: Any, **kwargs: Any
    ) -> None:
        self.alignment = (
            args if isinstance(args, AlignmentOptions) else AlignmentOptions(alignment_weight=0.0)
        )
        if isinstance(args, AlignmentOptions):
            _check_publishing(args)
        super().__init__(model, args, *rest, **kwargs)
        if isinstance(args, AlignmentOptions):
            # Classifiers average over the batch and ignore `num_items_in_batch`, whatever their signature
            # says; without this, accumulation multiplies the loss by its steps (transformers#47688).
            self.model_accepts_loss_kwargs = False
            self.loss_is_scaled_for_ga = self.compute_loss_func is not None
        self._meters = {True: Meter(), False: Meter()}

    @property
    def history(self) -> list[dict[str, Any]]:
        """What was logged so far; `None` for a number that is not finite, such as the norm of a lost step."""
        return finite(self.state.log_history)

    def aligner(
        self, model: nn.Module, inputs: dict[str, Any]
    ) -> tuple[dict[str, Any], Aligner | None]:
        """Divide a batch into what the model takes and how to align it.

        The second is `None` where there is nothing to align: no prior in the batch, or a weight β of 0.

        Args:
            model: The wrapped model, in training or evaluation mode.
            inputs: A batch of the collator, on the device.
        """
        raise NotImplementedError

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Task loss + weight · alignment loss."""
        inputs, aligner = self.aligner(model, inputs)
        if aligner is None:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        weight = self._weight(model.training)
        with aligner.sharing() if weight else nullcontext():
            loss, outputs = super().compute_loss(model, dict(inputs), True, num_items_in_batch)
        self._meters[model.training].add("loss_task", loss, find_batch_size(inputs))
        if weight:
            # evaluation runs under no_grad, yet an attribution is a gradient
            with torch.enable_grad():
                found = aligner(outputs)
            self._meters[model.training].add("loss_align", found.loss, find_batch_size(inputs))
            self._meters[model.training].add("align_cosine", found.cosine, found.weight)
            loss = loss + weight * found.loss / self._parts_of_step(model.training)
        return (loss, outputs) if return_outputs else loss

    def _weight(self, training: bool) -> float:
        """β on this step; 0 on the steps that are left out. Evaluation always aligns."""
        if not training:
            return self.alignment.alignment_weight
        return weight_at(self.alignment, self.state.global_step, self.state.max_steps)

    def _parts_of_step(self, training: bool) -> int:
        """What to divide by where `compute_loss_func` has already scaled the task loss for accumulation."""
        scaled = training and self.loss_is_scaled_for_ga
        return self.current_gradient_accumulation_steps if scaled else 1

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> EvalLoopOutput:
        """As `Trainer.evaluation_loop`, with the parts of the loss among the metrics.

        Of data without any prior there is no `loss_align`: its 0 would be that of perfect agreement.
        """
        prefix = kwargs.get("metric_key_prefix", "eval")
        output = super().evaluation_loop(*args, **kwargs)
        parts = self._meters[False].flush(self.accelerator.gather, f"{prefix}_")
        if f"{prefix}_align_cosine" not in parts:
            parts.pop(f"{prefix}_loss_align", None)
        return output._replace(metrics={**(output.metrics or {}), **parts})

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As `Trainer.log`, with the parts of the loss beside it."""
        if "loss" in logs:
            logs = {**logs, **self._meters[True].flush(self.accelerator.gather)}
        super().log(logs, start_time)

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """As `Trainer.push_to_hub`, of the model, its tokenizer and its card, and of nothing else.

        The output folder may hold training texts (in a tracker's log) and records of earlier runs, so what is
        published is written anew, into the folder `.hub` in it.
        """
        if self.hub_model_id is None:  # named after the output folder, so before that is another
            self.init_hf_repo(token, private)
        place = self.args.output_dir
        folder = Path(str(place)) / PUBLISHED
        if self.is_world_process_zero():
            shutil.rmtree(folder, ignore_errors=True)
        self.args.output_dir = str(folder)
        try:
            kwargs.setdefault("model_name", str(self.hub_model_id).split("/")[-1])
            return super().push_to_hub(commit_message, blocking, token, revision, private, **kwargs)
        finally:
            self.args.output_dir = place


def _check_publishing(args: TrainingArguments) -> None:
    """Refuse to publish at each save, when `Trainer` uploads the output folder as it is.

    Raises:
        ConfigError: `push_to_hub` is set with another strategy than `end`.
    """
    if args.push_to_hub and args.hub_strategy != HubStrategy.END:
        raise ConfigError(
            f"`push_to_hub=True` with `hub_strategy={HubStrategy(args.hub_strategy).value!r}` uploads "
            "the output folder at each save, with pickled arguments, local paths and whatever else lies in "
            "it. Give `hub_strategy='end'`, or call `push_to_hub()` after training."
        )
