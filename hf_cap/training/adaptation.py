"""Teach a language model a task by LoRA, with the very prompts and answers that it is scored by.

The loss is −log p(answer | prompt): nothing but the tokens of the answer is learnt. The adapted model is
a plain model folder, which every stage takes as its language model.
"""

import inspect
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from torch.utils.data import Sampler
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
    TrainingArguments,
    set_seed,
)

from ..errors import ConfigError, DataError
from ..files import atomic_path
from ..scoring.protocol import Query
from ..scoring.soundness import declared_reach, packs_soundly
from ..scoring.trie import Continuation
from .adaptation_settings import ALL_LINEAR, AdaptationSettings
from .answers import AnswerCollator, SharedBeginnings, answer_loss, read_queries

ADAPTER, MODEL = "adapter", "model"

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Adaptation:
    """What an adaptation made."""

    adapter: Path
    """Folder of the adapters alone, for peft."""
    model: Path
    """Folder of the model with the adapters merged into its weights."""
    steps: int
    """Optimizer steps."""
    trained_weights: int
    """Numbers in the adapters."""
    losses: tuple[float, ...]
    """−log p(answer | prompt) a text, in nats, at each logged step; lower is better."""


def adapt_language_model(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    queries: Sequence[Query],
    folder: Path,
    settings: AdaptationSettings | None = None,
    *,
    name: str | None = None,
) -> Adaptation:
    """Train adapters, save them, merge them into the model, and save that.

    Args:
        model: A causal language model, on its device; its weights are changed.
        tokenizer: Its tokenizer.
        queries: Prompts and the answers that are right.
        folder: Where the folders `adapter` and `model` are written; each is whole or absent.
        settings: How to train.
        name: What the adapters call the model they belong to; default its `name_or_path`.

    Raises:
        ConfigError: the model has no layers of the names in `target_modules`, or a setting cannot work.
        DataError: there is no query.
        ExtractError: an answer has no tokens.
    """
    settings = settings or AdaptationSettings()
    if not queries:
        raise DataError("There is no text to adapt the language model to.")
    rows = read_queries(tokenizer, queries)
    collator = AnswerCollator(_packs(model, rows), model.dtype)
    set_seed(settings.seed)
    if settings.gradient_checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    adapted = _with_adapters(model, settings, name)
    trainer = AnswerTrainer(
        model=adapted,
        args=_arguments(folder, model.device, settings),
        train_dataset=rows,
        data_collator=collator,
        groups=[query.prefix for query in queries],
    )
    trainer.train()
    trained = sum(weight.numel() for weight in adapted.parameters() if weight.requires_grad)
    with atomic_path(folder / ADAPTER) as path:
        adapted.save_pretrained(str(path), save_embedding_layers=False)
    with atomic_path(folder / MODEL) as path:
        adapted.merge_and_unload().save_pretrained(path)
        tokenizer.save_pretrained(path)
    history = trainer.state.log_history
    return Adaptation(
        adapter=folder / ADAPTER,
        model=folder / MODEL,
        steps=trainer.state.global_step,
        trained_weights=trained,
        losses=tuple(entry["loss"] for entry in history if "loss" in entry),
    )


class AnswerTrainer(Trainer):
    """Trains on batches of `AnswerCollator`: the loss is that of the answers alone.

    Args:
        groups: What tells the prompts apart that begin alike, one entry a row of `train_dataset`.
        kwargs: What `Trainer` takes.
    """

    model: Any
    args: TrainingArguments

    def __init__(self, *, groups: Sequence[object], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        # the loss is a mean over the batch, so accumulated batches are averaged
        self.model_accepts_loss_kwargs = False
        self.loss_is_scaled_for_ga = False
        self._groups = groups
        taken = inspect.signature(self.model.get_base_model().forward).parameters
        self._keeps_logits = "logits_to_keep" in taken

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """Mean of −log p(answer | prompt)."""
        names = ("input_ids", "position_ids", "attention_mask")
        columns = inputs["columns"]
        only = {"logits_to_keep": columns} if self._keeps_logits else {}
        taken = {name: inputs[name] for name in names if name in inputs}
        outputs = model(**taken, **only, use_cache=False)
        logits = outputs.logits if only else outputs.logits[:, columns]
        loss = answer_loss(logits, inputs)
        return (loss, outputs) if return_outputs else loss

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        size = self.args.per_device_train_batch_size
        return SharedBeginnings(self._groups, size, self.args.seed)


def _packs(model: PreTrainedModel, rows: Sequence[Continuation]) -> bool:
    """Whether a batch may be one sequence: by what the model declares, and by what it does."""
    reach, reason = declared_reach(model)
    longest = max(len(row.ids) for row in rows)
    if reach is not None and longest > reach:
        _logger.warning("Prompts are computed one by one, which takes far longer: %s.", reason)
        return False
    return packs_soundly(model)


def _with_adapters(
    model: PreTrainedModel, settings: AdaptationSettings, name: str | None
) -> PeftModel:
    targets = list(settings.target_modules)
    adapters = LoraConfig(
        task_type=TaskType.CAUSAL_LM,
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=ALL_LINEAR if targets == [ALL_LINEAR] else targets,
    )
    try:
        adapted = get_peft_model(model, adapters)
    except ValueError as error:
        raise ConfigError(
            f"Cannot put adapters on the layers {targets!r} of {type(model).__name__}: {error}"
        ) from error
    if name is not None:
        adapters.base_model_name_or_path = name
    return adapted


def _arguments(
    folder: Path, device: torch.device, settings: AdaptationSettings
) -> TrainingArguments:
    arguments = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        warmup_steps=settings.warmup,
        num_train_epochs=settings.epochs,
        max_steps=settings.max_steps,
        seed=settings.seed,
        use_cpu=device.type == "cpu",
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        remove_unused_columns=False,
        dataloader_pin_memory=device.type == "cuda",
    )
    if arguments.n_gpu > 1 or arguments.world_size > 1:
        raise ConfigError(
            f"Adapting runs in one process on one device, got {arguments.world_size} processes and "
            f"{arguments.n_gpu} GPUs. Start it without `accelerate launch`, with CUDA_VISIBLE_DEVICES=0."
        )
    return arguments
