"""What a card tells. A fact that is not known is `None`, and is printed as "unknown"."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from huggingface_hub import DatasetCardData, EvalResult, ModelCardData

PAPER = "2512.14719"
_TAGS = ("hf_cap", "class-aware-attribution-priors", "explainability", f"arxiv:{PAPER}")
_SIZES = {1_000: "n<1K", 10_000: "1K<n<10K", 100_000: "10K<n<100K", 1_000_000: "100K<n<1M"}

METRICS: Mapping[str, str] = {
    "accuracy": "Accuracy",
    "macro_f1": "Macro F1",
    "roc_auc": "ROC-AUC",
    "r2": "R²",
    "rmse": "Root mean squared error (lower is better)",
    "comprehensiveness": "Comprehensiveness (higher is better)",
    "sufficiency": "Sufficiency (lower is better)",
    "soft_nc": "Soft-NC (higher is better)",
    "soft_ns": "Soft-NS (higher is better)",
    "alignment": "Cosine with the prior",
}
"""Number of an evaluation to its name on the card."""
LOGGED: Mapping[str, str] = {
    "step": "Step",
    "epoch": "Epoch",
    "loss": "Loss",
    "loss_task": "Task loss",
    "loss_align": "Alignment loss",
    "align_cosine": "Cosine with the prior",
}
"""Column of the training log to its name on the card."""
_GAP = "–"
"""A number that was not measured, as is the alignment on steps that leave it out."""
_METRIC_TYPES = {"macro_f1": "f1", "r2": "r_squared"}


@dataclass(frozen=True, kw_only=True)
class ExampleFacts:
    """One text with a score a word; positive = evidence for `label`."""

    label: str
    words: tuple[str, ...]
    scores: tuple[float, ...] | None
    gold: str | None = None
    """The right label, where `label` is a prediction."""


@dataclass(frozen=True, kw_only=True)
class PriorFacts:
    """How the prior of one source was made."""

    source: str
    model: str | None = None
    """Model that gave the scores: Hub id or name."""
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class LogFacts:
    """One line of the training log; losses before they are weighted."""

    step: int
    epoch: float | None = None
    loss: float | None = None
    loss_task: float | None = None
    loss_align: float | None = None
    align_cosine: float | None = None


@dataclass(frozen=True, kw_only=True)
class EvaluationFacts:
    """The numbers of one evaluated set; their names and ranges are those of `METRICS`."""

    name: str
    texts: int | None = None
    rows: int | None = None
    """Of a table, where there are no texts."""
    accuracy: float | None = None
    macro_f1: float | None = None
    roc_auc: float | None = None
    r2: float | None = None
    rmse: float | None = None
    comprehensiveness: float | None = None
    sufficiency: float | None = None
    soft_nc: float | None = None
    soft_ns: float | None = None
    alignment: float | None = None

    def measured(self) -> dict[str, float]:
        """Metric to value, for those that were measured."""
        return {
            name: float(value) for name in METRICS if (value := getattr(self, name)) is not None
        }


@dataclass(frozen=True, kw_only=True)
class ModelCardFacts:
    """What the card of a trained classifier tells."""

    template: ClassVar[str] = "model.md.jinja"
    unit: ClassVar[str] = "texts"
    """What is counted, as the field of `EvaluationFacts` that has the number."""

    name: str
    repo_id: str | None = None
    base_model: str | None = None
    """Hub id; a local folder is no fact to publish."""
    adapter: bool = False
    """Whether the weights are those of a PEFT adapter."""
    dataset: str | None = None
    """Hub id, or the name of a data set that is not on the Hub."""
    dataset_on_hub: bool = False
    train_split: str | None = None
    train_rows: int | None = None
    labels: tuple[str, ...] = ()
    language: str | None = None
    license: str | None = None
    priors: tuple[PriorFacts, ...] = ()
    alignment: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the alignment, by their names in `AlignmentOptions`."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Training settings that differ from their defaults."""
    seed: int | None = None
    history: tuple[LogFacts, ...] = ()
    evaluations: tuple[EvaluationFacts, ...] = ()
    examples: tuple[ExampleFacts, ...] = ()
    versions: Mapping[str, str | None] = field(default_factory=dict)
    command: str | None = None

    @property
    def aligned(self) -> bool:
        """Whether the attributions were aligned with a prior."""
        return bool(self.alignment.get("alignment_weight"))

    @property
    def results(self) -> list[list[Any]]:
        """A table of the evaluations: a header, then a row each, with the metrics that any of them has."""
        found = [m for m in METRICS if any(m in e.measured() for e in self.evaluations)]
        rows = [
            [e.name, getattr(e, self.unit), *(e.measured().get(m, _GAP) for m in found)]
            for e in self.evaluations
        ]
        return [["Set", self.unit.capitalize(), *(METRICS[m] for m in found)], *rows]

    @property
    def log(self) -> list[list[Any]]:
        """A table of the training log, with the columns that any line of it has."""
        found = [c for c in LOGGED if any(getattr(h, c) is not None for h in self.history)]
        rows = [
            [_GAP if (value := getattr(line, column)) is None else value for column in found]
            for line in self.history
        ]
        return [[LOGGED[column] for column in found], *rows]

    def metadata(self) -> ModelCardData:
        """The front matter, with the evaluations as a model index."""
        return ModelCardData(
            model_name=self.name,
            base_model=self.base_model,
            datasets=[self.dataset] if self.dataset and self.dataset_on_hub else None,
            language=self.language,
            license=self.license,
            library_name="peft" if self.adapter else "transformers",
            pipeline_tag="text-classification",
            tags=[*_TAGS, "generated_from_trainer"],
            metrics=["accuracy", "f1"] if self.evaluations else None,
            eval_results=self.model_index("text-classification"),
        )

    def model_index(self, task: str) -> list[EvalResult] | None:
        """The evaluations as the Hub reads them; `None` where there are none.

        Args:
            task: Name of the task on the Hub.
        """
        return [
            EvalResult(
                task_type=task,
                dataset_type=self.dataset or "unknown",
                dataset_name=self.dataset or "unknown",
                dataset_split=evaluation.name,
                metric_type=_METRIC_TYPES.get(metric, metric),
                metric_name=METRICS[metric],
                metric_value=round(value, 4),
            )
            for evaluation in self.evaluations
            for metric, value in evaluation.measured().items()
        ] or None


