"""What goes to the Hub: a student, or a data set of feature scores, each with its card."""

from dataclasses import replace
from functools import partial
from pathlib import Path

from ..cards import render_card
from ..cards.safety import public_name, public_settings
from ..errors import ConfigError
from ..publishing.settings import ModelPush
from ..publishing.staging import CARD, check_folder, stage_model, staging
from .card import ScoreCardFacts, student_facts
from .scores import FeatureScores, load_scores
from .settings import ScorePush
from .students import TabularConfig


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
