"""What may not leave the machine: local paths and secrets."""

import json
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, Protocol

import jinja2
from huggingface_hub import (
    CardData,
    DatasetCard,
    DatasetCardData,
    EvalResult,
    ModelCard,
    ModelCardData,
    RepoCard,
)
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]
from markupsafe import Markup

from hf_cap.embedded import PREFIX, hub_id
from hf_cap.errors import ConfigError
from hf_cap.utils import bundled

SECRET = re.compile(
    r"\b(hf_[A-Za-z0-9]{20,}|hf_oauth_\S{8,}|sk-[A-Za-z0-9_-]{16,}|gh[opsu]_[A-Za-z0-9]{20,})"
)
"""Access tokens of the Hub, of OpenAI-compatible servers and of GitHub."""
LOCAL_PATH = re.compile(r"(?<![\w.:/<])(?:~|/|[A-Za-z]:\\)[^\s'\"=,;]*[^\s'\"=,;.)\]]")
"""An absolute path, or one below the home folder."""
_SERVER = re.compile(r"\b\w+://[^\s'\"|]+")
"""An address, with whatever credentials it holds: of a language model's server, most likely."""
_PRIVATE = re.compile(
    # `tokens` are counted
    r"token(?!s)|secret|password|api_key|(^|_)(dir|path|url|host|proxy)$|(^|_)hub(_|$)"
)


def public_id(name: str | None) -> str | None:
    """The Hub id that a model or data set is known by; `None` where it is local or has none."""
    if not name:
        return None
    if name.startswith(PREFIX):
        return hub_id(name)
    if _is_local(name):
        return None
    try:
        validate_repo_id(name)
    except HFValidationError:
        return None
    return name


def public_name(name: str | None) -> str | None:
    """The Hub id, or for what is local the last part of its path."""
    if not name:
        return None
    return public_id(name) or _last(name) or None


def public_text(text: str) -> str:
    """A text in which each local path is cut down to its last part, and each address and secret to `***`."""
    without_servers = _SERVER.sub("***", text)
    return SECRET.sub("***", LOCAL_PATH.sub(lambda path: _last(path[0]), without_servers))


