"""Train a classifier whose attributions are aligned with the prior.

`accelerate launch --config_file recipes/accelerate/ddp.yaml -m hf_cap train --config ...` runs it on
several devices.
"""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from hf_cap.cli.core import Group, Result, Values, build, command_line
from hf_cap.errors import MissingExtra
from hf_cap.laat.settings import LAATOptions, TableOptions, TabularModelOptions
from hf_cap.schema import LABEL, TEXT
from hf_cap.training.options import AlignmentOptions
from hf_cap.utils import option, required

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class TrainArguments:
    """What is trained on what, and where it goes."""

    task: Literal["text", "tabular"] = option(
        "text",
        "`text`: a classifier, aligned with the priors of its texts. `tabular`: a small model of a table, "
        "aligned with the scores of its features.",
    )
    dataset: str = required(
        "Labelled data, with a prior column for alignment: the folder that `hf-cap fuse` wrote."
    )
    output_dir: str = required("Folder for checkpoints, the trained model and `run.json`.")
    model: str = option(
        "FacebookAI/roberta-base", "Encoder to fine-tune: Hub id, folder or `embedded/...` name."
    )
    model_revision: str | None = option(None, "Branch, tag or commit of the model on the Hub.")
    trust_remote_code: bool = option(False, "Run code that comes with a model on the Hub.")
    train_split: str = option("train", "Split to train on.")
    eval_split: str | None = option(None, "Split to evaluate on during training, if any.")
    text_column: str = option(TEXT, "Column that holds the text.")
    label_column: str | None = option(None, f"Column that holds the label. Default: {LABEL!r}.")


@dataclass(frozen=True, kw_only=True)
class LoraArguments:
    """Adapters that are trained instead of all weights."""

    rank: int = option(0, "Rank of LoRA adapters; 0 trains all weights.")
    alpha: int = option(16, "Scale of the LoRA adapters; their update is times alpha / rank.")
    targets: tuple[str, ...] = option(
        (), "Names of the layers that get adapters. Default: those that peft knows for the model."
    )


EXAMPLE = "--dataset runs/prior --output_dir runs/model --alignment_weight 0.1"
SETTINGS = [
    TrainArguments,
    AlignmentOptions,
    TableOptions,
    TabularModelOptions,
    LAATOptions,
    Group("lora", LoraArguments),
]
MORE = ""


def run(values: Values) -> Result:
    """Train, then write the model and `run.json`."""
    given = build(TrainArguments, values)
    measured = (_train_table if given.task == "tabular" else _train_text)(given, values)
    return Result({**measured, "output_dir": given.output_dir})


def _train_text(given: TrainArguments, values: Values) -> Values:
    import torch

    from hf_cap.data import load_splits
    from hf_cap.training.config import CAPConfig
    from hf_cap.workflow import train_classifier

    # pinned memory is for copies to a GPU; without one torch warns of it on every epoch
    config = build(CAPConfig, {"dataloader_pin_memory": torch.cuda.is_available(), **values})
    splits = load_splits(
        given.dataset,
        splits=[given.train_split, *([given.eval_split] if given.eval_split else [])],
        text_column=given.text_column,
        label_column=given.label_column or LABEL,
    )
    train_classifier(
        splits[given.train_split],
        config,
        given.model,
        eval_dataset=splits[given.eval_split] if given.eval_split else None,
        revision=given.model_revision,
        trust_remote_code=given.trust_remote_code,
        peft_config=_adapters(build(LoraArguments, values, "lora")),
        record={
            "settings": dict(values),
            "data": {"dataset": given.dataset, "train_split": given.train_split},
            "command": command_line(),
        },
    )
    return {}


def _adapters(lora: LoraArguments) -> Any:
    if not lora.rank:
        return None
    try:
        from peft import LoraConfig
    except ImportError as error:
        raise MissingExtra("Adapters need the extra `peft`: pip install 'hf-cap[peft]'.") from error
    targets = list(lora.targets) or None
    return LoraConfig(r=lora.rank, lora_alpha=lora.alpha, target_modules=targets)


def _train_table(given: TrainArguments, values: Values) -> Values:
    from hf_cap.laat.elicitation import load_scores
    from hf_cap.laat.table import read_schema, read_table
    from hf_cap.laat.trainer import LAATConfig, tabular_trainer
    from hf_cap.workflow import check_start, train_and_save

    table, options = build(TableOptions, values), build(TabularModelOptions, values)
    config = build(LAATConfig, values)
    frame, schema = read_schema(
        given.dataset, table, target=given.label_column, split=given.train_split
    )
    evaluated = None
    if given.eval_split:
        evaluated = read_table(
            given.dataset, split=given.eval_split, missing_values=table.missing_values
        )
    check_start(config)
    scores = load_scores(options.scores) if options.scores else None
    trainer = tabular_trainer(
        frame, schema, config, options=options, scores=scores, eval_frame=evaluated
    )
    train_and_save(trainer)
    return _record_table(given, values, trainer) if trainer.is_world_process_zero() else {}


def _record_table(given: TrainArguments, settings: Values, trainer: Any) -> Values:
    """Write `run.json`, the evaluation and the card of a model of a table; gives the evaluation."""
    from hf_cap.cards import EVALUATIONS, RUN_FILE
    from hf_cap.laat.models import evaluate_tabular
    from hf_cap.laat.trainer import tabular_record, write_tabular_card
    from hf_cap.utils import write_json
    from hf_cap.workflow import write_evaluation

    folder = Path(given.output_dir)
    record = tabular_record(trainer, dataset=given.dataset)
    record["data"]["train_split"] = given.train_split
    record |= {"kind": "train_tabular", "settings": settings, "command": command_line()}
    write_json(folder / RUN_FILE, record)
    numbers: Values = {}
    if split := given.eval_split:
        found = evaluate_tabular(trainer.model, given.dataset, split=split)
        numbers = write_evaluation(found, folder / EVALUATIONS, split)
    facts = {"config": trainer.model.config, "name": folder.name, "repo_id": None}
    evaluations = {split: numbers} if split else {}
    write_tabular_card(folder, record, **facts, evaluations=evaluations)
    return numbers
