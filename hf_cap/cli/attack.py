"""An adversarial test set, the original text beside the attacked one.

Replies of a chat model are stored as they come, so a run that was stopped asks nothing twice.
"""

import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hf_cap.cli.core import Group, Result, Values, build, command_line
from hf_cap.errors import ConfigError
from hf_cap.evaluation.attacks import AttackSettings
from hf_cap.lm.base import LMRuntime
from hf_cap.schema import LABEL, TEXT
from hf_cap.utils import option, required

if TYPE_CHECKING:
    from datasets import Dataset

_logger = logging.getLogger(__name__)

ATTACK_FILE = "attack.json"


@dataclass(frozen=True, kw_only=True)
class AttackArguments:
    """What is attacked, what the keywords are learned from, and where the result goes."""

    dataset: str = required("Labelled data: `embedded/...`, a folder, a file, or a Hub id.")
    output_dir: str = required("Folder to write: the attacked split as parquet, `attack.json`.")
    split: str = option("test", "Split to attack.")
    train_dataset: str | None = option(
        None,
        "Data that the keywords come from, with the columns `text` and `label` (and a prior for "
        "keywords_from=prior). Default: `dataset`.",
    )
    train_split: str = option("train", "Split that the keywords come from; the full one is best.")
    text_column: str = option(TEXT, "Column of `dataset` that holds the text.")
    label_column: str = option(LABEL, "Column of `dataset` that holds the label.")
    limit: int | None = option(None, "Number of texts, for a trial. Default: all.")


EXAMPLE = "--dataset data --output_dir runs/attacked --kind keyword_addition"
SETTINGS = [AttackArguments, AttackSettings, Group("lm", LMRuntime)]


def run(values: Values) -> Result:
    """Attack and write."""
    from hf_cap.data import check_output, save_splits
    from hf_cap.evaluation.attacks import prepare_attack, run_attack
    from hf_cap.lm.base import using_runtime
    from hf_cap.utils import real_path, versions, write_json

    given, settings = build(AttackArguments, values), build(AttackSettings, values)
    output = Path(given.output_dir)
    if real_path(output) in {real_path(given.dataset), real_path(given.train_dataset or "")}:
        raise ConfigError(
            f"output_dir={given.output_dir!r} is the folder of the data, which would be replaced by the "
            "attacked split alone. Choose another one."
        )
    check_output(output, [given.split], beside=[ATTACK_FILE])
    test, train = _load(given)
    attack = prepare_attack(train, settings)
    with using_runtime(build(LMRuntime, values, "lm")):
        attacked, summary = run_attack(test, train, attack)
    save_splits({given.split: attacked}, output, beside=[ATTACK_FILE])
    facts = {
        "kind": "attack",
        "settings": asdict(settings),
        "places": asdict(given),
        "summary": asdict(summary),
        "keywords": dict(zip(attack.labels, attack.keywords, strict=True)),
        "versions": versions(),
        "command": command_line(),
    }
    write_json(output / ATTACK_FILE, facts)
    _logger.info("Wrote the attacked split %r to %s", given.split, output)
    return Result(asdict(summary), str(summary))


def _load(given: AttackArguments) -> "tuple[Dataset, Dataset]":
    """The split to attack and the training split, with the label space of the latter."""
    from hf_cap.data import label_names, load_splits

    columns = {"text_column": given.text_column, "label_column": given.label_column}
    source, renamed = (given.train_dataset, {}) if given.train_dataset else (given.dataset, columns)
    train = load_splits(source, splits=[given.train_split], **renamed)[given.train_split]
    labels = label_names(train)
    test = load_splits(given.dataset, splits=[given.split], labels=labels, **columns)[given.split]
    if given.limit is not None:
        test = test.select(range(min(given.limit, len(test))))
    return test, train
