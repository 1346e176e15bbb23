"""Metrics against values on paper, plain loops and independent implementations."""

import typing
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.metrics import f1_score, jaccard_score

from hf_cap.errors import ConfigError, DataError
from hf_cap.evaluation import metrics
from hf_cap.evaluation.classifier import Classifier
from hf_cap.evaluation.metrics import FloatArray, ScoredTexts
from hf_cap.evaluation.settings import SoftDistance
from hf_cap.words import split_words
from tests.tiny import roberta_classifier, word_tokenizer


class WeightedWords:
    """Two classes; p(class 1) is a bias plus the weight of each word that is present."""

    def __init__(self, weights: Mapping[str, float], bias: float = 0.1) -> None:
        self.weights, self.bias = weights, bias

    def __call__(self, texts: Sequence[str]) -> FloatArray:
        p = [self.bias + sum(self.weights.get(word, 0.0) for word in t.split()) for t in texts]
        return np.stack([1 - np.array(p), p], axis=1)


MODEL = WeightedWords({"lost": 0.5, "card": 0.3})
TEXT = "i lost my card"


@pytest.mark.parametrize(
    ("scores", "percent", "kept"),
    [([0.1, 0.4, 0.4, -2.0], 1, "a1"), ([0.1, 0.4, 0.4, -2.0], 50, "a1 a2"), ([0.0] * 10, 10, "a0"),
     ([0.0] * 10, 11, "a0 a1"), ([1.0, 2.0], 100, "a0 a1")],
)  # fmt: skip
def test_the_rationale_rounds_up_and_prefers_earlier_words(
    scores: list[float], percent: int, kept: str
) -> None:
    asked: list[str] = []

    def predict(texts: Sequence[str]) -> FloatArray:
        asked.extend(texts)
        return np.ones((len(texts), 1))

    text = " ".join(f"a{i}" for i in range(len(scores)))
    metrics.sufficiency(predict, ScoredTexts([text], [0], [scores]), (percent,))
    assert asked == [text, kept]


def test_known_values_with_the_true_rationale() -> None:
    # p(x) = 0.9; 25 %: erase "lost" -> 0.4, keep it alone -> 0.6; 50 %: erase both -> 0.1, keep both -> 0.9
    scores = [[0.0, 0.5, 0.0, 0.3]]
    comp = metrics.comprehensiveness(MODEL, ScoredTexts([TEXT], [1], scores), (25, 50))
    suff = metrics.sufficiency(MODEL, ScoredTexts([TEXT], [1], scores), (25, 50))
    np.testing.assert_allclose(comp, [(0.5 + 0.8) / 2])
    np.testing.assert_allclose(suff, [(0.3 + 0.0) / 2])
    other = metrics.comprehensiveness(MODEL, ScoredTexts([TEXT], [0], scores), (50,))
    np.testing.assert_allclose(other, [-0.8])


def test_agrees_with_a_plain_loop_on_random_models() -> None:
    rng = np.random.default_rng(0)
    vocabulary = [f"w{i}" for i in range(30)]
    model = WeightedWords(dict(zip(vocabulary, rng.normal(size=30) / 30, strict=True)), bias=0.5)
    texts = [" ".join(rng.choice(vocabulary, size=rng.integers(1, 25))) for _ in range(20)]
    scores = [rng.normal(size=len(text.split())).tolist() for text in texts]
    scored = ScoredTexts(texts, [1] * 20, scores)
    found = zip(metrics.comprehensiveness(model, scored), metrics.sufficiency(model, scored), strict=True)
    for text, row, pair in zip(texts, scores, found, strict=True):
        words, values = text.split(), []
        for share in (0.01, 0.05, 0.1, 0.2, 0.5):
            size = max(1, int(np.ceil(round(share * len(words), 9))))
            top = set(np.argsort(-np.array(row), kind="stable")[:size])
            rest = " ".join(word for i, word in enumerate(words) if i not in top)
            only = " ".join(word for i, word in enumerate(words) if i in top)
            values.append(model([text])[0, 1] - model([rest, only])[:, 1])
        assert pair == pytest.approx(np.mean(values, axis=0))


