"""Hyper-parameters by one rule and the same budget for every method, so that `none` is as well tuned.

For each data set, regime and method every candidate is trained once, on draw 0 with seed 0, and
measured on validation texts: k texts a class, drawn from those training texts that the draw left. The highest
accuracy wins, then the highest macro-F1, then the earlier candidate. No test text is looked at.
"""

import logging
from dataclasses import replace
from typing import Any

from datasets import Dataset

from benchmarks.study.bench import Bench
from benchmarks.study.choices import candidates, choice_file, training_settings
from benchmarks.study.claims import claim
from benchmarks.study.priors import explained_sources, with_prior
from benchmarks.study.settings import BenchmarkSettings
from benchmarks.study.students import train_student
from benchmarks.study.texts import load_texts, training_texts
from hf_cap.evaluation.evaluate import EvaluationSettings, evaluate_classifier
from hf_cap.evaluation.results import BASELINE, Cell
from hf_cap.evaluation.sampling import few_shot
from hf_cap.schema import TEXT
from hf_cap.utils import write_json

_logger = logging.getLogger(__name__)
_VALIDATION_SEED = 1
"""Another seed than that of the few-shot draws."""


def choose(bench: Bench, cell: Cell) -> None:
    """See that the settings of a cell are chosen, and those of the classifier that its sources explain.

    Raises:
        Busy: another process is choosing.
        CAPError: a candidate cannot be trained.
    """
    methods = [BASELINE] if explained_sources(bench, [cell.method]) else []
    for method in [*methods, cell.method]:
        first = replace(cell, method=method, draw=0, seed=0)
        file = choice_file(bench, first)
        if candidates(bench, method) and not file.exists():
            with claim(bench.settings.room, file):
                if not file.exists():
                    write_json(file, _choice(bench, first))


def validation_texts(settings: BenchmarkSettings, cell: Cell) -> Dataset:
    """`validation_shots` texts a class of the training split that are not in the cell's few-shot set.

    The full training set leaves none: there they are part of it, and taken out of it while choosing.
    """
    train = load_texts(settings, cell.dataset).train
    if cell.shots is not None:
        train = _without(train, training_texts(settings, cell))
    return few_shot(train, settings.validation_shots, seed=_VALIDATION_SEED, allow_fewer=True)


def _choice(bench: Bench, cell: Cell) -> dict[str, Any]:
    validation = validation_texts(bench.settings, cell)
    data = _without(with_prior(bench, cell), validation)
    options = EvaluationSettings(
        **{**bench.settings.evaluation, "faithfulness": False, "soft": False}
    )
    tried = []
    for candidate in candidates(bench, cell.method):
        student = train_student(bench, cell, data, training_settings(bench, cell, candidate))
        found = evaluate_classifier(student.model, student.tokenizer, validation, settings=options)
        tried.append(
            {
                "settings": dict(candidate),
                "accuracy": found.accuracy,
                "macro_f1": found.macro_f1,
                "seconds": round(student.seconds, 1),
            }
        )
        _logger.info("%s, %s: validation %.1f %%", cell.folder, candidate, 100 * found.accuracy)
    best = max(tried, key=lambda one: (one["accuracy"], one["macro_f1"]))
    return {
        "cell": cell.folder,
        "chosen": best["settings"],
        "tried": tried,
        "validation_texts": len(validation),
        "validation_shots": bench.settings.validation_shots,
    }


def _without(dataset: Dataset, others: Dataset) -> Dataset:
    held = set(others[TEXT])
    return dataset.select([row for row, text in enumerate(dataset[TEXT]) if text not in held])
