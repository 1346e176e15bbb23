"""Writes the table of docs/reference/compatibility.md, if HF_CAP_COMPATIBILITY names the file.

    HF_CAP_COMPATIBILITY=docs/reference/compatibility.md pytest tests/training -m ""

A test takes part by its marker `compatibility("what it shows")`; a row is good only if all its tests passed.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

_MODES = ("double_backward", "finite_difference")
_rows: dict[tuple[str, str], list[str]] = {}


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "compatibility(what): a row of docs/reference/compatibility.md")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    report = yield
    marker = item.get_closest_marker("compatibility")
    if marker and (call.when == "call" or report.skipped or report.failed):  # type: ignore[attr-defined]
        parameters = getattr(item, "callspec", None)
        values = parameters.params if parameters else {}
        what = marker.args[0].format(**values)
        mode = marker.kwargs.get("mode") or values.get("mode", "both")
        _rows.setdefault((what, mode), []).append(report.outcome)  # type: ignore[attr-defined]
    return report


def table() -> str:
    """A row per set-up, with the outcomes in each gradient mode; a test in `both` counts in both."""
    lines = [f"| set-up | {' | '.join(f'`{mode}`' for mode in _MODES)} |", "|---|---|---|"]
    for what in sorted({what for what, _ in _rows}):
        found = [{*_rows.get((what, mode), []), *_rows.get((what, "both"), [])} for mode in _MODES]
        lines.append(f"| {what} | {' | '.join(', '.join(sorted(each)) for each in found)} |")
    return "\n".join([*lines, ""])


def pytest_sessionfinish() -> None:
    target = os.environ.get("HF_CAP_COMPATIBILITY")
    if target and _rows:
        page = Path(target).read_text(encoding="utf-8")
        page = re.sub(r"^\| set-up .*\n(?:\|.*\n)*", lambda _: table(), page, flags=re.MULTILINE)
        Path(target).write_text(page, encoding="utf-8")
