"""`hf-cap push`: publish a model, priors, feature scores or a metric on the Hub, with a card."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from hf_cap.cli.config import build
from hf_cap.hub import MetricPush, ModelPush, PriorCard, PriorPush, PushOptions
from hf_cap.laat.settings import ScorePush
from hf_cap.utils import documented, option, required

What = Literal["model", "priors", "scores", "metric"]


@documented
@dataclass(frozen=True, kw_only=True)
class PushPlaces:
    """What is published, and where it lies."""

    what: What = required(
        "What is published: a trained `model` (of texts or of tables), `priors`, feature `scores`, or a "
        "`metric`."
    )
    folder: str = required(
        "Its folder: what `hf-cap train`, `hf-cap extract`, `hf-cap fuse` or `hf-cap elicit` wrote, or an "
        "`evaluate` module."
    )
    examples: int | None = option(
        None,
        "Texts that the card shows with their scores; they become as public as the card. Default: none for a "
        "model, 3 for each source of priors.",
    )
    audit: str | None = option(
        None, "For priors: the JSON file that `hf-cap audit` wrote, for the card."
    )


SETTINGS = (PushPlaces, PushOptions, PriorCard)
POSITIONAL = "what"


def run(values: dict[str, Any]) -> None:
    """Write the folder, list it, and upload it where `--push` says so."""
    places = build(PushPlaces, values)
    given = {name: value for name, value in values.items() if value is not None}
    settings, field, publish = PUSHES[places.what]
    publish(build(settings, {**given, field: places.folder}))


def _push_model(options: ModelPush) -> None:
    from hf_cap.hub import push_model
    from hf_cap.laat.models import is_student
    from hf_cap.laat.publishing import stage_student

    if is_student(options.run):
        push_model(options, stage=stage_student)
    else:
        push_model(options)


def _push_priors(options: PriorPush) -> None:
    from hf_cap.hub import push_priors

    push_priors(options)


def _push_scores(options: ScorePush) -> None:
    from hf_cap.hub import push_folder
    from hf_cap.laat.publishing import stage_scores

    source = Path(options.scores)
    folder = Path(options.output_dir or source.with_name(f"{source.stem}-hub"))
    push_folder(options, "dataset", lambda: stage_scores(options, folder))


def _push_metric(options: MetricPush) -> None:
    from hf_cap.hub import push_metric

    push_metric(options)


PUSHES: dict[What, tuple[type[PushOptions], str, Callable[[Any], None]]] = {
    "model": (ModelPush, "run", _push_model),
    "priors": (PriorPush, "dataset", _push_priors),
    "scores": (ScorePush, "scores", _push_scores),
    "metric": (MetricPush, "metric", _push_metric),
}
"""What is published to its settings, their field for the folder, and what publishes it."""
