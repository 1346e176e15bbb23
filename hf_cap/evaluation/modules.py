"""The metrics as modules of `evaluate`, and the folders that make Spaces of them.

load_metric("plausibility").compute(predictions=word_scores, references=rationales)
"""

import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, ClassVar

import evaluate
import numpy as np
from datasets import Features, Value
from datasets import Sequence as ListOf

from hf_cap.errors import ConfigError
from hf_cap.evaluation.classifier import load_classifier
from hf_cap.evaluation.evaluate import mean_defined
from hf_cap.evaluation.metrics import (
    FloatArray,
    Plausibility,
    ScoredTexts,
    comprehensiveness,
    cosine,
    plausibility,
    robustness,
    soft_nc,
    soft_ns,
    spearman,
    sufficiency,
)
from hf_cap.utils import write_text
from hf_cap.words import WORD_PATTERN

ERASER = """@inproceedings{deyoung2020eraser,
    title = {{ERASER}: A Benchmark to Evaluate Rationalized {NLP} Models},
    author = {DeYoung, Jay and others}, booktitle = {ACL}, year = {2020},
    url = {https://arxiv.org/abs/1911.03429}}"""
SOFT_ERASURE = """@inproceedings{zhao2023incorporating,
    title = {Incorporating Attribution Importance for Improving Faithfulness Metrics},
    author = {Zhao, Zhixue and Aletras, Nikolaos}, booktitle = {ACL}, year = {2023},
    url = {https://arxiv.org/abs/2305.10496}}"""
CAP = """@misc{cap2025,
    title = {Hybrid Attribution Priors for Explainable and Robust Model Training},
    year = {2025}, url = {https://arxiv.org/abs/2512.14719}}"""
_SCORES = ListOf(Value("float64"))


class _Metric(evaluate.Metric):  # type: ignore[misc]  # evaluate is untyped
    """A metric that its docstring describes: a paragraph or more, then `Args:` and `Returns:`."""

    paper: ClassVar[str]
    columns: ClassVar[Features]
    common: ClassVar[str] = ""
    """Lines of `Args:` that several metrics share."""

    @classmethod
    def texts(cls) -> tuple[str, str]:
        """The description, and the arguments and results."""
        description, _, usage = (inspect.getdoc(cls) or "").partition("\n\nArgs:\n")
        return description, f"Args:\n{cls.common}{usage}\n"

    def _info(self) -> evaluate.MetricInfo:
        description, usage = self.texts()
        return evaluate.MetricInfo(
            description=description,
            citation=self.paper,
            inputs_description=usage,
            features=self.columns,
            license="Apache-2.0",
            reference_urls=[self.paper.rpartition("url = {")[2].partition("}")[0]],
        )


class _Faithfulness(_Metric):
    """A measure of word scores against a classifier, averaged over texts where it is defined."""

    measure: ClassVar[Callable[..., FloatArray]]
    columns = Features(predictions=_SCORES, references=Value("int64"), texts=Value("string"))
    common = """\
    predictions: one list of word scores per text; positive = evidence for the explained class.
    references: explained class of each text as the model numbers it, usually the predicted one.
    texts: the texts.
    model: a sequence classifier: loaded, or a folder or Hub id.
    tokenizer: its tokenizer or where it is; by default the one beside `model`.
    batch_size: most texts per forward pass; changes the speed, not the result.
    word_pattern: regular expression of a word; white space separates words by default.
    per_text: also return the value of each text, as `per_text`.
"""

    def _compute(
        self,
        predictions: Sequence[Sequence[float]],
        references: Sequence[int],
        texts: Sequence[str],
        model: Any,
        tokenizer: Any = None,
        batch_size: int = 32,
        word_pattern: str = WORD_PATTERN,
        per_text: bool = False,
        **options: Any,
    ) -> dict[str, Any]:
        measure = type(self).measure
        classifier = load_classifier(model, tokenizer, batch_size=batch_size)
        scored = ScoredTexts(texts, references, predictions, word_pattern)
        values = measure(classifier, scored, **options)
        result = {measure.__name__: mean_defined(values)}
        return {**result, "per_text": values.tolist()} if per_text else result


