"""Cost of a report: seconds and megabytes to write, milliseconds to open and to filter.

1,000 texts of the demo data (repeated), five sources, two models; the scores are made up. Needs the pip
package `playwright`, and chromium, for the second half. The last line is JSON.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from itertools import cycle
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, sync_playwright

sys.path.insert(0, str(Path(__file__).parent.parent))

from hf_cap.report.page import write_report
from tests.report.runs import CHROMIUM_FLAGS, SOURCES, demo_rows, write_priors, write_runs

# from the event to the next frame that shows its effect
ACTION = """([id, value]) => new Promise((done) => {
  const field = document.getElementById(id);
  const start = performance.now();
  field.value = value;
  field.dispatchEvent(new Event(field.tagName === 'INPUT' ? 'input' : 'change'));
  requestAnimationFrame(() => setTimeout(() => done(performance.now() - start)));
})"""
ACTIONS = {
    "search": [("search", text) for text in ("c", "ca", "card", "")],
    "filter": [("outcome", name) for name in ("wrong", "right", "changed", "all")],
    "sort": [("order", name) for name in ("shift", "prior", "sources", "given")],
}


def main() -> None:
    """Write, open, filter; print a line each and the results as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="three rounds in the browser, not ten")
    parser.add_argument("--texts", type=int, default=1000, help="texts in the report")
    parser.add_argument("--chromium", default="/usr/bin/chromium", help="the browser")
    parser.add_argument("--results", type=Path, help="JSON file to write too")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as room:
        page_file = Path(room) / "report.html"
        found: dict[str, Any] = {"texts": given.texts, "sources": len(SOURCES)}
        found |= write(Path(room), page_file, given.texts)
        found |= look(page_file, given.chromium, rounds=3 if given.quick else 10)
    for name, value in found.items():
        print(f"{name}: {value}")
    if given.results:
        given.results.write_text(json.dumps(found, indent=2) + "\n")
    print(json.dumps(found))


def write(room: Path, page_file: Path, texts: int) -> dict[str, float]:
    """Seconds to write a report, and its size."""
    rows = [
        (f"{text} {n}", label) for n, (text, label) in zip(range(texts), cycle(demo_rows()), strict=False)
    ]
    runs = write_runs(room, rows, seeds=(0,))
    priors = write_priors(room / "priors", rows, SOURCES)
    start = time.perf_counter()
    write_report(runs, page_file, priors=priors)
    seconds = time.perf_counter() - start
    return {"write_s": round(seconds, 2), "megabytes": round(page_file.stat().st_size / 1e6, 2)}


def look(page_file: Path, chromium: str, rounds: int) -> dict[str, float]:
    """Medians over some rounds of opening the page, and of the slowest of each kind of action."""
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium, args=CHROMIUM_FLAGS)
        found = [one_round(browser.new_page(), page_file) for _ in range(rounds)]
        browser.close()
    return {name: round(statistics.median(one[name] for one in found), 1) for name in found[0]}


def one_round(page: Page, page_file: Path) -> dict[str, float]:
    """Milliseconds of one visit."""
    page.goto(page_file.as_uri())
    times = {
        "open_ms": float(
            page.evaluate("performance.timing.loadEventEnd - performance.timing.navigationStart")
        )
    }
    for kind, steps in ACTIONS.items():
        times[f"{kind}_ms"] = max(float(page.evaluate(ACTION, list(step))) for step in steps)
    page.close()
    return times


if __name__ == "__main__":
    main()
