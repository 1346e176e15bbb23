"""What a command and `fit` both do: create sources, train one classifier, write its evaluation."""

import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_cap.cards import EVALUATIONS, RUN_FILE
from hf_cap.data import label_names
from hf_cap.embedded import LANGUAGE_MODEL
from hf_cap.errors import ConfigError
from hf_cap.lm.base import LMSettings
from hf_cap.schema import PROVENANCE, find_prior_column, read_provenance
from hf_cap.utils import atomic_path, versions, write_json
from hf_cap.words import WORD_PATTERN

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import Trainer, TrainerCallback, TrainingArguments

    from hf_cap.priors.base import Source
    from hf_cap.training.config import CAPConfig

_logger = logging.getLogger(__name__)

Settings = Mapping[str, Any]


# --- Sources


def make_sources(
    names: Sequence[str],
    dataset: "Dataset",
    groups: Mapping[str, Settings],
    model: Any = LANGUAGE_MODEL,
    word_pattern: str = WORD_PATTERN,
) -> "list[Source]":
    """Create sources, which learn from a training split what they need.

    Args:
        names: Names in `hf_cap.priors.SOURCES`, or `module:Class`.
        dataset: The training split.
        groups: Settings of a source by its name; `prompt` and `lm` (fields of `LMSettings`) are shared by
            the sources that ask a language model, `classifier` by those that explain a classifier.
        model: Language model, for sources that ask one: what `open_language_model` takes.
        word_pattern: Regular expression of a word.

    Raises:
        ConfigError: there is no such source or setting, or a source explains a classifier and none is given.
    """
    from hf_cap.priors.base import source_class

    classes = {name: source_class(name) for name in names}
    known = {*names, *(cls.name for cls in classes.values()), "prompt", "lm", "classifier"}
    if unused := sorted(name for name, group in groups.items() if group and name not in known):
        raise ConfigError(
            f"There are settings for {unused[0]!r}, which is not among {list(names)}."
        )
    if isinstance(model, str):
        model = LMSettings(model=model, **pick(LMSettings, groups.get("lm", {})))
    common = {"model": model, "word_pattern": word_pattern}
    made = []
    for name, cls in classes.items():
        shared = {**common, **groups.get("prompt", {}), **groups.get("classifier", {})}
        own = {**groups.get(cls.name, {}), **groups.get(name, {})}
        options = {**pick(cls, shared), **own}
        if unknown := sorted(set(own) - set(pick(cls, own))):
            raise ConfigError(f"The source {name!r} has no setting {unknown[0]!r}.")
        if "classifier" in {item.name for item in fields(cls)} and not options.get("classifier"):
            raise ConfigError(
                f"The source {name!r} explains a classifier: give one as `--classifier FOLDER`. Train "
                "it on the same split without alignment: `hf-cap train --alignment_weight 0 ...`."
            )
        made.append(cls.from_dataset(dataset, **options))
    return made


def pick(cls: type, settings: Settings) -> dict[str, Any]:
    """Those of the settings that are fields of a dataclass."""
    return {f.name: settings[f.name] for f in fields(cls) if f.init and f.name in settings}


# --- Training and evaluation of one model