TEXTS = ["i lost my card", "renew the loan please", "close"]
CLASSIFIER = Classifier(roberta_classifier(seed=3), word_tokenizer())


def test_distances_on_paper() -> None:
    whole = np.array([[0.5, 0.5], [1.0, 0.0], [0.2, 0.8]])
    other = np.array([[0.5, 0.5], [0.0, 1.0], [0.6, 0.4]])
    for target, drop in ((0, [0.0, 1.0, 0.0]), (1, [0.0, 0.0, 0.4])):
        found = metrics.output_distance("probability", whole, other, [target] * 3)
        np.testing.assert_allclose(found, drop)
    expected = [0.0, 1.0, np.sqrt(1 - (np.sqrt(0.12) + np.sqrt(0.32)))]
    np.testing.assert_allclose(metrics.output_distance("hellinger", whole, other, []), expected, atol=1e-12)
    with pytest.raises(ConfigError, match=r"must be one of .*, got 'helinger'"):
        metrics.output_distance("helinger", whole, other, [])  # type: ignore[arg-type]


class Planted:
    """Each word adds its weight to p(class 1), by the share of its token's elements that are left."""

    embedding_width = 2000
    weights = np.array([0.0, 0.5, 0.0, 0.3])  # of "i lost my card"

    def __call__(self, texts: Sequence[str]) -> FloatArray:
        return self.masked(texts, [np.ones((6, 1))] * len(texts))

    def offsets(self, texts: Sequence[str]) -> list[list[tuple[int, int]]]:
        return [[(0, 0), *split_words(text), (0, 0)] for text in texts]

    def masked(self, texts: Sequence[str], masks: Sequence[FloatArray]) -> FloatArray:
        assert all((mask[[0, -1]] == 1).all() for mask in masks)  # special tokens stay
        p = np.array([0.1 + self.weights @ mask.mean(axis=1)[1:-1] for mask in masks])
        return np.stack([1 - p, p], axis=1)


@pytest.mark.parametrize(
    ("scores", "distance", "nc", "ns"),
    [
        # importance 0, 1, 0.5, 0.8: (0.5 + 0.3 * 0.8) / 0.8 of what the words carry
        ([0.0, 1.0, 0.5, 0.8], "probability", 0.925, 0.925),
        ([1.0, 0.0, 0.5, 0.2], "probability", 0.075, 0.075),
        ([-1.0, 3.0, 1.0, 2.2], "probability", 0.925, 0.925),
        ([0.3, 0.3, 0.3, 0.3], "probability", 0.5, 0.5),
        # p goes from 0.9 to 0.84, to 0.16, and to 0.1 for the zero input
        ([1.0, 0.0, 0.5, 0.2], "hellinger", 0.1002, 0.0908),
    ],
)
def test_a_planted_word_that_carries_the_decision(
    scores: list[float], distance: SoftDistance, nc: float, ns: float
) -> None:
    # single elements are erased: were it whole tokens, a word would be there or not in each of 4 masks
    planted: typing.Any = Planted()
    scored = ScoredTexts(["i lost my card"], [1], [scores])
    assert metrics.soft_nc(planted, scored, distance=distance)[0] == pytest.approx(nc, abs=0.01)
    assert metrics.soft_ns(planted, scored, distance=distance)[0] == pytest.approx(ns, abs=0.01)


def test_a_token_of_several_words_is_kept_by_their_mean_importance() -> None:
    planted: typing.Any = Planted()
    letters = [0.0, *[1.0] * 4, 0.2, 0.8, *[1.0, 0.6] * 2]  # of "i", "lost", "my", "card"
    scored = ScoredTexts(["i lost my card"], [1], [letters], word_pattern=r"\w")
    assert metrics.soft_nc(planted, scored, distance="probability")[0] == pytest.approx(0.925, abs=0.01)


