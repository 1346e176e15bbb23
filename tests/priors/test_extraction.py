import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value, load_dataset
from datasets.fingerprint import Hasher

from hf_cap.errors import ConfigError, DataError, ModelError
from hf_cap.lm.base import LMStatistics
from hf_cap.lm.mock import MockLanguageModel
from hf_cap.priors import extract as extraction
from hf_cap.priors.base import Row, SourceResult
from hf_cap.priors.cap import CAPPrior
from hf_cap.priors.channel import ChannelPrior
from hf_cap.priors.extract import ExtractionSummary, extract_priors, zero_shot
from hf_cap.priors.keywords import WordLengthPrior
from hf_cap.priors.prompts import ExtractionSettings
from hf_cap.schema import read_provenance
from tests.launching import accelerate_launch, environment
from tests.tiny import byte_tokenizer, llama

LABELS = ("lost_card", "pay_fine", "renew_book")
QUIET = ExtractionSettings(chunk_size=2, progress=False)


def splits(rows: int = 7) -> DatasetDict:
    features = Features({"text": Value("string"), "label": ClassLabel(names=list(LABELS))})
    train = {
        "text": [f"please renew my card {i}" for i in range(rows)],
        "label": [(i + 2) % 3 for i in range(rows)],
    }
    test = {"text": ["pay"], "label": [1]}
    return DatasetDict(
        {
            "train": Dataset.from_dict(train, features=features),
            "test": Dataset.from_dict(test, features=features),
        }
    )


@dataclass(frozen=True, kw_only=True)
class Interrupted(WordLengthPrior):
    """Word lengths, until a text that stops the run while the file `stop` is there."""

    stop: str

    def score_words(self, rows: Any) -> Any:
        log = Path(self.stop).with_suffix(".log")
        with log.open("a") as file:
            file.writelines(row.text + "\n" for row in rows)
        if Path(self.stop).exists() and any(row.text.endswith("4") for row in rows):
            raise KeyboardInterrupt
        return super().score_words(rows)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder: Path = tmp_path_factory.mktemp("model")
    llama().save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return str(folder)


def read(folder: Path, split: str = "train") -> Dataset:
    return load_dataset("parquet", data_files=str(folder / f"{split}.parquet"), split="train")


def test_all_sources_side_by_side(tmp_path: Path, model: str, monkeypatch: Any) -> None:
    monkeypatch.setenv("HF_CAP_LM_RUNTIME", json.dumps({"store": "none"}))
    data = splits()
    sources = [
        CAPPrior.from_dataset(data["train"], model=model, n=5, keep_label_scores=True),
        ChannelPrior.from_dataset(data["train"], model=model, keep_label_scores=True),
        WordLengthPrior(labels=LABELS),
    ]
    summary = extract_priors(data, sources, tmp_path / "out", QUIET, command="hf-cap extract")
    made = read(tmp_path / "out")
    direct = sources[0](data["train"][:2])
    assert made["prior_cap"][0] == pytest.approx(direct["prior_cap"][0], abs=1e-4)
    facts = json.loads(made["provenance"][0])
    assert set(facts) == {"cap", "channel", "word_length"}
    assert facts["cap"]["command"] == "hf-cap extract"
    assert facts["cap"]["date"]
    assert made.features["label"] == data["train"].features["label"]
    assert summary.texts == 7
    assert summary.statistics.queries > 7 * len(LABELS)
    assert set(summary.zero_shot) == {"cap", "channel"}
    assert not list(tmp_path.glob(".out.*"))


def test_other_splits_have_the_same_columns_empty(tmp_path: Path) -> None:
    extract_priors(splits(), [WordLengthPrior(labels=LABELS)], tmp_path / "out", QUIET)
    train, test = read(tmp_path / "out"), read(tmp_path / "out", "test")
    assert train.features == test.features
    assert test["prior_word_length"][:] == [None]
    assert train["prior_word_length"][0] == [6, 5, 2, 4, 1]


def test_interrupted_run_goes_on_where_it_ended(tmp_path: Path) -> None:
    stop = tmp_path / "stop"
    stop.touch()
    source = Interrupted(labels=LABELS, stop=str(stop))
    with pytest.raises(KeyboardInterrupt):
        extract_priors(splits(), [source], tmp_path / "out", QUIET)
    assert not (tmp_path / "out").exists()
    stop.unlink()
    log = tmp_path / "stop.log"
    log.unlink()
    summary = extract_priors(splits(), [source], tmp_path / "out", QUIET)
    assert summary.reused == 4
    assert log.read_text().splitlines() == splits()["train"]["text"][4:]
    assert len(read(tmp_path / "out")) == 7


