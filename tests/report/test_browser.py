"""The report with hostile texts in Debian's chromium: safety, filters, orders, keys, readers, dark, phone."""

import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pytest

from hf_cap.report.contents import report_contents
from hf_cap.report.page import render_report, write_report
from tests.report.runs import EVIL, HOSTILE, SOURCES, TABLE_RUNS, Watched, demo_rows, write_priors, write_runs

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser

ROWS = demo_rows()[:40] + [(text, "renew_loan") for text in HOSTILE]
CONTRAST = (Path(__file__).parent / "contrast.js").read_text()
TITLE = "What the model learned"
PHONE: Any = {"width": 360, "height": 740}


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Address of the page on texts."""
    folder = tmp_path_factory.mktemp("report")
    runs = write_runs(folder, ROWS, seeds=(0, 1))
    write_report(runs, folder / "r.html", priors=write_priors(folder / "priors", ROWS, SOURCES))
    return (folder / "r.html").as_uri()


class Report(Watched):
    """The page, its data and what it shows."""

    def __init__(self, page: "Page", address: str) -> None:
        super().__init__(page, address)
        found = page.locator("#data").all_text_contents()
        self.data: dict[str, Any] = json.loads(found[0]) if found else {}

    def count(self) -> int:
        return self.page.locator("#list li").count()

    def shown_text(self) -> str:
        return self.page.locator("#rows .words").first.text_content() or ""


@pytest.fixture
def opened(browser: "Browser", report: str) -> Iterator[Report]:
    context = browser.new_context(viewport={"width": 1280, "height": 900}, reduced_motion="reduce")
    watched = Report(context.new_page(), report)
    # the page opens on the text that changed most; the tests go through the texts in their order
    most = max(range(len(watched.data["examples"])), key=lambda n: watched.data["examples"][n][8])
    assert watched.page.locator(f"#example-{most}").get_attribute("aria-selected") == "true"
    watched.page.select_option("#order", "given")
    watched.page.keyboard.press("Escape")
    watched.page.locator("#list li").first.click()
    watched.page.evaluate("document.activeElement.blur()")
    yield watched
    watched.check(TITLE)
    context.close()


def test_every_text_can_be_read(opened: Report) -> None:
    assert opened.count() == 2 * len(ROWS)
    for text, label in ROWS[:40]:
        assert opened.shown_text() == text
        assert (opened.page.locator("#detail-title").text_content() or "").startswith(label)
        opened.page.keyboard.press("j")
    # the chosen example stays in view
    chosen = opened.page.locator("#list li[aria-selected=true]").bounding_box()
    pane = opened.page.locator("#list").bounding_box()
    assert chosen
    assert pane
    assert pane["y"] <= chosen["y"] <= pane["y"] + pane["height"] + 1 - chosen["height"]


def test_hostile_texts_show_as_text(opened: Report) -> None:
    elements = opened.page.locator("script, img, iframe").count()
    for number, (text, _) in enumerate(ROWS):
        if text in HOSTILE:
            opened.page.locator("#list li").nth(number).click()
            assert opened.shown_text().split() == text.split()
            for view in ("numbers", "table", "text"):
                opened.page.select_option("#view", view)
    assert opened.page.locator("script, img, iframe").count() == elements


def test_the_policy_refuses_a_request(browser: "Browser", report: str) -> None:
    page = browser.new_page()
    page.goto(report)
    page.evaluate(
        "() => { window.refused = []; document.addEventListener('securitypolicyviolation',"
        " (event) => window.refused.push(event.effectiveDirective)); }"
    )
    page.evaluate("() => { const i = new Image(); i.src = 'https://example.invalid/x.png'; }")
    page.evaluate("() => fetch('https://example.invalid/').catch(() => null)")
    page.evaluate("() => document.body.append(Object.assign(document.createElement('script'), {text: '1'}))")
    page.wait_for_function("window.refused.length >= 3")
    assert set(page.evaluate("window.refused")) == {"img-src", "connect-src", "script-src-elem"}
    page.close()


def test_search_and_filters_leave_what_fits(opened: Report) -> None:
    page, rows = opened.page, opened.data["examples"]
    found = [(row[1], row[5][0], row[6][0]) for row in rows]  # gold, before, after
    expected = {
        "right": sum(gold == after for gold, _, after in found),
        "wrong": sum(gold != after for gold, _, after in found),
        "changed": sum(before != after for _, before, after in found),
        "fixed": sum(before != gold == after for gold, before, after in found),
        "broken": sum(before == gold != after for gold, before, after in found),
        "all": len(found),
    }
    assert all(expected.values())
    for outcome, count in expected.items():
        page.select_option("#outcome", outcome)
        assert opened.count() == count, outcome
    page.select_option("#set", "1")
    assert opened.count() == sum(row[0] == 1 for row in rows)
    label = opened.data["labels"].index("renew_loan")
    page.select_option("#label", str(label))
    assert opened.count() == sum(row[0] == 1 and row[1] == label for row in rows)
    page.fill("#search", "EMOJI \U0001f44d")
    assert opened.count() == 1
    assert page.locator("#count").text_content() == "1 of 1 examples"
    page.fill("#search", "no text has this")
    assert page.locator("#count").text_content() == "No example fits these filters."
    assert opened.count() == page.locator("#rows .w").count() == 0


def cosine(one: list[float], other: list[float]) -> float:
    return float(np.dot(one, other) / (np.linalg.norm(one) * np.linalg.norm(other) or 1.0))


@pytest.mark.parametrize(
    ("order", "names"),
    [("changed", ("no alignment", "aligned")), ("prior", ("fused prior", "aligned")), ("unsure", ())],
)
def test_orders_begin_with_the_largest(opened: Report, order: str, names: tuple[str, ...]) -> None:
    rows = opened.data["examples"]
    if names:
        one, other = map([row["name"] for row in opened.data["rows"]].index, names)
        expected = [1 - cosine(row[4][one], row[4][other]) for row in rows]
        if order == "changed":
            expected = [n + 3 * (row[5][0] != row[6][0]) for n, row in zip(expected, rows, strict=True)]
    else:
        expected = [-row[6][1] for row in rows]
    opened.page.select_option("#order", order)
    ids = opened.page.locator("#list li").evaluate_all("(items) => items.map((item) => +item.id.slice(8))")
    ranked = [expected[number] for number in ids]
    assert ranked == pytest.approx(sorted(expected, reverse=True), abs=3e-3)


def test_keys(opened: Report) -> None:
    page, texts, every = opened.page, [text for text, _ in ROWS], 2 * len(ROWS)
    for key in "jjk":
        page.keyboard.press(key)
    assert opened.shown_text() == texts[1]
    page.keyboard.press("/")
    page.keyboard.type("jk/v")
    assert page.input_value("#search") == "jk/v"
    page.fill("#search", "")
    page.keyboard.press("Escape")
    page.locator("#list").focus()
    page.keyboard.press("End")
    page.keyboard.press("ArrowUp")
    assert page.locator("#count").text_content() == f"{every - 1} of {every} examples"
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    assert page.locator("#readout q").text_content() == texts[0].split()[0]
    page.keyboard.press("v")
    assert page.input_value("#view") == "numbers"


def test_a_word_shows_its_value_in_every_row_and_to_a_screen_reader(opened: Report) -> None:
    page, row = opened.page, opened.data["examples"][0]
    page.locator("#rows .w").nth(1).hover()
    readout = page.locator("#readout span").all_text_contents()
    for shown, scores, said in zip(opened.data["rows"], row[4], readout, strict=True):
        value = float(said.removeprefix(shown["name"]).replace("\N{MINUS SIGN}", "-"))
        assert value == pytest.approx(scores[1], rel=0.01)
    assert page.locator("#rows .w.at").count() == len(opened.data["rows"])
    first = page.locator("#rows .words").first.locator(".w")
    strengths = first.evaluate_all("(all) => all.map((one) => +one.style.getPropertyValue('--a'))")
    largest = max(map(abs, row[4][0]))
    assert strengths == pytest.approx([abs(score) / largest for score in row[4][0]])
    heard = page.locator("#detail").aria_snapshot()
    assert 'list "cap: score of each word"' in heard
    sign = "+" if row[4][0][0] > 0 else "\N{MINUS SIGN}"
    assert f'listitem "{row[2][0]}: {sign}{abs(row[4][0][0]):#.3g}"' in heard
    listed = page.locator("#list").aria_snapshot()
    assert '- listbox "Examples"' in listed
    assert "[selected]" in listed


def test_fields_and_buttons_have_names_and_headings_skip_no_level(opened: Report) -> None:
    nameless = opened.page.evaluate(
        "() => [...document.querySelectorAll('input, select, button')]"
        ".filter((e) => !(e.labels?.length || e.getAttribute('aria-label'))).length"
    )
    assert nameless == 0
    levels = opened.page.evaluate(
        "() => [...document.querySelectorAll('h1, h2, h3, h4')].map((e) => +e.tagName[1])"
    )
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_has_enough_contrast_and_charts_follow_the_scheme(
    browser: "Browser", report: str, scheme: Literal["light", "dark"]
) -> None:
    page = browser.new_page(viewport={"width": 390, "height": 800}, color_scheme=scheme)
    page.goto(report)
    page.select_option("#outcome", "wrong")
    ratio, where = page.evaluate(CONTRAST)
    assert ratio >= 4.5, where  # WCAG 2.2, 1.4.3
    colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
    shade = sum(map(int, colour.strip("rgb()").split(",")))
    assert shade > 700 if scheme == "light" else shade < 100
    fill = "(node) => getComputedStyle(node).fill"
    name = page.locator("#results svg text", has_text="test").first
    assert name.evaluate(fill) == page.evaluate("getComputedStyle(document.body).color")
    heights = page.locator("svg.chart text").evaluate_all(
        "(nodes) => nodes.map((node) => node.getBoundingClientRect().height)"
    )
    assert min(heights) >= 9
    glyph = page.locator(".glyph.g1").first.evaluate("(node) => getComputedStyle(node).color")
    assert page.locator("#results use").nth(1).evaluate(fill) == glyph
    page.close()


def test_nothing_is_wider_than_a_phone(browser: "Browser", report: str) -> None:
    page = browser.new_page(viewport=PHONE)
    page.goto(report)
    for view in ("text", "numbers", "table"):
        page.select_option("#view", view)
        for text in ("xxxxxx", "right to left", "long"):
            page.fill("#search", text)
            assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    page.close()


def test_without_script_the_rest_can_be_read(browser: "Browser", report: str) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(report)
    assert page.locator("#results table").count() == 2
    assert page.locator("noscript").is_visible()
    context.close()


def test_the_page_on_tables_is_quiet_readable_and_fits_a_phone(browser: "Browser", tmp_path: Path) -> None:
    file = tmp_path / "r.html"
    file.write_text(render_report(report_contents(TABLE_RUNS)), encoding="utf-8")
    page = browser.new_page(viewport=PHONE, color_scheme="dark")
    watched = Report(page, file.as_uri())
    for table in page.locator("#features details").all():
        table.locator("summary").click()
    ratio, where = page.evaluate(CONTRAST)
    assert ratio >= 4.5, where
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    assert page.locator("#features tbody th").all_text_contents() == ["age", EVIL, "job=cook"] * 2
    assert page.locator("img").count() == 0
    watched.check(TITLE)
    page.close()
