"""A saved student, used: from rows to predictions and to what they rest on."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from huggingface_hub import DatasetCardData, ModelCardData
from numpy.typing import NDArray
from transformers.trainer import TRAINING_ARGS_NAME

from hf_cap.cards import (
    ModelCardFacts,
    model_facts,
    public_name,
    public_settings,
    public_text,
    render_card,
)
from hf_cap.errors import ConfigError, ModelError
from hf_cap.hub import CARD, ModelPush, check_folder, stage_model, staging
from hf_cap.laat.elicitation import CLASS, FEATURE, SCORE, FeatureScores, load_scores
from hf_cap.laat.models import (
    Features,
    TabularConfig,
    TabularStudent,
    classification_metrics,
    input_gradients,
    predict,
    regression_metrics,
)
from hf_cap.laat.settings import ScorePush
from hf_cap.laat.table import EncodedTable, Table, read_table
from hf_cap.training.card import changed_settings
from hf_cap.utils import versions, write_text


def load_student(name: str | os.PathLike[str]) -> TabularStudent:
    """A student that `hf-cap train --task tabular` or `save_pretrained` wrote, or one on the Hub.

    Raises:
        ModelError: there is no such student.
    """
    try:
        student: TabularStudent = TabularStudent.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise ModelError(f"Cannot load a tabular student from {str(name)!r}: {error}") from error
    return student


def read_rows(student: TabularStudent, table: Table, *, split: str = "train") -> pd.DataFrame:
    """A table, read as the student's training table was: the same cells mean a missing value.

    Raises:
        DataError: there is no such table or split, or it has no rows.
    """
    missing_values = student.config.preprocessor.schema.missing_values
    return read_table(table, split=split, missing_values=missing_values)


def predict_table(student: TabularStudent, table: Table) -> pd.DataFrame:
    """Predictions for the rows of a table, which needs no target.

    Returns:
        A frame with a column of probabilities a class, or for regression one of numbers, named as the target.
    """
    preprocessor = student.config.preprocessor
    outputs = predict(student, torch.from_numpy(preprocessor.features(read_rows(student, table))))
    found = outputs.double().cpu().numpy()
    if preprocessor.schema.kind == "regression":
        found = preprocessor.numbers(found)[:, None]
    return pd.DataFrame(found, columns=list(preprocessor.schema.outputs))


def evaluate_student(student: TabularStudent, rows: EncodedTable) -> dict[str, float]:
    """How good a student is on some rows: their number as `rows`, and its metrics.

    Returns:
        The numbers of `classification_metrics`, or of `regression_metrics` in the unit of the target.

    Raises:
        DataError: only one class occurs among the rows.
    """
    outputs = predict(student, rows.features).double().cpu().numpy()
    preprocessor, known = student.config.preprocessor, rows.labels.numpy()
    measured = (
        regression_metrics(preprocessor.numbers(outputs), preprocessor.numbers(known))
        if preprocessor.schema.kind == "regression"
        else classification_metrics(outputs, known)
    )
    return {"rows": len(rows), **measured}


def attribute_features(student: TabularStudent, table: Table) -> NDArray[np.float64]:
    """Input gradients of each class's score, averaged over the rows, `(outputs, features)`.

    Positive where a larger value of the (scaled) feature speaks for the class.
    """
    features = student.config.preprocessor.features(read_rows(student, table))
    return attribute_rows(student, torch.from_numpy(features))


def attribute_rows(student: TabularStudent, features: Features) -> NDArray[np.float64]:
    """The same for rows that are inputs already, as of an `EncodedTable`; the student may be in training."""
    features = features.detach().to(student.device).requires_grad_()
    logits = student(features=features).logits
    outputs = torch.arange(logits.shape[1], device=logits.device)
    gradients = input_gradients(logits, features, outputs, differentiable=False)
    averaged: NDArray[np.float64] = gradients.mean(0).double().cpu().numpy()
    return averaged


# --- Cards: of a trained student, and of a data set of feature scores.


PAPER = "2502.20268"
_TAGS = ("hf_cap", "laat", "tabular", "feature-scores", f"arxiv:{PAPER}")


@dataclass(frozen=True, kw_only=True)
class StudentCardFacts(ModelCardFacts):
    """What the card of a tabular student tells."""

    template: ClassVar[str] = "student.md.jinja"
    unit: ClassVar[str] = "rows"

    hidden_sizes: tuple[int, ...] = ()
    regression: bool = False
    question: str | None = None
    target: str | None = None
    features: tuple[tuple[str, str], ...] = ()
    """Name and description of each input."""
    told_and_learnt: tuple[Mapping[str, Any], ...] = ()
    """For each output and feature its `score` and the student's mean `attribution`."""
    scores: Mapping[str, Any] = field(default_factory=dict)
    """How the feature scores were made; empty where there are none."""

    @property
    def inputs(self) -> list[list[Any]]:
        """A table of the inputs; with what was told and learnt of them for each output, where it is known."""
        found = {(one["class"], one["feature"]): one for one in self.told_and_learnt}
        outputs = list(dict.fromkeys(output for output, _ in found))
        told = any(one["score"] is not None for one in self.told_and_learnt)
        columns = ["score", "attribution"] if told else ["attribution"]
        header = [f"{output}: {column}" for output in outputs for column in columns]
        rows = [
            [name, text, *(found[output, name][c] for output in outputs for c in columns)]
            for name, text in self.features
        ]
        return [["Input", "Description", *header], *rows]

    def metadata(self) -> ModelCardData:
        """The front matter."""
        task = f"tabular-{'regression' if self.regression else 'classification'}"
        return ModelCardData(
            model_name=self.name,
            datasets=[self.dataset] if self.dataset and self.dataset_on_hub else None,
            license=self.license,
            library_name="hf_cap",
            pipeline_tag=task,
            tags=[*_TAGS, "generated_from_trainer"],
            eval_results=self.model_index(task),
        )


