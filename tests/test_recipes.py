"""Every recipe and every command quoted in the documentation can be parsed, and none publishes."""

import re
import shlex
from pathlib import Path

import pytest

from hf_cap.cli import COMMANDS, load_command
from hf_cap.cli.core import parse, read_settings
from hf_cap.errors import ConfigError

ROOT = Path(__file__).parent.parent
RECIPES = sorted((ROOT / "recipes").rglob("*.yaml"))
STAGES = [path for path in RECIPES if path.stem.split("_")[0] in COMMANDS and path.parent.name != "study"]
DOCUMENTS = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "recipes").rglob("*.md")])


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


@pytest.mark.parametrize("recipe", STAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_recipe_parses_whole_and_publishes_nothing(recipe: Path) -> None:
    name = recipe.stem.split("_")[0]
    given = read_settings(str(recipe))
    needed = {"dataset": "d", "output_dir": "o", "model": "m"}
    if name in ("fit", "fuse"):
        del needed["model"]
    extra = [f"--{key}={value}" for key, value in needed.items() if key not in given]
    values = parse(name, load_command(name), ["--config", str(recipe), *extra])
    assert values
    assert not values.get("push_to_hub")


def test_there_are_recipes_and_quoted_commands() -> None:
    others = {path.parent.name for path in RECIPES} - {path.parent.name for path in STAGES}
    assert others <= {"accelerate", "study", "tables"}
    assert len(STAGES) >= 12
    assert len(quoted_commands()) >= 5
    with pytest.raises(ConfigError, match="no setting `nn`"):
        parse("fuse", load_command("fuse"), ["--nn", "3"])


@pytest.mark.parametrize("command", quoted_commands())
def test_a_quoted_command_parses(command: str) -> None:
    words = [word for word in shlex.split(command) if word not in ("|", "&&")]
    if words[0].startswith("-"):
        return
    assert words[0] in COMMANDS
    if not {"--help", "-h"} & set(words):
        parse(words[0], load_command(words[0]), words[1:])
