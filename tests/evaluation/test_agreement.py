"""Agreement, plausibility and robustness against values on paper and independent implementations."""

import typing
from collections.abc import Callable

import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.metrics import f1_score, jaccard_score

from hf_cap.errors import DataError
from hf_cap.evaluation.evaluate import Robustness, robustness
from hf_cap.evaluation.metrics import AGREEMENTS, Agreement, cosine, plausibility, spearman


def test_cosine_on_paper() -> None:
    assert cosine([3.0, 4.0], [4.0, 3.0]) == pytest.approx(24 / 25)
    assert cosine([1.0, 0.0], [-2.0, 0.0]) == pytest.approx(-1.0)
    assert cosine([0.0, 0.0], [1.0, 1.0]) == 0.0


def test_spearman_is_scipys_and_zero_where_undefined() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        left, right = rng.integers(0, 4, 12), rng.integers(0, 4, 12)
        assert spearman(left.tolist(), right.tolist()) == pytest.approx(
            spearmanr(left, right).statistic
        )
    assert spearman([1.0, 1.0], [1.0, 2.0]) == 0.0
    assert spearman([], []) == 0.0


@pytest.mark.parametrize("agree", AGREEMENTS.values())
def test_lists_of_other_lengths_are_refused(agree: Callable[..., float]) -> None:
    with pytest.raises(DataError, match="2 word scores but 1 of the reference"):
        agree([1.0, 2.0], [1.0])


def test_every_agreement_has_a_function() -> None:
    assert set(typing.get_args(Agreement)) == set(AGREEMENTS)


def test_plausibility_on_paper() -> None:
    # marked: words 1 and 3; the two best scores are words 1 and 2
    found = plausibility([0.0, 0.9, 0.5, 0.4], [False, True, False, True])
    assert found is not None
    assert found.token_f1 == pytest.approx(0.5)
    assert found.iou == pytest.approx(1 / 3)
    # precision-recall points (0, 1), (1/2, 1), (1/2, 1/2), (1, 2/3), joined by trapezoids
    assert found.auprc == pytest.approx(0.5 + 0.5 * (1 / 2 + 2 / 3) / 2)


def test_plausibility_agrees_with_scikit_learn() -> None:
    rng = np.random.default_rng(1)
    for _ in range(20):
        scores, marked = rng.normal(size=15), rng.random(15) < 0.4
        size = int(rng.integers(1, 8))
        chosen = np.argsort(np.argsort(-scores)) < size
        found = plausibility(scores.tolist(), marked.tolist(), size)
        assert found is not None
        assert found.token_f1 == pytest.approx(f1_score(marked, chosen))
        assert found.iou == pytest.approx(jaccard_score(marked, chosen))


def test_the_planted_rationale_is_perfectly_plausible() -> None:
    found = plausibility([0.1, 0.8, -0.2, 0.9], [False, True, False, True])
    assert found is not None
    assert (found.token_f1, found.auprc, found.iou) == (1.0, 1.0, 1.0)


def test_a_text_without_a_marked_word_has_no_plausibility() -> None:
    assert plausibility([1.0, 2.0], [False, False]) is None


def test_plausibility_refuses_what_does_not_fit() -> None:
    with pytest.raises(DataError, match="1 word scores but 2 rationale flags"):
        plausibility([1.0], [True, False])
    with pytest.raises(DataError, match="at least 1 word, got `size=0`"):
        plausibility([1.0], [True], 0)


def test_robustness_on_paper() -> None:
    found = robustness([[1, 1], [1, 0], [2, 2], [0, 0]], [1, 1, 2, 1], [1, 1, 0, 0])
    assert found == Robustness(
        clean_accuracy=0.5, robust_accuracy=0.5, mean_attacked_accuracy=0.625, attack_success=0.5
    )
    assert robustness([[0]], [1], [2]).attack_success is None


@pytest.mark.parametrize(
    ("attacked", "message"),
    [([[1]], "got 1 attacked, 2 clean"), ([[1], []], "the first is text 1")],
)
def test_robustness_refuses_what_does_not_fit(attacked: list[list[int]], message: str) -> None:
    with pytest.raises(DataError, match=message):
        robustness(attacked, [1, 1], [1, 1])
