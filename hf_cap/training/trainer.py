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

from hf_cap.attribution import Scalar, TextBatch, TokenScores, path_points, pool_words
from hf_cap.cards import write_trainer_card
from hf_cap.classifiers import add_adapters, longest_input, new_classifier
from hf_cap.data import label_names
from hf_cap.errors import DataError, PriorError
from hf_cap.losses import unit
from hf_cap.schema import PRIOR, TEXT, AttributionSettings, find_prior_column
from hf_cap.training.base import AlignedTrainer
from hf_cap.training.collator import (
    ALIGNMENT_COLUMNS,
    LABELS,
    CAPCollator,
    Priors,
    encode_dataset,
    take_priors,
)
from hf_cap.training.config import CAPConfig
from hf_cap.training.gradient import double_backward, finite_difference, value_only
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
        kwargs: All else that `Trainer` takes, and `alignment_loss_func`: a distance d in place of
            `alignment_loss`, `(attribution, prior, mask)`, each `(batch, words)`, to `(batch,)`.

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
            loaded, tokenizer, fresh = _load_by_name(model, train_dataset)
            processing_class = processing_class or tokenizer
        if peft_config is not None and loaded is not None:
            loaded = add_adapters(loaded, peft_config, fresh)
        tokenizes = isinstance(processing_class, PreTrainedTokenizerBase)
        if data_collator is None and tokenizes and isinstance(args, AlignmentOptions):
            data_collator = CAPCollator(processing_class)
        self.gradient_mode: str | None = None
        self._prior_column = getattr(args, "prior_column", None) or PRIOR
        self._collates = data_collator is not None
        data = (data_collator, train_dataset, eval_dataset, processing_class)
        super().__init__(loaded, args, *data, *rest, **kwargs)
        if self.alignment.alignment_weight:
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
        """L = L_task + β · d(word attributions, prior)."""
        beta = self.beta(model.training)
        if beta and model.training:
            check_batch(inputs)
        inputs, prior = take_priors(inputs)
        loss, outputs = super().compute_loss(model, dict(inputs), True, num_items_in_batch)
        if beta and prior is not None:
            # evaluation runs under no_grad, yet an attribution is a gradient
            with torch.enable_grad():
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
            model: The wrapped model. The attribution makes passes of its own through the bare one: a
                second pass through DistributedDataParallel would mark its weights ready twice, and a
                compiled pass has no second derivative. The gradients meet in one backward.
            inputs: The classifier's inputs and the labels.
            prior: Of the same texts.

        Returns:
            The mean distance, whose gradient in training reaches the model's weights, and the word
            attributions `(batch, words)` without a graph.
        """
        # sharded weights are gathered in each pass, by all processes together
        sharded = self.is_fsdp_enabled or self.is_deepspeed_enabled
        if not (model.training or sharded or prior.weight.any()):
            return prior.weight.new_zeros(()), torch.zeros_like(prior.scores)
        bare = self.accelerator.unwrap_model(model, keep_torch_compile=False)
        step = self.state.global_step if model.training else 0  # evaluation: always the same points
        seed = (self.args.seed * 1_000_003 + step) % 2**31
        loss, scores = self.attribute(bare, inputs, prior, seed, training=model.training)
        return loss, pool_words(scores.detach(), prior.token_words, prior.scores.shape[1])

    def attribute(
        self,
        model: nn.Module,
        inputs: Mapping[str, Any],
        prior: Priors,
        seed: int,
        *,
        training: bool,
    ) -> tuple[Scalar, TokenScores]:
        """Distance of a batch, with its gradient in training, and token scores.

        Random path points, and those that carry the gradient, depend on seed and texts alone.
        """
        options, ids = self.alignment, inputs["input_ids"]
        tensors = {name: value for name, value in inputs.items() if name != LABELS}
        batch = TextBatch(tensors, inputs[LABELS], prior.token_words, options.attribution_target)
        points = path_points(
            options.attribution_method,
            ids,
            inputs.get("attention_mask", torch.ones_like(ids)),
            steps=options.attribution_steps,
            rule=options.attribution_quadrature,
            seed=seed,
        )

        def distance(scores: TokenScores) -> Scalar:
            words = pool_words(scores, prior.token_words, prior.scores.shape[1])
            return self.distance(words, prior.scores, prior.mask, prior.weight)

        rows = options.attribution_rows or None
        if not training:
            return value_only(model, batch, points, distance, rows)
        steps, count = range(len(points[1])), options.attribution_backward_steps
        draw = random.Random(seed)
        chosen = sorted(draw.sample(steps, min(count, len(steps)))) if count else None
        gradient = self.gradient(model)
        return gradient(model, batch, points, distance, chosen=chosen, rows=rows)

    def gradient(self, model: nn.Module) -> Callable[..., tuple[Scalar, TokenScores]]:
        """The gradient function of `alignment_gradient`, chosen once per training."""
        if self.gradient_mode is None:
            self.gradient_mode = choose_gradient(
                self.alignment.alignment_gradient,
                model,
                fsdp=self.is_fsdp_enabled,
                deepspeed=self.is_deepspeed_enabled,
                mixed_precision=self.accelerator.mixed_precision,
            )
        if self.gradient_mode == "double_backward":
            return double_backward
        return partial(
            finite_difference,
            step=self.alignment.finite_difference_step,
            recompute=bool(self.args.activation_checkpointing),
        )

    # --- before training ------------------------------------------------------------------------------

    def check_alignment(self) -> None:
        """Validate model and data, and try the alignment gradient on a few texts.

        Raises:
            AlignmentError: the gradient is blocked or not finite; the message says where.
            ConfigError: attributions cannot be differentiated with these settings.
            DataError: the data set is tokenised, but without its words.
            PriorError: no text has a prior.
        """
        super().check_alignment()
        self._admit(self.model)
        if not isinstance(self.train_dataset, Dataset):
            return
        check_encoded(self.train_dataset)
        device = next(self.model.parameters()).device
        rows = probe_batch(self.train_dataset)
        if device.type == "meta" or not rows:
            return
        batch = self.data_collator(rows)
        inputs, prior = take_priors({name: value.to(device) for name, value in batch.items()})
        if prior is not None:
            attribute = partial(self.attribute, self.model, inputs, prior, 0, training=True)
            check_gradient(str(self.gradient_mode), self.model, lambda: attribute()[0])

    def call_model_init(self, trial: Any = None) -> nn.Module:
        """As `Trainer.call_model_init`, for a model that can be aligned."""
        model = super().call_model_init(trial)
        if self.alignment.alignment_weight:
            check_classifier(model)
        return model

    def _admit(self, model: Any) -> None:
        """Validate a model, choose its gradient, and write into its configuration how it is aligned."""
        check_classifier(model)
        # travels with the weights, so that the model is later explained as it was aligned
        model.config.update(AttributionSettings.of_alignment(vars(self.alignment)).entry())
        self.gradient_mode = None  # a search may have changed the settings
        self.gradient(model)

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
            if self._collates and not self.alignment.alignment_weight:
                return dataset  # a collator of the user's may tokenise
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
        super()._set_signature_columns_if_needed()
        kept = [name for name in self._signature_columns if name not in ALIGNMENT_COLUMNS]
        aligned = ALIGNMENT_COLUMNS if self.alignment.alignment_weight else ()
        self._signature_columns = [*kept, *aligned]

    def create_model_card(
        self, language: str | None = None, license: str | None = None, *args: Any, **kwargs: Any
    ) -> None:
        """Write the card of the model into the output folder. Arguments: those of `Trainer` by name."""
        if self.is_world_process_zero():
            write_trainer_card(self, language=language, license=license, **kwargs)


def _load_by_name(name: str, dataset: Any) -> tuple[Any, Any, Sequence[str]]:
    """A classifier with a head for the labels of the training set, its tokenizer, and its new modules."""
    if not isinstance(dataset, Dataset):
        raise DataError(
            f"The model {name!r} gets a head for the labels of `train_dataset`, got "
            f"{type(dataset).__name__}. Give a data set with a `ClassLabel` column, or a loaded model."
        )
    return new_classifier(name, label_names(dataset))
