"""Measure a classifier on a labelled split."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_cap.cli.core import Result, Values, build
from hf_cap.errors import ConfigError
from hf_cap.evaluation.evaluate import EvaluationSettings
from hf_cap.schema import LABEL, TEXT
from hf_cap.utils import option, required


@dataclass(frozen=True, kw_only=True)
class EvaluateArguments:
    """What is measured, on what, and where the numbers go."""

    model: str = required("Folder written by `hf-cap train`, Hub id, or `embedded/...` name.")
    dataset: str = required("Labelled data: `embedded/...`, a folder, a file, or a Hub id.")
    split: str = option("test", "Split to measure on.")
    name: str | None = option(
        None, "Name of the result, such as that of an attacked test set. Default: the split's name."
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


EXAMPLE = "--model runs/model --dataset data --split test"
SETTINGS = [EvaluateArguments, EvaluationSettings]


def run(values: Values) -> Result:
    """Measure and write the numbers, with one row per text where records are asked for."""
    from hf_cap.cards import EVALUATIONS
    from hf_cap.laat.models import is_tabular_model
    from hf_cap.workflow import write_evaluation

    given = build(EvaluateArguments, values)
    if not given.output_dir and not Path(given.model).is_dir():
        raise ConfigError(
            f"{given.model!r} is not a local folder; say where the numbers go: `--output_dir FOLDER`."
        )
    folder = Path(given.output_dir or Path(given.model) / EVALUATIONS)
    settings = build(EvaluationSettings, values)
    found = _of_table(given) if is_tabular_model(given.model) else _of_texts(given, settings)
    return Result(write_evaluation(found, folder, given.name or given.split))


def _of_texts(given: EvaluateArguments, settings: EvaluationSettings) -> dict[str, Any]:
    from hf_cap.classifiers import load_model, load_tokenizer
    from hf_cap.data import load_splits
    from hf_cap.evaluation.evaluate import evaluate_classifier

    splits = load_splits(
        given.dataset,
        splits=[given.split],
        text_column=given.text_column,
        label_column=given.label_column,
    )
    place, trusted = (given.model, given.model_revision), given.trust_remote_code
    return evaluate_classifier(
        load_model(*place, trust_remote_code=trusted),
        load_tokenizer(*place, trust_remote_code=trusted),
        splits[given.split],
        settings=settings,
    ).to_dict()


def _of_table(given: EvaluateArguments) -> dict[str, Any]:
    """The model knows its columns and target; the settings of an evaluation are about texts."""
    from hf_cap.laat.models import evaluate_tabular, load_tabular_model

    return evaluate_tabular(load_tabular_model(given.model), given.dataset, split=given.split)
