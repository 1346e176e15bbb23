"""Cards of models and data sets: public facts, rendered by the Jinja templates in `model_cards/`.

The facts of a card are one dictionary. Its keys are those that the function that makes it documents, plus
`template` (a file in `model_cards/`) and `metadata` (the front matter). `None` is printed as "unknown".
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import jinja2
import yaml
from jinja2.sandbox import ImmutableSandboxedEnvironment
from markupsafe import Markup

from hf_cap.embedded import HUB_IDS, PREFIX
from hf_cap.errors import ConfigError
from hf_cap.labels import class_names
from hf_cap.secret_scan import refuse_secrets, without_secrets
from hf_cap.utils import (
    Place,
    bundled,
    check_settings,
    option,
    printable,
    required,
    settings_class,
    subsample,
    versions,
    write_text,
)
from hf_cap.words import heat_map

RUN_FILE = "run.json"  # record of a training run, in the folder of its model
EVALUATIONS = "evaluation"  # folder beside it, with one JSON file per test set
CARD = "README.md"
PAPER, PLAIN = "2512.14719", "without alignment"
TAGS = ("hf_cap", "class-aware-attribution-priors", "explainability", f"arxiv:{PAPER}")


@settings_class
class PushOptions:
    """Where something is published, and how it is described there."""

    repo_id: str = required("Repository on the Hub, `user/name`.")
    push: bool = option(False, "Upload. Without it the folder is only written and listed.")
    private: bool = option(True, "Make a new repository private. An existing one stays as it is.")
    output_dir: str | None = option(
        None,
        "Folder for exactly what is uploaded; by default `hub` in the folder of a model, `<folder>-hub` "
        "beside that of priors and scores, `<name>-hub` for a metric, `space` in a model's folder for apps.",
    )
    baseline: str | None = option(
        None, "For a model: folder of the one without alignment, to compare with. Default: that of `fit`."
    )
    template: str | None = option(None, "Jinja template for the card, instead of the built-in one.")
    license: str | None = option(None, "Licence as the Hub spells it, such as `apache-2.0`.")
    language: str | None = option(None, "Language as the Hub spells it, such as `en`.")
    examples: int | None = option(
        None,
        "Texts that the card shows with their scores; they become as public as the card. Default: none for "
        "a model, 3 per configuration of priors.",
        at_least=0,
    )
    audit: str | None = option(None, "For priors: JSON file that `hf-cap audit` wrote.")
    source_dataset: str | None = option(None, "For priors: Hub id of the data set that the texts are from.")

    def __post_init__(self) -> None:
        check_settings(self)
        for name in ("license", "language", "source_dataset"):
            value = getattr(self, name)
            if value is not None and not (value.strip() and value.isprintable()):
                raise ConfigError(f"`{name}` must be one line of printable text, got {value!r}.")

    def named(self) -> dict[str, str | None]:
        """What every card says: `name`, `repo_id`, `license`, `language`."""
        known = {"repo_id": self.repo_id, "license": self.license, "language": self.language}
        return {"name": self.repo_id.split("/")[-1], **known}


# --- What may leave the machine: no local paths, servers or secrets.

_LOCAL_PATH = re.compile(r"(?<![\w.:/<])(?:~|/|[A-Za-z]:\\)[^\s'\"=,;]*[^\s'\"=,;.)\]]")
_SERVER = re.compile(r"\b\w+://[^\s'\"|]+")
_PRIVATE_SETTING = re.compile(
    r"token(?!s)|secret|password|api_key|(^|_)(dir|path|url|host|proxy)$|(^|_)hub(_|$)"
)


def public_id(name: str | None) -> str | None:
    """The Hub id of a model or data set; `None` where it is local or has none."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    if not name or name.startswith((".", "/", "~")) or "\\" in name:
        return None
    if name.startswith(PREFIX):
        return HUB_IDS.get(name)
    try:
        validate_repo_id(name)
    except HFValidationError:
        return None
    return None if Path(name).exists() else name


def public_name(name: str | None) -> str | None:
    """The Hub id, or the last part of a local path."""
    return public_id(name) or _last(name or "") or None


def public_text(text: str) -> str:
    """A text with local paths cut down to their last part, and `***` for addresses and secrets."""
    text = _LOCAL_PATH.sub(lambda path: _last(path[0]), _SERVER.sub("***", text))
    return without_secrets(text)


