"""The stage `extract`: sources over a data set, chunk by chunk, by one process or many, never twice.

Finished chunks are kept in a work folder beside the output until the output stands. Chunks are ranges
of rows, and do not depend on how many processes share them, so neither does the result; a later run
may have more or fewer processes and goes on where the last one ended.
"""

import logging
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from datasets import Dataset, DatasetDict, Features
from datasets.fingerprint import Hasher
from tqdm.auto import tqdm

from ..data import check_output, choose_split, save_splits
from ..errors import ConfigError
from ..files import atomic_path, real_path
from ..schema import LABEL, PROVENANCE, add_provenance, diagnostic_column, read_provenance
from ..scoring.open import open_scorer
from ..scoring.protocol import Scorer
from ..scoring.settings import ScorerSettings
from ..scoring.statistics import ScorerStatistics
from .rows import read_rows
from .settings import ExtractionSettings
from .sources import Source
from .summary import ExtractionSummary, zero_shot
from .word_source import WordSource

_logger = logging.getLogger(__name__)

_PATIENCE = timedelta(days=30)
"""How long processes wait for one another."""


@dataclass(frozen=True)
class _Chunk:
    """Some rows of a split that one source scores together, and the file that keeps the result."""

    rows: range
    file: Path


def extract_priors(
    splits: Mapping[str, Dataset],
    sources: Sequence[Source],
    output: str | Path,
    settings: ExtractionSettings | None = None,
    *,
    command: str | None = None,
) -> ExtractionSummary:
    """Add the columns of some prior sources to a data set and write it to a folder.

    Under `accelerate launch` every process scores its share of the chunks and the main process writes
    the output; the processes must see the same file system.

    Args:
        splits: Data sets with the columns that the sources read.
        sources: Prior sources, each with a name of its own.
        output: Folder to write; see `save_splits`.
        settings: Which splits, how many texts at a time.
        command: The command that makes this data set again, for the provenance.

    Returns:
        What was done, over all processes.

    Raises:
        ConfigError: two sources have the same name, or none is given; or the folder holds something that
            would be lost.
        DataError: a split, column, text or label is missing. Nothing is scored then.
    """
    settings = settings or ExtractionSettings()
    started, output = time.monotonic(), real_path(output)
    check_output(output, splits)
    chosen = {split: choose_split(splits, split) for split in settings.splits}
    _check(chosen, sources)
    state = _processes()
    work = output.parent / f".{output.name}.work"
    # found once: what a source keeps of its work must not change where the work is looked for
    chunks = {
        (source.name, split): _chunks(data, source, work / split, settings.chunk_size)
        for source in sources
        for split, data in chosen.items()
    }
    statistics, reused = ScorerStatistics(), 0
    for source in sources:
        for split, data in chosen.items():
            todo = chunks[source.name, split]
            did, found = _score_chunks(data, source, todo, state, settings.progress)
            statistics, reused = statistics + did, reused + found
    state.wait_for_everyone()
    facts = {"date": datetime.now(UTC).date().isoformat(), "command": command}
    made = {
        split: _with_sources(data, {s.name: chunks[s.name, split] for s in sources}, facts)
        for split, data in chosen.items()
    }
    if state.is_main_process:
        save_splits(_with_same_columns(splits, made), output)
    state.wait_for_everyone()
    if state.is_main_process:
        shutil.rmtree(work, ignore_errors=True)
    gathered = gather_object([(statistics, reused)])
    return _summary(
        made,
        sources,
        statistics=sum((did for did, _ in gathered), ScorerStatistics()),
        reused=sum(found for _, found in gathered),
        seconds=time.monotonic() - started,
    )


def _processes() -> PartialState:
    """The processes that were launched together, one where none were.

    Without an accelerator they form a group only if told to use the CPU. The slowest may come to a
    meeting point hours after the first, which the usual ten minutes of patience would not survive.
    """
    return PartialState(cpu=not torch.accelerator.is_available(), timeout=_PATIENCE)


def _check(chosen: Mapping[str, Dataset], sources: Sequence[Source]) -> None:
    names = [source.name for source in sources]
    if not names or len(set(names)) < len(names):
        raise ConfigError(f"Give one or more sources of different names; got {names!r}.")
    for source in sources:
        for data in chosen.values():
            if isinstance(source, WordSource):
                read_rows(data[:], source.labels, source)


