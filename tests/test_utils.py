"""Settings, files, batches and memory: what several rooms share."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hf_cap import utils
from hf_cap.errors import ConfigError


def test_a_write_is_whole_or_leaves_what_was_there(tmp_path: Path) -> None:
    def write(target: Path, name: str | None = None) -> None:
        with utils.atomic_path(target) as path:
            if name:
                path.mkdir()
                (path / name).touch()
            if name == "half":
                raise RuntimeError("killed")

    (tmp_path / "disk").mkdir()
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "disk")
    for target in (tmp_path / "data", link):
        write(target, "first")
        write(target, "second")
        with pytest.raises(RuntimeError, match="killed"):
            write(target, "half")
        with pytest.raises(FileNotFoundError):
            write(target)
        assert [file.name for file in target.iterdir()] == ["second"]
    assert link.is_symlink()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["data", "disk", "link"]


@pytest.mark.parametrize("moved", [False, True])
def test_what_a_killed_process_left_is_cleared_away(moved: bool, tmp_path: Path) -> None:
    target, killed = tmp_path / "data", "import os; os.kill(os.getpid(), 9)"
    target.mkdir()
    (target / "first").touch()
    # killed while it writes, or after it has put the old folder aside
    when = f"os.replace = lambda *a: (old(*a), exec({killed!r}))" if moved else "kill = True"
    code = f"""
import os
from hf_cap.utils import atomic_path
old = os.replace
{when}
with atomic_path({str(target)!r}) as path:
    path.mkdir()
    (path / "second").touch()
    {"pass" if moved else killed}
"""
    done = subprocess.run([sys.executable, "-c", code])
    assert done.returncode == -9
    assert len([*tmp_path.iterdir()]) == (1 if moved else 2)
    with pytest.raises(RuntimeError, match="stopped"), utils.atomic_path(target):
        raise RuntimeError("stopped")
    assert [file.name for file in tmp_path.iterdir()] == ["data"]
    assert [file.name for file in target.iterdir()] == ["second" if moved else "first"]


def test_what_a_living_process_writes_stays(tmp_path: Path) -> None:
    with utils.atomic_path(tmp_path / "data") as path:
        path.touch()
        with utils.atomic_path(tmp_path / "data") as other:
            other.write_text("faster")
    assert [file.name for file in tmp_path.iterdir()] == ["data"]
    assert (tmp_path / "data").read_text() == ""


@pytest.mark.parametrize("name", ["cap", "test set", "v1.2", "-x", "Übung", "हिन्दी", "a..b"])
def test_a_plain_name_can_name_a_file(name: str, tmp_path: Path) -> None:
    (tmp_path / utils.file_name(name)).touch()
    assert [file.name for file in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(
    "name",
    ["", " ", "..", ".x", "../x", "/abs", "a/b", "a\\b", "C:x", "a\n", "\x1b[31m", "a\u202eb", "\udc80",
     "x\0", "a*", "[ab]", "<b>", "ü" * 100],
)  # fmt: skip
def test_any_other_name_cannot(name: str) -> None:
    with pytest.raises(ConfigError, match="cannot name a file or folder") as caught:
        utils.file_name(name)
    assert str(caught.value).isprintable()


def test_json_keeps_unicode_and_refuses_nan(tmp_path: Path) -> None:
    target = tmp_path / "missing" / "x.json"
    utils.write_json(target, {"b": "é", "a": 1})
    assert target.read_text() == '{\n  "a": 1,\n  "b": "é"\n}\n'
    with pytest.raises(ValueError, match="not JSON compliant"):
        utils.write_json(target, {"a": float("nan")})
    assert json.loads(target.read_text()) == {"a": 1, "b": "é"}


def test_a_file_replaces_no_folder(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights").touch()
    with pytest.raises(ConfigError, match="model' is a folder or a device"):
        utils.write_text(tmp_path / "model", "a page")
    assert [path.name for path in tmp_path.rglob("*")] == ["model", "weights"]


def test_nothing_replaces_a_device(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    for place in ("pipe", "link"):
        with pytest.raises(ConfigError, match="pipe' is a folder or a device"):
            utils.write_text(tmp_path / place, "a page")
    assert (tmp_path / "pipe").is_fifo()


def test_a_stamp_tells_new_files_and_no_folder_beside_them(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_text("a")
    before = utils.folder_stamp(tmp_path)
    (tmp_path / "evaluation").mkdir()
    (tmp_path / "evaluation" / "test.json").write_text("{}")
    assert utils.folder_stamp(tmp_path) == before
    (tmp_path / "model.safetensors").write_text("ab")
    assert utils.folder_stamp(tmp_path) != before
    assert utils.folder_stamp(tmp_path / "nowhere") == ""


def test_yaml_keeps_what_was_written(tmp_path: Path) -> None:
    words = "[on, off, No, 12:30, 1e-1, 007, 2026-01-02, 1_000, '1', 0.5, true, ~]"
    (tmp_path / "a.yaml").write_text(f"{words}\n", encoding="utf-16")
    written = words[1:-1].replace("'", "").split(", ")
    assert utils.read_yaml(tmp_path / "a.yaml") == written
    typed = [0.1, 7, "2026-01-02", "1_000", "1", 0.5, True, None]
    assert utils.read_yaml(tmp_path / "a.yaml", typed=True) == [*written[:4], *typed]
    shared = utils.parse_yaml("a: &a {b: 1}\nc: [*a, *a]", "x")
    assert shared == {"a": {"b": "1"}, "c": [{"b": "1"}, {"b": "1"}]}


BOMB = "\n".join(["a0: &a0 [ha]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12))])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BOMB, "aliases make it too large"),
        ("a: &a [*a]", "aliases make it too large"),
        ("[" * 5000, "nested too deeply"),
        ("b: {a: 1, a: 2}", "the name 'a' occurs twice below line 1"),
        ("a: [", "x is not valid YAML"),
        ("\0", "x is not valid YAML"),
        ("1" * 5000, "x is not valid YAML"),
    ],
)
def test_yaml_that_is_broken_or_without_bound_is_an_error(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        utils.parse_yaml(text, "x", typed=True)
    assert len(str(caught.value)) < 300


# --- Rows


def test_batches_are_about_equal_in_length_and_within_the_budget() -> None:
    lengths = [5, 1, 9, 1, 5, 30]
    assert list(utils.length_batches(lengths, 10)) == [[1, 3], [0, 4], [2], [5]]
    assert list(utils.length_batches(lengths, 10, texts=1)) == [[1], [3], [0], [4], [2], [5]]
    assert list(utils.length_batches([], 10)) == []
    # no longer text joins a batch that is efficient already
    assert list(utils.length_batches([2, 2, 3], 16)) == [[0, 1], [2]]
    assert list(utils.length_batches([2, 2, 3], 17)) == [[0, 1, 2]]
