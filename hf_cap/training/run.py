"""One training into a folder, with the record of what it was."""

import logging
import shutil
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import fields
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import PrinterCallback, ProgressCallback, Trainer, set_seed
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from hf_cap.cards import EVALUATIONS, RUN_FILE
from hf_cap.classifiers import add_adapters, new_classifier
from hf_cap.cues import Mark
from hf_cap.data import label_names, with_unlabelled
from hf_cap.loading import no_bars
from hf_cap.schema import PROVENANCE, find_prior_column, read_provenance
from hf_cap.sentence_encoder import is_sentence_classifier
from hf_cap.training.callbacks import HeatMapCallback, TrainingProgress
from hf_cap.training.config import CAPConfig, set_for_few_texts
from hf_cap.training.examples import version_sampler
from hf_cap.training.options import AlignmentOptions
from hf_cap.training.trainer import CAPTrainer
from hf_cap.training.validation import UNFINISHED, drop_other_kind, find_checkpoint
from hf_cap.utils import versions, write_json

_logger = logging.getLogger(__name__)


def train_classifier(
    dataset: Dataset,
    config: CAPConfig,
    model: str,
    *,
    eval_dataset: Dataset | None = None,
    peft_config: Any = None,
    marks: Sequence[Mark] = (),
    record: Mapping[str, Any],
    **place: Any,
) -> None:
    """Train a classifier into `config.output_dir` and write its `run.json`, with the facts in `record`.

    `resume_from_checkpoint="last"` continues a run that was stopped; `marks` are shortcuts that trackers get
    a table of; `place` has the `revision` and `trust_remote_code` of the model. Call `check_start` before.
    """
    labels = label_names(dataset, at_least=2)
    if config.reads_priors:
        find_prior_column(dataset.features, config.prior_column)
    set_seed(config.seed)
    loaded, tokenizer, fresh = new_classifier(model, labels, config, **place)
    sentence = is_sentence_classifier(loaded.config)
    if sentence:
        origin = record["data"].get("name") or record["data"]["dataset"]
        config.unlabelled = config.unlabelled or with_unlabelled(origin)
    width = getattr(loaded.config.get_text_config(), "hidden_size", 768)
    rows = len(version_sampler(dataset, config.seed) or dataset)
    kind = {"small": bool(peft_config) or width < 512, "sentence": sentence and not peft_config}
    chosen = set_for_few_texts(config, record["settings"], rows, **kind)
    trainer = CAPTrainer(
        model=add_adapters(loaded, peft_config, fresh) if peft_config else loaded,
        args=config,
        train_dataset=dataset,
        eval_dataset=eval_dataset,
        processing_class=tokenizer,
        callbacks=[HeatMapCallback(dataset, marks=marks)],
    )
    train_and_save(trainer, record["settings"])
    if not trainer.is_world_process_zero():
        return
    cells = set(dataset[PROVENANCE]) if PROVENANCE in dataset.column_names else set()
    made = [read_provenance(cell) for cell in sorted(filter(None, cells))][:1]
    facts = {"kind": "train", "model": model, "seed": config.seed, "chosen": chosen}
    aligned = {f.name: getattr(config, f.name) for f in fields(AlignmentOptions)}
    facts |= {"history": trainer.history, "alignment": aligned}
    named = [facts["dataset"] for one in made for facts in one.values() if facts.get("dataset")]
    data = {"name": (*named, None)[0], **record["data"], "rows": len(dataset), "labels": labels}
    data |= {"provenance": made, "unlabelled": config.unlabelled}
    run = {**record, **facts, "data": data, "versions": versions()}
    write_run(Path(str(config.output_dir)), run)


def train_and_save(trainer: Trainer, settings: Mapping[str, Any]) -> None:
    """Train into the output folder, which then holds this model alone and no pickled file.

    Until `write_run` the folder has the settings as `UNFINISHED`.
    """
    folder, checkpoint = Path(str(trainer.args.output_dir)), find_checkpoint(trainer.args)
    if trainer.is_world_process_zero():
        write_json(folder / UNFINISHED, {"settings": settings})
        if folder.resolve() not in Path(checkpoint or "/").resolve().parents:
            for other in folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*"):  # of a run that is replaced
                shutil.rmtree(other)
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    with ExitStack() as stack:
        trainer.add_callback(TrainingProgress(stack, shown=not settings.get("disable_tqdm")))
        stack.enter_context(no_bars())  # of each checkpoint
        trainer.train(resume_from_checkpoint=checkpoint)
    if trainer.is_world_process_zero():
        (folder / RUN_FILE).unlink(missing_ok=True)
        if (outdated := folder / EVALUATIONS).is_dir():
            shutil.rmtree(outdated)
            _logger.warning("Removed %s: it measured the model that was here before.", outdated)
    with no_bars():
        trainer.save_model(str(folder))
    if trainer.is_world_process_zero():
        drop_other_kind(folder, adapter=hasattr(trainer.model, "peft_config"))
        (folder / "training_args.bin").unlink(missing_ok=True)


def write_run(folder: Path, run: Mapping[str, Any]) -> None:
    """Write the record of a training that is finished."""
    write_json(folder / RUN_FILE, run)
    (folder / UNFINISHED).unlink(missing_ok=True)
