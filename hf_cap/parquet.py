"""Parquet files that hold a digest of their bytes, by which damage is seen when they are read."""

import hashlib
import io
import mmap
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset

from hf_cap.errors import DataError
from hf_cap.utils import Place

_DIGEST = b"hf_cap.sha256"
_BLANK = _DIGEST.ljust(64, b".")  # what is written where the digest will be
_ROWS = 1000  # rows of a group, about; a group is held in memory while it is written
_CHUNK = 2**20  # bytes that are read at a time


Rows: TypeAlias = Dataset | Iterable[pa.Table]
"""A data set, or tables of one schema, at least one."""


def write_parquet(rows: Rows, file: Place) -> None:
    """Write rows, metadata such as label names included, as a parquet file that is checked when read."""
    tables = _parts(rows) if isinstance(rows, Dataset) else iter(rows)
    held = [next(tables)]
    with pq.ParquetWriter(file, held[0].schema, write_page_checksum=True) as writer:
        for table in tables:
            if sum(map(len, held)) >= _ROWS:
                writer.write_table(pa.concat_tables(held))
                held = []
            held.append(table)
        writer.write_table(pa.concat_tables(held))
        writer.add_key_value_metadata({_DIGEST: _BLANK})
    with open(file, "r+b") as written:
        with mmap.mmap(written.fileno(), 0) as content:
            start = content.rfind(_BLANK)
        digest = _digest(written, start)
        written.seek(start)
        written.write(digest)


def _parts(dataset: Dataset) -> Iterator[pa.Table]:
    """A data set in parts of some rows; one without rows is one part."""
    metadata, rows = dataset.features.arrow_schema.metadata, dataset.with_format("arrow")
    for start in range(0, len(rows) or 1, _ROWS):
        yield rows[start : start + _ROWS].replace_schema_metadata(metadata)


def read_table(file: Place) -> pa.Table:
    """Read a parquet file; its name is no pattern.

    Raises:
        DataError: it is damaged. A file that `write_parquet` did not write is checked by its own checksums
            alone, if it has any.
        OSError: the disk cannot be read.
    """
    content = Path(file).read_bytes()
    try:
        with pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True) as parquet:
            table = parquet.read()
    except (pa.ArrowException, ValueError, OverflowError, OSError) as error:
        raise DataError(
            f"{str(file)!r} cannot be read as parquet: {' '.join(str(error).split())}. Write it again."
        ) from error
    metadata = dict(table.schema.metadata or {})
    digest = metadata.pop(_DIGEST, None)
    if digest is not None and digest != _digest(io.BytesIO(content), content.rfind(digest)):
        raise DataError(
            f"{str(file)!r} is damaged: it does not hold what was written. Write it again, or, if you "
            f"changed it on purpose, without {_DIGEST.decode()!r} in its metadata."
        )
    return table.replace_schema_metadata(metadata)


def _digest(file: BinaryIO, start: int) -> bytes:
    """Of the bytes of a file on both sides of its own digest, which begins at `start`."""
    found = hashlib.sha256()
    file.seek(0)
    while part := file.read(min(_CHUNK, start - file.tell())):
        found.update(part)
    file.seek(start + len(_BLANK))
    while part := file.read(_CHUNK):
        found.update(part)
    return found.hexdigest().encode()