class Comprehensiveness(_Faithfulness):
    """Drop of the class's probability when the highest-scoring words are taken out.

    `p(y|x) - p(y|x without r)`, r the top 1, 5, 10, 20 and 50 % of the words (rounded up), averaged
    over these sizes and the texts. Erased texts are not natural: a model may react to their oddness.
    A model trained on word scores can be good at this very metric without being more honest; report
    Soft-NC and Soft-NS beside it.

    Args:
        percentages: sizes of the rationale in percent of the words.

    Returns:
        comprehensiveness: mean over the texts, in [-1, 1]; higher is better.
    """

    measure = staticmethod(comprehensiveness)
    paper = ERASER


class Sufficiency(_Faithfulness):
    """Drop of the class's probability when only the highest-scoring words are left.

    `p(y|x) - p(y|r)`, r the top 1, 5, 10, 20 and 50 % of the words (rounded up), averaged over these
    sizes and the texts. Its limits are those of comprehensiveness.

    Args:
        percentages: sizes of the rationale in percent of the words.

    Returns:
        sufficiency: mean over the texts, in [-1, 1]; lower is better.
    """

    measure = staticmethod(sufficiency)
    paper = ERASER


class SoftNC(_Faithfulness):
    """Change of the output when embedding elements of important words are erased at random.

    Relative to erasing every element; each is kept with probability 1 - importance, the scores of a
    text scaled to [0, 1]. An estimate: more `samples` make it steadier. Texts where even the zero
    input does not move the output are left out. Tokens outside every word are never erased.

    Args:
        samples: random masks per text.
        seed: seed of the masks.
        distance: `probability` of the class (the paper), or `hellinger` distance of the output.

    Returns:
        soft_nc: mean over the texts where it is defined, in [0, 1]; higher is better.
    """

    measure = staticmethod(soft_nc)
    paper = SOFT_ERASURE


class SoftNS(_Faithfulness):
    """Share of the output that stays when embedding elements of unimportant words are erased.

    Relative to erasing every element; each is kept with probability importance, the scores of a
    text scaled to [0, 1]. Its limits are those of Soft-NC.

    Args:
        samples: random masks per text.
        seed: seed of the masks.
        distance: `probability` of the class (the paper), or `hellinger` distance of the output.

    Returns:
        soft_ns: mean over the texts where it is defined, in [0, 1]; higher is better.
    """

    measure = staticmethod(soft_ns)
    paper = SOFT_ERASURE


class PlausibilityMetric(_Metric):
    """Agreement of word scores with the words that a person marked.

    Token F1 and intersection over union of the highest-scoring words, and the area under the
    precision-recall curve. Plausible is not faithful: a model may use other words than a person.

    Args:
        predictions: one list of word scores per text; positive = evidence for the explained class.
        references: one list of 0 and 1 per text; 1 marks a word of the human rationale.
        size: words to choose in every text; by default as many as are marked in it.

    Returns:
        token_f1, auprc, iou: means over the texts with a marked word, in [0, 1]; higher is better.
        texts: number of such texts.
    """

    paper = ERASER
    columns = Features(predictions=_SCORES, references=ListOf(Value("bool")))

    def _compute(self, predictions: Any, references: Any, size: Any = None) -> dict[str, Any]:
        pairs = zip(predictions, references, strict=True)
        found = [asdict(item) for pair in pairs if (item := plausibility(*pair, size))]
        names = [field.name for field in fields(Plausibility)]
        means = {name: _mean([item[name] for item in found]) for name in names}
        return {**means, "texts": len(found)}


