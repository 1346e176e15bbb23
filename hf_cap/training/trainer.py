"""`CAPTrainer`: a `Trainer` that also aligns the classifier's word attributions with priors."""

from typing import Any, cast

from datasets import Dataset
from torch import nn
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerBase, TrainingArguments

from ..attribution import Explained
from ..classifiers import longest_input
from ..errors import ConfigError
from ..explanation import Explanation
from .aligned_trainer import AlignedTrainer, Aligner
from .card import write_trainer_card
from .checks import (
    check_batch,
    check_classifier,
    check_encoded,
    check_gradient,
    check_has_prior,
    choose_gradient,
    telling_rows,
)
from .config import CAPConfig
from .data import (
    ALIGNMENT_COLUMNS,
    LABELS,
    CAPCollator,
    Priors,
    encode_dataset,
    take_priors,
)
from .settings import AlignmentOptions
from .word_aligner import WordAligner, ends_at_text, make_plan, token_loss


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
            model.config.update(Explanation.of_alignment(vars(self.alignment)).entry())

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
