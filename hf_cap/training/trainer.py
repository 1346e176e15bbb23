"""`CAPTrainer`: a `Trainer` that also aligns the classifier's word attributions with priors."""

import atexit
import json
import math
import random
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import find_batch_size
from datasets import Dataset
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerBase, Trainer, TrainingArguments
from transformers.trainer_utils import EvalLoopOutput, default_compute_objective

from hf_cap import losses
from hf_cap.attribution import (
    Scalar,
    TextBatch,
    TokenScores,
    WordScores,
    pad_token,
    path_points,
    path_scores,
    pool_words,
    random_uniform,
)
from hf_cap.cards import write_trainer_card
from hf_cap.classifiers import add_adapters, longest_input, new_classifier
from hf_cap.data import add_label_texts, label_names
from hf_cap.errors import DataError, PriorError
from hf_cap.labels import ClassifierOptions, label_phrases
from hf_cap.loading import check_tokens
from hf_cap.schema import CALIBRATION, PRIOR, TEXT, AttributionSettings, find_prior_column
from hf_cap.training import collator, examples, validation
from hf_cap.training.callbacks import FinishClassifier
from hf_cap.training.collator import LABELS, CAPCollator, Priors, take_priors
from hf_cap.training.config import DEFAULT_METRICS, PARTS, CAPConfig, accuracy_and_macro_f1
from hf_cap.training.examples import drop_words, keep_probability, version_sampler
from hf_cap.training.gradient import double_backward, finite_difference
from hf_cap.training.options import AlignmentOptions, weight_at

OFF = AlignmentOptions(alignment_weight=0.0)


