"""Kills and server faults: what is asked again, lost, wrong, or cannot go on.

`kills` ends each command by SIGKILL at random moments and starts it again until it ends. `faults` asks a
server that fails a fifth of the time. Models are tiny and built in code; nothing is downloaded.

    python -m benchmarks.reliability kills --kills 100
    python -m benchmarks.reliability faults --requests 1000
"""

import argparse
import json
import multiprocessing
import os
import pkgutil
import random
import re
import shutil
import socket
import sqlite3
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple
from functools import partial
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from zlib import crc32

import pandas as pd
from safetensors.numpy import load_file
from transformers import AutoModel

import hf_cap
from hf_cap.cli import main as run_command
from hf_cap.errors import CAPError
from hf_cap.lm import cache, local, served
from hf_cap.lm.base import LMRuntime, LMSettings, Query
from tests.lm.server import Server, Write, message
from tests.tiny import WORDS, byte_tokenizer, llama, roberta_classifier, word_tokenizer

LABELS = ("lost_card", "renew_loan")
COUNTED = ["kills", "ends", "answers", "again", "in flight", "lost", "stuck", "different"]
PRELOADED = (
    "tests.lm.server safetensors.numpy openai anyio.from_thread sklearn.feature_selection".split()
)
PRELOADED += [found.name for found in pkgutil.walk_packages(hf_cap.__path__, "hf_cap.")]
PRELOADED.remove("hf_cap.__main__")
PRELOADED += [f"transformers.models.{name}.modeling_{name}" for name in ("llama", "roberta")]
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

    def wait(self, seconds: float) -> list[int | None]:
        """Exit statuses, `None` of a process that was killed at the end of the time."""
        deadline = time.monotonic() + seconds
        for process in self.running:
            process.join(max(0.0, deadline - time.monotonic()))
        codes = [process.exitcode for process in self.running]
        for process in self.running:
            process.kill()
        for process in self.running:
            process.join()
        self.running.clear()
        return codes

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


def difference(one: Any, other: Any) -> float:
    """The largest difference between numbers in the same places; infinite where anything else differs."""
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        return max((difference(one[key], other[key]) for key in one), default=0.0)
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        return max(map(difference, one, other), default=0.0)
    if isinstance(one, float) and isinstance(other, float):
        return abs(one - other)
    return 0.0 if one == other else float("inf")


def measure(case: Case, kills: int, seconds: float, draw: random.Random) -> Counter[str]:
    """Kill a command until there are so many kills, or the time is over; let each chain of runs end."""
    figures, began = Counter[str](), time.monotonic()
    case.clear()
    case.start()
    if any(code != 0 for code in case.wait(300)):
        raise SystemExit((case.room / "output.log").read_text()[-3000:])
    whole = time.monotonic() - began
    expected, everything = case.results(), case.stored().keys()
    if not expected:
        raise SystemExit(f"Nothing was written by {case.words}.")
    figures["answers"], fresh, apart = len(everything), True, 0.0
    before, ever = dict[str, bytes](), set[str]()
    while True:
        enough = figures["kills"] >= kills or time.monotonic() - began > seconds
        if fresh:
            if enough:
                break
            case.clear()
            fresh, before, ever = False, {}, set()
        case.start()
        codes = case.wait(120 if enough else draw.uniform(0, whole))
        asked, stored = case.asked(), case.stored()
        figures["again"] += len(before.keys() & asked) + len(asked) - len({*asked})
        figures["in flight"] += len(ever & set(asked) - before.keys())
        figures["lost"] += sum(stored.get(key) != value for key, value in before.items())
        before, ever = stored, ever | {*asked}
        if any(codes) or (enough and None in codes):  # it failed, or does not end
            print((case.room / "output.log").read_text()[-600:], file=sys.stderr)
            figures["stuck"], fresh = figures["stuck"] + 1, True
        elif None in codes:
            figures["kills"] += 1
        else:
            figures["ends"], fresh = figures["ends"] + 1, True
            here = difference(expected, case.results())
            same = here < 1e-4 and stored.keys() == everything and ever <= everything
            figures["different"], apart = figures["different"] + (not same), max(apart, here)
    print(f"{time.monotonic() - began:.0f} s, largest difference {apart:.1e}", file=sys.stderr)
    return figures


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


def quiet(server: Server) -> Any:
    """The server without a traceback for each client that hangs up."""
    server._http.handle_error = lambda *_: None  # type: ignore[method-assign]
    return server


def chat(prompt: str) -> dict[str, Any]:
    """The reply of a chat model to a question about a feature, an attack or a check of one."""
    if "Message: " not in prompt:
        return message(f"Because. Score: {crc32(prompt.encode()) % 21 - 10}")
    if prompt.startswith("Is the topic"):
        return message("yes")
    text = prompt.split("Message: ")[1].splitlines()[0]
    return message(
        f"by the way, never mind the {'loan' if 'lost card' in text else 'card'}: {text}"
    )


