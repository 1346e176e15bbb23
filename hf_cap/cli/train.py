"""`hf-cap train`: train a classifier whose attributions are aligned with the prior.

`accelerate launch --config_file recipes/accelerate/ddp.yaml -m hf_cap train --config ...` runs it on
several devices.
"""

import logging
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hf_cap.cli import train_tabular
from hf_cap.cli.config import build, command_line
from hf_cap.errors import ConfigError
from hf_cap.laat.settings import LAATOptions, TableOptions, TabularModelOptions
from hf_cap.schema import LABEL, TEXT, find_prior_column
from hf_cap.training.options import AlignmentOptions
from hf_cap.utils import documented, option, required

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import (
        PreTrainedModel,
        PreTrainedTokenizerBase,
        Trainer,
        TrainerCallback,
        TrainingArguments,
    )

    from hf_cap.training.config import CAPConfig


_logger = logging.getLogger(__name__)


@documented
@dataclass(frozen=True, kw_only=True)
class TrainPlaces:
    """What is trained on what, and where it goes."""

    task: Literal["text", "tabular"] = option(
        "text",
        "`text`: a classifier, aligned with the priors of its texts. `tabular`: a small model of a table, "
        "aligned with the scores of its features.",
    )
    dataset: str = required(
        "Labelled data, with a prior column for alignment: the folder that `hf-cap fuse` wrote."
    )
    model: str = option(
        "FacebookAI/roberta-base", "Encoder to fine-tune: Hub id, folder or `embedded/...` name."
    )
    output_dir: str = required("Folder for checkpoints, the trained model and `run.json`.")
    train_split: str = option("train", "Split to train on.")
    eval_split: str | None = option(None, "Split to evaluate on during training, if any.")
    text_column: str = option(TEXT, "Column that holds the text.")
    label_column: str = option(LABEL, "Column that holds the label.")
    lora_rank: int = option(0, "Rank of LoRA adapters; 0 trains all weights.")
    lora_alpha: int = option(16, "Scale of the LoRA adapters; their update is times alpha / rank.")
    lora_targets: tuple[str, ...] = option(
        (), "Names of the layers that get adapters; by default those peft knows for the model."
    )
    model_revision: str | None = option(None, "Branch, tag or commit of the model on the Hub.")
    trust_remote_code: bool = option(False, "Run code that comes with a model on the Hub.")


SETTINGS = (TrainPlaces, AlignmentOptions, TableOptions, TabularModelOptions, LAATOptions)


def more_settings() -> tuple[type, ...]:
    """The settings of `transformers.TrainingArguments`."""
    from hf_cap.training.config import CAPConfig

    return (CAPConfig,)


def run(values: dict[str, Any]) -> None:
    """Train, then write the model and `run.json`."""
    import torch

    from hf_cap.training.config import CAPConfig

    places = build(TrainPlaces, values)
    if places.task == "tabular":
        train_tabular.run(places, values)
        return
    # pinned memory is for copies to a GPU; without one torch warns of it on every epoch
    config = build(CAPConfig, {"dataloader_pin_memory": torch.cuda.is_available(), **values})
    train(places, config, settings=values)


def train(places: TrainPlaces, config: "CAPConfig", *, settings: dict[str, Any]) -> Path:
    """Train as `places` and `config` say.

    Args:
        places: Data, model and folder.
        config: How to train.
        settings: The settings that were given, for `run.json`.

    Returns:
        The folder of the trained model.
    """
    from transformers import set_seed

    from hf_cap.data import load_splits
    from hf_cap.training.trainer import CAPTrainer

    names = [places.train_split, *([places.eval_split] if places.eval_split else [])]
    splits = load_splits(
        places.dataset,
        splits=names,
        text_column=places.text_column,
        label_column=places.label_column,
    )
    dataset = splits[places.train_split]
    if config.alignment_weight:
        find_prior_column(dataset.features, config.prior_column)
    check_start(config)
    set_seed(config.seed)
    model, tokenizer = load_classifier(places, dataset)
    trainer = CAPTrainer(
        model=model,
        args=config,
        train_dataset=dataset,
        eval_dataset=splits[places.eval_split] if places.eval_split else None,
        processing_class=tokenizer,
        callbacks=heat_maps(dataset, config),
    )
    train_and_save(trainer)
    if trainer.is_world_process_zero():
        _finish(places, config, settings, dataset, trainer.history)
    return Path(places.output_dir)


def check_start(config: "TrainingArguments") -> None:
    """Refuse a run that cannot end well: it would publish unseen, or its processes would not train together.

    Raises:
        ConfigError: several processes were launched and each would train alone, or `hub_token` or
            `push_to_hub` is set.
    """
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if launched > config.world_size:
        raise ConfigError(
            f"{launched} processes were launched, but without an accelerator each would train a model of its "
            f"own and write it to {config.output_dir!r}. Give `--use_cpu true`, and they train one together."
        )
    if config.hub_token:
        raise ConfigError(
            "A token given as a setting stays in the shell's history and in the record of the run. Leave "
            "`hub_token` out, and set the variable HF_TOKEN or run `hf auth login`."
        )
    if config.push_to_hub:
        raise ConfigError(
            "`push_to_hub` would publish a folder that nobody has looked at. Leave it out. After training "
            f"`hf-cap push model --folder {config.output_dir} --repo_id USER/NAME` writes and lists what "
            "goes to the Hub, and `--push` uploads it."
        )


