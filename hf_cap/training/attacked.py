"""Attacked texts as further training texts, all of them or another version of each text on every epoch."""

import logging
from collections.abc import Iterator, Sequence

from datasets import Dataset, Value, concatenate_datasets
from torch.utils.data import Sampler

from hf_cap.data import label_names
from hf_cap.errors import DataError
from hf_cap.schema import CHANGED, LABEL, ORIGINAL, TEXT, VERSION_OF
from hf_cap.utils import generator

_logger = logging.getLogger(__name__)


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
        rows = dict.fromkeys(features, [None] * len(chosen)) | {
            n: chosen[n][:] for n in (TEXT, LABEL)
        }
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

    Seed and epoch decide, so all processes draw the same. Rows whose `version_of` is `None` are always
    drawn.
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