def kill_all(room: Path, names: Sequence[str], kills: int, seconds: float, seed: int) -> None:
    """Print a row of figures for each command, as it is measured."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    warm = context.Process(target=str)
    warm.start()
    warm.join()
    facts, server = make_room(room), quiet(Server())
    server.lists_models, server.chat = False, chat
    print("|".join(["command", *COUNTED]), "|".join(["---"] * (1 + len(COUNTED))), sep="\n")
    for name in names:
        folder = room / re.sub(r"\W+", "-", name)
        places = {**facts, "url": server.url, "store": folder / "scores.sqlite"}
        words = f"{CASES[name]} --output_dir {folder}/out".format(**places).split()
        case = Case(folder, words, 1 + name.endswith("2 processes"))
        found = measure(case, kills, seconds, random.Random(seed))
        print("|".join([name, *(str(found[each]) for each in COUNTED)]), flush=True)
    server.close()


# --- A server that fails.

START = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


def drip(write: Write) -> None:
    """Answer without an end, a byte at a time."""
    write(START + b"\r\n")
    while True:
        time.sleep(0.1)
        write(b" ")


def set_scores(value: Any, place: slice) -> Callable[[dict[str, Any]], None]:
    """Puts a value in the place of log-probabilities."""

    def spoil(reply: dict[str, Any]) -> None:
        choice = reply["choices"][0]
        for told in (choice.get("prompt_logprobs") or [])[1:][place]:
            next(iter(told.values()))["logprob"] = value
        scores = choice.get("logprobs", {}).get("token_logprobs", [])
        for at in range(1, len(scores))[place]:
            scores[at] = value

    return spoil


def add_token(reply: dict[str, Any]) -> None:
    """One token of the server's own in front, with the answer's place moved by one."""
    choice = reply["choices"][0]
    if listed := choice.get("prompt_logprobs"):
        listed.insert(1, {"1": {"logprob": -2.0, "rank": 1}})
    else:
        for values, value in zip(choice["logprobs"].values(), ("<s>", None, 0), strict=True):
            values.insert(0, value)
            values.pop()


STATUS = {"500": (500, {}), "503": (503, {}), "429": (429, {"Retry-After": "1"}), "closed": (0, {})}
RAW: dict[str, Callable[[Write], object]] = {
    "drip": drip,
    "cut short": lambda write: write(START + b'Content-Length: 99\r\n\r\n{"choices": ['),
    "nonsense": lambda write: write(START + b"\r\n<html>busy</html>"),
}
SPOIL: dict[str, Callable[[dict[str, Any]], object]] = {
    "above 0": set_scores(0.7, slice(-3, None)),
    "true": set_scores(True, slice(-3, None)),
    "all equal": set_scores(0.0, slice(None)),
    "a token too many": add_token,
}
KINDS = [*STATUS, *RAW, *SPOIL]


class FaultyServer(Server):
    """Fails with the probability `share`, in each way alike."""

    share = 0.0

    def __init__(self, seed: int) -> None:
        self.draw, self.drawn = random.Random(seed), Counter[str]()
        self.now_in = threading.local()
        super().__init__()
        self.fault = lambda number: STATUS.get(self.now_in.kind)
        self.spoil = lambda reply: SPOIL.get(self.now_in.kind, len)(reply)

    def _handler(server: "FaultyServer") -> type[BaseHTTPRequestHandler]:
        class Handler(super()._handler()):  # type: ignore[misc]
            def do_POST(self) -> None:
                with server._lock:
                    fails = server.draw.random() < server.share
                    kind = server.draw.choice(KINDS) if fails else "none"
                    server.drawn[kind] += 1
                server.now_in.kind = kind
                if kind in RAW:
                    self.rfile.read(int(self.headers["Content-Length"]))
                    self._raw(RAW[kind])
                else:
                    super().do_POST()

        return Handler


def questions(number: int) -> Iterator[Query]:
    """Queries of which hardly two are equal."""
    draw = random.Random(1)
    for _ in range(number):
        prefix, body = " ".join(draw.sample(WORDS, 5)), " ".join(draw.sample(WORDS, 4))
        yield Query(f"{prefix}: ", body, f" {draw.choice(WORDS)}")


def ask_all(number: int, seed: int) -> None:
    """Print how many answers of a server that fails were right, refused and wrong, and how long it took."""
    queries, found = list(questions(number)), Counter[str]()
    right = local.LocalLanguageModel(llama(), byte_tokenizer()).log_probs(queries)
    faulty = FaultyServer(seed)
    server, longest, began = quiet(faulty), 0.0, time.monotonic()

    def ask(lm: served.ServedLanguageModel, place: int) -> tuple[str, float]:
        started = time.monotonic()
        try:
            (scored,) = lm.log_probs([queries[place]])
        except CAPError:
            return "refused", time.monotonic() - started
        pairs = zip(scored.log_probs, right[place].log_probs, strict=True)
        close = max(abs(one - other) for one, other in pairs) < 1e-4
        return "right" if close else "wrong", time.monotonic() - started

    for part, name in enumerate(("prompt_logprobs", "echo")):
        server.fields, server.share = {name}, 0.0
        settings = LMSettings(model="tiny", base_url=server.url)
        runtime = LMRuntime(timeout=2.0, max_retries=6)
        lm = served.ServedLanguageModel(settings, runtime, byte_tokenizer())
        print(f"The server gives {lm.dialect}.")
        server.share = 0.2
        with ThreadPoolExecutor(16) as pool:
            for outcome, seconds in pool.map(partial(ask, lm), range(part, number, 2)):
                found[outcome] += 1
                longest = max(longest, seconds)
    server.close()
    print(f"right {found['right']}, refused {found['refused']}, wrong {found['wrong']} of {number}")
    print(f"longest {longest:.1f} s, all {time.monotonic() - began:.0f} s")
    print("answers of the server:", ", ".join(f"{n} {kind}" for kind, n in faulty.drawn.items()))


def main() -> None:
    """Measure one of the two."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("what", choices=["kills", "faults"])
    parser.add_argument("--kills", type=int, default=100, help="per command")
    parser.add_argument("--minutes", type=float, default=60.0, help="at most, per command")
    parser.add_argument("--cases", nargs="*", default=list(CASES), choices=list(CASES))
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    if given.what == "faults":
        return ask_all(given.requests, given.seed)
    with TemporaryDirectory() as room:
        os.environ["HF_CAP_CACHE"] = f"{room}/cache"
        kill_all(Path(room), given.cases, given.kills, 60 * given.minutes, given.seed)


if __name__ == "__main__":
    main()
