"""Encoded tables: what the trainer reads."""

from typing import Any

import pandas as pd
import torch
from torch import Tensor
from torch.utils.data import Dataset

from .preprocessing import Preprocessor

FEATURES, LABELS = "features", "labels"


class EncodedTable(Dataset[dict[str, Tensor]]):
    """Rows as inputs and targets, in memory.

    Args:
        features: `(rows, features)`, scaled.
        labels: `(rows,)`: class indices, or standardised numbers.
    """

    def __init__(self, features: Tensor, labels: Tensor) -> None:
        self.features, self.labels = features, labels

    @classmethod
    def of(cls, frame: pd.DataFrame, preprocessor: Preprocessor) -> "EncodedTable":
        """The rows of a table with its target."""
        return cls(
            torch.from_numpy(preprocessor.features(frame)),
            torch.from_numpy(preprocessor.targets(frame)),
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> dict[str, Tensor]:
        return {FEATURES: self.features[row], LABELS: self.labels[row]}


def collate(rows: list[dict[str, Tensor]]) -> dict[str, Any]:
    """Rows as one batch."""
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
