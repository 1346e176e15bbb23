"""`hf-cap evaluate`: measure a classifier on a labelled split."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_cap.cli.config import build
from hf_cap.errors import ConfigError
from hf_cap.evaluation.evaluate import EvaluationSettings
from hf_cap.schema import LABEL, TEXT
from hf_cap.utils import documented, option, required

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
        "Folder for `<name>.json` and, with --records, `<name>.parquet`; without, an earlier one is removed. "
        "Default: `MODEL/evaluation`, where MODEL is a folder.",
    )
    text_column: str = option(TEXT, "Column that holds the text.")
    label_column: str = option(LABEL, "Column that holds the label.")
    model_revision: str | None = option(None, "Branch, tag or commit of a model on the Hub.")
    trust_remote_code: bool = option(False, "Run code that comes with the model.")


SETTINGS = (EvaluatePlaces, EvaluationSettings)


def run(values: dict[str, Any]) -> None:
    """Print the numbers and write them, with one row a text where records are asked for."""
    from hf_cap.laat.models import is_tabular_model

    places = build(EvaluatePlaces, values)
    folder = _output(places)
    evaluate = _evaluate_table if is_tabular_model(places.model) else _evaluate_classifier
    numbers = evaluate(places, build(EvaluationSettings, values))
    _logger.info("Wrote %s", write_evaluation(numbers, folder, places.name or places.split))


def _output(places: EvaluatePlaces) -> Path:
    from hf_cap.cards import EVALUATIONS

    if places.output_dir:
        return Path(places.output_dir)
    model = Path(places.model)
    if not model.is_dir():
        raise ConfigError(
            f"There is no model folder {places.model!r}. For a model that is none, of the Hub or of the "
            "package, say where the numbers go: `--output_dir FOLDER`."
        )
    return model / EVALUATIONS


def _evaluate_classifier(places: EvaluatePlaces, settings: EvaluationSettings) -> dict[str, Any]:
    from hf_cap.classifiers import load_model, load_tokenizer
    from hf_cap.data import load_splits
    from hf_cap.evaluation.evaluate import evaluate_classifier

    splits = load_splits(
        places.dataset,
        splits=[places.split],
        text_column=places.text_column,
        label_column=places.label_column,
    )
    where, trusted = (places.model, places.model_revision), places.trust_remote_code
    evaluation = evaluate_classifier(
        load_model(*where, trust_remote_code=trusted),
        load_tokenizer(*where, trust_remote_code=trusted),
        splits[places.split],
        settings=settings,
    )
    return evaluation.to_dict()


def _evaluate_table(places: EvaluatePlaces, settings: EvaluationSettings) -> dict[str, Any]:
    """The model knows its columns and target; `settings` are about texts."""
    from hf_cap.laat.models import evaluate_tabular, load_tabular_model, read_rows
    from hf_cap.laat.table import EncodedTable

    model = load_tabular_model(places.model)
    frame = read_rows(model, places.dataset, split=places.split)
    return evaluate_tabular(model, EncodedTable.of(frame, model.config.preprocessor))


def write_evaluation(evaluation: dict[str, Any], folder: Path, name: str) -> Path:
    """Print the numbers of an evaluation and write them as JSON, and its records, if any, as parquet.

    Records of an earlier evaluation of this name are removed: they do not belong to these numbers.

    Returns:
        The JSON file.
    """
    from datasets import Dataset

    from hf_cap.utils import atomic_path, write_json

    numbers = {key: value for key, value in evaluation.items() if key != "records"}
    for key, value in numbers.items():
        if isinstance(value, int | float):
            print(f"{key}: {value:.4f}" if isinstance(value, float) else f"{key}: {value}")
    stored = folder / f"{name}.parquet"
    if records := evaluation.get("records"):
        with atomic_path(stored) as path:
            Dataset.from_list(records).to_parquet(str(path))
    else:
        stored.unlink(missing_ok=True)
    write_json(folder / f"{name}.json", numbers)
    return folder / f"{name}.json"
