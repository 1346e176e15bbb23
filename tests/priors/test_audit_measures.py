from itertools import product

import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.metrics import average_precision_score

from hf_cap.priors.audit import (
    DEGENERATE,
    Prior,
    average_precision,
    class_keywords,
    class_overlaps,
    degenerate_cases,
    mass_by_kind,
    mean,
    pairwise,
    spearman,
    top_agreement,
    word_kind,
)


@pytest.mark.parametrize("seed", range(5))
def test_spearman_is_scipys_with_ties(seed: int) -> None:
    generator = np.random.default_rng(seed)
    first, second = generator.integers(0, 4, (2, 9)).astype(float).tolist()
    assert spearman(first, second) == pytest.approx(spearmanr(first, second).statistic)


@pytest.mark.parametrize("other", [None, [1.0, 1.0], []])
def test_spearman_of_nothing_is_none(other: list[float] | None) -> None:
    assert spearman([1.0, 2.0], other) is None
    assert spearman(other, [1.0, 2.0]) is None


def test_the_highest_words_that_two_priors_share() -> None:
    first, second = [5.0, 4.0, 1.0, 0.0], [4.0, 1.0, 5.0, 0.0]
    assert top_agreement(first, second, 1) == 0
    assert top_agreement(first, second, 2) == 0.5
    assert top_agreement(first, second, 3) == 1
    assert top_agreement(first, second, 4) is None
    assert top_agreement(first, None) is None


def test_ties_count_by_chance() -> None:
    """Two of the three tied words are taken at random on one side: 1/3 is the mean over the choices."""
    tied, certain = [1.0, 1.0, 1.0, 0.0], [0.0, 3.0, 0.0, 2.0]
    choices = [{0, 1}, {0, 2}, {1, 2}]
    expected = np.mean([len(choice & {1, 3}) / 2 for choice in choices])
    assert top_agreement(tied, certain, 2) == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(5))
def test_average_precision_is_scikit_learns(seed: int) -> None:
    generator = np.random.default_rng(seed)
    prior = generator.integers(0, 5, 12).astype(float).tolist()
    marked = [1.0, *generator.integers(0, 2, 10).astype(float).tolist(), 0.0]
    assert average_precision(prior, marked) == pytest.approx(average_precision_score(marked, prior))


def test_average_precision_needs_marked_and_unmarked_words() -> None:
    assert average_precision([1.0, 2.0], [1.0, 1.0]) is None
    assert average_precision([1.0, 2.0], [0.0, 0.0]) is None
    assert average_precision(None, [0.0, 1.0]) is None


def test_a_mean_leaves_out_what_could_not_be_measured() -> None:
    found = mean([1.0, None, 2.0, 3.0])
    assert (found.value, found.texts) == (2.0, 3)
    assert found.half_width == pytest.approx(1.96 / 3**0.5)
    assert mean([None]).value is None
    assert mean([1.0]).half_width is None


def test_a_pairwise_table_is_symmetric() -> None:
    priors: dict[str, list[Prior]] = {"a": [[1.0, 2.0, 3.0]], "b": [[3.0, 2.0, 1.0]], "c": [None]}
    table = pairwise(priors, spearman)
    assert table["a"]["b"] == table["b"]["a"] == pytest.approx(-1)
    assert [table[name][name] for name in priors] == [1, 1, 1]
    assert table["a"]["c"] is None
    assert all(first in table[second] for first, second in product(priors, priors))


@pytest.mark.parametrize(
    ("word", "kind"),
    [
        ("The", "stop word"),
        ("I'm,", "stop word"),
        ("2nd", "number"),
        ("?!", "punctuation"),
        ("card", "other"),
    ],
)
def test_kinds_of_words(word: str, kind: str) -> None:
    assert word_kind(word) == kind


def test_mass_is_the_mean_share_of_absolute_scores() -> None:
    words = [["the", "card", "?"], ["7", "cards"], ["a"], ["b"]]
    found = mass_by_kind(words, [[1.0, -2.0, 1.0], [0.0, 9.0], None, [0.0]])
    assert found == {"stop word": 0.125, "number": 0.0, "punctuation": 0.125, "other": 0.75}


def test_keywords_are_averaged_over_all_texts_of_the_class() -> None:
    words = [["Renew", "book"], ["renew", "rare"], ["lost", "book"]]
    priors = [[3.0, 4.0], [4.0, 3.0], [-1.0, 0.0]]
    first, second = class_keywords(words, [0, 0, 1], priors, 2, k=2)
    assert [word for word, _ in first] == ["renew", "book"]
    assert [score for _, score in first] == pytest.approx([0.7, 0.4])
    assert second == []


def test_overlap_of_classes_is_the_jaccard_index() -> None:
    pairs = class_overlaps({"x": ["a", "b"], "y": ["b", "c"], "z": ["b", "a"], "w": []})
    assert [(pair.classes, pair.overlap, pair.shared) for pair in pairs] == [
        (("x", "z"), 1.0, ("a", "b")),
        (("x", "y"), 1 / 3, ("b",)),
        (("y", "z"), 1 / 3, ("b",)),
    ]


def test_degenerate_priors_are_counted() -> None:
    words = [["lost", "card"], ["my", "card"], ["a", "b"], ["a"], ["the", "card"]]
    priors = [[2.0, 1.0], [1.0, 1.0], None, [3.0], [0.0, -1.0]]
    found = degenerate_cases(words, ["Lost_book"] * 5, priors)
    assert found == {"missing": 0.2, "constant": 0.2, "one_word": 0.2, "label_copied": 0.2}
    assert tuple(found) == DEGENERATE
