"""`hf-cap attack`: an adversarial test set, the original text beside the attacked one.

Replies of a chat model are kept as they come, so a run that was stopped asks nothing twice.
"""

import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_cap.cli.config import build, command_line
from hf_cap.errors import ConfigError
from hf_cap.evaluation.attacks.attack import AttackSettings
from hf_cap.lm.base import LMRuntime
from hf_cap.schema import LABEL, TEXT
from hf_cap.utils import documented, option, required

if TYPE_CHECKING:
    from datasets import Dataset


_logger = logging.getLogger(__name__)

ATTACK_FILE = "attack.json"


@documented
@dataclass(frozen=True, kw_only=True)
class AttackPlaces:
    """What is attacked, what the keywords are learnt from, and where the result goes."""

    dataset: str = required("Labelled data: `embedded/...`, a folder, a file, or a Hub id.")
    output_dir: str = required(
        "Folder to write: one parquet file, named after the split, and `attack.json` on how it was made."
    )
    split: str = option("test", "Split to attack.")
    train_dataset: str | None = option(
        None,
        "Data that the keywords come from, with the columns `text` and `label` (and a prior for "
        "keywords_from=prior); by default `dataset`.",
    )
    train_split: str = option("train", "Split that the keywords come from; the full one is best.")
    text_column: str = option(TEXT, "Column of `dataset` that holds the text.")
    label_column: str = option(LABEL, "Column of `dataset` that holds the label.")
    limit: int | None = option(None, "At most so many texts, for a trial.")


SETTINGS = (AttackPlaces, AttackSettings, LMRuntime)


def run(values: dict[str, Any]) -> None:
    """Attack, write, and say how many texts changed."""
    from hf_cap.data import check_output, save_splits
    from hf_cap.evaluation.attacks.attack import prepare_attack, run_attack
    from hf_cap.lm.base import using_runtime
    from hf_cap.utils import real_path, versions, write_json

    places, settings = build(AttackPlaces, values), build(AttackSettings, values)
    output = Path(places.output_dir)
    if real_path(output) in map(real_path, _sources(places)):
        raise ConfigError(
            f"output_dir={places.output_dir!r} is the folder of the data, which would be replaced by the "
            "attacked split alone. Choose another one."
        )
    check_output(output, [places.split], beside=[ATTACK_FILE])
    test, train = load(places)
    attack = prepare_attack(train, settings)
    with using_runtime(build(LMRuntime, values)):
        attacked, summary = run_attack(test, train, attack)
    save_splits({places.split: attacked}, output, beside=[ATTACK_FILE])
    facts = {
        "kind": "attack",
        "settings": asdict(settings),
        "places": asdict(places),
        "summary": asdict(summary),
        "keywords": dict(zip(attack.labels, attack.keywords, strict=True)),
        "versions": versions(),
        "command": command_line(),
    }
    write_json(output / ATTACK_FILE, facts)
    print(summary)
    _logger.info("Wrote the attacked split %r to %s", places.split, output)


def _sources(places: AttackPlaces) -> list[str]:
    return [places.dataset, places.train_dataset or places.dataset]


def load(places: AttackPlaces) -> "tuple[Dataset, Dataset]":
    """The split to attack and the training split, with the label space of the latter.

    Raises:
        DataError: something is missing, or a label of the test split is not in the label space.
    """
    from hf_cap.data import label_names, load_splits

    split, train_split = places.split, places.train_split
    columns = {"text_column": places.text_column, "label_column": places.label_column}
    if places.train_dataset:
        train = load_splits(places.train_dataset, splits=[train_split])[train_split]
    else:
        train = load_splits(places.dataset, splits=[train_split], **columns)[train_split]
    labels = label_names(train)
    test = load_splits(places.dataset, splits=[split], labels=labels, **columns)[split]
    if places.limit is not None:
        test = test.select(range(min(places.limit, len(test))))
    return test, train
