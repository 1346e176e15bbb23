"""What may not leave the machine: local paths and secrets."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from ..embedded import PREFIX, hub_id

SECRET = re.compile(
    r"\b(hf_[A-Za-z0-9]{20,}|hf_oauth_\S{8,}|sk-[A-Za-z0-9_-]{16,}|gh[opsu]_[A-Za-z0-9]{20,})"
)
"""Access tokens of the Hub, of OpenAI-compatible servers and of GitHub."""
LOCAL_PATH = re.compile(r"(?<![\w.:/<])(?:~|/|[A-Za-z]:\\)[^\s'\"=,;]*[^\s'\"=,;.)\]]")
"""An absolute path, or one below the home folder."""
_SERVER = re.compile(r"\b\w+://[^\s'\"|]+")
"""An address, with whatever credentials it holds: of a language model's server, most likely."""
_PRIVATE = re.compile(
    # `tokens` are counted
    r"token(?!s)|secret|password|api_key|(^|_)(dir|path|url|host|proxy)$|(^|_)hub(_|$)"
)


def public_id(name: str | None) -> str | None:
    """The Hub id that a model or data set is known by; `None` where it is local or has none."""
    if not name:
        return None
    if name.startswith(PREFIX):
        return hub_id(name)
    if _is_local(name):
        return None
    try:
        validate_repo_id(name)
    except HFValidationError:
        return None
    return name


def public_name(name: str | None) -> str | None:
    """The Hub id, or for what is local the last part of its path."""
    if not name:
        return None
    return public_id(name) or _last(name) or None


def public_text(text: str) -> str:
    """A text in which each local path is cut down to its last part, and each address and secret to `***`."""
    without_servers = _SERVER.sub("***", text)
    return SECRET.sub("***", LOCAL_PATH.sub(lambda path: _last(path[0]), without_servers))


def public_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings without those that name folders, servers, accounts or secrets."""
    return {
        name: public_text(value) if isinstance(value, str) else value
        for name, value in settings.items()
        if not _PRIVATE.search(name)
    }


def _last(path: str) -> str:
    return re.split(r"[/\\]", path.rstrip("/\\"))[-1]


def _is_local(name: str) -> bool:
    return name.startswith((".", "/", "~")) or "\\" in name or Path(name).expanduser().exists()
