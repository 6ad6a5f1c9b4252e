"""JSON lines."""

from __future__ import annotations

import json
from collections.abc import Iterator

from palmette.config import JsonlSource
from palmette.data.files import read_lines
from palmette.data.readers.rows import record_of
from palmette.errors import ReadError
from palmette.types import Origin, Record


def read_jsonl(source: JsonlSource, path: str, *, fields: frozenset[str]) -> Iterator[Record]:
    """A record a line; blank lines are skipped. A key that a line lacks is a label that it lacks.

    Raises:
        ReadError: with the line, if it is no JSON object or has no text.
    """
    for number, line in read_lines(path):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ReadError(f"{path}:{number}: not JSON: {error}") from error
        if not isinstance(row, dict):
            raise ReadError(f"{path}:{number}: expected a JSON object, found {line[:40]!r}")
        yield record_of(row, source, Origin(path, number), fields=fields)
