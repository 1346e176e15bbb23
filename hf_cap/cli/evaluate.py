"""Measure a classifier, and make the adversarial test sets to measure it on."""

import logging
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from hf_cap.cli.core import (
    DATA,
    Columns,
    Command,
    Group,
    Result,
    Values,
    build,
    columns,
    command_line,
)
from hf_cap.errors import ConfigError
from hf_cap.evaluation.attacks import AttackSettings
from hf_cap.evaluation.evaluate import EvaluationSettings
from hf_cap.lm.base import LMRuntime
from hf_cap.utils import option, required

_logger = logging.getLogger(__name__)

ATTACK_FILE = "attack.json"


@dataclass(frozen=True, kw_only=True)
class EvaluateArguments:
    """What is measured, on what, and where the numbers go."""

    model: str = required("Folder written by `hf-cap train`, Hub id, or `embedded/...` name.")
    dataset: str = required(DATA)
    split: str = option("test", "Split to measure on.")
    name: str | None = option(
        None, "Name of the result, such as that of an attacked test set. Default: the split's name."
    )
    output_dir: str | None = option(
        None,
        "Folder for `<name>.json` and, with --records, `<name>.parquet`; without, an earlier one is removed. "
        "Default: `MODEL/evaluation`, where MODEL is a folder.",
    )
    model_revision: str | None = option(None, "Branch, tag or commit of a model on the Hub.")
    trust_remote_code: bool = option(False, "Run code that comes with the model.")


@partial(
    Command,
    "--model runs/model --dataset data --split test",
    [EvaluateArguments, Columns, EvaluationSettings],
)
def evaluate(values: Values) -> Result:
    """Measure a classifier of texts or of a table on a labelled split."""
    from hf_cap.cards import EVALUATIONS
    from hf_cap.classifiers import load_model, load_tokenizer
    from hf_cap.data import load_splits
    from hf_cap.evaluation.evaluate import evaluate_classifier
    from hf_cap.laat.models import evaluate_tabular, is_tabular_model, load_tabular_model
    from hf_cap.workflow import write_evaluation

    given, split = build(EvaluateArguments, values), values.get("split", "test")
    if not given.output_dir and not Path(given.model).is_dir():
        raise ConfigError(f"{given.model!r} is not a local folder; give `--output_dir FOLDER`.")
    folder = Path(given.output_dir or Path(given.model) / EVALUATIONS)
    if is_tabular_model(given.model):
        found = evaluate_tabular(load_tabular_model(given.model), given.dataset, split=split)
    else:
        place = (given.model, given.model_revision)
        model = load_model(*place, trust_remote_code=given.trust_remote_code)
        tokenizer = load_tokenizer(*place, trust_remote_code=given.trust_remote_code)
        data = load_splits(given.dataset, splits=[split], **columns(values))[split]
        settings = build(EvaluationSettings, values)
        found = evaluate_classifier(model, tokenizer, data, settings=settings).to_dict()
    return Result(write_evaluation(found, folder, given.name or given.split))


@dataclass(frozen=True, kw_only=True)
class AttackArguments:
    """What is attacked, what the keywords are learned from, and where the result goes."""

    dataset: str = required(DATA)
    output_dir: str = required("Folder to write: the attacked split as parquet, `attack.json`.")
    split: str = option("test", "Split to attack.")
    train_dataset: str | None = option(
        None,
        "Data that the keywords come from, with the columns `text` and `label` (and a prior for "
        "keywords_from=prior). Default: `dataset`.",
    )
    train_split: str = option("train", "Split that the keywords come from; the full one is best.")
    limit: int | None = option(None, "Number of texts, for a trial. Default: all.")


@partial(
    Command,
    "--dataset data --output_dir runs/attacked --kind keyword_addition",
    [AttackArguments, Columns, AttackSettings, Group("lm", LMRuntime)],
)
def attack(values: Values) -> Result:
    """Make an adversarial test set, the original text beside the attacked one.

    Replies of a chat model are stored as they come, so a run that was stopped asks nothing twice.
    """
    from hf_cap.data import check_output, label_names, load_splits, save_splits
    from hf_cap.evaluation.attacks import prepare_attack, run_attack
    from hf_cap.lm.base import using_runtime
    from hf_cap.utils import real_path, versions, write_json

    given, settings = build(AttackArguments, values), build(AttackSettings, values)
    output, split, learned = Path(given.output_dir), given.split, given.train_split
    if real_path(output) in {real_path(given.dataset), real_path(given.train_dataset or "")}:
        raise ConfigError(
            f"output_dir={given.output_dir!r} is the folder of the data, which would be replaced by the "
            "attacked split alone; choose another one."
        )
    check_output(output, [split], beside=[ATTACK_FILE])
    renamed = {} if given.train_dataset else columns(values)
    train = load_splits(given.train_dataset or given.dataset, splits=[learned], **renamed)[learned]
    labels = label_names(train)
    test = load_splits(given.dataset, splits=[split], labels=labels, **columns(values))[split]
    if given.limit is not None:
        test = test.select(range(min(given.limit, len(test))))
    prepared = prepare_attack(train, settings)
    with using_runtime(build(LMRuntime, values, "lm")):
        attacked, summary = run_attack(test, train, prepared)
    save_splits({split: attacked}, output, beside=[ATTACK_FILE])
    facts = {
        "kind": "attack",
        "settings": asdict(settings),
        "places": {**asdict(given), **columns(values)},
        "summary": asdict(summary),
        "keywords": dict(zip(prepared.labels, prepared.keywords, strict=True)),
        "versions": versions(),
        "command": command_line(),
    }
    write_json(output / ATTACK_FILE, facts)
    _logger.info("Wrote the attacked split %r to %s", split, output)
    return Result(asdict(summary), str(summary))
