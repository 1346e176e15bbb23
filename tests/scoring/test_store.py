"""The score store: nothing is scored twice, whatever happens to the process or the file."""

import logging
import multiprocessing
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from hf_cap.errors import ExtractError
from hf_cap.lm.base import Query, Scored, Scorer
from hf_cap.lm.cache import StoredScorer, score_store
from hf_cap.lm.mock import StandInScorer

QUERIES = [Query("prefix ", f"text {i}", " label") for i in range(40)]


def length_score(prompt: str, answer: str) -> list[float]:
    return [-len(prompt) / 7, -len(answer) / 3]


def stored(path: Path, identity: str = "m", chunk: int = 8) -> tuple[StoredScorer, StandInScorer]:
    inner = StandInScorer(length_score, identity)
    return StoredScorer(inner, path, chunk=chunk), inner


def test_a_second_run_asks_nothing_and_gives_the_same(tmp_path: Path) -> None:
    first, asked = stored(tmp_path / "s.sqlite")
    expected = first.score(QUERIES + QUERIES[:3])
    assert len(asked.calls) == 40
    again, asked_again = stored(tmp_path / "s.sqlite")
    assert again.score(QUERIES + QUERIES[:3]) == expected
    assert asked_again.calls == []
    assert (again.statistics.queries, again.statistics.stored) == (43, 43)
    assert (first.statistics.queries, first.statistics.distinct) == (43, 40)
    assert isinstance(again, Scorer)


def test_the_key_holds_what_determines_a_score_and_nothing_else(tmp_path: Path) -> None:
    scorer, asked = stored(tmp_path / "s.sqlite")
    scorer.score([Query("ab", "c", "d")])
    scorer.score([Query("a", "bc", "d")])  # the same prompt, cut elsewhere
    assert len(asked.calls) == 1
    scorer.score([Query("a", "b", "cd")])
    assert len(asked.calls) == 2
    other, asked_other = stored(tmp_path / "s.sqlite", "another model")
    other.score([Query("ab", "c", "d")])
    assert len(asked_other.calls) == 1


def test_what_came_before_an_error_is_kept(tmp_path: Path) -> None:
    def fails_late(prompt: str, answer: str) -> float:
        return float("nan") if prompt.endswith(" 30") else -1.0

    scorer = StoredScorer(StandInScorer(fails_late, "m"), tmp_path / "s.sqlite", chunk=8)
    with pytest.raises(ExtractError):
        scorer.score(QUERIES)
    again, asked = stored(tmp_path / "s.sqlite")
    again.score(QUERIES)
    assert asked.calls == QUERIES[24:]


WORKER = """
import os, sys, time
from pathlib import Path
from hf_cap.lm.mock import StandInScorer
from hf_cap.lm.cache import StoredScorer
from tests.scoring.test_store import QUERIES

log = open(sys.argv[2], "a", buffering=1)
def slow(prompt, answer):
    log.write(prompt + "\\n")
    time.sleep(0.01)
    return -float(len(prompt))
StoredScorer(StandInScorer(slow, "m"), Path(sys.argv[1]), chunk=4).score(QUERIES)
"""


def test_a_killed_process_loses_no_finished_chunk(tmp_path: Path) -> None:
    store, log = tmp_path / "s.sqlite", tmp_path / "calls"
    log.touch()
    command = [sys.executable, "-c", WORKER, str(store), str(log)]
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    kills = 0
    for target in (6, 17, 29):
        process = subprocess.Popen(command, env=environment)
        while len(log.read_text().splitlines()) < target + 4 * kills and process.poll() is None:
            pass
        process.send_signal(signal.SIGKILL)
        process.wait()
        kills += 1
    subprocess.run(command, env=environment, check=True)
    calls = log.read_text().splitlines()
    assert set(calls) == {query.prefix + query.body for query in QUERIES}
    assert len(calls) <= len(QUERIES) + 4 * kills  # at most the chunk in flight, each time
    scores = StoredScorer(StandInScorer(length_score, "m"), store)
    assert scores.score(QUERIES)[3].total == -len("prefix text 3")


