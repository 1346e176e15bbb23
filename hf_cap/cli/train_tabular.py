"""`hf-cap train --task tabular`: train a small model aligned with feature scores."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_cap.cli.config import build, command_line
from hf_cap.laat.settings import TableOptions, TabularModelOptions

if TYPE_CHECKING:
    from hf_cap.cli.train import TrainPlaces
    from hf_cap.laat.trainer import LAATTrainer


_logger = logging.getLogger(__name__)


def run(places: "TrainPlaces", values: dict[str, Any]) -> Path:
    """Train, write the model, its card and `run.json`, and print how good it is on the evaluation split.

    Returns:
        The folder of the trained model.
    """
    from hf_cap.cli.train import check_start, train_and_save
    from hf_cap.laat.elicitation import load_scores
    from hf_cap.laat.table import read_schema, read_table
    from hf_cap.laat.trainer import LAATConfig, tabular_trainer

    config, options = build(LAATConfig, values), build(TabularModelOptions, values)
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
    trainer = tabular_trainer(
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
    from hf_cap.cards import EVALUATIONS, RUN_FILE
    from hf_cap.cli.evaluate import write_evaluation
    from hf_cap.laat.models import evaluate_tabular
    from hf_cap.laat.publishing import tabular_record, write_tabular_card
    from hf_cap.utils import write_json

    folder = Path(places.output_dir)
    record = tabular_record(trainer, trainer.scores, dataset=places.dataset)
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
        evaluations[places.eval_split] = evaluate_tabular(trainer.model, rows)
        write_evaluation(evaluations[places.eval_split], folder / EVALUATIONS, places.eval_split)
    write_tabular_card(
        folder,
        record,
        config=trainer.model.config,
        name=folder.name,
        repo_id=getattr(trainer, "hub_model_id", None),
        evaluations=evaluations,
    )
    _logger.info("Wrote the model to %s", folder)
