"""`hf-cap evaluate`: measure a classifier on a labelled split."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..evaluation.settings import EvaluationSettings
from ..options import documented, option, required
from ..schema import LABEL, TEXT
from .config import build

_logger = logging.getLogger(__name__)


@documented
@dataclass(frozen=True, kw_only=True)
class EvaluatePlaces:
    """What is measured, on what, and where the numbers go."""

    model: str = required("Folder written by `hf-cap train`, Hub id, or `embedded/...` name.")
    dataset: str = required("Labelled data: `embedded/...`, a folder, a file, or a Hub id.")
    split: str = option("test", "Split to measure on.")
    name: str | None = option(
        None, "Name of the result; the split's name by default. Give one for an attacked test set."
    )
    output_dir: str | None = option(
        None,
        "Folder for `<name>.json` and, with --records, `<name>.parquet`. Default: `MODEL/evaluation`.",
    )
    text_column: str = option(TEXT, "Column that holds the text.")
    label_column: str = option(LABEL, "Column that holds the label.")


SETTINGS = (EvaluatePlaces, EvaluationSettings)


def run(values: dict[str, Any]) -> None:
    """Print the numbers and write them, with one row a text where records are asked for."""
    from ..data import choose_split, load_splits
    from ..evaluation.classifier import evaluate_classifier

    places = build(EvaluatePlaces, values)
    splits = load_splits(
        places.dataset,
        splits=[places.split],
        text_column=places.text_column,
        label_column=places.label_column,
    )
    evaluation = evaluate_classifier(
        places.model,
        None,
        choose_split(splits, places.split),
        settings=build(EvaluationSettings, values),
    )
    folder = Path(places.output_dir or Path(places.model) / "evaluation")
    written = write_evaluation(evaluation, folder, places.name or places.split)
    for name, value in evaluation.to_dict().items():
        if isinstance(value, int | float):
            print(f"{name}: {value:.4f}" if isinstance(value, float) else f"{name}: {value}")
    _logger.info("Wrote %s", written)


def write_evaluation(evaluation: Any, folder: Path, name: str) -> Path:
    """Write the numbers of an `Evaluation` as JSON and its records, if any, as parquet."""
    from datasets import Dataset

    from ..files import atomic_path, write_json

    numbers = evaluation.to_dict()
    records = numbers.pop("records")
    if records:
        with atomic_path(folder / f"{name}.parquet") as path:
            Dataset.from_list(records).to_parquet(str(path))
    write_json(folder / f"{name}.json", numbers)
    return folder / f"{name}.json"
