"""Parquet files that hold a digest of their content, by which damage is seen when they are read."""

import hashlib
import os

import pyarrow as pa
import pyarrow.parquet as pq

from hf_cap.errors import DataError

_DIGEST = b"hf_cap.digest"


def write_table(table: pa.Table, file: str | os.PathLike[str]) -> None:
    """Write a table with its digest, metadata such as label names included."""
    pq.write_table(table, file)
    # of what comes back: some types are stored as others
    metadata = {**(table.schema.metadata or {}), _DIGEST: _digest(_read(file))}
    pq.write_table(table.replace_schema_metadata(metadata), file, write_page_checksum=True)


def read_table(file: str | os.PathLike[str]) -> pa.Table:
    """Read a parquet file; its name is no pattern.

    Raises:
        DataError: it is damaged. A file that `write_table` did not write is checked by its own checksums
            alone, if it has any.
        OSError: the disk cannot be read.
    """
    try:
        table = _read(file)
        metadata = dict(table.schema.metadata or {})
        written = metadata.pop(_DIGEST, None)
        table = table.replace_schema_metadata(metadata)
        damaged = written is not None and written != _digest(table)
    except (pa.ArrowException, ValueError, OverflowError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # of the disk, not of the file's content
        raise DataError(
            f"{str(file)!r} cannot be read as parquet: {' '.join(str(error).split())}. Write it again."
        ) from error
    if damaged:
        raise DataError(
            f"{str(file)!r} is damaged: it does not hold what was written. Write it again, or, if you "
            f"changed it on purpose, without {_DIGEST.decode()!r} in its metadata."
        )
    return table


def _read(file: str | os.PathLike[str]) -> pa.Table:
    with pq.ParquetFile(file, page_checksum_verification=True) as parquet:
        return parquet.read()


def _digest(table: pa.Table) -> bytes:
    """Of names, values and metadata, not of how they are stored."""
    found = hashlib.sha256(repr(sorted((table.schema.metadata or {}).items())).encode())
    for name, column in zip(table.column_names, table.columns, strict=True):
        found.update(repr(name).encode())
        for start in range(0, len(column), 1000):
            cells = column.slice(start, 1000).to_pylist()
            found.update(repr(cells).encode("utf-8", "surrogatepass"))
    return found.hexdigest().encode()
