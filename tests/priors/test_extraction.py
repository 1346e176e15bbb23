"""The stage `extract`: columns, provenance, several processes, kills, two commands at once."""

import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import psutil
import pyarrow as pa
import pytest
from datasets import Dataset, DatasetDict, load_dataset

from hf_cap.errors import ConfigError, DataError
from hf_cap.lm.base import LMRuntime, LMStatistics, MockLanguageModel, using_runtime
from hf_cap.priors.base import Batch, ExtractionSettings, Row, Source, SourceResult
from hf_cap.priors.cap import CAPPrior
from hf_cap.priors.channel import ChannelPrior
from hf_cap.priors.extract import ExtractionSummary, _lock, extract_priors
from hf_cap.priors.keywords import WordLengthPrior
from hf_cap.schema import read_provenance
from tests.launching import accelerate_launch, environment
from tests.priors.conftest import labelled
from tests.tiny import llama, save

LABELS = ("lost_card", "pay_fine", "renew_book")
QUIET = ExtractionSettings(batch_size=2, progress=False)


def splits(rows: int = 7) -> DatasetDict:
    """Texts of which no two have a word in common, so that each needs questions of its own."""
    words = "please renew my card".split()
    texts = [" ".join(f"{word}{number}" for word in words) for number in range(rows)]
    train = labelled(texts, [(i + 2) % 3 for i in range(rows)], LABELS)
    return DatasetDict({"train": train, "test": labelled(["pay"], [1], LABELS)})


def read(folder: Path, split: str = "train") -> Dataset:
    return load_dataset("parquet", data_files=str(folder / f"{split}.parquet"), split="train")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save(llama(), tmp_path_factory.mktemp("model"))


@pytest.fixture(autouse=True)
def _no_store() -> Any:
    with using_runtime(LMRuntime(device="cpu", store="none")):
        yield


@dataclass(frozen=True, kw_only=True)
class Halves(Source):
    """Scores half of each word's length; its diagnostic is null in the first batch."""

    name: ClassVar[str] = "halves"

    def score_words(self, rows: Sequence[Row]) -> SourceResult:
        scores = [[len(word) / 2 for word in row.words] for row in rows]
        late = [None if row.words[0] < "please2" else 0.5 for row in rows]
        return SourceResult(scores, {"late": late})


