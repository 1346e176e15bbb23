"""What training on attacked texts gains: on attacks with other keywords, of another kind, and on clean texts.

Keywords are those of the whole training split; the training attacks add keywords of the first half, the test
attack `addition` those of the second, `replacement` puts synonyms for a text's own. Steps are equal.

    python -m benchmarks.attacked --data data/hwu64 --draws 0 1 2
"""

import argparse
import random
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from datasets import Dataset

from benchmarks.shortcuts import Method, as_rows, of_classes, train_classifier
from benchmarks.study.runs import quiet
from hf_cap import load_splits
from hf_cap.data import label_names
from hf_cap.evaluation import AttackSettings, attack_dataset, few_shot
from hf_cap.evaluation.evaluate import worst_class_accuracy
from hf_cap.evaluation.results import compare, summarize
from hf_cap.schema import LABEL, TEXT
from hf_cap.training.examples import with_attacked
from hf_cap.utils import write_json

VERSIONS = 3  # attacked versions of each training text, of which one is drawn on each epoch

VARIANTS: dict[str, tuple[bool, dict[str, Any]]] = {
    "texts": (False, {}),
    "attacked": (True, {}),
    "attacked_dro": (True, {"example_weighting": "dro"}),
}
"""Name to whether attacked texts are trained on, and more settings of the training."""


def attacked(texts: Dataset, train: Dataset, **settings: Any) -> Dataset:
    """The texts, attacked by rule with keywords of `train`; those that cannot be changed stay."""
    return attack_dataset(texts, train, AttackSettings(**settings))


def run(place: str, draw: int, *, shots: int, classes: int, steps: int) -> list[dict[str, Any]]:
    """One row per variant, test set and measure."""
    splits = load_splits(place)
    names = sorted(random.Random(f"{draw}").sample(label_names(splits["train"]), classes))
    full, test = (of_classes(splits[name], names) for name in ("train", "test"))
    texts = few_shot(full, shots, draw=draw, allow_fewer=True)
    first = [attacked(texts, full, keyword_half="first", seed=seed) for seed in range(VERSIONS)]
    tests = {
        "clean": test,
        "addition": attacked(test, full, keyword_half="second"),
        "replacement": attacked(test, full, kind="keyword_replacement", unchanged="drop"),
    }
    rows = []
    for name, (more, settings) in VARIANTS.items():
        data = with_attacked(texts, first) if more else texts
        method = Method(training={**settings, "max_steps": steps})
        classifier = train_classifier(data, method, epochs=1)
        for kind, of_kind in tests.items():
            predicted = classifier.logits(of_kind[TEXT][:]).argmax(-1).numpy()
            gold = np.array(of_kind[LABEL])
            found = {
                "accuracy": float((predicted == gold).mean()),
                "worst_class": worst_class_accuracy(predicted, gold),
            }
            rows += [
                {"run": f"{draw} {name}", "method": name, "seed": 0, "draw": draw, "test_set": kind,
                 "measure": measure, "value": value} for measure, value in found.items()
            ]  # fmt: skip
            print(draw, name, kind, len(gold), found, flush=True)
    return rows


def main() -> None:
    """Measure all draws, write the file and print means and paired differences from `texts`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--draws", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--shots", type=int, default=5)
    parser.add_argument("--classes", type=int, default=16)
    parser.add_argument("--steps", type=int, default=80)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "attacked.json")
    given = parser.parse_args()
    quiet()
    sizes = {"shots": given.shots, "classes": given.classes, "steps": given.steps}
    frame = pd.DataFrame([row for draw in given.draws for row in run(given.data, draw, **sizes)])
    by = ["test_set", "measure"]
    means = summarize(frame, by=["method", *by]).reset_index()
    differences = compare(frame, "texts", by=by, pair_on=("draw",)).reset_index()
    tables = {"means": means, "difference_from_texts": differences}
    settings = {"data": Path(given.data).name, "draws": given.draws, **sizes}
    write_json(given.output, {**as_rows(tables), **settings})
    print(means.to_string(), differences.to_string(), sep="\n")


if __name__ == "__main__":
    main()
