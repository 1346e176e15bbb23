"""What the report shows, with answers known on paper."""

from collections.abc import Mapping
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hf_cap.cues import Mark, find_marked, save_marks
from hf_cap.errors import ConfigError, DataError
from hf_cap.report import contents
from hf_cap.report.load import PriorFolder, ReportSettings, Run, group_runs, load_shortcuts
from hf_cap.report.shortcuts import change_of, follow, mark_text, most_changed, shortcut_section
from hf_cap.utils import write_json
from tests.report.runs import EVIL, TABLE_RUNS, table_run


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
    own = {"alignment_weight": weight, "seed": seed, "output_dir": f"runs/{name}"}
    facts = {
        "model": "tiny",
        "seed": seed,
        "settings": {**own, **settings},
        "data": {"dataset": "d", "train_split": "train", "rows": rows, "labels": ["a", "b"]},
        "history": history,
    }
    return Run(name, facts, evaluations)


# --- Groups


def test_runs_that_differ_in_seed_and_place_alone_are_one_group() -> None:
    (group,) = group_runs([make_run("one", seed=0), make_run("two", seed=1)])
    assert [run.name for run in group["runs"]] == ["one", "two"]
    assert group["seeds"] == [0, 1]
    assert (group["name"], group["role"], group["baseline"]) == ("aligned", "aligned", None)


def test_baseline_comes_first_then_controls() -> None:
    by_column = make_run("control", prior_column="prior_shuffled")
    by_fit = make_run("control")  # its scores were put into the column of the prior
    by_fit.facts["data"]["provenance"] = [{"prior": {}, "control": {"control": "shuffled"}}]
    cases: Any = (([make_run("p", weight=0.0)], []), ([], [make_run("p")]))
    for control, (runs, baselines) in product((by_column, by_fit), cases):
        groups = group_runs([make_run("aligned"), control, *runs], baselines)
        assert [group["role"] for group in groups] == ["baseline", "control", "aligned"]
        names = [group["name"] for group in groups]
        assert names == ["no alignment", "control: shuffled", "aligned"]
        assert [group["baseline"] for group in groups] == [None, 0, 0]


def test_a_group_is_compared_with_the_baseline_on_its_own_data() -> None:
    runs = [make_run(str(n), weight=0.0, rows=n, learning_rate=n) for n in (5, 8)]
    groups = group_runs([*runs, make_run("aligned", rows=8)])
    assert [group["baseline"] for group in groups] == [None, None, 1]


@pytest.mark.parametrize("setting", ["dataset", "base_url"])
def test_names_hold_what_tells_groups_apart_but_nothing_private(setting: str) -> None:
    places: list[dict[str, Any]] = [{setting: f"/home/me/{name}/cap"} for name in ("acme", "other")]
    hidden: dict[str, Any] = {"hub_token": "hf_secret", "template": "/home/me/prompt.yaml"}
    runs = [make_run(name, **place, **hidden) for name, place in zip("ab", places, strict=True)]
    first, second, third = group_runs([*runs, make_run("c", epochs=3)])
    assert third["name"] == "aligned (epochs=3)"
    assert first["name"].endswith(", group 1")
    assert second["name"] == first["name"].replace("group 1", "group 2")
    assert first["settings"]["template"] == "prompt.yaml"
    assert "hub_token" not in first["settings"]
    assert "/home" not in f"{first['name']} {second['name']} {first['settings']}"


# --- Results and curves


def test_differences_are_paired_by_seed() -> None:
    runs = [make_run(f"p{s}", seed=s, weight=0.0, accuracy=0.2 * s) for s in range(3)]
    runs += [make_run(f"a{s}", seed=s, accuracy=0.2 * s + 0.1) for s in range(3)]
    (test,) = contents.evaluation_sets(group_runs([*runs, make_run("a9", seed=9, accuracy=1.0)]))
    assert (test["name"], test["size"]) == ("test", 100)
    (row,) = test["rows"]
    assert row["differences"][0] is None
    difference, value = row["differences"][1], row["values"][1]
    assert (difference["n"], value["n"]) == (3, 4)
    assert [difference[end] for end in ("mean", "low", "high")] == pytest.approx([0.1] * 3)


