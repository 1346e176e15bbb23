"""What an extraction did, as a frozen value, and how good the language model's own answers were."""

import logging
import shutil
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object
from datasets import Dataset, DatasetDict, Features
from datasets.fingerprint import Hasher
from filelock import FileLock, Timeout
from tqdm.auto import tqdm

from hf_cap.data import check_output, choose_split, save_splits
from hf_cap.errors import ConfigError
from hf_cap.lm.base import LanguageModel, LMSettings, LMStatistics
from hf_cap.lm.open import open_language_model
from hf_cap.priors.base import Source
from hf_cap.priors.prompts import ExtractionSettings
from hf_cap.schema import LABEL, PROVENANCE, add_provenance, diagnostic_column, read_provenance
from hf_cap.utils import atomic_path, real_path


@dataclass(frozen=True)
class ZeroShot:
    """Share of texts whose gold label the language model itself would have answered, in [0, 1].

    Attributes:
        raw: By the highest log-probability.
        calibrated: The same after subtracting each label's mean over the texts: what is left when the
            model's liking for some labels, whatever the text says, is taken off (batch calibration).
    """

    raw: float
    calibrated: float


def zero_shot(label_scores: Sequence[Sequence[float]], labels: Sequence[int]) -> ZeroShot:
    """Zero-shot accuracy from the scores of every label.

    Args:
        label_scores: `(texts, labels)`, in nats; at least one text.
        labels: Gold label of each text.
    """
    scores = torch.tensor(label_scores, dtype=torch.float64)
    gold = torch.tensor(labels)
    return ZeroShot(*(_accuracy(values, gold) for values in (scores, scores - scores.mean(0))))


def _accuracy(scores: torch.Tensor, gold: torch.Tensor) -> float:
    return float((scores.argmax(1) == gold).double().mean())


@dataclass(frozen=True)
class ExtractionSummary:
    """What an extraction did.

    Attributes:
        texts: Texts that have priors now, over all splits.
        reused: Texts times sources that an earlier, interrupted run had finished.
        seconds: Wall time.
        statistics: Work of the language model, over all processes.
        cut: Source to the number of texts that were longer than its language model reads.
        zero_shot: Source to the accuracy of its language model, where label scores were kept.
    """

    texts: int
    reused: int
    seconds: float
    statistics: LMStatistics
    cut: Mapping[str, int] = field(default_factory=dict)
    zero_shot: Mapping[str, ZeroShot] = field(default_factory=dict)

    def __str__(self) -> str:
        """A few lines for the end of a run."""
        did = self.statistics
        lines = [
            f"{self.texts} texts in {self.seconds:.0f} s"
            + (f"; {self.reused} were finished before" if self.reused else "")
        ]
        if did.queries:
            lines += [
                f"{did.queries:,} scores asked for, {did.stored:,} found in the store, "
                f"{did.distinct:,} different ones scored",
                f"{did.tokens_computed:,} tokens computed ({did.tokens_per_second:,.0f} a second) instead "
                f"of {did.naive_tokens:,}: saved {did.prefix_saved:,} by the shared prefix, "
                f"{did.distinct_saved:,} by repeats, {did.trie_saved:,} by shared beginnings",
                f"the naive way would take about {did.naive_seconds:,.0f} s",
            ]
        lines += [
            f"{source}: {count} texts were cut" for source, count in self.cut.items() if count
        ]
        lines += [
            f"{source}: the language model's own answer is right for {found.raw:.1%} of the texts "
            f"({found.calibrated:.1%} calibrated)"
            for source, found in self.zero_shot.items()
        ]
        return "\n".join(lines)


# --- Who does what, among processes that see the same files.


class Busy(Exception):
    """Another process is at it."""


@contextmanager
def claimed(lock: Path, target: Path, *, wait: bool = False) -> Iterator[None]:
    """Be the only process that works on `target`.

    Args:
        lock: File to lock; its folder is made.
        target: What is to be made, for the message.
        wait: Wait for the other process instead of raising.

    Raises:
        Busy: another process has claimed it.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    held = FileLock(lock, timeout=-1 if wait else 0)
    try:
        held.acquire()
    except Timeout as error:
        raise Busy(f"Another process works on {target}.") from error
    try:
        yield
    finally:
        held.release()


# --- Chunks: rows that one source scores together, each with the file that keeps what came of it.


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
    """What determines the scores of a source: itself, or with an opened language model its fingerprint.

    An opened model counts what it is asked, so its own state is another after every text.
    """
    model = getattr(source, "model", None)
    if not isinstance(model, LanguageModel):
        return source
    return type(source), {**vars(source), "model": model.fingerprint}


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


# --- The stage `extract`: sources over a data set, chunk by chunk, by one process or many, never twice.


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
    statistics, reused = LMStatistics(), 0
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
        statistics=sum((did for did, _ in gathered), LMStatistics()),
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
    learnt = [source.learned if isinstance(source, Source) else {} for source in sources]
    broadcast_object_list(learnt)
    return [
        replace(source, **values) if isinstance(source, Source) else source
        for source, values in zip(sources, learnt, strict=True)
    ]


def _check(chosen: Mapping[str, Dataset], sources: Sequence[Source]) -> None:
    names = [source.name for source in sources]
    if not names or len(set(names)) < len(names):
        raise ConfigError(f"Give one or more sources of different names; got {names!r}.")
    for source in sources:
        for data in chosen.values():
            if isinstance(source, Source):
                source.read_rows(data[:])


def _score_share(
    data: Dataset,
    source: Source,
    chunks: Sequence[Chunk],
    state: PartialState,
    progress: bool,
    shared: bool,
) -> tuple[LMStatistics, int]:
    """Score this process's share of the chunks that are not there yet; count the texts that are."""
    todo = [chunk for chunk in chunks if not chunk.file.exists()]
    # every process must have looked before the first one writes, or their shares would overlap
    state.wait_for_everyone()
    mine = todo[state.process_index :: state.num_processes]
    reused = len(data) - sum(len(chunk.rows) for chunk in todo) if state.is_main_process else 0
    before = _statistics(source) if mine else LMStatistics()
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
    names = [item.name for item in fields(LMStatistics)]
    return LMStatistics(*(getattr(after, name) - getattr(before, name) for name in names)), reused


def _statistics(source: Source) -> LMStatistics:
    """Running totals of the language model of a source; zero where it has none that counts."""
    model = getattr(source, "model", None)
    opened = open_language_model(model) if isinstance(model, LMSettings) else model
    totals: LMStatistics = getattr(opened, "statistics", LMStatistics())
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
    statistics: LMStatistics,
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
