"""`CAPTrainer`: a `Trainer` that also aligns the classifier's word attributions with priors."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerBase, Trainer, TrainingArguments
from transformers.trainer_utils import EvalLoopOutput

from ..attribution import (
    Explained,
    Path,
    math_attention,
    on_path,
    only_path,
    path_points,
    path_scores,
    pool_words,
    target_score,
)
from ..classifiers import longest_input
from ..errors import ConfigError
from ..explanation import Explanation
from ..schema import PRIOR
from .card import run_record, write_card
from .checks import check_classifier, check_gradient, choose_gradient, telling_rows
from .config import CAPConfig
from .data import (
    ALIGNMENT_COLUMNS,
    LABELS,
    PRIOR_WEIGHT,
    TOKEN_WORDS,
    CAPCollator,
    Priors,
    encode_dataset,
    take_priors,
)
from .gradient import GRADIENTS, Plan, TokenLoss
from .losses import alignment_loss, unit
from .meter import Meter
from .settings import AlignmentOptions, weight_at


class CAPTrainer(Trainer):
    """Trains a text classifier so that its word attributions agree with priors.

        loss = task loss + β · mean over the batch of distance(word attributions of the gold label, prior)

    Data sets may be raw (`text`, `label`, `prior`; encoded on construction, by the main process first) or
    encoded by `encode_dataset`. With `alignment_weight=0` it is the plain `Trainer`.

    It logs `loss_task`, `loss_align` (before the weight) and `align_cosine`, the mean cosine of attributions
    and priors in [-1, 1]; evaluation reports the same as `eval_...`.

    Args:
        model: A sequence classifier with a single label a text.
        args: A `CAPConfig`; plain `TrainingArguments` switch the alignment off.
        data_collator: `CAPCollator` by default.
        train_dataset: Raw or encoded.
        eval_dataset: Raw or encoded, or a dict of those.
        processing_class: The classifier's fast tokenizer.
        kwargs: All else that `Trainer` takes.

    Raises:
        ConfigError: the settings cannot work together.
        DataError: a raw data set is malformed.
        PriorError: a prior does not fit its text.
        ModelError: the model or tokenizer cannot be aligned.
    """

    model: Any
    train_dataset: Any
    _signature_columns: Any

    def __init__(
        self,
        model: nn.Module | None = None,
        args: TrainingArguments | None = None,
        data_collator: Any = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: Any = None,
        **kwargs: Any,
    ) -> None:
        args = CAPConfig(output_dir="tmp_trainer") if args is None else args
        self.alignment = (
            args if isinstance(args, AlignmentOptions) else AlignmentOptions(alignment_weight=0.0)
        )
        if data_collator is None and isinstance(processing_class, PreTrainedTokenizerBase):
            data_collator = CAPCollator(processing_class)
        super().__init__(
            model, args, data_collator, train_dataset, eval_dataset, processing_class, **kwargs
        )
        if isinstance(args, AlignmentOptions):
            # Classifiers average over the batch and ignore `num_items_in_batch`, whatever their signature
            # says; without this, accumulation multiplies the loss by its steps (transformers#47688).
            self.model_accepts_loss_kwargs = False
            self.loss_is_scaled_for_ga = self.compute_loss_func is not None
        self.gradient_mode = self._checked() if self.alignment.alignment_weight else None
        if self.alignment.alignment_weight:
            # travels with the weights, so that the model is later explained as it was aligned
            self.model.config.update(Explanation.of_alignment(vars(self.alignment)).entry())
        self._meters = {True: Meter(), False: Meter()}
        self.train_dataset = self._encoded(self.train_dataset, "training")
        if isinstance(self.eval_dataset, dict):
            self.eval_dataset = {
                name: self._encoded(data, name) for name, data in self.eval_dataset.items()
            }
        else:
            self.eval_dataset = self._encoded(self.eval_dataset, "evaluation")

    # --- the method ---------------------------------------------------------------------------------

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Task loss + weight · alignment loss."""
        inputs, priors = take_priors(inputs)
        if not self.alignment.alignment_weight or priors is None:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        weight = self._weight(model.training)
        explained = self._explained(model, inputs, priors)
        with self._sharing(explained, model.training and weight > 0) as seen:
            loss, outputs = super().compute_loss(model, dict(inputs), True, num_items_in_batch)
        self._record(model.training, "loss_task", loss.expand(len(priors.weight)))
        if weight:
            align, token_scores = self._align(explained, priors, seen, outputs, model.training)
            self._record(model.training, "loss_align", align.expand(len(priors.weight)))
            self._record(
                model.training, "align_cosine", cosine(token_scores, priors), priors.weight
            )
            loss = loss + weight * align / self._parts_of_step(model.training)
        return (loss, outputs) if return_outputs else loss

    def _align(
        self, explained: Explained, priors: Priors, seen: list[Path], outputs: Any, training: bool
    ) -> tuple[Tensor, Tensor]:
        """Alignment loss of a batch, with its gradient in training, and the token scores."""
        loss = token_loss(self.alignment, priors)
        with torch.enable_grad():  # evaluation runs under no_grad, yet an attribution is a gradient
            if training:
                plan, shared = self._plan(explained, self.state.global_step), None
                if self._shares_pass:
                    score = target_score(outputs["logits"], explained.labels, explained.target)
                    plan, shared = plan.share(score, only_path(seen, explained.model))
                return GRADIENTS[str(self.gradient_mode)](explained, plan, loss, shared)
            plan = self._plan(explained, 0)  # the same points always
            token_scores, _ = path_scores(explained, plan.points, rows=plan.rows)
            return loss(token_scores).detach(), token_scores.detach()

    # --- its parts ----------------------------------------------------------------------------------

    def _weight(self, training: bool) -> float:
        """β on this step; 0 on the steps that are left out. Evaluation always aligns."""
        if not training:
            return self.alignment.alignment_weight
        return weight_at(self.alignment, self.state.global_step, self.state.max_steps)

    def _parts_of_step(self, training: bool) -> int:
        """What to divide by where `compute_loss_func` has already scaled the task loss for accumulation."""
        return (
            self.current_gradient_accumulation_steps
            if training and self.loss_is_scaled_for_ga
            else 1
        )

    def _explained(self, model: nn.Module, inputs: dict[str, Any], priors: Priors) -> Explained:
        # Passes through the bare classifier: a second pass through DistributedDataParallel would mark its
        # weights ready twice, a compiled one has no second derivative. The gradients meet in one backward.
        bare = self.accelerator.unwrap_model(model, keep_torch_compile=False)
        tensors = {name: value for name, value in inputs.items() if name != LABELS}
        return Explained(
            bare, tensors, inputs[LABELS], priors.token_words, self.alignment.attribution_target
        )

    def _plan(self, explained: Explained, step: int) -> Plan:
        """Path points of a batch on an optimizer step; drawn ones depend on seed, step and text alone."""
        options, ids = self.alignment, explained.inputs["input_ids"]
        seed = (self.args.seed * 1_000_003 + step) % 2**31
        points = path_points(
            options.attribution_method,
            ids,
            explained.inputs.get("attention_mask", torch.ones_like(ids)),
            steps=options.attribution_steps,
            rule=options.attribution_quadrature,
            seed=seed,
        )
        chosen = None
        if options.attribution_backward_steps:
            draw = random.Random(seed).sample(
                range(len(points[1])), options.attribution_backward_steps
            )
            chosen = tuple(sorted(draw))
        return Plan(
            points,
            chosen,
            rows=options.attribution_rows or None,
            recompute=bool(self.args.activation_checkpointing),
            step=options.finite_difference_step,
        )

    @property
    def _shares_pass(self) -> bool:
        """Whether the path ends at the text itself and the task's pass can serve as that point.

        A compiled pass has no second derivative, and a checkpointed one is made again without the hook.
        """
        options, args = self.alignment, self.args
        at_text = options.attribution_method == "input_x_gradient" or (
            options.attribution_method == "integrated_gradients"
            and options.attribution_quadrature == "gauss_radau"
        )
        plain = not (args.torch_compile or args.activation_checkpointing)
        return at_text and plain and self.gradient_mode == "double_backward"

    @contextmanager
    def _sharing(self, explained: Explained, aligning: bool) -> Iterator[list[Path]]:
        """Records the task's pass as a point of the path, where it serves as one."""
        if not (aligning and self._shares_pass):
            yield []
            return
        with math_attention(), on_path(explained.model, explained.words) as seen:
            yield seen

    def _record(
        self, training: bool, name: str, values: Tensor, weights: Tensor | None = None
    ) -> None:
        self._meters[training].add(
            name, values, torch.ones_like(values) if weights is None else weights
        )

    # --- what Trainer asks for ------------------------------------------------------------------------

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """As `Trainer.train`; first tries the alignment gradient on a few examples.

        Raises:
            AlignmentError: the gradient is blocked or not finite; the message says where.
        """
        if self.alignment.alignment_weight and isinstance(self.train_dataset, Dataset):
            self._try_gradient(self.train_dataset)
        return super().train(*args, **kwargs)

    def _try_gradient(self, dataset: Dataset) -> None:
        device = next(self.model.parameters()).device
        if device.type == "meta" or TOKEN_WORDS not in dataset.column_names:
            return
        some = dataset.select(range(min(64, len(dataset))))
        rows = telling_rows(some[PRIOR], some[PRIOR_WEIGHT])
        if not rows:
            return
        batch = self.data_collator([some[row] for row in rows])
        inputs, priors = take_priors({name: value.to(device) for name, value in batch.items()})
        if priors is None:
            return
        explained = self._explained(self.model, inputs, priors)
        check_gradient(
            str(self.gradient_mode),
            explained,
            self._plan(explained, 0),
            token_loss(self.alignment, priors),
        )

    def _checked(self) -> str:
        """The gradient mode, after refusing what cannot be aligned."""
        check_classifier(self.model)
        if self.args.n_gpu > 1:
            raise ConfigError(
                f"DataParallel over {self.args.n_gpu} GPUs cannot differentiate attributions. Start the "
                "program with `accelerate launch` (one process a GPU), or show it one GPU by "
                "`CUDA_VISIBLE_DEVICES=0`."
            )
        return choose_gradient(
            self.alignment.alignment_gradient,
            self.model,
            fsdp=self.is_fsdp_enabled,
            deepspeed=self.is_deepspeed_enabled,
        )

    def _encoded(self, dataset: Any, name: str, *, labelled: bool = True) -> Any:
        """A raw data set of texts, encoded; anything else as it is."""
        tokenizer, options = self.processing_class, self.alignment
        raw = isinstance(dataset, Dataset) and "input_ids" not in dataset.column_names
        if (
            not raw
            or not isinstance(tokenizer, PreTrainedTokenizerBase)
            or not isinstance(self.args, CAPConfig)
        ):
            return dataset
        with self.args.main_process_first(desc=f"encoding the {name} set"):
            return encode_dataset(
                dataset,
                tokenizer,
                self.model.config.label2id,
                word_pattern=options.word_pattern,
                max_length=options.max_length or longest_input(self.model, tokenizer),
                prior_column=options.prior_column,
                weight_column=options.prior_weight_column,
                labelled=labelled,
                name=name,
            )

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader[Any]:
        """As `Trainer.get_eval_dataloader`, for a raw data set too."""
        return super().get_eval_dataloader(self._encoded(eval_dataset, "evaluation"))

    def get_test_dataloader(self, test_dataset: Any) -> DataLoader[Any]:
        """As `Trainer.get_test_dataloader`, for a raw data set too; labels are not needed."""
        return super().get_test_dataloader(self._encoded(test_dataset, "test", labelled=False))

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> Any:
        """As `Trainer.prediction_step`; without labels there is nothing to align."""
        if LABELS not in inputs:
            inputs, _ = take_priors(inputs)
        return super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)

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

    def _set_signature_columns_if_needed(self) -> None:
        if self._signature_columns is None:
            super()._set_signature_columns_if_needed()
            self._signature_columns = [*(self._signature_columns or []), *ALIGNMENT_COLUMNS]

    def create_model_card(
        self, language: str | None = None, license: str | None = None, *args: Any, **kwargs: Any
    ) -> None:
        """Write the card of the model into the output folder. Arguments: those of `Trainer` by name."""
        if self.is_world_process_zero():
            config = self.model.config
            record = run_record(
                self.args,
                base_model=kwargs.get("finetuned_from") or getattr(config, "_name_or_path", None),
                labels=[config.id2label[index] for index in sorted(config.id2label)],
                rows=len(self.train_dataset) if isinstance(self.train_dataset, Dataset) else None,
                history=self.state.log_history,
                dataset=kwargs.get("dataset"),
            )
            write_card(
                str(self.args.output_dir),
                record,
                name=kwargs.get("model_name"),
                repo_id=getattr(self, "hub_model_id", None),
                language=language,
                license=license,
            )


def token_loss(options: AlignmentOptions, priors: Priors) -> TokenLoss:
    """The alignment loss of a batch as a function of its token scores."""

    def loss(token_scores: Tensor) -> Tensor:
        return alignment_loss(
            options.alignment_loss,
            pool_words(token_scores, priors.token_words, priors.scores.shape[1]),
            priors.scores,
            priors.mask,
            priors.weight,
            reduction=options.alignment_reduction,
            floor=options.alignment_norm_floor,
        )

    return loss


def cosine(token_scores: Tensor, priors: Priors) -> Tensor:
    """Cosine of word attributions and prior, `(batch,)` in [-1, 1]; 0 without a prior."""
    words = pool_words(token_scores.detach(), priors.token_words, priors.scores.shape[1])
    return (unit(words, priors.mask) * unit(priors.scores, priors.mask)).sum(-1)
