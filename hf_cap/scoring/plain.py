"""The plain way to score: whole prompts in padded batches. Sound for every causal model.

Padding is on the right: no token can see what comes after it, so neither positions nor masks can go
wrong, whatever the model (sliding windows, recurrent state and relative positions included).
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel


class Continuation(NamedTuple):
    """A whole prompt with its answer behind it; the last `scored` tokens are the answer's."""

    ids: tuple[int, ...]
    scored: int


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


@torch.inference_mode()
def score_batch(
    model: PreTrainedModel, rows: Sequence[Continuation], *, keeps_logits: bool
) -> list[tuple[float, ...]]:
    """Log-probability of each answer token of each row, float32.

    Args:
        model: A causal language model.
        rows: Prompts with their answers.
        keeps_logits: Whether the model can compute logits at chosen positions only.
    """
    inputs = [row.ids[:-1] for row in rows]
    width = max(map(len, inputs))
    ids = torch.tensor([[*row, *[row[-1]] * (width - len(row))] for row in inputs])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in inputs])
    wanted = torch.tensor(
        sorted({p for row in rows for p in range(len(row.ids) - 1 - row.scored, len(row.ids) - 1)})
    )
    options = {"logits_to_keep": wanted.to(model.device)} if keeps_logits else {}
    logits = model(
        input_ids=ids.to(model.device),
        attention_mask=mask.to(model.device),
        use_cache=False,
        **options,
    ).logits
    place = {int(position): column for column, position in enumerate(wanted)}
    column: Callable[[int], int] = place.__getitem__ if keeps_logits else int
    return [
        _answer_log_probs(logits[index], [column(p) for p in _positions(row)], row)
        for index, row in enumerate(rows)
    ]


def _positions(row: Continuation) -> range:
    """Positions whose logits predict the answer's tokens."""
    return range(len(row.ids) - 1 - row.scored, len(row.ids) - 1)


def _answer_log_probs(logits: Tensor, columns: list[int], row: Continuation) -> tuple[float, ...]:
    chosen = logits[columns].float().log_softmax(-1)
    answer = torch.tensor(row.ids[-row.scored :], device=logits.device)
    return tuple(chosen.gather(1, answer[:, None])[:, 0].tolist())
