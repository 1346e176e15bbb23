"""The texts of the example browser: joining, thinning out, embedding."""

import itertools
import json
from typing import Any

import pytest

from hf_cap.report.contents import (
    Example,
    Examples,
    Lane,
    choose_pair,
    collect_examples,
    group_runs,
)
from hf_cap.report.load import Columns, PriorFolder, Run
from hf_cap.report.page import STEPS, embed_examples, script_json
from tests.publishing.report_runs import HOSTILE


def records(
    prediction: str, score: float, texts: tuple[str, ...] = ("my card", "a loan")
) -> Columns:
    count = len(texts)
    return {
        "text": list(texts),
        "label": ["card"] * count,
        "prediction": [prediction] * count,
        "probabilities": [[0.25, 0.75]] * count,
        "words": [text.split() for text in texts],
        "attributions": [[score, -1.0]] * count,
        "prior": [None] * count,
    }


def run(name: str, weight: float, found: Columns | None = None, seed: int = 0) -> Run:
    facts = {"seed": seed, "settings": {"alignment_weight": weight}}
    return Run(name, facts, {}, {} if found is None else {"test": found})


def collect(runs: list[Run], priors: PriorFolder | None = None, most: int = 100) -> Examples:
    return collect_examples(choose_pair(group_runs(runs)), priors, first="test", most=most)


def test_the_pair_has_one_seed() -> None:
    runs = [run("p0", 0.0, seed=0), run("p1", 0.0, seed=1), run("a1", 0.1, seed=1)]
    pair = choose_pair(group_runs(runs))
    assert pair.before is runs[1]
    assert pair.after is runs[2]
    assert pair.names == ("no alignment", "aligned")


def test_before_and_after_stand_side_by_side() -> None:
    found = collect([run("p", 0.0, records("loan", 1.0)), run("a", 0.1, records("card", 2.0))])
    assert [lane.name for lane in found.lanes] == ["no alignment", "aligned"]
    first = found.rows[0]
    assert first.lanes == ((1.0, -1.0), (2.0, -1.0))
    assert first.before is not None
    assert first.after is not None
    assert (first.before.label, first.after.label) == ("loan", "card")
    assert first.after.probability == 0.75


def test_models_are_joined_by_text_not_by_place() -> None:
    before = records("loan", 1.0, ("a loan", "my card"))
    found = collect(
        [run("p", 0.0, before), run("a", 0.1, records("card", 2.0, ("my card", "new text")))]
    )
    assert [row.text for row in found.rows] == ["my card", "new text"]
    assert found.rows[0].lanes[0] == (1.0, -1.0)
    assert found.rows[1].lanes[0] is None
    assert found.rows[1].before is None


def test_priors_are_joined_and_their_other_splits_added() -> None:
    priors = PriorFolder(
        {
            "test": {
                "text": ["my card"],
                "label": ["card"],
                "words": [["my", "card"]],
                "prior_cap": [[0.0, 1.0]],
            },
            "train": {
                "text": ["lost card"],
                "label": ["card"],
                "words": [["lost", "card"]],
                "prior_cap": [[0.5, 1.0]],
                "prior": [[0.4, 0.9]],
            },
        }
    )
    found = collect([run("a", 0.1, records("card", 2.0))], priors)
    assert found.sets == ("test", "train (priors only)")
    assert [lane.name for lane in found.lanes] == ["cap", "fused prior", "aligned"]
    assert [row.lanes for row in found.rows] == [
        ((0.0, 1.0), None, (2.0, -1.0)),
        (None, None, (2.0, -1.0)),
        ((0.5, 1.0), (0.4, 0.9), None),
    ]


@pytest.mark.parametrize("bad", [[1.0], [1.0, float("nan")], [1.0, None]])
def test_scores_that_cannot_be_drawn_are_left_out(bad: list[Any]) -> None:
    columns = {**records("card", 1.0, ("my card",)), "attributions": [bad]}
    found = collect([run("a", 0.1, columns)])
    assert [row.lanes for row in found.rows] == [(None,)]


def test_no_records_no_texts() -> None:
    assert collect([run("a", 0.1)]) == Examples((), (), (), 0)


def test_thinning_out_is_even() -> None:
    texts = tuple(f"text {number}" for number in range(9))
    found = collect([run("a", 0.1, records("card", 1.0, texts))], most=3)
    assert [row.text for row in found.rows] == ["text 0", "text 3", "text 6"]
    assert found.total == 9


def examples(*rows: Example) -> Examples:
    return Examples(("test",), (Lane("cap", "source", "n"),), rows, len(rows))


def example(text: str, scores: tuple[float, ...] | None = None) -> Example:
    words = tuple(text.split())
    return Example(text, words, "card", 0, (scores,), None, None)


def test_scores_come_back_to_three_digits() -> None:
    scores = (0.123456, -2.0, 1.99999, 0.0)
    embedded = embed_examples(examples(example("a b c d", scores)), 10**6)
    largest, *parts = embedded["rows"][0][4][0]
    back = [largest * part / STEPS for part in parts]
    assert back == pytest.approx(scores, abs=2.0 / STEPS)
    assert parts[1] == -STEPS


def test_a_row_of_zeros_and_one_without_words_are_no_error() -> None:
    embedded = embed_examples(examples(example("a b", (0.0, 0.0)), example("", ())), 10**6)
    assert [row[4] for row in embedded["rows"]] == [[[0.0, 0, 0]], [[0.0]]]


def test_the_text_is_sent_only_where_its_words_do_not_make_it() -> None:
    rows = embed_examples(examples(example("a b"), example("a  b")), 10**6)["rows"]
    assert [row[3] for row in rows] == [None, "a  b"]


def test_rows_are_left_out_evenly_until_they_fit() -> None:
    rows = [example(f"{number:03d} " + "x" * 996) for number in range(100)]
    embedded = embed_examples(examples(*rows), 25_000)
    kept = [int(row[2][0]) for row in embedded["rows"]]
    assert len(script_json(embedded["rows"])) <= 25_000
    assert 20 <= len(kept) <= 25
    gaps = {after - before for before, after in itertools.pairwise(kept)}
    assert gaps <= {4, 5}
    assert embedded["total"] == 100


@pytest.mark.parametrize("text", HOSTILE)
def test_json_in_a_script_is_inert_and_true(text: str) -> None:
    written = script_json({"text": text})
    assert not set("<>&\u2028\u2029") & set(written)
    assert json.loads(written) == {"text": text}
