"""`hf-cap train --task tabular`: train a small model aligned with feature scores."""

import logging
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..tabular.settings import StudentOptions, TableOptions
from .config import build

if TYPE_CHECKING:
    from ..tabular.config import LAATConfig
    from ..tabular.scores import FeatureScores
    from ..tabular.trainer import LAATTrainer
    from .train import TrainPlaces

_logger = logging.getLogger(__name__)


def run(places: "TrainPlaces", values: dict[str, Any]) -> Path:
    """Train, write the model, its card and `run.json`, and print how good it is on the evaluation split.

    Returns:
        The folder of the trained model.
    """
    import torch
    from transformers.trainer_utils import get_last_checkpoint

    from ..publishing.hub import check_access
    from ..tabular.config import LAATConfig
    from ..tabular.scores import load_scores
    from ..tabular.table import read_table
    from ..tabular.train import read_schema, student_trainer

    defaults = {"dataloader_pin_memory": torch.cuda.is_available()}
    config, options = build(LAATConfig, {**defaults, **values}), build(StudentOptions, values)
    table = build(TableOptions, values)
    frame, schema = read_schema(
        places.dataset, table, target=values.get("label_column"), split=places.train_split
    )
    evaluated = None
    if places.eval_split:
        evaluated = read_table(
            places.dataset, split=places.eval_split, missing_values=table.missing_values
        )
    if config.push_to_hub:
        check_access(config.hub_model_id or Path(places.output_dir).name, token=config.hub_token)
    scores = load_scores(options.scores) if options.scores else None
    trainer = student_trainer(
        frame, schema, config, options=options, scores=scores, eval_frame=evaluated
    )
    checkpoint = config.resume_from_checkpoint
    if checkpoint == "last":
        checkpoint = get_last_checkpoint(places.output_dir)
    trainer.train(resume_from_checkpoint=checkpoint)
    found = measure(trainer) if evaluated is not None else {}
    for name, value in found.items():
        print(f"{name:<10}{value:>8.4f}")
    trainer.save_model(places.output_dir)
    if trainer.is_world_process_zero():
        _finish(places, config, values, trainer, found)
    return Path(places.output_dir)


def measure(trainer: "LAATTrainer") -> dict[str, float]:
    """How good the student is on the evaluation rows."""
    from ..tabular.metrics import classification_metrics, regression_metrics
    from ..tabular.students import predict

    rows: Any = trainer.eval_dataset
    outputs = predict(trainer.model, rows.features).double().cpu().numpy()
    preprocessor = trainer.model.config.preprocessor
    if preprocessor.schema.kind == "regression":
        known = preprocessor.numbers(rows.labels.numpy())
        return dict(regression_metrics(preprocessor.numbers(outputs), known))
    return dict(classification_metrics(outputs, rows.labels.numpy()))


def _finish(
    places: "TrainPlaces",
    config: "LAATConfig",
    settings: dict[str, Any],
    trainer: "LAATTrainer",
    found: dict[str, float],
) -> None:
    """Leave a folder of safetensors and JSON, with a card and `run.json`."""
    from ..files import write_json
    from ..tabular.card import alignment_record
    from ..versions import versions
    from .train import RUN_FILE

    folder = Path(places.output_dir)
    trainer.create_model_card(dataset=places.dataset)
    scores: FeatureScores | None = trainer.scores
    facts = {
        "kind": "train_tabular",
        "seed": config.seed,
        "settings": settings,
        "alignment": alignment_record(config),
        "data": {
            "dataset": places.dataset,
            "train_split": places.train_split,
            "rows": len(trainer.train_dataset),
            "labels": list(trainer.model.config.id2label.values()),
        },
        "scores": dict(scores.provenance) if scores else None,
        "evaluation": found,
        "history": trainer.state.log_history,
        "versions": versions(),
        "command": shlex.join(["hf-cap", *sys.argv[1:]]),
    }
    write_json(folder / RUN_FILE, facts)
    _logger.info("Wrote the model to %s", folder)