def _chunks(data: Dataset, source: Source, folder: Path, size: int) -> list[_Chunk]:
    """Chunks of a split, in a folder that only this source over these rows can have written."""
    columns = data.remove_columns([PROVENANCE] if PROVENANCE in data.column_names else [])
    key = Hasher.hash((_state(source), columns[:], size))
    return [
        _Chunk(
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


def _score_chunks(
    data: Dataset, source: Source, chunks: Sequence[_Chunk], state: PartialState, progress: bool
) -> tuple[ScorerStatistics, int]:
    """Score this process's share of the chunks that are not there yet; count the texts that are."""
    todo = [chunk for chunk in chunks if not chunk.file.exists()]
    # every process must have looked before the first one writes, or their shares would overlap
    state.wait_for_everyone()
    mine = todo[state.process_index :: state.num_processes]
    reused = len(data) - sum(len(chunk.rows) for chunk in todo) if state.is_main_process else 0
    before = _statistics(source) if mine else ScorerStatistics()
    share = f" (one of {state.num_processes} shares)" if state.num_processes > 1 else ""
    shown = progress and state.is_main_process
    try:
        for chunk in _with_progress(mine, source.name + share, shown):
            _score_chunk(data, source, chunk)
    except KeyboardInterrupt:
        _logger.warning(
            "Interrupted. What was finished is kept in %s; the same command goes on from there.",
            chunks[0].file.parent,
        )
        raise
    after = _statistics(source) if mine else before
    names = [item.name for item in fields(ScorerStatistics)]
    return ScorerStatistics(
        *(getattr(after, name) - getattr(before, name) for name in names)
    ), reused


def _with_progress(chunks: Sequence[_Chunk], name: str, shown: bool) -> Iterator[_Chunk]:
    total = sum(len(chunk.rows) for chunk in chunks)
    with tqdm(total=total, desc=name, unit=" texts", disable=not shown) as bar:
        for chunk in chunks:
            yield chunk
            bar.update(len(chunk.rows))


def _score_chunk(data: Dataset, source: Source, chunk: _Chunk) -> None:
    batch = data[chunk.rows.start : chunk.rows.stop]
    batch.pop(PROVENANCE, None)
    made = {name: values for name, values in source(batch).items() if values is not batch.get(name)}
    with atomic_path(chunk.file) as path:
        pq.write_table(pa.table(made), path)


def _statistics(source: Source) -> ScorerStatistics:
    """Running totals of the language model of a source; zero where it has none that counts."""
    scorer = getattr(source, "scorer", None)
    opened = open_scorer(scorer) if isinstance(scorer, ScorerSettings) else scorer
    totals: ScorerStatistics = getattr(opened, "statistics", ScorerStatistics())
    return totals


def _with_sources(
    data: Dataset,
    chunks: Mapping[str, Sequence[_Chunk]],
    facts: Mapping[str, str | None],
) -> Dataset:
    """The split with the columns that the chunk files of all sources, by name, hold."""
    cells = data[PROVENANCE] if PROVENANCE in data.column_names else [None] * len(data)
    columns: dict[str, list[Any]] = {PROVENANCE: list(cells)}
    for source, files in chunks.items():
        parts = [pq.read_table(chunk.file).to_pydict() for chunk in files]
        made = {name: [cell for part in parts for cell in part[name]] for name in parts[0]}
        own = made.pop(PROVENANCE)
        columns[PROVENANCE] = _merged(columns[PROVENANCE], own, source, facts)
        columns |= made
    kept = data.remove_columns([name for name in columns if name in data.column_names])
    added = Dataset.from_dict(columns)
    for name in columns:
        kept = kept.add_column(name, added[name][:], feature=added.features[name])
    return kept


def _merged(
    cells: Sequence[str | None], own: Sequence[str], name: str, facts: Mapping[str, str | None]
) -> list[str]:
    """Provenance cells with what one source and this run have to say."""
    made = {
        (cell, new): add_provenance(cell, name, {**read_provenance(new)[name], **facts})
        for cell, new in set(zip(cells, own, strict=True))
    }
    return [made[pair] for pair in zip(cells, own, strict=True)]


def _with_same_columns(splits: Mapping[str, Dataset], made: Mapping[str, Dataset]) -> DatasetDict:
    """All splits with the same columns: empty ones where nothing was extracted."""
    whole = next(iter(made.values()))
    result = {}
    for split, data in splits.items():
        if split in made:
            result[split] = made[split].cast(whole.features)
            continue
        for name in (n for n in whole.column_names if n not in data.column_names):
            empty = Dataset.from_dict(
                {name: [None] * len(data)}, features=Features({name: whole.features[name]})
            )
            data = data.add_column(name, empty[name][:], feature=whole.features[name])
        result[split] = data.select_columns(whole.column_names)
    return DatasetDict(result)


def _summary(
    made: Mapping[str, Dataset],
    sources: Sequence[Source],
    *,
    statistics: ScorerStatistics,
    reused: int,
    seconds: float,
) -> ExtractionSummary:
    def column(source: Source, what: str) -> list[Any]:
        name = diagnostic_column(source.name, what)
        return [cell for data in made.values() if name in data.column_names for cell in data[name]]

    gold = [label for data in made.values() for label in data[LABEL]]
    return ExtractionSummary(
        texts=len(gold),
        reused=reused,
        seconds=seconds,
        statistics=statistics,
        cut={source.name: sum(cut > 0 for cut in column(source, "cut")) for source in sources},
        zero_shot={
            source.name: zero_shot(scores, gold)
            for source in sources
            if (scores := column(source, "label_scores"))
        },
    )
