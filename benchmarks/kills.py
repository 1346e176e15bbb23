"""Kills: what is asked again, lost, different or cannot go on after SIGKILL.

Each command is ended at random moments and started again until it ends. Each time it is forked from a process
that has imported everything and run nothing. The figures of each chain of runs are added to a file; called
again it goes on there. Models are tiny and built in code; nothing is downloaded.

    python -m benchmarks.kills --kills 100
"""

import argparse
import json
import math
import multiprocessing
import os
import pkgutil
import random
import re
import shutil
import socket
import sqlite3
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import astuple, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from zlib import crc32

import datasets.io
import detect_secrets
import pandas as pd
import psutil
from safetensors.numpy import load_file
from transformers import AutoModel

import hf_cap
from benchmarks.server_faults import quiet
from hf_cap.cli import main as run_command
from hf_cap.lm import cache, local, served
from hf_cap.lm.base import Query
from tests.lm.server import Server, message
from tests.tiny import WORDS, byte_tokenizer, llama, roberta_classifier, word_tokenizer

RESULTS = Path(__file__).parent / "results" / "kills.jsonl"
LABELS = ("lost_card", "renew_loan")
COUNTED = ["kills", "ends", "answers", "again", "in flight", "lost", "stuck", "different", "millionths"]
PRELOADED = "tests.lm.server safetensors.numpy openai anyio.from_thread sklearn.feature_selection".split()
PRELOADED += [found.name for found in pkgutil.walk_packages(hf_cap.__path__, "hf_cap.")]
PRELOADED.remove("hf_cap.__main__")
PRELOADED += [f"transformers.models.{name}.modeling_{name}" for name in ("llama", "roberta")]
for package in (detect_secrets, datasets.io):
    found = pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
    PRELOADED += [one.name for one in found if "__main__" not in one.name]
PRELOADED += ["anyio._backends._asyncio", "encodings.utf_8_sig", "encodings.unicode_escape"]
EXTRACT = "extract {texts} --model {llm} --cap.n 4 --batch_size 4 --lm.store {store}"
CASES = {
    "extract, local model": EXTRACT,
    "extract, local model, 2 processes": EXTRACT,
    "extract, served model": f"{EXTRACT} --lm.base_url {{url}}",
    "extract, served model, 2 processes": f"{EXTRACT} --lm.base_url {{url}}",
    "train": "train {texts} --model {encoder} --alignment_weight 0 --num_train_epochs 8 --use_cpu true "
    "--per_device_train_batch_size 4 --save_strategy steps --save_steps 3 --save_total_limit 2 "
    "--report_to none --resume_from_checkpoint last",
    "elicit": "elicit --dataset {table} --label_column label --method chat --model {llm} --estimates 3 "
    "--lm.base_url {url} --lm.store {store}",
    "attack": "attack {texts} --maker chat --model {llm} --base_url {url} --lm.store {store}",
    "fit": "fit {texts} --extract.model {llm} --cap.n 4 --lm.store {store} --train.model {encoder} "
    "--train.use_cpu true --train.num_train_epochs 2 --train.save_strategy steps --train.save_steps 2 "
    "--evaluate.attribution_steps 2",
}


def child(words: list[str], folder: str, environment: dict[str, str]) -> None:
    """`hf-cap` in a process that writes down the key of each question that a model is asked."""
    os.environ.update(environment)
    places = [f"{folder}/{name}" for name in ("output.log", "asked")]
    output, asked = (os.open(at, os.O_CREAT | os.O_WRONLY | os.O_APPEND) for at in places)
    os.dup2(output, 1)
    os.dup2(output, 2)

    def noted(ask: Any, key: Callable[..., bytes]) -> Any:
        def call(self: Any, items: Sequence[Any], *more: Any) -> Any:
            keys = [key(self.fingerprint, item, *more) for item in items]
            os.write(asked, "".join(f"{key.hex()}\n" for key in keys).encode())
            return ask(self, items, *more)

        return call

    def score_key(name: str, query: Query, *_: Any) -> bytes:
        return cache._key(name, query.prefix + query.body, query.answer)

    def reply_key(name: str, prompt: str, sampling: Any, *_: Any) -> bytes:
        return cache._key(name, astuple(sampling), prompt)

    kinds: list[Any] = [local.LocalLanguageModel, served.ServedLanguageModel]
    for kind in kinds:
        kind.log_probs = noted(kind.log_probs, score_key)
        kind.generate = noted(kind.generate, reply_key)
    sys.exit(run_command(words))


