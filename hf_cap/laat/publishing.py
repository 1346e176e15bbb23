"""Records and cards of tabular models, and data sets of feature scores with theirs."""

from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any

from huggingface_hub import DatasetCardData
from transformers.trainer import TRAINING_ARGS_NAME

from hf_cap.cards import (
    model_facts,
    public_name,
    public_settings,
    public_text,
    render_card,
)
from hf_cap.errors import ConfigError
from hf_cap.laat.elicitation import CLASS, FEATURE, SCORE, FeatureScores
from hf_cap.laat.models import TabularConfig, mean_gradients
from hf_cap.training.card import changed_settings
from hf_cap.utils import versions, write_text

PAPER = "2502.20268"
TAGS = ("hf_cap", "laat", "tabular", "feature-scores", f"arxiv:{PAPER}")


# --- Models.


def tabular_record(
    trainer: Any, scores: FeatureScores | None, *, dataset: str | None = None
) -> dict[str, Any]:
    """The record of a run, with the names of `run.json`.

    Args:
        trainer: After training.
        scores: What the model was aligned with.
        dataset: Name of the training table.

    Returns:
        Among others `features`: for each output and feature its `class`, `feature`, elicited `score`
        (`None` where there is none) and `attribution`, the mean input gradient over the training rows.
    """
    args, model, rows = trainer.args, trainer.model, trainer.train_dataset
    schema = model.config.preprocessor.schema
    elicited = {(one.label, one.feature): one.score for one in scores.scores} if scores else {}
    gradients = mean_gradients(model, rows.features).tolist()
    return {
        "seed": args.seed,
        "settings": changed_settings(args),
        "alignment": {
            item.name: getattr(args, item.name)
            for item in fields(args)
            if item.name.startswith("alignment_") or item.name in ("attribution_scope", "sharpen")
        },
        "data": {"dataset": dataset, "rows": len(rows), "labels": list(schema.outputs)},
        "scores": dict(scores.provenance) if scores else None,
        "features": [
            {CLASS: output, FEATURE: name, SCORE: elicited.get((output, name)), "attribution": one}
            for output, row in zip(schema.outputs, gradients, strict=True)
            for name, one in zip(schema.feature_names, row, strict=True)
        ],
        "history": trainer.history,
        "versions": versions(),
    }


def tabular_facts(
    record: Mapping[str, Any], *, config: TabularConfig, **known: Any
) -> dict[str, Any]:
    """The facts of a tabular model's card.

    Args:
        record: Of its run, as `run.json` has it.
        config: Of the model.
        known: What else `model_facts` takes.

    Returns:
        Those of `model_facts`, and `hidden_sizes`, `regression`, `question`, `target`, `inputs` (a table of
        the features), `attributed` (whether it has attributions), `scores` (how they were made).
    """
    schema = config.preprocessor.schema
    regression = schema.kind == "regression"
    task = f"tabular-{'regression' if regression else 'classification'}"
    found = {(one[CLASS], one[FEATURE]): one for one in record.get("features") or ()}
    outputs = list(dict.fromkeys(output for output, _ in found))
    elicited = any(one[SCORE] is not None for one in found.values())
    columns = [SCORE, "attribution"] if elicited else ["attribution"]
    header = [f"{output}: {column}" for output in outputs for column in columns]
    inputs = [
        [name, description, *(found[output, name][c] for output in outputs for c in columns)]
        for name, _, _, description in schema.features
    ]
    made = public_settings(record.get("scores") or {})
    return {
        **model_facts(record, **known, task=task, library="hf_cap", tags=TAGS),
        "template": "tabular.md.jinja",
        "hidden_sizes": list(config.hidden_sizes),
        "regression": regression,
        "question": schema.question or None,
        "target": schema.target,
        "inputs": [["Input", "Description", *header], *inputs],
        "attributed": bool(found),
        "scores": {name: value for name, value in made.items() if name != "versions"},
    }


def facts_of_run(run: str | Path, examples: int | None = None) -> Callable[..., dict[str, Any]]:
    """The `facts` argument of `hf_cap.hub.push_model` for a tabular model.

    Raises:
        ConfigError: rows are to be shown.
    """
    if examples:
        raise ConfigError(
            f"`examples={examples}` shows texts with their attributions; the card of a tabular model "
            "shows no rows. Leave it out."
        )
    return partial(tabular_facts, config=TabularConfig.from_pretrained(run))


def write_tabular_card(folder: Path, record: Mapping[str, Any], **known: Any) -> None:
    """Write the card of a model into its folder, which is about to be published.

    Args:
        folder: Where the model was saved. The pickled training arguments are removed from it.
        record: Of its run.
        known: What else `tabular_facts` takes.
    """
    (folder / TRAINING_ARGS_NAME).unlink(missing_ok=True)
    write_text(folder / "README.md", render_card(tabular_facts(record, **known)))


# --- Feature scores.


def write_scores(
    folder: Path,
    scores: FeatureScores,
    *,
    repo_id: str | None = None,
    license: str | None = None,
    template: str | None = None,
) -> None:
    """Write scores as parquet, and their card, without local paths, servers and secrets.

    Args:
        folder: An existing folder.
        scores: What is written.
        repo_id: Where they will be on the Hub.
        license: Licence as the Hub spells it.
        template: File of another Jinja template than the one that ships.

    Raises:
        ConfigError: the template fails.
    """
    made = scores.provenance
    model = {"model": public_name(made["model"])} if "model" in made else {}
    public = replace(scores, provenance={**public_settings(made), **model})
    facts = score_facts(public, (repo_id or folder.name).split("/")[-1], repo_id, license)
    public.to_dataset().to_parquet(str(folder / "train.parquet"))
    write_text(folder / "README.md", render_card(facts, template))


def score_facts(
    scores: FeatureScores, name: str, repo_id: str | None, license: str | None
) -> dict[str, Any]:
    """The facts of the card of a data set of feature scores.

    Returns:
        `name`, `repo_id`, `scores` (a table), `made` (how), `versions`, `command`.
    """
    made = scores.provenance
    classes = list(dict.fromkeys(one.label for one in scores.scores))
    found = {(one.feature, one.label): one.score for one in scores.scores}
    features = dict.fromkeys(one.feature for one in scores.scores)
    rows = [[one, *(found.get((one, label)) for label in classes)] for one in features]
    return {
        "template": "scores.md.jinja",
        "metadata": DatasetCardData(
            pretty_name=name,
            license=license,
            task_categories=["tabular-classification"],
            size_categories="n<1K" if len(scores.scores) < 1_000 else "1K<n<10K",
            tags=list(TAGS),
            configs=[{"config_name": "default", "data_files": "train.parquet"}],
        ),
        "name": name,
        "repo_id": repo_id,
        "scores": [["Feature", *classes], *rows],
        "made": {k: v for k, v in made.items() if k not in ("command", "versions")},
        "versions": made.get("versions") or {},
        "command": public_text(made.get("command") or "") or None,
    }