def train_and_save(trainer: "Trainer") -> None:
    """Train into the output folder; `resume_from_checkpoint=last` goes on where a stopped run was."""
    from peft import PeftModel
    from transformers.trainer_utils import get_last_checkpoint

    from hf_cap.cards import EVALUATIONS
    from hf_cap.classifiers import drop_other_kind

    folder, checkpoint = trainer.args.output_dir, trainer.args.resume_from_checkpoint
    if checkpoint == "last":
        checkpoint = get_last_checkpoint(folder)
    trainer.train(resume_from_checkpoint=checkpoint)
    outdated = Path(str(folder)) / EVALUATIONS
    if trainer.is_world_process_zero() and outdated.is_dir():
        shutil.rmtree(outdated)
        _logger.warning("Removed %s: it measured the model that was here before.", outdated)
    trainer.save_model(folder)
    if trainer.is_world_process_zero():
        drop_other_kind(Path(str(folder)), adapter=isinstance(trainer.model, PeftModel))


def heat_maps(dataset: "Dataset", config: "CAPConfig") -> "list[TrainerCallback]":
    """Heat maps of a few texts for the trackers of `report_to` that can show them."""
    from hf_cap.training.callbacks import TRACKERS, HeatMapCallback

    spread = config.fsdp or config.deepspeed  # no process could explain the model alone
    trackers = [config.report_to] if isinstance(config.report_to, str) else config.report_to
    if spread or not set(TRACKERS) & set(trackers or []):
        return []
    return [
        HeatMapCallback(
            dataset,
            word_pattern=config.word_pattern,
            prior_column=config.prior_column,
            max_length=config.max_length,
        )
    ]


def load_classifier(
    places: TrainPlaces, dataset: "Dataset"
) -> "tuple[Any, PreTrainedTokenizerBase]":
    """The classifier with a head for the label space of the data, and its tokenizer.

    Raises:
        ModelError: there is no such model.
    """
    from hf_cap.classifiers import new_classifier
    from hf_cap.data import label_names

    model, tokenizer, fresh = new_classifier(
        places.model,
        label_names(dataset),
        revision=places.model_revision,
        trust_remote_code=places.trust_remote_code,
    )
    return (with_adapters(model, places, fresh) if places.lora_rank else model), tokenizer


def with_adapters(model: "PreTrainedModel", places: TrainPlaces, fresh: Sequence[str]) -> Any:
    """The model with LoRA adapters; its classification head trains in full, and so do the modules `fresh`.

    Raises:
        ConfigError: the model has no layers for the adapters.
    """
    from peft import LoraConfig, TaskType, get_peft_model

    adapters = LoraConfig(
        task_type=TaskType.SEQ_CLS,
        r=places.lora_rank,
        lora_alpha=places.lora_alpha,
        target_modules=list(places.lora_targets) or None,
        # peft itself knows heads by two names only; what it does not save is random at each load
        modules_to_save=list(fresh),
    )
    try:
        return get_peft_model(model, adapters)
    except ValueError as error:
        raise ConfigError(f"Cannot put LoRA adapters on {places.model!r}: {error}") from error


def _finish(
    places: TrainPlaces,
    config: "CAPConfig",
    settings: dict[str, Any],
    dataset: "Dataset",
    history: list[dict[str, Any]],
) -> None:
    """Leave a folder of safetensors and JSON: drop the pickled arguments, write `run.json`."""
    from hf_cap.cards import RUN_FILE
    from hf_cap.data import label_names
    from hf_cap.schema import PROVENANCE, read_provenance
    from hf_cap.utils import versions, write_json

    folder = Path(places.output_dir)
    (folder / "training_args.bin").unlink(missing_ok=True)
    cells = set(dataset[PROVENANCE]) if PROVENANCE in dataset.column_names else set()
    facts = {
        "kind": "train",
        "model": places.model,
        "seed": config.seed,
        "settings": settings,
        "alignment": {
            name: getattr(config, name) for name in AlignmentOptions.__dataclass_fields__
        },
        "data": {
            "dataset": places.dataset,
            "train_split": places.train_split,
            "rows": len(dataset),
            "labels": label_names(dataset),
            "provenance": [read_provenance(cell) for cell in sorted(filter(None, cells))][:1],
        },
        "history": history,
        "versions": versions(),
        "command": command_line(),
    }
    write_json(folder / RUN_FILE, facts)
    _logger.info("Wrote the model to %s", folder)
