"""Batches of prompts with known answers, as one sequence: what they share is computed once.

    queries ── read_queries ──> continuations ── AnswerCollator ──> input_ids, position_ids, attention_mask,
                                                                    and where the answers' tokens are

The prompts of one task begin alike (instruction, label space, demonstrations). The collator lays a batch
out as the trie of `hf_cap.scoring`, so that this beginning costs one pass a step, and its gradient is the
sum over all texts that share it. For a model that takes no such sequence each prompt is a row of its own.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Sampler
from transformers import PreTrainedTokenizerBase

from ..scoring.protocol import Query
from ..scoring.tokens import PromptTokenizer
from ..scoring.trie import Continuation, Trie, build_trie
from ..types import Scalar


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
