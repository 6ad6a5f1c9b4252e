"""Parquet."""

from __future__ import annotations

from collections.abc import Iterator

from palmette.config import ParquetSource
from palmette.data.files import open_seekable
from palmette.data.readers.rows import Row, columns_of, record_of
from palmette.errors import MissingExtraError, ReadError
from palmette.types import Origin, Record


def read_parquet(source: ParquetSource, path: str, *, fields: frozenset[str]) -> Iterator[Record]:
    """A record a row; a record's line is its row, from 1. Only the columns in use are decoded.

    Raises:
        ReadError: if the file is not Parquet, lacks a column that the source names, or a row has no text.
        MissingExtraError: if pyarrow is not installed.
    """
    for number, row in enumerate(_rows(source, path, fields=fields), 1):
        yield record_of(row, source, Origin(path, number), fields=fields)


def _rows(source: ParquetSource, path: str, *, fields: frozenset[str]) -> Iterator[Row]:
    try:
        import pyarrow as arrow
        from pyarrow import parquet
    except ModuleNotFoundError as error:
        raise MissingExtraError("pyarrow", "train") from error
    read = 0
    with open_seekable(path) as content:
        try:
            file = parquet.ParquetFile(content)
            columns = columns_of(source, file.schema_arrow.names, path, fields=fields)
            for batch in file.iter_batches(batch_size=1024, columns=columns):
                for row in batch.to_pylist():
                    read += 1
                    yield row
        except (arrow.ArrowException, OSError, UnicodeDecodeError) as error:
            raise ReadError(f"{path}: cannot be read as Parquet after row {read}: {error}") from error
