"""Running means of what is logged beside the loss."""

import random
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple, Protocol, cast

import torch
from accelerate.utils import find_batch_size
from datasets import Dataset
from peft import PeftModel
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerBase, Trainer, TrainingArguments
from transformers.trainer import TRAINING_ARGS_NAME
from transformers.trainer_utils import EvalLoopOutput, HubStrategy

from hf_cap.attribution import (
    Explained,
    PerExample,
    Scalar,
    TokenScores,
    common_attention,
    math_attention,
    on_path,
    only_path,
    path_points,
    path_scores,
    pool_words,
    target_score,
)
from hf_cap.attribution import (
    Path as EmbeddingPath,
)
from hf_cap.cards import model_facts, render_card
from hf_cap.classifiers import longest_input
from hf_cap.errors import ConfigError
from hf_cap.schema import AttributionSettings
from hf_cap.training.collator import (
    ALIGNMENT_COLUMNS,
    LABELS,
    CAPCollator,
    Priors,
    encode_dataset,
    take_priors,
)
from hf_cap.training.config import AlignmentOptions, CAPConfig, weight_at
from hf_cap.training.gradient import GRADIENTS, Plan, TokenLoss
from hf_cap.training.losses import alignment_loss, unit
from hf_cap.training.validation import (
    check_batch,
    check_classifier,
    check_encoded,
    check_gradient,
    check_has_prior,
    choose_gradient,
    telling_rows,
)
from hf_cap.utils import finite, versions, write_text


class Meter:
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
            gather: Puts the tensors of all processes one after the other; every process must call.
            prefix: Put before each name.
        """
        result = {}
        for name, found in self._sums.items():
            total, weight = gather(found[None]).reshape(-1, 2).sum(0).tolist()
            if weight > 0:
                result[prefix + name] = total / weight
        self._sums = {}
        return result


# --- The method, whatever is attributed: a second loss that pulls attributions towards a prior.


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


# --- The alignment of one batch of texts: word attributions of the gold label against priors.


@dataclass
class WordAligner:
    """An `Aligner` of word attributions."""

    explained: Explained
    """The bare classifier and its batch. A second pass through DistributedDataParallel would mark its weights
    ready twice, and a compiled pass has no second derivative; the gradients meet in one backward."""
    priors: Priors
    loss: TokenLoss
    plan: Plan
    mode: str | None
    """Gradient mode; `None` in evaluation, where the value is enough."""
    shares: bool = False
    """The path ends at the text itself, and the task's pass serves as that point."""
    _seen: list[EmbeddingPath] = field(default_factory=list)

    @contextmanager
    def sharing(self) -> Iterator[None]:
        """Records the task's pass as a point of the path, where it serves as one."""
        if not self.shares:
            yield
            return
        model, words = self.explained.model, self.explained.words
        with common_attention(model), math_attention(), on_path(model, words) as self._seen:
            yield

    def __call__(self, outputs: Any) -> Alignment:
        """Alignment loss of the batch, with its gradient in training."""
        weight = self.priors.weight
        if self.mode is None and not weight.any():  # nothing is explained where nothing is compared
            return Alignment(weight.new_zeros(()), torch.zeros_like(weight), weight)
        if self.mode is None:
            scores, _ = path_scores(self.explained, self.plan.points, rows=self.plan.rows)
            value = self.loss(scores).detach()
        else:
            plan, shared = self.plan, None
            if self.shares:
                score = target_score(
                    outputs["logits"], self.explained.labels, self.explained.target
                )
                plan, shared = plan.share(score, only_path(self._seen, self.explained.model))
            value, scores = GRADIENTS[self.mode](self.explained, plan, self.loss, shared)
        return Alignment(value, cosine(scores, self.priors), weight)


def make_plan(
    options: AlignmentOptions, explained: Explained, *, seed: int, recompute: bool = False
) -> Plan:
    """Path points of a batch; drawn ones depend on the seed and the texts alone."""
    ids = explained.inputs["input_ids"]
    points = path_points(
        options.attribution_method,
        ids,
        explained.inputs.get("attention_mask", torch.ones_like(ids)),
        steps=options.attribution_steps,
        rule=options.attribution_quadrature,
        seed=seed,
    )
    chosen, count = None, options.attribution_backward_steps
    if count:
        chosen = tuple(sorted(random.Random(seed).sample(range(len(points[1])), count)))
    return Plan(
        points,
        chosen,
        rows=options.attribution_rows or None,
        recompute=recompute,
        step=options.finite_difference_step,
    )


