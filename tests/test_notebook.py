"""The notebook in examples/ runs from top to bottom, and shows what it says."""

import json
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat")
NOTEBOOK = Path(__file__).parent.parent / "examples" / "shortcuts.ipynb"


def test_no_output_is_stored() -> None:
    cells = nbformat.read(NOTEBOOK, as_version=4).cells
    assert all(not cell.outputs and cell.execution_count is None for cell in cells if "outputs" in cell)


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_it_finds_the_names_and_trains_them_away(tmp_path: Path) -> None:
    client = pytest.importorskip("nbclient").NotebookClient
    made = nbformat.read(NOTEBOOK, as_version=4)
    client(made, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    found = json.loads((tmp_path / "runs/shortcuts/shortcuts.json").read_text())["shortcuts"]
    assert {one["value"] for one in found} >= {"anna", "dmitri", "farid"}
    accuracy = {
        run: json.loads((tmp_path / f"runs/{run}/evaluation/shifted.json").read_text())["accuracy"]
        for run in ("plain", "robust")
    }
    assert accuracy["robust"] > accuracy["plain"] + 0.2
    assert (tmp_path / "runs/report.html").is_file()
    (files,) = [cell.outputs[-1] for cell in made.cells if "push model" in cell.source]
    assert "model.safetensors" in files["data"]["text/plain"]
