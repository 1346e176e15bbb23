"""The store: nothing is asked twice, whatever happens to the process or the file."""

import os
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from hf_cap.errors import ConfigError, ExtractError
from hf_cap.lm import base
from hf_cap.lm.cache import AnswerStore, CachedLanguageModel, new_owner
from hf_cap.lm.open import open_language_model

QUERIES = [base.Query("prefix ", f"text {i}", " label") for i in range(40)]
PROMPTS = [f"prompt {i}" for i in range(20)]
SHORT = base.Sampling(max_new_tokens=6)


def length_score(prompt: str, answer: str) -> list[float]:
    return [-len(prompt) / 7, -len(answer) / 3, -1e-300]


def cached(
    path: Path, fingerprint: str = "m", chunk: int = 8
) -> tuple[CachedLanguageModel, base.MockLanguageModel]:
    inner = base.MockLanguageModel(length_score, str.upper, fingerprint=fingerprint)
    return CachedLanguageModel(inner, path, chunk=chunk), inner


def test_a_second_run_asks_nothing_and_gives_the_same(tmp_path: Path) -> None:
    first, asked = cached(tmp_path / "s.sqlite")
    expected = first.log_probs(QUERIES + QUERIES[:3])
    replies = first.generate(PROMPTS, SHORT)
    assert len(asked.calls) == 40
    again, asked_again = cached(tmp_path / "s.sqlite")
    told: list[base.Query] = []
    assert again.log_probs(QUERIES + QUERIES[:3], lambda q, s: told.append(q)) == expected
    assert again.generate([*PROMPTS, PROMPTS[0]], SHORT) == [*replies, base.Reply("PROMPT 0", 2, 2)]
    assert told == QUERIES
    assert asked_again.calls == []
    assert asked_again.asked == []
    assert (again.statistics.queries, again.statistics.stored) == (43, 43)
    assert (first.statistics.queries, first.statistics.distinct) == (43, 40)


def test_the_key_holds_what_determines_an_answer_and_nothing_else(tmp_path: Path) -> None:
    model, inner = cached(tmp_path / "s.sqlite")
    for query, asked in (
        (base.Query("ab", "c", "d"), 1),
        (base.Query("a", "bc", "d"), 1),  # the same prompt, cut elsewhere
        (base.Query("a", "b", "cd"), 2),
    ):
        model.log_probs([query])
        assert len(inner.calls) == asked
    for sampling, asked in (
        (SHORT, 1),
        (SHORT, 1),
        (base.Sampling(max_new_tokens=6, temperature=1.0), 2),
        (base.Sampling(max_new_tokens=6, seed=1), 3),
    ):
        model.generate(["a"], sampling)
        assert len(inner.asked) == asked
    other, asked_other = cached(tmp_path / "s.sqlite", "another model")
    other.log_probs([base.Query("ab", "c", "d")])
    other.generate(["a"], SHORT)
    assert len(asked_other.calls) == len(asked_other.asked) == 1


def test_a_model_that_does_not_call_back_is_cached_as_well(tmp_path: Path) -> None:
    class Silent(base.LanguageModel):
        asked = 0

        def log_probs(self, queries: Any, on_result: base.OnScore | None = None) -> list[base.Scored]:
            self.asked += len(queries)
            return [base.Scored((-1.0,), (0,)) for _ in queries]

    model = Silent()
    for _ in range(2):
        CachedLanguageModel(model, tmp_path / "s.sqlite").log_probs(QUERIES)
    assert model.asked == len(QUERIES)


def test_what_came_before_an_error_is_kept(tmp_path: Path) -> None:
    def fails_late(prompt: str, answer: str) -> float:
        return float("nan") if prompt.endswith(" 30") else -1.0

    failing = base.MockLanguageModel(fails_late, fingerprint="m")
    with pytest.raises(ExtractError):
        CachedLanguageModel(failing, tmp_path / "s.sqlite", chunk=8).log_probs(QUERIES)
    with AnswerStore(tmp_path / "s.sqlite").transaction() as run:
        assert run("SELECT count(*) FROM claims").fetchone() == (0,)
    again, asked = cached(tmp_path / "s.sqlite")
    again.log_probs(QUERIES)
    assert asked.calls == QUERIES[30:]


WORKER = """
import sys, time
from pathlib import Path
from hf_cap.lm.base import MockLanguageModel
from hf_cap.lm.cache import CachedLanguageModel
from tests.lm.test_cache import QUERIES

log = open(sys.argv[2], "a", buffering=1)
def slow(prompt, answer):
    log.write(prompt + "\\n")
    time.sleep(0.01)
    return -float(len(prompt))
model = CachedLanguageModel(MockLanguageModel(slow, fingerprint="m"), Path(sys.argv[1]), chunk=4)
model.log_probs(QUERIES)
"""


def run_python(*arguments: Any, **options: Any) -> "subprocess.Popen[bytes]":
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    return subprocess.Popen([sys.executable, "-c", *arguments], env=environment, **options)


def test_two_processes_started_at_once_do_not_both_pay(tmp_path: Path) -> None:
    store, log = tmp_path / "s.sqlite", tmp_path / "calls"
    processes = [run_python(WORKER, store, log) for _ in range(3)]
    assert [process.wait() for process in processes] == [0, 0, 0]
    assert sorted(log.read_text().splitlines()) == sorted(q.prefix + q.body for q in QUERIES)


def claimed_by(owner: str, path: Path) -> tuple[CachedLanguageModel, base.MockLanguageModel]:
    """A cached model whose first query `owner` has claimed."""
    model, inner = cached(path)
    model.log_probs(QUERIES[:1])
    with model.store.transaction() as run:
        run("INSERT INTO claims SELECT key, ? FROM answers", (owner,))
        run("DELETE FROM answers")
    return model, inner


