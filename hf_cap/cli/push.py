"""`hf-cap push`: publish a model, priors, feature scores or a metric on the Hub, with a card."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from hf_cap.cli.config import build
from hf_cap.hub import PushOptions
from hf_cap.utils import documented, required


@documented
@dataclass(frozen=True, kw_only=True)
class PushPlaces:
    """What is published."""

    what: Literal["model", "priors", "scores", "metric"] = required(
        "What is published: a trained `model` (of texts or of tables), `priors`, feature `scores`, or a "
        "`metric`."
    )
    folder: str = required(
        "Its folder: what `hf-cap train`, `hf-cap extract`, `hf-cap fuse` or `hf-cap elicit` wrote; of a "
        "metric its name, such as `comprehensiveness`."
    )


SETTINGS = (PushPlaces, PushOptions)
POSITIONAL = "what"


def run(values: dict[str, Any]) -> None:
    """Write the folder, list it, and upload it if `--push` is given."""
    from hf_cap import hub

    places, options = build(PushPlaces, values), build(PushOptions, values)
    if places.what == "model":
        _push_model(places.folder, options)
    elif places.what == "priors":
        hub.push_priors(places.folder, options)
    elif places.what == "scores":
        _push_scores(Path(places.folder), options)
    else:
        hub.push_metric(places.folder, options)


def _push_model(folder: str, options: PushOptions) -> None:
    from hf_cap.hub import push_model
    from hf_cap.laat.models import is_tabular_model
    from hf_cap.laat.publishing import facts_of_run

    if is_tabular_model(folder):
        push_model(folder, options, facts=facts_of_run(folder, options.examples))
    else:
        push_model(folder, options)


def _push_scores(folder: Path, options: PushOptions) -> None:
    from hf_cap.hub import publish
    from hf_cap.laat.elicitation import load_scores
    from hf_cap.laat.publishing import write_scores

    scores = load_scores(folder)
    publish(
        options,
        "dataset",
        lambda target: write_scores(
            target,
            scores,
            repo_id=options.repo_id,
            license=options.license,
            template=options.template,
        ),
        folder.with_name(f"{folder.stem}-hub"),
    )
