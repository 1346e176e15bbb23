"""Groups, estimates, paired differences, curves and findings of the report, with answers known on paper."""

from collections.abc import Mapping
from typing import Any

import pytest

from hf_cap.evaluation.evaluate import Evaluation
from hf_cap.report.contents import (
    MEASURES,
    baseline_of,
    estimate,
    evaluation_sets,
    findings,
    group_runs,
    panels,
    training_data,
)
from hf_cap.report.load import Run


def make_run(
    name: str,
    *,
    seed: int = 0,
    weight: float = 0.1,
    accuracy: float | None = None,
    history: list[dict[str, float]] | None = None,
    rows: int = 8,
    **settings: Any,
) -> Run:
    evaluations: Mapping[str, Any] = {}
    if accuracy is not None:
        evaluations = {"test": {"texts": 100, "accuracy": accuracy, "macro_f1": None}}
    facts = {
        "model": "tiny",
        "seed": seed,
        "settings": {
            "alignment_weight": weight,
            "seed": seed,
            "output_dir": f"runs/{name}",
            **settings,
        },
        "data": {"dataset": "d", "train_split": "train", "rows": rows, "labels": ["a", "b"]},
        "history": history,
    }
    return Run(name, facts, evaluations)


def test_runs_that_differ_in_seed_and_place_alone_are_one_group() -> None:
    groups = group_runs([make_run("one", seed=0), make_run("two", seed=1)])
    assert [group.shown.runs for group in groups] == [("one", "two")]
    assert groups[0].shown.seeds == (0, 1)
    assert groups[0].shown.role == "aligned"


def test_baseline_comes_first_then_controls() -> None:
    runs = [
        make_run("aligned"),
        make_run("control", prior_column="prior_shuffled"),
        make_run("plain", weight=0.0),
    ]
    shown = [group.shown for group in group_runs(runs)]
    assert [group.role for group in shown] == ["baseline", "control", "aligned"]
    assert [group.name for group in shown] == ["no alignment", "control: shuffled", "aligned"]


def test_a_run_given_as_baseline_is_one_whatever_its_weight() -> None:
    (group,) = group_runs([], [make_run("one", weight=0.1)])
    assert group.shown.role == "baseline"


def test_groups_of_one_role_are_named_by_the_settings_that_differ() -> None:
    runs = [make_run("a", learning_rate=1e-3), make_run("b", learning_rate=1e-4), make_run("c")]
    names = [group.shown.name for group in group_runs(runs)]
    assert names == ["aligned (learning_rate=0.001)", "aligned (learning_rate=0.0001)", "aligned"]


def test_a_group_is_compared_with_the_baseline_on_its_own_data() -> None:
    runs = [
        make_run("other", weight=0.0, rows=5),
        make_run("plain", weight=0.0, rows=8, learning_rate=1.0),
        make_run("aligned", rows=8),
    ]
    groups = group_runs(runs)
    assert baseline_of(2, groups) == 1
    assert baseline_of(0, groups) is None
    assert baseline_of(0, group_runs([make_run("aligned")])) is None


def test_what_identifies_a_machine_is_not_shown() -> None:
    run = make_run("one", hub_token="hf_secret", template="/home/me/work/prompt.yaml")
    (group,) = group_runs([run])
    assert "hub_token" not in group.shown.settings
    assert group.shown.settings["template"] == "prompt.yaml"


def test_groups_are_named_without_folders_and_secrets() -> None:
    runs = [
        make_run("a", dataset="/home/me/clients/acme/cap"),
        make_run("b", dataset="/home/me/clients/acme/lime"),
    ]
    names = [group.shown.name for group in group_runs(runs)]
    assert names == ["aligned (dataset=cap)", "aligned (dataset=lime)"]


@pytest.mark.parametrize("setting", ["dataset", "base_url"])
def test_groups_that_only_what_is_hidden_tells_apart_are_numbered(setting: str) -> None:
    places: list[dict[str, Any]] = [{setting: f"/home/me/{name}/cap"} for name in ("acme", "other")]
    runs = [make_run("a", **places[0]), make_run("b", **places[1])]
    runs.append(make_run("c", learning_rate=1e-3))
    shown = [group.shown for group in group_runs(runs)]
    first, second, third = (group.name for group in shown)
    assert third.startswith("aligned (learning_rate=0.001")
    assert first.endswith(", group 1")
    assert second == first.replace("group 1", "group 2")
    assert "/home" not in "".join((first, second, third))
    assert [group.runs for group in shown] == [("a",), ("b",), ("c",)]


