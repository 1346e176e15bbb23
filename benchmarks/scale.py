"""What grows with the number of texts: memory of extraction, and the store of answers.

    python -m benchmarks.scale [--texts 1000 10000 100000] [--scores 1000000] [--output FILE]

Memory is the rise of the resident set of a fresh process at its peak, for texts of 20 words and a label space
of 500 with the score of every label kept, by a mock of a source. Into a store of so many answers more are put
as `CachedLanguageModel` puts them, one transaction per answer, and in one transaction per 1,024.
"""

import argparse
import json
import os
import random
import sqlite3
import subprocess
import sys
import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

from datasets import ClassLabel, Dataset, Features, Value

from benchmarks.alignment import resident
from hf_cap.lm.cache import _SCHEMA, AnswerStore
from hf_cap.priors.base import ExtractionSettings, Row, Source, SourceResult
from hf_cap.priors.extract import extract_priors
from hf_cap.utils import write_json

RESULTS = Path(__file__).parent / "results" / "scale.json"
LABELS, WORDS = 500, 20
ALONE, TOGETHER = 10_000, 50 * 1024  # answers put in transactions of their own, and 1,024 in each


@dataclass(frozen=True, kw_only=True)
class MockSource(Source):
    """The columns of `cap` with `keep_label_scores`, at once."""

    name: ClassVar[str] = "mock"

    def score_words(self, rows: Sequence[Row]) -> SourceResult:
        """A score per word, its deviation, and a score per label."""
        draw = random.Random(rows[0].text)
        scores = [[draw.random() for _ in row.spans] for row in rows]
        labels = [[draw.random() for _ in self.labels] for _ in rows]
        return SourceResult(scores, {"std": scores, "label_scores": labels})


def texts(count: int) -> Dataset:
    """Texts of random words."""
    draw = random.Random(0)
    words = [f"word{number}" for number in range(5000)]
    features = Features(
        {"text": Value("string"), "label": ClassLabel(names=[f"l{n}" for n in range(LABELS)])}
    )
    columns = {
        "text": [" ".join(draw.choices(words, k=WORDS)) for _ in range(count)],
        "label": [number % LABELS for number in range(count)],
    }
    return Dataset.from_dict(columns, features=features)


def extraction_memory(count: int) -> dict[str, float]:
    """MiB that an extraction over so many texts adds at its peak, and its seconds."""
    data = texts(count)
    source = MockSource.from_dataset(data)
    with TemporaryDirectory() as folder:
        settings = ExtractionSettings(progress=False)
        extract_priors({"train": data.select(range(32))}, [source], f"{folder}/warm", settings)
        Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
        before, started = resident("VmRSS"), time.perf_counter()
        extract_priors({"train": data}, [source], f"{folder}/out", settings)
        seconds = time.perf_counter() - started
        peak = resident("VmHWM") - before
        size = sum(file.stat().st_size for file in Path(folder, "out").iterdir()) / 2**20
    return {"peak_mib": peak, "file_mib": size, "seconds": seconds}


def store_rates(count: int) -> dict[str, float]:
    """Answers a second into and out of a store that holds so many, and bytes of its file per answer."""
    value = [[-1.2345678806304932, -0.0012345], [0, 4]]
    body = json.dumps(value).encode()
    packed = zlib.crc32(body).to_bytes(4, "little") + body
    draw = random.Random(0)
    with TemporaryDirectory() as folder:
        store = AnswerStore(fill(Path(folder) / "scores.sqlite", count, packed))
        store.get([])
        started = time.perf_counter()
        for number in range(count, count + ALONE):
            store.put(key(number), value)
        single = ALONE / (time.perf_counter() - started)
        started = time.perf_counter()
        for first in range(count + ALONE, count + ALONE + TOGETHER, 1024):
            with store.transaction() as run:
                for number in range(first, first + 1024):
                    run("INSERT INTO answers VALUES (?, ?)", (key(number), packed))
        many = TOGETHER / (time.perf_counter() - started)
        asked = [key(draw.randrange(count)) for _ in range(TOGETHER)]
        started = time.perf_counter()
        for first in range(0, TOGETHER, 1024):
            store.get(asked[first : first + 1024])
        found = TOGETHER / (time.perf_counter() - started)
        connection = sqlite3.connect(store.path)
        size = file_bytes(connection) / (count + ALONE + TOGETHER)
        connection.close()
    return {"put": single, "put_together": many, "get": found, "bytes": size}


def fill(file: Path, count: int, value: bytes) -> Path:
    """A store of so many answers, put in the order of the file: minutes in place of hours."""
    connection = sqlite3.connect(file)
    for statement in ("PRAGMA journal_mode=OFF", "PRAGMA synchronous=OFF", *_SCHEMA.values()):
        connection.execute(statement)
    rows = ((known, value) for known in sorted(map(key, range(count))))
    connection.executemany("INSERT INTO answers VALUES (?, ?)", rows)
    connection.commit()
    connection.close()
    return file


def key(number: int) -> bytes:
    """A key as `CachedLanguageModel` makes it."""
    return blake2b(number.to_bytes(8), digest_size=20).digest()


def file_bytes(connection: sqlite3.Connection) -> int:
    """Size of a database."""
    names = ("page_count", "page_size")
    pages, size = (connection.execute(f"PRAGMA {name}").fetchone()[0] for name in names)
    return int(pages * size)


def apart(kind: str, count: int) -> Any:
    """A measurement in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.scale", "--only", kind, str(count)]
    # every large block in pages of its own, so that what is freed leaves the process
    variables = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    run = subprocess.run(command, capture_output=True, text=True, check=True, env=variables)
    return json.loads(run.stdout.splitlines()[-1])


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--texts", type=int, nargs="*", default=[1000, 10_000, 100_000])
    parser.add_argument("--scores", type=int, default=1_000_000)
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--only", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        kind, count = options.only
        measure = extraction_memory if kind == "texts" else store_rates
        print(json.dumps(measure(int(count))))
        return
    found = {
        "extraction": {count: apart("texts", count) for count in options.texts},
        "store": {"scores": options.scores, **apart("scores", options.scores)},
    }
    write_json(options.output, found)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
