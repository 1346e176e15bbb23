"""`hf-cap elicit`: ask a language model how much each feature of a table speaks for each class.

Scores and replies are kept as they come, so a run that was stopped asks nothing twice.
"""

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hf_cap.cli.config import build, command_line
from hf_cap.errors import ConfigError
from hf_cap.laat.settings import ElicitOptions, TableOptions
from hf_cap.lm.base import LMRuntime, LMSettings
from hf_cap.utils import documented, option, required

_logger = logging.getLogger(__name__)


@documented
@dataclass(frozen=True, kw_only=True)
class ElicitPlaces:
    """What is read and written."""

    dataset: str = required(
        "Table: a .csv or .parquet file, a folder with one a split, or a Hub id. Only names, categories and "
        "classes are shown to the language model, never a row."
    )
    output_dir: str = required("Folder to write: the scores as parquet, and their card.")
    label_column: str | None = option(
        None, "Column that is predicted; by default the one that the description names."
    )
    repo_id: str | None = option(None, "Repository on the Hub, `user/name`, for the card.")
    push: bool = option(False, "Upload the folder to `repo_id`.")
    private: bool = option(True, "Make a new repository private.")
    license: str | None = option(None, "Licence as the Hub spells it, such as `apache-2.0`.")


SETTINGS = (ElicitPlaces, ElicitOptions, TableOptions, LMSettings, LMRuntime)


def run(values: dict[str, Any]) -> None:
    """Ask, write the scores with their card, and log what it took."""
    from hf_cap.hub import PushOptions, check_access, publish
    from hf_cap.laat.elicitation import elicit_scores
    from hf_cap.laat.publishing import write_scores
    from hf_cap.laat.table import read_schema
    from hf_cap.lm.base import using_runtime

    places, settings = build(ElicitPlaces, values), build(LMSettings, values)
    if places.push and places.repo_id is None:
        raise ConfigError("`push` needs a repository: `--repo_id user/name`.")
    if places.push:
        check_access(str(places.repo_id), "dataset")
    _, schema = read_schema(places.dataset, build(TableOptions, values), target=places.label_column)
    with using_runtime(build(LMRuntime, values)):
        scores = elicit_scores(schema, settings, build(ElicitOptions, values))
    facts = {"model": settings.model, "question": schema.question, "command": command_line()}
    scores = replace(scores, provenance={**scores.provenance, **facts})
    folder = Path(places.output_dir)
    options = PushOptions(
        repo_id=places.repo_id or folder.name, push=places.push, private=places.private
    )
    publish(
        options,
        "dataset",
        lambda target: write_scores(target, scores, repo_id=places.repo_id, license=places.license),
        folder,
    )
    _logger.info("Wrote the scores of %d features to %s", len(schema.features), folder)
