"""One progress bar at a time, and an estimate before work that takes long."""

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_logger = logging.getLogger(__name__)

_FIRST = 1.0
"""Seconds of work that an estimate rests on, at least, and before which there is no bar."""
_SHARE, _ENOUGH = 0.02, 10.0
"""It rests on this part of the work, or on so many seconds. A first result that is less is no rate."""
_LONG = 20.0  # seconds of work in all that are worth an estimate
_LOOK = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt}{unit} [{elapsed}<{remaining}{postfix}]"


class Progress:
    """Work of a known size. Use `progress` to begin it.

    Attributes:
        scores: Answers of a language model that it has taken so far.
    """

    def __init__(self, total: int, unit: str, what: str, shown: bool) -> None:
        from tqdm.auto import tqdm

        self.total, self.unit, self.what, self.scores = total, unit, what, 0
        self.done, self.before, self.started, self.told = 0, 0, time.monotonic(), not shown
        seen = sys.stderr.isatty() or "ipykernel" in sys.modules
        look = {
            "desc": what,
            "unit": f" {unit}",
            "leave": False,
            "dynamic_ncols": True,
            "bar_format": _LOOK,
            "delay": _FIRST,
        }
        self.bar = tqdm(total=total, disable=not (shown and seen and total > 1), **look)

    def update(self, count: int = 1) -> None:
        """Count what was done; the first time that this allows it, log how long all of it takes."""
        now = time.monotonic()
        self.done += count
        self.bar.update(count)
        # what comes before a first result is not its rate
        if self.done == count < _SHARE * self.total:
            self.started, self.before = now, self.done
        spent, share = now - self.started, (self.done - self.before) / max(self.total, 1)
        enough = spent >= _FIRST and (share >= _SHARE or spent >= _ENOUGH)
        if self.told or not enough or self.done >= self.total:
            return
        self.told = True
        if spent / share >= _LONG:
            scores = f", {round(self.scores / share):,} scores" if self.scores else ""
            told = (self.what, f"{self.total:,}", self.unit, scores, duration(spent / share))
            _logger.info("%s: %s %s%s, about %s", *told)


_current: ContextVar[Progress | None] = ContextVar("_current", default=None)


@contextmanager
def progress(total: int, unit: str, what: str, shown: bool = True) -> Iterator[Progress]:
    """Begin some work of `total` units; inside other such work, or where not `shown`, it shows nothing.

    A bar appears on a terminal and in a notebook. The work inside tells the outer one its `scores`.
    """
    outer = _current.get()
    own = Progress(total, unit, what, shown and outer is None)
    token = _current.set(outer or own)
    try:
        yield own
    finally:
        own.bar.close()
        _current.reset(token)
        if outer is not None and unit == "scores":
            outer.scores += own.done


@contextmanager
def silent() -> Iterator[None]:
    """Show no progress of the work in it."""
    token = _current.set(Progress(0, "", "", shown=False))
    try:
        yield
    finally:
        _current.reset(token)


def duration(seconds: float) -> str:
    """Such as `40 s`, `6 min` or `2.5 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
