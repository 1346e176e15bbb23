"""The matrix: which cells there are, and what the table says of finished ones."""

import numpy as np
import pytest

from hf_cap.errors import ConfigError
from hf_cap.evaluation.results import (
    Cell,
    Outcome,
    TableRow,
    cells,
    mean_interval,
    over_datasets,
    paired_bootstrap,
    paired_difference,
    table,
)


def outcomes(**values: list[float]) -> list[Outcome]:
    return [
        Outcome(Cell("d", "5_shot", draw, method, 0), "clean", value)
        for method, runs in values.items()
        for draw, value in enumerate(runs)
    ]


def by_method(rows: list[TableRow]) -> dict[str, TableRow]:
    return {row.method: row for row in rows}


def test_cells_are_the_product_with_one_draw_of_the_full_set() -> None:
    found = cells(["d"], ["5_shot", "full"], ["none", "cap"], draws=3, seeds=(0, 1))
    assert len(found) == len(set(found)) == 3 * 2 * 2 + 2 * 2
    assert {cell.draw for cell in found if cell.regime == "full"} == {0}
    assert found[:2] == [Cell("d", "5_shot", 0, "none", 0), Cell("d", "5_shot", 0, "cap", 0)]


def test_every_cell_has_a_folder_of_its_own() -> None:
    found = cells(["a/b", "c"], ["5_shot", "full"], ["none", "cap"], draws=2, seeds=(0, 1))
    assert len({cell.folder for cell in found}) == len(found)
    assert Cell("a/b", "10_shot", 1, "cap", 2).folder == "a--b/10_shot/draw_1/cap/seed_2"


def test_shots() -> None:
    assert Cell("d", "10_shot", 0, "none", 0).shots == 10
    assert Cell("d", "full", 0, "none", 0).shots is None


@pytest.mark.parametrize("regime", ["5", "shot", "_shot", "0_shot", "few_shot"])
def test_a_wrong_regime_is_refused(regime: str) -> None:
    with pytest.raises(ConfigError, match="A regime is 'full' or"):
        cells(["d"], [regime], ["none"])


def test_a_name_twice_is_refused() -> None:
    with pytest.raises(ConfigError, match="each row once"):
        cells(["d"], ["full"], ["none", "none"])


def test_table_on_paper() -> None:
    rows = by_method(
        table(
            outcomes(
                none=[0.70, 0.72, 0.74],
                cap=[0.75, 0.78, 0.81],
                shuffled=[0.71, 0.72, 0.73],
                uniform=[0.60, 0.61, 0.62],
                oracle=[0.9, 0.9, 0.9],
            )
        )
    )
    assert list(rows) == ["oracle", "cap", "none", "shuffled", "uniform"]
    cap = rows["cap"]
    assert cap.value.mean == pytest.approx(0.78)
    assert cap.from_baseline is not None
    assert cap.from_baseline.mean == pytest.approx(0.06)
    assert cap.best_control == "shuffled"
    assert cap.from_control is not None
    assert cap.from_control.mean == pytest.approx(0.06)
    assert cap.p == paired_bootstrap(np.subtract([0.75, 0.78, 0.81], [0.71, 0.72, 0.73]))
    assert rows["none"].from_baseline is None
    assert rows["shuffled"].best_control == "uniform"
    assert [rows[name].p for name in ("none", "shuffled", "uniform", "oracle")] == [None] * 4


def test_correction_counts_the_methods_and_not_the_controls() -> None:
    rows = by_method(
        table(
            outcomes(
                none=[0.1, 0.2, 0.1, 0.2, 0.1],
                cap=[0.3, 0.5, 0.4, 0.5, 0.4],
                lime=[0.1, 0.2, 0.3, 0.1, 0.2],
                shuffled=[0.1, 0.1, 0.2, 0.2, 0.1],
                uniform=[0.0, 0.1, 0.0, 0.1, 0.0],
            )
        )
    )
    cap, lime = rows["cap"], rows["lime"]
    assert cap.p is not None
    assert lime.p is not None
    assert cap.p < 0.1 < lime.p < 1
    assert cap.p_holm == pytest.approx(2 * cap.p)
    assert lime.p_holm == pytest.approx(lime.p)


def test_only_shared_runs_are_compared() -> None:
    unfinished = [*outcomes(none=[0.5, 0.7], cap=[0.6])]
    cap = by_method(table(unfinished))["cap"]
    assert cap.from_baseline is not None
    assert cap.from_baseline.mean == pytest.approx(0.1)
    assert cap.from_baseline.count == 1
    assert (cap.best_control, cap.from_control, cap.p) == (None, None, None)


def test_an_empty_table() -> None:
    assert table([]) == []


