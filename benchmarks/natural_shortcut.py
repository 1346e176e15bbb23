"""Shortcuts that nobody planted: public data as it is, with marks that `find_shortcuts` and a person made.

Trains on a few texts per label, plainly and with word dropout of what is marked, and measures the test texts
as they are, without the marked cues of their label, and with one of another label in their place.

    python -m benchmarks.natural_shortcut --data data/hwu64 --marks benchmarks/natural/hwu64.yaml --draws 0 1
"""

import argparse
import json
from collections.abc import Callable
from typing import Any

import numpy as np
from datasets import Dataset

from benchmarks.shortcuts import METHODS, train_classifier
from benchmarks.study.rivals import RIVALS, Sample
from hf_cap import load_splits
from hf_cap.cues import Mark, change_cues, find_marked, load_marks, without_shortcuts
from hf_cap.data import label_names
from hf_cap.embedded import ENCODER, LANGUAGE_MODEL
from hf_cap.evaluation import few_shot
from hf_cap.labels import label_phrases
from hf_cap.schema import LABEL, PRIOR, TEXT
from hf_cap.words import keep_words, split_words, word_strings

RIVAL, RIVAL_WITHOUT = "logistic_names", "logistic_names_marked"
"""Regression on frozen embeddings and the label names; of texts as they are, or without what is marked."""
NAMES = ("none", "none_sequence", "drop_found", "drop_found_refit", RIVAL, RIVAL_WITHOUT)


def labels_of(data: Dataset) -> list[str]:
    """The label name of each text."""
    names = label_names(data)
    return [names[label] for label in data[LABEL]]


def with_marks(data: Dataset, marks: list[Mark]) -> Dataset:
    """The texts with a prior that is 0 at what carries a marked cue of their label, and 1 elsewhere."""
    rows = zip(data[TEXT], labels_of(data), strict=True)
    return data.add_column(
        PRIOR, [without_shortcuts(word_strings(text), label, None, marks) for text, label in rows]
    )


def without_marked(data: Dataset) -> list[str]:
    """The texts without the words whose prior is 0."""
    rows = zip(data[TEXT], data[PRIOR], strict=True)
    return [keep_words(text, split_words(text), [s > 0 for s in prior]) or text for text, prior in rows]


def counts(data: Dataset, marks: list[Mark]) -> dict[str, list[int]]:
    """For each mark: texts of its label that have the cue, texts of its label, and others that have it."""
    texts, labels, found = [word_strings(text) for text in data[TEXT]], labels_of(data), {}
    for mark in marks:
        has = [bool(find_marked(words, [mark])) for words in texts]
        inside = sum(one for one, label in zip(has, labels, strict=True) if label == mark.label)
        found[f"{mark.cue} | {mark.label}"] = [inside, labels.count(mark.label), sum(has) - inside]
    return found


def learn(name: str, train: Dataset, epochs: int) -> Callable[[list[str]], Any]:
    """Train a method of ours, or a rival; gives texts to labels."""
    if name in (RIVAL, RIVAL_WITHOUT):
        phrases = label_phrases(label_names(train))
        texts = train[TEXT][:] if name == RIVAL else without_marked(train)
        return RIVALS[RIVAL](Sample(ENCODER, texts, train[LABEL][:], phrases, [], LANGUAGE_MODEL, 0))
    classifier = train_classifier(train, METHODS[name], epochs)
    return lambda texts: classifier.logits(texts).argmax(-1).numpy()


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
    gold, sets = np.array(test[LABEL]), change_cues(test[TEXT][:], labels_of(test), marks)
    touched = np.array([label in {mark.label for mark in marks} for label in labels_of(test)])
    for draw in given.draws:
        some = few_shot(splits["train"], given.shots, draw=draw, allow_fewer=True)
        train = with_marks(some, listed)
        for name in given.methods:
            predict = learn(name, train, given.epochs)
            right = {key: predict(texts) == gold for key, texts in {"clean": test[TEXT][:], **sets}.items()}
            means = {key: round(float(one.mean()), 4) for key, one in right.items()}
            own = {key: round(float(one[touched].mean()), 4) for key, one in right.items()}
            print(json.dumps({"draw": draw, "method": name, **means, "of marked labels": own}), flush=True)


if __name__ == "__main__":
    main()
