"""The metrics as modules of `evaluate`, and the folders that make Spaces of them.

load_metric("plausibility").compute(predictions=word_scores, references=rationales)
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import evaluate
import numpy as np
from datasets import Features, Value
from datasets import Sequence as ListOf

from hf_cap.evaluation import metrics
from hf_cap.evaluation.classifier import load_classifier
from hf_cap.evaluation.evaluate import mean_defined
from hf_cap.utils import Place, choose, read_yaml, write_text

_HERE = Path(__file__).parent
_SCORES = ListOf(Value("float64"))


class _Metric(evaluate.Metric):  # type: ignore[misc]  # evaluate is untyped
    """A metric that `metrics.yaml` describes under its key."""

    key: ClassVar[str]
    columns: ClassVar[Features]

    @classmethod
    def texts(cls) -> dict[str, str]:
        """`description`, `usage` and `citation`."""
        content = read_yaml(_HERE / "metrics.yaml")
        return {**content[cls.key], "citation": content["papers"][content[cls.key]["paper"]]}

    def _info(self) -> evaluate.MetricInfo:
        texts = self.texts()
        return evaluate.MetricInfo(
            description=texts["description"],
            citation=texts["citation"],
            inputs_description=texts["usage"],
            features=self.columns,
            license="Apache-2.0",
            reference_urls=[texts["citation"].rpartition("url = {")[2].partition("}")[0]],
        )


class _Faithfulness(_Metric):
    """A measure of word scores against a classifier, averaged over texts where it is defined."""

    columns = Features(predictions=_SCORES, references=Value("int64"), texts=Value("string"))

    def _compute(
        self,
        predictions: Sequence[Sequence[float]],
        references: Sequence[int],
        texts: Sequence[str],
        model: Any,
        tokenizer: Any = None,
        batch_size: int = 32,
        word_pattern: str | None = None,
        per_text: bool = False,
        **options: Any,
    ) -> dict[str, Any]:
        classifier = load_classifier(model, tokenizer, batch_size=batch_size, word_pattern=word_pattern)
        scored = metrics.ScoredTexts(texts, references, predictions, classifier.word_pattern)
        values = getattr(metrics, self.key)(classifier, scored, **options)
        result = {self.key: mean_defined(values)}
        return {**result, "per_text": values.tolist()} if per_text else result


class _Plausibility(_Metric):
    columns = Features(predictions=_SCORES, references=ListOf(Value("bool")))

    def _compute(self, predictions: Any, references: Any, size: Any = None) -> dict[str, Any]:
        pairs = zip(predictions, references, strict=True)
        found = [item for pair in pairs if (item := metrics.plausibility(*pair, size))]
        names = ("token_f1", "auprc", "iou")
        means = {name: _mean([item[name] for item in found]) for name in names}
        return {**means, "texts": len(found)}


class _Alignment(_Metric):
    columns = Features(predictions=_SCORES, references=_SCORES)

    def _compute(self, predictions: Any, references: Any) -> dict[str, Any]:
        pairs = [pair for pair in zip(predictions, references, strict=True) if any(pair[1])]
        cosine = _mean([metrics.cosine(*pair) for pair in pairs])
        spearman = _mean([metrics.spearman(*pair) for pair in pairs])
        return {"cosine": cosine, "spearman": spearman, "texts": len(pairs)}


def _mean(values: Sequence[float]) -> float | None:
    return mean_defined(np.array(values, dtype=np.float64))


class _RobustAccuracy(_Metric):
    columns = Features(
        predictions=ListOf(Value("int64")), references=Value("int64"), clean_predictions=Value("int64")
    )

    def _compute(self, predictions: Any, references: Any, clean_predictions: Any) -> dict[str, Any]:
        return metrics.robustness(predictions, clean_predictions, references)


METRICS: Mapping[str, type[_Metric]] = {
    key: type(key, (base,), {"key": key})
    for key, base in {
        "alignment": _Alignment,
        "comprehensiveness": _Faithfulness,
        "plausibility": _Plausibility,
        "robust_accuracy": _RobustAccuracy,
        "soft_nc": _Faithfulness,
        "soft_ns": _Faithfulness,
        "sufficiency": _Faithfulness,
    }.items()
}


def load_metric(name: str, **options: Any) -> evaluate.Metric:
    """The `evaluate.Metric` of this name; `options` go to its constructor (`cache_dir` and so on)."""
    return choose(METRICS, name, "metric")(**options)


def write_metric_space(name: str, folder: Place) -> Path:
    """Write the files of a metric's Space; `evaluate.load(folder)` loads it too.

    Args:
        name: One of `METRICS`; any other is a `ConfigError`.
        folder: Where to write; called `name`, or `evaluate.load` does not find the module.
    """
    metric, folder = choose(METRICS, name, "metric"), Path(folder)
    facts = {
        **metric.texts(),
        "name": name,
        "title": metric.texts()["description"].partition("\n")[0],
        "arguments": ", ".join(f"{column}={column}" for column in metric.columns),
    }
    for template in (_HERE / "space").iterdir():
        file = template.name.removesuffix(".in").replace("metric", name)
        write_text(folder / file, template.read_text(encoding="utf-8").format(**facts))
    return folder
