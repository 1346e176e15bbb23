"""Tables of a study: numbers known on paper, and the committed runs."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from benchmarks.study.results import (
    compare_methods,
    markdown,
    over_datasets,
    p_text,
    read_frame,
    summary,
    write_tables,
)
from hf_cap.evaluation import holm, paired_bootstrap
from hf_cap.utils import write_json

COMMITTED = Path(__file__).parents[2] / "benchmarks" / "results"
ACCURACY = {
    # one number per seed
    "none": (0.50, 0.52, 0.54),
    "shuffled": (0.56, 0.57, 0.61),
    "uniform": (0.51, 0.53, 0.55),
    "cap": (0.60, 0.63, 0.63),
    "channel": (0.55, 0.55, 0.55),
    "oracle": (0.90, 0.90, 0.90),
}


def write_run(
    folder: Path, method: str, seed: int, accuracy: float, *, dataset: str = "bank", **settings: Any
) -> None:
    run = {"dataset": dataset, "regime": "5_shot", "draw": 0, "method": method, "seed": seed}
    tests = {
        name: {"texts": 10, "accuracy": accuracy - drop, "macro_f1": accuracy / 2}
        for name, drop in (("clean", 0.0), ("keyword_addition", 0.1))
    }
    training = {"alignment_weight": 0.0 if method == "none" else 0.1}
    result = {
        "settings": {"cell": run, "training": training, **settings},
        "test_sets": tests,
        "explanations": {"comprehensiveness": accuracy / 4, "soft_nc": None},
    }
    write_json(folder / f"cells/{dataset}/5_shot/draw_0/{method}/seed_{seed}/cell.json", result)


@pytest.fixture
def study(tmp_path: Path) -> Path:
    for method, values in ACCURACY.items():
        for seed, value in enumerate(values):
            write_run(tmp_path, method, seed, value)
    return tmp_path


def clean(folder: Path) -> pd.DataFrame:
    frame = read_frame(folder)
    return frame[(frame["measure"] == "accuracy") & (frame["test_set"] == "clean")]


def test_a_method_is_compared_with_none_and_with_the_best_control(study: Path) -> None:
    table = compare_methods(clean(study)).droplevel(["run", "test_set"])
    assert list(table.index) == ["oracle", "cap", "shuffled", "channel", "uniform", "none"]
    cap = table.loc["cap"]
    assert cap["mean"] == pytest.approx(0.62)
    assert cap["n"] == 3
    assert cap["none_difference"] == pytest.approx(0.10)
    assert cap["best_control"] == "shuffled"
    assert cap["control_difference"] == pytest.approx((0.04 + 0.06 + 0.02) / 3)
    assert table.loc["shuffled", "best_control"] == "uniform"  # no rival of itself
    # neither none, nor a control, nor the ceiling is one of the family that p is corrected for
    shuffled = np.array(ACCURACY["shuffled"])
    p = [paired_bootstrap(np.array(ACCURACY[name]) - shuffled) for name in ("cap", "channel")]
    assert cap["p"] == pytest.approx(p[0])
    assert cap["p_holm"] == pytest.approx(holm(p)[0])
    assert table.loc[["none", "oracle", "uniform"], "p"].isna().all()


def test_the_summary_names_the_method_furthest_above_none(study: Path) -> None:
    found = summary(read_frame(study))["bank, 5_shot"]
    assert found["clean"]["best_method"] == "cap"
    assert found["clean"]["mean"] == pytest.approx(0.62)
    assert found["keyword_addition"]["none_difference"] == pytest.approx(0.10)
    json.dumps(found, allow_nan=False)


def test_controls_are_ranked_on_the_runs_that_all_have(study: Path) -> None:
    # above the mean of `shuffled`, below its run with this seed
    write_run(study, "random", 2, 0.60)
    table = compare_methods(clean(study))
    assert table["best_control"].xs("cap", level="method").item() == "shuffled"


def test_several_data_sets_are_compared_together(study: Path) -> None:
    for method in ("none", "shuffled", "cap"):
        for seed, value in enumerate(ACCURACY[method]):
            write_run(study, method, seed, value, dataset="clinic")
    together = compare_methods(over_datasets(clean(study)))
    assert set(together.index.get_level_values("run")) == {"bank + clinic, 5_shot"}
    assert set(together.index.get_level_values("method")) == {"none", "shuffled", "cap"}
    assert (together["n"] == 2).all()  # a sample of each


def test_runs_under_other_settings_are_left_out(
    study: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_run(study, "cap", 3, 0.9, training={"alignment_weight": 5.0})
    write_run(study, "cap", 4, 0.9, training={"alignment_weight": 0.1, "bf16": True})
    write_run(study, "extra", 0, 0.9, training={"bf16": True})  # not the number format of its seed
    frame = clean(study)
    assert set(frame.loc[frame["method"] == "cap", "seed"]) == {0, 1, 2, 4}
    assert "extra" not in set(frame["method"])
    assert "bank, 5_shot, cap: 1 finished runs were made with other settings" in caplog.text


def test_tables_are_text_and_never_show_p_as_zero(study: Path, tmp_path: Path) -> None:
    text = markdown(read_frame(study))
    assert "| cap | 3 | 62.0 ± 4.3 | +10.0 ± 2.5 | +4.0 ± 5.0 | shuffled |" in text
    assert "## Accuracy: bank, 5_shot, keyword_addition" in text
    assert "| comprehensiveness ↑ |" in text
    assert p_text(1e-9) == "< 0.001"
    assert write_tables(tmp_path / "empty") == [tmp_path / "empty" / "table.md"]


@pytest.mark.parametrize(
    ("study", "runs"), [("few_shot", 144), ("one_shot", 96), ("one_shot_longer", 10)]
)
def test_the_committed_tables_follow_from_the_committed_runs(study: str, runs: int) -> None:
    frame = read_frame(COMMITTED / study)
    place = ["dataset", "regime", "draw", "method", "seed"]
    assert len(frame.drop_duplicates(place)) == runs
    assert markdown(frame) == (COMMITTED / study / "table.md").read_text("utf-8")
    known = json.loads((COMMITTED / study / "summary.json").read_text("utf-8"))
    assert json.loads(json.dumps(summary(frame))) == known


def test_committed_results_hold_no_text() -> None:
    for file in COMMITTED.rglob("*.parquet"):
        columns = set(pd.read_parquet(file).columns)
        assert "text" not in columns, file