@pytest.mark.parametrize("change", ["nothing", "rows", "settings", "chunk size"])
def test_only_work_of_the_same_rows_and_settings_is_taken(tmp_path: Path, change: str) -> None:
    stop = tmp_path / "stop"
    stop.touch()
    source = Interrupted(labels=LABELS, stop=str(stop))
    with pytest.raises(KeyboardInterrupt):
        extract_priors(splits(), [source], tmp_path / "out", QUIET)
    stop.unlink()
    data, settings = splits(), QUIET
    if change == "rows":
        data["train"] = data["train"].map(lambda row: {"text": "well " + row["text"]})
    elif change == "settings":
        source = replace(source, word_pattern="[a-z]+")
    elif change == "chunk size":
        settings = replace(QUIET, chunk_size=3)
    reused = extract_priors(data, [source], tmp_path / "out", settings).reused
    assert reused == (4 if change == "nothing" else 0)


def test_a_model_adapted_anew_in_its_folder_is_asked_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_CAP_LM_RUNTIME", json.dumps({"store": "none"}))
    folder, data = tmp_path / "adapted", splits()

    def adapted(seed: int) -> CAPPrior:
        llama(seed=seed).save_pretrained(folder)
        byte_tokenizer().save_pretrained(folder)
        return CAPPrior.from_dataset(data["train"], model=str(folder), n=5)

    first = adapted(0)
    before = first(data["train"][:2])["prior_cap"]
    with monkeypatch.context() as patch:
        patch.setattr(extraction, "save_splits", interrupt)
        with pytest.raises(KeyboardInterrupt):
            extract_priors(data, [first], tmp_path / "out", QUIET)
    second = adapted(1)
    with pytest.raises(ModelError, match="has changed since"):
        first.open()
    assert extract_priors(data, [second], tmp_path / "out", QUIET).reused == 0
    after = read(tmp_path / "out")["prior_cap"][:2]
    assert after == [pytest.approx(row) for row in second(data["train"][:2])["prior_cap"]]
    assert after != [pytest.approx(row) for row in before]
    assert Hasher.hash(first) != Hasher.hash(second), "the cache key of `Dataset.map`"


def test_an_opened_scorer_serves(tmp_path: Path) -> None:
    def score(prompt: str, answer: str) -> float:
        return -float(len(prompt) + len(answer))

    data, scorer = splits(), MockLanguageModel(score)
    source = CAPPrior.from_dataset(data["train"], model=scorer, n=5)
    summary = extract_priors(data, [source], tmp_path / "out", QUIET)
    assert read(tmp_path / "out")["prior_cap"][:] == source(data["train"][:])["prior_cap"]
    assert summary.statistics.queries > 7


@pytest.mark.parametrize(("identity", "reused"), [("mock", 7), ("another", 0)])
def test_finished_work_is_that_of_the_identity_of_an_opened_scorer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, identity: str, reused: int
) -> None:
    data = splits()

    def extract(identity: str) -> ExtractionSummary:
        scorer = MockLanguageModel(lambda prompt, answer: -float(len(prompt)), fingerprint=identity)
        source = CAPPrior.from_dataset(data["train"], model=scorer, n=5)
        return extract_priors(data, [source], tmp_path / "out", QUIET)

    with monkeypatch.context() as patch:
        patch.setattr(extraction, "save_splits", interrupt)
        with pytest.raises(KeyboardInterrupt):
            extract("mock")
    assert extract(identity).reused == reused


def interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


@dataclass(frozen=True, kw_only=True)
class ShortWords(WordLengthPrior):
    """Another source than the word lengths: their negative."""

    name: ClassVar[str] = "short_words"

    def score_words(self, rows: Sequence[Row]) -> SourceResult:
        made = super().score_words(rows)
        return made._replace(scores=[[-score for score in row] for row in made.scores])


def test_a_second_extraction_adds_to_the_first(tmp_path: Path) -> None:
    extract_priors(splits(), [WordLengthPrior(labels=LABELS)], tmp_path / "one", QUIET)
    again = DatasetDict({split: read(tmp_path / "one", split) for split in ("train", "test")})
    source = Interrupted(labels=LABELS, stop=str(tmp_path / "stop"))
    extract_priors(again, [source], tmp_path / "two", QUIET)
    assert read(tmp_path / "two").features == read(tmp_path / "one").features
    extract_priors(again, [ShortWords(labels=LABELS)], tmp_path / "three", QUIET)
    one, three = read(tmp_path / "one"), read(tmp_path / "three")
    assert three["prior_word_length"][:] == one["prior_word_length"][:]
    assert three["prior_short_words"][0] == [-score for score in three["prior_word_length"][0]]
    assert read_provenance(three["provenance"][0]).keys() == {"word_length", "short_words"}


