"""`hf-cap push`: publish a model, priors or a metric on the Hub, with a card."""

from dataclasses import dataclass
from typing import Any, Literal

from ..options import documented, option, required
from ..publishing.settings import MetricPush, ModelPush, PriorCard, PriorPush, PushOptions
from .config import build

What = Literal["model", "priors", "metric"]


@documented
@dataclass(frozen=True, kw_only=True)
class PushPlaces:
    """What is published, and where it lies."""

    what: What = required("What is published: a trained `model`, `priors`, or a `metric`.")
    folder: str = required(
        "Its folder: what `hf-cap train` wrote, what `hf-cap extract` or `hf-cap fuse` wrote, or an "
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

OPTIONS: dict[What, tuple[str, type[PushOptions], str]] = {
    "model": ("push_model", ModelPush, "run"),
    "priors": ("push_priors", PriorPush, "dataset"),
    "metric": ("push_metric", MetricPush, "metric"),
}
"""What is published to the function that does it, its settings, and their field for the folder."""


def run(values: dict[str, Any]) -> None:
    """Write the folder, list it, and upload it where `--push` says so."""
    from ..publishing import hub

    places = build(PushPlaces, values)
    function, settings, folder = OPTIONS[places.what]
    given = {name: value for name, value in values.items() if value is not None}
    getattr(hub, function)(build(settings, {**given, folder: places.folder}))
