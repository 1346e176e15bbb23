"""The source `shap`: Owen values of the words, by the partition explainer of the `shap` package.

Source: Lundberg & Lee, "A Unified Approach to Interpreting Model Predictions" (arXiv 1705.07874). Owen
values are Shapley values in which words join in the order of a tree, here the halves of the text, the
halves of those, and so on.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ..errors import MissingExtra
from ..words import keep_words
from .classifier import ClassifierSource, ReferenceClassifier
from .rows import Row
from .source_settings import ShapSettings
from .word_source import Explanations

_MASKS_PER_CALL = 64


@dataclass(frozen=True, kw_only=True)
class ShapPrior(ClassifierSource, ShapSettings):
    """Scores each word by its Owen value for the gold label's log-probability, in nats.

    The scores of a text add up to its gold log-probability minus that of the text without any word.
    """

    name: ClassVar[str] = "shap"

    def __post_init__(self) -> None:
        super().__post_init__()
        ShapSettings.__post_init__(self)

    def explain(self, rows: Sequence[Row]) -> Explanations:
        """Score the words of some rows.

        Raises:
            MissingExtra: the `shap` package is not installed.
        """
        library, classifier = _library(), self.open()
        scores = [self._owen_values(library, classifier, row) for row in rows]
        return Explanations(scores, facts={"identity": classifier.identity})

    def _owen_values(
        self, library: ModuleType, classifier: ReferenceClassifier, row: Row
    ) -> list[float]:
        def gold(texts: NDArray[np.str_]) -> NDArray[np.float64]:
            return classifier.log_probs(texts.tolist())[:, row.label].double().numpy()

        masker = _WordMasker(row, self.replacement or None)
        if len(row.spans) == 1:  # the library cannot make a tree of one word
            without, whole = gold(
                np.concatenate([masker(np.array([k]), "")[0] for k in (False, True)])
            )
            return [float(whole - without)]
        explainer = library.explainers.Partition(gold, masker)
        explained = explainer.explain_row(
            row.text,
            max_evals=self.evaluations,
            main_effects=False,
            error_bounds=False,
            outputs=None,
            silent=True,
            batch_size=_MASKS_PER_CALL,
        )
        values: list[float] = explained["values"].tolist()
        return values


class _WordMasker:
    """What the library asks of a masker: our words as features, and a tree over them."""

    def __init__(self, row: Row, replacement: str | None) -> None:
        self.row = row
        self.replacement = replacement
        self.shape = (1, len(row.spans))
        self.clustering = word_tree(len(row.spans))

    def __call__(self, mask: NDArray[np.bool_], text: str) -> tuple[NDArray[np.str_]]:
        """The text with only the words of the mask."""
        kept = keep_words(self.row.text, self.row.spans, mask.tolist(), self.replacement)
        return (np.array([kept]),)

    def mask_shapes(self, text: str) -> list[tuple[int]]:
        """Shape of a mask."""
        return [(len(self.row.spans),)]


def word_tree(words: int) -> NDArray[np.float64]:
    """Binary tree over neighbouring words, in the linkage format of scipy: (left, right, height, size).

    Each part is cut into halves, the left one the longer. `(words - 1, 4)`.
    """
    links: list[tuple[float, float, float, float]] = []

    def join(start: int, end: int) -> int:
        if end - start == 1:
            return start
        middle = (start + end + 1) // 2
        left, right = join(start, middle), join(middle, end)
        links.append((left, right, (end - start) / words, end - start))
        return words + len(links) - 1

    join(0, words)
    return np.array(links).reshape(-1, 4)


def _library() -> Any:
    try:
        import shap
    except ImportError as error:
        raise MissingExtra(
            "The source 'shap' needs the package `shap`: pip install 'hf-cap[shap]'"
        ) from error
    return shap
