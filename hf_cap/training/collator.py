"""From texts with priors to batches: tokenise, align words with tokens, collate.

    text, label, prior ── encode_dataset ──> input_ids, ..., labels, token_words, prior, prior_weight
                       ── CAPCollator ─────> the same as padded tensors, and prior_mask

The tokens are those the classifier sees in use; a token belongs to the first word that its span touches.
Words that share a token are aligned as one: the first has the sum of their priors.
"""

import logging
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from datasets import ClassLabel, Dataset
from torch import Tensor
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence
from transformers import DataCollatorWithPadding, PreTrainedTokenizerBase

from hf_cap import schema
from hf_cap.attribution import PerExample, TokenWords, WordMask, WordScores, check_offsets
from hf_cap.classifiers import warn_unknown
from hf_cap.data import label_ids
from hf_cap.errors import DataError, PriorError
from hf_cap.schema import LABEL, PRIOR, PROVENANCE, TEXT, VERSION_OF, WORDS
from hf_cap.training.examples import EXAMPLE_WEIGHT
from hf_cap.words import (
    NO_WORD,
    WORD_PATTERN,
    check_units,
    pool_shared,
    split_words,
    token_hosts,
    token_words,
)

LABELS = "labels"
TOKEN_WORDS = "token_words"
PRIOR_MASK = "prior_mask"
PRIOR_WEIGHT = "prior_weight"
ALIGNMENT_COLUMNS = (TOKEN_WORDS, PRIOR, PRIOR_WEIGHT)

_logger = logging.getLogger(__name__)

Rows = dict[str, list[Any]]


@dataclass(frozen=True)
class Encoder:
    """Tokenises rows and aligns their words: `dataset.map(Encoder(...), batched=True, with_indices=True)`.

    See `encode_dataset`; `label_ids` maps what a label cell may hold to the class index.
    """

    tokenizer: PreTrainedTokenizerBase
    label_ids: Mapping[Any, int]
    word_pattern: str = WORD_PATTERN
    max_length: int | None = None
    prior_column: str = PRIOR
    weight_column: str | None = None
    example_weight_column: str | None = None

    def __call__(self, rows: Rows, indices: list[int]) -> Rows:
        """Encode rows whose numbers are `indices`; the numbers serve the messages."""
        for at, row in enumerate(indices):
            self._check({name: column[at] for name, column in rows.items()}, row)
        texts = rows[TEXT]
        encoded = self.tokenizer(
            texts,
            truncation=self.max_length is not None,
            max_length=self.max_length,
            return_offsets_mapping=True,
        )
        spans = [split_words(text, self.word_pattern) for text in texts]
        offsets = [[(a, b) for a, b in pairs] for pairs in encoded.pop("offset_mapping")]
        encoded[TOKEN_WORDS] = list(map(token_words, offsets, spans, texts))
        if LABEL in rows:
            encoded[LABELS] = [self.label_ids[label] for label in rows[LABEL]]
        if VERSION_OF in rows:
            encoded[VERSION_OF] = rows[VERSION_OF]
        if self.example_weight_column:
            found = rows[self.example_weight_column]
            encoded[EXAMPLE_WEIGHT] = [1.0 if (one := _as_weight(each)) is None else one for each in found]
        priors = rows.get(self.prior_column, [None] * len(texts))
        weights = rows.get(self.weight_column or "", [1.0] * len(texts))
        hosts = map(token_hosts, offsets, encoded[TOKEN_WORDS], spans)
        encoded[PRIOR] = [
            pool_shared(prior or [0.0] * len(shared), shared)
            for prior, shared in zip(priors, hosts, strict=True)
        ]
        # a prior that is 0 at each word with a token, as when the text is cut before, gets weight 0
        columns = zip(encoded[PRIOR], encoded[TOKEN_WORDS], weights, strict=True)
        encoded[PRIOR_WEIGHT] = [
            float(weight) if any(prior[word] for word in words if word != NO_WORD) else 0.0
            for prior, words, weight in columns
        ]
        return dict(encoded)

    def _check(self, cells: dict[str, Any], row: int) -> None:
        text, label = cells[TEXT], cells.get(LABEL)
        if not isinstance(text, str) or not text.strip():
            raise DataError(f"Row {row}: the text is {text!r}; each text needs at least one word.")
        if LABEL in cells and label not in self.label_ids:
            raise DataError(
                f"Row {row}: the label {label!r} is outside the label space of the model, "
                f"{list(self.label_ids)[:8]!r}... ({len(set(self.label_ids.values()))} labels)."
            )
        if cells.get(WORDS) is not None:
            schema.check_words(text, cells[WORDS], pattern=self.word_pattern, row=row)
        words = [text[a:b] for a, b in split_words(text, self.word_pattern)]
        schema.check_prior(cells.get(self.prior_column), words, column=self.prior_column, row=row)
        weight: Any = cells.get(self.weight_column or "", 1.0)
        if not isinstance(weight, int | float) or not 0 <= weight < math.inf:
            raise PriorError(
                f"Column {self.weight_column!r}, row {row}: the weight of the prior is {weight!r}; weights "
                "are finite and at least 0, and 0 leaves an example out of the alignment."
            )
        given = cells.get(name := self.example_weight_column or "")
        weight = _as_weight(given)
        if weight is not None and not 0 <= weight < math.inf:
            raise DataError(
                f"Column {name!r}, row {row}: the weight of the text is {given!r}; weights are finite and "
                "at least 0, and a null counts as 1."
            )