def test_a_live_owner_is_waited_for_and_its_answer_taken(tmp_path: Path) -> None:
    model, inner = claimed_by(new_owner(), tmp_path / "s.sqlite")
    store = AnswerStore(tmp_path / "s.sqlite")

    def answer() -> None:
        with store.transaction() as run:
            (key,) = run("SELECT key FROM claims").fetchone()
        store.put(key, [[-9.0], [0]])

    threading.Timer(0.3, answer).start()
    assert model.log_probs(QUERIES[:1])[0].total == -9.0
    assert len(inner.calls) == 1


@pytest.mark.parametrize("case", ["dead", "a number used again"])
def test_the_claims_of_a_dead_owner_end(tmp_path: Path, case: str) -> None:
    code = "from hf_cap.lm.cache import new_owner; print(new_owner(), end='')"
    other = run_python(code, stdout=subprocess.PIPE).communicate()[0].decode()
    if case != "dead":
        other = " ".join(["1", *other.split()[1:]])
    model, inner = claimed_by(other, tmp_path / "s.sqlite")
    model.log_probs(QUERIES[:1])
    assert len(inner.calls) == 2


def test_a_writer_waits_for_another(tmp_path: Path) -> None:
    model, _ = cached(tmp_path / "s.sqlite")
    model.log_probs(QUERIES[:1])
    other = sqlite3.connect(model.store.path, check_same_thread=False, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    release = threading.Timer(0.3, other.execute, ["COMMIT"])
    release.start()
    assert len(model.log_probs(QUERIES)) == len(QUERIES)
    assert not release.is_alive()
    other.close()


def test_a_connection_is_not_carried_through_a_fork(tmp_path: Path) -> None:
    model, _ = cached(tmp_path / "s.sqlite")
    model.log_probs(QUERIES[:8])
    before = model.store._connection
    model.store._process = -1  # as a forked child sees it
    model.log_probs(QUERIES[:9])
    assert model.store._connection is not before


@pytest.mark.parametrize("start", [0, 4096])
def test_a_damaged_file_is_reported(tmp_path: Path, start: int) -> None:
    path = tmp_path / "s.sqlite"
    cached(path)[0].log_probs(QUERIES)
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    data = bytearray(path.read_bytes())
    data[start:] = bytes(byte ^ 0xA5 for byte in data[start:])
    path.write_bytes(data)
    with pytest.raises(ConfigError, match=r"s\.sqlite' is damaged .*Remove it, or name another"):
        cached(path)[0].log_probs(QUERIES)


def test_a_damaged_value_is_asked_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "s.sqlite"
    model, _ = cached(path)
    expected = model.log_probs(QUERIES)
    with sqlite3.connect(path) as connection:
        keys = [key for (key,) in connection.execute("SELECT key FROM answers LIMIT 3")]
        connection.execute("UPDATE answers SET value = zeroblob(28) WHERE key = ?", (keys[0],))
        connection.execute("UPDATE answers SET value = x'01' WHERE key = ?", (keys[1],))
    connection.close()
    again, asked = cached(path)
    assert again.log_probs(QUERIES) == expected
    assert len(asked.calls) == 2
    assert caplog.text.count("is damaged; it is asked again") >= 2


@pytest.mark.parametrize(
    ("table", "found"),
    [
        ("answers (key BLOB PRIMARY KEY, value BLOB, model TEXT)", "answers"),
        ("cookies (name TEXT)", "cookies"),
    ],
)
def test_a_database_with_other_tables_is_refused_and_left_as_it_is(
    tmp_path: Path, table: str, found: str
) -> None:
    path = tmp_path / "s.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute(f"CREATE TABLE {table}")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(ConfigError, match=rf"other tables \({found}\), not a store of hf_cap"):
        cached(path)[0].log_probs(QUERIES)
    assert path.read_bytes() == before


@pytest.mark.parametrize("case", ["a folder", "a file as its folder"])
def test_a_file_that_cannot_be_opened_is_reported_before_a_model_is_loaded(tmp_path: Path, case: str) -> None:
    path = tmp_path / "s.sqlite"
    if case == "a folder":
        path.mkdir()
    else:
        path.write_text("")
        path /= "s.sqlite"
    with pytest.raises(ConfigError, match=r"cannot be used: .*Name another file"):
        open_language_model("no-such/model", base.LMRuntime(store=str(path)))


def count_answers(path: Path) -> int:
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        (count,) = connection.execute("SELECT count(*) FROM answers").fetchone()
    connection.close()
    return int(count)


def test_a_store_moved_aside_while_it_is_used_loses_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, moved = tmp_path / "s.sqlite", tmp_path / "moved.sqlite"
    model, inner = cached(path)
    other, _ = cached(path)
    model.log_probs(QUERIES[:9])
    other.log_probs(QUERIES[9:12])
    path.rename(moved)
    newcomer = run_python(WORKER, path, tmp_path / "calls", stderr=subprocess.PIPE)
    assert b"was moved away while it was in use" in newcomer.communicate()[1]
    assert len(model.log_probs(QUERIES[:20])) == 20  # asked again, as the new file is empty
    assert "was moved or replaced while it was in use" in caplog.text
    other.log_probs(QUERIES[20:])
    assert (count_answers(moved), count_answers(path)) == (12, 40)
    assert len(inner.calls) == 9 + 20
    assert run_python(WORKER, path, tmp_path / "calls").wait() == 0
    assert (tmp_path / "calls").read_text() == ""
