"""The public surface: explicit, sorted, importable, the same for type checkers, and light."""

import ast
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import hf_cap
from hf_cap.priors.base import SOURCES

LAZY = [hf_cap, hf_cap.evaluation, hf_cap.laat, hf_cap.lm, hf_cap.priors]
ALL = [*LAZY, hf_cap.losses, hf_cap.errors]
NAMES = [(module, name) for module in ALL for name in getattr(module, "__all__", ())]


@pytest.mark.parametrize(
    ("module", "name"), NAMES, ids=lambda value: getattr(value, "__name__", value)
)
def test_every_public_name_can_be_imported(module: ModuleType, name: str) -> None:
    assert getattr(module, name) is not None


@pytest.mark.parametrize("module", LAZY, ids=lambda module: module.__name__)
def test_type_checkers_see_the_same_names(module: ModuleType) -> None:
    tree = ast.parse(Path(str(module.__file__)).read_text(encoding="utf-8"))
    checked = {
        alias.name: str(node.module).removeprefix(f"{module.__name__}.")
        for block in ast.walk(tree)
        if isinstance(block, ast.If)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    namespaces = dict.fromkeys(getattr(module, "NAMESPACES", ()), module.__name__)
    assert checked == {**module._EXPORTS, **namespaces}
    assert sorted(module.__dir__()) == sorted(module.__all__)
    with pytest.raises(AttributeError, match="no attribute 'CAPTrianer'"):
        _ = module.CAPTrianer


def test_the_face_has_about_twenty_names_and_the_namespaces_have_the_rest() -> None:
    assert len(hf_cap._EXPORTS) == 20
    classes = [getattr(hf_cap.priors, name) for name in hf_cap.priors.__all__]
    places = {f"{cls.__module__}:{cls.__name__}" for cls in classes if isinstance(cls, type)}
    assert set(SOURCES.values()) <= places
    losses = {loss.__name__ for loss in hf_cap.losses.LOSSES.values()}
    assert losses <= vars(hf_cap.losses).keys()
    assert issubclass(hf_cap.errors.ConfigError, hf_cap.errors.CAPError)


def test_importing_loads_nothing_heavy_and_changes_nothing() -> None:
    code = (
        "import logging, sys, hf_cap.priors, hf_cap.evaluation, hf_cap.lm, hf_cap.laat\n"
        "assert not {'torch', 'transformers', 'datasets'} & set(sys.modules)\n"
        "assert logging.getLogger().handlers == []"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
