"""The report on models of tables."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from hf_cap.cards import METRICS
from hf_cap.cli import main
from hf_cap.errors import ConfigError
from hf_cap.laat.models import classification_metrics, regression_metrics
from hf_cap.report.contents import MEASURES
from hf_cap.report.load import PriorFolder, Run
from hf_cap.report.page import build_report, render_report
from tests.tabular.report_cases import EVIL, RUNS, make_run


def test_scores_and_what_was_learnt_are_compared_as_directions() -> None:
    report = build_report(RUNS)
    assert [group.name for group in report.groups] == [
        "no alignment",
        "control: shuffled",
        "aligned",
    ]
    no, yes = report.features
    assert (no.output, yes.output) == ("no", "yes")
    assert [feature.name for feature in yes.features] == ["age", EVIL, "job=cook"]
    age, evil, job = yes.features
    assert job.told is None
    assert [age.told, evil.told] == pytest.approx([0.6, -0.8])
    assert [one and one.mean for one in age.learnt] == pytest.approx([1, 0, 0.6])
    assert [one and one.mean for one in evil.learnt] == pytest.approx([0, 1, -0.8])
    cosines = {group: found.mean for group, found in yes.agreement.items()}
    assert cosines == pytest.approx({0: 0.6, 1: -0.8, 2: 1.0})
    assert no.features[0].told == pytest.approx(-0.6)


def test_features_without_a_score_do_not_count_in_the_agreement() -> None:
    (_, yes) = build_report([make_run("aligned", (3.0, -4.0, 100.0))]).features
    assert yes.agreement[0].mean == pytest.approx(1)
    assert yes.features[0].name == "job=cook"


def test_several_seeds_have_an_interval() -> None:
    runs = [make_run(f"a{seed}", (1.0, seed - 1.0, 0.0), seed=seed) for seed in range(3)]
    (_, yes) = build_report(runs).features
    learnt = {feature.name: feature.learnt[0] for feature in yes.features}[EVIL]
    assert learnt is not None
    assert learnt.mean == pytest.approx(0)
    assert learnt.high == pytest.approx(4.303 * np.sqrt(0.5) / np.sqrt(3), rel=1e-3)


def test_without_scores_only_what_was_learnt_is_shown() -> None:
    report = build_report(RUNS[:1])
    assert not report.features[0].agreement
    page = render_report(report)
    assert "Cosine of the scores" not in page


def test_the_page_speaks_of_rows_and_not_of_texts() -> None:
    page = render_report(build_report(RUNS))
    words = re.sub(r"\s+", " ", re.sub(r"<(style|script).*?</\1>", "", page, flags=re.DOTALL))
    assert "8 rows, 2 classes" in words
    assert "40 rows" in words
    assert "% of the rows" in words
    assert "ROC-AUC" in words
    assert "Faithfulness" not in words
    assert "texts" not in words
    assert "priors" not in words
    assert EVIL not in page
    assert words.count("&lt;img src=x onerror=alert(1)&gt;") >= 2
    assert '<svg viewBox="0 0 360 98" role="img" aria-label="Features for yes.' in page


def test_a_page_on_tables_and_texts_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"models of tables \(plain\).*models of texts \(text\)"):
        build_report([RUNS[0], Run("text", {"kind": "train"})])
    with pytest.raises(ConfigError, match="`priors` are scores of the words of texts"):
        build_report(RUNS, priors=PriorFolder({}))


def test_what_is_missing_is_said_in_words_of_tables() -> None:
    (gap,) = [gap for gap in build_report(RUNS[2:]).gaps if "no run without alignment" in gap]
    assert "`hf-cap train --task tabular` without `--scores`" in gap
    assert not any("priors" in gap or "records" in gap for gap in build_report(RUNS).gaps)


def test_every_metric_has_its_place_on_the_page_and_on_cards() -> None:
    probabilities = np.array([[0.9, 0.1], [0.2, 0.8]])
    found = {
        *classification_metrics(probabilities, np.array([0, 1])),
        *regression_metrics(np.array([0.0, 1.0]), np.array([0.0, 1.0])),
    }
    assert found <= MEASURES.keys()
    assert found <= METRICS.keys()


def test_the_command_writes_the_page(tmp_path: Path) -> None:
    for run in RUNS:
        folder = tmp_path / run.name
        (folder / "evaluation").mkdir(parents=True)
        (folder / "run.json").write_text(json.dumps(run.facts))
        (folder / "evaluation" / "test.json").write_text(json.dumps(run.evaluations["test"]))
    folders = [str(tmp_path / run.name) for run in RUNS]
    assert main(["report", *folders, "--output", str(tmp_path / "r.html")]) == 0
    assert '<h2 id="features-title">Features</h2>' in (tmp_path / "r.html").read_text()
    with_priors = [
        "report",
        *folders,
        "--priors",
        str(tmp_path),
        "--output",
        str(tmp_path / "s.html"),
    ]
    assert main(with_priors) == 2