def public_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings without those that name folders, servers, accounts or secrets."""
    return {
        name: public_text(value) if isinstance(value, str) else value
        for name, value in settings.items()
        if not _PRIVATE_SETTING.search(name)
    }


def public_provenance(made: Mapping[str, Any]) -> dict[str, Any]:
    """How a prior or scores were made: `public_settings`, with the public name of the model."""
    model = {"model": public_name(made["model"])} if "model" in made else {}
    return public_settings(made) | model


def _last(path: str) -> str:
    return re.split(r"[/\\]", path.rstrip("/\\"))[-1]


# --- The facts of a trained model's card.

CONFIDENCE = {
    "nll": "NLL in nats (lower is better)",
    "brier": "Brier score, 0 to 2 (lower is better)",
    "ece": "Calibration error (lower is better)",
    "accuracy_at_50": "Accuracy on the surest 50 %",
    "accuracy_at_80": "Accuracy on the surest 80 %",
    "accuracy_at_90": "Accuracy on the surest 90 %",
    "set_coverage": "Label sets with the gold label",
    "set_size": "Labels per set (lower is better)",
    "temperature": "Temperature (1: not calibrated)",
}
"""How far probabilities can be used: a table of its own."""
METRICS = {
    "accuracy": "Accuracy",
    "macro_f1": "Macro F1",
    "worst_class_accuracy": "Accuracy of the worst class",
    "roc_auc": "ROC-AUC",
    "r2": "R²",
    "rmse": "Root mean squared error (lower is better)",
    "comprehensiveness": "Comprehensiveness (higher is better)",
    "sufficiency": "Sufficiency (lower is better)",
    "soft_nc": "Soft-NC (higher is better)",
    "soft_ns": "Soft-NS (higher is better)",
    "alignment": "Cosine with the prior",
    **CONFIDENCE,
}
_LOG = {
    "step": "Step",
    "epoch": "Epoch",
    "loss": "Loss",
    "loss_task": "Task loss",
    "loss_align": "Alignment loss",
    "align_cosine": "Cosine with the prior",
}
_ELSEWHERE_ON_CARD = {"model", "dataset", "train_split", "eval_split", "seed", "model_revision"}
_NOT_SETTINGS = frozenset("source model revision fingerprint versions labels command dataset".split())


def model_facts(
    run: Mapping[str, Any],
    *,
    name: str,
    evaluations: Mapping[str, Mapping[str, Any]] | None = None,
    baseline: Mapping[str, Mapping[str, Any]] | None = None,
    records: Iterable[Mapping[str, Any]] = (),
    task: str = "text-classification",
    library: str = "transformers",
    tags: Sequence[str] = TAGS,
    **known: Any,
) -> dict[str, Any]:
    """The facts of a model's card. What the record does not hold is unknown; local paths are left out.

    Args:
        run: Content of `run.json`, or as much of it as there is.
        evaluations, baseline: Test set to the content of `evaluation/<name>.json`, of this model and of the
            one without alignment that it is compared with.
        records: Evaluated texts to show, as in `evaluation/<name>.parquet`.
        known: `repo_id`, `license` and `language` as on the Hub, and `adapter`: whether the weights are
            those of a PEFT adapter alone.

    Returns:
        `name`, `repo_id`, `adapter`, `license`, `language`, `base_model`, `dataset`, `train_split`,
        `train_rows`, `labels`, `seed`, `versions`, `command`; `alignment` and `settings` (name to value),
        `aligned` (whether the weight is above 0); `priors` (of `prior_facts`); the tables `log`, `results`
        and `confidence` (one column per set), `None` where empty; `compared` (whether with the baseline);
        `calibration`; `examples` (each with `label`, `gold`, `words`, `scores`).
    """
    own, other = evaluations or {}, baseline or {}
    sets = [{"set": split, **own[split]} for split in own]
    plain = [{"set": split, **other[split]} for split in own if split in other]
    rows = [*sets, *({**one, "set": f"{one['set']}, {PLAIN}"} for one in plain)]
    unit = "rows" if any("rows" in numbers for numbers in sets) else "texts"
    heads = {"set": "Set", unit: unit.capitalize()}
    heads |= {key: name for key, name in METRICS.items() if key not in CONFIDENCE}
    confidence = _as_table([one for one in sets if "nll" in one], {"set": "Set", **CONFIDENCE})
    facts = {
        **dict.fromkeys(("repo_id", "license", "language", "adapter")),
        **known,
        **{"template": "model.md.jinja", "name": name},
        **_run_facts(run),
        "compared": bool(plain),
        "results": _as_table(rows, heads, unit),
        "confidence": confidence and [list(one) for one in zip(*confidence, strict=True)],
        "examples": [_example(one) for one in records],
    }
    data = run.get("data") or {}
    dataset = public_id(data.get("name") or data.get("dataset"))
    return {**facts, "metadata": _metadata(facts, [sets, plain], dataset, task, library, tags)}


def _example(row: Mapping[str, Any]) -> dict[str, Any]:
    known = {"label": row["prediction"], "gold": row["label"], "words": row["words"]}
    return {**known, "scores": row.get("attributions"), "text": row.get("text")}


def _run_facts(run: Mapping[str, Any]) -> dict[str, Any]:
    data, alignment = run.get("data") or {}, run.get("alignment") or {}
    hidden = _ELSEWHERE_ON_CARD | set(alignment)
    settings = public_settings(run.get("settings") or {})
    history = [line for line in run.get("history") or () if "loss" in line and "step" in line]
    return {
        "base_model": public_id(run.get("model")),
        "dataset": public_name(data.get("name") or data.get("dataset")),
        "train_split": data.get("train_split"),
        "train_rows": data.get("rows"),
        "labels": data.get("labels") or [],
        "seed": run.get("seed"),
        "versions": run.get("versions") or {},
        "command": public_text(run.get("command") or "") or None,
        "alignment": {k: v for k, v in public_settings(alignment).items() if v is not None},
        "calibration": run.get("calibration"),
        "aligned": bool(alignment.get("alignment_weight")),
        "settings": {k: v for k, v in settings.items() if k not in hidden},
        "priors": [one for made in data.get("provenance") or () for one in prior_facts(made)],
        "log": _as_table(history, _LOG),
    }


def _metadata(
    facts: Mapping[str, Any],
    models: Sequence[Sequence[Mapping[str, Any]]],
    dataset: str | None,
    task: str,
    library: str,
    tags: Sequence[str],
) -> Any:
    from huggingface_hub import EvalResult, ModelCardData
    from huggingface_hub.repocard_data import CardData, eval_results_to_model_index

    named = {"macro_f1": "f1", "r2": "r_squared"}
    results = [
        [
            EvalResult(
                task_type=task,
                dataset_type=facts["dataset"] or "unknown",
                dataset_name=facts["dataset"] or "unknown",
                dataset_split=numbers["set"],
                metric_type=named.get(metric, metric),
                metric_name=name,
                metric_value=round(float(numbers[metric]), 4),
            )
            for numbers in sets
            for metric, name in METRICS.items()
            if numbers.get(metric) is not None and metric != "temperature"
        ]
        for sets in models
    ]
    own, others = results
    data: Any = ModelCardData(
        model_name=facts["name"],
        base_model=facts["base_model"],
        datasets=[dataset] if dataset else None,
        language=facts["language"],
        license=facts["license"],
        library_name="peft" if facts["adapter"] else library,
        pipeline_tag=task,
        tags=[*tags, "generated_from_trainer"],
        metrics=sorted({one.metric_type for one in own} & {"accuracy", "f1"}) or None,
        widget=[{"text": one["text"]} for one in facts["examples"] if one["text"]] or None,
        eval_results=own or None,
    )
    card = data.to_dict()
    if others:
        card["model-index"] += eval_results_to_model_index(f"{facts['name']}, {PLAIN}", others)
    return CardData(**card)


def prior_facts(provenance: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Per source of a `provenance` cell that was read: `source`, `model` and public `settings`."""
    facts = []
    for source, made in provenance.items():
        public = public_provenance(made)
        model = public.get("model", "none") if made else None
        kept = {k: v for k, v in public.items() if k not in _NOT_SETTINGS and v not in (None, [], {})}
        facts.append({"source": source, "model": model, "settings": kept})
    return facts