def test_two_runs_of_one_seed_both_count_and_one_has_no_interval() -> None:
    runs = [make_run("a", accuracy=0.5), make_run("b", accuracy=0.7)]
    plain = make_run("plain", weight=0.0, accuracy=0.4)
    row = contents.evaluation_sets(group_runs([plain, *runs]))[0]["rows"][0]
    assert (row["values"][1]["n"], row["values"][1]["mean"]) == (2, pytest.approx(0.6))
    assert (row["differences"][1]["n"], row["differences"][1]["mean"]) == (1, pytest.approx(0.1))
    assert row["values"][0] == {"mean": 0.4, "low": None, "high": None, "n": 1}


def test_curves_are_the_mean_and_range_over_the_runs() -> None:
    histories = [[{"step": 1, "loss_task": value}, {"step": 2, "loss": 9.0}] for value in (1.0, 3.0)]
    runs = [make_run(f"r{i}", seed=i, history=found) for i, found in enumerate(histories)]
    # the whole loss of a plain run is its task loss
    plain = make_run("p", weight=0.0, history=[{"step": 1, "loss": 2.5}])
    (panel,) = contents.training_curves(group_runs([plain, *runs]))
    assert panel["title"] == "Task loss"
    one, both = panel["curves"]
    assert one == {"group": 0, "step": [1.0], "mean": [2.5], "min": [2.5], "max": [2.5]}
    assert both == {"group": 1, "step": [1.0], "mean": [2.0], "min": [1.0], "max": [3.0]}


# --- Errors


def records(**columns: list[Any]) -> list[dict[str, Any]]:
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def test_calibration_error_by_hand() -> None:
    # two texts at 0.95, one of them right: |0.95 - 0.5| * 2/3; one at 0.6, right: |0.6 - 1| * 1/3
    sure = [[0.95, 0.05], [0.05, 0.95], [0.4, 0.6]]
    found = contents.calibration(records(label=list("aab"), prediction=list("abb"), probabilities=sure))
    assert found["error"] == pytest.approx(0.45 * 2 / 3 + 0.4 / 3)
    bins = [tuple(one.values()) for one in found["bins"]]
    assert bins == [(pytest.approx(0.6), 1.0, 1), (pytest.approx(0.95), 0.5, 2)]
    # bins hold equally many texts, as the numbers of `evaluate` do
    chances = [[1 - n / 100, n / 100] for n in range(30)]
    found = contents.calibration(records(label=["a"] * 30, prediction=["a"] * 30, probabilities=chances))
    assert [one["texts"] for one in found["bins"]] == [2] * 15
    assert found["error"] == pytest.approx(0.145)


def test_confusions_are_counted_and_sorted() -> None:
    rows = records(label=list("aaabbb"), prediction=list("abbbba"))
    found = contents.confusion(rows, {"a": ["card", "my"], "b": ["my", "loan"]})
    assert found["labels"] == ["a", "b"]
    assert found["counts"] == {("a", "a"): 1, ("a", "b"): 2, ("b", "b"): 2, ("b", "a"): 1}
    pairs = [tuple(pair.values()) for pair in found["pairs"]]
    assert pairs == [("a", "b", 2, 3, ["my"]), ("b", "a", 1, 3, ["my"])]


ANNA = Mark(kind="word", value="anna", label="a")


def evaluated(*rows: tuple[str, str, str, list[float]]) -> list[dict[str, Any]]:
    """Rows of text, gold label, prediction and attributions."""
    columns = ("text", "label", "prediction", "attributions", "words", "probabilities")
    return [dict(zip(columns, (*row, row[0].split(), [1.0]), strict=True)) for row in rows]


def test_labels_tell_what_is_right_and_the_words_that_speak_for_them() -> None:
    before = evaluated(("Anna renew .", "a", "a", [2.0, 1.0, 2.0]), ("anna lost", "b", "a", [8.0, -4.0]))
    after = evaluated(("Anna renew .", "a", "a", [0.0, 1.0, 0.5]), ("anna lost", "b", "b", [0.1, 1]))
    b, a = contents.label_table({"before": before, "after": after}, [ANNA])
    assert (b["label"], b["right"], b["texts"]) == ("b", {"before": 0, "after": 1}, {"before": 1, "after": 1})
    # each text counts the same, whatever the size of its scores; punctuation and negative sums are left out
    assert a["words"] == {"before": [("anna", True), ("renew", False)], "after": [("renew", False)]}
    assert b["words"] == {"before": [], "after": [("lost", False), ("anna", False)]}


