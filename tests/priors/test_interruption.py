"""An extraction that is killed at any moment, and goes on with another number of processes."""

import json
import subprocess
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest
from datasets import DatasetDict, load_dataset

from tests.launching import accelerate_launch, environment
from tests.priors.test_extraction import splits
from tests.tiny import byte_tokenizer, llama

ROWS = 28
PROGRAM = """
import json, sys, time
from pathlib import Path
from hf_cap.priors.cap import CAPPrior
from hf_cap.priors.extract import extract_priors
from hf_cap.lm.local import LocalLanguageModel
from hf_cap.lm.base import LMSettings
from tests.priors.test_extraction import QUIET
from tests.priors.test_interruption import texts

def logged(self, queries, score=LocalLanguageModel.log_probs):
    with Path(sys.argv[3]).open("a") as log:
        log.write("".join(json.dumps([q.body, q.answer]) + "\\n" for q in queries))
    time.sleep(float(sys.argv[4]))
    return score(self, queries)

LocalLanguageModel.log_probs = logged
data = texts()
source = CAPPrior.from_dataset(data["train"], model=LMSettings(model=sys.argv[1]), n=5)
extract_priors(data, [source], sys.argv[2], QUIET)
"""


def texts() -> DatasetDict:
    """Texts without a word in common, so that none is found in the store for another's sake."""

    def alone(row: dict[str, str], number: int) -> dict[str, str]:
        return {"text": " ".join(f"{word}{number}" for word in row["text"].split())}

    return splits(ROWS).map(alone, with_indices=True)


class Job:
    """The program above in a process group of its own."""

    def __init__(self, room: Path, out: str, store: str, pause: float, processes: int) -> None:
        self.log = room / f"{out}.log"
        program = [str(room / "program.py"), str(room / "llm"), str(room / out), str(self.log)]
        self.process = subprocess.Popen(
            [*accelerate_launch(processes), *program, str(pause)],
            env=environment(HF_CAP_LM_RUNTIME=json.dumps({"store": store})),
            stderr=subprocess.PIPE,
        )

    def asked(self) -> list[str]:
        """Scores that the language model was asked for so far, in all runs."""
        return self.log.read_text().splitlines() if self.log.exists() else []

    def kill_after(self, scores: int) -> None:
        """SIGKILL to all its processes, once this many more scores were asked for."""
        before = len(self.asked())
        deadline = time.monotonic() + 120
        while len(self.asked()) < before + scores and self.process.poll() is None:
            assert time.monotonic() < deadline, "the program does nothing"
            time.sleep(0.01)
        assert self.process.poll() is None, "the program ended before it was killed"
        launcher = psutil.Process(self.process.pid)
        # what it launched is in sessions of their own; all stop first, so that none starts another
        family = [launcher, *launcher.children(recursive=True)]
        for member in family:
            member.suspend()
        for member in family:
            member.kill()
        self.process.communicate()  # closes the pipe

    def finish(self) -> None:
        """Wait for a good end."""
        _, errors = self.process.communicate()
        assert self.process.returncode == 0, errors.decode()[-3000:]


@pytest.mark.slow
def test_a_killed_extraction_scores_nothing_twice_whatever_the_processes(tmp_path: Path) -> None:
    llama().save_pretrained(tmp_path / "llm")
    byte_tokenizer().save_pretrained(tmp_path / "llm")
    (tmp_path / "program.py").write_text(PROGRAM)
    whole = Job(tmp_path, "whole", "none", 0.0, processes=1)
    whole.finish()
    undisturbed = Counter(whole.asked())
    store = str(tmp_path / "scores.sqlite")
    Job(tmp_path, "part", store, 0.3, processes=2).kill_after(len(whole.asked()) // 3)
    Job(tmp_path, "part", store, 0.3, processes=1).kill_after(len(whole.asked()) // 4)
    rest = Job(tmp_path, "part", store, 0.0, processes=2)
    rest.finish()
    asked = Counter(rest.asked())
    assert asked.keys() == undisturbed.keys()
    # again only what the three processes that were killed had in hand: a chunk of two texts each, which is
    # less than what was asked before the kills
    in_hand = 3 * 2 * -(-undisturbed.total() // ROWS)
    assert in_hand < undisturbed.total() // 3
    assert undisturbed.total() <= asked.total() <= undisturbed.total() + in_hand
    one, other = (
        load_dataset("parquet", data_files=str(tmp_path / out / "train.parquet"), split="train")
        for out in ("whole", "part")
    )
    assert one["text"][:] == other["text"][:]
    # a chunk that was half stored is scored in another company, which rounds differently
    for left, right in zip(one["prior_cap"], other["prior_cap"], strict=True):
        assert left == pytest.approx(right, abs=1e-5)
