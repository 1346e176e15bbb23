"""The stage `extract`: the columns of prior sources over a data set, by one process or many.

Nothing is asked of a language model twice because the score store has every answer that was given,
by this run, by a killed one or by one beside it.
"""

import atexit
import tempfile
import time
import weakref
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from itertools import chain, count, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object
from datasets import Dataset, Features
from filelock import BaseFileLock, FileLock
from numpy.typing import NDArray
from torch import accelerator

from hf_cap import utils
from hf_cap.data import check_output, choose_split, save_splits
from hf_cap.embedded import cache_folder
from hf_cap.errors import ConfigError, DataError
from hf_cap.lm.base import LMSettings, LMStatistics
from hf_cap.lm.open import open_language_model
from hf_cap.priors.base import Batch, ExtractionSettings, Source
from hf_cap.priors.language_model import LanguageModelSource
from hf_cap.progress import progress
from hf_cap.schema import LABEL, PROVENANCE, add_provenance, diagnostic_column, read_provenance
from hf_cap.words import WORD_PATTERN, check_units, fold, word_strings

_SOON = 4
_PART = 1000  # rows that are read at a time where they are only looked at


@dataclass(frozen=True)
class ExtractionSummary:
    """What an extraction did, over all splits and processes.

    `cut` maps a source to the number of texts that were longer than its language model reads.
    `zero_shot` maps it, where label scores were kept, to the shares of texts whose gold label the
    model itself would have answered: by the highest log-probability, and by that minus its mean over
    the texts, the model's liking for some labels whatever the text says.
    """

    texts: int
    seconds: float
    statistics: LMStatistics
    cut: Mapping[str, int]
    zero_shot: Mapping[str, tuple[float, float]]

    def __str__(self) -> str:
        """A few lines for the end of a run."""
        did = self.statistics
        lines = [f"{self.texts} texts in {self.seconds:.0f} s"]
        if did.queries:
            lines += [
                f"{did.queries:,} scores asked for, {did.stored:,} found in the store, "
                f"{did.distinct:,} different ones scored",
                f"{did.tokens_computed:,} tokens computed ({did.tokens_per_second:,.0f} per second) "
                f"instead of {did.naive_tokens:,}",
            ]
        lines += [f"{source}: {cut} texts were cut" for source, cut in self.cut.items() if cut]
        lines += [
            f"{source}: the language model's own answer is right for {raw:.1%} of the texts "
            f"({calibrated:.1%} calibrated)"
            for source, (raw, calibrated) in self.zero_shot.items()
        ]
        return "\n".join(lines)


def extract_priors(
    splits: Mapping[str, Dataset],
    sources: Sequence[Source],
    output_dir: utils.Place,
    settings: ExtractionSettings | None = None,
    *,
    command: str | None = None,
    dataset: str | None = None,
) -> ExtractionSummary:
    """Add the columns of some prior sources to a data set and write it to a folder.

    Under `accelerate launch` the processes share the batches of texts, and the main process writes.

    Args:
        splits: Data sets with the columns that the sources read.
        sources: Prior sources of different names.
        output_dir: Folder to write; see `save_splits`.
        command, dataset: What makes this data set again, and what it is called, for the provenance.

    Raises:
        ConfigError: the sources have no different names, or the folder holds what would be lost.
        DataError: a split, column, text or label is missing. Nothing is scored then.
    """
    settings, started = settings or ExtractionSettings(), time.monotonic()
    output = utils.real_path(output_dir)
    check_output(output, splits)
    chosen = {split: choose_split(splits, split) for split in settings.splits}
    names = [utils.file_name(source.name) for source in sources]  # of folders when they are published
    if not names or len(set(names)) < len(names):
        raise ConfigError(f"Give one or more sources of different names; got {names!r}.")
    _check_rows(chosen, sources)
    # without an accelerator the processes form a group only if told to use the CPU
    state = PartialState(cpu=not accelerator.is_available(), timeout=timedelta(days=30))
    if state.backend == "gloo":  # its threads may abort a process that ends while they run
        atexit.register(state.destroy_process_group)
    facts = {"date": datetime.now(UTC).date().isoformat(), "command": command, "dataset": dataset}
    before = _work(sources)
    made = _extract(chosen, sources, settings, state, facts)
    _save({**splits, **chosen}, made, state, settings.batch_size, output)
    total = sum(gather_object([_work(sources) - before]), LMStatistics())
    summaries: list[Any] = [None]
    if state.is_main_process:
        files = [output / f"{split}.parquet" for split in made]
        summaries = [_summary(files, names, time.monotonic() - started, total)]
    broadcast_object_list(summaries)
    return summaries[0]  # type: ignore[no-any-return]


