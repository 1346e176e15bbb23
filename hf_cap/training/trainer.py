"""`CAPTrainer`: a `Trainer` that also aligns the classifier's word attributions with priors."""

import random
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerBase, TrainingArguments
from transformers.trainer_utils import EvalPrediction

from hf_cap.attribution import Points, Scalar, TextBatch, TokenScores, path_points, pool_words
from hf_cap.classifiers import add_adapters, longest_input, new_classifier
from hf_cap.data import label_names
from hf_cap.errors import ConfigError, DataError, PriorError
from hf_cap.schema import PRIOR, TEXT, AttributionSettings, find_prior_column
from hf_cap.training.base import AlignedTrainer
from hf_cap.training.card import write_trainer_card
from hf_cap.training.collator import (
    ALIGNMENT_COLUMNS,
    LABELS,
    CAPCollator,
    Priors,
    encode_dataset,
    take_priors,
)
from hf_cap.training.config import CAPConfig
from hf_cap.training.gradient import GRADIENTS, value_only
from hf_cap.training.losses import Loss, alignment_loss, find_loss, unit
from hf_cap.training.options import AlignmentOptions
from hf_cap.training.validation import (
    check_batch,
    check_classifier,
    check_encoded,
    check_gradient,
    choose_gradient,
    probe_batch,
)