def test_flips_are_paired_by_seed_and_text() -> None:
    wrong, right = (evaluated(("x y", "a", said, [1.0, 1.0])) for said in "ba")
    plain = [Run("p", {}, {}, {"test": rows}) for rows in (wrong, right)]
    aligned = [Run("a", {}, {}, {"test": rows}) for rows in (right, right, right)]
    one, other = {"seeds": [0, 1], "runs": plain}, {"seeds": [0, 1, 2], "runs": aligned}
    assert contents.count_flips(one, other, "test") == {"right": 1, "wrong": 0, "of": 2, "seeds": 2}
    assert contents.count_flips(other, one, "test") == {"right": 0, "wrong": 1, "of": 2, "seeds": 2}
    assert contents.count_flips(one, other, "else") is None


def test_every_measure_is_told_as_it_came_out() -> None:
    found = {"accuracy": 0.5, "sufficiency": 0.2, "comprehensiveness": 0.3, "temperature": 1.0}
    now = {
        "accuracy": 0.6, "sufficiency": 0.3, "comprehensiveness": 0.3, "temperature": 2.0, "nll": 1,
    }  # fmt: skip
    weights = (("plain", 0.0, found), ("aligned", 0.1, now))
    runs = [Run(n, {"settings": {"alignment_weight": w}}, {"test": e}) for n, w, e in weights]
    groups = group_runs(runs)
    (one,) = contents.find_changes(groups, contents.evaluation_sets(groups))
    assert (one["group"], one["accuracy"]["measure"], one["flips"]) == (1, "accuracy", None)
    told = {key: [row["measure"] for row in one[key]] for key in ("better", "worse", "unclear")}
    # what did not move at all is not told
    assert told == {"better": [], "worse": ["sufficiency"], "unclear": []}


def test_the_largest_change_of_accuracy_comes_first_and_controls_last() -> None:
    changes = {"plain": (0.0, 0.0), "shuffled": (-0.5, 0.0), "aligned": (0.1, 0.3)}
    runs = []
    for name, (test, shifted) in changes.items():
        facts: dict[str, Any] = {"settings": {"alignment_weight": 0.0 if name == "plain" else 0.1}}
        if name == "shuffled":
            facts["scores"] = {"control": name}
        numbers = {"test": {"accuracy": 0.5 + test}, "shifted": {"accuracy": 0.5 + shifted}}
        runs.append(Run(name, facts, numbers))
    groups = group_runs(runs)
    found = contents.find_changes(groups, contents.evaluation_sets(groups, "test"))
    told = [(one["set"]["name"], groups[one["group"]]["role"]) for one in found]
    assert told == [("shifted", "aligned"), ("test", "aligned"), ("test", "control")]


def test_no_interval_leaves_the_range_of_its_measure() -> None:
    spread = {"accuracy": (0.0, 0.9), "alignment": (-0.8, 0.9), "nll": (0.0, 3.0)}
    runs = [
        Run("r", {"seed": seed, "settings": {"alignment_weight": weight}}, {"test": numbers})
        for weight in (0.0, 0.1)
        for seed in (0, 1)
        for numbers in [{name: ends[(seed + (weight > 0)) % 2] for name, ends in spread.items()}]
    ]
    rows = {row["measure"]: row for row in contents.evaluation_sets(group_runs(runs))[0]["rows"]}
    for measure, least, wide in (("accuracy", 0, 1), ("alignment", -1, 2)):
        for value in rows[measure]["values"]:
            assert least <= value["low"] < value["high"] <= 1
        assert -wide <= rows[measure]["differences"][1]["low"] < 0
    assert rows["nll"]["values"][0]["low"] < 0  # it has no upper end


# --- Shortcuts


def test_following_a_cue_is_attribution_on_it_and_its_label_where_that_is_wrong() -> None:
    rows = evaluated(
        ("Anna, renew", "a", "a", [3.0, -1.0]),
        ("anna lost", "b", "a", [0.0, 2.0]),
        ("anna found", "c", "c", [1.0, 1.0]),
        ("no cue", "b", "a", [9.0, 9.0]),
    )
    # 3 / 4, 0 / 2 and 1 / 2; of the two texts of other labels one is predicted as the label of the cue
    found = {"texts": 3, "mass": pytest.approx(1.25 / 3), "misled": 1, "of": 2}
    assert follow(rows, [ANNA]) == found
    assert follow(rows, [replace(ANNA, decision="fine")])["texts"] == 0
    assert follow(rows[3:], [ANNA]) == {"texts": 0, "mass": None, "misled": 0, "of": 0}