def _check_rows(splits: Mapping[str, Dataset], sources: Sequence[Source]) -> None:
    """Read all rows once, before any of them is scored."""
    for source in sources:
        for data in splits.values():
            for start, batch in zip(count(0, _PART), data.iter(_PART), strict=False):
                source.read_rows(batch, start)
    for pattern, column in {(source.word_pattern, source.text_column) for source in sources}:
        for split, data in splits.items():
            texts = chain.from_iterable(batch[column] for batch in data.iter(_PART))
            check_units(texts, pattern, split)


def _room(name: str) -> Path:
    """A folder of the cache, out of the user's sight; that for temporary files where it cannot be."""
    folder = cache_folder() / name
    try:
        utils.check_writable(folder)
        folder.mkdir(parents=True, exist_ok=True)
    except ConfigError:  # without a store nothing else needs a cache
        return Path(tempfile.gettempdir())
    return folder


def _lock(output: Path) -> BaseFileLock:
    """Two commands may end at once."""
    return FileLock(_room("locks") / utils.fingerprint(str(output)))


class _Columns:
    """The new columns of a process's batches of a split, in a file without a name.

    In memory they would grow with the texts. The file goes with the process, however that ends.
    """

    def __init__(self) -> None:
        # not where temporary files lie, which may be memory
        self.file, self.batches = tempfile.TemporaryFile(dir=_room("columns")), 0
        weakref.finalize(self, self.file.close)  # Python warns of one that is only dropped
        self.schema = pa.schema([])

    def append(self, table: pa.Table) -> None:
        """Add the columns of the next batch."""
        with pa.ipc.new_stream(self.file, table.schema) as stream:
            stream.write_table(table)
        self.batches += 1
        # a batch without any value for a column has it without a type
        self.schema = pa.unify_schemas([self.schema, table.schema], promote_options="permissive")

    def __iter__(self) -> Iterator[pa.Table]:
        self.file.seek(0)
        return (pa.ipc.open_stream(self.file).read_all() for _ in range(self.batches))


def _bounds(rows: int, size: int) -> list[tuple[int, int]]:
    """First and last row of each batch, the same for any number of processes."""
    # the first is small, so that an estimate of all comes soon
    return [*pairwise([0, *range(min(_SOON, size), rows, size), rows])]


def _extract(
    splits: Mapping[str, Dataset],
    sources: Sequence[Source],
    settings: ExtractionSettings,
    state: PartialState,
    facts: Mapping[str, str | None],
) -> dict[str, _Columns]:
    """The columns that all sources make of this process's batches of each split."""
    if state.num_processes > 1:
        # each has calibrated for itself, to another last bit, and timed number formats
        learned = [_common(source) for source in sources]
        broadcast_object_list(learned)
        sources = [replace(source, **values) for source, values in zip(sources, learned, strict=True)]
    made = {split: _Columns() for split in splits}
    shown = settings.progress and state.is_main_process
    total = sum(map(len, splits.values())) // state.num_processes
    for source in sources:
        with progress(total, "texts", source.name, shown) as work:
            for split, data in splits.items():
                earlier, made[split] = iter(made[split]), _Columns()
                bounds = _bounds(len(data), settings.batch_size)
                for start, end in bounds[state.process_index :: state.num_processes]:
                    made[split].append(_run(source, data[start:end], next(earlier, None), facts))
                    work.update(end - start)
    return made


