"""Faithfulness against values worked out by hand, and against an independent loop."""

import numpy as np
import pytest

from hf_cap.errors import DataError
from hf_cap.evaluation.metrics import comprehensiveness, rationale, sufficiency
from tests.evaluation.planted_model import WeightedWords

MODEL = WeightedWords({"lost": 0.5, "card": 0.3})
TEXT = "i lost my card"


def test_rationale_rounds_up_and_prefers_earlier_words() -> None:
    assert rationale([0.1, 0.4, 0.4, -2.0], 1) == [False, True, False, False]
    assert rationale([0.1, 0.4, 0.4, -2.0], 50) == [False, True, True, False]
    assert rationale([0.0] * 10, 11) == [True, True, *[False] * 8]
    assert rationale([0.0] * 10, 10) == [True, *[False] * 9]
    assert rationale([3.0], 1) == [True]
    assert rationale([1.0, 2.0], 100) == [True, True]


def test_known_values_with_the_true_rationale() -> None:
    # p(x) = 0.9; 25 %: erase "lost" -> 0.4, keep it alone -> 0.6; 50 %: erase both -> 0.1, keep both -> 0.9
    scores = [[0.0, 0.5, 0.0, 0.3]]
    comp = comprehensiveness(MODEL, [TEXT], [1], scores, percentages=(25, 50))
    suff = sufficiency(MODEL, [TEXT], [1], scores, percentages=(25, 50))
    np.testing.assert_allclose(comp, [(0.5 + 0.8) / 2])
    np.testing.assert_allclose(suff, [(0.3 + 0.0) / 2])


def test_the_wrong_rationale_scores_worse() -> None:
    scores = [[0.5, 0.0, 0.3, 0.0]]
    np.testing.assert_allclose(
        comprehensiveness(MODEL, [TEXT], [1], scores, percentages=(50,)), [0.0]
    )
    np.testing.assert_allclose(sufficiency(MODEL, [TEXT], [1], scores, percentages=(50,)), [0.8])


def test_the_target_class_is_the_one_explained() -> None:
    scores = [[0.0, 0.5, 0.0, 0.3]]
    np.testing.assert_allclose(
        comprehensiveness(MODEL, [TEXT], [0], scores, percentages=(50,)), [-0.8]
    )


def test_every_text_keeps_its_own_values_in_a_batch() -> None:
    texts = [TEXT, "card", "nothing here"]
    scores = [[0.0, 0.5, 0.0, 0.3], [1.0], [0.0, 1.0]]
    together = comprehensiveness(MODEL, texts, [1, 1, 0], scores)
    alone = [
        comprehensiveness(MODEL, [t], [y], [s])[0]
        for t, y, s in zip(texts, [1, 1, 0], scores, strict=True)
    ]
    np.testing.assert_allclose(together, alone)


def test_agrees_with_a_plain_loop_on_random_models() -> None:
    rng = np.random.default_rng(0)
    vocabulary = [f"w{i}" for i in range(30)]
    model = WeightedWords(dict(zip(vocabulary, rng.normal(size=30) / 30, strict=True)), bias=0.5)
    texts = [" ".join(rng.choice(vocabulary, size=rng.integers(1, 25))) for _ in range(20)]
    scores = [rng.normal(size=len(text.split())).tolist() for text in texts]
    for text, row, comp, suff in zip(
        texts,
        scores,
        comprehensiveness(model, texts, [1] * 20, scores),
        sufficiency(model, texts, [1] * 20, scores),
        strict=True,
    ):
        words = text.split()
        drops, losses = [], []
        for share in (0.01, 0.05, 0.1, 0.2, 0.5):
            size = max(1, int(np.ceil(round(share * len(words), 9))))
            top = np.argsort(-np.array(row), kind="stable")[:size]
            rest = " ".join(word for i, word in enumerate(words) if i not in top)
            only = " ".join(word for i, word in enumerate(words) if i in top)
            whole = model([text])[0, 1]
            drops.append(whole - model([rest])[0, 1])
            losses.append(whole - model([only])[0, 1])
        assert comp == pytest.approx(np.mean(drops))
        assert suff == pytest.approx(np.mean(losses))


def test_one_call_of_the_model_a_metric() -> None:
    model = WeightedWords({"lost": 0.5})
    comprehensiveness(model, [TEXT] * 3, [1] * 3, [[0.0] * 4] * 3)
    assert len(model.calls) == 1


@pytest.mark.parametrize(
    ("targets", "scores", "message"),
    [
        ([1], [[0.0] * 3], "Text 0 has 4 words .* but 3 scores"),
        ([1], [], "1 texts but 0 lists"),
        ([1, 0], [[0.0] * 4], "1 texts but 2 targets"),
    ],
)
def test_mismatches_are_refused(
    targets: list[int], scores: list[list[float]], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        sufficiency(MODEL, [TEXT], targets, scores)
