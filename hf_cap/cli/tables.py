"""Tables: ask for scores of features, and train a model that is aligned with them."""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from hf_cap.cli.core import Command, Group, Result, Values, build, command_line
from hf_cap.embedded import LANGUAGE_MODEL
from hf_cap.laat.settings import ElicitOptions, TableOptions, TabularModelOptions
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


@partial(
    Command,
    "--dataset table.csv --output_dir runs/scores --label_column income",
    [
        ElicitArguments,
        ElicitOptions,
        TableOptions,
        Group("lm", LMSettings, LMRuntime, without=("model",)),
    ],
)
def elicit(values: Values) -> Result:
    """Ask a language model how much each feature of a table speaks for each class.

    Scores and replies are stored as they come, so a run that was stopped asks nothing twice.
    """
    from hf_cap.hub import PushOptions, publish
    from hf_cap.laat.elicitation import elicit_scores, write_scores
    from hf_cap.laat.table import read_schema
    from hf_cap.lm.base import using_runtime

    given = build(ElicitArguments, values)
    model = build(LMSettings, values, "lm", model=given.model)
    _, schema = read_schema(given.dataset, build(TableOptions, values), target=given.label_column)
    with using_runtime(build(LMRuntime, values, "lm")):
        scores = elicit_scores(schema, model, build(ElicitOptions, values))
    facts = {"model": given.model, "question": schema.question, "command": command_line()}
    scores = replace(scores, provenance={**scores.provenance, **facts})
    folder, options = Path(given.output_dir), PushOptions(repo_id=given.output_dir)
    publish(options, "dataset", partial(write_scores, scores=scores), folder)
    text = f"Wrote the scores of {len(schema.features)} features to {folder}"
    return Result({"output_dir": str(folder), "features": len(schema.features)}, text)


def train_table(given: Any, values: Values) -> Values:
    """Train a model of a table and write it with its record, card and evaluation, which is returned."""
    from hf_cap.cards import EVALUATIONS, RUN_FILE, write_card
    from hf_cap.laat.elicitation import load_scores
    from hf_cap.laat.models import evaluate_tabular, tabular_facts
    from hf_cap.laat.table import read_schema, read_table
    from hf_cap.laat.trainer import LAATConfig, tabular_record, tabular_trainer
    from hf_cap.utils import write_json
    from hf_cap.workflow import check_start, train_and_save, write_evaluation

    table, options = build(TableOptions, values), build(TabularModelOptions, values)
    config, split = build(LAATConfig, values), given.eval_split
    target = values.get("label_column")
    frame, schema = read_schema(given.dataset, table, target=target, split=given.train_split)
    read = partial(read_table, given.dataset, missing_values=table.missing_values)
    check_start(config)
    trainer = tabular_trainer(
        frame,
        schema,
        config,
        options=options,
        scores=load_scores(options.scores) if options.scores else None,
        eval_frame=read(split=split) if split else None,
    )
    train_and_save(trainer)
    if not trainer.is_world_process_zero():
        return {}
    folder = Path(given.output_dir)
    record = tabular_record(trainer, dataset=given.dataset)
    record["data"]["train_split"] = given.train_split
    record |= {"kind": "train_tabular", "settings": values, "command": command_line()}
    write_json(folder / RUN_FILE, record)
    numbers: Values = {}
    if split:
        found = evaluate_tabular(trainer.model, given.dataset, split=split)
        numbers = write_evaluation(found, folder / EVALUATIONS, split)
    facts = {"config": trainer.model.config, "name": folder.name, "repo_id": None}
    evaluations = {split: numbers} if split else {}
    write_card(folder, tabular_facts(record, **facts, evaluations=evaluations))
    return numbers
