"""The page as a whole: what folders give, hostile content, what is missing, size."""

import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from hf_cap.cli import report as command
from hf_cap.cli.config import merge, settings_of
from hf_cap.errors import ConfigError, DataError
from hf_cap.evaluation.evaluate import Record
from hf_cap.priors.audit import audit_dataset
from hf_cap.report.load import ReportSettings, Run, load_priors, load_run
from hf_cap.report.page import build_report, render_report, write_report
from tests.publishing.report_runs import (
    HOSTILE,
    SOURCES,
    demo_rows,
    write_priors,
    write_run,
    write_runs,
)

EVIL = "<img src=x onerror=alert(1)>\"'</style></script>"


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
    (priors / "audit.json").write_text(json.dumps(audit.to_dict()))
    return root


@pytest.fixture(scope="module")
def page(folder: Path) -> str:
    runs = sorted(path for path in folder.iterdir() if path.name != "priors")
    write_report(runs, folder / "report.html", priors=folder / "priors")
    return (folder / "report.html").read_text(encoding="utf-8")


def test_every_section_is_there(page: str) -> None:
    found = {name for name in Page(page).attribute("id") if name}
    assert {"results", "examples", "training", "errors", "priors", "setup"} <= found


def test_charts_have_a_name_and_a_description(page: str) -> None:
    charts = [found for tag, found in Page(page).elements if tag == "svg" and "role" in found]
    assert len(charts) > 10
    assert all(found["role"] == "img" and found["aria-label"] for found in charts)


def test_nothing_is_loaded_from_anywhere(page: str) -> None:
    parsed = Page(page)
    assert not [
        tag for tag, _ in parsed.elements if tag in ("img", "iframe", "object", "embed", "base")
    ]
    assert not list(parsed.attribute("src"))
    assert all(str(target).startswith(("#", "data:")) for target in parsed.attribute("href"))
    (policy,) = (c for c in parsed.attribute("content") if c and "default-src" in c)
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy


def test_no_element_carries_style_or_code_that_the_policy_would_refuse(page: str) -> None:
    names = {name for _, found in Page(page).elements for name in found}
    assert "style" not in names
    assert not [name for name in names if name.startswith("on")]


def test_the_examples_come_back_from_the_page(page: str) -> None:
    data = json.loads(Page(page).scripts[0])
    texts = {row[3] or " ".join(row[2]) for row in data["rows"] if row[0] == 0}
    assert set(HOSTILE) <= texts
    lanes = [*SOURCES, "fused prior", "no alignment", "aligned"]
    assert [lane["name"] for lane in data["lanes"]] == lanes


def test_hostile_names_show_as_text(tmp_path: Path) -> None:
    run = load_run(write_run(tmp_path / "run", settings={EVIL: EVIL}, labels=[EVIL]))
    facts = {**run.facts, "model": "m", "command": EVIL, "versions": {EVIL: EVIL}}
    words = EVIL.split()
    record = {
        "text": EVIL, "label": EVIL, "prediction": "other", "probabilities": [0.1, 0.9],
        "words": words, "attributions": [1.0] * len(words), "prior": None,
    }  # fmt: skip
    columns = {name: [value] for name, value in record.items()}
    evaluations = {EVIL: {"texts": 1, "accuracy": 0.0, "labels": [EVIL, "other"]}}
    hostile = Run("run", facts, evaluations, {EVIL: columns})
    written = render_report(
        build_report([hostile], settings=ReportSettings(title=EVIL, split=EVIL))
    )
    parsed = Page(written)
    assert "img" not in [tag for tag, _ in parsed.elements]
    assert len(parsed.scripts) == 2
    assert parsed.text.count("<img src=x onerror=alert(1)>") >= 6


def test_a_lone_surrogate_is_no_error() -> None:
    facts = {"settings": {"note": "\ud800"}}
    assert "note" in render_report(build_report([Run("run", facts)]))


