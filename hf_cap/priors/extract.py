"""The stage `extract`: the columns of prior sources over a data set, by one process or many.

Nothing is asked of a language model twice because the score store has every answer that was given,
by this run, by a killed one or by one beside it.
"""

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from itertools import chain, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from hf_cap.embedded import cache_folder
from hf_cap.errors import ConfigError, DataError
from hf_cap.lm.base import LMSettings, LMStatistics
from hf_cap.lm.open import open_language_model
from hf_cap.priors.base import Source
from hf_cap.priors.language_model import LanguageModelSource
from hf_cap.progress import progress
from hf_cap.schema import LABEL, PROVENANCE, add_provenance, diagnostic_column, read_provenance
from hf_cap.utils import (
    check_range,
    check_writable,
    documented,
    file_name,
    fingerprint,
    generator,
    option,
    real_path,
)
from hf_cap.words import WORD_PATTERN, check_units, fold, word_strings

if TYPE_CHECKING:
    import pyarrow as pa
    from accelerate import PartialState
    from datasets import Dataset, DatasetDict
    from filelock import BaseFileLock

_SOON = 4


@documented
@dataclass(frozen=True, kw_only=True)
class ExtractionSettings:
    """How the stage `extract` goes through a data set. Changes no score."""

    splits: tuple[str, ...] = option(
        ("train",), "Splits whose texts get priors. `hf-cap extract` reads and writes no others."
    )
    batch_size: int = option(
        32, "Texts that are scored together, at least 1; the first four go alone, for an estimate."
    )
    progress: bool = option(True, "Show a progress bar.")

    def __post_init__(self) -> None:
        check_range(self, "batch_size", at_least=1)
        if not self.splits:
            raise ConfigError("`splits` is empty; name one or more.")


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
    splits: "Mapping[str, Dataset]",
    sources: Sequence[Source],
    output_dir: str | Path,
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
    from accelerate import PartialState
    from accelerate.utils import gather_object
    from torch import accelerator

    from hf_cap.data import check_output, choose_split, save_splits

    settings, started = settings or ExtractionSettings(), time.monotonic()
    output = real_path(output_dir)
    check_output(output, splits)
    chosen = {split: choose_split(splits, split) for split in settings.splits}
    names = [file_name(source.name) for source in sources]  # of folders when they are published
    if not names or len(set(names)) < len(names):
        raise ConfigError(f"Give one or more sources of different names; got {names!r}.")
    _check_rows(chosen, sources)
    # without an accelerator the processes form a group only if told to use the CPU
    state = PartialState(cpu=not accelerator.is_available(), timeout=timedelta(days=30))
    today = datetime.now(UTC).date().isoformat()
    facts = {"date": today, "command": command, "dataset": dataset}
    before = _work(sources)
    made = _extract(chosen, sources, settings, state, facts)
    statistics = _work(sources) - before
    if state.is_main_process:
        with _lock(output):
            save_splits(_with_same_columns(splits, made), output)
    state.wait_for_everyone()
    total = sum(gather_object([statistics]), LMStatistics())
    return _summary(made, names, time.monotonic() - started, total)


def _check_rows(splits: "Mapping[str, Dataset]", sources: Sequence[Source]) -> None:
    """Read all rows once, before any of them is scored."""
    for source in sources:
        for data in splits.values():
            source.read_rows(data[:])
    for pattern, column in {(source.word_pattern, source.text_column) for source in sources}:
        for split, data in splits.items():
            check_units(data[column][:], pattern, split)


def _lock(output: Path) -> "BaseFileLock":
    """Two commands may end at once; the lock file lies in the cache, out of the user's sight."""
    from filelock import FileLock

    locks = cache_folder() / "locks"
    try:
        check_writable(locks)
        locks.mkdir(parents=True, exist_ok=True)
    except ConfigError:  # without a store nothing else needs a cache
        locks = Path(tempfile.gettempdir())
    return FileLock(locks / fingerprint(str(output)))


_Part: TypeAlias = "tuple[int, pa.Table, Sequence[str]]"
"""First row of a batch, the new columns of its rows, and their provenance, mostly one string for all."""


def _extract(
    splits: "Mapping[str, Dataset]",
    sources: Sequence[Source],
    settings: ExtractionSettings,
    state: "PartialState",
    facts: Mapping[str, str | None],
) -> "dict[str, Dataset]":
    """The splits with the columns of all sources."""
    import pyarrow as pa
    from accelerate.utils import broadcast_object_list, gather_object

    if state.num_processes > 1:
        # each has calibrated for itself, to another last bit, and timed number formats
        learned = [_common(source) for source in sources]
        broadcast_object_list(learned)
        sources = [
            replace(source, **values) for source, values in zip(sources, learned, strict=True)
        ]
    made, size = dict(splits), settings.batch_size
    shown = settings.progress and state.is_main_process
    total = sum(map(len, made.values())) // state.num_processes
    for source in sources:
        with progress(total, "texts", source.name, shown) as work:
            for split, data in made.items():
                parts: list[_Part] = []
                # the batches are the same for any number of processes
                # the first is small, so that an estimate of all comes soon
                ends = [0, *range(min(_SOON, size), len(data), size), len(data)]
                batches = [*pairwise(ends)][state.process_index :: state.num_processes]
                for start, end in batches:
                    batch = data[start:end]
                    done = source(batch)
                    new = {name: done[name] for name in done if done[name] is not batch.get(name)}
                    facts_of = new.pop(PROVENANCE)
                    # Arrow takes an eighth of the memory of lists of floats
                    parts.append((start, pa.table(new), facts_of))
                    work.update(len(facts_of))
                made[split] = _with_columns(data, source, gather_object(parts), facts)
    return made


