"""The report on models of tables in a real browser."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pytest

from hf_cap.report.page import build_report, render_report
from tests.tabular.report_cases import EVIL, RUNS

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.browser

CONTRAST = Path(__file__).parent / "contrast.js"


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Address of the page."""
    path = tmp_path_factory.mktemp("tables") / "r.html"
    path.write_text(render_report(build_report(RUNS)), encoding="utf-8")
    return path.as_uri()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_is_quiet_readable_and_fits_a_phone(
    browser: "Browser", tables: str, scheme: Literal["light", "dark"]
) -> None:
    page = browser.new_page(viewport={"width": 360, "height": 740}, color_scheme=scheme)
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(tables)
    for table in page.locator("#features details").all():
        table.locator("summary").click()
    ratio, where = page.evaluate(CONTRAST.read_text())
    # WCAG 2.2, 1.4.3
    assert ratio >= 4.5, where
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert complaints == []
    page.close()


def test_features_are_shown_as_text_and_charts_have_names(browser: "Browser", tables: str) -> None:
    page = browser.new_page()
    page.goto(tables)
    names = page.locator("#features tbody th").all_text_contents()
    assert names == ["age", EVIL, "job=cook"] * 2
    assert page.locator("img").count() == 0
    charts = page.locator("#features svg.chart")
    said = [chart.get_attribute("aria-label") or "" for chart in charts.all()]
    assert len(said) == 2
    assert all("age told" in label for label in said)
    # a bar for each of two scores, a mark for each of three models
    assert charts.first.locator("rect").count() == 2
    assert charts.first.locator("path.mark").count() == 3 * 3
    page.close()