def _as_table(
    rows: Sequence[Mapping[str, Any]], names: Mapping[str, str], *always: str
) -> list[list[Any]] | None:
    """A header and the rows, with the columns that any row has; `None` without rows."""
    found = [c for c in names if c in always or any(row.get(c) is not None for row in rows)]
    body = [["–" if row.get(c) is None else row[c] for c in found] for row in rows]
    return [[names[c] for c in found], *body] if rows else None


# --- The card of a model that was just trained, from what its trainer knows.


def changed_settings(args: Any) -> dict[str, Any]:
    """Plain settings of `TrainingArguments` whose value is not the default of their field."""
    defaults = {item.name: item.default for item in fields(args) if item.default is not MISSING}
    return {
        name: value
        for name, default in defaults.items()
        if isinstance(value := getattr(args, name), bool | int | float | str) and value != default
    }


def write_trainer_card(
    trainer: Any,
    *,
    model_name: str | None = None,
    finetuned_from: str | None = None,
    dataset: str | None = None,
    **known: Any,
) -> None:
    """Write the card of a trainer's model; arguments as of `Trainer.create_model_card`, all optional."""
    from transformers import TrainingArguments

    args, config, rows = trainer.args, trainer.model.config, trainer.train_dataset
    plain = TrainingArguments.__dataclass_fields__
    labels = class_names(config)
    count = len(rows) if hasattr(rows, "__len__") else None
    record = {
        "model": finetuned_from or getattr(config, "_name_or_path", None),
        "seed": args.seed,
        "settings": changed_settings(args),
        "alignment": {i.name: getattr(args, i.name) for i in fields(args) if i.name not in plain},
        "data": {"dataset": dataset, "rows": count, "labels": labels},
        "history": trainer.history,
        "versions": versions(),
    }
    facts = model_facts(
        record,
        name=model_name or Path(args.output_dir).name,
        repo_id=getattr(trainer, "hub_model_id", None),
        adapter=hasattr(trainer.model, "peft_config"),
        language=known.get("language"),
        license=known.get("license"),
    )
    write_card(args.output_dir, facts)


