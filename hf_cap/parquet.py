"""Parquet files that hold a digest of their bytes, by which damage is seen when they are read."""

import hashlib
import mmap
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from hf_cap.errors import DataError

_DIGEST = b"hf_cap.sha256"
_BLANK = _DIGEST.ljust(64, b".")  # what is written where the digest will be
_ROWS = 10_000  # rows of a group; a group is held in memory while it is written


def write_table(table: pa.Table, file: str | os.PathLike[str]) -> None:
    """Write a table with its digest, metadata such as label names included."""
    with pq.ParquetWriter(file, table.schema, write_page_checksum=True) as writer:
        writer.write_table(table, row_group_size=_ROWS)
        writer.add_key_value_metadata({_DIGEST: _BLANK})
    with open(file, "r+b") as written, mmap.mmap(written.fileno(), 0) as content:
        start = content.rfind(_BLANK)
        content[start : start + len(_BLANK)] = _digest(content, _BLANK)


def read_table(file: str | os.PathLike[str]) -> pa.Table:
    """Read a parquet file; its name is no pattern.

    Raises:
        DataError: it is damaged. A file that `write_table` did not write is checked by its own checksums
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
    if digest is not None and digest != _digest(content, digest):
        raise DataError(
            f"{str(file)!r} is damaged: it does not hold what was written. Write it again, or, if you "
            f"changed it on purpose, without {_DIGEST.decode()!r} in its metadata."
        )
    return table.replace_schema_metadata(metadata)


def _digest(content: bytes | mmap.mmap, digest: bytes) -> bytes:
    """Of the bytes of a file on both sides of its own digest."""
    start = content.rfind(digest)
    with memoryview(content) as view:  # a slice of it copies nothing
        found = hashlib.sha256(view[:start])
        found.update(view[start + len(digest) :])
    return found.hexdigest().encode()
