"""What grows with the number of texts: memory of extraction, and the store of answers.

    python -m benchmarks.scale [--texts 1000 10000 100000] [--scores 1000000] [--output FILE]

Memory is the rise of the resident set of a fresh process at its peak, for texts of 20 words and a label space
of 500 with the score of every label kept, by a mock of a source. The store is filled with answers as
`CachedLanguageModel` fills it, one transaction per answer, and in one transaction per 1,024.
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
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

from datasets import ClassLabel, Dataset, Features, Value

from benchmarks.alignment import resident
from hf_cap.lm.cache import AnswerStore
from hf_cap.priors.base import Row, Source, SourceResult
from hf_cap.priors.extract import ExtractionSettings, extract_priors
from hf_cap.utils import write_json

RESULTS = Path(__file__).parent / "results" / "scale.json"
LABELS, WORDS = 500, 20


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
    """Answers a second into and out of a store of so many, and bytes of its file per answer."""
    with TemporaryDirectory() as folder:
        store = AnswerStore(Path(folder) / "scores.sqlite")
        keys = [random.Random(number).randbytes(20) for number in range(count)]
        value = [[-1.2345678806304932, -0.0012345], [0, 4]]
        body = json.dumps(value).encode()
        packed = zlib.crc32(body).to_bytes(4, "little") + body
        some = keys[: count // 20]
        started = time.perf_counter()
        for key in some:
            store.put(key, value)
        single = len(some) / (time.perf_counter() - started)
        started = time.perf_counter()
        for start in range(len(some), count, 1024):
            with store.transaction() as run:
                rows = [(key, packed) for key in keys[start : start + 1024]]
                for row in rows:
                    run("INSERT INTO answers VALUES (?, ?)", row)
        many = (count - len(some)) / (time.perf_counter() - started)
        asked = random.Random(0).sample(keys, min(count, 50_000))
        started = time.perf_counter()
        for start in range(0, len(asked), 1024):
            store.get(asked[start : start + 1024])
        found = len(asked) / (time.perf_counter() - started)
        connection = sqlite3.connect(store.path)
        bytes_used = file_bytes(connection) / count
        started = time.perf_counter()
        connection.execute("VACUUM")
        vacuum = time.perf_counter() - started
        compact = file_bytes(connection) / count
    return {
        "put": single, "put_together": many, "get": found, "bytes": bytes_used,
        "bytes_after_vacuum": compact, "vacuum_seconds": vacuum,
    }  # fmt: skip


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