def ends_at_text(options: AlignmentOptions) -> bool:
    """Whether the last point of the path is the text itself."""
    return options.attribution_method == "input_x_gradient" or (
        options.attribution_method == "integrated_gradients"
        and options.attribution_quadrature == "gauss_radau"
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


def cosine(token_scores: TokenScores, priors: Priors) -> PerExample:
    """Cosine of word attributions and prior, in [-1, 1]; 0 without a prior."""
    words = pool_words(token_scores.detach(), priors.token_words, priors.scores.shape[1])
    return (unit(words, priors.mask) * unit(priors.scores, priors.mask)).sum(-1)


# --- The card of a model that was just trained, from what its trainer knows.


_PLAIN = (bool, int, float, str)


def run_record(
    args: Any,
    *,
    base_model: str | None,
    labels: Sequence[str],
    rows: int | None,
    history: Sequence[Mapping[str, float]],
    dataset: str | None = None,
) -> dict[str, Any]:
    """The record of a run, with the names of `run.json`.

    Args:
        args: Its `TrainingArguments`; `CAPConfig` tells the alignment too.
        base_model: What the model was loaded from.
        labels: The label space.
        rows: Training examples.
        history: That of the trainer.
        dataset: Name of the training data.
    """
    aligned = isinstance(args, AlignmentOptions)
    return {
        "model": base_model,
        "seed": args.seed,
        "settings": changed_settings(args),
        "alignment": {name: getattr(args, name) for name in AlignmentOptions.__dataclass_fields__}
        if aligned
        else {},
        "data": {"dataset": dataset, "rows": rows, "labels": list(labels)},
        "history": list(history),
        "versions": versions(),
    }


def write_trainer_card(
    trainer: AlignedTrainer,
    *,
    language: str | None = None,
    license: str | None = None,
    finetuned_from: str | None = None,
    dataset: str | None = None,
    model_name: str | None = None,
    **_: Any,
) -> None:
    """Write the card of a trainer's model into its output folder.

    Args:
        trainer: After training.
        language: Of the texts, as on the Hub.
        license: Of the model.
        finetuned_from: What the model was loaded from; its own record by default.
        dataset: Name of the training data.
        model_name: Title of the card.
        _: What else `Trainer.create_model_card` takes, which this card has no place for.
    """
    config: Any = trainer.model.config
    data = trainer.train_dataset
    record = run_record(
        trainer.args,
        base_model=finetuned_from or getattr(config, "_name_or_path", None),
        labels=[config.id2label[index] for index in sorted(config.id2label)],
        rows=len(data) if isinstance(data, Dataset) else None,
        history=trainer.history,
        dataset=dataset,
    )
    write_card(
        str(trainer.args.output_dir),
        record,
        adapter=isinstance(trainer.model, PeftModel),
        name=model_name,
        repo_id=getattr(trainer, "hub_model_id", None),
        language=language,
        license=license,
    )


def write_card(folder: str, record: Mapping[str, Any], *, name: str | None, **known: Any) -> None:
    """Write the card of a record to `README.md`.

    The pickled training arguments leave the folder, which is about to be published: they hold local
    paths, and the card tells the settings.

    Args:
        folder: Where the model was saved.
        record: Of its run.
        name: Title of the card.
        known: Further arguments of `model_facts`.
    """
    (Path(folder) / TRAINING_ARGS_NAME).unlink(missing_ok=True)
    facts = model_facts(record, name=name or Path(folder).name, **known)
    write_text(Path(folder) / "README.md", render_card(facts))


def changed_settings(args: Any) -> dict[str, Any]:
    """Plain settings whose value is not the default of their field."""
    return {
        item.name: value
        for item in fields(args)
        if item.default is not MISSING
        and isinstance(value := getattr(args, item.name), _PLAIN)
        and value != item.default
    }


# --- `CAPTrainer`: a `Trainer` that also aligns the classifier's word attributions with priors.


class CAPTrainer(AlignedTrainer):
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
        rest: What follows in the signature of `Trainer`.
        kwargs: All else that `Trainer` takes.

    Raises:
        ConfigError: the settings cannot work together.
        DataError: a data set is malformed, or (when training begins) is tokenised without its words.
        PriorError: a prior does not fit its text.
        ModelError: the model or tokenizer cannot be aligned.
    """

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
        *rest: Any,
        **kwargs: Any,
    ) -> None:
        args = CAPConfig(output_dir="tmp_trainer") if args is None else args
        tokenizes = isinstance(processing_class, PreTrainedTokenizerBase)
        if data_collator is None and tokenizes and isinstance(args, AlignmentOptions):
            data_collator = CAPCollator(processing_class)
        data = (data_collator, train_dataset, eval_dataset, processing_class)
        super().__init__(model, args, *data, *rest, **kwargs)
        self._admit(self.model)
        self.gradient_mode = self._mode() if self.alignment.alignment_weight else None
        if self._is_raw(self.train_dataset):
            check_has_prior(self.train_dataset, self.alignment)
        self.train_dataset = self._encoded(self.train_dataset, "training")
        if isinstance(self.eval_dataset, dict):
            self.eval_dataset = {
                name: self._encoded(data, name) for name, data in self.eval_dataset.items()
            }
        else:
            self.eval_dataset = self._encoded(self.eval_dataset, "evaluation")

    # --- the method: `AlignedTrainer.compute_loss` with this aligner ----------------------------------

    def aligner(
        self, model: nn.Module, inputs: dict[str, Any]
    ) -> tuple[dict[str, Any], Aligner | None]:
        """The classifier's inputs, and the alignment of the words of a batch that has priors."""
        if self.alignment.alignment_weight and model.training:
            check_batch(inputs)
        inputs, priors = take_priors(inputs)
        if priors is None or not self.alignment.alignment_weight:
            return inputs, None
        step = self.state.global_step if model.training else 0  # evaluation: the same points always
        return inputs, self._words(model, inputs, priors, step, training=model.training)

    def _words(
        self, model: nn.Module, inputs: dict[str, Any], priors: Priors, step: int, *, training: bool
    ) -> WordAligner:
        bare = self.accelerator.unwrap_model(model, keep_torch_compile=False)
        tensors = {name: value for name, value in inputs.items() if name != LABELS}
        target = self.alignment.attribution_target
        explained = Explained(bare, tensors, inputs[LABELS], priors.token_words, target)
        checkpointed = bool(self.args.activation_checkpointing)
        seed = (self.args.seed * 1_000_003 + step) % 2**31
        # a compiled pass has no second derivative, and a checkpointed one is made again without the hook
        plain = not (self.args.torch_compile or checkpointed)
        exact = training and self.gradient_mode == "double_backward"
        return WordAligner(
            explained,
            priors,
            token_loss(self.alignment, priors),
            make_plan(self.alignment, explained, seed=seed, recompute=checkpointed),
            self.gradient_mode if training else None,
            shares=exact and plain and ends_at_text(self.alignment),
        )

    # --- before training ------------------------------------------------------------------------------

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """As `Trainer.train`; first tries the alignment gradient on a few examples.

        Raises:
            AlignmentError: the gradient is blocked or not finite; the message says where.
            DataError: the data set is tokenised, but not with its words.
            PriorError: no text has a prior.
        """
        if self.alignment.alignment_weight and isinstance(self.train_dataset, Dataset):
            check_encoded(self.train_dataset)
            self._try_gradient(self.train_dataset)
        return super().train(*args, **kwargs)

    def _try_gradient(self, dataset: Dataset) -> None:
        device = next(self.model.parameters()).device
        rows = telling_rows(dataset)
        if device.type == "meta" or not rows:
            return
        batch = self.data_collator(rows)
        inputs, priors = take_priors({name: value.to(device) for name, value in batch.items()})
        if priors is None:
            return
        aligner = self._words(self.model, inputs, priors, 0, training=True)
        check_gradient(str(self.gradient_mode), aligner.explained, aligner.plan, aligner.loss)

    def call_model_init(self, trial: Any = None) -> nn.Module:
        """As `Trainer.call_model_init`, for a model that can be aligned."""
        model = super().call_model_init(trial)
        self._admit(model)
        return model

    def _admit(self, model: Any) -> None:
        """Refuse a model that cannot be aligned; write into its configuration how it is aligned."""
        if self.alignment.alignment_weight:
            check_classifier(model)
            # travels with the weights, so that the model is later explained as it was aligned
            model.config.update(AttributionSettings.of_alignment(vars(self.alignment)).entry())

    def _mode(self) -> str:
        """The gradient mode, after refusing DataParallel."""
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
            mixed_precision=self.accelerator.mixed_precision,
        )

    # --- data -----------------------------------------------------------------------------------------

    def _is_raw(self, dataset: Any) -> bool:
        """Whether a data set holds texts, and there is what encodes them."""
        able = isinstance(self.processing_class, PreTrainedTokenizerBase)
        texts = isinstance(dataset, Dataset) and "input_ids" not in dataset.column_names
        return able and texts and isinstance(self.args, CAPConfig)

    def _encoded(self, dataset: Any, name: str, *, labelled: bool = True) -> Any:
        """A raw data set of texts, encoded; anything else as it is."""
        if not self._is_raw(dataset):
            return dataset
        tokenizer, options = cast(PreTrainedTokenizerBase, self.processing_class), self.alignment
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

    def _set_signature_columns_if_needed(self) -> None:
        if self._signature_columns is None:
            super()._set_signature_columns_if_needed()
            if self.alignment.alignment_weight:
                columns = [*(self._signature_columns or []), *ALIGNMENT_COLUMNS]
                self._signature_columns = columns

    def create_model_card(
        self, language: str | None = None, license: str | None = None, *args: Any, **kwargs: Any
    ) -> None:
        """Write the card of the model into the output folder. Arguments: those of `Trainer` by name."""
        if self.is_world_process_zero():
            write_trainer_card(self, language=language, license=license, **kwargs)