def write_card(folder: Place, facts: Mapping[str, Any]) -> None:
    """Write the card of a trained model into its folder, which is about to be published, and check it.

    The pickled training arguments leave it: they hold local paths, and the card tells the settings.
    """
    (Path(folder) / "training_args.bin").unlink(missing_ok=True)
    write_text(Path(folder) / CARD, render_card(facts))
    refuse_secrets(Path(folder), "*")


# --- Markdown from facts and a template.

# what a template may raise beside errors of Jinja
_MISTAKES = (ValueError, TypeError, ArithmeticError, LookupError, AttributeError, RecursionError)
_LONGEST = 10_000_000
_SPECIAL = re.compile(r"[\\`*_\[\]<>|~$&#]")


def render_card(facts: Mapping[str, Any], template: str | Path | None = None) -> str:
    """The card as Markdown, front matter included.

    Args:
        facts: Of the card. The template sees each by its name; `metadata` is the front matter as YAML.
        template: File of another Jinja template than the one that ships. It runs in a sandbox, which
            gives it no access to Python.
    """
    from huggingface_hub import RepoCard

    source = Path(template) if template else bundled("model_cards") / facts["template"]
    # no autoescape, which is for HTML: `finalize` escapes for Markdown
    environment = ImmutableSandboxedEnvironment(
        finalize=escape,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {one.__name__: one for one in (block, code, literal, subsample, table)}
    citation = (bundled("model_cards") / "citation.md").read_text(encoding="utf-8")
    del environment.globals["lipsum"]  # makes text without end
    environment.globals |= {"heat_map": heat_map, "PAPER": PAPER, "CITATION": Markup(citation.strip())}
    metadata = Markup(facts["metadata"].to_yaml(line_break="\n").strip())
    try:
        text = source.read_text(encoding="utf-8")
        card = environment.from_string(text).render({**facts, "metadata": metadata})
        if len(card) > _LONGEST:
            raise ValueError(f"it gives more than {_LONGEST} characters")
        if not any(vars(RepoCard(card, ignore_metadata_errors=False).data).values()):
            raise ValueError("it has no front matter; begin with '---', '{{ metadata }}', '---'")
    except (OSError, jinja2.TemplateError, yaml.YAMLError, *_MISTAKES) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise ConfigError(
            f"The card template {str(source)!r} fails: {reason}. The facts it may use are "
            f"{', '.join(sorted(facts))}."
        ) from error
    return card


def escape(value: Any) -> str:
    """A value as Markdown text that means itself; `None` is "unknown"."""
    if value is None:
        return "unknown"
    if isinstance(value, Markup):
        return str(value)
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(map(escape, value)) or "none"
    return _SPECIAL.sub(r"\\\g<0>", _line(value))


def unescape(text: str) -> str:
    """A text as it was before `escape`."""
    return re.sub(rf"\\({_SPECIAL.pattern})", r"\1", text)


def code(value: Any) -> Markup:
    """A value as a code span that is also valid in a table."""
    if value is None:
        return Markup("unknown")
    text = _line(value).replace("|", "\\|")
    padding = " " if text.startswith("`") or text.endswith("`") else ""
    return Markup(f"{_fence(text, 1)}{padding}{text}{padding}{_fence(text, 1)}")


def _line(value: Any) -> str:
    return printable(" ".join(str(value).split()))


def literal(value: Any) -> Markup:
    """A value as a literal of Python."""
    return Markup(json.dumps(value, ensure_ascii=False))


def block(value: str, language: str = "text") -> Markup:
    """A text as a fenced code block that it cannot break out of."""
    return Markup(f"{_fence(value, 3)}{language}\n{value}\n{_fence(value, 3)}")


def table(rows: Sequence[Sequence[Any]]) -> Markup:
    """A Markdown table with the first row as header; columns of numbers are right-aligned."""
    header, *body = rows
    numeric = [any(isinstance(line[i], int | float) for line in body) for i in range(len(header))]
    ruler = "|" + "".join("---:|" if right else "---|" for right in numeric)
    first, *lines = [f"| {' | '.join(map(escape, line))} |" for line in (header, *body)]
    return Markup("\n".join([first, ruler, *lines]))


def _fence(text: str, least: int) -> str:
    return "`" * max(least, 1 + max(map(len, re.findall("`+", text)), default=0))