def _score_in_child(path: Path, first: int, answers: "multiprocessing.Queue[int]") -> None:
    scorer, _ = stored(path, chunk=2)
    results = scorer.score(QUERIES[first:] + QUERIES[:first])
    answers.put(len(results))


def test_several_processes_write_at_a_time(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    answers: multiprocessing.Queue[int] = context.Queue()
    path = tmp_path / "s.sqlite"
    children = [context.Process(target=_score_in_child, args=(path, f, answers)) for f in (0, 20)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    assert [child.exitcode for child in children] == [0, 0]
    scorer, asked = stored(path)
    assert scorer.score(QUERIES) == StandInScorer(length_score).score(QUERIES)
    assert asked.calls == []


def test_a_writer_waits_for_another(tmp_path: Path) -> None:
    scorer, _ = stored(tmp_path / "s.sqlite")
    scorer.score(QUERIES[:1])
    other = sqlite3.connect(scorer.store.path, check_same_thread=False, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    release = threading.Timer(0.3, other.execute, ["COMMIT"])
    release.start()
    assert len(scorer.score(QUERIES)) == len(QUERIES)
    assert not release.is_alive()
    other.close()


def test_a_connection_is_not_carried_through_a_fork(tmp_path: Path) -> None:
    scorer, _ = stored(tmp_path / "s.sqlite")
    scorer.score(QUERIES[:8])
    before = scorer.store._connection
    scorer.store._owner = -1  # as a forked child sees it
    scorer.score(QUERIES[:9])
    assert scorer.store._connection is not before


@pytest.mark.parametrize("damage", ["not a database", "torn page"])
def test_a_damaged_file_is_reported_and_rebuilt(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    path = tmp_path / "s.sqlite"
    scorer, _ = stored(path)
    expected = scorer.score(QUERIES)
    scorer.store._open().execute("PRAGMA wal_checkpoint(TRUNCATE)")
    scorer.store.close()
    data = bytearray(path.read_bytes())
    if damage == "not a database":
        data[:100] = b"x" * 100
    else:
        data[4096:] = bytes(byte ^ 0xA5 for byte in data[4096:])
    path.write_bytes(data)
    again, asked = stored(path)
    assert again.score(QUERIES) == expected
    assert len(asked.calls) == 40
    assert "damaged" in caplog.text
    assert [p.read_bytes() == bytes(data) for p in tmp_path.glob("*.damaged-*")] == [True]


def test_a_damaged_value_is_scored_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "s.sqlite"
    scorer, _ = stored(path)
    expected = scorer.score(QUERIES)
    scorer.store.close()
    with sqlite3.connect(path) as connection:
        keys = [key for (key,) in connection.execute("SELECT key FROM scores LIMIT 3")]
        connection.execute("UPDATE scores SET value = zeroblob(28) WHERE key = ?", (keys[0],))
        connection.execute("UPDATE scores SET value = x'01' WHERE key = ?", (keys[1],))
    connection.close()
    again, asked = stored(path)
    with caplog.at_level(logging.WARNING):
        assert again.score(QUERIES) == expected
    assert len(asked.calls) == 2
    assert caplog.text.count("is damaged; it is computed again") == 2


def test_other_trouble_with_the_file_is_raised(tmp_path: Path) -> None:
    (tmp_path / "s.sqlite").mkdir()
    with pytest.raises(sqlite3.OperationalError):
        score_store(tmp_path / "s.sqlite").get([b"k"])
    assert (tmp_path / "s.sqlite").is_dir()


def test_numbers_come_back_bit_for_bit(tmp_path: Path) -> None:
    store = score_store(tmp_path / "deep" / "s.sqlite")
    value = Scored((-1 / 3, -1e-300, 0.0), (0, 0, 70000))
    store.put({b"k": value})
    assert store.get([b"k", b"other"]) == {b"k": value}
    store.close()
