"""What looks like a secret, in texts and in files that are about to be published.

The patterns are those detectors of `detect-secrets` whose tokens have a structure; its detectors of
entropy and of key words take ordinary texts for secrets.
"""

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from hf_cap.errors import ConfigError

_DETECTORS = (
    "AWS Access Key",
    "Azure Storage Account access key",
    "Discord Bot Token",
    "GitHub Token",
    "GitLab Token",
    "Mailchimp Access Key",
    "PyPI Token",
    "SendGrid API Key",
    "Slack Token",
    "Square OAuth Secret",
    "Stripe Access Key",
    "Telegram Bot Token",
    "Twilio API Key",
)
_MORE = {  # what these do not know, or take for granted too soon
    "Hugging Face Token": r"(?<![\w-])(?:hf_oauth_\S{8,}|(?:hf|api_org)_[A-Za-z0-9]{30,}\b)",
    # but for the words that stand for a password in manuals
    "Address with Password": r"://[^:/?#\[\]@{}\s]+:(?!(?i:pass|passwd|password|secret|[*.]+|x+)@)[^:/?#\[\]@{}\s]+@",
    "GitHub Token": r"github_pat_\w{22,}",
    "Google API Key": r"AIza[\w-]{35}",
    "OpenAI Token": r"\bsk-(?=[\w-]{0,60}\d)[\w-]{16,}",
    "NPM Token": r"npm_[A-Za-z0-9]{36}",
    "JSON Web Token": r"eyJ[\w-]{10,}\.eyJ[\w-]{10,}",
    "Private Key": r"BEGIN [A-Z ]{0,20}PRIVATE KEY(?: BLOCK)?-----(?:\s+[A-Z][\w-]+:.{0,80})*"
    r"\s+[A-Za-z0-9+/]{40}[\w+/=\s]*",
    "Bearer Token": r"\b[Bb]earer (?=[\w.~+/-]{0,60}\d)[\w.~+/-]{20,}",
    "Key or Password": r"(?i)(?:(?:api|access|auth|secret|private|client)[_-]?(?:key|token|secret)"
    r"|password|passwd)[\"']{0,2}\s?[=:]\s?[\"']?(?=[\w./+~-]{0,60}\d)(?=[\w./+~-]{0,60}[a-z])[\w./+~-]{16,}",
}


@cache
def _patterns() -> list[tuple[str, re.Pattern[str]]]:
    from detect_secrets.core.plugins.util import get_mapping_from_secret_type_to_class

    known: dict[str, Any] = get_mapping_from_secret_type_to_class()
    found = [(kind, pattern) for kind in _DETECTORS for pattern in known[kind].denylist]
    return found + [(kind, re.compile(pattern)) for kind, pattern in _MORE.items()]


def find_secret(text: str) -> str | None:
    """The kind of a secret in a text, or in one that is escaped as in JSON."""
    text = re.sub(r"\\+[nrt]", "\n", re.sub(r'\\+"', '"', text))
    return next((kind for kind, pattern in _patterns() if pattern.search(text)), None)


def without_secrets(text: str) -> str:
    """The text with `***` for each secret."""
    for _, pattern in _patterns():
        text = pattern.sub("***", text)
    return text


def refuse_secrets(folder: Path, files: str = "**/*") -> None:
    """Raise `ConfigError` if a file in a folder that is about to be published holds a secret."""
    for file in sorted(folder.glob(files)):
        if file.is_file() and (found := find_secret_in_file(file)):
            kind, where = found
            raise ConfigError(
                f"{file.relative_to(folder)}{where} holds what looks like a secret ({kind}). Nothing was "
                "published; remove it, and revoke it if it ever left this machine."
            )


def find_secret_in_file(file: Path) -> tuple[str, str] | None:
    """The kind of a secret in a file, cells of parquet included, and where in the file it is."""
    for where, texts in _texts(file):
        lines = dict.fromkeys("\n".join(texts.values()).split("\n"))  # each once, which is faster
        if kind := find_secret("\n".join(lines)):
            row = next((row for row, text in texts.items() if find_secret(text)), None)
            return kind, f", {where}, row {row}," if where and row is not None else ""
    return None


def _texts(file: Path) -> Iterator[tuple[str, dict[int, str]]]:
    """Parts of a file (named in parquet), each with its texts by row."""
    if file.suffix != ".parquet":
        with file.open("rb") as stream:
            # the weights behind the header hold no text
            size = int.from_bytes(stream.read(8), "little") if file.suffix == ".safetensors" else -1
            text = stream.read(size).decode(errors="replace")
        # the card of a text escapes what Markdown would take for its own
        yield "", {0: text, 1: text.replace("\\", "") if file.suffix == ".md" else ""}
        return
    import pyarrow.parquet as pq

    content, start = pq.ParquetFile(file), 0
    schema = content.schema_arrow
    yield "", {0: f"{schema.names} {schema.metadata}"}
    for batch in content.iter_batches():
        for name, column in zip(schema.names, batch.columns, strict=True):
            if re.search("string|binary", str(column.type)):
                rows = enumerate(column.to_pylist(), start)
                yield f"column {name!r}", {row: "\n".join(_strings(cell)) for row, cell in rows}
        start += len(batch)


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, bytes):
        yield value.decode(errors="replace")
    elif isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _strings(each)
