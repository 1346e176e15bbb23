"""For which models, and up to what length, a packed trie gives the same scores as whole prompts."""

import inspect
import logging
import math
import random
import statistics

import torch
from transformers import PreTrainedModel

from hf_cap.lm.packed import PackedModel
from hf_cap.lm.plain import MemoryBudget, PlainModel
from hf_cap.lm.trie import Continuation

_logger = logging.getLogger(__name__)
_ARGUMENTS = {"position_ids", "past_key_values", "attention_mask", "logits_to_keep"}
_WINDOWS = {"sliding_attention": "sliding_window", "chunked_attention": "attention_chunk_size"}
"""Kinds of layers that equal full attention for prompts no longer than the setting named here."""
_TOLERANCE = {torch.float32: 1e-3, torch.float16: 3e-2, torch.bfloat16: 2e-1}
"""Mean difference in nats that rounding explains (seen: 0.13 in bfloat16, whole prompts in batches the
same); a wrong mask or position costs over 0.3 on random tokens."""


def packing_reach(model: PreTrainedModel) -> float:
    """Longest prompt, in tokens, that is packed; 0 sends every prompt down the plain path."""
    reach, reason = declared_reach(model)
    name = type(model).__name__
    if reason:
        _logger.warning(
            "%s: prompts over %s tokens are scored one by one: %s.", name, reach, reason
        )
    if reach and not packs_soundly(model):
        _logger.warning("%s: every prompt is scored as a whole, which takes far longer.", name)
        return 0
    return reach


def declared_reach(model: PreTrainedModel) -> tuple[float, str]:
    """Longest prompt that may be packed by what the model declares, and the reason for a limit."""
    config = model.config.get_text_config()
    missing = _ARGUMENTS - set(inspect.signature(model.forward).parameters)
    kinds = set(getattr(config, "layer_types", None) or ())
    if missing:
        return 0, f"its forward pass takes no {sorted(missing)}"
    if config._attn_implementation not in ("sdpa", "eager"):
        return 0, f"its attention {config._attn_implementation!r} takes no mask of our own"
    if getattr(config, "alibi", False) or getattr(model, "_is_stateful", False):
        return 0, "it has relative position biases or a recurrent state"
    if "local" in (getattr(config, "attention_layers", None) or ()):
        return 0, "it has local attention layers, which look at places of their own"
    if unknown := kinds - {"full_attention", *_WINDOWS}:
        return 0, f"it has layers of the kinds {sorted(unknown)}"
    if not kinds and getattr(config, "use_sliding_window", True):
        kinds = set(_WINDOWS)  # older configurations name only the window
    sizes = [
        size for kind in kinds & set(_WINDOWS) if (size := getattr(config, _WINDOWS[kind], None))
    ]
    return (
        (min(sizes), "longer prompts do not fit its attention window") if sizes else (math.inf, "")
    )


def packs_soundly(model: PreTrainedModel) -> bool:
    """Whether a small trie, read in several runs, scores as its prompts do one by one."""
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
        packed = PackedModel(model, MemoryBudget(6), 1.0).log_probs(prefix, rows)
    except (AttributeError, IndexError, RuntimeError, TypeError, ValueError) as error:
        # a cache or mask that the model's own code cannot take: whatever it raises means the same
        _logger.warning("%s cannot read a packed trie (%s).", type(model).__name__, error)
        return False
    pairs = zip([v for row in plain for v in row], [v for row in packed for v in row], strict=True)
    difference = statistics.mean(abs(one - other) for one, other in pairs)
    if not difference <= _TOLERANCE.get(model.dtype, 1e-3):
        _logger.warning("%s scores a packed trie %.2g nats off.", type(model).__name__, difference)
        return False
    return True
