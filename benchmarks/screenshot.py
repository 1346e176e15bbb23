"""Photograph a report for its page: `python benchmarks/screenshot.py report.html docs/images/report.png`.

Needs the pip package `playwright` and a chromium, named by `--chromium`.
"""

import argparse
from pathlib import Path

from playwright.sync_api import sync_playwright

FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()


def photograph(
    page_file: Path, image: Path, *, width: int, height: int, dark: bool, part: str | None, chromium: str
) -> None:
    """Write a PNG of a page, or of the part of it that a CSS selector names; height 0 takes all of it."""
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium, args=FLAGS)
        page = browser.new_page(
            viewport={"width": width, "height": height or 900},
            color_scheme="dark" if dark else "light",
            device_scale_factor=2,
            reduced_motion="reduce",
        )
        page.goto(page_file.resolve().as_uri())
        # a sticky bar would lie across the part
        page.evaluate("document.querySelector('nav').style.position = 'static'")
        image.parent.mkdir(parents=True, exist_ok=True)
        if part:
            page.locator(part).first.screenshot(path=image)
        else:
            page.screenshot(path=image, full_page=not height)
        browser.close()


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("report", type=Path, help="HTML file that `hf-cap report` wrote")
    parser.add_argument("image", type=Path, help="PNG file to write")
    parser.add_argument("--width", type=int, default=1280, help="width of the window, in pixels")
    parser.add_argument("--height", type=int, default=0, help="height of it; 0: the whole page")
    parser.add_argument("--dark", action="store_true", help="dark colours")
    parser.add_argument("--part", help="CSS selector of the part to take, such as #examples")
    parser.add_argument("--chromium", default="/usr/bin/chromium", help="the browser")
    given = parser.parse_args()
    photograph(
        given.report,
        given.image,
        width=given.width,
        height=given.height,
        dark=given.dark,
        part=given.part,
        chromium=given.chromium,
    )


if __name__ == "__main__":
    main()
