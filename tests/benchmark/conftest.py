from pathlib import Path

import pytest

from benchmarks.study.bench import Bench
from benchmarks.study.settings import BenchmarkSettings
from tests.benchmark.rooms import recipe, write_data, write_encoder


@pytest.fixture(scope="session")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set, an encoder and a recipe in one folder."""
    room = tmp_path_factory.mktemp("benchmark")
    write_data(room / "data")
    write_encoder(room / "encoder")
    recipe(room)
    return room


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """A benchmark in an empty folder, for what opens no model."""
    settings = BenchmarkSettings(dataset=("bank",), output_dir=str(tmp_path))
    return Bench(settings, make_source=None, load_student=None)  # type: ignore[arg-type]
