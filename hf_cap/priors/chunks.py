"""Chunks: rows that one source scores together, each with the file that keeps what came of it.

Chunks are ranges of rows, and do not depend on how many processes share them, so neither does the result.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset
from datasets.fingerprint import Hasher

from ..claims import Busy, claimed
from ..files import atomic_path
from ..schema import PROVENANCE
from ..scoring.protocol import Scorer
from .sources import Source


@dataclass(frozen=True)
class Chunk:
    """Some rows of a split, and the file that keeps their scores."""

    rows: range
    file: Path

    @property
    def lock(self) -> Path:
        """What a process holds while it scores these rows, where others may do so too."""
        return self.file.with_suffix(".lock")


def chunks_of(data: Dataset, source: Source, folder: Path, size: int) -> list[Chunk]:
    """Chunks of a split, in a folder that only this source over these rows can have written."""
    columns = data.remove_columns([PROVENANCE] if PROVENANCE in data.column_names else [])
    key = Hasher.hash((_state(source), columns[:], size))
    return [
        Chunk(
            range(start, min(start + size, len(data))),
            folder / f"{source.name}-{key}" / f"{start:09d}.parquet",
        )
        for start in range(0, len(data), size)
    ]


def _state(source: Source) -> Any:
    """What determines the scores of a source: itself, or with an opened scorer that scorer's identity.

    An opened scorer counts what it is asked, so its own state is another after every text.
    """
    scorer = getattr(source, "scorer", None)
    if not isinstance(scorer, Scorer):
        return source
    return type(source), {**vars(source), "scorer": scorer.identity}


def score_chunks(
    data: Dataset, source: Source, chunks: Sequence[Chunk], *, shared: bool
) -> Iterator[Chunk]:
    """Score chunks that have no file yet, and give each once it has one.

    Args:
        data: The split.
        source: What scores it.
        chunks: Those to see to.
        shared: Other processes may be at them too (`score_free_chunks`). What they have in hand is given when
            they are done with it, and scored here at last if they never are.
    """
    held: deque[Chunk] = deque()
    for chunk in chunks:
        try:
            _score(data, source, chunk, shared=shared)
        except Busy:
            held.append(chunk)
            continue
        yield chunk
        while held and held[0].file.exists():
            yield held.popleft()
    for chunk in held:
        _score(data, source, chunk, shared=True, wait=True)
        yield chunk


def score_free_chunks(
    data: Dataset, source: Source, chunks: Sequence[Chunk], output: Path
) -> Iterator[Chunk]:
    """Score chunks that nobody has in hand, and give them; stop when their `output` is there."""
    for chunk in chunks:
        if chunk.file.exists():
            continue
        try:
            with claimed(chunk.lock, chunk.file):
                # the files go when the output stands, so it is looked for last
                if chunk.file.exists():
                    continue
                if output.exists():
                    return
                _write(data, source, chunk)
        except Busy:
            continue
        yield chunk


def _score(
    data: Dataset, source: Source, chunk: Chunk, *, shared: bool, wait: bool = False
) -> None:
    if not shared:
        _write(data, source, chunk)
        return
    with claimed(chunk.lock, chunk.file, wait=wait):
        if not chunk.file.exists():
            _write(data, source, chunk)


def _write(data: Dataset, source: Source, chunk: Chunk) -> None:
    batch = data[chunk.rows.start : chunk.rows.stop]
    batch.pop(PROVENANCE, None)
    made = {name: values for name, values in source(batch).items() if values is not batch.get(name)}
    with atomic_path(chunk.file) as path:
        pq.write_table(pa.table(made), path)
