"""The source `shap`: Owen values of the words, by the partition explainer of the `shap` package."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from hf_cap.errors import MissingExtra
from hf_cap.priors.base import Row, SourceResult
from hf_cap.priors.classifier import ClassifierSource, ReferenceClassifier
from hf_cap.utils import check_range, documented, option
from hf_cap.words import keep_words

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_MASKS_PER_CALL = 64


@documented
@dataclass(frozen=True, kw_only=True)
class ShapPrior(ClassifierSource):
    """Scores each word by its Owen value for the gold label's log-probability, in nats.

    The scores of a text add up to its gold log-probability minus that of the text without any word.
    """

    name: ClassVar[str] = "shap"

    evaluations: int = option(500, "Most perturbed texts per text, at least 2 per word.")
    replacement: str = option("", "What replaces a word that is taken out; empty deletes it.")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, "evaluations", at_least=2)

    def score_words(self, rows: Sequence[Row]) -> SourceResult:
        """Score the words of some rows.

        Raises:
            MissingExtra: the `shap` package is not installed.
        """
        try:
            import shap
        except ImportError as error:
            raise MissingExtra(
                "The source 'shap' needs the package `shap`: pip install 'hf-cap[shap]'"
            ) from error
        classifier = self.open()
        scores = [self._owen_values(shap, classifier, row) for row in rows]
        return SourceResult(scores, facts={"identity": classifier.identity})

    def _owen_values(self, library: Any, classifier: ReferenceClassifier, row: Row) -> list[float]:
        import numpy as np

        def gold(texts: "NDArray[np.str_]") -> "NDArray[np.float64]":
            return classifier.log_probs(texts.tolist())[:, row.label].double().numpy()

        masker = _WordMasker(row, self.replacement or None)
        if len(row.spans) == 1:  # the library cannot build a tree of one word
            without, whole = (gold(*masker(np.array([kept]), "")) for kept in (False, True))
            return [float(whole[0] - without[0])]
        explained = library.explainers.Partition(gold, masker).explain_row(
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
    """The masker that the library asks for: our words as features, and a tree over them."""

    def __init__(self, row: Row, replacement: str | None) -> None:
        self.row = row
        self.replacement = replacement
        self.shape = (1, len(row.spans))
        self.clustering = word_tree(len(row.spans))

    def __call__(self, mask: "NDArray[np.bool_]", text: str) -> tuple["NDArray[np.str_]"]:
        """The text with only the words of the mask."""
        import numpy as np

        kept = keep_words(self.row.text, self.row.spans, mask.tolist(), self.replacement)
        return (np.array([kept]),)

    def mask_shapes(self, text: str) -> list[tuple[int]]:
        """Shape of a mask."""
        return [(len(self.row.spans),)]


def word_tree(words: int) -> "NDArray[np.float64]":
    """Binary tree over neighbouring words, in the linkage format of scipy: (left, right, height, size).

    Each part is cut into halves, the left one the longer. `(words - 1, 4)`.
    """
    import numpy as np

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
