"""Writes docs/reference/compatibility.md from the tests that ran, when HF_CAP_COMPATIBILITY names the file.

    HF_CAP_COMPATIBILITY=docs/reference/compatibility.md pytest tests/training -m ""

A test takes part by its marker `compatibility("what it shows")`; a row is good only if all its tests passed.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

_HEAD = """# Compatibility

What alignment training has been shown to work with: each row comes from tests that ran, on the machine that
wrote this file, and none is written by hand. `pytest tests/training -m ""` with `HF_CAP_COMPATIBILITY` set to
this file's path writes it again; the rows of DeepSpeed need it installed (`make test-deepspeed`).

| set-up | gradient mode | tests | result |
|---|---|---:|---|
"""
_rows: dict[tuple[str, str], list[str]] = {}


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "compatibility(what): a row of docs/reference/compatibility.md"
    )


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


def pytest_sessionfinish() -> None:
    target = os.environ.get("HF_CAP_COMPATIBILITY")
    if target and _rows:
        lines = [
            f"| {what} | `{mode}` | {len(found)} | {', '.join(sorted(set(found)))} |"
            for (what, mode), found in sorted(_rows.items())
        ]
        Path(target).write_text(_HEAD + "\n".join(lines) + "\n", encoding="utf-8")
