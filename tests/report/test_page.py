"""The page as a whole: what folders give, hostile content, damaged files, size."""

import itertools
import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from hf_cap.errors import ConfigError, DataError
from hf_cap.evaluation.evaluate import Record
from hf_cap.priors.audit import audit_dataset
from hf_cap.report.contents import report_contents
from hf_cap.report.load import PriorFolder, ReportSettings, Run, load_priors, load_run
from hf_cap.report.page import STEPS, embed_examples, render_report, script_json, write_report
from tests.report.runs import (
    EVIL,
    HOSTILE,
    SOURCES,
    TABLE_RUNS,
    demo_rows,
    write_priors,
    write_run,
    write_runs,
)


class Page(HTMLParser):
    """Elements, attributes and the content of scripts of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.inside = ""
        self.scripts: list[str] = []
        self.words: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.inside = tag

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""

    def handle_data(self, data: str) -> None:
        if self.inside != "style":
            (self.scripts if self.inside == "script" else self.words).append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", "".join(self.words))

    def attribute(self, name: str) -> Iterator[str | None]:
        return (found[name] for _, found in self.elements if name in found)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("runs")
    rows = demo_rows()[:30] + [(text, "renew_loan") for text in HOSTILE]
    write_runs(root, rows)
    priors = write_priors(root / "priors", rows, SOURCES)
    audit = audit_dataset(Dataset.from_parquet(str(priors / "test.parquet")))
    (priors / "audit.json").write_text(json.dumps(audit))
    return root


@pytest.fixture(scope="module")
def page(folder: Path) -> str:
    runs = sorted(path for path in folder.iterdir() if path.name != "priors")
    write_report(runs, folder / "report.html", priors=folder / "priors")
    return (folder / "report.html").read_text(encoding="utf-8")


def test_every_section_is_there_and_every_chart_has_a_name(page: str) -> None:
    parsed = Page(page)
    ids = [name for name in parsed.attribute("id") if name]
    assert {"results", "examples", "training", "errors", "priors", "setup"} <= set(ids)
    assert len(ids) == len(set(ids))
    charts = [found for tag, found in parsed.elements if tag == "svg"]
    assert len(charts) > 10
    assert all(found["role"] == "img" and found["aria-label"] for found in charts)


def test_nothing_is_loaded_and_nothing_would_be_refused_by_the_policy(page: str) -> None:
    parsed = Page(page)
    tags = {tag for tag, _ in parsed.elements}
    assert not tags & {"img", "iframe", "object", "embed", "base"}
    assert not list(parsed.attribute("src"))
    assert all(str(target).startswith(("#", "data:")) for target in parsed.attribute("href"))
    (policy,) = (c for c in parsed.attribute("content") if c and "default-src" in c)
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    names = {name for _, found in parsed.elements for name in found}
    assert "style" not in names
    assert not [name for name in names if name.startswith("on")]


def test_the_examples_come_back_from_the_page(page: str) -> None:
    data = json.loads(Page(page).scripts[0])
    texts = {row[3] or " ".join(row[2]) for row in data["examples"] if row[0] == 0}
    assert set(HOSTILE) <= texts
    rows = [*SOURCES, "fused prior", "no alignment", "aligned"]
    assert [row["name"] for row in data["rows"]] == rows


def test_hostile_names_show_as_text() -> None:
    words = EVIL.split()
    record = {
        "text": EVIL, "label": EVIL, "prediction": "$other$", "probabilities": [0.1, 0.9],
        "words": words, "attributions": [1.0] * len(words), "prior": None,
    }  # fmt: skip
    facts = {
        "model": "m",
        "command": EVIL,
        "versions": {EVIL: EVIL},
        "settings": {EVIL: EVIL},
        "data": {"dataset": "d", "labels": [EVIL]},
    }
    evaluations = {EVIL: {"texts": 1, "accuracy": 0.0, "labels": [EVIL, "other"]}}
    hostile = Run("run", facts, evaluations, {EVIL: [record]})
    audit = {"class_overlap": {EVIL: 0.5}, "keywords": {EVIL: {EVIL: [[EVIL, 1.0]]}}}
    settings = ReportSettings(title=EVIL, split=EVIL)
    contents = report_contents([hostile], priors=PriorFolder({}, audit), settings=settings)
    parsed = Page(render_report(contents))
    assert "img" not in [tag for tag, _ in parsed.elements]
    assert len(parsed.scripts) == 2
    assert parsed.text.count("<img src=x onerror=alert(1)>") >= 10


def test_a_lone_surrogate_and_control_characters_are_no_error() -> None:
    evaluations = {"te\x00st": {"accuracy": 0.5}}
    runs = [Run("run", {"settings": {"note": note}}, evaluations) for note in ("\ud800", "\ud801")]
    assert "aligned (note=?)" in render_report(report_contents(runs))


def test_an_empty_run_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text("{}")
    write_report([tmp_path / "run"], tmp_path / "report.html")
    parsed = Page((tmp_path / "report.html").read_text())
    assert "No run was evaluated" in parsed.text
    assert not set(parsed.attribute("id")) & {"results", "examples", "training", "errors", "priors"}
    assert not parsed.scripts


def test_a_page_on_tables_does_not_speak_of_texts() -> None:
    page = render_report(report_contents(TABLE_RUNS))
    text = Page(page).text
    for said in (
        "8 rows, 2 classes",
        "40 rows",
        "% of the rows",
        "ROC-AUC",
        "Cosine of the scores",
    ):
        assert said in text
    assert not re.search("Faithfulness|texts|priors", text)
    assert EVIL not in page
    assert text.count("<img src=x onerror=alert(1)>") >= 2


def test_a_run_counts_once_and_as_baseline_where_it_is_named_so(
    folder: Path, tmp_path: Path
) -> None:
    runs = [folder / "aligned-0", folder / "plain-0", folder / "aligned-0"]
    write_report(runs, tmp_path / "r.html", baselines=[folder / "plain-0"])
    setup = Page((tmp_path / "r.html").read_text()).text
    assert setup.count("plain-0 (seed 0)") == setup.count("aligned-0 (seed 0)") == 1


def test_the_audit_is_found_beside_the_priors(tmp_path: Path) -> None:
    priors = write_priors(tmp_path / "priors", demo_rows()[:3], ["cap"])
    assert load_priors(priors).audit is None
    (tmp_path / "priors-audit").mkdir()
    (tmp_path / "priors-audit" / "audit.json").write_text('{"texts": 3}')
    assert load_priors(priors).audit == {"texts": 3}
    with pytest.raises(DataError, match=r"holds no audit\.json"):
        load_priors(priors, audit=tmp_path)


def test_records_are_read_by_the_names_that_evaluation_writes(folder: Path) -> None:
    assert set(load_run(folder / "plain-0").records["test"][0]) == set(Record.__dataclass_fields__)


def test_the_same_input_gives_the_same_page(folder: Path) -> None:
    runs = [load_run(folder / "aligned-0"), load_run(folder / "plain-0")]
    first, second = (render_report(report_contents(runs)) for _ in range(2))
    assert first == second
    none = report_contents(runs, settings=ReportSettings(examples=0))
    assert not Page(render_report(none)).scripts


def test_a_thousand_texts_and_five_sources_stay_below_five_megabytes(tmp_path: Path) -> None:
    rows = demo_rows(count=1000)
    runs = write_runs(tmp_path, rows, seeds=(0,))
    write_report(runs, tmp_path / "r.html", priors=write_priors(tmp_path / "p", rows, SOURCES))
    page = (tmp_path / "r.html").read_text()
    assert len(json.loads(Page(page).scripts[0])["examples"]) == 1000
    assert len(page) < 5e6


def test_mistakes_and_damaged_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"is not a run: it holds no run\.json \(found nothing\)"):
        load_run(tmp_path / "none")
    for content, message in (
        ("[1]", "must hold a JSON object, got list"),
        ("{", "is not valid JSON"),
        ('{"history": {}}', r"'history' in .* must be a JSON array, got \{\}"),
    ):
        (tmp_path / "run.json").write_text(content)
        with pytest.raises(DataError, match=message):
            load_run(tmp_path)
    with pytest.raises(DataError, match="holds no priors"):
        load_priors(tmp_path)
    run = write_run(tmp_path / "run")
    (run / "evaluation").mkdir()
    (run / "evaluation" / "test.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match="cannot be read as parquet"):
        load_run(run)
    Dataset.from_dict({"text": ["a"]}).to_parquet(str(run / "evaluation" / "test.parquet"))
    with pytest.raises(DataError, match=r"lacks the columns .*'prediction'"):
        load_run(run)
    with pytest.raises(ConfigError, match="`examples` must be at least 0, got -1"):
        ReportSettings(examples=-1)
    with pytest.raises(ConfigError, match="`megabytes` must be more than 0"):
        ReportSettings(megabytes=0)


# --- The embedded examples


def examples(*found: tuple[str, list[float] | None]) -> dict[str, Any]:
    rows = [{"key": "cap", "name": "cap", "kind": "source", "note": "n"}]
    texts = [
        {"text": text, "words": text.split(), "label": "card", "set": 0, "before": None}
        | {"after": ("loan", 0.1234), "scores": {"cap": scores} if scores is not None else {}}
        for text, scores in found
    ]
    return {"sets": ["test"], "rows": rows, "examples": texts, "total": len(texts)}


def test_scores_come_back_to_three_digits() -> None:
    scores = [0.123456, -2.0, 1.99999, 0.0]
    row = embed_examples(examples(("a b c d", scores)), 10**6)["examples"][0]
    largest, *parts = row[4][0]
    assert [largest * part / STEPS for part in parts] == pytest.approx(scores, abs=2.0 / STEPS)
    assert parts[1] == -STEPS
    assert row[5:] == [None, [1, 123]]


def test_zeros_missing_scores_and_spaces_are_no_error() -> None:
    found = examples(("a b", [0.0, 0.0]), ("", []), ("a  b", None))
    embedded = embed_examples(found, 10**6)["examples"]
    assert [row[4] for row in embedded] == [[[0.0, 0, 0]], [[0.0]], [None]]
    # the text is sent only where its words do not make it
    assert [row[3] for row in embedded] == [None, None, "a  b"]


def test_texts_are_left_out_evenly_until_they_fit() -> None:
    found = [(f"{number:03d} " + "x" * 996, None) for number in range(100)]
    embedded = embed_examples(examples(*found), 25_000)
    kept = [int(row[2][0]) for row in embedded["examples"]]
    assert len(script_json(embedded["examples"])) <= 25_000
    assert 20 <= len(kept) <= 25
    assert {after - before for before, after in itertools.pairwise(kept)} <= {4, 5}
    assert embedded["total"] == 100


@pytest.mark.parametrize("text", HOSTILE)
def test_json_in_a_script_is_inert_and_true(text: str) -> None:
    written = script_json({"text": text})
    assert not set("<>&\u2028\u2029") & set(written)
    assert json.loads(written) == {"text": text}