def _common(source: Source) -> dict[str, Any]:
    """What all processes take from the main one."""
    model = getattr(source, "model", None)
    return source.learned | ({"model": model} if isinstance(model, LMSettings) else {})


def _work(sources: Sequence[Source]) -> LMStatistics:
    """What the language models of some sources have done so far; equal settings share a model."""
    asked = [source.model for source in sources if isinstance(source, LanguageModelSource)]
    return sum((model.statistics for model in {*map(open_language_model, asked)}), LMStatistics())


def _with_columns(
    data: "Dataset", source: Source, parts: Sequence[_Part], facts: Mapping[str, str | None]
) -> "Dataset":
    """The split with the new columns of one source; `facts` are added to their provenance."""
    import pyarrow as pa
    from datasets import Dataset, concatenate_datasets

    _, tables, given = zip(*sorted(parts, key=lambda part: part[0]), strict=True)
    old = [*chain.from_iterable(given)]
    cells = {
        cell: add_provenance(cell, source.name, {**read_provenance(cell)[source.name], **facts})
        for cell in set(old)
    }
    # a batch without any value for a column has it without a type
    table = pa.concat_tables(tables, promote_options="permissive")
    table = table.append_column(PROVENANCE, [[cells[cell] for cell in old]])
    kept = data.remove_columns([name for name in table.column_names if name in data.column_names])
    # without a fingerprint of ours, datasets hashes a copy of the whole table
    return concatenate_datasets([kept, Dataset(table, fingerprint=uuid4().hex)], axis=1)


def _with_same_columns(
    splits: "Mapping[str, Dataset]", made: "Mapping[str, Dataset]"
) -> "DatasetDict":
    """All splits with the same columns: empty ones where nothing was extracted."""
    from datasets import Dataset, DatasetDict

    whole = next(iter(made.values())).features
    result = {}
    for split, data in {**splits, **made}.items():
        if data.features != whole:
            columns = {name: [None] * len(data) for name in whole} | data.to_dict()
            data = Dataset.from_dict({name: columns[name] for name in whole}, whole)
        result[split] = data
    return DatasetDict(result)


def _summary(
    made: "Mapping[str, Dataset]", names: Sequence[str], seconds: float, statistics: LMStatistics
) -> ExtractionSummary:
    def cells(column: str) -> list[Any]:
        return [cell for data in made.values() for cell in data[column]]

    features = next(iter(made.values())).features
    gold, cut, found = cells(LABEL), {}, {}
    for name in names:
        if (column := diagnostic_column(name, "cut")) in features:
            cut[name] = sum(words > 0 for words in cells(column))
        if (column := diagnostic_column(name, "label_scores")) in features:
            # batch by batch, which copies nothing: of many texts this is the largest column
            chunks = [chunk for data in made.values() for chunk in data.data.column(column).chunks]
            scores = [chunk.flatten().to_numpy().reshape(len(chunk), -1) for chunk in chunks]
            mean = sum(part.sum(0) for part in scores) / len(gold)
            raw = np.concatenate([part.argmax(1) for part in scores]) == gold
            calibrated = np.concatenate([(part - mean).argmax(1) for part in scores]) == gold
            found[name] = (float(raw.mean()), float(calibrated.mean()))
    return ExtractionSummary(len(gold), seconds, statistics, cut, found)


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
    texts: Sequence[str],
    like: Sequence[str],
    budget: int,
    seed: int = 0,
    pattern: str = WORD_PATTERN,
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
        raise DataError(
            "There is no word in the texts of `like`; give a file with one text per line."
        )
    known = np.bincount(np.concatenate([*bags, *traffic]), minlength=BUCKETS) > 0
    wanted = _log_shares(traffic, known)
    ratio = wanted - _log_shares(bags, known)
    # the largest of log-weight plus Gumbel noise are a draw without replacement
    noise = generator("selection", seed).gumbel(size=len(bags))
    weights = np.array([ratio[bag].sum() for bag in bags])
    chosen, random = (
        np.sort((-order).argsort(kind="stable")[:budget]) for order in (weights + noise, noise)
    )
    divergence, by_chance = (
        float(np.exp(wanted[known]) @ (wanted - _log_shares([bags[i] for i in some], known))[known])
        for some in (chosen, random)
    )
    return Selection(chosen.tolist(), divergence, by_chance)


def read_lines(file: str | Path) -> list[str]:
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
    found = [
        blake2b(gram.encode("utf-8", "surrogatepass"), digest_size=8).digest() for gram in grams
    ]
    return np.array([int.from_bytes(each) % BUCKETS for each in found], dtype=np.int64)


def _log_shares(bags: Sequence[NDArray[np.int64]], known: NDArray[np.bool_]) -> NDArray[np.float64]:
    """`(buckets,)`: log-probability of each bucket, with one count more for each that is `known`."""
    counts = np.bincount(np.concatenate(bags), minlength=BUCKETS) + known
    shares: NDArray[np.float64] = np.log(np.maximum(counts, 1)) - np.log(counts.sum())
    return shares