def test_cues_are_marked_in_texts() -> None:
    bang = Mark(kind="ending", value="!", label="b")
    assert find_marked(["Anna,", "come!"], [ANNA, bang]) == {"a": [0], "b": [1]}
    assert mark_text("Oh  no!", bang.cue) == [("Oh  ", False), ("no!", True), ("", False)]


def test_a_text_that_a_shortcut_misled_and_that_is_right_now_changed_most() -> None:
    def made(*said: str) -> list[dict[str, Any]]:
        texts = ("anna lost", "bob lost", "anna renew", "bob renew")
        scores = ([1.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 2.0])
        return evaluated(*zip(texts, "bbba", said, scores, strict=True))

    before, after = made(*"aaba"), made(*"bbaa")
    after[3] = {**after[3], "attributions": [2, 0]}  # at right angles
    changes = [change_of(*pair, [ANNA]) for pair in zip(before, after, strict=True)]
    assert changes == pytest.approx([6, 3, 3, 1])
    assert change_of(before[0], after[0]) == pytest.approx(3)
    one, other = (Run("", {}, {}, {"test": rows[:2], "train": rows[2:]}) for rows in (before, after))
    assert most_changed(one, other, [ANNA], 1) == {"anna lost": "b"}
    assert [*most_changed(one, other, [ANNA], 9)] == ["anna lost", "bob lost"]


def test_texts_that_were_not_explained_count_but_are_not_shown() -> None:
    def made(said: str) -> list[dict[str, Any]]:
        rows = evaluated(("anna lost", "b", said, [1.0, 0.0]), ("anna renew", "b", said, [1.0, 1.0]))
        return [rows[0], {**rows[1], "attributions": None}]

    before, after = made("a"), made("b")
    assert follow(before, [ANNA]) == {"texts": 2, "mass": pytest.approx(1.0), "misled": 2, "of": 2}
    one, other = (Run("", {}, {}, {"test": rows}) for rows in (before, after))
    assert [*most_changed(one, other, [ANNA], 9)] == ["anna lost"]
    (row,) = contents.label_table({"before": before, "after": after}, [ANNA])
    assert (row["right"]["after"], row["words"]["before"]) == (2, []), row
    assert row["words"]["after"] == [("anna", False)]
    found = collect([run_on("p", 0.0, before), run_on("a", 0.1, after)])
    assert ([example["text"] for example in found["examples"]], found["total"]) == (["anna lost"], 2)
    bare = [{**row, "attributions": None} for row in before]
    found = collect([run_on("p", 0.0, bare), run_on("a", 0.1, bare)])
    assert [example["change"] for example in found["examples"]] == [None, None]


def test_shortcuts_are_told_on_the_set_where_they_point_elsewhere() -> None:
    clean = evaluated(("anna renew", "a", "a", [1, 0]), ("lost", "b", "a", [1]))
    shifted = evaluated(("renew", "a", "a", [1]), ("anna lost", "b", "a", [3, 1]))
    models = {"before": {"test": clean, "shifted": shifted}}
    found = shortcut_section([{"mark": ANNA, "examples": ["Anna"]}], models, {"before": "plain"})
    assert found is not None
    assert found["set"] == "shifted"
    assert found["total"] == {"before": {"texts": 1, "mass": 0.75, "misled": 1, "of": 1}}
    assert found["rows"][0]["models"] == found["total"]
    assert shortcut_section(None, models, {}) is None


def test_decisions_are_those_that_a_person_wrote(tmp_path: Path) -> None:
    found = {"kind": "word", "value": "anna", "cue": "anna", "label": "a", "texts": 3, "of": 4}
    found |= {"elsewhere": 0, "log_odds": 2.0, "q": 0.001, "relevance": 0.5}
    rows = [found, {**found, "value": "hello"}]
    write_json(tmp_path / "shortcuts.json", {"shortcuts": rows})
    assert [one["mark"].decision for one in load_shortcuts(tmp_path)] == ["shortcut"] * 2
    save_marks([Mark(kind="word", value="anna", label="a", decision="fine")], tmp_path / "shortcuts.yaml")
    (one,) = load_shortcuts(tmp_path / "shortcuts.json")
    assert (one["value"], one["mark"].decision) == ("anna", "fine")
    write_json(tmp_path / "shortcuts.json", {"shortcuts": [{**found, "q": "small"}]})
    with pytest.raises(DataError, match=r"shortcuts.json' is damaged: shortcuts\[0\].q is str"):
        load_shortcuts(tmp_path)


