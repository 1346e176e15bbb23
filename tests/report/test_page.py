"""The page as a whole: what folders give, hostile content, damaged files, size."""

import itertools
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from hf_cap.errors import DataError
from hf_cap.priors.audit import audit_dataset
from hf_cap.report.contents import report_contents
from hf_cap.report.load import PriorFolder, ReportSettings, Run, load_priors
from hf_cap.report.page import embed_examples, render_report, script_json, write_report
from tests.report.runs import EVIL, HOSTILE, SOURCES, TABLE_RUNS, demo_rows, write_priors, write_runs


class Page(HTMLParser):
    """Elements with their attributes, scripts, and text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.inside, self.text, self.scripts = "", "", list[str]()
        self.feed(page)
        self.text = re.sub(r"\s+", " ", self.text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.inside = tag

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""

    def handle_data(self, data: str) -> None:
        if self.inside == "script":
            self.scripts.append(data)
        elif self.inside != "style":
            self.text += data

    def attribute(self, name: str) -> list[str]:
        return [found[name] or "" for _, found in self.elements if name in found]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("runs")
    rows = demo_rows()[:30] + [(text, "renew_loan") for text in HOSTILE]
    write_runs(root, rows)
    priors = write_priors(root / "priors", rows, SOURCES)
    audit = audit_dataset(Dataset.from_parquet(str(priors / "test.parquet")))
    (priors / "audit.json").write_text(json.dumps(audit))
    return root


def test_the_page_has_every_section_and_is_safe_and_complete(folder: Path) -> None:
    runs = sorted(path for path in folder.iterdir() if path.name != "priors")
    write_report(runs, folder / "report.html", priors=folder / "priors")
    parsed = Page((folder / "report.html").read_text(encoding="utf-8"))
    ids = parsed.attribute("id")
    assert {"results", "examples", "training", "errors", "priors", "setup"} <= set(ids)
    assert len(ids) == len(set(ids))
    charts = [found for tag, found in parsed.elements if tag == "svg"]
    assert len(charts) > 10
    assert all(found["role"] == "img" and found["aria-label"] for found in charts)
    # nothing is loaded, and nothing would be refused by the policy
    assert not {tag for tag, _ in parsed.elements} & {"img", "iframe", "object", "embed", "base"}
    assert not parsed.attribute("src")
    assert all(target.startswith(("#", "data:")) for target in parsed.attribute("href"))
    (policy,) = (content for content in parsed.attribute("content") if "default-src" in content)
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    names = {name for _, found in parsed.elements for name in found}
    assert not [name for name in names if name == "style" or name.startswith("on")]
    # the examples come back
    data = json.loads(parsed.scripts[0])
    assert set(HOSTILE) <= {row[3] or " ".join(row[2]) for row in data["examples"] if row[0] == 0}
    rows = [*SOURCES, "fused prior", "no alignment", "aligned"]
    assert [row["name"] for row in data["rows"]] == rows


def test_hostile_names_show_as_text() -> None:
    words = EVIL.split()
    record = {
        "text": EVIL, "label": EVIL, "prediction": "$other$", "probabilities": [0.1, 0.9],
        "words": words, "attributions": [1.0] * len(words), "prior": None,
    }  # fmt: skip
    facts = {"model": "m", "command": EVIL, "versions": {EVIL: EVIL}, "settings": {EVIL: EVIL}}
    facts |= {"data": {"dataset": "d", "labels": [EVIL]}}
    hostile = Run("run", facts, {EVIL: {"texts": 1, "accuracy": 0.0}}, {EVIL: [record]})
    audit = {"class_overlap": {EVIL: 0.5}, "keywords": {EVIL: {EVIL: [[EVIL, 1.0]]}}}
    settings = ReportSettings(title=EVIL, split=EVIL)
    contents = report_contents([hostile], priors=PriorFolder({}, audit), settings=settings)
    parsed = Page(render_report(contents))
    assert "img" not in [tag for tag, _ in parsed.elements]
    assert len(parsed.scripts) == 2
    assert parsed.text.count("<img src=x onerror=alert(1)>") >= 10
    # neither are a lone surrogate and control characters an error
    evaluations = {"te\x00st": {"accuracy": 0.5}}
    runs = [Run("run", {"settings": {"note": note}}, evaluations) for note in ("\ud800", "\ud801")]
    assert "aligned (note=?)" in render_report(report_contents(runs))


@pytest.mark.parametrize(
    ("gains", "said"),
    [
        ((0.10, 0.11, 0.12), "+11.0 points (95 % interval +8.5 to +13.5, 3 seeds), a change bey"),
        ((-0.10, -0.11, -0.12), "−11.0 points (95 % interval −13.5 to −8.5, 3 seeds), a change"),
        ((-0.10, 0.1, 0.05), "3 seeds), no change that stands out from the spread of the seeds."),
        ((0.1, 0.3), "+20.0 points (mean of two seeds, too few to tell their spread)."),
        ((0.2,), "against 0.0 % without alignment: +20.0 points. One seed says nothing"),
    ],
)
def test_findings_claim_no_more_than_the_interval(gains: tuple[float, ...], said: str) -> None:
    runs = []
    for (seed, gain), weight in itertools.product(enumerate(gains), (0, 1)):
        facts = {"seed": seed, "settings": {"alignment_weight": weight}}
        runs.append(Run("run", facts, {"test": {"accuracy": 0.2 * seed + weight * gain}}))
    text = Page(render_report(report_contents(runs))).text
    assert "On test, the model “aligned” is right on" in text
    assert said in text


def test_confidence_has_one_compact_place() -> None:
    numbers = {
        "accuracy": 0.5, "nll": 1.25, "ece": 0.0625, "accuracy_at_50": 0.75, "temperature": 2.5,
    }  # fmt: skip
    page = render_report(report_contents([Run("run", {}, {"test": numbers})]))
    results, _, confidence = page.partition("<summary>Confidence")
    confidence, _, rest = confidence.partition("</details>")
    for shown in ("NLL", "Calibration error", "Accuracy on the surest 50 %", "Temperature"):
        assert shown in confidence
        assert shown not in results + rest  # no row of the results, and no chart
    assert all(value in confidence for value in ("1.250", "6.2", "75.0", "2.500"))
    assert "Accuracy" in results
    without = render_report(report_contents([Run("run", {}, {"test": {"accuracy": 0.5}})]))
    assert "<summary>Confidence" not in without


def test_an_empty_run_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text("{}")
    write_report([tmp_path / "run"], tmp_path / "report.html")
    parsed = Page((tmp_path / "report.html").read_text())
    for said in (
        "A run was not evaluated on test: `hf-cap evaluate",
        "No run without alignment: `hf-cap train --alignment_weight 0`",
        "No control run",
        "A group of one run has no interval",
        "No training history",
        "No records of single texts of test",
        "No priors were given",
    ):
        assert said in parsed.text
    assert not set(parsed.attribute("id")) & {"results", "examples", "training", "errors", "priors"}
    assert not parsed.scripts


def test_a_page_on_tables_does_not_speak_of_texts() -> None:
    page = render_report(report_contents(TABLE_RUNS))
    text = Page(page).text
    for said in ("8 rows, 2 classes", "40 rows", "% of the 40 rows", "ROC-AUC", "Cosine of the sco"):
        assert said in text
    assert not re.search("Faithfulness|texts|priors", text)
    assert EVIL not in page
    assert text.count("<img src=x onerror=alert(1)>") >= 2


def test_a_run_counts_once_and_the_same_input_gives_the_same_page(folder: Path, tmp_path: Path) -> None:
    runs = [folder / "aligned-0", folder / "plain-0", folder / "aligned-0"]
    settings = ReportSettings(examples=0)
    for file in ("a.html", "b.html"):
        write_report(runs, tmp_path / file, baselines=[folder / "plain-0"], settings=settings)
    assert (tmp_path / "a.html").read_text() == (tmp_path / "b.html").read_text()
    parsed = Page((tmp_path / "a.html").read_text())
    assert parsed.text.count("plain-0 (seed 0)") == parsed.text.count("aligned-0 (seed 0)") == 1
    assert not parsed.scripts


def test_the_audit_is_found_beside_the_priors(tmp_path: Path) -> None:
    priors = write_priors(tmp_path / "priors", demo_rows()[:3], ["cap"])
    assert load_priors(priors).audit is None
    (tmp_path / "priors-audit").mkdir()
    (tmp_path / "priors-audit" / "audit.json").write_text(
        '{"texts": 3, "degenerate": {"cap": {"missing": 0.0, "constant": 0.125}}}'
    )
    found = load_priors(priors)
    assert found.audit is not None
    assert found.audit["texts"] == 3
    text = Page(render_report(report_contents([Run("run", {})], priors=found))).text
    assert "cap: 12.5 % of the texts have the same score on every word." in text
    assert "have no prior" not in text
    with pytest.raises(DataError, match=r"holds no audit\.json"):
        load_priors(priors, audit=tmp_path)


# --- The embedded examples


def examples(*found: tuple[str, list[float] | None]) -> dict[str, Any]:
    rows = [{"key": "cap", "name": "cap", "kind": "source"}]
    texts = [
        {"text": text, "words": text.split(), "label": "card", "set": 0, "before": None}
        | {"after": ("loan", 0.1234), "scores": {"cap": scores} if scores is not None else {}}
        for text, scores in found
    ]
    return {"sets": ["test"], "rows": rows, "examples": texts, "total": len(texts)}


def test_scores_keep_three_digits_and_a_text_is_sent_only_where_its_words_do_not_make_it() -> None:
    found = examples(("a b c", [0.123456, -2.0, 0.0]), ("", []), ("a  b", None))
    embedded = embed_examples(found, 10**6)["examples"]
    assert [row[4] for row in embedded] == [[[0.123, -2.0, 0.0]], [[]], [None]]
    assert [row[3] for row in embedded] == [None, None, "a  b"]
    assert embedded[0][5:] == [None, [1, 123], [], None]


def test_texts_are_left_out_evenly_until_they_fit() -> None:
    found = [(f"{number:03d} " + "x" * 996, None) for number in range(100)]
    embedded = embed_examples(examples(*found), 25_000)
    kept = [int(row[2][0]) for row in embedded["examples"]]
    assert len(script_json(embedded["examples"])) <= 25_000
    assert 20 <= len(kept) <= 25
    assert {after - before for before, after in itertools.pairwise(kept)} <= {4, 5}
    assert embedded["total"] == 100


def test_json_in_a_script_is_inert_and_true() -> None:
    written = script_json(HOSTILE)
    assert not set("<>&\u2028\u2029") & set(written)
    assert tuple(json.loads(written)) == HOSTILE
