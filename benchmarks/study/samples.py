"""The texts of a study: data sets, few-shot samples, validation texts and attacked test sets."""

import hashlib
import json
import random
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from datasets import Dataset

from benchmarks.study.settings import CLEAN, Run, StudySettings
from hf_cap.data import choose_split, label_names, load_splits, read_parquet
from hf_cap.errors import DataError
from hf_cap.evaluation import AttackSettings, attack_dataset, few_shot
from hf_cap.schema import LABEL, TEXT
from hf_cap.utils import atomic_path, rank
from hf_cap.words import WORD_PATTERN

UNLABELLED_TEXTS = 2000  # training texts whose labels are hidden, at most
_VALIDATION_SEED = 1  # another seed than that of the few-shot samples


@dataclass(frozen=True)
class Texts:
    """Training and test split of a data set, and a hash of label space, texts and labels of both."""

    train: Dataset
    test: Dataset
    digest: str


def load_texts(settings: StudySettings, name: str) -> Texts:
    """The data set with this name, read once per process.

    Raises:
        DataError: a split, column, text or label is missing.
    """
    place = settings.names[name]
    splits = (settings.train_split, settings.test_split)
    return _load(place, splits, settings.text_column, settings.label_column)


@cache
def _load(place: str, names: tuple[str, str], text_column: str, label_column: str) -> Texts:
    splits = load_splits(place, splits=list(names), text_column=text_column, label_column=label_column)
    train, test = (choose_split(splits, name).select_columns([TEXT, LABEL]) for name in names)
    content = [[data[TEXT][:], data[LABEL][:]] for data in (train, test)]
    return Texts(train, test, short_hash([label_names(train), *content]))


def short_hash(value: Any) -> str:
    """Hash of a JSON value, independent of the order of its keys."""
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def training_texts(settings: StudySettings, run: Run) -> Dataset:
    """The training set of a run; the same for every method and seed."""
    train = load_texts(settings, run.dataset).train
    if run.n_shots is None:
        return train
    return few_shot(train, run.n_shots, draw=run.draw, allow_fewer=True)


def validation_texts(settings: StudySettings, run: Run) -> Dataset:
    """`validation_shots` texts per label of the training split that the few-shot sample left."""
    train = load_texts(settings, run.dataset).train
    if run.n_shots is not None:
        train = without(train, training_texts(settings, run))
    return few_shot(train, settings.validation_shots, seed=_VALIDATION_SEED, allow_fewer=True)


def unlabelled_texts(settings: StudySettings, run: Run) -> list[str]:
    """At most `UNLABELLED_TEXTS` of the other training texts, drawn at random: files are sorted by label."""
    texts: list[str] = without(load_texts(settings, run.dataset).train, training_texts(settings, run))[TEXT][
        :
    ]
    random.Random(run.draw).shuffle(texts)
    return texts[:UNLABELLED_TEXTS]


def without(dataset: Dataset, others: Dataset) -> Dataset:
    """The rows whose texts are not in `others`."""
    held = set(others[TEXT])
    return dataset.select([row for row, text in enumerate(dataset[TEXT]) if text not in held])


def test_sets(settings: StudySettings, run: Run) -> tuple[dict[str, Dataset], dict[str, str]]:
    """The clean and the attacked test sets of a run, and why an attack is missing.

    Keywords come from the whole training split, so that all regimes face the same attack; the sample
    is the attack's seed.
    """
    made, missing = {CLEAN: load_texts(settings, run.dataset).test}, {}
    for kind in settings.attacks:
        try:
            made[kind] = _attacked(settings, run, kind)
        except DataError as error:
            missing[kind] = str(error)
    return made, missing


def _attacked(settings: StudySettings, run: Run, kind: Any) -> Dataset:
    texts = load_texts(settings, run.dataset)
    stamp = short_hash([texts.digest, kind, run.draw, settings.word_pattern])
    file = Path(settings.output_dir) / "attacks" / f"{run.dataset}-{kind}-{stamp}.parquet"
    if not file.exists():
        attack = AttackSettings(kind=kind, seed=run.draw, word_pattern=settings.word_pattern)
        with atomic_path(file) as path:
            attack_dataset(texts.test, texts.train, attack).to_parquet(str(path))
    features = load_texts(settings, run.dataset).test.features
    attacked = read_parquet(file)
    return attacked.cast_column(LABEL, features[LABEL])


def some(dataset: Dataset, count: int) -> Dataset:
    """At most `count` rows, chosen by their texts alone."""
    texts = dataset[TEXT][:]
    rows = sorted(range(len(texts)), key=lambda row: rank("some", texts[row]))[:count]
    return dataset.select(sorted(rows))


def data_facts(settings: StudySettings, run: Run) -> dict[str, Any]:
    """What decides which texts a run trains and is measured on."""
    pattern = settings.word_pattern
    return {
        "texts": load_texts(settings, run.dataset).digest,
        "attacks": list(settings.attacks),
        "faithfulness_texts": settings.faithfulness_texts,
        **({} if pattern == WORD_PATTERN else {"word_pattern": pattern}),
    }
