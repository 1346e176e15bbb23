"""A report with hostile texts, opened in Debian's chromium."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hf_cap.report.page import write_report
from tests.publishing.report_runs import HOSTILE, SOURCES, demo_rows, write_priors, write_runs

if TYPE_CHECKING:
    from playwright.sync_api import Browser

FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()
ROWS = demo_rows()[:40] + [(text, "renew_loan") for text in HOSTILE]


@pytest.fixture(scope="session")
def browser() -> Iterator["Browser"]:
    api = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("needs chromium: apt-get install chromium")
    with api.sync_playwright() as play:
        opened = play.chromium.launch(executable_path=chromium, args=FLAGS)
        yield opened
        opened.close()


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_runs(tmp_path_factory.mktemp("runs"), ROWS, seeds=(0, 1))


@pytest.fixture(scope="session")
def report(runs: list[Path], tmp_path_factory: pytest.TempPathFactory) -> str:
    """Address of the page."""
    folder = tmp_path_factory.mktemp("report")
    write_report(runs, folder / "r.html", priors=write_priors(folder / "priors", ROWS, SOURCES))
    return (folder / "r.html").as_uri()