PROGRAM = """
import json, os, sys
from dataclasses import replace
from hf_cap.priors.cap import CAPPrior
from hf_cap.priors.extract import extract_priors
from hf_cap.lm.open import open_language_model
from hf_cap.lm.base import LMSettings
from tests.priors.test_extraction import QUIET, splits
data = splits()
source = CAPPrior.from_dataset(data["train"], model=LMSettings(model=sys.argv[1]), n=5)
# a calibration that differs in a last bit from process to process
source = replace(source, offsets=(1e-12 * int(os.environ.get("RANK", 0)), 0.0, 0.0))
summary = extract_priors(data, [source], sys.argv[2], QUIET)
asked = open_language_model(source.model).statistics.queries
# a file each: lines that two processes print can run into one another
with open(f"{sys.argv[2]}_{os.environ.get('RANK', 0)}.json", "w") as told:
    json.dump({"asked": asked, "queries": summary.statistics.queries}, told)
"""


@pytest.mark.slow
def test_two_processes_give_what_one_gives(tmp_path: Path, model: str) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    told = {}
    for processes in (1, 2):
        run = subprocess.run(
            [*accelerate_launch(processes), str(program), model, str(tmp_path / str(processes))],
            env=environment(HF_CAP_LM_RUNTIME=json.dumps({"store": "none"})),
            capture_output=True,
            text=True,
            check=False,
        )
        assert run.returncode == 0, run.stderr[-3000:]
        told[processes] = [
            json.loads(path.read_text()) for path in tmp_path.glob(f"{processes}_*.json")
        ]
    (alone,), pair = told[1], told[2]
    assert len(pair) == 2
    assert all(0 < one["asked"] < alone["asked"] for one in pair)
    assert sum(one["asked"] for one in pair) == alone["asked"]
    assert {one["queries"] for one in pair} == {alone["queries"]}
    one, two = (read(tmp_path / name) for name in ("1", "2"))
    assert one.to_dict() == two.to_dict()


def test_mistakes_are_found_before_any_scoring(tmp_path: Path) -> None:
    stop = tmp_path / "stop"
    source = Interrupted(labels=LABELS, stop=str(stop))
    data = splits()
    with pytest.raises(ConfigError, match="different names"):
        extract_priors(data, [source, source], tmp_path / "out", QUIET)
    with pytest.raises(ConfigError, match="one or more"):
        extract_priors(data, [], tmp_path / "out", QUIET)
    with pytest.raises(DataError, match="no split 'dev'"):
        extract_priors(data, [source], tmp_path / "out", ExtractionSettings(splits=("dev",)))
    data["train"] = data["train"].map(
        lambda row, i: {"text": "" if i == 6 else "a"}, with_indices=True
    )
    with pytest.raises(DataError, match="Row 6"):
        extract_priors(data, [source], tmp_path / "out", QUIET)
    assert not stop.with_suffix(".log").exists()
    with pytest.raises(ConfigError, match="chunk_size"):
        ExtractionSettings(chunk_size=0)


def test_calibration_takes_off_what_every_text_gets() -> None:
    # the model prefers label 0 by far, and is right about which text is more of label 1
    found = zero_shot([[-1.0, -9.0], [-1.0, -5.0]], [0, 1])
    assert (found.raw, found.calibrated) == (0.5, 1.0)


def test_summary_in_words() -> None:
    statistics = LMStatistics(
        queries=1000, stored=100, distinct=500, naive_tokens=90_000, distinct_saved=40_000,
        prefix_saved=30_000, trie_saved=10_000, tokens_computed=10_000, seconds=5.0,
    )  # fmt: skip
    text = str(
        ExtractionSummary(
            10, 3, 6.2, statistics, {"cap": 2, "channel": 0}, {"cap": zero_shot([[0.0]], [0])}
        )
    )
    assert "10 texts in 6 s; 3 were finished before" in text
    assert "10,000 tokens computed (2,000 a second) instead of 90,000" in text
    assert "the naive way would take about 45 s" in text
    assert "cap: 2 texts were cut" in text
    assert "channel" not in text
    assert "right for 100.0% of the texts (100.0% calibrated)" in text
