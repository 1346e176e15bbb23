"""Train a classifier of texts or of a table, and ask for the scores that a table's model is aligned with."""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from hf_cap.cli import core
from hf_cap.cues import load_marks
from hf_cap.embedded import LANGUAGE_MODEL
from hf_cap.errors import import_extra
from hf_cap.laat.settings import ElicitOptions, LAATOptions, TableOptions, TabularModelOptions
from hf_cap.labels import ClassifierOptions
from hf_cap.lm.base import LMRuntime, LMSettings
from hf_cap.training.options import AlignmentOptions, WeightingOptions
from hf_cap.utils import atomic_path, check_range, option, read_json, refuse_loss, required


@dataclass(frozen=True, kw_only=True)
class _TrainArguments:
    task: Literal["text", "tabular"] = option(
        "text",
        "`text`: a classifier, aligned with the priors of its texts. `tabular`: a small model of a table, "
        "aligned with the scores of its features.",
    )
    dataset: str = required("Labelled data; for alignment the folder that `hf-cap fuse` wrote.")
    output_dir: str = required("Folder for checkpoints, the trained model and `run.json`.")
    overwrite_output_dir: bool = option(False, "Replace the model of another run in that folder.")
    model: str = option(
        "FacebookAI/roberta-base", "Encoder to fine-tune: Hub id, folder or `embedded/...` name."
    )
    model_revision: str | None = option(None, "Branch, tag or commit of the model on the Hub.")
    trust_remote_code: bool = option(False, "Run code that comes with a model on the Hub.")
    train_split: str = option("train", "Split to train on.")
    eval_split: str | None = option(None, "Split to evaluate on during training, if any.")
    attacked_datasets: tuple[str, ...] = option(
        (),
        "Folders that `hf-cap attack --split train` wrote of the training texts: their attacked versions are "
        "trained on too.",
    )
    attacked_versions: Literal["fresh", "fixed"] = option(
        "fresh", "Of the versions of a text, one drawn on each epoch (`fresh`), or all (`fixed`)."
    )
    shortcuts: str | None = option(
        None,
        "`shortcuts.yaml` of `hf-cap shortcuts`: how much of the attribution lies on each, for the trackers "
        "in `report_to`.",
    )


@dataclass(frozen=True, kw_only=True)
class LoraArguments:
    """Adapters that are trained instead of all weights."""

    rank: int = option(0, "Rank of LoRA adapters; 0 trains all weights.")
    alpha: int = option(16, "Scale of the LoRA adapters; their update is times alpha / rank.")
    targets: tuple[str, ...] = option((), "Layers that get adapters. Default: those peft knows.")

    def __post_init__(self) -> None:
        check_range(self, "rank", at_least=0)
        check_range(self, "alpha", at_least=1)


LORA, TABULAR = core.Group("lora", LoraArguments), (TableOptions, TabularModelOptions, LAATOptions)
TRAIN = "--dataset runs/prior --output_dir runs/model --alignment_weight 0.1"


TEXT = (AlignmentOptions, WeightingOptions, ClassifierOptions)


@partial(core.Command, TRAIN, [_TrainArguments, core.Columns, *TEXT, *TABULAR, LORA], more="")
def train(values: core.Values) -> core.Result:
    """Train a classifier whose attributions are aligned with the prior, and write `run.json`.

    `accelerate launch --config_file recipes/accelerate/ddp.yaml -m hf_cap train --config ...` runs it on
    several devices.
    """
    given = values.build(_TrainArguments)
    measured = (_train_table if given.task == "tabular" else _train_text)(given, values)
    # folders with priors are named after the data set that they were made from, which has a test split
    run = Path(given.output_dir) / "run.json"
    data = (read_json(run) if run.exists() else {}).get("data") or {}
    place = {"model": given.output_dir, "dataset": data.get("name") or given.dataset}
    words = () if given.task == "tabular" else ("--records",)
    then = core.next_command("evaluate", *words, **place)
    return core.Result({**measured, "output_dir": given.output_dir}, then=then)


def _train_text(given: _TrainArguments, values: core.Values) -> dict[str, Any]:
    import torch

    from hf_cap.data import label_names, load_splits
    from hf_cap.training.config import CAPConfig
    from hf_cap.training.examples import with_attacked
    from hf_cap.training.run import train_classifier
    from hf_cap.training.validation import check_folder, check_start

    # pinned memory is for copies to a GPU; without one torch warns of it on every epoch
    config = values.build(CAPConfig, dataloader_pin_memory=torch.cuda.is_available())
    check_start(config, values)
    check_folder(config, values, given.overwrite_output_dir)
    split, adapters = given.eval_split, None
    names = [given.train_split, *([split] if split else [])]
    splits = load_splits(given.dataset, splits=names, **values.columns())
    if (lora := values.build(LoraArguments, "lora")).rank:
        targets = list(lora.targets) or None
        peft = import_extra("peft", "Adapters need")
        adapters = peft.LoraConfig(r=lora.rank, lora_alpha=lora.alpha, target_modules=targets)
    data: dict[str, Any] = {"dataset": given.dataset, "train_split": given.train_split}
    train, name = splits[given.train_split], given.train_split
    marks = load_marks(given.shortcuts, label_names(train)) if given.shortcuts else []
    if folders := given.attacked_datasets:
        read = [load_splits(one, splits=[name], labels=label_names(train))[name] for one in folders]
        train = with_attacked(train, read, fresh=given.attacked_versions == "fresh")
        data["attacked"] = list(folders)
    train_classifier(
        train,
        config,
        given.model,
        eval_dataset=splits[split] if split else None,
        peft_config=adapters,
        marks=marks,
        record={"settings": values, "data": data, "command": core.command_line()},
        revision=given.model_revision,
        trust_remote_code=given.trust_remote_code,
    )
    return {}


