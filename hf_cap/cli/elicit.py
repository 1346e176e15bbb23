"""Ask a language model how much each feature of a table speaks for each class.

Scores and replies are stored as they come, so a run that was stopped asks nothing twice.
"""

from dataclasses import dataclass, replace
from pathlib import Path

from hf_cap.cli.core import Group, Result, Values, build, command_line
from hf_cap.embedded import LANGUAGE_MODEL
from hf_cap.errors import ConfigError
from hf_cap.laat.settings import ElicitOptions, TableOptions
from hf_cap.lm.base import LMRuntime, LMSettings
from hf_cap.utils import option, required


@dataclass(frozen=True, kw_only=True)
class ElicitArguments:
    """What is read and written."""

    dataset: str = required(
        "Table: a .csv or .parquet file, a folder with one per split, or a Hub id. Only names, categories "
        "and classes are shown to the language model, never a row."
    )
    output_dir: str = required("Folder to write: the scores as parquet, and their card.")
    model: str = option(LANGUAGE_MODEL, "Language model: Hub id, folder, .gguf or embedded name.")
    label_column: str | None = option(
        None, "Column that is predicted. Default: the one that the description names."
    )
    repo_id: str | None = option(None, "Repository on the Hub, `user/name`, for the card.")
    push: bool = option(False, "Upload the folder to `repo_id`.")
    private: bool = option(True, "Make a new repository private.")
    license: str | None = option(None, "Licence as the Hub spells it, such as `apache-2.0`.")


EXAMPLE = "--dataset table.csv --output_dir runs/scores --label_column income"
SETTINGS = [
    ElicitArguments,
    ElicitOptions,
    TableOptions,
    Group("lm", LMSettings, LMRuntime, without=("model",)),
]


def run(values: Values) -> Result:
    """Ask, and write the scores with their card."""
    from hf_cap.hub import PushOptions, check_access, publish
    from hf_cap.laat.elicitation import elicit_scores, write_scores
    from hf_cap.laat.table import read_schema
    from hf_cap.lm.base import using_runtime

    given, settings = build(ElicitArguments, values), build(LMSettings, values, "lm")
    settings = replace(settings, model=given.model)
    if given.push and given.repo_id is None:
        raise ConfigError("`push` needs a repository: `--repo_id user/name`.")
    if given.push:
        check_access(str(given.repo_id), "dataset")
    _, schema = read_schema(given.dataset, build(TableOptions, values), target=given.label_column)
    with using_runtime(build(LMRuntime, values, "lm")):
        scores = elicit_scores(schema, settings, build(ElicitOptions, values))
    facts = {"model": given.model, "question": schema.question, "command": command_line()}
    scores = replace(scores, provenance={**scores.provenance, **facts})
    folder = Path(given.output_dir)
    options = PushOptions(
        repo_id=given.repo_id or folder.name, push=given.push, private=given.private
    )
    publish(
        options,
        "dataset",
        lambda target: write_scores(target, scores, repo_id=given.repo_id, license=given.license),
        folder,
    )
    text = f"Wrote the scores of {len(schema.features)} features to {folder}"
    return Result({"output_dir": str(folder), "features": len(schema.features)}, text)
