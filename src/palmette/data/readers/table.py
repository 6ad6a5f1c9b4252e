"""CSV and TSV."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator

from palmette.config import TableSource
from palmette.data.files import read_lines
from palmette.data.readers.rows import record_of, settings_of
from palmette.errors import ReadError
from palmette.types import Origin, Record

_DELIMITERS = {"tab": "\t", "comma": ",", "semicolon": ";"}


def read_table(source: TableSource, path: str, *, fields: frozenset[str]) -> Iterator[Record]:
    """A record a row; blank lines at the end are not rows.

    Raises:
        ReadError: with the line, if a row has not as many columns as the header (or the first row), or its
            quotes are unbalanced; or if the source names a column that is not there.
    """
    rows = _filled(_rows(source, path), path)
    first = next(rows, None)
    if first is None:
        return
    names = first[1] if source.header else [str(number) for number in range(len(first[1]))]
    positions = _positions(source, names, f"{path}:{first[0]}", fields=fields)
    if not source.header:
        yield _record(first, source, path, positions, fields=fields)
    for number, cells in rows:
        if len(cells) < len(names) or (len(cells) > len(names) and not source.extra_columns):
            hint = "" if len(cells) < len(names) else " (extra_columns: true allows more)"
            raise ReadError(f"{path}:{number}: expected {len(names)} columns, found {len(cells)}: {cells!r:.60}{hint}")
        yield _record((number, cells), source, path, positions, fields=fields)


def _record(
    row: tuple[int, list[str]], source: TableSource, path: str, positions: dict[str, int], *, fields: frozenset[str]
) -> Record:
    number, cells = row
    values = {key: cells[position] for key, position in positions.items()}
    return record_of(values, source, Origin(path, number), fields=fields)


def _rows(source: TableSource, path: str) -> Iterator[tuple[int, list[str]]]:
    """The first line and the cells of every row; a blank line has no cells."""
    comma = path.lower().removesuffix(".gz").endswith(".csv")
    name = source.delimiter or ("comma" if comma else "tab")
    quoting = source.quoting if source.quoting is not None else name != "tab"
    if quoting:
        yield from _quoted_rows(path, _DELIMITERS[name])
        return
    # str.split, since csv with QUOTE_NONE still fails on a carriage return inside a text
    for number, line in read_lines(path):
        yield number, line.split(_DELIMITERS[name]) if line else []


def _quoted_rows(path: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    csv.field_size_limit(sys.maxsize)  # 131,072 characters by default: a long text is no error
    reader = csv.reader((f"{line}\n" for _, line in read_lines(path)), delimiter=delimiter, strict=True)
    start = 1
    while True:
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise ReadError(f"{path}:{start}: the row that begins here is not CSV: {error}") from error
        if cells is None:
            return
        yield start, cells
        start = reader.line_num + 1


def _filled(rows: Iterator[tuple[int, list[str]]], path: str) -> Iterator[tuple[int, list[str]]]:
    """The rows, without blank lines at the end; one in between is an error, since it may be a lost row."""
    blank = 0
    for number, cells in rows:
        if not cells:
            blank = blank or number
            continue
        if blank:
            raise ReadError(f"{path}:{blank}: a blank line between rows")
        yield number, cells


def _positions(source: TableSource, names: list[str], where: str, *, fields: frozenset[str]) -> dict[str, int]:
    """Where each column stands that the source names, by its name or number, and where each known field does.

    Raises:
        ReadError: if a column is not there, or its name stands twice in the header.
    """
    positions = {}
    for setting, key in settings_of(source):
        if isinstance(key, int) and key in range(len(names)):
            positions[str(key)] = key
        elif isinstance(key, str) and names.count(key) == 1:
            positions[key] = names.index(key)
        else:
            problem = f"more than one column {key!r}" if names.count(str(key)) > 1 else f"no column {key!r}"
            raise ReadError(f"{where}: {setting}: {problem}; there are: {', '.join(names)}")
    return positions | {field: names.index(field) for field in fields if field in names and field not in positions}
