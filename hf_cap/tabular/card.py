"""Cards: of a trained student, and of a data set of feature scores."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar

from huggingface_hub import DatasetCardData, ModelCardData
from transformers import Trainer
from transformers.trainer import TRAINING_ARGS_NAME

from ..cards import ModelCardFacts, model_facts, render_card
from ..cards.safety import public_settings
from ..files import write_text
from ..training.card import changed_settings
from ..versions import versions
from .scores import FeatureScores

PAPER = "2502.20268"
_TAGS = ("hf_cap", "laat", "tabular", "feature-scores", f"arxiv:{PAPER}")


@dataclass(frozen=True, kw_only=True)
class StudentCardFacts(ModelCardFacts):
    """What the card of a tabular student tells."""

    template: ClassVar[str] = "student.md.jinja"

    hidden_sizes: tuple[int, ...] = ()
    regression: bool = False
    question: str | None = None
    target: str | None = None
    features: tuple[tuple[str, str], ...] = ()
    """Name and description of each input."""
    scores: Mapping[str, Any] = field(default_factory=dict)
    """How the feature scores were made; empty where there are none."""

    def metadata(self) -> ModelCardData:
        """The front matter."""
        return ModelCardData(
            model_name=self.name,
            license=self.license,
            library_name="hf_cap",
            pipeline_tag=f"tabular-{'regression' if self.regression else 'classification'}",
            tags=[*_TAGS, "generated_from_trainer"],
        )


@dataclass(frozen=True, kw_only=True)
class ScoreCardFacts:
    """What the card of a data set of feature scores tells."""

    template: ClassVar[str] = "scores.md.jinja"

    name: str
    scores: FeatureScores
    repo_id: str | None = None
    license: str | None = None
    command: str | None = None
    versions: Mapping[str, str | None] = field(default_factory=dict)

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
        """How the scores were made, without local paths and secrets."""
        return public_settings(self.scores.provenance)

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


def write_student_card(
    trainer: Trainer,
    scores: FeatureScores | None,
    *,
    license: str | None = None,
    dataset: str | None = None,
    model_name: str | None = None,
    **_: Any,
) -> None:
    """Write the card of a student into its trainer's output folder.

    Args:
        trainer: After training.
        scores: What the student was aligned with.
        license: Of the model.
        dataset: Name of the training table.
        model_name: Title of the card.
        _: What else `Trainer.create_model_card` takes, which this card has no place for.
    """
    args: Any = trainer.args
    config: Any = trainer.model.config  # type: ignore[union-attr]
    record = {
        "seed": args.seed,
        "settings": changed_settings(args),
        "alignment": alignment_record(args) if args.alignment_weight else {},
        "data": {
            "dataset": dataset,
            "rows": len(trainer.train_dataset),  # type: ignore[arg-type]
            "labels": list(config.id2label.values()),
        },
        "history": trainer.state.log_history,
        "versions": versions(),
    }
    folder = Path(str(args.output_dir))
    # pickled, and with local paths
    (folder / TRAINING_ARGS_NAME).unlink(missing_ok=True)
    facts = student_facts(
        record,
        config,
        scores,
        name=model_name or folder.name,
        repo_id=getattr(trainer, "hub_model_id", None),
        license=license,
    )
    write_text(folder / "README.md", render_card(facts))


def alignment_record(args: Any) -> dict[str, Any]:
    """The settings of an alignment that have a meaning for tables."""
    return {
        item.name: getattr(args, item.name)
        for item in fields(args)
        if item.name.startswith("alignment_") or item.name in ("attribution_scope", "sharpen")
    }


def student_facts(
    record: Mapping[str, Any], config: Any, scores: FeatureScores | None, **known: Any
) -> StudentCardFacts:
    """The facts of a student's card, from the record of its run and its configuration."""
    common = model_facts(record, **known)
    schema = config.preprocessor.schema
    return StudentCardFacts(
        **{item.name: getattr(common, item.name) for item in fields(common)},
        hidden_sizes=tuple(config.hidden_sizes),
        regression=schema.kind == "regression",
        question=schema.question or None,
        target=schema.target,
        features=tuple((one.name, one.description) for one in schema.features),
        scores=public_settings(scores.provenance) if scores else {},
    )


def score_card(scores: FeatureScores, name: str, *, repo_id: str | None, **known: Any) -> str:
    """The card of feature scores as Markdown.

    Args:
        scores: What is published.
        name: Title.
        repo_id: Where it will be on the Hub.
        known: Further facts, such as `license` and `command`.
    """
    return render_card(
        ScoreCardFacts(name=name, repo_id=repo_id, scores=scores, versions=versions(), **known)
    )