class CAPTrainer(AlignedTrainer):
    """Trains a text classifier so that its word attributions agree with priors.

        L = L_task + β · mean over the batch of d(word attributions of the gold label, prior)

    Data sets may be raw (`text`, `label` and a prior column; encoded on construction, by the main process
    first) or encoded by `encode_dataset`. With `alignment_weight=0` it is the plain `Trainer`.

    It logs `loss_task`, `loss_align` (before β) and `align_cosine`, the mean cosine of attributions and
    priors in [-1, 1]; `evaluate` returns them as `eval_...`, with `eval_accuracy` and `eval_macro_f1`.

    Args:
        model: A sequence classifier with a single label per text, or the name of a model (Hub id, folder or
            embedded name) that gets a head for the labels of the training set.
        args: A `CAPConfig`; plain `TrainingArguments` switch the alignment off.
        data_collator: `CAPCollator` by default.
        train_dataset: Raw or encoded.
        eval_dataset: Raw or encoded, or a dict of those.
        processing_class: The classifier's fast tokenizer; that of a model given by name is loaded.
        rest: What follows in the signature of `Trainer`.
        peft_config: Trains adapters of this `peft` configuration instead of all weights.
        alignment_loss_func: Distance d in place of `alignment_loss`: `(attribution, prior, mask)`, each
            `(batch, words)`, to one value per text `(batch,)`.
        kwargs: All else that `Trainer` takes.

    Raises:
        ConfigError: the settings cannot work together.
        DataError: a data set is malformed, or (when training begins) is tokenised without its words.
        PriorError: a prior does not fit its text.
        ModelError: the model or tokenizer cannot be aligned.
        MissingExtra: `peft_config` is given and peft is not installed.
    """

    train_dataset: Any
    model_init: Any
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
        alignment_loss_func: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None,
        **kwargs: Any,
    ) -> None:
        args = CAPConfig(output_dir="tmp_trainer") if args is None else args
        fresh: Sequence[str] = ()
        loaded: Any = model
        if isinstance(model, str):
            loaded, tokenizer, fresh = _load_by_name(model, train_dataset)
            processing_class = processing_class or tokenizer
        if peft_config is not None and loaded is not None:
            loaded = add_adapters(loaded, peft_config, fresh)
        tokenizes = isinstance(processing_class, PreTrainedTokenizerBase)
        if data_collator is None and tokenizes and isinstance(args, AlignmentOptions):
            data_collator = CAPCollator(processing_class)
        if len(rest) < 3 and isinstance(args, AlignmentOptions):
            kwargs["compute_metrics"] = kwargs.get("compute_metrics") or accuracy_and_macro_f1
        self.gradient_mode: str | None = None
        self._prior_column = getattr(args, "prior_column", None) or PRIOR
        self.alignment_loss_func = alignment_loss_func
        data = (data_collator, train_dataset, eval_dataset, processing_class)
        super().__init__(loaded, args, *data, *rest, **kwargs)
        self._admit(self.model)
        self.train_dataset = self._encoded(self.train_dataset, "training")
        if isinstance(self.eval_dataset, dict):
            self.eval_dataset = {
                name: self._encoded(data, name) for name, data in self.eval_dataset.items()
            }
        else:
            self.eval_dataset = self._encoded(self.eval_dataset, "evaluation")

    # --- the method -----------------------------------------------------------------------------------

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """L = L_task + β · d(attribution, prior)."""
        beta = self.beta(model.training)
        if beta and model.training:
            check_batch(inputs)
        inputs, prior = take_priors(inputs)
        loss, outputs = super().compute_loss(model, dict(inputs), True, num_items_in_batch)
        if beta and prior is not None:
            with (
                torch.enable_grad()
            ):  # evaluation runs under no_grad, yet an attribution is a gradient
                align_loss, attribution = self.align(model, inputs, prior)
            cosine = (unit(attribution, prior.mask) * unit(prior.scores, prior.mask)).sum(-1)
            self.record(model.training, inputs, loss, align_loss, cosine, prior.weight)
            loss = loss + beta * align_loss
        elif self.alignment.alignment_weight and prior is not None:
            self.record(model.training, inputs, loss)
        return (loss, outputs) if return_outputs else loss

    def align(
        self, model: nn.Module, inputs: Mapping[str, Any], prior: Priors
    ) -> tuple[Scalar, Tensor]:
        """Distance between word attributions of the gold labels and priors.

        Args:
            model: The wrapped model. The attribution makes passes of its own through the bare one: a second
                pass through DistributedDataParallel would mark its weights ready twice, and a compiled pass
                has no second derivative. The gradients meet in one backward.
            inputs: The classifier's inputs and the labels.
            prior: Of the same texts.

        Returns:
            The mean distance, whose gradient in training reaches the model's weights, and the word
            attributions `(batch, words)` without a graph.
        """
        options = self.alignment
        bare = self.accelerator.unwrap_model(model, keep_torch_compile=False)
        tensors = {name: value for name, value in inputs.items() if name != LABELS}
        batch = TextBatch(tensors, inputs[LABELS], prior.token_words, options.attribution_target)
        # evaluation looks at the same points always
        seed = (self.args.seed * 1_000_003 + self.state.global_step * model.training) % 2**31
        points = batch_points(options, batch, seed)
        distance = partial(self.distance, prior=prior)
        rows = options.attribution_rows or None
        if (
            not model.training and not prior.weight.any()
        ):  # nothing is compared, so nothing is attributed
            return prior.weight.new_zeros(()), torch.zeros_like(prior.scores)
        if not model.training:
            loss, scores = value_only(bare, batch, points, distance, rows)
        else:
            loss, scores = self.gradient(bare)(
                bare, batch, points, distance, rows=rows, **self.passes(points, seed)
            )
        return loss, pool_words(scores.detach(), prior.token_words, prior.scores.shape[1])

    def distance(self, scores: TokenScores, prior: Priors) -> Scalar:
        """Mean over the batch of the distance between token scores, summed over each word, and priors."""
        words = pool_words(scores, prior.token_words, prior.scores.shape[1])
        own = self.alignment_loss_func
        loss: Loss = (
            find_loss(self.alignment.alignment_loss)
            if own is None
            else lambda attribution, prior, mask, floor: own(attribution, prior, mask)
        )
        floor = self.alignment.alignment_norm_floor
        return alignment_loss(loss, words, prior.scores, prior.mask, prior.weight, floor)

    def gradient(self, model: nn.Module) -> Callable[..., tuple[Scalar, TokenScores]]:
        """The gradient function of `alignment_gradient`, chosen once per model."""
        if self.gradient_mode is None:
            self.gradient_mode = self._choose_gradient(model)
        return GRADIENTS[self.gradient_mode]

    def passes(self, points: Points, seed: int) -> dict[str, Any]:
        """Settings of the gradient function: the points that carry a gradient, and how it is computed."""
        options, steps = self.alignment, len(points[1])
        count = options.attribution_backward_steps
        chosen = sorted(random.Random(seed).sample(range(steps), count)) if count else None
        if self.gradient_mode == "double_backward":
            return {"chosen": chosen}
        return {
            "chosen": chosen,
            "step": options.finite_difference_step,
            "recompute": bool(self.args.activation_checkpointing),
        }

    # --- before training ------------------------------------------------------------------------------

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """As `Trainer.train`; first tries the alignment gradient on a few examples.

        Raises:
            AlignmentError: the gradient is blocked or not finite; the message says where.
            DataError: the data set is tokenised, but without its words.
            PriorError: no text has a prior.
        """
        if self.alignment.alignment_weight and isinstance(self.train_dataset, Dataset):
            check_encoded(self.train_dataset)
        if self.model_init is None:
            self._try_gradient(self.model)
        return super().train(*args, **kwargs)

    def call_model_init(self, trial: Any = None) -> nn.Module:
        """As `Trainer.call_model_init`, for a model that can be aligned."""
        model = super().call_model_init(trial)
        self._admit(model)
        if getattr(self, "is_in_train", False):
            self._try_gradient(model)
        return model

    def _try_gradient(self, model: nn.Module) -> None:
        """Compute the alignment gradient of a few texts, so that a blocked one is found at once."""
        self.gradient_mode = None  # a search may have changed the settings
        if not self.alignment.alignment_weight or not isinstance(self.train_dataset, Dataset):
            return
        gradient = self.gradient(model)
        device = next(model.parameters()).device
        rows = probe_batch(self.train_dataset)
        if device.type == "meta" or not rows:
            return
        batch = self.data_collator(rows)
        inputs, prior = take_priors({name: value.to(device) for name, value in batch.items()})
        if prior is None:
            return
        labels = inputs.pop(LABELS)
        target = self.alignment.attribution_target
        texts = TextBatch(inputs, labels, prior.token_words, target)
        points = batch_points(self.alignment, texts, 0)
        options = {"rows": self.alignment.attribution_rows or None, **self.passes(points, 0)}
        distance = partial(self.distance, prior=prior)
        probe = partial(gradient, model, texts, points, distance, **options)
        check_gradient(str(self.gradient_mode), model, lambda: probe()[0])

    def _admit(self, model: Any) -> None:
        """Refuse a model that cannot be aligned; write into its configuration how it is aligned."""
        if self.alignment.alignment_weight:
            check_classifier(model)
            # travels with the weights, so that the model is later explained as it was aligned
            model.config.update(AttributionSettings.of_alignment(vars(self.alignment)).entry())
            self.gradient_mode = self._choose_gradient(model)

    def _choose_gradient(self, model: nn.Module) -> str:
        """The gradient mode, after refusing DataParallel."""
        if self.args.n_gpu > 1:
            raise ConfigError(
                f"DataParallel over {self.args.n_gpu} GPUs cannot differentiate attributions. Start the "
                "program with `accelerate launch` (one process per GPU), or show it one GPU by "
                "`CUDA_VISIBLE_DEVICES=0`."
            )
        return choose_gradient(
            self.alignment.alignment_gradient,
            model,
            fsdp=self.is_fsdp_enabled,
            deepspeed=self.is_deepspeed_enabled,
            mixed_precision=self.accelerator.mixed_precision,
        )

    # --- data -----------------------------------------------------------------------------------------

    def _encoded(self, dataset: Any, name: str, *, labelled: bool = True) -> Any:
        """A raw data set of texts, encoded; anything else as it is.

        Raises:
            DataError: there is no tokenizer to encode the texts with.
        """
        raw = isinstance(dataset, Dataset) and TEXT in dataset.column_names
        if not raw or "input_ids" in dataset.column_names or not isinstance(self.args, CAPConfig):
            return dataset
        if not isinstance(self.processing_class, PreTrainedTokenizerBase):
            raise DataError(
                f"The {name} set holds texts, and there is no tokenizer to encode them: got "
                f"processing_class={self.processing_class!r}. Give the classifier's fast tokenizer as "
                "`processing_class`, or encode the data set with `encode_dataset`."
            )
        tokenizer, options = self.processing_class, self.alignment
        if name == "training":
            self._prior_column = self._find_prior(dataset)
        with self.args.main_process_first(desc=f"encoding the {name} set"):
            return encode_dataset(
                dataset,
                tokenizer,
                self.model.config.label2id,
                word_pattern=options.word_pattern,
                max_length=options.max_length or longest_input(self.model, tokenizer),
                prior_column=self._prior_column,
                weight_column=options.prior_weight_column,
                labelled=labelled,
                name=name,
            )

    def _find_prior(self, dataset: Dataset) -> str:
        """The prior column; one that does not exist is an error only where it is needed."""
        try:
            return find_prior_column(dataset.features, self.alignment.prior_column)
        except PriorError:
            if self.alignment.alignment_weight:
                raise
            return self.alignment.prior_column or PRIOR

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
            if isinstance(self.args, AlignmentOptions):
                self._signature_columns = [*(self._signature_columns or []), *ALIGNMENT_COLUMNS]

    def create_model_card(
        self, language: str | None = None, license: str | None = None, *args: Any, **kwargs: Any
    ) -> None:
        """Write the card of the model into the output folder. Arguments: those of `Trainer` by name."""
        if self.is_world_process_zero():
            write_trainer_card(self, language=language, license=license, **kwargs)