def _train_table(given: _TrainArguments, values: core.Values) -> dict[str, Any]:
    from hf_cap.cards import EVALUATIONS, write_card
    from hf_cap.laat import trainer as laat
    from hf_cap.laat.elicitation import load_scores
    from hf_cap.laat.models import evaluate_tabular, tabular_facts
    from hf_cap.laat.table import read_schema, read_table
    from hf_cap.training.run import train_and_save, write_run
    from hf_cap.training.validation import check_folder, check_start
    from hf_cap.workflow import write_evaluation

    table, options = values.build(TableOptions), values.build(TabularModelOptions)
    config, split, folder = values.build(laat.LAATConfig), given.eval_split, Path(given.output_dir)
    target = values.get("label_column")
    check_start(config, values)
    check_folder(config, values, given.overwrite_output_dir)
    frame, schema = read_schema(given.dataset, table, target=target, split=given.train_split)
    scores = load_scores(options.scores) if options.scores else None
    how: Any = {"missing_values": table.missing_values, "texts": schema.texts}
    rows = read_table(given.dataset, split=split, **how) if split else None
    shared: Any = {"options": options, "scores": scores, "eval_frame": rows}
    trainer = laat.tabular_trainer(frame, schema, config, **shared)
    train_and_save(trainer, values)
    if not trainer.is_world_process_zero():
        return {}
    record = laat.tabular_record(trainer, dataset=given.dataset)
    record["data"]["train_split"] = given.train_split
    record |= {"kind": "train_tabular", "settings": values, "command": core.command_line()}
    write_run(folder, record)
    numbers: dict[str, Any] = {}
    if split:
        found = evaluate_tabular(trainer.model, given.dataset, split=split)
        numbers = write_evaluation(found, folder / EVALUATIONS, split)
    facts = {"config": trainer.model.config, "name": folder.name, "repo_id": None}
    evaluations = {split: numbers} if split else {}
    write_card(folder, tabular_facts(record, **facts, evaluations=evaluations))
    return numbers


@dataclass(frozen=True, kw_only=True)
class _ElicitArguments:
    dataset: str = required(
        "Table: a .csv or .parquet file, a folder with one per split, or a Hub id. Only names, categories "
        "and classes are shown to the language model, never a row."
    )
    output_dir: str = required("Folder to write: the scores as parquet, and their card.")
    model: str = option(LANGUAGE_MODEL, "Language model: Hub id, folder, .gguf or embedded name.")
    label_column: str | None = option(None, "Column that is predicted. Default: as described.")


LM = core.Group("lm", LMSettings, LMRuntime, without=("model",))
ELICIT = "--dataset table.csv --output_dir runs/scores --label_column income"


@partial(core.Command, ELICIT, [_ElicitArguments, ElicitOptions, TableOptions, LM])
def elicit(values: core.Values) -> core.Result:
    """Ask a language model how much each feature of a table speaks for each class.

    Scores and replies are stored as they come, so a run that was stopped asks nothing twice.
    """
    from hf_cap.laat.elicitation import elicit_scores, write_scores
    from hf_cap.laat.table import read_schema
    from hf_cap.lm.base import using_runtime

    given = values.build(_ElicitArguments)
    folder = Path(given.output_dir)
    refuse_loss(folder, ["train.parquet", "README.md"])
    model = values.build(LMSettings, "lm", model=given.model)
    _, schema = read_schema(given.dataset, values.build(TableOptions), target=given.label_column)
    with using_runtime(values.build(LMRuntime, "lm")):
        scores = elicit_scores(schema, model, values.build(ElicitOptions))
    facts = {"model": given.model, "question": schema.question, "command": core.command_line()}
    scores = replace(scores, provenance={**scores.provenance, **facts})
    with atomic_path(folder) as target:
        target.mkdir()
        write_scores(target, scores)
    text = f"Wrote the scores of {len(schema.features)} features to {folder}"
    trained = core.beside(folder, "model")
    place = {"dataset": given.dataset, "scores": folder, "output_dir": trained}
    then = core.next_command("train", task="tabular", label_column=given.label_column, **place)
    return core.Result({"output_dir": str(folder), "features": len(schema.features)}, text, then)
