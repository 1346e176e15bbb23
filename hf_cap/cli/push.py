"""Publish a model, priors, feature scores or a metric on the Hub, with a card."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from hf_cap.cli.core import Result, Values, build
from hf_cap.hub import PushOptions
from hf_cap.utils import required


@dataclass(frozen=True, kw_only=True)
class PushArguments:
    """What is published."""

    what: Literal["model", "priors", "scores", "metric"] = required(
        "What is published: a trained `model` (of texts or of tables), `priors`, feature `scores`, or a "
        "`metric`."
    )
    folder: str = required(
        "Its folder: what `hf-cap train`, `hf-cap extract`, `hf-cap fuse` or `hf-cap elicit` wrote; of a "
        "metric its name, such as `comprehensiveness`."
    )


EXAMPLE = "model --folder runs/model --repo_id me/model"
SETTINGS = [PushArguments, PushOptions]
POSITIONAL = "what"


def run(values: Values) -> Result:
    """Write the folder, list it, and upload it if `--push` is given."""
    from hf_cap import hub

    given, options = build(PushArguments, values), build(PushOptions, values)
    kinds: dict[str, Callable[[str, PushOptions], Path]] = {
        "model": _push_model,
        "priors": hub.push_priors,
        "scores": _push_scores,
        "metric": hub.push_metric,
    }
    folder = kinds[given.what](given.folder, options)
    return Result({"folder": str(folder), "repo_id": options.repo_id}, "")


def _push_model(folder: str, options: PushOptions) -> Path:
    from hf_cap.hub import push_model
    from hf_cap.laat.models import TabularConfig, is_tabular_model, tabular_facts

    if is_tabular_model(folder):
        config = TabularConfig.from_pretrained(folder)
        return push_model(folder, options, facts=partial(tabular_facts, config=config))
    return push_model(folder, options)


def _push_scores(folder: str, options: PushOptions) -> Path:
    from hf_cap.hub import publish
    from hf_cap.laat.elicitation import load_scores, write_scores

    scores, source = load_scores(folder), Path(folder)
    card = {name: getattr(options, name) for name in ("repo_id", "license", "template")}
    target = source.with_name(f"{source.stem}-hub")
    return publish(options, "dataset", lambda place: write_scores(place, scores, **card), target)
