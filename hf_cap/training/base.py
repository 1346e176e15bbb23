"""What every trainer with an alignment loss shares: β, the logged parts of the loss, publishing."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import find_batch_size
from torch import Tensor, nn
from transformers import EvalPrediction, Trainer, TrainingArguments
from transformers.trainer_utils import EvalLoopOutput, default_compute_objective

from hf_cap.attribution import PerExample, Scalar, WordMask, WordScores
from hf_cap.losses import Loss, alignment_loss, find_loss, without_floor
from hf_cap.training.config import CAPConfig
from hf_cap.training.options import AlignmentOptions, weight_at

OFF = AlignmentOptions(alignment_weight=0.0)
PARTS = ("loss_task", "loss_align", "align_cosine")
DEFAULT_METRICS = ("accuracy", "macro_f1")
PUBLISHED = ".hub"
"""Folder in the output folder with what `push_to_hub` uploads."""


class AlignedTrainer(Trainer):
    """A `Trainer` whose `compute_loss` adds an alignment loss; a subclass defines `compute_loss`.

    It logs `loss_task`, `loss_align` (before β) and `align_cosine`, in evaluation as `eval_...`. Evaluation
    of a classifier gives accuracy and macro-F1, unless there is a `compute_metrics`.

    Args:
        model: As for `Trainer`.
        args: With the settings of `AlignmentOptions`; plain `TrainingArguments` switch the alignment off.
        rest: What follows in the signature of `Trainer`.
        alignment_loss_func: Distance d in place of `alignment_loss`: `(attribution, prior, mask)`, each
            `(batch, words)`, to one value per example `(batch,)`.
        kwargs: All else that `Trainer` takes.

    Raises:
        ConfigError: what is saved while training would be published, or attributions cannot be
            differentiated.
    """

    model: Any
    args: Any

    def __init__(
        self,
        model: nn.Module | None,
        args: TrainingArguments,
        *rest: Any,
        alignment_loss_func: Loss | None = None,
        **kwargs: Any,
    ) -> None:
        self.alignment_loss_func = alignment_loss_func
        if isinstance(args, CAPConfig):  # the settings may have changed since it was made
            args.check_publishing()
            if args.alignment_weight:
                args.check_differentiable()
        super().__init__(model, args, *rest, **kwargs)
        problem = getattr(getattr(self.model, "config", None), "problem_type", None)
        classifies = problem not in ("regression", "multi_label_classification")
        if isinstance(args, AlignmentOptions) and classifies and not args.batch_eval_metrics:
            self.compute_metrics = self.compute_metrics or accuracy_and_macro_f1
        if isinstance(args, AlignmentOptions):
            # Classifiers average over the batch and ignore `num_items_in_batch`, whatever their signature
            # says; without this, accumulation multiplies the loss by its steps (transformers#47688).
            self.model_accepts_loss_kwargs = False
            self.loss_is_scaled_for_ga = self.compute_loss_func is not None
        self._means = {True: RunningMeans(), False: RunningMeans()}

    @property
    def alignment(self) -> AlignmentOptions:
        """The settings of the alignment as they are now; off with plain `TrainingArguments`."""
        return self.args if isinstance(self.args, AlignmentOptions) else OFF

    @property
    def history(self) -> list[dict[str, Any]]:
        """What was logged so far; `None` for a number that is not finite."""
        written = json.dumps(self.state.log_history)
        history: list[dict[str, Any]] = json.loads(written, parse_constant=lambda _: None)
        return history

    def beta(self, training: bool) -> float:
        """β on this step. Evaluation uses the full weight.

        Where `compute_loss_func` has already scaled the task loss for gradient accumulation, β is divided by
        the accumulated batches.
        """
        if not training:
            return self.alignment.alignment_weight
        weight = weight_at(self.alignment, self.state.global_step, self.state.max_steps)
        return weight / (
            self.current_gradient_accumulation_steps if self.loss_is_scaled_for_ga else 1
        )

    def distance(
        self, attribution: WordScores, prior: WordScores, mask: WordMask, weight: PerExample
    ) -> Scalar:
        """Weighted mean over the batch of the distance between attributions and priors."""
        own = self.alignment_loss_func
        loss = find_loss(self.alignment.alignment_loss) if own is None else without_floor(own)
        floor = self.alignment.alignment_norm_floor
        return alignment_loss(loss, attribution, prior, mask, weight, floor)

    def _inner_training_loop(self, batch_size: int | None = None, *args: Any, **kwargs: Any) -> Any:
        # By now the model is made and a search has set its trial's values; no weight is sharded yet.
        self._means[True] = RunningMeans()
        if self.alignment.alignment_weight:
            self.check_alignment()
        return super()._inner_training_loop(batch_size, *args, **kwargs)

    def check_alignment(self) -> None:
        """Validate what the alignment needs before training begins.

        Raises:
            ConfigError: attributions cannot be differentiated with these settings.
        """
        self.args.check_differentiable()

    def record(
        self,
        training: bool,
        inputs: Any,
        task: Tensor,
        align: Tensor | None = None,
        cosine: Tensor | None = None,
        weight: Tensor | None = None,
    ) -> None:
        """Count the parts of a batch's loss for the log; each cosine counts with its weight."""
        means, count = self._means[training], find_batch_size(inputs)
        means.add("loss_task", task, count)
        if align is not None and cosine is not None and weight is not None:
            means.add("loss_align", align, count)
            means.add("align_cosine", cosine, weight)

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> EvalLoopOutput:
        """As `Trainer.evaluation_loop`, with the parts of the loss among the metrics.

        Data without any prior has no `loss_align`: its 0 would mean perfect agreement.
        """
        prefix = kwargs.get("metric_key_prefix", "eval")
        output = super().evaluation_loop(*args, **kwargs)
        parts = self._means[False].flush(self.accelerator.gather, f"{prefix}_")
        if f"{prefix}_align_cosine" not in parts:
            parts.pop(f"{prefix}_loss_align", None)
        return output._replace(metrics={**(output.metrics or {}), **parts})

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As `Trainer.log`, with the parts of the loss beside it."""
        if "loss" in logs:
            logs = {**logs, **self._means[True].flush(self.accelerator.gather)}
        super().log(logs, start_time)

    def hyperparameter_search(
        self, hp_space: Any = None, compute_objective: Any = None, *args: Any, **kwargs: Any
    ) -> Any:
        """As `Trainer.hyperparameter_search`, with a default objective that leaves out the alignment.

        It is the sum of the metrics of a `compute_metrics` of your own, else the task's evaluation loss:
        the whole loss would be least at weight 0, and the parts of a loss are no metrics to add.
        """
        objective = compute_objective or self._objective
        return super().hyperparameter_search(hp_space, objective, *args, **kwargs)

    def _objective(self, metrics: dict[str, float]) -> float:
        default = (*DEFAULT_METRICS,) if self.compute_metrics is accuracy_and_macro_f1 else ()
        left_out = {f"eval_{name}" for name in (*PARTS, *default)}
        kept = {name: value for name, value in metrics.items() if name not in left_out}
        kept["eval_loss"] = metrics.get("eval_loss_task", metrics.get("eval_loss", math.nan))
        objective: float = default_compute_objective(kept)
        return objective

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
        if self.hub_model_id is None:  # named after the output folder, which changes below
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


def accuracy_and_macro_f1(prediction: EvalPrediction) -> dict[str, float]:
    """Share of texts with the right label, and the mean over the labels of F1; both in [0, 1].

    A label that is neither predicted nor true does not count, as in scikit-learn.
    """
    logits, true = prediction.predictions, np.asarray(prediction.label_ids)
    # an encoder-decoder returns hidden states too, after its logits
    predicted = np.asarray(logits[0] if isinstance(logits, tuple) else logits).argmax(-1)
    scores = [
        2 * ((predicted == c) & (true == c)).sum() / ((predicted == c).sum() + (true == c).sum())
        for c in np.union1d(predicted, true)
    ]
    return {"accuracy": float((predicted == true).mean()), "macro_f1": float(np.mean(scores))}


class RunningMeans:
    """Weighted means by name, over steps and processes, kept on the device until they are read."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}

    def add(self, name: str, values: Tensor, weights: Tensor | int) -> None:
        """Count `values` with `weights`, both `(n,)`; or a single value with a single weight."""
        values = values.detach().float()
        weights = torch.as_tensor(weights, device=values.device).detach().float()
        found = torch.stack([(values * weights).sum(), weights.sum()])
        self._sums[name] = self._sums[name] + found if name in self._sums else found

    def flush(self, gather: Callable[[Tensor], Tensor], prefix: str = "") -> dict[str, float]:
        """Means over all processes since the last flush; names without any weight are left out.

        Args:
            gather: Concatenates the tensors of all processes; every process must call.
            prefix: Put before each name.
        """
        result = {}
        for name, found in self._sums.items():
            total, weight = gather(found[None]).reshape(-1, 2).sum(0).tolist()
            if weight > 0:
                result[prefix + name] = total / weight
        self._sums = {}
        return result
