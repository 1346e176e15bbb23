"""What the `evaluate` modules that run a classifier have in common."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import evaluate

from hf_cap.evaluation.evaluate import mean_defined
from hf_cap.evaluation.metrics import FloatArray, load_classifier
from hf_cap.evaluation.spaces import EXPLAINED_TEXTS, LICENSE

_INPUTS = """
Args:
    predictions: one list of word scores a text; positive = evidence for the explained class.
    references: explained class of each text as the model numbers it, usually the predicted one.
    texts: the texts.
    model: a sequence classifier: loaded, or a folder or Hub id.
    tokenizer: its tokenizer or where it is; by default the one beside `model`.
    batch_size: most texts of a forward pass; changes the speed, not the result.
    word_pattern: regular expression of a word; white space separates words by default.
    per_text: also return the value of each text, as `per_text`.
{options}
Returns:
{returns}
"""


class FaithfulnessMetric(evaluate.Metric, ABC):  # type: ignore[misc]  # evaluate is untyped
    """A measure of word scores against a classifier, averaged over the texts where it is defined.

    Attributes:
        measure: (classifier, texts, targets, attributions, **options) -> one value a text. The metric's
            result has the name of this function.
    """

    measure: ClassVar[Callable[..., FloatArray]]

    @abstractmethod
    def _info(self) -> evaluate.MetricInfo:
        """Description, citation and arguments; see `describe`."""

    def _compute(
        self,
        predictions: Sequence[Sequence[float]],
        references: Sequence[int],
        texts: Sequence[str],
        model: Any,
        tokenizer: Any = None,
        batch_size: int = 32,
        per_text: bool = False,
        **options: Any,
    ) -> dict[str, Any]:
        measure = type(self).measure
        classifier = load_classifier(model, tokenizer, batch_size=batch_size)
        values = measure(classifier, texts, references, predictions, **options)
        result = {measure.__name__: mean_defined(values)}
        return {**result, "per_text": values.tolist()} if per_text else result


def describe(
    description: str | None, *, citation: str, url: str, options: str, returns: str
) -> evaluate.MetricInfo:
    """What `evaluate` shows of such a metric.

    Args:
        description: Docstring of its module.
        citation: BibTeX entry.
        url: Address of the paper.
        options: The measure's own options, as indented lines `name: meaning`.
        returns: The result, in the same form.
    """
    return evaluate.MetricInfo(
        description=description or "",
        citation=citation,
        inputs_description=_INPUTS.format(options=options, returns=returns),
        features=EXPLAINED_TEXTS,
        license=LICENSE,
        reference_urls=[url],
    )