class Case:
    """One command in a folder of its own, to be started, killed and started again."""

    def __init__(self, room: Path, words: list[str], processes: int) -> None:
        self.room, self.words, self.processes = room, words, processes
        self.context = multiprocessing.get_context("forkserver")
        self.running: list[Any] = []

    def clear(self) -> None:
        """Begin with an empty folder."""
        shutil.rmtree(self.room, ignore_errors=True)
        self.room.mkdir(parents=True)

    def start(self) -> None:
        """Start the command."""
        (self.room / "asked").write_text("")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        several = {"WORLD_SIZE": str(self.processes), "MASTER_ADDR": "127.0.0.1"}
        for rank in map(str, range(self.processes)):
            places = {**several, "MASTER_PORT": port, "RANK": rank, "LOCAL_RANK": rank}
            environment = places if self.processes > 1 else {}
            arguments = (self.words, str(self.room), environment)
            self.running.append(self.context.Process(target=child, args=arguments))
            self.running[-1].start()

    def wait(self, most: float, seconds: float = 300.0) -> tuple[list[int | None], float]:
        """Exit statuses, and the processor time that was spent.

        After the processor time `most` the processes are killed, which have the status `None`: other work on
        the machine does not move that moment. Those that still run after `seconds` have the status -1.
        """
        deadline, spent = time.monotonic() + seconds, dict[int, float]()
        while sum(spent.values()) < most and time.monotonic() < deadline:
            time.sleep(0.005)
            if all(process.exitcode is not None for process in self.running):
                break
            for process in self.running:
                with suppress(psutil.Error):
                    times = psutil.Process(process.pid).cpu_times()
                    spent[process.pid] = times.user + times.system
        late = -1 if time.monotonic() > deadline else None
        codes = [late if p.exitcode is None else p.exitcode for p in self.running]
        for process in self.running:
            process.kill()
        for process in self.running:
            process.join()
        self.running.clear()
        return codes, sum(spent.values())

    def asked(self) -> list[str]:
        """Keys of the questions that the models of the latest run were asked."""
        return (self.room / "asked").read_text().split()

    def stored(self) -> dict[str, bytes]:
        """The answers in the store, read from a copy: reading must not mend what the kill left."""
        with TemporaryDirectory() as copy:
            for file in self.room.glob("scores.sqlite*"):
                shutil.copy(file, copy)
            if not (Path(copy) / "scores.sqlite").exists():
                return {}
            connection = sqlite3.connect(Path(copy) / "scores.sqlite")
            try:
                rows = connection.execute("SELECT hex(key), value FROM answers").fetchall()
            except sqlite3.OperationalError:  # killed before it made the table
                rows = []
            connection.close()
        return {key.lower(): value for key, value in rows}

    def results(self) -> dict[str, Any]:
        """The values of all tables and weights that it wrote, without checkpoints and provenance."""
        found: dict[str, Any] = {}
        for file in sorted((self.room / "out").rglob("*")):
            name = str(file.relative_to(self.room))
            if "checkpoint-" in name:
                continue
            if file.suffix == ".parquet":
                frame = pd.read_parquet(file).drop(columns="provenance", errors="ignore")
                found[name] = json.loads(frame.to_json(double_precision=15))
            if file.suffix == ".safetensors":
                found[name] = {key: value.tolist() for key, value in load_file(file).items()}
        return found


@dataclass(frozen=True)
class Whole:
    """An undisturbed run: processor time in seconds, what it wrote, and the keys of its answers."""

    seconds: float
    results: dict[str, Any]
    answers: set[str]


def difference(one: Any, other: Any) -> float:
    """The largest difference between numbers in the same places; infinite where anything else differs."""
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        return max((difference(one[key], other[key]) for key in one), default=0.0)
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        return max(map(difference, one, other), default=0.0)
    if isinstance(one, float) and isinstance(other, float):
        return abs(one - other)
    return 0.0 if one == other else float("inf")


def run_chain(case: Case, whole: Whole, draw: random.Random) -> Counter[str]:
    """Start a command in an empty folder, kill it and start it again, until it ends."""
    figures, before, ever = Counter[str](), dict[str, bytes](), set[str]()
    case.clear()
    while True:
        case.start()
        codes, _ = case.wait(draw.uniform(0, whole.seconds))
        asked, stored = case.asked(), case.stored()
        figures["again"] += len(before.keys() & asked) + len(asked) - len({*asked})
        figures["in flight"] += len(ever & set(asked) - before.keys())
        figures["lost"] += sum(stored.get(key) != value for key, value in before.items())
        before, ever = stored, ever | {*asked}
        if any(codes):  # it failed, or does not end
            print((case.room / "output.log").read_text()[-600:], file=sys.stderr)
            figures["stuck"] += 1
            return figures
        if None not in codes:
            figures["ends"] += 1
            apart = difference(whole.results, case.results())
            same = apart < 1e-4 and stored.keys() == whole.answers and ever <= whole.answers
            figures["different"] += not same
            figures["millionths"] = round(min(apart, 1.0) * 1e6)
            return figures
        figures["kills"] += 1


def run_whole(case: Case) -> Whole:
    """Run a command undisturbed."""
    case.clear()
    case.start()
    codes, seconds = case.wait(math.inf)
    if any(codes) or not (results := case.results()):
        raise SystemExit((case.room / "output.log").read_text()[-3000:])
    return Whole(seconds, results, {*case.stored()})


