"""The public surface: explicit, sorted, importable, the same for type checkers, and light."""

import subprocess
import sys
from types import ModuleType

import pytest

import hf_cap
from hf_cap.priors.base import SOURCES

LAZY = [hf_cap, hf_cap.evaluation, hf_cap.laat, hf_cap.lm, hf_cap.priors]
ALL = [*LAZY, hf_cap.losses, hf_cap.errors]
NAMES = [(module, name) for module in ALL for name in getattr(module, "__all__", ())]


@pytest.mark.parametrize(("module", "name"), NAMES, ids=lambda value: getattr(value, "__name__", value))
def test_every_public_name_can_be_imported(module: ModuleType, name: str) -> None:
    assert getattr(module, name) is not None


@pytest.mark.parametrize("module", LAZY, ids=lambda module: module.__name__)
def test_the_names_are_listed_and_others_are_errors(module: ModuleType) -> None:
    assert set(module.__dir__()) == set(module.__all__) - {"__version__"}
    with pytest.raises(AttributeError, match="no attribute 'CAPTrianer'"):
        _ = module.CAPTrianer


def test_the_face_has_about_twenty_names_and_the_namespaces_have_the_rest() -> None:
    assert len(hf_cap.__all__) == 27  # six are namespaces
    classes = [getattr(hf_cap.priors, name) for name in hf_cap.priors.__all__]
    places = {f"{cls.__module__}:{cls.__name__}" for cls in classes if isinstance(cls, type)}
    assert set(SOURCES.values()) <= places
    losses = {loss.__name__ for loss in hf_cap.losses.LOSSES.values()}
    assert losses <= vars(hf_cap.losses).keys()
    assert issubclass(hf_cap.errors.ConfigError, hf_cap.errors.CAPError)


def test_importing_loads_nothing_heavy_and_changes_nothing() -> None:
    code = (
        "import logging, sys, hf_cap.evaluation as e, hf_cap.lm.open, hf_cap.laat, hf_cap.priors as p\n"
        "light = ('Fusion', 'Prior', 'Settings', 'Source')\n"
        "[getattr(p, name) for name in p.__all__ if name.endswith(light)]\n"
        "e.EvaluationSettings(), e.AttackSettings()\n"
        "heavy = {'torch', 'transformers', 'datasets', 'accelerate', 'openai', 'sklearn', 'scipy'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
        "assert logging.getLogger().handlers == []"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
