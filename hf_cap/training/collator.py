"""From texts with priors to batches: tokenise, align words with tokens, collate.

    text, label, prior ── encode_dataset ──> input_ids, ..., labels, token_words, prior, prior_weight
                       ── CAPCollator ─────> the same as padded tensors, and prior_mask

The tokens are those the classifier sees in use; a word belongs to the tokens whose spans start in it.
"""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import torch
from datasets import ClassLabel, Dataset
from torch import Tensor
from transformers import PreTrainedTokenizerBase
from transformers.data.data_collator import pad_without_fast_tokenizer_warning

from hf_cap.attribution import PerExample, TokenWords, WordMask, WordScores, check_offsets
from hf_cap.errors import DataError, PriorError
from hf_cap.schema import (
    LABEL,
    PRIOR,
    PROVENANCE,
    TEXT,
    WORDS,
    check_label_space,
    check_prior,
    check_words,
)
from hf_cap.words import NO_WORD, WORD_PATTERN, split_words, token_words

LABELS = "labels"
TOKEN_WORDS = "token_words"
PRIOR_MASK = "prior_mask"
PRIOR_WEIGHT = "prior_weight"
ALIGNMENT_COLUMNS = (TOKEN_WORDS, PRIOR, PRIOR_WEIGHT)

_logger = logging.getLogger(__name__)

Rows: TypeAlias = dict[str, list[Any]]


@dataclass(frozen=True)
class Encoder:
    """Tokenises rows and aligns their words: `dataset.map(Encoder(...), batched=True, with_indices=True)`.

    Raises:
        DataError: an empty text, or a label outside the label space.
        PriorError: a prior that does not fit the words of its text, or a negative or infinite weight.
    """

    tokenizer: PreTrainedTokenizerBase
    label_ids: Mapping[Any, int]
    """What a label cell may hold, to the class index."""
    word_pattern: str = WORD_PATTERN
    max_length: int | None = None
    prior_column: str = PRIOR
    weight_column: str | None = None

    def __call__(self, rows: Rows, indices: list[int]) -> Rows:
        """Encode rows whose numbers are `indices`; the numbers serve the messages."""
        texts = rows[TEXT]
        self._check(rows, indices)
        encoded = self.tokenizer(
            texts,
            truncation=self.max_length is not None,
            max_length=self.max_length,
            return_offsets_mapping=True,
        )
        spans = [split_words(text, self.word_pattern) for text in texts]
        offsets = encoded.pop("offset_mapping")
        encoded[TOKEN_WORDS] = [
            token_words([(a, b) for a, b in pairs], words, text)
            for pairs, words, text in zip(offsets, spans, texts, strict=True)
        ]
        encoded[LABELS] = (
            [self.label_ids[label] for label in rows[LABEL]] if LABEL in rows else None
        )
        priors = rows.get(self.prior_column, [None] * len(texts))
        weights = rows.get(self.weight_column or "", [1.0] * len(texts))
        encoded[PRIOR] = [
            prior or [0.0] * len(words) for prior, words in zip(priors, spans, strict=True)
        ]
        # a prior that is 0 wherever a word has a token, as when the text is cut before, says nothing
        encoded[PRIOR_WEIGHT] = [
            float(weight)
            if prior and any(prior[word] for word in words if word != NO_WORD)
            else 0.0
            for prior, weight, words in zip(priors, weights, encoded[TOKEN_WORDS], strict=True)
        ]
        return {name: column for name, column in encoded.items() if column is not None}

    def _check(self, rows: Rows, indices: list[int]) -> None:
        for at, row in enumerate(indices):
            text = rows[TEXT][at]
            if not isinstance(text, str) or not text.strip():
                raise DataError(
                    f"Row {row}: the text is {text!r}. Each text needs at least one word."
                )
            if LABEL in rows and rows[LABEL][at] not in self.label_ids:
                raise DataError(
                    f"Row {row}: the label {rows[LABEL][at]!r} is outside the label space of the model, "
                    f"{list(self.label_ids)[:8]!r}... ({len(set(self.label_ids.values()))} labels)."
                )
            if rows.get(WORDS) and rows[WORDS][at] is not None:
                check_words(text, rows[WORDS][at], pattern=self.word_pattern, row=row)
            if self.prior_column in rows:
                words = [text[a:b] for a, b in split_words(text, self.word_pattern)]
                check_prior(rows[self.prior_column][at], words, column=self.prior_column, row=row)
            if self.weight_column in rows:
                self._check_weight(rows[self.weight_column][at], row)

    def _check_weight(self, weight: Any, row: int) -> None:
        if weight is None or not (math.isfinite(weight) and weight >= 0):
            raise PriorError(
                f"Column {self.weight_column!r}, row {row}: the weight of the prior is {weight!r}. "
                "Weights are finite and at least 0; 0 leaves an example out of the alignment."
            )