def _as_weight(value: Any) -> float | None:
    """A weight, which a csv file holds as text; `None` for a null or an empty cell, NaN for no number."""
    if value is None or value == "":
        return None
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan


class Priors(NamedTuple):
    """The part of a batch that the alignment uses."""

    token_words: TokenWords
    scores: WordScores
    mask: WordMask  # words that have a token and belong to an example with a prior
    weight: PerExample
    """At least 0; 0 for an example without a prior, or whose prior is 0 at every word that has a token."""


def take_priors(batch: Mapping[str, Any]) -> tuple[dict[str, Any], Priors | None]:
    """Divide a batch into the classifier's inputs and the priors; `None` for a batch without them."""
    keys = (TOKEN_WORDS, PRIOR, PRIOR_MASK, PRIOR_WEIGHT)
    inputs = {name: value for name, value in batch.items() if name not in keys}
    return inputs, Priors(*[batch[key] for key in keys]) if TOKEN_WORDS in batch else None


def _check_columns(dataset: Dataset, needed: Iterable[str], name: str) -> None:
    columns = dataset.column_names
    if missing := [column for column in needed if column not in columns]:
        raise DataError(
            f"The {name} set has the columns {columns!r}, and lacks {missing!r}; rename them, for instance "
            "`dataset.rename_column('utterance', 'text')`."
        )
    if len(dataset) == 0:
        raise DataError(f"The {name} set is empty.")


def encode_dataset(
    dataset: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    label2id: Mapping[str, int],
    *,
    word_pattern: str = WORD_PATTERN,
    max_length: int | None = None,
    prior_column: str = PRIOR,
    weight_column: str | None = None,
    example_weight_column: str | None = None,
    labelled: bool = True,
    name: str = "training",
) -> Dataset:
    """Tokenise a data set by the classifier's fast tokenizer, and align words, for `CAPCollator`.

    Args:
        dataset: With columns `text`, `label` (class index, `ClassLabel` or label name) and priors.
        word_pattern, max_length: Regular expression of a word; tokens that a text is cut at.
        prior_column, weight_column: Of priors, and of their weights; if absent, no example has one.
        example_weight_column: Of the weights of the texts in the task loss, if they have any.
        name: What to call the split in messages.
    """
    check_offsets(tokenizer)
    columns, feature = dataset.column_names, dataset.features.get(LABEL)
    weighed = filter(None, (weight_column, example_weight_column))
    needed = [TEXT, *[LABEL] * labelled, *weighed]
    _check_columns(dataset, needed, name)
    if PROVENANCE in columns and isinstance(feature, ClassLabel):
        schema.check_label_space(dataset.unique(PROVENANCE), feature.names, column=prior_column)
    ids = label_ids(dataset, label2id)
    check_units(dataset[TEXT][:], word_pattern, name)
    read = prior_column, weight_column, example_weight_column
    encode = Encoder(tokenizer, ids, word_pattern, max_length, *read)
    how: dict[str, Any] = {"batched": True, "with_indices": True, "remove_columns": columns}
    encoded = dataset.map(encode, **how, desc=f"Encoding the {name} set")
    warn_unknown(tokenizer, encoded["input_ids"], name)
    found = zip(encoded["input_ids"], encoded[TOKEN_WORDS], encoded[PRIOR], strict=True)
    most = max_length or math.inf
    cut = sum(len(tokens) >= most and max(words) + 1 < len(prior) for tokens, words, prior in found)
    if cut:
        _logger.warning(
            f"{cut} of {len(encoded)} texts of the {name} set are longer than {max_length} tokens and are "
            "cut; the words cut off take no part in the alignment."
        )
    return encoded


@dataclass
class CAPCollator(DataCollatorWithPadding):
    """Pads a batch as `DataCollatorWithPadding` does, and what the alignment needs where rows have it.

    That is `token_words` `(batch, tokens)` with -1 for no word, `prior` and `prior_mask` `(batch, words)`,
    and `prior_weight` `(batch,)`. `prior_mask` is true for the words that have a token of their own, and all
    false for an example whose prior has weight 0.
    """

    def __call__(self, features: Any) -> dict[str, Tensor]:
        """One batch from encoded rows."""
        rows = [{n: cell for n, cell in row.items() if n != VERSION_OF} for row in features]
        words = [row.pop(TOKEN_WORDS, None) for row in rows]
        priors = [row.pop(PRIOR, None) for row in rows]
        weights = [row.pop(PRIOR_WEIGHT, 0.0) for row in rows]
        batch = dict(super().__call__(rows))
        if any(row is None for row in words):
            return batch
        side = self.tokenizer.padding_side
        found = pad_sequence(list(map(torch.tensor, words)), True, NO_WORD, side)
        extra = batch["input_ids"].shape[1] - found.shape[1]  # of `pad_to_multiple_of`
        batch[TOKEN_WORDS] = pad(found, (extra, 0) if side == "left" else (0, extra), value=NO_WORD)
        batch[PRIOR] = pad_sequence([torch.tensor(row, dtype=torch.float32) for row in priors], True)
        batch[PRIOR_WEIGHT] = torch.tensor(weights, dtype=torch.float32)
        word = torch.arange(batch[PRIOR].shape[1])[:, None]
        seen = (batch[TOKEN_WORDS][:, None, :] == word).any(-1)  # (batch, words)
        batch[PRIOR_MASK] = seen & (batch[PRIOR_WEIGHT] > 0)[:, None]
        return batch
