"""Charts: what is drawn where, in which words and colours, and that nothing hostile gets through."""

import re
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import matplotlib
import pytest

from hf_cap.errors import MissingExtra
from hf_cap.report.contents import feature_tables
from hf_cap.report.figures import (
    AUDIT_FIGURES,
    audit_figures,
    confusion_chart,
    feature_chart,
    interval_chart,
    save_figures,
)
from hf_cap.report.load import group_runs
from tests.report.runs import EVIL, TABLE_RUNS

GROUPS = ["no alignment", EVIL]
SVG = "{http://www.w3.org/2000/svg}"


def draw_accuracy(name: str = "test") -> str:
    values = [{"mean": 0.5, "low": None, "high": None}, {"mean": 0.6, "low": 0.5, "high": 0.7}]
    rows = [{"measure": "accuracy", "percent": True, "values": values}]
    return interval_chart("accuracy", [{"name": name, "rows": rows}], GROUPS)


def tooltips(svg: str) -> list[str]:
    return [title.text or "" for title in ElementTree.fromstring(svg).iter(f"{SVG}title")][1:]


def test_a_chart_says_what_it_shows_and_nothing_is_styled_or_loaded() -> None:
    svg = draw_accuracy()
    root = ElementTree.fromstring(svg)
    said = f"test, no alignment: 50.0 %; test, {EVIL}: 60.0 % (50.0 to 70.0)"
    assert root.findtext(f"{SVG}title") == "Accuracy"
    assert root.findtext(f"{SVG}desc") == said
    assert root.get("aria-label") == f"Accuracy. {said}"
    assert tooltips(svg) == said.split("; ")
    # a unit is a pixel on a phone, and text is text
    assert (root.get("viewBox") or "").startswith("0 0 360 ")
    assert root.get("width") is None
    assert "test" in [text.text for text in root.iter(f"{SVG}text")]
    assert {text.get("font-size") for text in root.iter(f"{SVG}text")} == {"12px"}
    for element in root.iter():
        assert element.tag.removeprefix(SVG) not in ("style", "script", "metadata")
        assert not element.attrib.keys() & {"style", "font-family"}
    assert not re.search(r"#[0-9a-f]{6}\b|url\((?!#)", svg)
    for colour in ('fill="var(--g0)"', 'stroke="var(--g1)"', 'fill="var(--ink)"'):
        assert colour in svg
    targets = re.findall(r'href="([^"]*)"', svg)
    assert {target.removeprefix("#") for target in targets} <= set(re.findall(r' id="(.*?)"', svg))


def test_ids_are_unique_to_a_chart_and_the_same_in_each_run() -> None:
    with matplotlib.rc_context({"font.size": 23, "lines.linewidth": 9}):
        before = dict(matplotlib.rcParams)
        assert draw_accuracy() == draw_accuracy()
        assert dict(matplotlib.rcParams) == before
    one, other = (set(re.findall(r' id="([^"]*)"', draw_accuracy(name))) for name in "ab")
    assert one
    assert not one & other


@pytest.mark.parametrize("name", ["$x_1^$ \\frac{", "字 \U0001f44d", "a\x00b\u202ec\ud800", EVIL])
def test_any_name_can_be_drawn(name: str) -> None:
    root = ElementTree.fromstring(draw_accuracy(name))
    shown = "".join(c if c.isprintable() else "\ufffd" for c in name)
    assert root.findtext(f"{SVG}desc", "").startswith(f"{shown}, no alignment")
    texts = [text.text or "" for text in root.iter(f"{SVG}text")]
    assert shown[:17] in {text[:17] for text in texts}


def test_every_confusion_is_a_cell() -> None:
    counts = {("a", "a"): 3, ("a", "b"): 1, ("b", "a"): 2}
    svg = confusion_chart({"labels": ["a", "b"], "counts": counts}, "aligned")
    assert tooltips(svg) == [
        "a predicted as a: 3 of 4",
        "a predicted as b: 1 of 4",
        "b predicted as a: 2 of 2",
    ]
    assert svg.count('fill="rgb(var(--for))"') == 1
    assert svg.count('fill="rgb(var(--against))"') == 2
    # one scale: the strength is the share of the gold label, which is also written
    strengths = [float(one) for one in re.findall(r'rgb\(var\(--(?:for|against)\)\)" opacity="([\d.]+)', svg)]
    assert strengths == pytest.approx([0.6, 0.2, 0.8])
    root = ElementTree.fromstring(svg)
    texts = [text.text or "" for text in root.iter(f"{SVG}text")]
    assert sorted(texts) == ["100", "25", "75", "a", "a", "b", "b"]
    many = [f"label {number}" for number in range(25)]
    assert "<text" not in confusion_chart({"labels": many, "counts": {(many[0],) * 2: 1}}, "a")


def test_a_feature_has_a_bar_and_a_mark_for_each_model() -> None:
    (_, yes) = feature_tables(group_runs(TABLE_RUNS))
    found = tooltips(feature_chart(yes, ["none", "control", "aligned"]))
    assert sum("elicited" in one for one in found) == 2
    assert len(found) == 2 + 3 * 3
    assert f"{EVIL}, aligned: \N{MINUS SIGN}0.800" in found


def mean(value: float | None, half_width: float | None = None) -> dict[str, Any]:
    return {"rank_correlation": {"value": value, "half_width": half_width, "texts": 12}}


AUDIT = {
    "rank_correlation": {"cap": {"cap": 1.0, "prior": 0.456}, "prior": {"cap": 0.456}},
    "top_k_agreement": {},
    "class_overlap": {"cap": 0.0, "prior": 0.2},
    "mass": {"cap": {"stop word": 0.4, "other": 0.6}},
    "log_odds": {"cap": mean(0.3, 0.1), "random": mean(None)},
    "rationales": None,
    "certainty": {"cap_r2": {"quantiles": [0, 0, 0.5, 1, 1], "edges": [0, 1, 2], "counts": [1, 2]}},
}


def test_an_audit_has_the_charts_that_it_has_facts_for(tmp_path: Path) -> None:
    figures = audit_figures(AUDIT)
    assert list(figures) == [n for n in AUDIT_FIGURES if n not in ("top_k_agreement", "rationales")]
    assert tooltips(figures["log_odds"]) == ["cap: 0.300"]
    assert tooltips(figures["class_overlap"]) == ["cap: 0.000", "fused prior: 0.200"]
    assert tooltips(figures["rank_correlation"]) == ["fused prior and cap: 0.456"]
    assert ">0.46<" in figures["rank_correlation"]
    assert audit_figures({"log_odds": {"random": mean(None)}}) == {}
    save_figures(figures, tmp_path)
    assert {file.stem for file in tmp_path.iterdir()} == set(figures)
    for file in tmp_path.iterdir():
        assert "prefers-color-scheme: dark" in ElementTree.parse(file).findtext(f"{SVG}style", "")


def test_without_matplotlib_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtra, match=r"pip install 'hf-cap\[plots\]'"):
        draw_accuracy()
