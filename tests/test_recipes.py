"""Every recipe and every command quoted in the documentation can be parsed, and none publishes."""

import re
import shlex
from importlib import import_module
from pathlib import Path

import pytest

from hf_cap.cli import COMMANDS, parse_command
from hf_cap.cli.config import read_yaml

ROOT = Path(__file__).parent.parent


def command_of(recipe: Path) -> str:
    """The command that reads a recipe: by its name, or by the folder of the benchmarks."""
    first = recipe.stem.split("_")[0]
    return "benchmark" if recipe.parent.name == "benchmark" and first != "laat" else first


STAGES = sorted(path for path in (ROOT / "recipes").rglob("*.yaml") if command_of(path) in COMMANDS)
DOCUMENTS = sorted(
    [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "recipes").rglob("*.md")]
)


def quoted_commands() -> list[str]:
    """`hf-cap ...` lines of all shell and indented blocks, with continued lines joined."""
    found = []
    for document in DOCUMENTS:
        text = document.read_text(encoding="utf-8")
        blocks = re.findall(r"```(?:bash|sh|console)\n(.*?)```", text, re.DOTALL)
        for block in [*blocks, *re.findall(r"^    hf-cap (?:.*\\\n)*.*$", text, re.MULTILINE)]:
            for line in block.replace("\\\n", " ").splitlines():
                if match := re.search(r"(?:^|\s)(?:hf-cap|-m hf_cap) (.+)$", line):
                    found.append(match[1].split("#")[0].strip())
    return found


def parse(words: list[str]) -> dict[str, object] | None:
    module = import_module(f"hf_cap.cli.{COMMANDS[words[0]].module}")
    return parse_command(words[0], module, words[1:])


@pytest.mark.parametrize("recipe", STAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_recipe_parses_whole_and_publishes_nothing(recipe: Path) -> None:
    command = command_of(recipe)
    required = {"dataset": "d", "output_dir": "o", "model": "m"}
    given = read_yaml(recipe)
    extra = [f"--{key}={value}" for key, value in required.items() if key not in given]
    without_model = command in ("fuse", "benchmark")
    known = [word for word in extra if not (without_model and word.startswith("--model"))]
    values = parse([command, "--config", str(recipe), *known])
    assert values is not None
    assert not values.get("push_to_hub")


def test_there_are_recipes_and_quoted_commands() -> None:
    assert len(STAGES) >= 12
    assert len(quoted_commands()) >= 5


@pytest.mark.parametrize("command", quoted_commands())
def test_a_quoted_command_parses(command: str) -> None:
    words = [word for word in shlex.split(command) if word not in ("|", "&&")]
    if words[0].startswith("-"):
        return
    assert words[0] in COMMANDS
    if not {"--help", "--help-all"} & set(words):
        parse([word if not word.startswith("recipes/") else str(ROOT / word) for word in words])
