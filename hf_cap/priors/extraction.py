"""The stage `extract`: sources over a data set, chunk by chunk, by one process or many, never twice.

Finished chunks are kept in a work folder beside the output until the output stands; a later run may have
more or fewer processes and goes on where the last one ended.
"""

import logging
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object
from datasets import Dataset, DatasetDict, Features
from tqdm.auto import tqdm

from ..data import check_output, choose_split, save_splits
from ..errors import ConfigError
from ..files import real_path
from ..schema import LABEL, PROVENANCE, add_provenance, diagnostic_column, read_provenance
from ..scoring.open import open_scorer
from ..scoring.settings import ScorerSettings
from ..scoring.statistics import ScorerStatistics
from .chunks import Chunk, chunks_of, score_chunks, score_free_chunks
from .rows import read_rows
from .settings import ExtractionSettings
from .sources import Source
from .summary import ExtractionSummary, zero_shot
from .word_source import WordSource

_logger = logging.getLogger(__name__)

_PATIENCE = timedelta(days=30)
"""How long processes wait for one another."""


def extract_priors(
    splits: Mapping[str, Dataset],
    sources: Sequence[Source],
    output: str | Path,
    settings: ExtractionSettings | None = None,
    *,
    command: str | None = None,
    shared: bool = False,
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
        shared: Processes that were not launched with this one may help, by `help_extraction`.

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
    sources = _as_the_main_process_has_learnt(sources, state)
    work = _work_folder(output)
    # found once: what a source keeps of its work must not change where the work is looked for
    chunks = {
        (source.name, split): chunks_of(data, source, work / split, settings.chunk_size)
        for source in sources
        for split, data in chosen.items()
    }
    statistics, reused = ScorerStatistics(), 0
    for source in sources:
        for split, data in chosen.items():
            todo = chunks[source.name, split]
            did, found = _score_share(data, source, todo, state, settings.progress, shared)
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


def help_extraction(
    splits: Mapping[str, Dataset],
    sources: Sequence[Source],
    output: str | Path,
    settings: ExtractionSettings | None = None,
) -> int:
    """Score what is free of an extraction that another process has begun with `shared`, and will write.

    Arguments as for `extract_priors`. Returns when nothing is free, which may be before the output is there.

    Returns:
        Texts scored here, summed over the sources.
    """
    settings, output = settings or ExtractionSettings(), real_path(output)
    work, texts = _work_folder(output), 0
    for split in settings.splits:
        data = choose_split(splits, split)
        for source in sources:
            chunks = chunks_of(data, source, work / split, settings.chunk_size)
            scored = score_free_chunks(data, source, chunks, output)
            texts += sum(len(chunk.rows) for chunk in scored)
    if output.exists():  # a lock that was taken after the end has made the folder anew
        shutil.rmtree(work, ignore_errors=True)
    return texts


def _work_folder(output: Path) -> Path:
    return output.parent / f".{output.name}.work"


def _processes() -> PartialState:
    """The processes that were launched together, one where none were.

    Without an accelerator they form a group only if told to use the CPU. The slowest may come to a
    meeting point hours after the first, which the usual ten minutes of patience would not survive.
    """
    return PartialState(cpu=not torch.accelerator.is_available(), timeout=_PATIENCE)


def _as_the_main_process_has_learnt(
    sources: Sequence[Source], state: PartialState
) -> Sequence[Source]:
    """The sources with what the main process has learnt from the data.

    Each process calibrates for itself, on a GPU of another kind perhaps; sources that differ in a last bit
    would look for their chunks in different places.
    """
    if state.num_processes == 1:
        return sources
    learnt = [source.learnt if isinstance(source, WordSource) else {} for source in sources]
    broadcast_object_list(learnt)
    return [
        replace(source, **values) if isinstance(source, WordSource) else source
        for source, values in zip(sources, learnt, strict=True)
    ]


def _check(chosen: Mapping[str, Dataset], sources: Sequence[Source]) -> None:
    names = [source.name for source in sources]
    if not names or len(set(names)) < len(names):
        raise ConfigError(f"Give one or more sources of different names; got {names!r}.")
    for source in sources:
        for data in chosen.values():
            if isinstance(source, WordSource):
                read_rows(data[:], source.labels, source)


def _score_share(
    data: Dataset,
    source: Source,
    chunks: Sequence[Chunk],
    state: PartialState,
    progress: bool,
    shared: bool,
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
        total = sum(len(chunk.rows) for chunk in mine)
        with tqdm(total=total, desc=source.name + share, unit=" texts", disable=not shown) as bar:
            for chunk in score_chunks(data, source, mine, shared=shared):
                bar.update(len(chunk.rows))
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


def _statistics(source: Source) -> ScorerStatistics:
    """Running totals of the language model of a source; zero where it has none that counts."""
    scorer = getattr(source, "scorer", None)
    opened = open_scorer(scorer) if isinstance(scorer, ScorerSettings) else scorer
    totals: ScorerStatistics = getattr(opened, "statistics", ScorerStatistics())
    return totals


def _with_sources(
    data: Dataset,
    chunks: Mapping[str, Sequence[Chunk]],
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
