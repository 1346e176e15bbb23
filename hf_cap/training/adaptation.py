"""Settings of the adaptation of a language model; torch-free, so that `hf-cap adapt --help` is instant."""

import inspect
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from torch import Tensor
from torch.utils.data import Sampler
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
    TrainingArguments,
    set_seed,
)

from hf_cap.attribution import Scalar
from hf_cap.errors import ConfigError, DataError
from hf_cap.lm.base import Query
from hf_cap.lm.packing_check import declared_reach, packs_soundly
from hf_cap.lm.tokens import PromptTokenizer
from hf_cap.lm.trie import Continuation, Trie, build_trie
from hf_cap.utils import atomic_path, check_range, documented, option

ALL_LINEAR = "all-linear"


@documented
@dataclass(frozen=True, kw_only=True)
class AdaptationSettings:
    """How low-rank adapters (LoRA, arXiv 2106.09685) are trained into a language model."""

    rank: int = option(8, "Rank of the adapters; at least 1.")
    alpha: int = option(16, "Scale of the adapters: their update is times alpha / rank.")
    dropout: float = option(0.0, "Share of the adapters' inputs that is dropped in training.")
    target_modules: tuple[str, ...] = option(
        (ALL_LINEAR,),
        "Names of the layers that get adapters, such as q_proj v_proj; all-linear means all but the head.",
    )
    learning_rate: float = option(2e-4, "Highest learning rate; it rises first, then falls to 0.")
    warmup: float = option(0.1, "Part of the steps over which the learning rate rises; in [0, 1).")
    weight_decay: float = option(0.0, "Weight decay of AdamW.")
    epochs: float = option(3.0, "Passes over the training texts.")
    max_steps: int = option(-1, "Optimizer steps; if positive it takes the place of `epochs`.")
    batch_size: int = option(
        16,
        "Texts a step. The prompt that they share is computed once a step, so larger is cheaper.",
    )
    gradient_checkpointing: bool = option(
        False, "Compute activations twice, to save memory with a large model."
    )
    seed: int = option(
        0, "Seed of the adapters, of the order and choice of texts, and of the masks."
    )

    def __post_init__(self) -> None:
        check_range(self, "rank", "batch_size", at_least=1)
        check_range(self, "alpha", "learning_rate", "epochs", above=0)
        check_range(self, "dropout", "warmup", at_least=0, below=1)


# --- Batches of prompts with known answers, as one sequence: what they share is computed once.


def read_queries(
    tokenizer: PreTrainedTokenizerBase, queries: Sequence[Query]
) -> list[Continuation]:
    """The tokens that a scorer sees for each query, those of its answer being the ones to learn."""
    tokens = PromptTokenizer(tokenizer)
    found = []
    for query in queries:
        prompt = tokens.prefix(query.prefix).ids + tokens.body(query.prefix, query.body)
        answer = tokens.answer(query.answer).ids
        found.append(Continuation(prompt + answer, len(answer)))
    return found


@dataclass(frozen=True)
class AnswerCollator:
    """Lays out a batch of continuations for one forward pass.

    Attributes:
        packed: One sequence for the whole batch; otherwise a padded row for each continuation.
        dtype: Number format of the attention mask: that of the model.
    """

    packed: bool
    dtype: torch.dtype = torch.float32

    def __call__(self, rows: Sequence[Continuation]) -> dict[str, Tensor]:
        """Model inputs, and where the log-probabilities are that the loss is made of.

        Returns:
            `input_ids` `(rows, nodes)`; if packed, `position_ids` of the same shape and an additive
            `attention_mask` `(1, 1, nodes, nodes)`; `columns`, the nodes whose logits are wanted; and of
            each step (a token of an answer) `step_rows`, `step_columns` (place among the columns), `targets`
            (the token) and `counts` (how many answers have it, divided by the number of answers).
        """
        tries = [build_trie(rows)] if self.packed else [build_trie([row]) for row in rows]
        nodes = np.concatenate([trie.step_nodes for trie in tries])
        columns, places = np.unique(nodes, return_inverse=True)
        batch = {
            "input_ids": _padded([trie.tokens for trie in tries]),
            "columns": torch.from_numpy(columns),
            "step_rows": torch.from_numpy(
                np.repeat(np.arange(len(tries)), [len(trie.step_nodes) for trie in tries])
            ),
            "step_columns": torch.from_numpy(places),
            "targets": torch.from_numpy(np.concatenate([trie.step_tokens for trie in tries])),
            "counts": torch.from_numpy(np.concatenate([_counts(t) for t in tries]) / len(rows)),
        }
        if self.packed:
            batch["position_ids"] = torch.from_numpy(tries[0].depth)[None]
            batch["attention_mask"] = self._mask(tries[0])
        return batch

    def _mask(self, trie: Trie) -> Tensor:
        hidden = ~torch.from_numpy(trie.visible(np.arange(0), 0, len(trie)))
        mask = torch.zeros(hidden.shape, dtype=self.dtype)
        return mask.masked_fill_(hidden, torch.finfo(self.dtype).min)[None, None]


def _counts(trie: Trie) -> NDArray[np.float64]:
    """How many answers have each step."""
    return np.bincount(np.concatenate(trie.answers), minlength=len(trie.step_nodes)).astype(float)


def _padded(rows: Sequence[NDArray[np.int64]]) -> Tensor:
    """Rows of integers padded on the right, where no token of a causal model can see the padding."""
    tensors = [torch.from_numpy(row) for row in rows]
    return torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True)


def answer_loss(logits: Tensor, batch: dict[str, Tensor]) -> Scalar:
    """Mean over the answers of −log p(answer | prompt), summed over the tokens of an answer, in nats.

    This is the negative of what the prior `cap` calls `log_prob`.

    Args:
        logits: `(rows, columns, vocabulary)`, at the batch's `columns`.
        batch: What `AnswerCollator` made.
    """
    chosen = logits[batch["step_rows"], batch["step_columns"]].float().log_softmax(-1)
    log_probs = chosen.gather(1, batch["targets"][:, None])[:, 0]
    return -(log_probs * batch["counts"].to(log_probs)).sum()


class SharedBeginnings(Sampler[int]):
    """Indices in random order, consecutive batches being of one group where that is possible.

    The groups are continuations of one prompt prefix: a batch of two groups would cost both prefixes.

    Args:
        groups: Group of each item.
        batch_size: Items of a batch.
        seed: Seed of all epochs' orders.
    """

    def __init__(self, groups: Sequence[object], batch_size: int, seed: int) -> None:
        self.groups = groups
        self.batch_size = batch_size
        self.generator = torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        return len(self.groups)

    def __iter__(self) -> Iterator[int]:
        members: dict[object, list[int]] = {}
        for index in torch.randperm(len(self.groups), generator=self.generator).tolist():
            members.setdefault(self.groups[index], []).append(index)
        whole: list[list[int]] = []
        rest: list[int] = []
        for group in members.values():
            cut = len(group) - len(group) % self.batch_size
            whole += [
                group[start : start + self.batch_size] for start in range(0, cut, self.batch_size)
            ]
            rest += group[cut:]
        for place in torch.randperm(len(whole), generator=self.generator).tolist():
            yield from whole[place]
        yield from rest


# --- Teach a language model a task by LoRA, with the very prompts and answers that it is scored by.


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
