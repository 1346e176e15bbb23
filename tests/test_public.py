"""The public surface: explicit, sorted, importable, the same for type checkers, and light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import hf_cap

SOURCE = Path(str(hf_cap.__file__)).read_text()


@pytest.mark.parametrize("name", hf_cap.__all__)
def test_every_public_name_can_be_imported(name: str) -> None:
    assert getattr(hf_cap, name) is not None


def test_names_are_sorted_and_listed() -> None:
    assert hf_cap.__all__ == sorted(hf_cap.__all__, key=lambda name: (name != "__version__", name))
    assert dir(hf_cap) == sorted(hf_cap.__all__)


def test_type_checkers_see_the_same_names() -> None:
    checked = {
        (alias.name, node.module)
        for block in ast.walk(ast.parse(SOURCE))
        if isinstance(block, ast.If)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert checked == set(hf_cap._EXPORTS.items())


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'CAPTrianer'"):
        _ = hf_cap.CAPTrianer


def test_importing_loads_nothing_heavy_and_changes_nothing() -> None:
    code = (
        "import logging, sys, hf_cap\n"
        "assert not {'torch', 'transformers', 'datasets'} & set(sys.modules)\n"
        "assert logging.getLogger().handlers == []"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
