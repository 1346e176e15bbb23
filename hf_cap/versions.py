"""Versions of the software that made a result."""

import importlib.metadata
from collections.abc import Iterable

MADE_WITH = ("hf-cap", "torch", "transformers", "datasets")


def versions(names: Iterable[str] = MADE_WITH) -> dict[str, str | None]:
    """Distribution name to installed version; `None` where it is not installed."""
    return {name: _version(name) for name in names}


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