def batch_points(options: AlignmentOptions, batch: TextBatch, seed: int) -> Points:
    """Path points of a batch; random ones depend on the seed and the texts alone."""
    ids = batch.inputs["input_ids"]
    return path_points(
        options.attribution_method,
        ids,
        batch.inputs.get("attention_mask", torch.ones_like(ids)),
        steps=options.attribution_steps,
        rule=options.attribution_quadrature,
        seed=seed,
    )


def accuracy_and_macro_f1(prediction: EvalPrediction) -> dict[str, float]:
    """Share of texts with the right label, and the mean over the labels of F1; both in [0, 1].

    A label that is neither predicted nor true does not count, as in scikit-learn.
    """
    logits: Any = prediction.predictions
    logits = logits[0] if isinstance(logits, tuple) else logits
    true: Any = prediction.label_ids
    predicted = logits.argmax(-1)
    scores = []
    for label in set(predicted.tolist()) | set(true.tolist()):
        hits = ((predicted == label) & (true == label)).sum()
        scores.append(2 * hits / ((predicted == label).sum() + (true == label).sum()))
    return {
        "accuracy": float((predicted == true).mean()),
        "macro_f1": float(sum(scores) / len(scores)),
    }


def _load_by_name(name: str, dataset: Any) -> tuple[Any, Any, Sequence[str]]:
    """A classifier with a head for the labels of the training set, its tokenizer, and its new modules."""
    if not isinstance(dataset, Dataset):
        raise DataError(
            f"The model {name!r} gets a head for the labels of `train_dataset`, got "
            f"{type(dataset).__name__}. Give a data set with a `ClassLabel` column, or a loaded model."
        )
    return new_classifier(name, label_names(dataset))
