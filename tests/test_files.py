"""Atomic writes: a target is whole or as it was."""

import json
from pathlib import Path

import pytest

from hf_cap.utils import atomic_path, finite, folder_stamp, write_json, write_text


def test_a_failed_write_leaves_the_old_file_and_no_debris(tmp_path: Path) -> None:
    target = tmp_path / "result.txt"
    write_text(target, "old")

    def fail() -> None:
        with atomic_path(target) as path:
            path.write_text("half")
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        fail()
    assert target.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["result.txt"]


def test_a_folder_takes_the_place_of_a_folder(tmp_path: Path) -> None:
    target = tmp_path / "data"
    for name in ("first", "second"):
        with atomic_path(target) as path:
            path.mkdir()
            (path / name).touch()
    assert [file.name for file in target.iterdir()] == ["second"]
    assert [file.name for file in tmp_path.iterdir()] == ["data"]


def test_a_folder_that_cannot_be_replaced_stays(tmp_path: Path) -> None:
    target = tmp_path / "data"
    target.mkdir()
    (target / "kept").touch()

    def write_nothing() -> None:
        with atomic_path(target):
            pass

    with pytest.raises(FileNotFoundError):
        write_nothing()
    assert [file.name for file in target.iterdir()] == ["kept"]


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "disk")
    with atomic_path(link) as path:
        path.mkdir()
        (path / "file").touch()
    assert link.is_symlink()
    assert (tmp_path / "disk" / "file").exists()


def test_missing_parents_are_made(tmp_path: Path) -> None:
    write_text(tmp_path / "a" / "b" / "c.txt", "x")
    assert (tmp_path / "a" / "b" / "c.txt").read_text() == "x"


def test_json_keeps_unicode_and_refuses_nan(tmp_path: Path) -> None:
    target = tmp_path / "x.json"
    write_json(target, {"b": "é", "a": 1})
    assert target.read_text() == '{\n  "a": 1,\n  "b": "é"\n}\n'
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(target, {"a": float("nan")})
    assert json.loads(target.read_text()) == {"a": 1, "b": "é"}


def test_a_log_with_numbers_that_are_not_finite_can_be_written(tmp_path: Path) -> None:
    log = [{"step": 1, "loss": 0.5, "grad_norm": float("inf")}, {"loss": float("nan"), "ok": True}]
    write_json(tmp_path / "log.json", finite(log))
    assert json.loads((tmp_path / "log.json").read_text()) == [
        {"step": 1, "loss": 0.5, "grad_norm": None},
        {"loss": None, "ok": True},
    ]


def test_a_stamp_tells_new_files_and_no_folder_beside_them(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_text("a")
    before = folder_stamp(tmp_path)
    (tmp_path / "evaluation").mkdir()
    (tmp_path / "evaluation" / "test.json").write_text("{}")
    assert folder_stamp(tmp_path) == before
    (tmp_path / "model.safetensors").write_text("ab")
    assert folder_stamp(tmp_path) != before
    assert folder_stamp(tmp_path / "nowhere") == ""
