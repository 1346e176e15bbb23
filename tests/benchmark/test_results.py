"""What the cells say together: numbers that can be told on paper."""

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from benchmarks.study.bench import CELL_FILE
from benchmarks.study.figures import (
    FIGURES,
    draw_attacks,
    draw_faithfulness,
    draw_figures,
    draw_shots,
)
from benchmarks.study.report import few_shot_summary, page
from benchmarks.study.results import Result, outcomes, read_results, rows, summary
from benchmarks.study.tables import markdown, shown, tables
from hf_cap.data import read_parquet
from hf_cap.evaluation.results import Cell, Interval, holm, paired_bootstrap
from hf_cap.utils import write_json

COMMITTED = Path(__file__).parents[2] / "benchmarks" / "results"
ACCURACY = {
    # one number a seed
    "none": (0.50, 0.52, 0.54),
    "shuffled": (0.56, 0.57, 0.61),
    "uniform": (0.51, 0.53, 0.55),
    "cap": (0.60, 0.63, 0.63),
    "channel": (0.55, 0.55, 0.55),
    "oracle": (0.90, 0.90, 0.90),
}


def result(
    method: str, seed: int, accuracy: float, regime: str = "5_shot", **numbers: object
) -> Result:
    tests = {
        name: {"texts": 10, "accuracy": accuracy - drop, "macro_f1": accuracy / 2}
        for name, drop in (("clean", 0.0), ("keyword_addition", 0.1))
    }
    training = {"alignment_weight": 0.0 if method == "none" else 0.1, "learning_rate": 1e-3}
    found = {
        "test_sets": tests,
        "missing": {},
        "explanations": {"comprehensiveness": accuracy / 4},
        "settings": {"training": training},
        "versions": {"torch": "2"},
    }
    return Result(Cell("bank", regime, 0, method, seed), {**found, **numbers})


@pytest.fixture
def results() -> list[Result]:
    return [
        result(method, seed, value)
        for method, values in ACCURACY.items()
        for seed, value in enumerate(values)
    ]


def test_the_summary_names_the_best_method_and_its_gain_over_the_best_control(
    results: list[Result],
) -> None:
    found = summary(results)["bank"]
    assert found["regime"] == "5_shot"
    assert found["best_method"] == "cap"  # neither the oracle nor a control competes
    assert found["best_control"] == "shuffled"
    assert found["accuracy"] == pytest.approx(0.62)
    assert found["gain_over_best_control"] == pytest.approx((0.04 + 0.06 + 0.02) / 3)
    assert found["gain_over_none"] == pytest.approx(0.10)
    assert found["p_holm"] == pytest.approx(min(1.0, 2 * found["p"]))  # two methods compete
    assert found["attacks"]["keyword_addition"]["best_method"] == "cap"


def test_the_data_sets_are_compared_together_too(results: list[Result]) -> None:
    other = [replace(r, cell=replace(r.cell, dataset="clinic")) for r in results]
    assert "Accuracy: bank + clinic, 5_shot, clean" in markdown([*results, *other])
    assert " + " not in "".join(one.title for one in tables(results))
    assert "Explanations: bank + clinic, 5_shot" in markdown([*results, *other])
    found = few_shot_summary([*results, *other])
    assert set(found["summary"]) == {"bank", "clinic"}
    cap = next(row for row in found["over_datasets"] if row["method"] == "cap")
    assert cap["value"]["count"] == 2
    assert cap["from_control"]["mean"] == pytest.approx((0.04 + 0.06 + 0.02) / 3)


@pytest.mark.parametrize(
    ("study", "cells"), [("few_shot", 144), ("one_shot", 96), ("one_shot_longer", 10)]
)
def test_the_committed_tables_follow_from_the_committed_cells(study: str, cells: int) -> None:
    found = read_results(COMMITTED / study)
    assert len(found) >= cells
    assert markdown(found) == (COMMITTED / study / "table.md").read_text("utf-8")
    committed = json.loads((COMMITTED / f"{study}.json").read_text("utf-8"))
    assert committed["cells"] == len(found)
    for dataset, told in summary(found).items():
        for name in ("best_method", "gain_over_best_control", "p_holm"):
            known = committed["summary"][dataset][name]
            assert told[name] == (known if isinstance(known, str) else pytest.approx(known))


@pytest.mark.parametrize(
    ("study", "dataset", "draws", "texts"),
    [
        ("one_shot", "hwu64", 8, 64),
        ("one_shot", "banking77", 8, 77),
        ("few_shot", "clinc150", 3, 750),
    ],
)
def test_the_committed_scores_are_of_priors_and_hold_no_text(
    study: str, dataset: str, draws: int, texts: int
) -> None:
    files = sorted((COMMITTED / study / "scores" / dataset).rglob("*.parquet"))
    assert len({file.parent for file in files}) == draws
    for file in files:
        source = file.name.split("-")[0]
        found = read_parquet(file)
        assert set(found.column_names) == {"digest", f"prior_{source}", "provenance"}
        assert len(found) == len(set(found["digest"])) == texts