def train_classifier(
    dataset: "Dataset",
    config: "CAPConfig",
    model: str,
    *,
    eval_dataset: "Dataset | None" = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    peft_config: Any = None,
    record: Settings,
) -> None:
    """Train a classifier into `config.output_dir` and write its `run.json`.

    Args:
        dataset: Training texts, with a prior for alignment.
        config: How to train. `resume_from_checkpoint="last"` continues a run that was stopped.
        model: Encoder to fine-tune.
        eval_dataset: Texts to evaluate on during training.
        revision: Branch, tag or commit of the model on the Hub.
        trust_remote_code: Run code that comes with the model.
        peft_config: Adapters to train instead of all weights.
        record: More facts for `run.json`.
    """
    from transformers import set_seed

    from hf_cap.classifiers import add_adapters, new_classifier
    from hf_cap.training.trainer import CAPTrainer

    if config.alignment_weight:
        find_prior_column(dataset.features, config.prior_column)
    check_start(config)
    set_seed(config.seed)
    place: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
    loaded, tokenizer, fresh = new_classifier(model, label_names(dataset), **place)
    trainer = CAPTrainer(
        model=add_adapters(loaded, peft_config, fresh) if peft_config else loaded,
        args=config,
        train_dataset=dataset,
        eval_dataset=eval_dataset,
        processing_class=tokenizer,
        callbacks=heat_maps(dataset, config),
    )
    train_and_save(trainer)
    if trainer.is_world_process_zero():
        facts = {**record, "kind": "train", "model": model, "history": trainer.history}
        write_json(Path(str(config.output_dir)) / RUN_FILE, _facts(facts, dataset, config))


def _facts(record: Settings, dataset: "Dataset", config: "CAPConfig") -> dict[str, Any]:
    """What `run.json` holds."""
    from hf_cap.training.options import AlignmentOptions

    cells = set(dataset[PROVENANCE]) if PROVENANCE in dataset.column_names else set()
    made = [read_provenance(cell) for cell in sorted(filter(None, cells))][:1]
    data = {"rows": len(dataset), "labels": label_names(dataset), "provenance": made}
    return {
        **record,
        "seed": config.seed,
        "alignment": {item.name: getattr(config, item.name) for item in fields(AlignmentOptions)},
        "data": {**record.get("data", {}), **data},
        "versions": versions(),
    }


def check_start(config: "TrainingArguments") -> None:
    """Check before training that a run can end well.

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
    """Train into the output folder, which then holds this model alone and no pickled file."""
    from transformers.trainer_utils import get_last_checkpoint

    from hf_cap.classifiers import drop_other_kind

    folder, checkpoint = Path(str(trainer.args.output_dir)), trainer.args.resume_from_checkpoint
    if checkpoint == "last":
        checkpoint = get_last_checkpoint(str(folder)) if folder.is_dir() else None
    trainer.train(resume_from_checkpoint=checkpoint)
    outdated = folder / EVALUATIONS
    if trainer.is_world_process_zero() and outdated.is_dir():
        shutil.rmtree(outdated)
        _logger.warning("Removed %s: it measured the model that was here before.", outdated)
    trainer.save_model(str(folder))
    if trainer.is_world_process_zero():
        drop_other_kind(folder, adapter=hasattr(trainer.model, "peft_config"))
        (folder / "training_args.bin").unlink(missing_ok=True)


def heat_maps(dataset: "Dataset", config: "CAPConfig") -> "list[TrainerCallback]":
    """Heat maps of a few texts for the trackers of `report_to` that can show them."""
    from hf_cap.training.callbacks import TRACKERS, HeatMapCallback

    spread = config.fsdp or config.deepspeed  # no process could explain the model alone
    trackers = [config.report_to] if isinstance(config.report_to, str) else config.report_to
    if spread or not set(TRACKERS) & set(trackers or []):
        return []
    names = ("word_pattern", "prior_column", "max_length")
    return [HeatMapCallback(dataset, **{name: getattr(config, name) for name in names})]


def write_evaluation(evaluation: Settings, folder: Path, name: str) -> dict[str, Any]:
    """Write `<name>.json` and, where there are records, `<name>.parquet`; an older one is removed.

    Returns:
        The evaluation without its records.
    """
    from datasets import Dataset

    numbers = {key: value for key, value in evaluation.items() if key != "records"}
    stored = folder / f"{name}.parquet"
    if records := evaluation.get("records"):
        with atomic_path(stored) as path:
            Dataset.from_list(records).to_parquet(str(path))
    else:
        stored.unlink(missing_ok=True)
    write_json(folder / f"{name}.json", numbers)
    return numbers