def _run(source: Source, batch: Batch, earlier: pa.Table | None, facts: Mapping[str, str | None]) -> pa.Table:
    """The columns of a source for a batch behind those of earlier ones; `facts` join the provenance."""
    known = {name: earlier[name] for name in earlier.column_names} if earlier else {}
    batch = {**batch, **{name: column.to_pylist() for name, column in known.items()}}
    done = source(batch)
    new = {name: done[name] for name in done if done[name] is not batch.get(name)}
    cells = {
        cell: add_provenance(cell, source.name, {**read_provenance(cell)[source.name], **facts})
        for cell in set(new[PROVENANCE])
    }
    new[PROVENANCE] = [cells[cell] for cell in new.pop(PROVENANCE)]
    return pa.table({name: known[name] for name in known if name not in new} | new)


def _common(source: Source) -> dict[str, Any]:
    """What all processes take from the main one."""
    model = getattr(source, "model", None)
    return source.learned | ({"model": model} if isinstance(model, LMSettings) else {})


def _work(sources: Sequence[Source]) -> LMStatistics:
    """What the language models of some sources have done so far; equal settings share a model."""
    asked = [source.model for source in sources if isinstance(source, LanguageModelSource)]
    return sum((model.statistics for model in {*map(open_language_model, asked)}), LMStatistics())


def _save(
    splits: Mapping[str, Dataset], made: Mapping[str, _Columns], state: PartialState, size: int, output: Path
) -> None:
    """Write all splits with the same columns; the main process writes as it takes the batches of all."""
    schemas = gather_object([columns.schema for columns in made.values()])
    new = pa.unify_schemas(schemas, promote_options="permissive")
    features = dict(splits[next(iter(made))].features)
    kept = {name: feature for name, feature in features.items() if name not in new.names}
    schema = Features({**kept, **Features.from_arrow_schema(new)}).arrow_schema
    tables = {
        split: _tables(data, _bounds(len(data), size), made.get(split), state.num_processes, schema)
        for split, data in splits.items()
    }
    if state.is_main_process:
        with _lock(output):
            save_splits(tables, output)
    else:
        deque(chain.from_iterable(tables.values()), maxlen=0)


def _tables(
    data: Dataset, bounds: Sequence[tuple[int, int]], made: _Columns | None, processes: int, schema: pa.Schema
) -> Iterator[pa.Table]:
    """The batches of a split by a schema, in order: old columns, new ones, nulls where there are neither."""
    data, mine = data.with_format("arrow"), iter(made or ())
    for first in range(0, len(bounds), processes):
        found = gather_object([next(mine, None)]) if made else [None] * processes
        for (start, end), new in zip(bounds[first : first + processes], found, strict=False):
            tables = [table for table in (new, data[start:end]) if table is not None]
            cells = [
                next((t[name] for t in tables if name in t.column_names), pa.nulls(end - start))
                for name in schema.names
            ]
            pairs = zip(cells, schema.types, strict=True)
            yield pa.table([cell.cast(kind) for cell, kind in pairs], schema=schema)


def _summary(
    files: Sequence[Path], names: Sequence[str], seconds: float, statistics: LMStatistics
) -> ExtractionSummary:
    """What the files that were written hold, read part by part."""

    def parts(*columns: str) -> Iterator[list[Any]]:
        """The columns of a part of the rows; lists as `(rows, length)`."""
        for file in files:
            with pq.ParquetFile(file) as opened:
                for part in opened.iter_batches(columns=[*columns]):
                    yield [
                        part[name].flatten().to_numpy().reshape(len(part), -1)
                        if pa.types.is_list(part[name].type)
                        else part[name].to_numpy(zero_copy_only=False)
                        for name in columns
                    ]

    rows, columns = (sum(pq.read_metadata(file).num_rows for file in files), pq.read_schema(files[0]).names)
    cut, found = {}, {}
    for name in names:
        if (column := diagnostic_column(name, "cut")) in columns:
            cut[name] = sum(int((words > 0).sum()) for (words,) in parts(column))
        if (column := diagnostic_column(name, "label_scores")) in columns:
            mean = sum(scores.sum(0) for (scores,) in parts(column)) / rows
            right = np.zeros(2)
            for gold, scores in parts(LABEL, column):
                right += [(one.argmax(1) == gold).sum() for one in (scores, scores - mean)]
            found[name] = (float(right[0] / rows), float(right[1] / rows))
    return ExtractionSummary(rows, seconds, statistics, cut, found)


