"""Write what README.md, the notebook and CITATION.cff take from pyproject.toml: `python docs/badges.py`.

The badge of Colab, and the address that the notebook installs from, are empty until `[project.urls]`
has a `Repository` on GitHub.
"""

import json
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

NOTEBOOK = "examples/shortcuts.ipynb"
_SHIELDS = "https://img.shields.io/badge"
_COLAB = "https://colab.research.google.com"


def write(root: Path) -> None:
    """Bring the files of a copy of the repository up to date."""
    project = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["project"]
    address = project["urls"].get("Repository", "").rstrip("/")
    _replace(root / "README.md", r"(?<=<!-- badges -->\n).*", _badges(project, address))
    citation = f"license: {project['license']}\n"
    citation += f'repository-code: "{address}"\n' if address else ""
    _replace(root / "CITATION.cff", r"license: .*\n(repository-code: .*\n)?", citation)
    source = json.dumps(f'HF_CAP = "{address and f"git+{address}"}"')[1:-1]
    _replace(root / NOTEBOOK, r'HF_CAP = \\".*?\\"', source)
    _replace(root / NOTEBOOK, r"(?<=<!-- badge -->\\n\",\n    \").*(?=\\n\",)", _colab(address))


def _badges(project: Mapping[str, Any], address: str) -> str:
    pythons = re.findall(r"Python :: (3\.\d+)", "\n".join(project["classifiers"]))
    paper = project["urls"]["Paper"]
    found = [
        f"![Python]({_SHIELDS}/python-{'%20%7C%20'.join(pythons)}-blue)",
        f"[![Licence]({_SHIELDS}/licence-{project['license'].replace('-', '--')}-blue)](LICENSE)",
        f"[![Paper]({_SHIELDS}/arXiv-{paper.rpartition('/')[2]}-b31b1b)]({paper})",
        _colab(address),
    ]
    return " ".join(filter(None, found))


def _colab(address: str) -> str:
    """A link that opens the notebook in Colab, which reads from GitHub; else nothing."""
    if not (place := re.fullmatch(r"https://github\.com/([\w.-]+/[\w.-]+?)(\.git)?", address)):
        return ""
    link = f"{_COLAB}/github/{place[1]}/blob/main/{NOTEBOOK}"
    return f"[![Open in Colab]({_COLAB}/assets/colab-badge.svg)]({link})"


def _replace(file: Path, pattern: str, text: str) -> None:
    before = file.read_text("utf-8")
    after, count = re.subn(pattern, lambda _: text, before)
    if count != 1:
        raise SystemExit(f"{file} has {count} places for {pattern!r}; it must have one.")
    if after != before:
        file.write_text(after, "utf-8")


if __name__ == "__main__":
    write(Path(__file__).parent.parent)
