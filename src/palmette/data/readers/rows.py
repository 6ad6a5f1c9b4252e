"""One row of named values -> a record: what tables, JSON lines, Parquet and datasets have in common."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import TypeAlias

from palmette.config import HubSource, JsonlSource, ParquetSource, TableSource
from palmette.data.readers.labels import RecordLabel, label_of, require_encodable, scalar_text
from palmette.errors import ReadError
from palmette.types import Origin, Record

RowSource: TypeAlias = TableSource | JsonlSource | ParquetSource | HubSource
Row: TypeAlias = Mapping[str, object]


def record_of(row: Row, source: RowSource, origin: Origin, *, fields: frozenset[str]) -> Record:
    """The record that a row stands for. Keys are names, numbers written as strings, or paths (`a.b`) into objects.

    Raises:
        ReadError: if a text is missing or no text, or a label cannot be one.
    """
    text = _text(row, str(source.text), source, origin)
    pair = None if source.text_pair is None else _text(row, str(source.text_pair), source, origin)
    labels: dict[str, RecordLabel] = {}
    for task in source.labels:
        field = source.label_field(task)
        value = value_at(row, str(field.column))
        label = label_of(value, field, origin, passage=pair if isinstance(pair, str) else None)
        if label is not None:
            labels[task] = label
    return Record(text, labels, origin, pair, _meta(row, fields, origin))


def value_at(row: Row, key: str) -> object:
    """The value under a key, or under a path of keys joined by dots; None if there is none."""
    if key in row:
        return row[key]
    parent, dot, child = key.partition(".")
    inner = row.get(parent) if dot else None
    return value_at(inner, child) if isinstance(inner, Mapping) else None


def columns_of(source: RowSource, known: Collection[str], where: str, *, fields: frozenset[str]) -> list[str]:
    """The columns, of the `known` ones, that the source and its fields use.

    Raises:
        ReadError: if the source names a column that is not there.
    """
    wanted = dict.fromkeys(_column(key, setting, known, where) for setting, key in settings_of(source))
    present = (field if field in known else field.partition(".")[0] for field in sorted(fields))
    return list(wanted | dict.fromkeys(column for column in present if column in known))


def settings_of(source: RowSource) -> Iterable[tuple[str, str | int]]:
    """Each setting of a source that names a column, and what it names."""
    yield "text", source.text
    if source.text_pair is not None:
        yield "text_pair", source.text_pair
    for task in source.labels:
        yield f"labels.{task}", source.label_field(task).column


def _column(key: str | int, setting: str, known: Collection[str], where: str) -> str:
    for name in (str(key), str(key).partition(".")[0]):
        if name in known:
            return name
    raise ReadError(f"{where}: {setting}: no column {key!r}; there are: {', '.join(known)}")


def _text(row: Row, key: str, source: RowSource, origin: Origin) -> str | tuple[str, ...]:
    value = value_at(row, key)
    if value is None:
        raise ReadError(f"{origin}: no text: {key} is missing or null")
    if isinstance(value, str):
        require_encodable(value, key, origin)
        return tuple(word for word in value.split(" ") if word) if source.pretokenized else value
    if isinstance(value, list) and all(isinstance(word, str) for word in value):
        for word in value:
            require_encodable(word, key, origin)
        return " ".join(value) if not isinstance(source, TableSource) and source.sentences else tuple(value)
    raise ReadError(f"{origin}: {key}: a text is a string or a list of words, found {value!r:.60}")


def _meta(row: Row, fields: frozenset[str], origin: Origin) -> dict[str, str]:
    meta = {}
    for field in sorted(fields):
        value = value_at(row, field)
        if value is None:
            continue
        text = scalar_text(value)
        if text is None:
            raise ReadError(f"{origin}: {field}: expected one value to group or slice by, found {value!r:.60}")
        meta[field] = text
    return meta