def measure(name: str, case: Case, kills: int, seconds: float, file: Path) -> None:
    """Kill a command until the file tells of so many kills of it, or the time is over."""
    began = time.monotonic()
    whole = run_whole(case)
    print(f"{name}: {whole.seconds:.2f} s of processor time undisturbed", file=sys.stderr)
    while (found := total(file)[name])["kills"] < kills and time.monotonic() - began < seconds:
        figures = run_chain(case, whole, random.Random(found["chains"]))
        row = {"command": name, "answers": len(whole.answers), **figures}
        with file.open("a") as lines:
            lines.write(json.dumps(row) + "\n")


def total(file: Path) -> dict[str, Counter[str]]:
    """The figures of each command, summed over its chains of runs."""
    found = {name: Counter[str]() for name in CASES}
    for line in file.read_text().splitlines() if file.exists() else ():
        row = json.loads(line)
        of, most = found[row.pop("command")], ("answers", "millionths")
        highest = {name: max(of[name], row.pop(name, 0)) for name in most}
        of.update({**row, "chains": 1})
        of |= highest
    return found


def make_room(room: Path) -> dict[str, Any]:
    """Texts, a table and tiny models."""
    draw, texts = random.Random(0), room / "texts"
    texts.mkdir(parents=True)
    for split, rows in (("train", 16), ("test", 8)):
        lines = []
        for row in range(rows):
            words = [*draw.sample(WORDS, 4), *LABELS[row % 2].split("_")]
            lines.append(json.dumps({"text": " ".join(words), "label": LABELS[row % 2]}))
        (texts / f"{split}.jsonl").write_text("\n".join(lines))
    header = ",".join([f"x{i}" for i in range(8)] + ["label"])
    cells = [",".join([*(f"{draw.random():.3f}" for _ in range(8)), "ab"[i % 2]]) for i in range(8)]
    (room / "table.csv").write_text("\n".join([header, *cells]))
    llama().save_pretrained(room / "llm")
    byte_tokenizer().save_pretrained(room / "llm")
    AutoModel.from_config(roberta_classifier(2).config).save_pretrained(room / "encoder")
    word_tokenizer().save_pretrained(room / "encoder")
    return {
        "texts": f"--dataset {texts}",
        "table": room / "table.csv",
        **{name: room / name for name in ("llm", "encoder")},
    }


def chat(prompt: str) -> dict[str, Any]:
    """The reply of a chat model to a question about a feature, an attack or a check of one."""
    if "Message: " not in prompt:
        return message(f"Because. Score: {crc32(prompt.encode()) % 21 - 10}")
    if prompt.startswith("Is the topic"):
        return message("yes")
    text = prompt.split("Message: ")[1].splitlines()[0]
    return message(f"by the way, never mind the {'loan' if 'lost card' in text else 'card'}: {text}")


class LightServer(Server):
    """Scores by a checksum in place of a model, so that kills find the command and not the server at work."""

    def complete(self, body: dict[str, Any]) -> Any:
        """A score per token that depends on all tokens before it."""
        if "messages" in body:
            return super().complete(body)
        ids, at, entries = body["prompt"], 0, list[Any]()
        for token in ids:
            at = crc32(token.to_bytes(4), at)
            entries.append({str(token): {"logprob": -(at % 1000) / 100, "rank": 1}})
        choice = {"index": 0, "text": "!", "prompt_logprobs": [None, *entries[1:]]}
        return {"choices": [choice], "usage": {"prompt_tokens": len(ids)}}


def serve(address: Any) -> None:
    """Send the address of a server, and serve."""
    server = quiet(LightServer())
    server.lists_models, server.chat = False, chat
    address.send(server.url)


def kill_all(room: Path, given: argparse.Namespace) -> None:
    """Measure the commands, and print a row of figures for each."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    here, there = context.Pipe()
    server = context.Process(target=serve, args=(there,))
    server.start()
    facts, url = make_room(room), here.recv()
    for name in given.cases:
        folder = room / re.sub(r"\W+", "-", name)
        places = {**facts, "url": url, "store": folder / "scores.sqlite"}
        words = f"{CASES[name]} --output_dir {folder}/out".format(**places).split()
        case = Case(folder, words, 1 + name.endswith("2 processes"))
        measure(name, case, given.kills, 60 * given.minutes, given.results)
    server.kill()
    found = total(given.results)
    print("|".join(["command", *COUNTED]), "|".join(["---"] * (1 + len(COUNTED))), sep="\n")
    for name in CASES:
        print("|".join([name, *(str(found[name][each]) for each in COUNTED)]))


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--kills", type=int, default=100, help="per command")
    parser.add_argument("--minutes", type=float, default=60.0, help="at most, per command")
    parser.add_argument("--cases", nargs="*", default=list(CASES), choices=list(CASES))
    parser.add_argument("--results", type=Path, default=RESULTS, help="is added to")
    given = parser.parse_args()
    with TemporaryDirectory() as room:
        os.environ["HF_CAP_CACHE"] = f"{room}/cache"
        kill_all(Path(room), given)


if __name__ == "__main__":
    main()