class Priors(NamedTuple):
    """The part of a batch that the alignment uses."""

    token_words: TokenWords
    scores: WordScores
    mask: WordMask
    """Words that have a token and belong to an example with a prior."""
    weight: PerExample
    """At least 0; 0 for an example without a prior, or whose prior is 0 at every word that has a token."""


def take_priors(batch: Mapping[str, Any]) -> tuple[dict[str, Any], Priors | None]:
    """Divide a batch into the classifier's inputs and the priors; `None` for a batch without them."""
    keys = (TOKEN_WORDS, PRIOR, PRIOR_MASK, PRIOR_WEIGHT)
    inputs = {name: value for name, value in batch.items() if name not in keys}
    return inputs, Priors(*[batch[key] for key in keys]) if TOKEN_WORDS in batch else None


def encode_dataset(
    dataset: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    label2id: Mapping[str, int],
    *,
    word_pattern: str = WORD_PATTERN,
    max_length: int | None = None,
    prior_column: str = PRIOR,
    weight_column: str | None = None,
    labelled: bool = True,
    name: str = "training",
) -> Dataset:
    """Tokens, labels, word alignment and priors of a data set of texts.

    Args:
        dataset: With columns `text`, `label` (class index, `ClassLabel` or label name) and priors.
        tokenizer: Fast tokenizer of the classifier.
        label2id: The model's label space.
        word_pattern: Regular expression of a word.
        max_length: Tokens that a text is cut at.
        prior_column: Column of priors; if absent, no example has one.
        weight_column: Column of weights of the priors, if there is one.
        labelled: Refuse a data set without labels.
        name: What to call the split in messages.

    Returns:
        A data set with the columns that `CAPCollator` takes.

    Raises:
        DataError: a column is missing, the split is empty, or a row is bad.
        PriorError: a prior is malformed, or belongs to other words or another label space.
        ModelError: the tokenizer gives no character offsets.
    """
    check_offsets(tokenizer)
    needed = [TEXT, LABEL if labelled else None, weight_column]
    _check_columns(dataset, [column for column in needed if column], name)
    feature = dataset.features.get(LABEL)
    if PROVENANCE in dataset.column_names and isinstance(feature, ClassLabel):
        check_label_space(dataset.unique(PROVENANCE), feature.names, column=prior_column)
    ids = label_ids(dataset, label2id)
    encoded = dataset.map(
        Encoder(tokenizer, ids, word_pattern, max_length, prior_column, weight_column),
        batched=True,
        with_indices=True,
        remove_columns=dataset.column_names,
        desc=f"Encoding the {name} set",
    )
    _warn_of_truncation(encoded, name, max_length)
    return encoded


def _check_columns(dataset: Dataset, wanted: Sequence[str], name: str) -> None:
    missing = [column for column in wanted if column not in dataset.column_names]
    if missing:
        raise DataError(
            f"The {name} set has the columns {dataset.column_names!r}, and lacks {missing!r}. "
            "Rename them, for instance `dataset.rename_column('utterance', 'text')`."
        )
    if len(dataset) == 0:
        raise DataError(f"The {name} set is empty.")


