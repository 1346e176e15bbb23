"""The plain way to score: whole prompts in padded batches. Sound for every causal model.

Padding is on the right: no token can see what comes after it, so neither positions nor masks can go
wrong, whatever the model (sliding windows, recurrent state and relative positions included).
"""

import inspect
import logging
from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

from hf_cap.errors import ExtractError
from hf_cap.lm.trie import Continuation
from hf_cap.utils import length_batches

_logger = logging.getLogger(__name__)
_SMALLEST = 16
_CPU_MESSAGES = ("can't allocate memory", "DefaultCPUAllocator")


class MemoryBudget:
    """Tokens per forward pass; halved when memory runs out.

    Args:
        tokens: Tokens of one forward pass to begin with.
    """

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens

    def halve(self, error: RuntimeError) -> None:
        """Go on with half the tokens where the error says that memory ran out; any other is raised.

        Raises:
            ExtractError: the budget is as small as is sensible already.
        """
        cpu = any(message in str(error) for message in _CPU_MESSAGES)
        if not cpu and not isinstance(error, torch.OutOfMemoryError):
            raise error
        if self.tokens <= _SMALLEST:
            raise ExtractError(
                f"Out of memory with only {self.tokens} tokens at a time. Use a smaller model, a shorter "
                "prompt, quantization='4bit', or another device."
            ) from error
        self.tokens = max(_SMALLEST, self.tokens // 2)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        _logger.warning("Out of memory; going on with a token budget of %d.", self.tokens)


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
            for batch in length_batches(lengths, self.budget.tokens):
                group = [missing[place] for place in batch]
                try:
                    values = self._batch([rows[index] for index in group])
                except RuntimeError as error:
                    self.budget.halve(error)
                    break
                results.update(zip(group, values, strict=True))
                self.tokens_computed += sum(len(rows[index].ids) - 1 for index in group)
        return [results[index] for index in range(len(rows))]

    @torch.inference_mode()
    def _batch(self, rows: Sequence[Continuation]) -> list[tuple[float, ...]]:
        inputs = [row.ids[:-1] for row in rows]
        width, device = max(map(len, inputs)), self.model.device
        ids = torch.tensor([[*row, *[row[-1]] * (width - len(row))] for row in inputs])
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in inputs])
        # the positions whose logits predict the answers' tokens
        wanted = [
            range(len(ids) - row.scored, len(ids)) for ids, row in zip(inputs, rows, strict=True)
        ]
        kept = sorted({place for places in wanted for place in places})
        options = (
            {"logits_to_keep": torch.tensor(kept, device=device)} if self._keeps_logits else {}
        )
        logits = self.model(
            input_ids=ids.to(device), attention_mask=mask.to(device), use_cache=False, **options
        ).logits
        if self._keeps_logits:
            wanted = [range(kept.index(p.start), kept.index(p.stop - 1) + 1) for p in wanted]
        results = []
        for row, answer_logits, places in zip(rows, logits, wanted, strict=True):
            chosen = answer_logits[places.start : places.stop].float().log_softmax(-1)
            answer = torch.tensor(row.ids[-row.scored :], device=device)
            results.append(tuple(chosen.gather(1, answer[:, None])[:, 0].tolist()))
        return results
