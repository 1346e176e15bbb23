"""The plain way to score: whole prompts in padded batches. Sound for every causal model.

Padding is on the right: no token can see what comes after it, so neither positions nor masks can go
wrong, whatever the model (sliding windows, recurrent state and relative positions included).
"""

import inspect
import logging
import random
import statistics
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from hf_cap.lm.packed import MemoryBudget, PackedModel, out_of_memory
from hf_cap.lm.trie import Continuation


def batches(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Indices in batches of like length, each of at most `budget` tokens with padding (or one long row)."""
    groups: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        # in order of length, so a new row is the longest of its batch
        if groups and (len(groups[-1]) + 1) * lengths[index] <= budget:
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups


class PlainModel:
    """Scores whole prompts with `model`.

    Args:
        model: Any causal language model.
        budget: Tokens of one padded batch.
    """

    def __init__(self, model: PreTrainedModel, budget: MemoryBudget) -> None:
        self.model = model
        self.budget = budget
        self.tokens_computed = 0
        self._keeps_logits = "logits_to_keep" in inspect.signature(model.forward).parameters

    def log_probs(self, rows: Sequence[Continuation]) -> list[tuple[float, ...]]:
        """Log-probability of each answer token of each row.

        Raises:
            ExtractError: not even one row fits the memory.
        """
        results: dict[int, tuple[float, ...]] = {}
        while missing := [index for index in range(len(rows)) if index not in results]:
            lengths = [len(rows[index].ids) for index in missing]
            for batch in batches(lengths, self.budget.tokens):
                group = [missing[place] for place in batch]
                try:
                    values = self._batch([rows[index] for index in group])
                except RuntimeError as error:
                    if not out_of_memory(error):
                        raise
                    self.budget.halve(error)
                    break
                results.update(zip(group, values, strict=True))
                self.tokens_computed += sum(len(rows[index].ids) - 1 for index in group)
        return [results[index] for index in range(len(rows))]

    @torch.inference_mode()
    def _batch(self, rows: Sequence[Continuation]) -> list[tuple[float, ...]]:
        inputs = [row.ids[:-1] for row in rows]
        width = max(map(len, inputs))
        device = self.model.device
        ids = torch.tensor([[*row, *[row[-1]] * (width - len(row))] for row in inputs])
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in inputs])
        wanted = sorted({position for row in rows for position in _positions(row)})
        options = (
            {"logits_to_keep": torch.tensor(wanted, device=device)} if self._keeps_logits else {}
        )
        logits = self.model(
            input_ids=ids.to(device), attention_mask=mask.to(device), use_cache=False, **options
        ).logits
        column = {position: place for place, position in enumerate(wanted)}
        if not self._keeps_logits:
            column = {position: position for position in wanted}
        return [
            _answer_log_probs(logits[index], [column[p] for p in _positions(row)], row)
            for index, row in enumerate(rows)
        ]


def _positions(row: Continuation) -> range:
    """Positions whose logits predict the answer's tokens."""
    return range(len(row.ids) - 1 - row.scored, len(row.ids) - 1)


def _answer_log_probs(logits: Tensor, columns: list[int], row: Continuation) -> tuple[float, ...]:
    chosen = logits[columns].float().log_softmax(-1)
    answer = torch.tensor(row.ids[-row.scored :], device=logits.device)
    return tuple(chosen.gather(1, answer[:, None])[:, 0].tolist())


# --- For which models, and up to what length, a packed trie gives the same scores as whole prompts.


_logger = logging.getLogger(__name__)

_ARGUMENTS = {"position_ids", "past_key_values", "attention_mask", "logits_to_keep"}
_WINDOWS = {"sliding_attention": "sliding_window", "chunked_attention": "attention_chunk_size"}
"""Kinds of layers that equal full attention for prompts no longer than the setting named here."""
_TOLERANCE = {torch.float32: 1e-3, torch.float16: 3e-2, torch.bfloat16: 2e-1}
"""Mean difference in nats that rounding explains (seen: 0.13 in bfloat16, whole prompts in batches the
same); a wrong mask or position costs over 0.3 on random tokens."""


def longest_prompt(model: PreTrainedModel) -> int | None:
    """Tokens that the model has positions for, or `None` where it does not say."""
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return limit if isinstance(limit, int) and limit > 0 else None


def declared_reach(model: PreTrainedModel) -> tuple[int | None, str]:
    """Longest prompt that may be packed by what the model declares, and why.

    Returns:
        Tokens (`None`: no limit, 0: never) and the reason for a limit.
    """
    config = model.config.get_text_config()
    missing = _ARGUMENTS - set(inspect.signature(model.forward).parameters)
    if missing:
        return 0, f"its forward pass takes no {sorted(missing)}"
    if config._attn_implementation not in ("sdpa", "eager"):
        return 0, f"its attention {config._attn_implementation!r} takes no mask of our own"
    if getattr(config, "alibi", False) or getattr(model, "_is_stateful", False):
        return 0, "it has relative position biases or a recurrent state"
    return _window(config)


def _window(config: object) -> tuple[int | None, str]:
    if "local" in (getattr(config, "attention_layers", None) or ()):
        return 0, "it has local attention layers, which look at places of their own"
    kinds = set(getattr(config, "layer_types", None) or ())
    if unknown := kinds - {"full_attention", *_WINDOWS}:
        return 0, f"it has layers of the kinds {sorted(unknown)}"
    if not kinds and getattr(config, "use_sliding_window", True):
        kinds = set(_WINDOWS)  # older configurations name only the window
    sizes = [
        size for kind in kinds & set(_WINDOWS) if (size := getattr(config, _WINDOWS[kind], None))
    ]
    return (min(sizes), "longer prompts do not fit its attention window") if sizes else (None, "")


def packs_soundly(model: PreTrainedModel, block: int = 0) -> bool:
    """Whether a small trie, read in several runs, scores as its prompts do one by one.

    Args:
        model: The model.
        block: Nodes of a block of the attention, as for `PackedModel`.
    """
    draw = random.Random(0)
    vocabulary = min(model.config.get_text_config().vocab_size, 1000)
    prefix = tuple(draw.randrange(vocabulary) for _ in range(5))
    common = tuple(draw.randrange(vocabulary) for _ in range(3))
    rows = [
        Continuation((*common[: 1 + index % 3], *(draw.randrange(vocabulary) for _ in range(4))), 2)
        for index in range(6)
    ]
    whole = [Continuation(prefix + row.ids, row.scored) for row in rows]
    plain = PlainModel(model, MemoryBudget(1)).log_probs(whole)
    try:
        packed = PackedModel(model, MemoryBudget(6), 1.0, block).log_probs(prefix, rows)
    except (
        AttributeError,
        IndexError,
        NotImplementedError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:
        # a cache or mask that the model's own code cannot take: whatever it raises means the same
        _logger.warning("%s cannot read a packed trie (%s).", type(model).__name__, error)
        return False
    difference = statistics.mean(
        abs(a - b)
        for one, other in zip(plain, packed, strict=True)
        for a, b in zip(one, other, strict=True)
    )
    if not difference <= _TOLERANCE.get(model.dtype, 1e-3):
        _logger.warning("%s scores a packed trie %.2g nats off.", type(model).__name__, difference)
        return False
    return True
