"""`hf-cap elicit`: ask a language model how much each feature of a table speaks for each class.

Scores and replies are kept as they come, so a run that was stopped asks nothing twice.
"""

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_cap.cli.config import build, command_line
from hf_cap.errors import ConfigError
from hf_cap.laat.settings import ElicitOptions, TableOptions
from hf_cap.lm.base import LMRuntime, LMSettings
from hf_cap.utils import documented, option, required

if TYPE_CHECKING:
    from hf_cap.laat.elicitation import FeatureScores
    from hf_cap.laat.schema import TableSchema


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
    """Ask, write the scores with their card, and say what it took."""
    from hf_cap.hub import check_access, upload
    from hf_cap.laat.publishing import write_scores
    from hf_cap.laat.trainer import read_schema

    places = build(ElicitPlaces, values)
    if places.push:
        if places.repo_id is None:
            raise ConfigError("`push` needs a repository: `--repo_id user/name`.")
        check_access(places.repo_id, "dataset")
    _, schema = read_schema(places.dataset, build(TableOptions, values), target=places.label_column)
    scores = elicit(schema, values)
    folder = Path(places.output_dir)
    write_scores(scores, folder, places.repo_id, license=places.license)
    _logger.info("Wrote the scores of %d features to %s", len(schema.features), folder)
    if places.push and places.repo_id:
        _logger.info(
            "Uploaded to %s", upload(folder, places.repo_id, "dataset", private=places.private)
        )


def elicit(schema: "TableSchema", values: dict[str, Any]) -> "FeatureScores":
    """The scores of a table's features, by the way that the settings name."""
    from hf_cap.laat.elicitation import elicit_chat, elicit_expectation
    from hf_cap.lm.open import open_language_model

    options, settings = build(ElicitOptions, values), build(LMSettings, values)
    runtime = build(LMRuntime, values)
    elicit_scores = elicit_chat if options.method == "chat" else elicit_expectation
    scores = elicit_scores(schema, open_language_model(settings, runtime), options)
    facts = {
        "model": settings.model,
        "question": schema.question,
        "command": command_line(),
    }
    return replace(scores, provenance={**scores.provenance, **facts})
