import subprocess
import sys
from importlib.util import find_spec

import pytest

from hf_cap.errors import ConfigError
from hf_cap.priors.base import SOURCES, source_class


@pytest.mark.parametrize("name", sorted(SOURCES))
def test_each_source_is_a_map_function_under_its_name(name: str) -> None:
    source = source_class(name)
    assert source.name == name
    assert callable(source.from_dataset)
    assert callable(source.__call__)


def test_the_table_is_sorted_and_its_modules_exist() -> None:
    assert list(SOURCES) == sorted(SOURCES)
    for place in SOURCES.values():
        assert find_spec(f"hf_cap.priors.{place.partition(':')[0]}")


def test_an_unknown_source_is_refused_with_those_that_exist() -> None:
    with pytest.raises(ConfigError, match=r"no prior source 'limes'; there are \['cap', 'channel'"):
        source_class("limes")


def test_the_settings_import_no_model_library() -> None:
    code = (
        "import sys, hf_cap.priors.base\n"
        "print(sorted({'torch', 'transformers', 'datasets', 'captum', 'lime'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