def test_the_data_is_named_once() -> None:
    (data,) = training_data([make_run("one"), make_run("two", seed=1)])
    assert (data.dataset, data.split, data.rows, data.labels) == ("d", "train", 8, 2)


def test_estimate_is_the_t_interval() -> None:
    # mean 2, standard deviation 1, t(0.975, 2) = 4.302653: 2 +- 4.302653 / sqrt(3)
    found = estimate([1.0, 2.0, 3.0])
    assert found is not None
    assert (found.mean, found.count) == (2.0, 3)
    assert found.low == pytest.approx(2 - 2.484138, abs=1e-6)
    assert found.high == pytest.approx(2 + 2.484138, abs=1e-6)


def test_one_value_has_no_interval_and_none_no_estimate() -> None:
    found = estimate([0.5])
    assert found is not None
    assert (found.mean, found.low, found.high) == (0.5, None, None)
    assert estimate([]) is None


def test_differences_are_paired_by_seed() -> None:
    # accuracy varies much between seeds, but alignment adds 0.1 to each; seed 9 has no partner
    runs = [make_run(f"p{s}", seed=s, weight=0.0, accuracy=0.2 * s) for s in (3, 1, 2)]
    runs += [make_run(f"a{s}", seed=s, accuracy=0.2 * s + 0.1) for s in (1, 2, 3)]
    runs += [make_run("a9", seed=9, accuracy=1.0)]
    (test,) = evaluation_sets(group_runs(runs))
    (row,) = test.rows
    assert row.differences[0] is None
    difference = row.differences[1]
    assert difference is not None
    assert difference.count == 3
    assert difference.mean == pytest.approx(0.1)
    assert difference.low == pytest.approx(0.1)
    value = row.values[1]
    assert value is not None
    assert value.count == 4


def test_two_runs_of_one_seed_both_count() -> None:
    runs = [make_run("a", accuracy=0.5), make_run("b", accuracy=0.7)]
    (test,) = evaluation_sets(group_runs(runs))
    value = test.rows[0].values[0]
    assert value is not None
    assert value.count == 2
    assert value.mean == pytest.approx(0.6)


def test_the_first_set_is_the_one_asked_for() -> None:
    run = Run(
        "one", make_run("one").facts, {"attacked": {"accuracy": 0.5}, "test": {"accuracy": 0.5}}
    )
    sets = evaluation_sets(group_runs([run]), "test")
    assert [found.name for found in sets] == ["test", "attacked"]


def test_curves_are_the_mean_and_range_over_the_runs() -> None:
    histories = [
        [{"step": 1, "loss_task": value}, {"step": 2, "loss": 9.0}] for value in (1.0, 3.0)
    ]
    runs = [make_run(f"r{i}", seed=i, history=found) for i, found in enumerate(histories)]
    (panel,) = panels(group_runs(runs))
    ((point,),) = [curve.points for curve in panel.curves]
    assert (point.step, point.mean, point.low, point.high) == (1, 2.0, 1.0, 3.0)


def test_the_whole_loss_of_a_plain_run_is_its_task_loss() -> None:
    (panel,) = panels(group_runs([make_run("plain", history=[{"step": 1, "loss": 2.5}])]))
    assert panel.title == "Task loss"
    assert panel.curves[0].points[0].mean == 2.5


@pytest.mark.parametrize(
    ("gains", "said"),
    [
        ((0.10, 0.11, 0.12), "a change beyond the spread"),
        ((-0.10, -0.11, -0.12), "a change beyond the spread"),
        ((-0.10, 0.1, 0.05), "no change that stands out"),
        ((0.2,), "One seed says nothing"),
    ],
)
def test_findings_claim_no_more_than_the_interval(gains: tuple[float, ...], said: str) -> None:
    runs = [make_run(f"p{s}", seed=s, weight=0.0, accuracy=0.5) for s in range(len(gains))]
    runs += [make_run(f"a{s}", seed=s, accuracy=0.5 + gain) for s, gain in enumerate(gains)]
    groups = group_runs(runs)
    (sentence,) = findings(groups, evaluation_sets(groups))
    assert said in sentence
    assert "against 50.0 % without alignment" in sentence


def test_measures_are_fields_of_an_evaluation() -> None:
    of_tables = {"roc_auc", "r2", "rmse"}
    assert set(MEASURES) - of_tables <= set(Evaluation.__dataclass_fields__)