def test_test_sets_and_regimes_are_kept_apart() -> None:
    mixed = [
        Outcome(Cell("d", "full", 0, "none", 0), "clean", 0.9),
        Outcome(Cell("d", "full", 0, "none", 0), "keyword_addition", 0.4),
        Outcome(Cell("d", "5_shot", 0, "none", 0), "clean", 0.6),
    ]
    assert [(row.regime, row.test_set, row.value.mean) for row in table(mixed)] == [
        ("5_shot", "clean", 0.6),
        ("full", "clean", 0.9),
        ("full", "keyword_addition", 0.4),
    ]


def run(method: str, draw: int, seed: int, value: float, dataset: str = "d") -> Outcome:
    return Outcome(Cell(dataset, "5_shot", draw, method, seed), "clean", value)


def test_the_seeds_of_a_draw_are_no_evidence_of_their_own() -> None:
    found = [run("none", draw, seed, 0.5) for draw in range(2) for seed in range(3)]
    found += [run("cap", 0, seed, value) for seed, value in enumerate((0.55, 0.60, 0.65))]
    found += [run("cap", 1, seed, value) for seed, value in enumerate((0.52, 0.50, 0.54))]
    cap = by_method(table(found))["cap"]
    # two draws, by the means of their seeds
    assert cap.value == mean_interval([0.60, 0.52])
    assert cap.from_baseline == paired_difference([0.60, 0.52], [0.5, 0.5])
    # three seeds of the only draw
    alone = by_method(table([one for one in found if one.cell.draw == 0]))["cap"]
    assert alone.value == mean_interval([0.55, 0.60, 0.65])


def test_only_seeds_that_both_have_are_compared() -> None:
    found = [run("none", 0, 0, 0.5), run("none", 0, 1, 0.9), run("none", 1, 0, 0.6)]
    found += [run("cap", 0, 0, 0.6), run("cap", 1, 0, 0.6)]
    cap = by_method(table(found))["cap"]
    assert cap.from_baseline == paired_difference([0.6, 0.6], [0.5, 0.6])


def test_controls_are_ranked_on_the_runs_that_all_of_them_have() -> None:
    # `shuffled` is the worse one, but has only the easy draw yet
    found = [run("shuffled", 0, 0, 0.79)]
    found += [run("word_length", draw, 0, value) for draw, value in enumerate((0.82, 0.62, 0.62))]
    found += [run("cap", draw, 0, value) for draw, value in enumerate((0.81, 0.61, 0.61))]
    cap = by_method(table(found))["cap"]
    assert cap.best_control == "word_length"
    assert cap.from_control is not None
    assert cap.from_control.mean == pytest.approx(-0.01)
    # nothing in common: each by its own runs
    apart = [one for one in found if (one.cell.method, one.cell.draw) != ("word_length", 0)]
    assert by_method(table(apart))["cap"].best_control == "shuffled"


def test_over_data_sets_the_unit_is_a_draw_of_a_data_set() -> None:
    found = over_datasets(
        [
            run("none", 0, 0, 0.5, "a"),
            run("none", 0, 1, 0.7, "a"),
            run("cap", 0, 0, 0.6, "a"),
            run("cap", 0, 1, 0.9, "a"),
            run("none", 0, 0, 0.2, "b"),
            run("none", 0, 1, 0.9, "b"),  # `cap` has no such seed yet
            run("cap", 0, 0, 0.4, "b"),
            run("none", 1, 0, 0.1, "b"),  # no seed is common
            run("cap", 1, 1, 0.8, "b"),
        ]
    )
    cap = by_method(table(found))["cap"]
    assert (cap.dataset, cap.value.count) == ("a + b", 3)
    assert cap.from_baseline == paired_difference([0.75, 0.4], [0.6, 0.2])


def test_over_data_sets_only_methods_that_each_has_are_compared() -> None:
    both = [
        run(name, 0, 0, 0.5, dataset) for dataset in "ab" for name in ("none", "cap", "word_length")
    ]
    # on `b` alone, where all is higher, it would lead
    one = run("channel", 0, 0, 0.9, "b")
    found = table(over_datasets([*both, one]))
    assert {row.method for row in found} == {"none", "cap", "word_length"}
    assert len(over_datasets([*both, one, run("channel", 0, 0, 0.4, "a")])) == 8


def test_one_data_set_is_not_told_twice() -> None:
    one = outcomes(none=[0.5, 0.6], cap=[0.7, 0.8])
    other = [Outcome(Cell("e", "full", 0, "none", 0), "clean", 0.9)]
    assert over_datasets(one) == []
    assert over_datasets([*one, *other]) == []