@dataclass(frozen=True, kw_only=True)
class ScoreCardFacts:
    """What the card of a data set of feature scores tells."""

    template: ClassVar[str] = "scores.md.jinja"

    name: str
    scores: FeatureScores
    repo_id: str | None = None
    license: str | None = None

    @property
    def command(self) -> str | None:
        """What made the scores again."""
        command = self.scores.provenance.get("command")
        return public_text(command) if command else None

    @property
    def versions(self) -> Mapping[str, str | None]:
        """Packages that made the scores."""
        return dict(self.scores.provenance.get("versions") or {})

    @property
    def table(self) -> list[list[Any]]:
        """A row a feature with its score for each class, under a header."""
        classes = list(dict.fromkeys(one.label for one in self.scores.scores))
        found = {(one.feature, one.label): one.score for one in self.scores.scores}
        features = dict.fromkeys(one.feature for one in self.scores.scores)
        return [
            ["Feature", *classes],
            *([name, *(found.get((name, label)) for label in classes)] for name in features),
        ]

    @property
    def facts(self) -> dict[str, Any]:
        """How the scores were made beside command and versions, without local paths and secrets."""
        told = public_settings(self.scores.provenance)
        return {name: fact for name, fact in told.items() if name not in ("command", "versions")}

    def metadata(self) -> DatasetCardData:
        """The front matter."""
        return DatasetCardData(
            pretty_name=self.name,
            license=self.license,
            task_categories=["tabular-classification"],
            size_categories="n<1K" if len(self.scores.scores) < 1_000 else "1K<n<10K",
            tags=list(_TAGS),
            configs=[{"config_name": "default", "data_files": "train.parquet"}],
        )


def student_record(
    trainer: Any, scores: FeatureScores | None, *, dataset: str | None = None
) -> dict[str, Any]:
    """The record of a run, with the names of `run.json`.

    Args:
        trainer: After training.
        scores: What the student was aligned with.
        dataset: Name of the training table.
    """
    args, config = trainer.args, trainer.model.config
    return {
        "seed": args.seed,
        "settings": changed_settings(args),
        "alignment": alignment_record(args),
        "data": {
            "dataset": dataset,
            "rows": len(trainer.train_dataset),
            "labels": list(config.id2label.values()),
        },
        "scores": dict(scores.provenance) if scores else None,
        "features": feature_record(trainer.model, trainer.train_dataset, scores),
        "history": trainer.history,
        "versions": versions(),
    }


def feature_record(
    student: TabularStudent, table: EncodedTable, scores: FeatureScores | None
) -> list[dict[str, Any]]:
    """For each output and feature what was told of it and what was learnt.

    Args:
        student: After training.
        table: The rows that its input gradients are averaged over.
        scores: What it was aligned with.

    Returns:
        Rows with `class`, `feature`, `score` (`None` where there is none) and `attribution`.
    """
    schema = student.config.preprocessor.schema
    told = {(one.label, one.feature): one.score for one in scores.scores} if scores else {}
    return [
        {CLASS: output, FEATURE: name, SCORE: told.get((output, name)), "attribution": float(one)}
        for output, row in zip(schema.outputs, attribute_rows(student, table.features), strict=True)
        for name, one in zip(schema.feature_names, row, strict=True)
    ]


