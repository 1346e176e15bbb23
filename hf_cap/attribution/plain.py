"""Word attributions of plain texts, without a graph: what evaluation, pipelines and callbacks use."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from ..classifiers import evaluation_mode
from ..errors import ModelError
from ..types import TokenWords
from ..words import WORD_PATTERN, split_words, token_words
from .passes import Explained, Inputs, path_scores
from .points import path_points
from .target import pool_words


def attribute_words(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    targets: Sequence[int],
    *,
    method: str = "integrated_gradients",
    steps: int = 50,
    rule: str = "gauss_legendre",
    target: str = "gold",
    batch_size: int = 32,
    word_pattern: str = WORD_PATTERN,
    max_length: int | None = None,
    seed: int = 0,
) -> list[list[float]]:
    """Attribution scores of the words of some texts; nothing can be differentiated through them.

    With the defaults they are captum's `LayerIntegratedGradients` on the word embeddings, summed over the
    hidden dimension and the tokens of each word.

    Args:
        model: A sequence classifier; runs in evaluation mode and is put back into its own.
        tokenizer: Its fast tokenizer.
        texts: The texts.
        targets: The label to explain, for each text.
        method: One of `METHODS`.
        steps: Points on the path.
        rule: One of `QUADRATURES`; used by `integrated_gradients`.
        target: One of `TARGETS`.
        batch_size: Path points (texts · steps) in one pass.
        word_pattern: Regular expression of a word.
        max_length: Tokens that a text is cut at; the tokenizer's own limit by default. Words cut off score 0.
        seed: Of the random points of `expected_gradients`.

    Returns:
        One list a text, one score a word, in logits; positive speaks for the target.

    Raises:
        ConfigError: there is no such method, rule or target, or fewer than one step.
        ModelError: the model has no pad token or embeds no `input_ids`, or the tokenizer is not a fast one.
    """
    order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
    points_a_text = 1 if method == "input_x_gradient" else max(1, steps)
    per_batch = max(1, batch_size // points_a_text)
    result: list[list[float]] = [[]] * len(texts)
    with evaluation_mode(model), torch.enable_grad():
        for start in range(0, len(order), per_batch):
            rows = order[start : start + per_batch]
            some = [texts[i] for i in rows]
            inputs, words = _encode(some, tokenizer, word_pattern, max_length)
            inputs, words = _to(inputs, words, next(model.parameters()).device)
            labels = torch.tensor([targets[i] for i in rows], device=words.device)
            points = path_points(
                method, inputs["input_ids"], inputs["attention_mask"],
                steps=steps, rule=rule, seed=seed,
            )  # fmt: skip
            explained = Explained(model, inputs, labels, words, target)
            scores, _ = path_scores(explained, points, rows=batch_size)
            counts = [len(split_words(text, word_pattern)) for text in some]
            pooled = pool_words(scores, words, max(counts)).tolist()
            for i, count, row in zip(rows, counts, pooled, strict=True):
                result[i] = row[:count]
    return result


def check_offsets(tokenizer: Any) -> None:
    """Refuse a tokenizer that cannot say where in the text its tokens come from.

    Raises:
        ModelError: the tokenizer is not a fast one.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise ModelError(
            f"Words are found by character offsets, which {type(tokenizer).__name__} does not give. "
            "Load a fast tokenizer: `AutoTokenizer.from_pretrained(..., use_fast=True)`."
        )


def _encode(
    texts: list[str], tokenizer: PreTrainedTokenizerBase, pattern: str, max_length: int | None
) -> tuple[dict[str, Tensor], TokenWords]:
    check_offsets(tokenizer)
    batch = tokenizer(
        texts,
        truncation=True,
        max_length=max_length,
        padding=True,
        return_offsets_mapping=True,
        return_tensors="pt",
    )
    offsets = batch.pop("offset_mapping").tolist()
    words = [
        token_words(map(tuple, spans), split_words(text, pattern), text)
        for text, spans in zip(texts, offsets, strict=True)
    ]
    return dict(batch), torch.tensor(words)


def _to(
    inputs: Inputs, words: TokenWords, device: torch.device
) -> tuple[dict[str, Tensor], TokenWords]:
    return {name: value.to(device) for name, value in inputs.items()}, words.to(device)