def public_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings without those that name folders, servers, accounts or secrets."""
    return {
        name: public_text(value) if isinstance(value, str) else value
        for name, value in settings.items()
        if not _PRIVATE.search(name)
    }


def _last(path: str) -> str:
    return re.split(r"[/\\]", path.rstrip("/\\"))[-1]


def _is_local(name: str) -> bool:
    return name.startswith((".", "/", "~")) or "\\" in name or Path(name).expanduser().exists()


# --- Word scores drawn with plain characters, for places that show neither colour nor HTML.


_BARS = "▁▂▃▄▅▆▇█"
_NOTHING = "·"


def heat_map(words: Sequence[str], scores: Sequence[float] | None, width: int = 76) -> str:
    """The words with a bar below each; a minus before the bar marks evidence against the label.

    Args:
        words: The words of a text.
        scores: One score a word; bars are in proportion to the largest absolute one. `None`: no bars.
        width: Columns of a line; longer texts go on in another pair of lines.
    """
    shown = [printable(word) for word in words]
    if scores is None:
        return " ".join(shown)
    largest = max(map(abs, scores), default=0.0)
    bars = [_bar(score, largest) for score in scores]
    lines, top, bottom = [], "", ""
    for word, bar in zip(shown, bars, strict=True):
        cell = max(_columns(word), len(bar)) + 2
        if top and _columns(top) + cell > width:
            lines += [top.rstrip(), bottom.rstrip(), ""]
            top = bottom = ""
        top += word + " " * (cell - _columns(word))
        bottom += bar + " " * (cell - len(bar))
    return "\n".join([*lines, top.rstrip(), bottom.rstrip()])


def sparkline(values: Sequence[float]) -> str:
    """One bar a value, from the smallest to the largest."""
    low, high = min(values, default=0.0), max(values, default=0.0)
    if high == low:
        return _BARS[0] * len(values)
    return "".join(_BARS[round((v - low) / (high - low) * (len(_BARS) - 1))] for v in values)


def _bar(score: float, largest: float) -> str:
    if largest == 0 or abs(score) < largest / (2 * len(_BARS)):
        return _NOTHING
    bar = _BARS[min(int(abs(score) / largest * len(_BARS)), len(_BARS) - 1)]
    return f"-{bar}" if score < 0 else bar


def printable(word: str) -> str:
    """The word without characters that would break a line or turn the reading direction."""
    return "".join(
        "\N{REPLACEMENT CHARACTER}"
        if unicodedata.category(c)[0] == "C" or c in "\n\u2028\u2029"
        else c
        for c in word
    )


def _columns(text: str) -> int:
    """Columns that the text takes in a fixed-width font."""
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1
        for c in text
    )


# --- What a card tells. A fact that is not known is `None`, and is printed as "unknown".


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


# --- From the record of a training run to the facts on the card of its model.


RUN_FILE = "run.json"
"""Record of a training run, in the folder of its model."""
EVALUATIONS = "evaluation"
"""Folder beside it, with one JSON a test set."""
_TOLD_ELSEWHERE = {"model", "dataset", "train_split", "eval_split", "seed", "model_revision"}
_NOT_SETTINGS = {"source", "model", "revision", "fingerprint", "versions", "labels", "command"}


def model_facts(
    run: Mapping[str, Any],
    *,
    name: str,
    adapter: bool = False,
    repo_id: str | None = None,
    evaluations: Mapping[str, Mapping[str, Any]] | None = None,
    records: Iterable[Mapping[str, Any]] = (),
    license: str | None = None,
    language: str | None = None,
) -> ModelCardFacts:
    """The facts of a model's card. What the record does not say stays unknown; local paths stay here.

    Args:
        run: Content of `run.json`, or as much of it as there is.
        name: Name of the model.
        adapter: Whether the weights are those of a PEFT adapter alone.
        repo_id: Where it will be on the Hub.
        evaluations: Name of a result to the content of `evaluation/<name>.json`.
        records: Evaluated texts to show as examples, as in `evaluation/<name>.parquet`.
        license: Licence of the model, as the Hub spells it.
        language: Language of the texts, as the Hub spells it.
    """
    data = run.get("data") or {}
    alignment = run.get("alignment") or {}
    settings = {
        key: value
        for key, value in public_settings(run.get("settings") or {}).items()
        if key not in _TOLD_ELSEWHERE and key not in alignment
    }
    command = run.get("command")
    return ModelCardFacts(
        name=name,
        repo_id=repo_id,
        base_model=public_id(run.get("model")),
        adapter=adapter,
        dataset=public_name(data.get("dataset")),
        dataset_on_hub=public_id(data.get("dataset")) is not None,
        train_split=data.get("train_split"),
        train_rows=data.get("rows"),
        labels=tuple(data.get("labels") or ()),
        language=language,
        license=license,
        priors=tuple(prior for made in data.get("provenance") or () for prior in prior_facts(made)),
        alignment={k: v for k, v in public_settings(alignment).items() if v is not None},
        settings=settings,
        seed=run.get("seed"),
        history=log_facts(run.get("history") or ()),
        evaluations=tuple(
            _known(EvaluationFacts, {**numbers, "name": split})
            for split, numbers in sorted((evaluations or {}).items())
        ),
        examples=tuple(map(_example, records)),
        versions=run.get("versions") or {},
        command=public_text(command) if command else None,
    )


def prior_facts(provenance: Mapping[str, Mapping[str, Any]]) -> tuple[PriorFacts, ...]:
    """How the priors of some sources were made, from a `provenance` cell that was read."""
    return tuple(
        PriorFacts(
            source=source,
            model=_maker(facts),
            settings={
                key: value
                for key, value in public_settings(facts).items()
                if key not in _NOT_SETTINGS and value not in (None, [], {})
            },
        )
        for source, facts in provenance.items()
    )


def log_facts(history: Sequence[Mapping[str, Any]]) -> tuple[LogFacts, ...]:
    """The lines of a `log_history` that tell a training loss."""
    return tuple(_known(LogFacts, line) for line in history if "loss" in line and "step" in line)


def _maker(facts: Mapping[str, Any]) -> str | None:
    """The model that made a prior; "none" where it is known that there was none."""
    return public_name(facts["model"]) if "model" in facts else "none" if facts else None


def _example(record: Mapping[str, Any]) -> ExampleFacts:
    scores = record.get("attributions")
    return ExampleFacts(
        label=str(record["prediction"]),
        gold=str(record["label"]),
        words=tuple(record["words"]),
        scores=None if scores is None else tuple(scores),
    )


def _known(cls: Any, values: Mapping[str, Any]) -> Any:
    """A facts object from those of the values that are its fields."""
    return cls(**{f.name: values[f.name] for f in fields(cls) if f.name in values})


# --- Markdown from facts and a template.


UNKNOWN = "unknown"
SOURCES = {
    "cap": "What the language model's log-probability of the label loses when the word is taken out "
    "(ridge regression on perturbed texts).",
    "channel": "How much likelier the language model finds the word given the label than given others.",
    "lime": "LIME: a local linear model of a classifier that was trained without alignment.",
    "integrated_gradients": "Integrated Gradients of a classifier that was trained without alignment.",
    "keywords": "The statistical weight of the word for the label in the training split.",
    "llm_gradient": "The gradient of the language model's log-probability of the label.",
    "occlusion": "What a classifier that was trained without alignment loses when the word is taken out.",
    "rationale": "Marks that people put on the words that justify the label.",
    "shap": "Shapley values of a classifier that was trained without alignment.",
    "word_length": "The number of characters of the word: a control, not an explanation.",
    "prior": "The priors of the sources named below, normalised over the words of a text and fused.",
}
"""Source of a prior to a sentence on what its scores are."""
_SPECIAL = re.compile(r"[\\`*_\[\]<>|~$&#]")


class Facts(Protocol):
    """What a card tells: a dataclass with the name of its template and its front matter."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]
    template: ClassVar[str]

    def metadata(self) -> CardData:
        """The front matter."""