def label_ids(dataset: Dataset, label2id: Mapping[str, int]) -> dict[Any, int]:
    """What a label cell may hold, to the class index of the model.

    A cell holds the name of a label of the model, or an index in the order of the data set's names. A model
    whose labels were never named (`LABEL_0`, ...) takes the indices as they are.

    Raises:
        DataError: the data set has labels that the model has not.
    """
    feature = dataset.features.get(LABEL)
    names = feature.names if isinstance(feature, ClassLabel) else None
    if names is not None and set(names) & set(label2id):
        unknown = [name for name in names if name not in label2id]
        if unknown:
            raise DataError(
                f"The data set's labels {unknown[:8]!r} are not among the model's {list(label2id)[:8]!r}... "
                "Load the model with the data set's `label2id`."
            )
        return {index: label2id[name] for index, name in enumerate(names)}
    if names is not None and set(label2id) != {f"LABEL_{index}" for index in range(len(label2id))}:
        raise DataError(
            f"None of the data set's labels {names[:8]!r} is among the model's {list(label2id)[:8]!r}... "
            "Load the model with the data set's `label2id`."
        )
    return {**label2id, **{index: index for index in label2id.values()}}


def _warn_of_truncation(encoded: Dataset, name: str, max_length: int | None) -> None:
    if max_length is None:
        return
    cut = sum(
        len(ids) >= max_length and max(words) + 1 < len(prior)
        for ids, words, prior in zip(
            encoded["input_ids"], encoded[TOKEN_WORDS], encoded[PRIOR], strict=True
        )
    )
    if cut:
        _logger.warning(
            "%d of %d texts of the %s set are longer than %d tokens and are cut; the words cut off "
            "take no part in the alignment.", cut, len(encoded), name, max_length,
        )  # fmt: skip


@dataclass
class CAPCollator:
    """Pads a batch. Rows without `token_words` are padded as `DataCollatorWithPadding` does.

    The batch holds `input_ids`, `attention_mask` and what else the tokenizer makes, `labels` `(batch,)`,
    `token_words` `(batch, tokens)` with -1 for no word, `prior` and `prior_mask` `(batch, words)`, and
    `prior_weight` `(batch,)`. `prior_mask` is true for the words that have a token of their own, and all
    false for an example whose prior has weight 0.
    """

    tokenizer: PreTrainedTokenizerBase
    pad_to_multiple_of: int | None = None

    def __call__(self, features: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """One batch from encoded rows."""
        rows = [dict(feature) for feature in features]
        words = [row.pop(TOKEN_WORDS, None) for row in rows]
        priors = [row.pop(PRIOR, None) for row in rows]
        weights = [row.pop(PRIOR_WEIGHT, 0.0) for row in rows]
        padded = pad_without_fast_tokenizer_warning(
            self.tokenizer, rows, pad_to_multiple_of=self.pad_to_multiple_of, return_tensors="pt"
        )
        batch = {
            LABELS if key in ("label", "label_ids") else key: value for key, value in padded.items()
        }
        if any(row is None for row in words):
            return batch
        left = self.tokenizer.padding_side == "left"
        batch[TOKEN_WORDS] = _stack(words, batch["input_ids"].shape[1], NO_WORD, left=left)
        count = max(map(len, priors))
        batch[PRIOR] = _stack(priors, count, 0.0)
        batch[PRIOR_WEIGHT] = torch.tensor(weights, dtype=torch.float32)
        word = torch.arange(count)[:, None]
        seen = (batch[TOKEN_WORDS][:, None, :] == word).any(-1)  # (batch, words)
        batch[PRIOR_MASK] = seen & (batch[PRIOR_WEIGHT] > 0)[:, None]
        return batch


def _stack(
    rows: Sequence[Sequence[float]], length: int, fill: float, *, left: bool = False
) -> Tensor:
    """Rows of different lengths as one tensor, filled up on the right, or on the left."""
    filled = [
        [*([fill] * (length - len(row))), *row] if left else [*row, *([fill] * (length - len(row)))]
        for row in rows
    ]
    return torch.tensor(filled, dtype=torch.long if isinstance(fill, int) else torch.float32)