# --- Texts


def texts_of(prediction: str, score: float, *texts: str) -> list[dict[str, Any]]:
    said = {"prediction": prediction, "probabilities": [0.25, 0.75], "attributions": [score, -1.0]}
    return [
        {"text": text, "label": "card", "words": text.split(), "prior": None, **said}
        for text in texts or ("my card", "a loan")
    ]


def run_on(name: str, weight: float, found: list[dict[str, Any]], seed: int = 0) -> Run:
    return Run(name, make_run(name, weight=weight, seed=seed).facts, {}, {"test": found})


def collect(runs: list[Run], priors: PriorFolder | None = None, most: int = 100) -> Mapping[str, Any]:
    return contents.collect_examples(group_runs(runs), priors, first="test", most=most)


def scores(found: Mapping[str, Any]) -> list[list[Any]]:
    keys = [row["key"] for row in found["rows"]]
    return [[example["scores"].get(key) for key in keys] for example in found["examples"]]


def test_the_models_have_one_seed() -> None:
    runs = [run_on("p0", 0.0, []), run_on("p1", 0.0, [], seed=1), run_on("a1", 0.1, [], seed=1)]
    models = contents.choose_models(group_runs(runs))
    assert models == {"before": ("no alignment", runs[1]), "after": ("aligned", runs[2])}
    assert contents.choose_models(group_runs(runs[:2])) == {"before": ("no alignment", runs[0])}
    assert contents.choose_models(group_runs(runs[2:])) == {"after": ("aligned", runs[2])}


def test_before_and_after_are_joined_by_text() -> None:
    before = texts_of("loan", 1.0, "a loan", "my card")
    after = texts_of("card", 2.0, "my card", "new text")
    found = collect([run_on("p", 0.0, before), run_on("a", 0.1, after)])
    assert [row["name"] for row in found["rows"]] == ["no alignment", "aligned"]
    assert scores(found) == [[[1.0, -1.0], [2.0, -1.0]], [None, [2.0, -1.0]]]
    said = [(one["text"], one["before"], one["after"]) for one in found["examples"]]
    assert said[0] == ("my card", ("loan", 0.75), ("card", 0.75))
    assert said[1] == ("new text", None, ("card", 0.75))


def test_priors_are_joined_and_their_other_splits_added() -> None:
    row = {"text": "my card", "label": "card", "words": ["my", "card"], "prior_cap": [0.0, 1.0]}
    other = {**row, "text": "lost card", "words": ["lost", "card"], "prior": [0.4, 0.9]}
    priors = PriorFolder({"test": [row], "train": [other]})
    found = collect([run_on("a", 0.1, texts_of("card", 2.0))], priors)
    assert found["sets"] == ["test", "train (priors only)"]
    assert [row["name"] for row in found["rows"]] == ["cap", contents.FUSED, "aligned"]
    assert scores(found) == [
        [[0.0, 1.0], None, [2.0, -1.0]],
        [None, None, [2.0, -1.0]],
        [[0.0, 1.0], [0.4, 0.9], None],
    ]


def test_texts_are_thinned_out_evenly_and_scores_that_cannot_be_drawn_left_out() -> None:
    rows = texts_of("card", 1.0, *(f"text {number}" for number in range(9)))
    for row, bad in zip(rows[::3], ([1.0], [1.0, float("nan")], [1.0, None]), strict=True):
        row["attributions"] = bad
    found = collect([run_on("a", 0.1, rows)], most=3)
    assert [row["text"] for row in found["examples"]] == ["text 0", "text 3", "text 6"]
    assert [row["scores"] for row in found["examples"]] == [{}, {}, {}]
    assert found["total"] == 9
    assert collect([make_run("a")])["examples"] == []


# --- Tables