def trainer_facts(
    trainer: Any,
    scores: FeatureScores | None,
    *,
    license: str | None = None,
    dataset: str | None = None,
    model_name: str | None = None,
    **_: Any,
) -> StudentCardFacts:
    """The facts of the card of a trainer's student.

    Args:
        trainer: After training.
        scores: What the student was aligned with.
        license: Of the model.
        dataset: Name of the training table.
        model_name: Title of the card.
        _: What else `Trainer.create_model_card` takes, which this card has no place for.
    """
    return student_facts(
        student_record(trainer, scores, dataset=dataset),
        config=trainer.model.config,
        name=model_name or Path(str(trainer.args.output_dir)).name,
        repo_id=getattr(trainer, "hub_model_id", None),
        license=license,
    )


def write_student_card(folder: Path, facts: StudentCardFacts) -> None:
    """Write the card of a student into its folder, which is about to be published."""
    # pickled, and with local paths
    (folder / TRAINING_ARGS_NAME).unlink(missing_ok=True)
    write_text(folder / "README.md", render_card(facts))


def alignment_record(args: Any) -> dict[str, Any]:
    """The settings of an alignment that have a meaning for tables."""
    return {
        item.name: getattr(args, item.name)
        for item in fields(args)
        if item.name.startswith("alignment_") or item.name in ("attribution_scope", "sharpen")
    }


def student_facts(
    record: Mapping[str, Any], *, config: TabularConfig, **known: Any
) -> StudentCardFacts:
    """The facts of a student's card.

    Args:
        record: Of its run, as `run.json` has it.
        config: Of the student.
        known: What else `model_facts` takes.
    """
    common = model_facts(record, **known)
    made: Mapping[str, Any] = record.get("scores") or {}
    schema = config.preprocessor.schema
    return StudentCardFacts(
        **{item.name: getattr(common, item.name) for item in fields(common)},
        hidden_sizes=tuple(config.hidden_sizes),
        regression=schema.kind == "regression",
        question=schema.question or None,
        target=schema.target,
        features=tuple((one.name, one.description) for one in schema.features),
        told_and_learnt=tuple(record.get("features") or ()),
        scores={k: v for k, v in public_settings(made).items() if k != "versions"},
    )


# --- What goes to the Hub: a student, or a data set of feature scores, each with its card.


def stage_student(options: ModelPush, folder: Path) -> Path:
    """Write a student and its card as they go to the Hub.

    Raises:
        ConfigError: rows are to be shown, the template fails, or something must not be published.
        ModelError: the run holds no safetensors weights.
    """
    if options.examples:
        raise ConfigError(
            f"`examples={options.examples}` shows texts with their attributions; this is a model of tables, "
            "whose card shows no row. Leave it out."
        )
    config = TabularConfig.from_pretrained(options.run)
    return stage_model(options, folder, partial(student_facts, config=config))


def stage_scores(options: ScorePush, folder: Path) -> Path:
    """Write a data set of feature scores and its card as they go to the Hub.

    Raises:
        DataError: there are no scores.
        ConfigError: the template fails, or something must not be published.
    """
    scores = load_scores(options.scores)
    return write_scores(
        scores, folder, options.repo_id, license=options.license, template=options.template
    )


def write_scores(
    scores: FeatureScores,
    folder: Path,
    repo_id: str | None = None,
    *,
    license: str | None = None,
    template: str | None = None,
) -> Path:
    """Write scores as parquet, and their card.

    Args:
        scores: What is written.
        folder: Where; replaced as a whole.
        repo_id: Where they will be on the Hub, for the card.
        license: Licence as the Hub spells it.
        template: File of a Jinja template for the card, instead of the one that ships.

    Raises:
        ConfigError: the template fails, or something in the folder must not be published.
    """
    facts = ScoreCardFacts(
        name=repo_id.split("/")[-1] if repo_id else folder.name,
        scores=public_scores(scores),
        repo_id=repo_id,
        license=license,
    )
    with staging(folder) as target:
        facts.scores.to_dataset().to_parquet(str(target / "train.parquet"))
        (target / CARD).write_text(render_card(facts, template), encoding="utf-8")
        check_folder(target, folder)
    return folder


def public_scores(scores: FeatureScores) -> FeatureScores:
    """The scores with a provenance that names no local path, server or secret."""
    facts = scores.provenance
    named = {"model": public_name(facts["model"])} if "model" in facts else {}
    return replace(scores, provenance={**public_settings(facts), **named})