def test_masks_depend_on_seed_and_text_only() -> None:
    scores = [[0.1, 0.5, 0.2, 0.9], [0.4, 0.3, 0.2, 0.1], [1.0]]
    targets = CLASSIFIER(TEXTS).argmax(1).tolist()
    scored = ScoredTexts(TEXTS, targets, scores)
    together = metrics.soft_nc(CLASSIFIER, scored, distance="hellinger")
    second = ScoredTexts(TEXTS[1:2], targets[1:2], scores[1:2])
    alone = metrics.soft_nc(CLASSIFIER, second, distance="hellinger")
    np.testing.assert_allclose(alone[0], together[1], atol=1e-5)
    other = metrics.soft_nc(CLASSIFIER, scored, distance="hellinger", seed=1)
    assert np.abs(together - other).max() > 1e-4
    # the class that the model likes least can only gain: no drop to normalise by
    least = ScoredTexts(TEXTS, CLASSIFIER(TEXTS).argmin(1).tolist(), scores)
    assert np.isnan(metrics.soft_nc(CLASSIFIER, least)).any()


def test_cosine_and_spearman() -> None:
    assert metrics.cosine([3.0, 4.0], [4.0, 3.0]) == pytest.approx(24 / 25)
    assert metrics.cosine([1.0, 0.0], [-2.0, 0.0]) == pytest.approx(-1.0)
    assert metrics.cosine([0.0, 0.0], [1.0, 1.0]) == metrics.spearman([1.0, 1.0], [1.0, 2.0]) == 0.0
    assert metrics.spearman([], []) == 0.0
    rng = np.random.default_rng(0)
    for _ in range(20):
        left, right = rng.integers(0, 4, 12), rng.integers(0, 4, 12)
        expected = spearmanr(left, right).statistic
        assert metrics.spearman(left.tolist(), right.tolist()) == pytest.approx(expected)


def test_plausibility_agrees_with_scikit_learn() -> None:
    rng = np.random.default_rng(1)
    for _ in range(20):
        scores, marked = rng.normal(size=15), rng.random(15) < 0.4
        size = int(rng.integers(1, 8))
        chosen = np.argsort(np.argsort(-scores)) < size
        found = metrics.plausibility(scores.tolist(), marked.tolist(), size)
        assert found is not None
        assert found["token_f1"] == pytest.approx(f1_score(marked, chosen))
        assert found["iou"] == pytest.approx(jaccard_score(marked, chosen))
    assert metrics.plausibility([1.0, 2.0], [False, False]) is None


def sufficiency(targets: list[int], scores: list[list[float]]) -> FloatArray:
    return metrics.sufficiency(MODEL, ScoredTexts([TEXT], targets, scores))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: metrics.cosine([1.0, 2.0], [1.0]), "2 word scores but 1 of the reference"),
        (lambda: metrics.spearman([1.0, 2.0], [1.0]), "2 word scores but 1 of the reference"),
        (lambda: metrics.plausibility([1.0], [True, False]), "1 word scores but 2 of the reference"),
        (lambda: metrics.plausibility([1.0], [True], 0), "at least 1 word, got 0"),
        (lambda: sufficiency([1], [[0.0] * 3]), "Text 0 has 4 words but 3 scores"),
        (lambda: sufficiency([1], []), "Got 1 texts, 1 targets and 0 lists"),
        (lambda: sufficiency([1, 0], [[0.0] * 4]), "Got 1 texts, 2 targets"),
        (lambda: metrics.robustness([[1]], [1, 1], [1, 1]), "for 1, 2 and 2 texts"),
        (lambda: metrics.robustness([[1], []], [1, 1], [1, 1]), "1 without a version"),
    ],
)
def test_lists_that_do_not_fit_are_refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        call()
