"""The method, whatever is attributed: a second loss that pulls attributions towards a prior."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple, Protocol

import torch
from accelerate.utils import find_batch_size
from torch import Tensor, nn
from transformers import Trainer, TrainingArguments
from transformers.trainer_utils import EvalLoopOutput

from ..types import Scalar
from .meter import Meter
from .settings import AlignmentOptions, weight_at


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
    """

    model: Any

    def __init__(
        self, model: nn.Module | None, args: TrainingArguments, *rest: Any, **kwargs: Any
    ) -> None:
        self.alignment = (
            args if isinstance(args, AlignmentOptions) else AlignmentOptions(alignment_weight=0.0)
        )
        super().__init__(model, args, *rest, **kwargs)
        if isinstance(args, AlignmentOptions):
            # Classifiers average over the batch and ignore `num_items_in_batch`, whatever their signature
            # says; without this, accumulation multiplies the loss by its steps (transformers#47688).
            self.model_accepts_loss_kwargs = False
            self.loss_is_scaled_for_ga = self.compute_loss_func is not None
        self._meters = {True: Meter(), False: Meter()}

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
        """As `Trainer.evaluation_loop`, with the parts of the loss among the metrics."""
        prefix = kwargs.get("metric_key_prefix", "eval")
        output = super().evaluation_loop(*args, **kwargs)
        parts = self._meters[False].flush(self.accelerator.gather, f"{prefix}_")
        return output._replace(metrics={**(output.metrics or {}), **parts})

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As `Trainer.log`, with the parts of the loss beside it."""
        if "loss" in logs:
            logs = {**logs, **self._meters[True].flush(self.accelerator.gather)}
        super().log(logs, start_time)
