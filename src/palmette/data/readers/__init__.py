"""Files as their publishers wrote them -> records. One module a format."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from palmette.config import (
    ColumnsSource,
    ConlluSource,
    Cut,
    HubSource,
    JsonlSource,
    ParquetSource,
    SourceConfig,
    SquadSource,
    TableSource,
)
from palmette.data.readers.columns import read_columns
from palmette.data.readers.conllu import read_conllu
from palmette.data.readers.hub import read_hub
from palmette.data.readers.jsonl import read_jsonl
from palmette.data.readers.parquet import read_parquet
from palmette.data.readers.squad import read_squad
from palmette.data.readers.table import read_table
from palmette.types import Record, Split

__all__ = ["READERS", "files_of", "read"]

# Each takes the source, a file (for datasets, the name of a split) and the fields to keep.
READERS: dict[type[SourceConfig], Callable[..., Iterator[Record]]] = {
    ConlluSource: read_conllu,
    ColumnsSource: read_columns,
    TableSource: read_table,
    JsonlSource: read_jsonl,
    ParquetSource: read_parquet,
    SquadSource: read_squad,
    HubSource: read_hub,
}


def read(source: SourceConfig, split: Split, *, fields: frozenset[str] = frozenset()) -> Iterator[Record]:
    """The records of a split's files, one at a time, in the order of the files.

    Args:
        source: where they stand.
        split: "train", "dev" or "test"; nothing is yielded for one that the source lacks or cuts from train.
        fields: columns or comments to keep in each record's meta, where it has them.

    Raises:
        ReadError: naming the file and line of what cannot be read as the source says.
        MissingExtraError: if the format needs a package that is not installed.
    """
    for path in files_of(source, split):
        yield from READERS[type(source)](source, path, fields=fields)


def files_of(source: SourceConfig, split: Split) -> list[str]:
    """The files (for datasets, names of splits) of a split; none if the source lacks it or cuts it from train."""
    files: Any = getattr(source, split)
    if files is None or isinstance(files, Cut):
        return []
    return [files] if isinstance(files, str) else list(files)
