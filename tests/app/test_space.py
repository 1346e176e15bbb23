"""The Space that `hf-cap push space` stages, and that it serves the app."""

import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from urllib.error import URLError

import pytest
import yaml

from hf_cap.app import push_space
from hf_cap.errors import ModelError
from hf_cap.hub import PushOptions
from tests.app.conftest import write_fit
from tests.launching import run

OPTIONS = PushOptions(repo_id="alice/desk-app", license="mit")


def front(folder: Path) -> dict[str, object]:
    found: dict[str, object] = yaml.safe_load((folder / "README.md").read_text().split("---")[1])
    return found


def answer(address: str, server: subprocess.Popen[bytes]) -> str:
    """The page, as soon as it is served."""
    for _ in range(600):
        assert server.poll() is None, "the app ended"
        try:
            with urllib.request.urlopen(address, timeout=30) as page:
                return str(page.read().decode())
        except URLError:
            time.sleep(0.2)
    raise AssertionError("the app does not answer")


# a process of its own, which loads torch
@pytest.mark.slow
def test_the_models_of_a_fit_are_staged_and_served_and_no_text_is(tmp_path: Path) -> None:
    pytest.importorskip("gradio")
    (tmp_path / "fit").mkdir()
    folder = push_space(str(write_fit(tmp_path / "fit")), OPTIONS)
    assert folder == tmp_path / "fit" / "space"
    files = {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}
    model = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert files == {
        *("README.md", "app.py", "requirements.txt"),
        *(f"{role}/{name}" for role in ("baseline", "aligned") for name in model),
    }
    known = front(folder)
    assert (known["sdk"], known["app_file"], known["license"]) == ("gradio", "app.py", "mit")
    assert "hf-cap[app]" in (folder / "requirements.txt").read_text()
    # staging again replaces it
    assert push_space(str(tmp_path / "fit"), OPTIONS) == folder
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    given = {"GRADIO_SERVER_PORT": str(port), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    server = subprocess.Popen([sys.executable, folder / "app.py"], env={**os.environ, **given})
    try:
        page = answer(f"http://127.0.0.1:{port}/config", server)
    finally:
        server.terminate()
        server.wait()
    assert "hf_cap audit" in page
    assert '"cancel"' in page


def test_a_model_on_the_hub_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run("push", "space", "--folder", "alice/desk", "--repo_id", "alice/desk-app")
    folder = tmp_path / "desk-space"
    assert sorted(file.name for file in folder.iterdir()) == ["README.md", "app.py", "requirements.txt"]
    assert front(folder)["models"] == ["alice/desk"]
    assert re.findall(r"^serve\(.*", (folder / "app.py").read_text(), re.MULTILINE) == [
        "serve('alice/desk', baseline=None, host=None)"
    ]


def test_a_folder_that_is_not_there_is_no_name(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="There is no model folder"):
        push_space(str(tmp_path / "none"), OPTIONS)