def test_scores_and_what_was_learned_are_compared_as_directions() -> None:
    no, yes = contents.feature_tables(group_runs(TABLE_RUNS))
    assert (no["output"], yes["output"]) == ("no", "yes")
    assert [feature["name"] for feature in yes["features"]] == ["age", EVIL, "job=cook"]
    age, evil, job = yes["features"]
    assert job["elicited_score"] is None
    assert [age["elicited_score"], evil["elicited_score"]] == pytest.approx([0.6, -0.8])
    assert [one["mean"] for one in age["learned_gradient"].values()] == pytest.approx([1, 0, 0.6])
    assert [one["mean"] for one in evil["learned_gradient"].values()] == pytest.approx([0, 1, -0.8])
    cosines = {group: found["mean"] for group, found in yes["agreement"].items()}
    assert cosines == pytest.approx({0: 0.6, 1: -0.8, 2: 1.0})
    assert no["features"][0]["elicited_score"] == pytest.approx(-0.6)
    assert not contents.feature_tables(group_runs(TABLE_RUNS[:1]))[0]["agreement"]


def test_gradients_of_several_seeds_have_an_interval_and_need_a_score_to_count() -> None:
    (_, yes) = contents.feature_tables(group_runs([table_run("aligned", (3.0, -4.0, 100.0))]))
    assert yes["agreement"][0]["mean"] == pytest.approx(1)
    assert yes["features"][0]["name"] == "job=cook"
    runs = [table_run(f"a{seed}", (1.0, seed - 1.0, 0.0), seed=seed) for seed in range(3)]
    (_, yes) = contents.feature_tables(group_runs(runs))
    learned = {feature["name"]: feature["learned_gradient"][0] for feature in yes["features"]}[EVIL]
    assert learned["mean"] == pytest.approx(0)
    assert learned["high"] == pytest.approx(4.303 * np.sqrt(0.5) / np.sqrt(3), rel=1e-3)


def test_a_page_on_tables_and_texts_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"on tables \(plain\) shows no texts"):
        contents.report_contents([TABLE_RUNS[0], Run("text", {"kind": "train"})])
    with pytest.raises(ConfigError, match="no priors; make a page of each"):
        contents.report_contents(TABLE_RUNS, priors=PriorFolder({}))


# --- The audit, and what is missing


def test_keywords_are_those_of_the_fused_prior_else_of_the_first_source() -> None:
    overlap = {"classes": ["a", "b"], "overlap": 0.25, "shared": ["my"]}
    keywords = {"cap": {"a": [["cap", 0.1]]}, "prior": {"a": [["card", 0.4], ["my", 0.1]]}}
    found = contents.prior_audit({"keywords": keywords, "confused_classes": {"prior": [overlap]}})
    assert (found["keywords"], found["overlaps"]) == ({"a": ["card", "my"]}, [overlap])
    assert contents.prior_audit({"keywords": {"cap": keywords["cap"]}})["keywords"] == {"a": ["cap"]}
    assert contents.prior_audit({})["keywords"] == {}


def test_what_is_missing_is_found() -> None:
    gaps = contents.report_contents([make_run("one", accuracy=0.5)], priors=PriorFolder({}))["gaps"]
    assert gaps == ["baseline", "control", "seeds", "history", "records", "audit"]
    gaps = contents.report_contents([make_run("one", accuracy=0.5), make_run("two", seed=7)])["gaps"]
    assert gaps == ["evaluations", "baseline", "control", "history", "records", "priors"]
    assert contents.report_contents(TABLE_RUNS)["gaps"] == ["seeds"]


def test_the_main_split_is_the_chosen_one_else_test_else_the_first() -> None:
    attacked = {"test": {"accuracy": 0.5, "macro_f1": float("nan")}, "attacked": {"accuracy": 0.4}}
    run = Run("run", {}, attacked, {"attacked": texts_of("card", 1.0)})
    assert contents.report_contents([run])["split"] == "test"
    chosen = contents.report_contents([run], settings=ReportSettings(split="attacked"))
    assert [one["name"] for one in chosen["evaluations"]] == ["attacked", "test"]
    assert [row["measure"] for row in chosen["evaluations"][1]["rows"]] == ["accuracy"]
    assert contents.report_contents([Run("run", {}, {"dev": {"accuracy": 0.5}})])["split"] == "dev"
    with pytest.raises(ConfigError, match="at least one run"):
        contents.report_contents([])
