"""Shortcuts that nobody planted: public data as it is, with marks that `find_shortcuts` and a person made.

Trains on a few texts per label, plainly and with word dropout of what is marked, and measures the test texts
as they are, without the marked cues of their label, and with one of another label in their place.

    python -m benchmarks.natural_shortcut --data data/hwu64 --marks benchmarks/natural/hwu64.yaml --draws 0 1
"""

import argparse
import json

import numpy as np
from datasets import Dataset

from benchmarks.shortcuts import (
    METHODS,
    chosen_labels,
    learn_rival,
    train_classifier,
    with_marks,
    without_zeros,
)
from benchmarks.study.train import Predict
from hf_cap import load_splits
from hf_cap.cues import Mark, change_cues, find_marked, load_marks
from hf_cap.data import label_names, named_labels
from hf_cap.evaluation import few_shot
from hf_cap.schema import LABEL, TEXT
from hf_cap.words import word_strings

RIVAL, RIVAL_WITHOUT = "logistic_names", "logistic_names_marked"
"""Regression on frozen embeddings and the label names; of texts as they are, or without what is marked."""
NAMES = ("none", "none_sequence", "drop_found", "drop_found_refit", RIVAL, RIVAL_WITHOUT)


def counts(data: Dataset, marks: list[Mark]) -> dict[str, list[int]]:
    """For each mark: texts of its label that have the cue, texts of its label, and others that have it."""
    texts, labels, found = [word_strings(text) for text in data[TEXT]], named_labels(data), {}
    for mark in marks:
        has = [bool(find_marked(words, [mark])) for words in texts]
        inside = sum(one for one, label in zip(has, labels, strict=True) if label == mark.label)
        found[f"{mark.cue} | {mark.label}"] = [inside, labels.count(mark.label), sum(has) - inside]
    return found


def learn(name: str, train: Dataset, epochs: int) -> Predict:
    """Train a method of ours, or a rival; gives texts to labels."""
    if name in (RIVAL, RIVAL_WITHOUT):
        return learn_rival(RIVAL, train, without_zeros(train) if name == RIVAL_WITHOUT else None)
    return chosen_labels(train_classifier(train, METHODS[name], epochs))


def main() -> None:
    """Print the counts, then the accuracy of each method on each test set, as JSON lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--marks", required=True, help="what was decided, as `hf-cap shortcuts` writes it")
    parser.add_argument("--listed", help="leave this list out of training instead, such as an undecided one")
    parser.add_argument("--shots", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--draws", type=int, nargs="+", default=[0])
    parser.add_argument("--methods", nargs="+", default=NAMES, choices=NAMES)
    given = parser.parse_args()
    splits = load_splits(given.data, splits=["train", "test"])
    test, names = splits["test"], label_names(splits["test"])
    marks = load_marks(given.marks, names)
    listed = load_marks(given.listed, names) if given.listed else marks
    for split, data in splits.items():
        print(json.dumps({"split": split, "marked": counts(data, marks)}), flush=True)
    texts, labels, gold = test[TEXT][:], named_labels(test), np.array(test[LABEL])
    sets = {"clean": texts, **change_cues(texts, labels, marks)}
    touched = np.isin(labels, [mark.label for mark in marks])
    for draw in given.draws:
        some = few_shot(splits["train"], given.shots, draw=draw, allow_fewer=True)
        train = with_marks(some, listed)
        for name in given.methods:
            predict = learn(name, train, given.epochs)
            right = {key: predict(texts) == gold for key, texts in sets.items()}
            means = {key: round(float(one.mean()), 4) for key, one in right.items()}
            own = {key: round(float(one[touched].mean()), 4) for key, one in right.items()}
            print(json.dumps({"draw": draw, "method": name, **means, "of marked labels": own}), flush=True)


if __name__ == "__main__":
    main()
