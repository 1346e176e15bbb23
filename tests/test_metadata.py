"""What several files say of the package agrees: metadata, citation, recipe, issue forms, documentation."""

import ast
import json
import re
import shutil
import tomllib
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml

import hf_cap
from docs import badges

ROOT = Path(__file__).parent.parent
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
CONDA_NAMES = {"torch": "pytorch", "huggingface-hub": "huggingface_hub"}
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])


def load(name: str) -> Any:
    return yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))


def test_the_versions_agree() -> None:
    recipe, citation = load("conda/recipe.yaml"), load("CITATION.cff")
    found = {
        PROJECT["version"], hf_cap.__version__, recipe["context"]["version"], citation["version"],
    }  # fmt: skip
    assert len(found) == 1
    assert {PROJECT["license"], citation["license"], recipe["about"]["license"]} == {"Apache-2.0"}
    assert recipe["about"]["summary"] == PROJECT["description"]


def test_the_conda_recipe_needs_what_the_package_needs() -> None:
    recipe = load("conda/recipe.yaml")
    wanted = {f"python {PROJECT['requires-python']}"}
    for requirement in PROJECT["dependencies"]:
        name, limits = re.fullmatch(r"([\w-]+)(.*)", requirement).groups()  # type: ignore[union-attr]
        wanted.add(f"{CONDA_NAMES.get(name, name)} {limits}")
    assert set(recipe["requirements"]["run"]) == wanted
    scripts = [f"{name} = {place}" for name, place in PROJECT["scripts"].items()]
    assert recipe["build"]["python"]["entry_points"] == scripts


def test_the_classifiers_begin_at_the_python_that_is_required() -> None:
    found = re.findall(r"Python :: (3\.\d+)", "\n".join(PROJECT["classifiers"]))
    assert PROJECT["requires-python"] == f">={found[0]}"
    assert f"Python {found[0]} or later" in (ROOT / "README.md").read_text("utf-8")
    page = (ROOT / "docs/reference/compatibility.md").read_text("utf-8")
    assert re.findall(r"^\| (3\.\d+) \|", page, re.MULTILINE) == found


def test_each_extra_is_described_where_one_installs() -> None:
    table = re.findall(r"^\| (`.*?) \|", (ROOT / "docs/start/first_model.md").read_text("utf-8"), re.M)
    assert set(re.findall(r"`(\w+)`", " ".join(table))) == set(PROJECT["optional-dependencies"])


def test_a_bug_report_asks_for_the_environment() -> None:
    fields = [field["id"] for field in load(".github/ISSUE_TEMPLATE/bug.yml")["body"]]
    assert fields == ["what", "how", "env"]
    assert load(".github/ISSUE_TEMPLATE/idea.yml")["body"]


BADGED = ("README.md", "CITATION.cff", "examples/shortcuts.ipynb")


def test_the_badges_are_those_of_the_metadata(tmp_path: Path) -> None:
    copies = {name: tmp_path / name for name in (*BADGED, "pyproject.toml")}
    for name, copy in copies.items():
        copy.parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, copy)
    badges.write(tmp_path)
    before = {name: copies[name].read_text("utf-8") for name in BADGED}
    assert before == {name: (ROOT / name).read_text("utf-8") for name in BADGED}

    written = copies["pyproject.toml"].read_text("utf-8")
    urls = '[project.urls]\nRepository = "https://github.com/someone/desk"\n'
    copies["pyproject.toml"].write_text(written.replace("[project.urls]\n", urls), "utf-8")
    badges.write(tmp_path)
    colab = "https://colab.research.google.com/github/someone/desk/blob/main/examples/shortcuts.ipynb"
    assert colab in copies["README.md"].read_text("utf-8")
    cells = json.loads(copies[BADGED[2]].read_text("utf-8"))["cells"]
    assert colab in cells[0]["source"][1]
    assert 'HF_CAP = "git+https://github.com/someone/desk"\n' in cells[1]["source"]
    citation = yaml.safe_load(copies["CITATION.cff"].read_text("utf-8"))
    assert citation["repository-code"] == "https://github.com/someone/desk"

    copies["pyproject.toml"].write_text(written, "utf-8")
    badges.write(tmp_path)
    assert before == {name: copies[name].read_text("utf-8") for name in BADGED}


def python_blocks() -> list[tuple[str, str]]:
    return [
        (str(page.relative_to(ROOT)), block)
        for page in PAGES
        for block in re.findall(r"```python\n(.*?)```", page.read_text("utf-8"), re.DOTALL)
    ]


@pytest.mark.parametrize(("page", "block"), python_blocks())
def test_a_python_block_parses_and_imports_names_that_exist(page: str, block: str) -> None:
    code = block.replace("(model, args, ..., ", "(model, args, ")
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and str(node.module).split(".")[0] == "hf_cap":
            module = import_module(str(node.module))
            missing = [name.name for name in node.names if not hasattr(module, name.name)]
            assert not missing, f"{page}: {node.module} has no {missing}"


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_the_links_of_pages_outside_the_site_lead_somewhere(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    for target, anchor in re.findall(r"(?:\]\(|src=\"|href=\")(?!https?:)([\w./-]+)(#[\w-]+)?", text):
        assert (ROOT / target).exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", (ROOT / target).read_text("utf-8"), re.MULTILINE)
            anchors = [re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings]
            assert anchor[1:] in anchors, target + anchor
