"""Facts about sequence classifiers that every stage must agree on."""

from torch import nn
from transformers import PreTrainedTokenizerBase


def longest_input(model: nn.Module, tokenizer: PreTrainedTokenizerBase) -> int:
    """Number of tokens, special ones included, that tokenizer and model both allow."""
    positions = getattr(model.config, "max_position_embeddings", None)
    if positions is None:
        return int(tokenizer.model_max_length)
    # RoBERTa and its kin begin to count positions behind that of the padding
    offsets = [
        module.padding_idx + 1
        for name, module in model.named_modules()
        if name.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None
    ]
    return int(min(tokenizer.model_max_length, positions - max(offsets, default=0)))
