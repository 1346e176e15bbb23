"""An estimate is the time that all of the work takes; only the outermost work shows something."""

import io
import logging
import re
import time
from collections import Counter
from types import SimpleNamespace

import pytest

from hf_cap.attribution import attribute_words
from hf_cap.classifiers import TextClassifier
from hf_cap.cli import _Handler
from hf_cap.progress import Progress, duration, progress
from tests.tiny import roberta_classifier, word_tokenizer


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> SimpleNamespace:
    now = SimpleNamespace(seconds=0.0, log=caplog)
    monkeypatch.setattr("hf_cap.progress.time.monotonic", lambda: now.seconds)
    caplog.set_level(logging.INFO, "hf_cap.progress")
    return now


def test_batches_are_estimated_with_the_scores_inside(clock: SimpleNamespace) -> None:
    with progress(128, "texts", "cap") as work:
        for _ in range(4):
            with progress(2_558, "scores", "Language model") as inner:
                clock.seconds += 90
                inner.update(2_558)
            work.update(32)
    # 90 s for a quarter of the texts
    assert clock.log.messages == ["cap: 128 texts, 10,232 scores, about 6 min"]


def test_the_start_is_no_part_of_the_rate(clock: SimpleNamespace) -> None:
    with progress(1_000, "scores", "Language model") as work:
        clock.seconds += 600  # a model is loaded
        for _ in range(1_000):
            work.update()
            clock.seconds += 0.05
    assert clock.log.messages == ["Language model: 1,000 scores, about 50 s"]


def test_an_estimate_of_very_long_work_does_not_wait_for_a_part_of_it(clock: SimpleNamespace) -> None:
    with progress(10_000, "texts", "cap") as work:
        for count in (4, 32):
            clock.seconds += 2.5 * count
            work.update(count)
    assert clock.log.messages == ["cap: 10,000 texts, about 6.9 h"]


def test_short_work_and_silent_work_say_nothing(clock: SimpleNamespace) -> None:
    for total, shown in ((100, True), (10_000, False)):
        with progress(total, "steps", "Training", shown) as work:
            for _ in range(total):
                clock.seconds += 0.1
                work.update()
    assert clock.log.messages == []


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("pause", [0.0, 1.1])
def test_only_work_that_takes_a_second_has_a_bar(monkeypatch: pytest.MonkeyPatch, pause: float) -> None:
    monkeypatch.setattr("sys.stderr", seen := Terminal())
    with progress(3, "texts", "cap") as work:
        for _ in range(3):
            time.sleep(pause / 2)
            work.update()
    assert ("cap" in seen.getvalue()) is bool(pause)


def test_a_log_line_stands_above_the_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr", seen := Terminal())
    handler = _Handler(seen)
    with progress(3, "texts", "cap") as work:
        time.sleep(1.1)
        work.update()
        handler.emit(logging.makeLogRecord({"msg": "3 texts, about 2 min"}))
    lines = re.split(r"[\r\n]+", seen.getvalue())
    assert "3 texts, about 2 min" in lines
    assert any("cap" in line for line in lines)


def test_classifiers_and_attributions_count_their_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    counted: Counter[str] = Counter()
    count = Progress.update
    monkeypatch.setattr(Progress, "update", lambda one, n=1: (counted.update({one.what: n}), count(one, n)))
    model, tokenizer = roberta_classifier(), word_tokenizer()
    texts = ["lost my card", "renew", "pay", "card"]
    TextClassifier(model, tokenizer, batch_size=3).logits(texts)
    attribute_words(model, tokenizer, texts, [0, 1, 2, 0], steps=2, batch_size=2)
    assert counted == {"Classifier": 4, "Attributions": 4}


@pytest.mark.parametrize(
    ("seconds", "said"), [(40.4, "40 s"), (89, "89 s"), (360, "6 min"), (9_000, "2.5 h")]
)
def test_durations(seconds: float, said: str) -> None:
    assert duration(seconds) == said
