"""The scores of a prior without the texts: small enough to be committed, and free of what a licence guards.

A parquet file with one row a text: `digest` (of the text), `prior_<source>` and `provenance`. Beside the
texts it gives the prior back, so that nobody has to ask a language model again.
"""

from pathlib import Path

from datasets import Dataset

from benchmarks.study.settings import BenchmarkSettings
from hf_cap.data import read_parquet
from hf_cap.errors import DataError
from hf_cap.evaluation.results import Cell
from hf_cap.schema import PROVENANCE, TEXT, WORDS, check_prior, prior_column
from hf_cap.utils import atomic_path, fingerprint
from hf_cap.words import word_strings

_DIGEST = "digest"


def scores_file(settings: BenchmarkSettings, cell: Cell, name: str) -> Path:
    """Where the scores of a cell's data set, regime and draw are kept under a name."""
    return settings.room / "scores" / cell.draw_folder / f"{name}.parquet"


def write_scores(file: Path, data: Dataset, source: str) -> None:
    """Write the prior of one source on some texts, without the texts, atomically."""
    scores = data.select_columns([prior_column(source), PROVENANCE])
    scores = scores.add_column(_DIGEST, _digests(data))
    with atomic_path(file) as path:
        scores.to_parquet(str(path))


def with_scores(file: Path, texts: Dataset, source: str, pattern: str) -> Dataset:
    """Texts with words, prior and provenance as `write_scores` kept them.

    Args:
        file: What it wrote.
        texts: The same texts, in the same order.
        source: The source of the scores.
        pattern: Regular expression of a word.

    Raises:
        DataError: the scores are of other texts.
        PriorError: they are of other words.
    """
    scores = read_parquet(file)
    if scores[_DIGEST][:] != _digests(texts):
        raise DataError(
            f"The scores in {str(file)!r} are of other texts than the {len(texts)} of this draw. Remove the "
            "file to extract them again, or give the data set that they were made from."
        )
    words = [word_strings(text, pattern) for text in texts[TEXT]]
    column = prior_column(source)
    for row, (prior, own) in enumerate(zip(scores[column], words, strict=True)):
        check_prior(prior, own, column=column, row=row)
    found = texts.add_column(WORDS, words)
    for name in (column, PROVENANCE):
        found = found.add_column(name, scores[name][:], feature=scores.features[name])
    return found


def _digests(data: Dataset) -> list[str]:
    return [fingerprint(text) for text in data[TEXT]]