@dataclass(frozen=True, kw_only=True)
class ConfigurationFacts:
    """One configuration of a prior data set: the prior of one source, or the fused one."""

    name: str
    default: bool
    prior: PriorFacts
    columns: Mapping[str, str]
    """Column to its type."""
    with_prior: int
    """Rows whose prior is not null."""
    rows: int


@dataclass(frozen=True, kw_only=True)
class PriorCardFacts:
    """What the card of a prior data set tells."""

    template: ClassVar[str] = "priors.md.jinja"

    name: str
    repo_id: str | None = None
    source_dataset: str | None = None
    source_on_hub: bool = False
    language: str | None = None
    license: str | None = None
    labels: tuple[str, ...]
    splits: Mapping[str, int]
    """Split to its number of rows."""
    configurations: tuple[ConfigurationFacts, ...]
    configs: tuple[Mapping[str, Any], ...] = ()
    """The Hub's `configs` metadata: which files are which split of which configuration."""
    dataset_info: tuple[Mapping[str, Any], ...] = ()
    """The Hub's `dataset_info` metadata: the typed features of each configuration."""
    examples: Mapping[str, tuple[ExampleFacts, ...]] = field(default_factory=dict)
    """Configuration to some of its rows."""
    audit: Mapping[str, float] = field(default_factory=dict)
    """Figure of the audit to its value."""
    command: str | None = None
    versions: Mapping[str, str | None] = field(default_factory=dict)

    @property
    def overview(self) -> list[list[Any]]:
        """A row for each configuration: name, rows, rows with a prior, and what made it."""
        return [[c.name, c.rows, c.with_prior, c.prior.model] for c in self.configurations]

    @property
    def rows(self) -> int:
        """Rows of all splits."""
        return sum(self.splits.values())

    def metadata(self) -> DatasetCardData:
        """The front matter."""
        size = next((name for limit, name in _SIZES.items() if self.rows < limit), "n>1M")
        return DatasetCardData(
            pretty_name=self.name,
            language=self.language,
            license=self.license,
            source_datasets=[self.source_dataset]
            if self.source_dataset and self.source_on_hub
            else None,
            task_categories=["text-classification"],
            size_categories=size,
            tags=[*_TAGS, "attribution-priors"],
            configs=[dict(config) for config in self.configs] or None,
            dataset_info=[dict(info) for info in self.dataset_info] or None,
        )
