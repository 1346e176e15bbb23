"""A shortcut that nobody planted: in HWU64 texts of the labels `general_*` end with a period, others do not.

Counts them, trains on a few texts of eight such labels and eight others, plainly and with word dropout of
what carries the ending, and measures test texts with the period taken away, put everywhere, or swapped.

    python -m benchmarks.natural_shortcut --data data/hwu64 --shots 20 --draws 0 1
"""

import argparse
import json

import numpy as np
from datasets import Dataset

from benchmarks.shortcuts import Method, of_classes, train_classifier
from hf_cap import load_splits
from hf_cap.cues import Cue, Mark, add_cue, remove_cue, without_shortcuts
from hf_cap.data import label_names
from hf_cap.evaluation import few_shot
from hf_cap.schema import LABEL, PRIOR, TEXT
from hf_cap.words import word_strings

WITH = (
    "general_affirm general_commandstop general_confirm general_dontcare general_explain general_negate "
    "general_praise general_repeat"
).split()
WITHOUT = (
    "audio_volume_mute calendar_query cooking_recipe lists_remove music_likeness play_game qa_factoid "
    "social_post"
).split()
PERIOD = Cue("ending", ".")
METHODS = {
    "none": Method(),
    "none_sequence": Method(training={"head": "sequence"}),
    "drop": Method(training={"word_dropout": 0.9}),
}


def changed_sets(data: Dataset) -> dict[str, list[str]]:
    """The test texts by what is done to their periods."""
    texts = data[TEXT][:]
    removed = [remove_cue(text, PERIOD) for text in texts]
    added = [add_cue(text, PERIOD) for text in removed]
    rows = zip(data[LABEL], removed, added, strict=True)
    swapped = [bare if label < len(WITH) else ended for label, bare, ended in rows]
    return {"as they are": texts, "removed": removed, "everywhere": added, "swapped": swapped}


def with_marks(data: Dataset) -> Dataset:
    """The texts with a prior that is 0 at the word before the period of labels that have it."""
    marks = [Mark(kind="ending", value=".", label=name) for name in WITH]
    names = label_names(data)
    prior = [
        without_shortcuts(word_strings(text), names[label], None, marks)
        for text, label in zip(data[TEXT], data[LABEL], strict=True)
    ]
    return data.add_column(PRIOR, prior)


def main() -> None:
    """Print the counts, then the accuracy of each method on each test set, as JSON lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--shots", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--draws", type=int, nargs="+", default=[0])
    parser.add_argument("--methods", nargs="+", default=[*METHODS], choices=[*METHODS])
    given = parser.parse_args()
    splits = {name: of_classes(data, [*WITH, *WITHOUT]) for name, data in load_splits(given.data).items()}
    for name, data in splits.items():
        ended = np.array([text.endswith(".") for text in data[TEXT]])
        has = np.array(data[LABEL]) < len(WITH)
        counts = {"with": [int(ended[has].sum()), int(has.sum())]}
        counts["without"] = [int(ended[~has].sum()), int((~has).sum())]
        print(json.dumps({"split": name, "end with a period": counts}))
    sets, gold = changed_sets(splits["test"]), np.array(splits["test"][LABEL])
    for draw in given.draws:
        train = with_marks(few_shot(splits["train"], given.shots, draw=draw))
        for name in given.methods:
            classifier = train_classifier(train, METHODS[name], given.epochs)
            found = {
                test: float((classifier.logits(texts).argmax(-1).numpy() == gold).mean())
                for test, texts in sets.items()
            }
            print(json.dumps({"draw": draw, "method": name, **found}), flush=True)


if __name__ == "__main__":
    main()