def test_sources_side_by_side_with_all_that_made_them(tmp_path: Path, model: str) -> None:
    data = splits()
    cap = CAPPrior.from_dataset(data["train"], model=model, n=5, seed=3, keep_label_scores=True)
    channel = ChannelPrior.from_dataset(data["train"], model=model, keep_label_scores=True)
    settings = ExtractionSettings(batch_size=2)
    summary = extract_priors(
        data, [cap, channel, Halves(labels=LABELS)], tmp_path / "out", settings, command="hf-cap x"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    made = read(tmp_path / "out")
    assert made["prior_cap"][:2] == cap(data["train"][:2])["prior_cap"]
    assert made["halves_late"][:] == [None, None, *[0.5] * 5]
    assert made.features["label"] == data["train"].features["label"]
    assert summary.texts == 7
    assert summary.statistics.queries > 7 * len(LABELS)
    assert set(summary.zero_shot) == {"cap", "channel"}
    (cell,) = made.unique("provenance")
    facts = read_provenance(cell)
    assert set(facts) == {"cap", "channel", "halves"}
    assert all(facts[name]["command"] == "hf-cap x" and facts[name]["date"] for name in facts)
    given = {"source": "cap", "model": model, "revision": None, "n": 5, "penalty": 0.1, "seed": 3}
    assert facts["cap"].items() >= given.items()
    more = ("fingerprint", "template_digest", "prompt_digest", "label_space", "word_pattern")
    assert all(facts["cap"][name] for name in more)
    assert set(facts["cap"]["versions"]) >= {
        "hf-cap", "torch", "transformers", "datasets", "icu4py",
    }  # fmt: skip


def test_splits_share_the_type_of_a_column_that_one_has_no_value_for(tmp_path: Path) -> None:
    data = {"train": splits(2)["train"], "test": splits()["train"]}
    settings = ExtractionSettings(splits=("train", "test"), progress=False)
    extract_priors(data, [Halves(labels=LABELS)], tmp_path / "out", settings)
    train, test = (read(tmp_path / "out", split) for split in ("train", "test"))
    assert train.features == test.features
    assert train["halves_late"][:] == [None, None]
    assert test["halves_late"][:] == [None, None, *[0.5] * 5]


def test_a_source_sees_the_columns_of_those_before_it(tmp_path: Path) -> None:
    @dataclass(frozen=True, kw_only=True)
    class Doubled(Source):
        name: ClassVar[str] = "doubled"

        def __call__(self, batch: Batch) -> dict[str, Sequence[Any]]:
            rows = self.read_rows(batch)
            scores = [[2 * score for score in one] for one in batch["prior_halves"]]
            return self.columns(batch, rows, SourceResult(scores))

    sources = [Halves(labels=LABELS), Doubled(labels=LABELS)]
    extract_priors(splits(), sources, tmp_path / "out", QUIET)
    made = read(tmp_path / "out")
    assert made["prior_halves"][6] == [3.5, 3.0, 1.5, 2.5]
    assert made["prior_doubled"][6] == [7.0, 6.0, 3.0, 5.0]
    assert read_provenance(made["provenance"][0]).keys() == {"halves", "doubled"}


def test_columns_are_not_held_in_memory(tmp_path: Path) -> None:
    held = []

    @dataclass(frozen=True, kw_only=True)
    class Wide(Source):
        name: ClassVar[str] = "wide"

        def score_words(self, rows: Sequence[Row]) -> SourceResult:
            held.append(pa.total_allocated_bytes())
            wide = {"all": [[0.5] * 1000] * len(rows)}
            return SourceResult([[1.0] * len(row.spans) for row in rows], wide)

    extract_priors(splits(200), [Wide(labels=LABELS)], tmp_path / "out", QUIET)
    assert len(held) == 100
    assert held[-1] - held[2] < 80_000  # the columns of five batches, of 100


def test_other_splits_have_the_same_columns_and_a_second_extraction_adds_to_the_first(tmp_path: Path) -> None:
    extract_priors(splits(), [WordLengthPrior(labels=LABELS)], tmp_path / "one", QUIET)
    again = DatasetDict({split: read(tmp_path / "one", split) for split in ("train", "test")})
    one, test = again["train"], again["test"]
    assert one.features == test.features
    assert test["prior_word_length"][:] == [None]
    assert one["prior_word_length"][0] == [7, 6, 3, 5]
    extract_priors(again, [WordLengthPrior(labels=LABELS)], tmp_path / "two", QUIET)
    assert read(tmp_path / "two").features == one.features
    extract_priors(again, [Halves(labels=LABELS)], tmp_path / "two", QUIET)
    two = read(tmp_path / "two")
    assert two["prior_word_length"][:] == one["prior_word_length"][:]
    assert two["prior_halves"][0] == [3.5, 3.0, 1.5, 2.5]
    assert read_provenance(two["provenance"][0]).keys() == {"word_length", "halves"}


def test_mistakes_are_found_before_any_scoring(tmp_path: Path) -> None:
    asked = MockLanguageModel(lambda prompt, answer: -1.0)
    source = CAPPrior(labels=LABELS, model=asked)
    data = splits()
    with pytest.raises(ConfigError, match="different names"):
        extract_priors(data, [source, source], tmp_path / "out", QUIET)
    with pytest.raises(ConfigError, match="one or more"):
        extract_priors(data, [], tmp_path / "out", QUIET)
    with pytest.raises(DataError, match="no split 'dev'"):
        extract_priors(data, [source], tmp_path / "out", ExtractionSettings(splits=("dev",)))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").touch()
    with pytest.raises(ConfigError, match=r"thesis\.txt"):
        extract_priors(data, [source], tmp_path / "full", QUIET)
    data["train"] = data["train"].map(lambda row, i: {"text": "" if i == 6 else "a"}, with_indices=True)
    with pytest.raises(DataError, match="Row 6"):
        extract_priors(data, [source], tmp_path / "out", QUIET)
    assert asked.calls == []
    with pytest.raises(ConfigError, match="batch_size"):
        ExtractionSettings(batch_size=0)


def test_calibration_takes_off_what_every_text_gets(tmp_path: Path) -> None:
    # the model prefers label 0 by far, and is right about which text is more of label 1
    def score(prompt: str, answer: str) -> float:
        return {" lost card": -1.0, " pay fine": -9.0 + 4 * ("pay it" in prompt)}.get(answer, -20.0)

    source = CAPPrior(labels=LABELS, model=MockLanguageModel(score), keep_label_scores=True, n=2)
    data = labelled(["the card", "pay it"], [0, 1], LABELS)
    summary = extract_priors({"train": data}, [source], tmp_path / "out", QUIET)
    assert summary.zero_shot == {"cap": (0.5, 1.0)}


def test_summary_in_words() -> None:
    statistics = LMStatistics(
        queries=1000, stored=100, distinct=500, naive_tokens=90_000, tokens_computed=10_000, seconds=5.0,
    )  # fmt: skip
    accuracy = {"cap": (1.0, 1.0)}
    text = str(ExtractionSummary(10, 6.2, statistics, {"cap": 2, "channel": 0}, accuracy))
    assert "10 texts in 6 s" in text
    assert "10,000 tokens computed (2,000 per second) instead of 90,000" in text
    assert "cap: 2 texts were cut" in text
    assert "channel" not in text
    assert "right for 100.0% of the texts (100.0% calibrated)" in text


# --- Several processes.


ROWS = 16
PROGRAM = """
import json, os, sys, time
from dataclasses import replace
from pathlib import Path
from hf_cap.lm.local import LocalLanguageModel
from hf_cap.priors.cap import CAPPrior
from hf_cap.priors.extract import extract_priors
from tests.launching import fail_with_group
from tests.priors.test_extraction import QUIET, ROWS, splits

fail_with_group()
folder, output, log, pause = sys.argv[1:]

def note(what, queries):
    with Path(log).open("a") as file:
        file.write("".join(json.dumps([what, q.body, q.answer]) + "\\n" for q in queries))

def logged(self, queries, on_result=None, log_probs=LocalLanguageModel.log_probs):
    note("asked", queries)
    time.sleep(float(pause))
    def answered(query, scored):
        if on_result:
            on_result(query, scored)
        note("answered", [query])
    return log_probs(self, queries, answered)

LocalLanguageModel.log_probs = logged
data = splits(ROWS)
source = CAPPrior.from_dataset(data["train"], model=folder, n=5, probe_texts=0)
# a calibration that differs in a last bit from process to process
source = replace(source, offsets=(1e-12 * int(os.environ.get("RANK", 0)), 0.0, 0.0))
summary = extract_priors(data, [source], output, QUIET)
if int(os.environ.get("RANK", 0)) == 0:
    Path(output + ".json").write_text(json.dumps([summary.texts, summary.statistics.queries]))
"""


class Job:
    """The program above, in one process or several."""

    def __init__(
        self, room: Path, model: str, out: str, *, store: str = "none", pause: float = 0,
        processes: int = 1,
    ) -> None:  # fmt: skip
        (room / "program.py").write_text(PROGRAM)
        self.log = room / f"{out}.log"
        arguments = [str(room / "program.py"), model, str(room / out), str(self.log), str(pause)]
        launch = accelerate_launch(processes) if processes > 1 else [sys.executable]
        runtime = LMRuntime(device="cpu", store=store)
        with using_runtime(runtime):
            self.process = subprocess.Popen(
                [*launch, *arguments],
                env=environment(HF_CAP_CACHE=str(room / "cache")),
                stderr=subprocess.PIPE,
                start_new_session=True,
            )

    def noted(self, what: str) -> Counter[str]:
        """Questions that were asked of the model, or answered and stored, in all runs so far."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return Counter(line for line in lines if json.loads(line)[0] == what)

    def kill_after(self, answers: int) -> None:
        """SIGKILL it and all that it launched, once there are this many more answers."""
        deadline = time.monotonic() + 120
        while self.noted("answered").total() < answers:
            assert self.process.poll() is None, self.process.communicate()[1].decode()[-3000:]
            assert time.monotonic() < deadline, "the program does nothing"
            time.sleep(0.01)
        launcher = psutil.Process(self.process.pid)
        family = [launcher, *launcher.children(recursive=True)]  # in sessions of their own
        for member in family:
            member.suspend()  # all stop first, so that none starts another
        for member in family:
            member.kill()
        self.process.communicate()

    def finish(self) -> Counter[str]:
        """Wait for a good end; what was asked."""
        _, errors = self.process.communicate(timeout=200)
        assert self.process.returncode == 0, errors.decode()[-3000:]
        return self.noted("asked")


@pytest.fixture(scope="module")
def undisturbed(model: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Counter[str]]:
    """Where one process put its results, and what it asked."""
    room = tmp_path_factory.mktemp("undisturbed")
    return room, Job(room, model, "out").finish()


@pytest.mark.slow
def test_two_processes_give_what_one_gives(
    tmp_path: Path, model: str, undisturbed: tuple[Path, Counter[str]]
) -> None:
    room, asked = undisturbed
    assert Job(tmp_path, model, "out", processes=2).finish() == asked
    for folder in (room, tmp_path):
        assert json.loads((folder / "out.json").read_text()) == [ROWS, asked.total()]
    assert read(tmp_path / "out").to_dict() == read(room / "out").to_dict()


@pytest.mark.slow
def test_a_killed_extraction_asks_nothing_twice_that_was_answered(
    tmp_path: Path, model: str, undisturbed: tuple[Path, Counter[str]]
) -> None:
    room, everything = undisturbed
    store = str(tmp_path / "scores.sqlite")
    half = everything.total() // 2
    Job(tmp_path, model, "out", store=store, pause=0.2, processes=2).kill_after(half)
    assert not (tmp_path / "out").exists()
    rest = Job(tmp_path, model, "out", store=store)
    asked, answered = rest.finish(), rest.noted("answered")
    assert {line.replace("asked", "answered") for line in asked} == answered.keys()
    assert asked.keys() == everything.keys()
    assert max(answered.values()) == 1, "asked again although the answer was there"
    one, other = read(room / "out"), read(tmp_path / "out")
    assert one["text"][:] == other["text"][:]
    # a batch of which half was stored is scored in another company, which rounds differently
    for left, right in zip(one["prior_cap"], other["prior_cap"], strict=True):
        assert left == pytest.approx(right, abs=1e-5)


@pytest.mark.slow
def test_two_commands_at_once_pay_once(tmp_path: Path, model: str) -> None:
    store = str(tmp_path / "scores.sqlite")
    jobs = [Job(tmp_path, model, "out", store=store, pause=0.1) for _ in range(2)]
    for job in jobs:
        asked = job.finish()
    assert max(asked.values()) == 1
    assert len(read(tmp_path / "out")) == ROWS


def test_two_ends_wait_for_each_other_without_a_cache_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("HF_CAP_CACHE", str(tmp_path / "file" / "cache"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with _lock(tmp_path / "out") as held:
        assert Path(held.lock_file).parent == tmp_path