def test_what_is_missing_is_said_and_no_error(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text("{}")
    write_report([tmp_path / "run"], tmp_path / "report.html")
    parsed = Page((tmp_path / "report.html").read_text())
    for said in (
        "No run was evaluated",
        "no run without alignment",
        "no control run",
        "no records of single texts",
        "no training history",
        "No priors were given",
    ):
        assert said in parsed.text
    ids = set(parsed.attribute("id"))
    assert not ids & {"results", "examples", "training", "errors", "priors"}
    assert not parsed.scripts


def test_a_run_that_was_not_evaluated_like_the_others_is_named(
    folder: Path, tmp_path: Path
) -> None:
    other = write_run(tmp_path / "lonely", seed=7)
    report = build_report([load_run(folder / "aligned-0"), load_run(other)])
    assert "Not evaluated on test, and so left out of its figures: lonely." in report.gaps


def test_priors_without_audit_say_so(folder: Path, tmp_path: Path) -> None:
    priors = write_priors(tmp_path / "priors", demo_rows()[:3], ["cap"])
    report = build_report([load_run(folder / "aligned-0")], priors=load_priors(priors))
    assert report.audit is None
    assert any("not audited" in gap for gap in report.gaps)
    (tmp_path / "priors-audit").mkdir()
    (tmp_path / "priors-audit" / "audit.json").write_text('{"texts": 3}')
    assert load_priors(priors).audit == {"texts": 3}
    with pytest.raises(DataError, match=r"holds no audit\.json"):
        load_priors(priors, audit=tmp_path)


def test_the_split_with_the_figures_can_be_chosen(folder: Path) -> None:
    runs = [load_run(folder / "aligned-0")]
    assert build_report(runs).split == "test"
    chosen = build_report(runs, settings=ReportSettings(split="keyword_addition"))
    assert chosen.evaluations[0].name == "keyword_addition"
    only = Run("run", {}, {"dev": {"accuracy": 0.5}})
    assert build_report([only]).split == "dev"


def test_no_examples_on_request(folder: Path) -> None:
    report = build_report([load_run(folder / "aligned-0")], settings=ReportSettings(examples=0))
    assert not report.examples.rows
    assert not Page(render_report(report)).scripts


def test_a_thousand_texts_and_five_sources_stay_below_five_megabytes(tmp_path: Path) -> None:
    rows = demo_rows(count=1000)
    runs = write_runs(tmp_path, rows, seeds=(0,))
    write_report(runs, tmp_path / "r.html", priors=write_priors(tmp_path / "p", rows, SOURCES))
    assert len(json.loads(Page((tmp_path / "r.html").read_text()).scripts[0])["rows"]) == 1000
    assert (tmp_path / "r.html").stat().st_size < 5e6


def test_the_same_input_gives_the_same_page(folder: Path) -> None:
    runs = [load_run(folder / "aligned-0"), load_run(folder / "plain-0")]
    assert render_report(build_report(runs)) == render_report(build_report(runs))


def test_records_are_read_by_the_names_that_evaluation_writes(folder: Path) -> None:
    assert set(load_run(folder / "plain-0").records["test"]) == set(Record.__dataclass_fields__)


def test_the_command_writes_the_page(folder: Path, tmp_path: Path) -> None:
    given: dict[str, Any] = {
        "runs": [str(folder / "aligned-0")],
        "baseline": [str(folder / "plain-0")],
        "output": str(tmp_path / "report.html"),
        "title": "Mine",
    }
    command.run(merge(settings_of(*command.SETTINGS), given))
    assert "<title>Mine</title>" in (tmp_path / "report.html").read_text()


def test_mistakes_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"is not a run: it holds no run\.json \(found nothing\)"):
        load_run(tmp_path / "none")
    (tmp_path / "run.json").write_text("[1]")
    with pytest.raises(DataError, match="must hold a JSON object, got list"):
        load_run(tmp_path)
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(DataError, match="is not valid JSON"):
        load_run(tmp_path)
    with pytest.raises(DataError, match="holds no priors"):
        load_priors(tmp_path)
    with pytest.raises(ConfigError, match="at least one run"):
        build_report([])
    with pytest.raises(ConfigError, match="`examples` must be at least 0, got -1"):
        ReportSettings(examples=-1)
    with pytest.raises(ConfigError, match="`megabytes` must be more than 0"):
        ReportSettings(megabytes=0)