# --- Which texts deserve priors under a budget: those most like unlabelled traffic. Data Selection with
# Importance Resampling (Xie et al., arXiv 2302.03169): each text is a bag of hashed n-grams of one and two
# words, and is drawn without replacement in proportion to p(text) in the traffic over p(text) in the data
# set. The authors' own package reads and writes files, starts processes, draws without a seed and leaves out
# texts under 100 tokens. Ours is the smoothing: one count more for each n-gram that occurs, where theirs adds
# 1e-8, by which a single unseen word outweighs all others of a short text.


BUCKETS = 10_000  # N-grams share this many counts, as in the paper


class Selection(NamedTuple):
    """The texts that were chosen.

    `divergence` is KL(traffic ‖ chosen texts) of the n-grams in nats, at least 0, and `random_divergence`
    that of as many texts at random: by how much it is the larger of the two, the choice has paid.
    """

    indices: list[int]
    divergence: float
    random_divergence: float


def select_texts(
    texts: Sequence[str], like: Sequence[str], budget: int, seed: int = 0, pattern: str = WORD_PATTERN
) -> Selection:
    """Choose texts that are like others, without any label.

    Args:
        like: Unlabelled texts of the traffic.
        budget: Texts to choose, at least 1; all where there are no more.
        seed: Determines the draw, together with the texts.

    Returns:
        The indices of the chosen texts, increasing.

    Raises:
        ConfigError: the budget is less than 1.
        DataError: there is no word in `like`.
    """
    if budget < 1:
        raise ConfigError(f"`budget` must be at least 1, got {budget!r}.")
    bags, traffic = ([_buckets(text, pattern) for text in some] for some in (texts, like))
    if not any(map(len, traffic)):
        raise DataError("There is no word in the texts of `like`; give a file with one text per line.")
    known = np.bincount(np.concatenate([*bags, *traffic]), minlength=BUCKETS) > 0
    wanted = _log_shares(traffic, known)
    ratio = wanted - _log_shares(bags, known)
    # the largest of log-weight plus Gumbel noise are a draw without replacement
    noise = utils.generator("selection", seed).gumbel(size=len(bags))
    weights = np.array([ratio[bag].sum() for bag in bags])
    chosen, random = (np.sort((-order).argsort(kind="stable")[:budget]) for order in (weights + noise, noise))
    divergence, by_chance = (
        float(np.exp(wanted[known]) @ (wanted - _log_shares([bags[i] for i in some], known))[known])
        for some in (chosen, random)
    )
    return Selection(chosen.tolist(), divergence, by_chance)


def read_lines(file: utils.Place) -> list[str]:
    """The texts of a file, one per line; a `DataError` where it cannot be read or has none."""
    try:
        lines = Path(file).expanduser().read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"Cannot read {str(file)!r} as UTF-8 text: {error}.") from error
    if texts := [line for line in lines if line.strip()]:
        return texts
    raise DataError(f"{str(file)!r} has no text; write one per line.")


def _buckets(text: str, pattern: str) -> NDArray[np.int64]:
    """The bucket of each word and each pair of neighbouring words."""
    words = [fold(word) for word in word_strings(text, pattern)]
    grams = [*words, *map(" ".join, pairwise(words))]
    found = [blake2b(gram.encode("utf-8", "surrogatepass"), digest_size=8).digest() for gram in grams]
    return np.array([int.from_bytes(each) % BUCKETS for each in found], dtype=np.int64)


def _log_shares(bags: Sequence[NDArray[np.int64]], known: NDArray[np.bool_]) -> NDArray[np.float64]:
    """`(buckets,)`: log-probability of each bucket, with one count more for each that is `known`."""
    counts = np.bincount(np.concatenate(bags), minlength=BUCKETS) + known
    shares: NDArray[np.float64] = np.log(np.maximum(counts, 1)) - np.log(counts.sum())
    return shares
