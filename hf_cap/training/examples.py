"""What training makes of its examples: weights, words that are left out, attacked versions.

The losses of a batch are those of all processes; under gradient accumulation each micro-batch is a batch.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from datasets import Dataset, Value, concatenate_datasets
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.data import Sampler

from hf_cap.attribution import PerExample, Scalar, TokenWords, random_uniform
from hf_cap.data import label_names
from hf_cap.errors import DataError
from hf_cap.schema import CHANGED, LABEL, ORIGINAL, TEXT, VERSION_OF
from hf_cap.training.options import ExampleWeighting, WeightingOptions
from hf_cap.utils import generator

_logger = logging.getLogger(__name__)

EXAMPLE_WEIGHT = "example_weight"  # column of an encoded data set, and entry of a batch, `(batch,)`
_SHAPES: dict[str, Callable[[Tensor], Tensor]] = {
    "loss_linupper": lambda scaled: (scaled + 1).clamp_max(1),
    "loss_quadratic": lambda scaled: 1 - scaled.square(),
    "loss_extremes": torch.abs,
}
"""Scaled losses in [-1, 1] to h in [0, 1] (arXiv 2502.06733, whose δ is 1 here: only h / r matters)."""


def example_weights(
    method: ExampleWeighting, losses: PerExample, labels: Tensor, temperature: float
) -> PerExample:
    """Weights of mean 1 for the examples of a batch, from their losses (nats) and class indices.

    The weights are the softmax of h(loss) / r times the number of examples. For `loss_...` the losses are
    scaled to [-1, 1]. For `dro` h is the loss itself: these weights are the gradient of
    r · log mean exp(loss / r), the worst mean over distributions near the batch in KL divergence. For
    `class_dro` it is the mean loss of the example's class. The larger r, the nearer are the weights to 1.
    """
    if method == "none":
        return torch.ones_like(losses)
    if method == "class_dro":
        same = (labels[:, None] == labels).to(losses.dtype)
        scores = same @ losses / same.sum(1)
    else:
        scores = _SHAPES[method](scale(losses)) if method in _SHAPES else losses
    return len(losses) * (scores / temperature).softmax(0)


def scale(losses: PerExample) -> PerExample:
    """Losses from -1, the least, to 1, the largest; all 0 where they are equal."""
    low, high = losses.aminmax()
    return torch.where(high > low, (2 * losses - low - high) / (high - low), 0.0)


def temperature_at(options: WeightingOptions, progress: float) -> float:
    """Temperature r at this part of the training, in [0, 1]: in the warm-up it falls from infinity."""
    warmup = options.example_weighting_warmup
    risen = min(1.0, progress / warmup) if warmup else 1.0
    return options.example_weighting_temperature / max(risen, 1e-9)


def weigh_task(loss: Scalar, logits: Tensor, labels: Any, given: Tensor | None, trainer: Any) -> Scalar:
    """The task loss of a batch, `loss`, with the weights that the settings of a trainer ask for."""
    args, state, gather = trainer.args, trainer.state, trainer.accelerator.gather
    if args.example_weight_column and given is None:
        raise DataError(
            f"The batch has no {EXAMPLE_WEIGHT!r}, got {args.example_weight_column=!r}; give raw texts with "
            "that column, or encode them by `encode_dataset(..., example_weight_column=...)`."
        )
    smoothing = args.label_smoothing_factor
    losses = cross_entropy(logits, labels, reduction="none", label_smoothing=smoothing)
    temperature = temperature_at(args, state.global_step / max(state.max_steps, 1))
    every = gather(losses.detach()), gather(labels)
    # processes are gathered in order, each with as many rows
    own = slice(args.process_index * len(losses), (args.process_index + 1) * len(losses))
    weight = example_weights(args.example_weighting, *every, temperature)[own]
    weight = weight if given is None else weight * given
    # only the difference is added, so that weights of 1 leave loss and gradient as they are, to the bit
    return loss + ((weight - 1) * losses).mean()


# --- Word dropout guided by the prior: words that it gives little are left out of many training passes.

Words = Float[Tensor, "batch words"]


def keep_probability(
    scores: Words, mask: Bool[Tensor, "batch words"], dropout: float, saturation: float
) -> Words:
    """Probability that a word stays: 1 − dropout at score 0, 1 from `saturation` · highest score on.

    Args:
        scores: Prior of each word; those below 0 count as 0.
        dropout: Highest probability to leave a word out, in [0, 1].
        saturation: Part of the text's highest score from which on a word always stays, in (0, 1].

    Returns:
        Probabilities in [1 − dropout, 1]; 1 in texts whose prior is zero everywhere.
    """
    scores = scores.clamp(min=0) * mask
    highest = scores.amax(1, keepdim=True)
    part = torch.where(highest > 0, scores / (saturation * highest).clamp(min=1e-12), 1.0)
    return 1 - dropout * (1 - part.clamp(max=1))


def drop_words(
    inputs: dict[str, Tensor], words: TokenWords, keep: Words, *, pad: int, seed: int
) -> dict[str, Tensor]:
    """The inputs without the tokens of the words that are left out; the rest moves up, as if never written.

    What is left out depends on the seed, the text and the word alone, so that resumed, accumulated and
    distributed training leave out the same. One word stays at least.

    Args:
        inputs: Model inputs with one entry per token, padded on the right; other entries stay as they are.
        words: Word of each token, −1 for none.
        keep: Probability that each word stays, in [0, 1].
    """
    ids, attended = inputs["input_ids"], inputs["attention_mask"].bool()
    margin = keep - random_uniform(ids, attended, keep.shape[1], seed).T
    real = torch.zeros_like(margin).scatter_add_(1, words.clamp(min=0), (words >= 0).to(margin))
    margin = margin.masked_fill(real == 0, -2)  # words that were cut off cannot stay alone
    stays = (margin > 0) | (margin == margin.amax(1, keepdim=True))
    of_token = stays.gather(1, words.clamp(min=0)) | (words < 0)
    kept = of_token & attended
    order = (~kept).long().argsort(dim=1, stable=True)
    width = int(kept.sum(1).max())
    found = dict(inputs)
    for name, value in inputs.items():
        if value.shape == ids.shape:
            found[name] = value.gather(1, order)[:, :width]
    found["attention_mask"] = kept.gather(1, order)[:, :width].to(inputs["attention_mask"].dtype)
    found["input_ids"] = found["input_ids"].masked_fill(found["attention_mask"] == 0, pad)
    return found


# --- Attacked texts as further rows, all of them or another version of each text on every epoch.


def with_attacked(dataset: Dataset, attacked: Sequence[Dataset], *, fresh: bool = True) -> Dataset:
    """A training set with the attacked versions of its texts as further rows, which have no prior.

    Args:
        dataset: Training texts: columns `text` and `label`, and what else is null for attacked texts.
        attacked: What `attack_dataset` made of training texts. Unchanged texts, and those whose original is
            not in `dataset`, are left out.
        fresh: Draw one version of each text anew on every epoch (by the column `version_of`); else all
            versions are in every epoch.

    Raises:
        DataError: a label space is another one, or nothing was made of a text of `dataset`.
    """
    labels, texts, parts = label_names(dataset), set(dataset[TEXT]), [dataset]
    if fresh:
        parts = [dataset.add_column(VERSION_OF, [None] * len(dataset), feature=Value("string"))]
    features = parts[0].features
    for data in attacked:
        if ORIGINAL not in data.column_names or label_names(data) != labels:
            raise DataError(
                f"An attacked set needs the column {ORIGINAL!r} and the labels {labels[:5]!r}..., got "
                f"{data.column_names}; make it by `hf-cap attack` of the same data."
            )
        origins, changed = data[ORIGINAL][:], data[CHANGED][:]
        chosen = data.select([row for row, t in enumerate(origins) if changed[row] and t in texts])
        rows = dict.fromkeys(features, [None] * len(chosen)) | {n: chosen[n][:] for n in (TEXT, LABEL)}
        rows |= {VERSION_OF: chosen[ORIGINAL][:]} if fresh else {}
        parts.append(Dataset.from_dict(rows, features=features))
    added = sum(map(len, parts[1:]))
    if not added:
        raise DataError(
            "No attacked text was made of a training text; attack the training split: `hf-cap attack "
            "--split train`."
        )
    _logger.info("%d attacked versions of %d training texts.", added, len(dataset))
    return concatenate_datasets(parts)


def version_sampler(dataset: object, seed: int) -> "VersionSampler | None":
    """The sampler of a training set with the column `version_of`; `None` for any other."""
    if not isinstance(dataset, Dataset) or VERSION_OF not in dataset.column_names:
        return None
    return VersionSampler(dataset[VERSION_OF][:], seed)


class VersionSampler(Sampler[int]):
    """All rows in random order, but of those with the same `version_of` one, drawn on each epoch.

    Seed and epoch decide, so all processes draw the same. Rows whose `version_of` is `None` are always drawn.
    """

    def __init__(self, version_of: Sequence[str | None], seed: int) -> None:
        groups: dict[object, list[int]] = {}
        for row, text in enumerate(version_of):
            groups.setdefault(row if text is None else text, []).append(row)
        self.groups, self.seed, self.epoch = list(groups.values()), seed, 0

    def __len__(self) -> int:
        return len(self.groups)

    def set_epoch(self, epoch: int) -> None:
        """Draw as on this epoch from now on."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        draw = generator(self.seed, VERSION_OF, self.epoch)
        rows = [group[draw.integers(len(group))] for group in self.groups]
        yield from draw.permutation(rows).tolist()
