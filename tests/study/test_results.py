"""Tables of a study: numbers known on paper, and the committed runs."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from benchmarks.study.results import (
    against_rivals,
    compare_methods,
    markdown,
    over_datasets,
    p_text,
    read_frame,
    summary,
    write_tables,
)
from benchmarks.study.settings import ELICITED, told
from hf_cap.evaluation import holm, paired_bootstrap
from hf_cap.priors.base import SOURCES, source_class
from hf_cap.priors.language_model import LanguageModelSource
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


def test_runs_under_other_settings_are_left_out(study: Path, caplog: pytest.LogCaptureFixture) -> None:
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


@pytest.mark.parametrize(("study", "runs"), [("few_shot", 144), ("one_shot", 96), ("one_shot_longer", 10)])
def test_the_committed_tables_follow_from_the_committed_runs(study: str, runs: int) -> None:
    frame = read_frame(COMMITTED / study)
    place = ["dataset", "regime", "draw", "method", "seed"]
    assert len(frame.drop_duplicates(place)) == runs
    assert markdown(frame) == (COMMITTED / study / "table.md").read_text("utf-8")
    known = json.loads((COMMITTED / study / "summary.json").read_text("utf-8"))
    assert json.loads(json.dumps(summary(frame))) == known


RIVAL_ACCURACY = {
    # what each is told, and one number per draw
    "none": ("labels + names", (0.50, 0.60, 0.70)),
    "cap": ("labels + names + language model", (0.60, 0.70, 0.74)),
    "uniform": ("labels + names", (0.40, 0.40, 0.40)),
    "logistic": ("labels", (0.48, 0.61, 0.62)),
    "logistic_names": ("labels + names", (0.47, 0.57, 0.61)),
    "language_model": ("names + language model", (0.62, 0.62, 0.62)),
    "prototypes": ("labels + names + unlabelled texts", (0.90, 0.90, 0.90)),
    "oracle": ("labels + names", (0.95, 0.95, 0.95)),
}


def rival_frame() -> pd.DataFrame:
    place = {"dataset": "bank", "regime": "1_shot", "seed": 0, "run": "bank, 1_shot"}
    rows = []
    for method, (words, values) in RIVAL_ACCURACY.items():
        for draw, value in enumerate(values):
            row = {**place, "method": method, "told": words, "draw": draw, "test_set": "clean"}
            rows += [{**row, "measure": "accuracy", "value": value}]
            rows += [{**row, "measure": "seconds_train", "value": 10.0 * draw}]
    return pd.DataFrame(rows)


def test_ours_are_compared_with_the_best_rival_that_is_told_no_more() -> None:
    found = against_rivals(rival_frame())["bank, 1_shot"]
    json.dumps(found, allow_nan=False)
    assert found["methods"]["cap"]["told"] == ["labels", "names", "language model"]
    assert found["methods"]["cap"]["seconds"] == {"train": 10.0}
    assert found["methods"]["prototypes"]["test_sets"]["clean"]["mean"] == pytest.approx(0.9)
    ours = found["ours_minus_best_rival"]
    assert set(ours) == {"none", "cap", "uniform"}
    none, cap = ours["none"]["clean"], ours["cap"]["clean"]
    # prototypes are better, and told more; without the language model logistic is the best
    assert (none["rival"], cap["rival"]) == ("logistic", "language_model")
    differences = np.array([0.02, -0.01, 0.08])
    assert none["difference"] == pytest.approx(differences.mean())
    half = 4.302653 * differences.std(ddof=1) / 3**0.5  # Student's t of 2 degrees, 95 %
    assert none["low"] == pytest.approx(differences.mean() - half, abs=1e-5)
    assert none["p"] == pytest.approx(paired_bootstrap(differences), abs=1e-6)
    assert none["n"] == 3
    assert cap["difference"] == pytest.approx((-0.02 + 0.08 + 0.12) / 3)


def test_rivals_are_ranked_on_the_draws_that_ours_has() -> None:
    frame = rival_frame()
    # the best rival on its own draws, of which ours has none
    frame.loc[frame["method"] == "logistic_names", "value"] += 0.2
    frame = frame[(frame["method"] != "none") | (frame["draw"] == 1)]
    frame = frame[(frame["method"] != "logistic_names") | (frame["draw"] != 1)]
    none = against_rivals(frame)["bank, 1_shot"]["ours_minus_best_rival"]["none"]["clean"]
    assert (none["rival"], none["n"]) == ("logistic", 1)
    assert none["difference"] == pytest.approx(-0.01)
    assert none["low"] is None
    alone = frame[frame["method"].isin(["none", "prototypes"])]
    assert against_rivals(alone)["bank, 1_shot"]["ours_minus_best_rival"] == {"none": {}}


@pytest.mark.parametrize(
    ("method", "training", "prior", "words"),
    [
        ("none", {"head": "sentence"}, {}, ("labels", "names")),
        ("none_unlabelled", {}, {}, ("labels", "names", "unlabelled texts")),
        ("none", {"head": "sentence", "label_names_in": "none"}, {}, ("labels",)),
        ("none_sequence", {"head": "sequence"}, {}, ("labels",)),
        ("none", {"head": "sequence", "label_names_in": "text"}, {}, ("labels", "names")),
        ("shuffled", {"head": "sequence"}, {"cap": {}}, ("labels", "names", "language model")),
        ("keywords", {"head": "sequence"}, {"keywords": {}}, ("labels",)),
        ("nearest_name", {"head": "sentence"}, {}, ("names",)),
    ],
)
def test_what_a_run_is_told_follows_from_its_settings(
    method: str, training: dict[str, Any], prior: dict[str, Any], words: tuple[str, ...]
) -> None:
    assert told({"cell": {"method": method}, "training": training, "prior": prior}) == words


def test_the_sources_that_ask_a_language_model_are_known() -> None:
    asking = [name for name in SOURCES if issubclass(source_class(name), LanguageModelSource)]
    assert sorted(asking) == sorted(ELICITED)


def test_committed_results_hold_no_text() -> None:
    for file in COMMITTED.rglob("*.parquet"):
        columns = set(pd.read_parquet(file).columns)
        assert "text" not in columns, file