class AlignedTrainer(Trainer):
    """A `Trainer` with an alignment loss; a subclass defines `compute_loss`.

    It logs `loss_task`, `loss_align` (before β) and `align_cosine`, in evaluation as `eval_...`. Evaluation
    of a classifier gives accuracy and macro-F1, unless there is a `compute_metrics`.

    Its arguments are those of `Trainer`, where `args` is a `CAPConfig` (plain `TrainingArguments` switch the
    alignment off), and `alignment_loss_func`: a distance d in place of `alignment_loss`, from
    `(attribution, prior, mask)`, each `(batch, words)`, to `(batch,)`. Settings that cannot work together
    raise `ConfigError`.
    """

    model: Any
    args: Any

    def __init__(
        self,
        model: nn.Module | None,
        args: TrainingArguments,
        *rest: Any,
        alignment_loss_func: losses.Loss | None = None,
        **kwargs: Any,
    ) -> None:
        self.alignment_loss_func = alignment_loss_func
        self._sums: dict[bool, dict[str, Tensor]] = {True: {}, False: {}}  # by training or not
        if isinstance(args, CAPConfig):  # the settings may have changed since it was made
            args.check_set_up()
        super().__init__(model, args, *rest, **kwargs)
        if PartialState().backend == "gloo":  # its threads may abort a process that ends while they run
            atexit.register(PartialState().destroy_process_group)
        if not isinstance(args, CAPConfig):
            return
        # Classifiers average over the batch and ignore `num_items_in_batch`, whatever their signature says;
        # without this, accumulation multiplies the loss by its steps (transformers#47688).
        self.model_accepts_loss_kwargs = False
        self.loss_is_scaled_for_ga = self.compute_loss_func is not None
        problem = getattr(getattr(self.model, "config", None), "problem_type", None)
        validation.check_weighted(args, problem, self.compute_loss_func)
        if problem not in validation.OTHER_PROBLEMS and not args.batch_eval_metrics:
            self.compute_metrics = self.compute_metrics or accuracy_and_macro_f1
        validation.check_best(args, bool(self.compute_metrics))

    @property
    def alignment(self) -> AlignmentOptions:
        """The settings of the alignment as they are now; off with plain `TrainingArguments`."""
        return self.args if isinstance(self.args, AlignmentOptions) else OFF

    @property
    def history(self) -> Any:
        """The lines logged so far; `None` for a number that is not finite."""
        return json.loads(json.dumps(self.state.log_history), parse_constant=lambda _: None)

    def beta(self, training: bool) -> float:
        """β on this step; in evaluation all of it, and before a sum over accumulated batches its part."""
        if not training:
            return self.alignment.alignment_weight
        weight = weight_at(self.alignment, self.state.global_step, self.state.max_steps)
        scaled = self.loss_is_scaled_for_ga
        return weight / self.current_gradient_accumulation_steps if scaled else weight

    def compute_loss(
        self, model: nn.Module, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The task loss, in training with the weights of the examples."""
        given, labels = inputs.pop(examples.EXAMPLE_WEIGHT, None), inputs.get(LABELS)
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        if model.training and getattr(self.args, "weighs_examples", False):
            loss = examples.weigh_task(loss, outputs["logits"], labels, given, self)
        return (loss, outputs) if return_outputs else loss

    def distance(self, attribution: Tensor, prior: Tensor, mask: Tensor, weight: Tensor) -> Scalar:
        """Weighted mean over the batch of the distance between attributions and priors."""
        own, options = self.alignment_loss_func, self.alignment
        loss = losses.without_floor(own) if own else losses.find_loss(options.alignment_loss)
        floor = options.alignment_norm_floor
        return losses.alignment_loss(loss, attribution, prior, mask, weight, floor)

    def _inner_training_loop(self, batch_size: int | None = None, *args: Any, **kwargs: Any) -> Any:
        # By now the model is made and a search has set its trial's values; no weight is sharded yet.
        self._sums[True] = {}
        if hasattr(self.model, "config"):
            vars(self.model.config).pop(CALIBRATION, None)  # that of the model before training
        if self.alignment.alignment_weight:
            self.check_alignment()
        return super()._inner_training_loop(batch_size, *args, **kwargs)

    def check_alignment(self) -> None:
        """Validate what the alignment needs before training begins, or raise `ConfigError`."""
        self.args.check_set_up()

    def record(self, training: bool, inputs: Any, task: Tensor, *aligned: Tensor) -> None:
        """Count the parts of a batch's loss for the log.

        `aligned` are the alignment loss, the cosines and the weights that these count with, if any.
        """
        count = torch.tensor(float(find_batch_size(inputs)), device=task.device)
        parts = [(task, count)]
        if aligned:
            align, cosine, weight = aligned
            parts += [(align, count), (cosine, weight)]
        for name, (values, weights) in zip(PARTS, parts, strict=False):
            values, weights = values.detach().float(), weights.detach().float()
            found = torch.stack([(values * weights).sum(), weights.sum()])
            sums = self._sums[training]
            sums[name] = sums[name] + found if name in sums else found

    def _means(self, training: bool, prefix: str = "") -> dict[str, float]:
        """Means over all processes since the last call; those without any weight are left out."""
        sums, self._sums[training] = self._sums[training], {}
        pairs = {n: self.accelerator.gather(one[None]).sum(0).tolist() for n, one in sums.items()}
        return {prefix + n: total / weight for n, (total, weight) in pairs.items() if weight > 0}

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> EvalLoopOutput:
        """As `Trainer.evaluation_loop`, with the parts of the loss among the metrics.

        Data without any prior has no `loss_align`: its 0 would mean perfect agreement.
        """
        prefix = kwargs.get("metric_key_prefix", "eval")
        output = super().evaluation_loop(*args, **kwargs)
        parts = self._means(False, f"{prefix}_")
        if f"{prefix}_align_cosine" not in parts:
            parts.pop(f"{prefix}_loss_align", None)
        return output._replace(metrics={**(output.metrics or {}), **parts})

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As `Trainer.log`, with the parts of the loss beside it."""
        if "loss" in logs:
            logs = {**logs, **self._means(True)}
        super().log(logs, start_time)

    def hyperparameter_search(
        self, hp_space: Any = None, compute_objective: Any = None, *args: Any, **kwargs: Any
    ) -> Any:
        """As `Trainer.hyperparameter_search`, with a default objective that leaves out the alignment.

        It is the sum of your own metrics, else the task's evaluation loss: the whole is least at weight 0.
        """
        objective = compute_objective or self._objective
        return super().hyperparameter_search(hp_space, objective, *args, **kwargs)

    def _objective(self, metrics: dict[str, float]) -> float:
        default = DEFAULT_METRICS if self.compute_metrics is accuracy_and_macro_f1 else ()
        left_out = {f"eval_{name}" for name in (*PARTS, *default)}
        kept = {name: value for name, value in metrics.items() if name not in left_out}
        kept["eval_loss"] = metrics.get("eval_loss_task", metrics.get("eval_loss", math.nan))
        return float(default_compute_objective(kept))

    def push_to_hub(self, *args: Any, **kwargs: Any) -> Any:
        """As `Trainer.push_to_hub`, of the model, its tokenizer and its card, and of nothing else.

        The output folder may hold texts (in a tracker's log) and earlier runs, so what is published is
        written anew, into the folder `.hub` in it.
        """
        place = Path(str(self.args.output_dir)).absolute()
        if self.is_world_process_zero():
            shutil.rmtree(place / ".hub", ignore_errors=True)
        folder, self.args.output_dir = self.args.output_dir, str(place / ".hub" / place.name)
        try:
            return super().push_to_hub(*args, **kwargs)
        finally:
            self.args.output_dir = folder


class CAPTrainer(AlignedTrainer):
    """Trains a text classifier so that its word attributions agree with priors.

        L = L_task + β · mean over the batch of d(word attributions of the gold label, prior)

    Data sets may be raw (`text`, `label` and a prior column; encoded on construction, by the main process
    first) or encoded by `encode_dataset`. With `alignment_weight=0` it is the plain `Trainer`. What it logs
    says `AlignedTrainer`; the cosine is that of attributions and priors, in [-1, 1].

    Args:
        model: A sequence classifier with a single label per text, or the name of a model (Hub id, folder or
            embedded name) that gets a head for the labels of the training set.
        args: A `CAPConfig`; plain `TrainingArguments` switch the alignment off.
        data_collator: `CAPCollator` by default.
        train_dataset: Raw or encoded.
        eval_dataset: Raw or encoded, or a dict of those.
        processing_class: The classifier's fast tokenizer; by default that of a model given by name.
        rest: What follows in the signature of `Trainer`.
        peft_config: Trains adapters of this `peft` configuration instead of all weights.
        kwargs: All else that `AlignedTrainer` takes, `alignment_loss_func` for instance.

    Raises:
        ConfigError: the settings cannot work together.
        DataError: a data set is malformed, or (when training begins) is tokenised without its words.
        PriorError: a prior does not fit its text.
        ModelError: the model or tokenizer cannot be aligned.
        MissingExtra: `peft_config` is given and peft is not installed.
    """

    train_dataset: Any
    _signature_columns: Any

    def __init__(
        self,
        model: nn.Module | str | None = None,
        args: TrainingArguments | None = None,
        data_collator: Any = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: Any = None,
        *rest: Any,
        peft_config: Any = None,
        **kwargs: Any,
    ) -> None:
        args = CAPConfig(output_dir="tmp_trainer") if args is None else args
        fresh: Sequence[str] = ()
        loaded: Any = model
        if isinstance(model, str):
            if not isinstance(train_dataset, Dataset):
                raise DataError(
                    f"The model {model!r} gets a head for the labels of `train_dataset`, got "
                    f"{type(train_dataset).__name__}; give a `Dataset` with a `ClassLabel` column."
                )
            options = args if isinstance(args, ClassifierOptions) else None
            labels = label_names(train_dataset, at_least=2)
            loaded, tokenizer, fresh = new_classifier(model, labels, options)
            processing_class = processing_class or tokenizer
        if peft_config is not None and loaded is not None:
            loaded = add_adapters(loaded, peft_config, fresh)
        tokenizes = isinstance(processing_class, PreTrainedTokenizerBase)
        if data_collator is None and tokenizes and isinstance(args, CAPConfig):
            data_collator = CAPCollator(processing_class)
        self.gradient_mode: str | None = None
        self._prior_column = getattr(args, "prior_column", None) or PRIOR
        self._collates = data_collator is not None
        data = (data_collator, train_dataset, eval_dataset, processing_class)
        super().__init__(loaded, args, *data, *rest, **kwargs)
        if self.alignment.alignment_weight:
            self._admit(self.model)
        if FinishClassifier.is_asked(args):
            self.add_callback(FinishClassifier(self))
        self.train_dataset = self._encoded(self.train_dataset, "training")
        sets = self.eval_dataset
        several = isinstance(sets, dict) and {n: self._encoded(data, n) for n, data in sets.items()}
        self.eval_dataset = several or self._encoded(sets, "evaluation")

    # --- the method

    def compute_loss(
        self, model: nn.Module, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """L = L_task + β · d(word attributions, prior)."""
        beta = self.beta(model.training)
        dropout = self.alignment.word_dropout if model.training else 0
        if (beta and model.training) or dropout:
            validation.check_aligned(inputs, "training batch")
        (inputs, prior), seed = take_priors(inputs), self.draw_seed(True)
        read = self.leave_words_out(inputs, prior, seed) if dropout and prior else inputs
        loss, outputs = super().compute_loss(model, dict(read), True, num_items_in_batch)
        if beta and prior is not None:
            # evaluation runs under no_grad, yet an attribution is a gradient
            with torch.enable_grad():
                aligned, chosen = self.aligned_rows(inputs, prior, model.training)
                align_loss, attribution = self.align(model, aligned, chosen)
            unit = partial(losses.unit, mask=chosen.mask)
            cosine = (unit(attribution) * unit(chosen.scores)).sum(-1)
            self.record(model.training, inputs, loss, align_loss, cosine, chosen.weight)
            loss = loss + beta * align_loss
        elif self.alignment.alignment_weight and prior is not None:
            self.record(model.training, inputs, loss)
        return (loss, outputs) if return_outputs else loss

    def draw_seed(self, training: bool) -> int:
        """Seed of what is random on this step; evaluation always draws the same."""
        step = self.state.global_step if training else 0
        return int(self.args.seed * 1_000_003 + step) % 2**31

    def leave_words_out(self, inputs: dict[str, Any], prior: Priors, seed: int) -> dict[str, Any]:
        """The inputs without some words; see `drop_words`."""
        high, saturation = self.alignment.word_dropout, self.alignment.word_dropout_saturation
        keep = keep_probability(prior.scores, prior.mask, high, saturation)
        return drop_words(inputs, prior.token_words, keep, pad=pad_token(self.model), seed=seed)

    def aligned_rows(
        self, inputs: dict[str, Any], prior: Priors, training: bool
    ) -> tuple[dict[str, Any], Priors]:
        """The rows of a batch that are aligned on this step: in training a part, at least one."""
        ids, fraction = inputs["input_ids"], self.alignment.alignment_fraction
        if fraction == 1 or not training:
            return inputs, prior
        mask = inputs.get("attention_mask", torch.ones_like(ids))
        drawn = random_uniform(ids, mask, 1, self.draw_seed(True))[0]
        rows = drawn.argsort()[: math.ceil(fraction * len(ids))]
        chosen = {name: value[rows] for name, value in inputs.items()}
        return chosen, Priors(*(part[rows] for part in prior))

    def align(self, model: nn.Module, inputs: Mapping[str, Any], prior: Priors) -> tuple[Scalar, WordScores]:
        """Distance between word attributions of the gold labels and priors, and these attributions.

        The attribution makes passes of its own through the bare model: a second pass through
        DistributedDataParallel would mark its weights ready twice, and a compiled pass has no second
        derivative. In training the gradient of the distance reaches the model's weights.
        """
        options, ids, width = self.alignment, inputs["input_ids"], prior.scores.shape[1]
        # sharded weights are gathered in each pass, by all processes together
        sharded = self.is_fsdp_enabled or self.is_deepspeed_enabled
        if not (model.training or sharded or prior.weight.any()):
            return prior.weight.new_zeros(()), torch.zeros_like(prior.scores)
        bare = self.accelerator.unwrap_model(model, keep_torch_compile=False)
        # random points, and those that carry the gradient, depend on seed and texts alone
        seed = self.draw_seed(model.training)
        other = (LABELS, examples.EXAMPLE_WEIGHT)
        tensors = {name: value for name, value in inputs.items() if name not in other}
        batch = TextBatch(tensors, inputs[LABELS], prior.token_words, options.attribution_target)
        mask = inputs.get("attention_mask", torch.ones_like(ids))
        steps, rule = options.attribution_steps, options.attribution_quadrature
        method, rows = options.attribution_method, options.attribution_rows or None
        points = path_points(method, ids, mask, steps=steps, rule=rule, seed=seed)

        def distance(scores: TokenScores) -> Scalar:
            return self.distance(pool_words(scores, prior.token_words, width), *prior[1:])

        if model.training:
            count, passes = options.attribution_backward_steps, range(len(points[1]))
            drawn = random.Random(seed).sample(passes, min(count, len(passes)))
            chosen = sorted(drawn) or None
            gradient = self.gradient(bare)
            loss, scores = gradient(bare, batch, points, distance, chosen=chosen, rows=rows)
        else:
            scores, _ = path_scores(bare, batch, points, rows=rows)
            loss = distance(scores).detach()
        return loss, pool_words(scores.detach(), prior.token_words, width)

    def gradient(self, model: nn.Module) -> Callable[..., tuple[Scalar, TokenScores]]:
        """The gradient function of `alignment_gradient`, chosen once per training."""
        options = self.alignment
        if self.gradient_mode is None:
            deepspeed = "DeepSpeed" if self.is_deepspeed_enabled else None
            self.gradient_mode = validation.choose_gradient(
                options.alignment_gradient,
                model,
                sharded_by="FSDP" if self.is_fsdp_enabled else deepspeed,
                mixed_precision=self.accelerator.mixed_precision,
            )
        if self.gradient_mode == "double_backward":
            return double_backward
        recompute = bool(self.args.activation_checkpointing)
        return partial(finite_difference, step=options.finite_difference_step, recompute=recompute)

    # --- before training

    def check_alignment(self) -> None:
        """Validate settings, model and data, and try the alignment gradient; see `validation`."""
        super().check_alignment()
        self._admit(self.model)
        if not isinstance(self.train_dataset, Dataset):
            return
        rows, device = (validation.probe_batch(self.train_dataset), next(self.model.parameters()).device)
        if device.type == "meta" or not rows:
            return
        batch = self.data_collator(rows)
        inputs, prior = take_priors({name: value.to(device) for name, value in batch.items()})
        if prior is not None:
            align = partial(self.align, self.model.train(), inputs, prior)
            validation.check_gradient(str(self.gradient_mode), self.model, align)

    def _admit(self, model: Any) -> None:
        """Validate a model, choose its gradient, and write into its configuration how it is aligned."""
        validation.check_classifier(model)
        # travels with the weights, so that the model is later explained as it was aligned
        model.config.update(AttributionSettings.of_alignment(vars(self.alignment)).entry())
        self.gradient_mode = None  # a search may have changed the settings
        self.gradient(model)

    # --- data

    def _encoded(self, dataset: Any, name: str, *, labelled: bool = True) -> Any:
        """A raw data set of texts, encoded; anything else as it is."""
        raw = isinstance(dataset, Dataset) and TEXT in dataset.column_names
        if not raw or "input_ids" in dataset.column_names or not isinstance(self.args, CAPConfig):
            return dataset
        tokenizer, options = self.processing_class, self.args
        if not isinstance(tokenizer, PreTrainedTokenizerBase):
            if self._collates and not options.reads_priors:
                return dataset  # a collator of the user's may tokenise
            raise DataError(
                f"The {name} set holds texts, but there is no tokenizer, got processing_class={tokenizer!r}; "
                "give the classifier's fast tokenizer as `processing_class`."
            )
        if name == "training" and options.label_names_in == "text":
            names = label_names(dataset)
            dataset = add_label_texts(dataset, label_phrases(names, options.label_phrases))
        if name == "training":  # a column that does not exist is an error only where it is needed
            with nullcontext() if options.reads_priors else suppress(PriorError):
                self._prior_column = find_prior_column(dataset.features, options.prior_column)
        with self.args.main_process_first(desc=f"encoding the {name} set"):
            encoded = collator.encode_dataset(
                dataset,
                tokenizer,
                self.model.config.label2id,
                word_pattern=options.word_pattern,
                max_length=options.max_length or longest_input(self.model, tokenizer),
                prior_column=self._prior_column,
                weight_column=options.prior_weight_column,
                example_weight_column=options.example_weight_column if name == "training" else None,
                labelled=labelled,
                name=name,
            )
        check_tokens(self.model, encoded["input_ids"])
        return encoded

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader[Any]:
        """As `Trainer.get_eval_dataloader`, for a raw data set too."""
        return super().get_eval_dataloader(self._encoded(eval_dataset, "evaluation"))

    def get_test_dataloader(self, test_dataset: Any) -> DataLoader[Any]:
        """As `Trainer.get_test_dataloader`, for a raw data set too; labels are not needed."""
        return super().get_test_dataloader(self._encoded(test_dataset, "test", labelled=False))

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        # the argument has lost its columns by now
        drawn = version_sampler(self.train_dataset, self.args.seed)
        return drawn or super()._get_train_sampler(train_dataset)

    def prediction_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """As `Trainer.prediction_step`; without labels there is nothing to align."""
        if LABELS not in inputs:
            inputs, _ = take_priors(inputs)
            inputs.pop(examples.EXAMPLE_WEIGHT, None)
        return super().prediction_step(model, inputs, *args, **kwargs)

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        columns = collator.ALIGNMENT_COLUMNS
        kept = [name for name in self._signature_columns if name not in columns]
        if getattr(self.args, "example_weight_column", None):
            kept.append(examples.EXAMPLE_WEIGHT)
        self._signature_columns = [*kept, *(columns if self.alignment.reads_priors else ())]

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Write the card of the model into the output folder. Arguments: those of `Trainer` by name."""
        if self.is_world_process_zero():
            write_trainer_card(self, **kwargs)
