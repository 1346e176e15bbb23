"""`evaluate` modules: a folder each, loadable by path and fit to be pushed as a Space.

from hf_cap.evaluation.metrics import load_metric

load_metric("plausibility").compute(predictions=word_scores, references=rationales)
"""

from pathlib import Path
from typing import Any

import evaluate
from datasets import Features, Sequence, Value

from hf_cap.errors import ConfigError

FOLDER = Path(__file__).parent
LICENSE = "Apache-2.0"
EXPLAINED_TEXTS = Features(
    {
        "predictions": Sequence(Value("float64")),
        "references": Value("int64"),
        "texts": Value("string"),
    }
)
"""Word scores, explained class and text: what every metric takes that runs a model."""

ERASER = """\
@inproceedings{deyoung2020eraser,
    title = {{ERASER}: A Benchmark to Evaluate Rationalized {NLP} Models},
    author = {DeYoung, Jay and Jain, Sarthak and Rajani, Nazneen Fatema and Lehman, Eric and Xiong, Caiming
        and Socher, Richard and Wallace, Byron C.},
    booktitle = {Proceedings of ACL},
    year = {2020},
    url = {https://arxiv.org/abs/1911.03429},
}
"""
SOFT_ERASURE = """\
@inproceedings{zhao2023incorporating,
    title = {Incorporating Attribution Importance for Improving Faithfulness Metrics},
    author = {Zhao, Zhixue and Aletras, Nikolaos},
    booktitle = {Proceedings of ACL},
    year = {2023},
    url = {https://arxiv.org/abs/2305.10496},
}
"""
CAP = """\
@misc{cap2025,
    title = {Hybrid Attribution Priors for Explainable and Robust Model Training},
    year = {2025},
    url = {https://arxiv.org/abs/2512.14719},
}
"""


def metric_names() -> list[str]:
    """Names of the metrics, sorted."""
    return sorted(path.parent.name for path in FOLDER.glob("*/README.md"))


def load_metric(name: str, **options: Any) -> Any:
    """The `evaluate.Metric` of this name; `options` go to `evaluate.load`.

    Raises:
        ConfigError: there is no such metric.
    """
    if name not in metric_names():
        raise ConfigError(f"There is no metric {name!r}; there are {metric_names()}.")
    return evaluate.load(str(FOLDER / name), **options)
