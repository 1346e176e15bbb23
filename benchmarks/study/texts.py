"""The texts of a benchmark: data sets, few-shot draws and attacked test sets, each made once and kept."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from datasets import Dataset

from benchmarks.study.claims import claim
from benchmarks.study.settings import BenchmarkSettings
from hf_cap.data import choose_split, label_names, load_splits, save_splits
from hf_cap.errors import DataError
from hf_cap.evaluation.attacks.attack import AttackSettings, attack_dataset
from hf_cap.evaluation.attacks.rewriting import Kind
from hf_cap.evaluation.results import Cell
from hf_cap.evaluation.sampling import few_shot
from hf_cap.schema import LABEL, TEXT
from hf_cap.utils import rank
from hf_cap.words import WORD_PATTERN

CLEAN = "clean"
_SPLIT = "texts"


@dataclass(frozen=True)
class Texts:
    """The training and test texts of one data set.

    Attributes:
        train: The whole training split.
        test: The test split, in the same label space.
        digest: Short hash of label space, texts and labels of both.
    """

    train: Dataset
    test: Dataset
    digest: str


def load_texts(settings: BenchmarkSettings, name: str) -> Texts:
    """The data set called `name`, read once a process.

    Raises:
        DataError: a split, column, text or label is missing, or a test label is outside the label space.
    """
    return _load(
        settings.names[name],
        settings.train_split,
        settings.test_split,
        settings.text_column,
        settings.label_column,
    )


@cache
def _load(place: str, train: str, test: str, text_column: str, label_column: str) -> Texts:
    splits = load_splits(
        place, splits=[train, test], text_column=text_column, label_column=label_column
    )
    training, tests = (
        choose_split(splits, split).select_columns([TEXT, LABEL]) for split in (train, test)
    )
    content = [[data[TEXT][:], data[LABEL][:]] for data in (training, tests)]
    return Texts(training, tests, short_hash([label_names(training), *content]))


def short_hash(value: Any) -> str:
    """Hash of a JSON value that does not depend on the order of its keys."""
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def kept(room: Path, target: Path, make: Callable[[], Dataset]) -> Dataset:
    """A data set that is made once and read from the folder `target` of a benchmark from then on.

    Raises:
        Busy: another process is making it.
    """
    if not target.exists():
        with claim(room, target):
            if not target.exists():
                save_splits({_SPLIT: make()}, target)
    return load_splits(target)[_SPLIT]


def data_folder(settings: BenchmarkSettings, cell: Cell) -> Path:
    """Where texts and priors of a cell's data set, regime and draw are kept."""
    return settings.room / "data" / cell.draw_folder


def training_texts(settings: BenchmarkSettings, cell: Cell) -> Dataset:
    """The training set of a cell's regime and draw; the same for every method and seed."""
    texts = load_texts(settings, cell.dataset)
    shots = cell.shots
    if shots is None:
        return texts.train
    return kept(
        settings.room,
        data_folder(settings, cell) / f"texts-{texts.digest}",
        lambda: few_shot(texts.train, shots, draw=cell.draw, allow_fewer=True),
    )


def test_sets(settings: BenchmarkSettings, cell: Cell) -> tuple[dict[str, Dataset], dict[str, str]]:
    """The clean and the attacked test sets of a cell, and why one is missing.

    Keywords come from the whole training split, so that all regimes face the same attack; the draw is the
    attack's seed.

    Returns:
        Name to test set, and name to reason for each attack that could not be made.
    """
    made = {CLEAN: load_texts(settings, cell.dataset).test}
    missing: dict[str, str] = {}
    for kind in settings.attacks:
        try:
            made[kind] = _attacked(settings, cell, kind)
        except DataError as error:
            missing[kind] = str(error)
    return made, missing


def _attacked(settings: BenchmarkSettings, cell: Cell, kind: Kind) -> Dataset:
    texts = load_texts(settings, cell.dataset)
    folder = settings.room / "data" / cell.dataset_folder / "attacks" / f"draw_{cell.draw}"
    attack = AttackSettings(kind=kind, seed=cell.draw, word_pattern=settings.word_pattern)
    words = of_words(settings)
    name = f"{kind}-{short_hash([texts.digest, words])}" if words else f"{kind}-{texts.digest}"
    return kept(
        settings.room,
        folder / name,
        lambda: attack_dataset(texts.test, texts.train, attack),
    )


def of_words(settings: BenchmarkSettings) -> dict[str, str]:
    """What a word is, where it is not the default."""
    if settings.word_pattern == WORD_PATTERN:
        return {}
    return {"word_pattern": settings.word_pattern}


def some(dataset: Dataset, count: int) -> Dataset:
    """At most `count` rows, chosen by their texts alone."""
    texts = dataset[TEXT][:]
    rows = sorted(range(len(texts)), key=lambda row: rank("some", texts[row]))[:count]
    return dataset.select(sorted(rows))


def facts_of(settings: BenchmarkSettings, cell: Cell) -> Mapping[str, Any]:
    """What decides which texts a cell trains and is tested on."""
    return {
        "texts": load_texts(settings, cell.dataset).digest,
        "attacks": list(settings.attacks),
        "faithfulness_texts": settings.faithfulness_texts,
        **of_words(settings),
    }