def render_card(facts: Facts, template: str | Path | None = None) -> str:
    """The card as Markdown, front matter included.

    Args:
        facts: What it tells. The template sees each field by its name, `metadata` (the front matter as YAML)
            and the facts themselves as `facts`.
        template: File of a Jinja template of one's own.

    Raises:
        ConfigError: the template is not there, is malformed, names a fact that does not exist, or gives a
            card whose front matter the Hub would not take.
    """
    source = bundled("model_cards") / facts.template if template is None else Path(template)
    values = {field.name: getattr(facts, field.name) for field in fields(facts)}
    data = facts.metadata()
    metadata = Markup(data.to_yaml(line_break="\n").strip())
    try:
        text = source.read_text(encoding="utf-8")
        card = _environment().from_string(text).render(**values, facts=facts, metadata=metadata)
    except OSError as error:
        raise ConfigError(
            f"Cannot read the card template {str(source)!r}: {error.strerror}."
        ) from error
    except jinja2.TemplateError as error:
        known = ", ".join(sorted(values))
        raise ConfigError(
            f"The card template {str(source)!r} fails: {error}. The facts it may use are {known}."
        ) from error
    _check_metadata(card, source, ModelCard if isinstance(data, ModelCardData) else DatasetCard)
    return card


def _check_metadata(card: str, source: Path, kind: type[RepoCard]) -> None:
    try:
        data = kind(card, ignore_metadata_errors=False).data
    except ValueError as error:
        raise ConfigError(
            f"The card template {str(source)!r} gives bad front matter: {error}"
        ) from error
    if not any(vars(data).values()):
        raise ConfigError(
            f"The card template {str(source)!r} gives no front matter. Begin it with the lines "
            "'---', '{{ metadata }}', '---'."
        )


def escape(value: Any) -> str:
    """A value as Markdown text that means itself; `None` is "unknown"."""
    if value is None:
        return UNKNOWN
    if isinstance(value, Markup):
        return str(value)
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(map(escape, value)) or "none"
    return _SPECIAL.sub(r"\\\g<0>", " ".join(str(value).split()))


def code(value: Any) -> Markup:
    """A value as a code span that also stands in a table."""
    if value is None:
        return Markup(UNKNOWN)
    text = " ".join(str(value).split()).replace("|", "\\|")
    fence = _fence(text, 1)
    padding = " " if text.startswith("`") or text.endswith("`") else ""
    return Markup(f"{fence}{padding}{text}{padding}{fence}")


def block(value: str, language: str = "text") -> Markup:
    """A text as a fenced code block that it cannot break out of."""
    fence = _fence(value, 3)
    return Markup(f"{fence}{language}\n{value}\n{fence}")


def table(rows: Sequence[Sequence[Any]]) -> Markup:
    """A Markdown table; the first row is its header, columns of numbers stand on the right."""
    header, *body = rows
    numeric = [any(isinstance(line[i], int | float) for line in body) for i in range(len(header))]
    ruler = "|" + "".join("---:|" if right else "---|" for right in numeric)
    lines = [f"| {' | '.join(map(escape, line))} |" for line in (header, *body)]
    return Markup("\n".join([lines[0], ruler, *lines[1:]]))


def spread(rows: Sequence[Any], keep: int = 12) -> list[Any]:
    """At most `keep` of the rows, evenly spread, the first and last among them."""
    if len(rows) <= keep:
        return list(rows)
    return [rows[round(i * (len(rows) - 1) / (keep - 1))] for i in range(keep)]


def _fence(text: str, least: int) -> str:
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    return "`" * max(least, longest + 1)


def _environment() -> jinja2.Environment:
    # no autoescape, which is for HTML: `finalize` escapes for Markdown
    environment = jinja2.Environment(
        finalize=escape,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "block": block,
        "code": code,
        "describe": lambda source: SOURCES.get(source, f"Prior of the source {source}."),
        "literal": lambda value: Markup(json.dumps(value, ensure_ascii=False)),
        "spread": spread,
        "table": table,
    }
    environment.globals |= {
        "heat_map": heat_map,
        "sparkline": sparkline,
        "PAPER": PAPER,
    }
    return environment


# --- Cards of models and prior data sets: typed facts, their metadata, and the Markdown drawn from them.


__all__ = [
    "ConfigurationFacts",
    "EvaluationFacts",
    "ExampleFacts",
    "LogFacts",
    "ModelCardFacts",
    "PriorCardFacts",
    "PriorFacts",
    "model_facts",
    "render_card",
]
