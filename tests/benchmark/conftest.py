from pathlib import Path

import pytest

from tests.benchmark.rooms import recipe, write_data, write_encoder


@pytest.fixture(scope="session")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set, an encoder and a recipe in one folder."""
    room = tmp_path_factory.mktemp("benchmark")
    write_data(room / "data")
    write_encoder(room / "encoder")
    recipe(room)
    return room
