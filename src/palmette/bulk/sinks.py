"""Answers into a file."""

from __future__ import annotations

import base64
import gzip
import json
import math
from collections.abc import Sequence
from datetime import date, datetime, time
from pathlib import Path
from typing import Any, Protocol

from palmette.bulk.answers import Answered
from palmette.bulk.columns import Column
from palmette.bulk.rows import form_of, import_parquet
from palmette.errors import RunError
from palmette.words import well_formed

_ROW_GROUP = 8192


class Sink(Protocol):
    """Takes answers one by one; `close` makes the file whole."""

    def write(self, answered: Answered) -> None:
        """Add a row."""

    def close(self) -> None:
        """No more will come."""


def open_sink(path: Path, *, like: Path, columns: Sequence[Column]) -> Sink:
    """A new file of answers.

    Args:
        path: of it.
        like: the name that says what it is: `.parquet`, else JSON lines, compressed if it ends in `.gz`.
        columns: that a Parquet file has besides the answers'.

    Raises:
        OSError: it cannot be written.
        RunError: its name says twice that it is compressed.
        MissingExtraError: it is Parquet, and pyarrow is not installed.
    """
    if like.suffixes[-2:] == [".parquet", ".gz"]:
        raise RunError(f"{like}: Parquet is compressed in itself: let its name end in .parquet")
    if form_of(like) == "parquet":
        return ParquetSink(path, columns)
    return JsonSink(path, compressed=like.suffix == ".gz")


class JsonSink:
    """JSON lines, a row each; gzip if asked for."""

    def __init__(self, path: Path, *, compressed: bool) -> None:
        opened = gzip.open if compressed else open
        self._file: Any = opened(path, "wb")

    def write(self, answered: Answered) -> None:
        """Add a row."""
        self._file.write(dump(answered.record()) + b"\n")

    def close(self) -> None:
        """No more will come."""
        self._file.close()


class ParquetSink:
    """A Parquet file, a row group at a time.

    What a task says has a form of its own for each kind, and packages bring further kinds; so `tasks` is JSON in a
    string, by which every row of every file has the same columns.
    """

    def __init__(self, path: Path, columns: Sequence[Column]) -> None:
        parquet = import_parquet()
        import pyarrow as arrow

        self._columns = columns
        offsets = arrow.list_(arrow.list_(arrow.int32()))
        answers = {
            "text": arrow.string(),
            "text_pair": arrow.string(),
            "words": arrow.list_(arrow.string()),
            "offsets": offsets,
            "tasks": arrow.string(),
            "error": arrow.string(),
        }
        self._schema = arrow.schema([*((column.name, column.arrow()) for column in columns), *answers.items()])
        self._answers = list(answers)
        self._rows: list[dict[str, Any]] = []
        self._writer = parquet.ParquetWriter(path, self._schema, compression="zstd")

    def write(self, answered: Answered) -> None:
        """Add a row."""
        answer = answered.answer or {}
        row = {column.name: column.fit(answered.extra.get(column.name)) for column in self._columns}
        row |= {name: _well_formed(answer.get(name)) for name in self._answers}
        row["error"] = None if answered.error is None else well_formed(answered.error)
        if answered.answer is not None:
            row["tasks"] = dump(answered.answer["tasks"]).decode()
        self._rows.append(row)
        if len(self._rows) >= _ROW_GROUP:
            self._flush()

    def close(self) -> None:
        """No more will come."""
        self._flush()
        self._writer.close()

    def _flush(self) -> None:
        import pyarrow as arrow

        if self._rows:
            self._writer.write_table(arrow.Table.from_pylist(self._rows, schema=self._schema))
            self._rows = []


def _well_formed(value: Any) -> Any:
    """Strings that UTF-8 can say, which half a surrogate pair is not."""
    if isinstance(value, list):
        return [_well_formed(item) for item in value]
    return well_formed(value) if isinstance(value, str) else value


def dump(record: Any) -> bytes:
    """JSON in UTF-8. What it cannot say: NaN is null, a time ISO 8601, a decimal its digits, bytes base64."""
    try:
        text = json.dumps(record, ensure_ascii=False, allow_nan=False, default=_plain)
    except ValueError:
        text = json.dumps(_finite(record), ensure_ascii=False, allow_nan=False, default=_plain)
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError:  # half a surrogate pair can only be escaped
        return json.dumps(_finite(record), allow_nan=False, default=_plain).encode("ascii")


def _plain(value: Any) -> str:
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    return str(value)  # decimals, durations, UUIDs


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
