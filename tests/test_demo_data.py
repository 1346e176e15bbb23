"""Tests of the demo data set that ships in ``hf_cap/demo_data``."""

import json
import math
import re
from collections import Counter
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

import pytest

SPLIT_SIZES = {"train": 10, "test": 14}
SPLITS = sorted(SPLIT_SIZES)

Row = tuple[str, str]
"""A text and its label name."""


def data_folder() -> Traversable:
    """Finds the data folder, in the package or in the repository.

    Returns:
        The folder that holds the data files.
    """
    try:
        folder = resources.files("hf_cap") / "demo_data"
    except ImportError:
        return Path(__file__).resolve().parents[1] / "hf_cap" / "demo_data"
    return folder


def read_rows(split: str) -> list[Row]:
    """Reads one split.

    Args:
        split: Name of the split.

    Returns:
        The rows in file order.
    """
    content = (data_folder() / f"{split}.jsonl").read_text(encoding="utf-8")
    rows: list[Row] = []
    for line in content.split("\n")[:-1]:
        record: dict[str, str] = json.loads(line)
        assert sorted(record) == ["label", "text"]
        rows.append((record["text"], record["label"]))
    return rows


def read_labels() -> list[str]:
    """Reads the label names.

    Returns:
        The label names in file order.
    """
    labels: list[str] = json.loads((data_folder() / "labels.json").read_text(encoding="utf-8"))
    return labels


def normalised(text: str) -> str:
    """Lower-cases a text and collapses its white space.

    Args:
        text: Any text.

    Returns:
        The form in which two texts are compared.
    """
    return " ".join(text.lower().split())


def bag(text: str) -> Counter[str]:
    """Counts the words of a text.

    Args:
        text: Any text.

    Returns:
        Lower-cased words with their counts.
    """
    return Counter(re.findall(r"\w+", text.lower()))


def cosine(left: dict[str, float], right: dict[str, float]) -> float:
    """Measures how alike two weighted bags of words are.

    Args:
        left: Weight per word.
        right: Weight per word.

    Returns:
        Their cosine similarity, or 0 if one of them is empty.
    """
    norm = math.hypot(*left.values()) * math.hypot(*right.values())
    dot = sum(weight * right.get(word, 0.0) for word, weight in left.items())
    return dot / norm if norm else 0.0


def centroid_accuracy(train: list[Row], test: list[Row]) -> float:
    """Scores a nearest-centroid classifier on bags of words.

    Words are weighted by inverse document frequency in the training texts.

    Args:
        train: Rows whose words are summed up per label.
        test: Rows to classify.

    Returns:
        The share of test rows whose label is predicted.
    """
    document_counts = Counter(word for text, _ in train for word in set(bag(text)))

    def weigh(words: Counter[str]) -> dict[str, float]:
        total = 1 + len(train)
        return {
            word: count * (1 + math.log(total / (1 + document_counts[word])))
            for word, count in words.items()
        }

    names = sorted({label for _, label in train})
    sums: dict[str, Counter[str]] = {name: Counter() for name in names}
    for text, label in train:
        sums[label].update(bag(text))
    centroids = {label: weigh(words) for label, words in sums.items()}
    hits = 0
    for text, label in test:
        words = weigh(bag(text))
        hits += label == max(centroids, key=lambda name: cosine(words, centroids[name]))
    return hits / len(test)


def test_labels_are_sorted_snake_case_names() -> None:
    """The label list is sorted, free of repeats, and can be verbalised."""
    labels = read_labels()
    assert len(labels) == 12
    assert labels == sorted(set(labels))
    assert all(re.fullmatch(r"[a-z]+(_[a-z]+)+", label) for label in labels)


@pytest.mark.parametrize("split", SPLITS)
def test_each_label_has_its_count(split: str) -> None:
    """Each split holds every label of the list, and each as often as the card says."""
    counts = Counter(label for _, label in read_rows(split))
    assert counts == dict.fromkeys(read_labels(), SPLIT_SIZES[split])


@pytest.mark.parametrize("split", SPLITS)
def test_rows_are_mixed(split: str) -> None:
    """Every block of as many rows as there are labels holds each label once."""
    labels = read_labels()
    names = [label for _, label in read_rows(split)]
    for start in range(0, len(names), len(labels)):
        assert sorted(names[start : start + len(labels)]) == labels


def test_no_text_occurs_twice() -> None:
    """No text is repeated within or between the splits."""
    counts = Counter(normalised(text) for split in SPLITS for text, _ in read_rows(split))
    assert [text for text, count in counts.items() if count > 1] == []


@pytest.mark.parametrize("split", SPLITS)
def test_texts_are_clean_lines(split: str) -> None:
    """Texts are not empty and have no outer, doubled or unusual white space."""
    for text, _ in read_rows(split):
        assert text
        assert text == " ".join(text.split())


@pytest.mark.parametrize("split", SPLITS)
def test_lengths_spread(split: str) -> None:
    """Each split has very short and long texts, and most lie in between."""
    lengths = [len(text.split()) for text, _ in read_rows(split)]
    assert min(lengths) <= 4
    assert 25 <= max(lengths) <= 45
    assert sum(5 <= length <= 24 for length in lengths) > len(lengths) / 2


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize(
    "pattern", [r"\d", r"\b[A-Z]{4,}\b", r"^[a-z]", r"\?", r"!", r"\"", r"[^\x00-\x7f]"]
)
def test_surface_forms_occur(split: str, pattern: str) -> None:
    """Digits, capitals, lower-case openings, punctuation and non-ASCII signs occur."""
    assert any(re.search(pattern, text) for text, _ in read_rows(split))


def test_card_describes_every_label() -> None:
    """The data-set card names each label."""
    card = (data_folder() / "README.md").read_text(encoding="utf-8")
    assert [label for label in read_labels() if f"`{label}`" not in card] == []


def test_word_counts_are_neither_enough_nor_useless() -> None:
    """A bag-of-words classifier beats chance clearly but stays imperfect."""
    assert 0.30 <= centroid_accuracy(read_rows("train"), read_rows("test")) <= 0.85
