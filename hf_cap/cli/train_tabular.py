"""`hf-cap train --task tabular`: train a small model aligned with feature scores."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..tabular.settings import StudentOptions, TableOptions
from .config import build, command_line

if TYPE_CHECKING:
    from ..tabular.trainer import LAATTrainer
    from .train import TrainPlaces

_logger = logging.getLogger(__name__)


def run(places: "TrainPlaces", values: dict[str, Any]) -> Path:
    """Train, write the model, its card and `run.json`, and print how good it is on the evaluation split.

    Returns:
        The folder of the trained model.
    """
    from ..tabular.config import LAATConfig
    from ..tabular.scores import load_scores
    from ..tabular.table import read_table
    from ..tabular.train import read_schema, student_trainer
    from .train import check_start, train_and_save

    config, options = build(LAATConfig, values), build(StudentOptions, values)
    table = build(TableOptions, values)
    frame, schema = read_schema(
        places.dataset, table, target=values.get("label_column"), split=places.train_split
    )
    evaluated = None
    if places.eval_split:
        evaluated = read_table(
            places.dataset, split=places.eval_split, missing_values=table.missing_values
        )
    check_start(config)
    scores = load_scores(options.scores) if options.scores else None
    trainer = student_trainer(
        frame, schema, config, options=options, scores=scores, eval_frame=evaluated
    )
    train_and_save(trainer)
    if trainer.is_world_process_zero():
        _finish(places, values, trainer)
    return Path(places.output_dir)


def _finish(
    places: "TrainPlaces",
    settings: dict[str, Any],
    trainer: "LAATTrainer",
) -> None:
    """Evaluate, and leave a folder of safetensors and JSON, with a card and `run.json`."""
    from ..cards.run import EVALUATIONS, RUN_FILE
    from ..files import write_json
    from ..tabular.card import student_facts, student_record, write_student_card
    from ..tabular.predict import evaluate_student
    from .evaluate import write_evaluation

    folder = Path(places.output_dir)
    record = student_record(trainer, trainer.scores, dataset=places.dataset)
    record |= {
        "kind": "train_tabular",
        "settings": settings,
        "data": {**record["data"], "train_split": places.train_split},
        "command": command_line(),
    }
    write_json(folder / RUN_FILE, record)
    evaluations: dict[str, dict[str, float]] = {}
    if places.eval_split:
        rows: Any = trainer.eval_dataset
        evaluations[places.eval_split] = evaluate_student(trainer.model, rows)
        write_evaluation(evaluations[places.eval_split], folder / EVALUATIONS, places.eval_split)
    facts = student_facts(
        record,
        config=trainer.model.config,
        name=folder.name,
        repo_id=getattr(trainer, "hub_model_id", None),
        evaluations=evaluations,
    )
    write_student_card(folder, facts)
    _logger.info("Wrote the model to %s", folder)