class Alignment(_Metric):
    """Agreement of word scores with an attribution prior; not whether the prior is right.

    Args:
        predictions: one list of word scores per text; positive = evidence for the class.
        references: its prior, one score per word; an empty list for a text without one.

    Returns:
        cosine, spearman: means over the texts whose prior is not all zero, in [-1, 1].
        texts: number of such texts.
    """

    paper = CAP
    columns = Features(predictions=_SCORES, references=_SCORES)

    def _compute(self, predictions: Any, references: Any) -> dict[str, Any]:
        pairs = [pair for pair in zip(predictions, references, strict=True) if any(pair[1])]
        means = {f.__name__: _mean([f(*pair) for pair in pairs]) for f in (cosine, spearman)}
        return {**means, "texts": len(pairs)}


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


class RobustAccuracy(_Metric):
    """Share of texts of which every attacked version is predicted right, under the given attacks.

    Args:
        predictions: for each text the predicted labels of its attacked versions, at least one.
        references: gold label of each text.
        clean_predictions: predicted label of each original text.

    Returns:
        robust_accuracy, mean_attacked_accuracy, clean_accuracy: in [0, 1]; higher is better.
        attack_success: share of rightly predicted texts that an attack turns; lower is better.
    """

    paper = CAP
    columns = Features(
        predictions=ListOf(Value("int64")),
        references=Value("int64"),
        clean_predictions=Value("int64"),
    )

    def _compute(self, predictions: Any, references: Any, clean_predictions: Any) -> dict[str, Any]:
        return asdict(robustness(predictions, clean_predictions, references))


METRICS: Mapping[str, type[_Metric]] = {
    "alignment": Alignment,
    "comprehensiveness": Comprehensiveness,
    "plausibility": PlausibilityMetric,
    "robust_accuracy": RobustAccuracy,
    "soft_nc": SoftNC,
    "soft_ns": SoftNS,
    "sufficiency": Sufficiency,
}


def _metric_class(name: str) -> type[_Metric]:
    if name not in METRICS:
        raise ConfigError(f"There is no metric {name!r}; there are {sorted(METRICS)}.")
    return METRICS[name]


def load_metric(name: str, **options: Any) -> evaluate.Metric:
    """The `evaluate.Metric` of this name; `options` go to its constructor (`cache_dir` and so on).

    Raises:
        ConfigError: there is no such metric.
    """
    return _metric_class(name)(**options)


_SCRIPT = '"""{title}"""\n\nfrom hf_cap.evaluation.modules import {module} as {module}\n'
_FIXED = """# the form asks for texts and scores only, so the page fixes the classifier
metric.compute = partial(
    metric.compute, model="distilbert/distilbert-base-uncased-finetuned-sst-2-english"
)
"""


def write_metric_space(name: str, folder: str | os.PathLike[str]) -> Path:
    """Write the files of a metric's Space; `evaluate.load(folder)` loads it too.

    Args:
        name: One of `METRICS`.
        folder: Where to write; called `name`, or `evaluate.load` does not find the module.

    Returns:
        The folder.

    Raises:
        ConfigError: there is no such metric.
    """
    metric, folder = _metric_class(name), Path(folder)
    description, usage = metric.texts()
    facts = {
        "name": name,
        "module": metric.__name__,
        "title": description.partition("\n")[0],
        "description": description,
        "usage": usage,
        "arguments": ", ".join(f"{column}={column}" for column in metric.columns),
        "citation": metric.paper,
        "fixed": _FIXED if issubclass(metric, _Faithfulness) else "",
    }
    here = Path(__file__).parent
    write_text(folder / f"{name}.py", _SCRIPT.format(**facts))
    for file, template in {"app.py": "metric_app.txt", "README.md": "metric_space.md"}.items():
        text = (here / template).read_text(encoding="utf-8")
        write_text(folder / file, text.format(**facts))
    write_text(folder / "requirements.txt", "evaluate>=0.4.6\nhf-cap\n")
    return folder
