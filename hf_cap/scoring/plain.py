"""The plain way to score: whole prompts in padded batches. Sound for every causal model.

Padding is on the right: no token can see what comes after it, so neither positions nor masks can go
wrong, whatever the model (sliding windows, recurrent state and relative positions included).
"""

import inspect
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from .memory import MemoryBudget, out_of_memory
from .trie import Continuation


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
