"""The columns that go through to a Parquet file, with types that are known before its first row is written."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from palmette.bulk.rows import INPUTS, STDIN, Row, Section, open_parquet, read_rows
from palmette.errors import RunError
from palmette.words import well_formed

_INT64 = range(-(2**63), 2**63)
_JSON = "json"  # of no one type, or nested


@dataclass(frozen=True)
class Column:
    """A column of the input that its answers keep.

    Attributes:
        name: of it.
        type: Arrow's, where the input is Parquet; else bool, int64, double, string, or json (JSON in a string).
    """

    name: str
    type: Any

    def arrow(self) -> Any:
        """Arrow's type."""
        import pyarrow as arrow

        names = {"bool": arrow.bool_(), "int64": arrow.int64(), "double": arrow.float64()}
        return names.get(self.type, arrow.string()) if isinstance(self.type, str) else self.type

    def fit(self, value: Any) -> Any:
        """A value of the input as the column holds it."""
        if value is None or not isinstance(self.type, str):
            return value
        if self.type == _JSON:
            return json.dumps(value)
        if self.type == "double":
            return float(value)
        return well_formed(value) if self.type == "string" else value


def columns_of(section: Section) -> tuple[Column, ...]:
    """The extra columns of a whole file. JSON lines do not say their types: all of them are read once for it.

    Raises:
        ReadError: the file cannot be read.
        RunError: it is standard input, which cannot be read twice.
        MissingExtraError: pyarrow is not installed.
    """
    if section.form == "text":
        return ()
    if section.form == "jsonl":
        if section.path == STDIN:
            raise RunError("--input -: JSON lines are read twice for a Parquet file: give them as a file")
        return scan(read_rows(section))
    with open_parquet(section.path) as file:
        return tuple(Column(field.name, field.type) for field in file.schema_arrow if field.name not in INPUTS)


def scan(rows: Iterable[Row]) -> tuple[Column, ...]:
    """The extra columns of rows of JSON lines, in the order in which they first occur.

    Whole numbers and others make numbers; any other mixture, lists and objects are kept as JSON.
    """
    found: dict[str, str | None] = {}
    for row in rows:
        for name, value in row.extra.items():
            seen, new = found.get(name), _type_of(value)
            if seen is None or new is None or seen == new:
                found[name] = seen or new
            else:
                found[name] = "double" if {seen, new} == {"int64", "double"} else _JSON
    return tuple(Column(name, kind or "string") for name, kind in found.items())


def _type_of(value: Any) -> str | None:
    """The type of a value of JSON; None for null, which fits any."""
    if value is None:
        return None
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        return "int64" if value in _INT64 else _JSON
    if isinstance(value, float):
        return "double"
    return "string" if isinstance(value, str) else _JSON
