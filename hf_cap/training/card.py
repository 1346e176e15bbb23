"""The card of a model that was just trained, from what its trainer knows."""

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers.trainer import TRAINING_ARGS_NAME

from hf_cap.cards import model_facts, render_card
from hf_cap.training.base import AlignedTrainer
from hf_cap.training.options import AlignmentOptions
from hf_cap.utils import versions, write_text

_PLAIN = (bool, int, float, str)


def run_record(
    args: Any,
    *,
    base_model: str | None,
    labels: Sequence[str],
    rows: int | None,
    history: Sequence[Mapping[str, float]],
    dataset: str | None = None,
) -> dict[str, Any]:
    """The record of a run, with the names of `run.json`.

    Args:
        args: Its `TrainingArguments`; with those of `AlignmentOptions`, if any.
        base_model: What the model was loaded from.
        labels: The label space.
        rows: Training examples.
        history: That of the trainer.
        dataset: Name of the training data.
    """
    aligned = isinstance(args, AlignmentOptions)
    return {
        "model": base_model,
        "seed": args.seed,
        "settings": changed_settings(args),
        "alignment": {name: getattr(args, name) for name in AlignmentOptions.__dataclass_fields__}
        if aligned
        else {},
        "data": {"dataset": dataset, "rows": rows, "labels": list(labels)},
        "history": list(history),
        "versions": versions(),
    }


def write_trainer_card(
    trainer: AlignedTrainer,
    *,
    language: str | None = None,
    license: str | None = None,
    finetuned_from: str | None = None,
    dataset: str | None = None,
    model_name: str | None = None,
    **_: Any,
) -> None:
    """Write the card of a trainer's model into its output folder.

    Args:
        trainer: After training.
        language: Of the texts, as on the Hub.
        license: Of the model.
        finetuned_from: What the model was loaded from; its own record by default.
        dataset: Name of the training data.
        model_name: Title of the card.
        _: What else `Trainer.create_model_card` takes, which this card has no place for.
    """
    config: Any = trainer.model.config
    data = trainer.train_dataset
    record = run_record(
        trainer.args,
        base_model=finetuned_from or getattr(config, "_name_or_path", None),
        labels=[config.id2label[index] for index in sorted(config.id2label)],
        rows=len(data) if isinstance(data, Dataset) else None,
        history=trainer.history,
        dataset=dataset,
    )
    write_card(
        str(trainer.args.output_dir),
        record,
        adapter=hasattr(trainer.model, "peft_config"),
        name=model_name,
        repo_id=getattr(trainer, "hub_model_id", None),
        language=language,
        license=license,
    )


def write_card(folder: str, record: Mapping[str, Any], *, name: str | None, **known: Any) -> None:
    """Write the card of a record to `README.md`.

    The pickled training arguments leave the folder, which is about to be published: they hold local
    paths, and the card tells the settings.

    Args:
        folder: Where the model was saved.
        record: Of its run.
        name: Title of the card.
        known: Further arguments of `model_facts`.
    """
    (Path(folder) / TRAINING_ARGS_NAME).unlink(missing_ok=True)
    facts = model_facts(record, name=name or Path(folder).name, **known)
    write_text(Path(folder) / "README.md", render_card(facts))


def changed_settings(args: Any) -> dict[str, Any]:
    """Plain settings whose value is not the default of their field."""
    return {
        item.name: value
        for item in fields(args)
        if item.default is not MISSING
        and isinstance(value := getattr(args, item.name), _PLAIN)
        and value != item.default
    }