def test_no_method_is_best_by_having_run_on_the_easy_draw_only() -> None:
    values = {"none": (0.5, 0.9), "cap": (0.55, 0.95), "channel": (None, 0.92)}
    found = [
        Result(replace(one.cell, draw=draw), one.numbers)
        for method, by_draw in values.items()
        for draw, value in enumerate(by_draw)
        if value is not None
        for one in [result(method, 0, value)]
    ]
    assert summary(found)["bank"]["best_method"] == "cap"
    without = [one for one in found if one.cell.method != "none"]
    assert summary(without)["bank"]["best_method"] == "channel"  # by its mean: nothing to pair with


def test_the_summary_is_of_the_smallest_training_set(results: list[Result]) -> None:
    more = [result("channel", 0, 0.99, "full"), result("channel", 0, 0.98, "10_shot")]
    assert summary([*results, *more])["bank"]["regime"] == "5_shot"


def test_without_a_control_or_a_method_nothing_is_claimed() -> None:
    alone = summary([result("none", 0, 0.5)])["bank"]
    assert alone["best_method"] is None
    assert alone["gain_over_best_control"] is None
    no_control = summary([result("none", 0, 0.5), result("cap", 0, 0.6)])["bank"]
    assert no_control["best_method"] == "cap"
    assert no_control["gain_over_best_control"] is None
    assert no_control["p_holm"] is None


def test_the_full_table_is_beside_the_summary(results: list[Result]) -> None:
    found = few_shot_summary(results)
    assert len(found["table"]) == len(ACCURACY) * 2
    clean = next(r for r in found["table"] if (r["method"], r["test_set"]) == ("none", "clean"))
    assert clean["value"]["mean"] == pytest.approx(0.52)


def test_one_row_a_number(results: list[Result]) -> None:
    found = list(rows(results[:1]))
    assert len(found) == 5
    assert {row["measure"] for row in found} == {"accuracy", "macro_f1", "comprehensiveness"}
    assert [o.value for o in outcomes(results[:1], "comprehensiveness")] == [0.125]


def test_the_table_shows_differences_in_points(results: list[Result]) -> None:
    text = markdown(results)
    row = next(line for line in text.splitlines() if line.startswith("| cap | 3 |"))
    assert "| 62.0 ± " in row
    assert "| +10.0 ± " in row
    assert "| +4.0 ± " in row
    assert "| shuffled |" in row


def test_settings_that_differ_between_methods_are_shown(results: list[Result]) -> None:
    assert not [one for one in tables(results) if one.title.startswith("Training settings")]
    tuned = result("cap", 0, 0.6, settings={"training": {"alignment_weight": 0.3}})
    found = [one for one in tables([*results, tuned]) if one.title.startswith("Training settings")]
    assert "alignment_weight" in found[0].header


def write_cells(room: Path, results: Sequence[Result]) -> None:
    for one in results:
        settings = {**one.numbers["settings"], "cell": asdict(one.cell)}
        write_json(
            room / "cells" / one.cell.folder / CELL_FILE, {**one.numbers, "settings": settings}
        )


