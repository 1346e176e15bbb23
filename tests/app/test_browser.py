"""The audit app with hostile texts in Debian's chromium: edits, decisions, requests, dark, phone."""

import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pytest

from hf_cap.app import serve
from hf_cap.cues import load_marks
from tests.report.runs import HOSTILE, Watched

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

pytestmark = [
    pytest.mark.browser,
    # gradio 6.31 sums up its queue with options that pandas 3.1 deprecates
    pytest.mark.filterwarnings("ignore::pandas.errors.Pandas4Warning"),
]

CONTRAST = (
    (Path(__file__).parent.parent / "report" / "contrast.js")
    .read_text()
    .replace('"#rows .w,', '".audit :is(.w, h3, h4, li, small, q, label, button), #rows .w,')
)
WIDE: Any = {"width": 1280, "height": 900}
PHONE: Any = {"width": 390, "height": 800}


@pytest.fixture(scope="module")
def fit(made_once: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shutil.copytree(made_once, tmp_path_factory.mktemp("app") / "fit")


@pytest.fixture(scope="module")
def address(fit: Path) -> Iterator[str]:
    pytest.importorskip("gradio")
    # gradio leaves its event loop and sockets to the end of the process
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        served = serve(fit, block=False)
        yield served.local_url
        served.close()


class App(Watched):
    """The page as a user sees it."""

    def __init__(self, page: "Page", address: str) -> None:
        page.set_default_timeout(60_000)
        super().__init__(page, address)
        self.panels = page.locator(".panels section")

    def type(self, text: str) -> None:
        """Type a text and wait for its words."""
        self.page.get_by_label("or type one").fill(text)
        for _ in range(600):
            if self.words(0).split() == text.split():
                return
            self.page.wait_for_timeout(100)
        raise AssertionError(f"the page shows {self.words(0)!r}")

    def words(self, panel: int) -> str:
        return " ".join(self.panels.nth(panel).locator(".w").all_text_contents())

    def percents(self, what: str, **options: Any) -> "Locator":
        return self.panels.first.locator(what, **options)

    def pick(self, text: str) -> None:
        self.page.get_by_label("Pick a text").click()
        self.page.get_by_role("option", name=text).click()
        self.panels.first.wait_for()


@pytest.fixture
def app(browser: "Browser", address: str) -> Iterator[App]:
    context = browser.new_context(viewport=WIDE, reduced_motion="reduce")
    opened = App(context.new_page(), address)
    yield opened
    opened.check("hf_cap audit")
    context.close()


def test_a_picked_text_is_edited_by_clicks_and_put_back(app: App) -> None:
    app.pick("renew my card (renew, train)")
    assert app.words(0) == app.words(1) == "renew my card"
    assert app.panels.nth(0).locator("h3").text_content() == "baseline"
    assert app.panels.nth(1).locator("h3").text_content() == "aligned"
    # the prior of the text
    strengths = app.page.locator(".prior .w").evaluate_all("(all) => all.map((w) => w.className)")
    assert strengths == ["w for", "w ", "w against"]
    assert app.percents("small", has_text="was").count() == 0
    before = app.percents(".now").all_text_contents()
    app.panels.first.locator("[data-word='1']").click()
    app.percents("small", has_text="was").first.wait_for()
    assert app.words(0) == app.words(1) == "renew card"
    assert app.page.get_by_label("or type one").input_value() == "renew card"
    assert app.page.locator(".prior").count() == 0
    was = [said.removeprefix("was ") for said in app.percents("small").all_text_contents()]
    assert sorted(filter(lambda said: "%" in said, was)) == sorted(before)
    app.page.get_by_role("button", name="Put the text back").click()
    app.page.locator(".prior").wait_for()
    assert app.words(0) == "renew my card"
    assert app.percents(".now").all_text_contents() == before


def test_hostile_texts_show_as_text(app: App) -> None:
    elements = app.page.locator("script, img, iframe").count()
    for text in (*HOSTILE[:4], HOSTILE[5]):
        app.type(text)
    assert app.page.locator("script, img, iframe").count() == elements
    app.page.get_by_label("or type one").fill("   ")
    app.page.get_by_text("Type a text, or pick one.").wait_for()


def test_a_decision_is_saved_and_found_again(app: App, fit: Path) -> None:
    app.page.get_by_role("tab", name="Shortcuts").click()
    rows = app.page.locator(".marks li")
    rows.first.wait_for()
    assert rows.count() == 3
    assert "3 of 4 texts, 1 elsewhere" in (rows.first.text_content() or "")
    rows.first.get_by_label("fine").check()
    app.page.get_by_text("Saved in shortcuts.yaml: hold for cancel is fine.").wait_for()
    decisions = [mark.decision for mark in load_marks(fit / "shortcuts.yaml")]
    assert decisions == ["fine", "fine", "shortcut"]
    app.page.reload()
    app.page.get_by_role("tab", name="Shortcuts").click()
    assert rows.first.get_by_label("fine").is_checked()
    rows.first.get_by_label("shortcut").check()
    app.page.get_by_text("hold for cancel is shortcut.").wait_for()
    rows.first.get_by_role("button", name="Show a text").click()
    app.page.get_by_text("Marked as shortcuts in this text").wait_for()
    assert app.words(0) == "cancel the hold"


def test_an_error_is_one_sentence(app: App, fit: Path) -> None:
    file = fit / "shortcuts.yaml"
    before = file.read_text()
    app.page.get_by_role("tab", name="Shortcuts").click()
    row = app.page.locator(".marks li").first
    row.wait_for()
    file.write_text("- value: <i>x</i>\n  label: pay\n")
    try:
        row.get_by_label("fine").check()
        app.page.get_by_text("has no 'hold' for 'cancel' any more; load the page again.").wait_for()
    finally:
        file.write_text(before)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone_and_has_enough_contrast(
    browser: "Browser", address: str, scheme: Literal["light", "dark"]
) -> None:
    page = browser.new_page(viewport=PHONE, color_scheme=scheme)
    opened = App(page, address)
    opened.pick("renew my card (renew, train)")
    for text in ("renew my card now", "long " + 900 * "x" + " word"):
        opened.type(text)
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
    shade = sum(map(int, colour.strip("rgb()").split(",")[:3]))
    assert shade > 700 if scheme == "light" else shade < 100
    for tab in ("Texts", "Shortcuts"):
        page.get_by_role("tab", name=tab).click()
        ratio, where = page.evaluate(CONTRAST)
        assert ratio >= 4.5, where  # WCAG 2.2, 1.4.3
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    opened.check("hf_cap audit")
    page.close()