def test_runs_made_with_other_settings_are_left_out(
    results: list[Result], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_cells(tmp_path, results)
    assert len(read_results(tmp_path)) == len(results)
    assert not caplog.messages
    longer = {"training": {"alignment_weight": 0.1, "learning_rate": 1e-3, "num_train_epochs": 9}}
    write_cells(tmp_path, [result("cap", 2, 0.99, settings=longer)])
    found = [one.cell for one in read_results(tmp_path) if one.cell.method == "cap"]
    assert [cell.seed for cell in found] == [0, 1]
    assert "1 finished cells were made with other settings" in caplog.text
    # measured otherwise, so that no method can be compared with it
    other = {"training": {"alignment_weight": 0.0}, "evaluation": {"max_length": 5}}
    write_cells(tmp_path, [result("lime", 0, 0.99, settings=other)])
    assert "lime" not in {one.cell.method for one in read_results(tmp_path)}


def test_the_number_format_may_differ_between_runs_but_not_within_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    training, prior = {"alignment_weight": 0.1}, {"cap": {"n": 50}}
    full = {"training": training, "prior": prior}
    half = {
        "training": {**training, "bf16": True, "use_cpu": True},
        "prior": {"cap": {"n": 50, "dtype": "bfloat16"}},
    }
    said = {**full, "training": {**training, "bf16": False}}  # what `full` is without a word
    for method, same in (("cap", full), ("mean", said)):
        write_cells(tmp_path, [result(method, 0, 0.6, settings=same)])
        write_cells(tmp_path, [result(method, 1, 0.7, settings=half)])
    assert len(read_results(tmp_path)) == 4
    assert not caplog.messages
    # beside two methods of the same seed in float32, those in bfloat16 are compared with neither
    write_cells(tmp_path, [result(name, 1, 0.9, settings=full) for name in ("max", "sum", "first")])
    found = {(one.cell.method, one.cell.seed) for one in read_results(tmp_path)}
    assert found == {("cap", 0), ("mean", 0), ("max", 1), ("sum", 1), ("first", 1)}
    assert "seed 1: 2 finished cells were made with other settings (training)" in caplog.text


def test_explanations_are_compared_with_none(results: list[Result]) -> None:
    found = next(one for one in tables(results) if one.title.startswith("Explanations"))
    assert found.header == ("method", "comprehensiveness ↑", "comprehensiveness − none")
    rows = {row[0]: row[1:] for row in found.rows}
    # by the seed (0.60 - 0.50) / 4, (0.63 - 0.52) / 4 and (0.63 - 0.54) / 4
    assert rows["cap"][1].startswith("+0.025 ± ")
    assert rows["none"][1] == ""


def test_each_control_is_compared_with_by_itself(results: list[Result]) -> None:
    found = next(one for one in tables(results) if one.title.startswith("Accuracy against each"))
    assert found.title.endswith("bank, 5_shot, clean")
    assert found.header[1::2] == ("− shuffled", "− uniform")
    rows = {row[0]: row[1:] for row in found.rows}
    assert set(rows) == {"cap", "channel", "oracle"}  # no other control, and `none` has its column
    # (4 + 6 + 2) / 3 points over the one, (9 + 10 + 8) / 3 over the other
    assert rows["cap"][0].startswith("+4.0 ± ")
    assert rows["cap"][2].startswith("+9.0 ± ")
    assert rows["cap"][3] == f"{holm_of('cap', 'uniform'):.3f}"
    assert rows["oracle"][1::2] == ("", "")
    one_control = [one for one in results if one.cell.method != "uniform"]
    assert "against each control" not in markdown(one_control)


def holm_of(method: str, control: str) -> float:
    """p of a method against one control; two methods compete, the other control not among them."""
    names = ["cap", "channel"]
    p = [paired_bootstrap(np.subtract(ACCURACY[name], ACCURACY[control])) for name in names]
    return float(holm(p)[names.index(method)])


def test_no_p_is_shown_as_nothing() -> None:
    values = {"none": 0.5, "shuffled": 0.51, "cap": 0.7}
    many = [
        result(method, seed, value + seed / 1000)
        for method, value in values.items()
        for seed in range(12)
    ]
    row = next(line for line in markdown(many).splitlines() if line.startswith("| cap | 12 |"))
    assert row.endswith("| < 0.001 | < 0.001 |")


def test_a_single_run_has_no_interval() -> None:
    assert shown(Interval(0.5, None, 1), percent=True, signed=True) == "+50.0"
    assert shown(Interval(0.5, 0.01, 2)) == "0.500 ± 0.010"
    assert shown(None) == ""


def test_the_page_is_escaped_and_asks_for_nothing(results: list[Result]) -> None:
    named = result("<b>", 0, 0.5)
    text = page([*results, named])
    assert "&lt;b&gt;" in text
    assert "<b>" not in text
    assert "default-src 'none'" in text
    assert "<code>oracle</code>" in text
    assert "`" not in text


def test_every_figure_is_drawn_from_what_it_needs(results: list[Result], tmp_path: Path) -> None:
    assert draw_shots(results) is None
    ten = [result("cap", seed, 0.8, "10_shot") for seed in range(2)]
    assert len(draw_figures([*results, *ten], tmp_path)) == 2 * len(FIGURES)


def test_the_legend_names_what_any_data_set_has(results: list[Result]) -> None:
    few = [
        replace(one, cell=replace(one.cell, dataset="a"))
        for one in results
        if one.cell.method in ("none", "cap")
    ]
    for draw in (draw_attacks, draw_faithfulness):
        shown = [text.get_text() for text in draw([*few, *results]).legends[0].get_texts()]
        assert sorted(shown) == sorted(ACCURACY)


def test_a_reason_with_bars_and_lines_stays_in_its_cell(results: list[Result]) -> None:
    odd = result("cap", 9, 0.5, missing={"keyword_addition": "a | b\nc"})
    assert "| keyword_addition | a \\| b c |" in markdown([*results, odd])


def test_a_data_set_without_its_own_smallest_regime_is_drawn_by_its_smallest(
    results: list[Result],
) -> None:
    large = [
        Result(replace(one.cell, dataset="large", regime="full"), one.numbers) for one in results
    ]
    for draw in (draw_attacks, draw_faithfulness):
        figure = draw([*results, *large])
        assert [axes.get_title() for axes in figure.axes] == ["bank", "large"]
        assert "5_shot, full" in figure.get_suptitle()


def test_the_names_of_attacks_do_not_overlap() -> None:
    results = read_results(COMMITTED / "few_shot")
    figure = draw_attacks(results)
    figure.canvas.draw()
    assert len(figure.axes) == len({result.cell.dataset for result in results}) == 3
    for axes in figure.axes:
        boxes = [label.get_window_extent() for label in axes.get_xticklabels()]
        assert len(boxes) == 3
        assert all(left.x1 < right.x0 for left, right in pairwise(boxes))
