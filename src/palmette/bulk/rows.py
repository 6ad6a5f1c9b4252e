"""Rows of a file of texts, from any place in it on. A row that cannot be read is still a row: it says why."""

from __future__ import annotations

import json
import sys
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Literal

from palmette.data.files import open_bytes, open_seekable
from palmette.errors import MissingExtraError, ReadError
from palmette.predictor import Input

Form = Literal["text", "jsonl", "parquet"]

STDIN = Path("-")
INPUTS = ("text", "text_pair")  # what a row is answered by
ANSWERS = ("words", "offsets", "tasks", "error")  # what an answer adds, so no column of the input may be called
_BATCH = 512  # rows of Parquet that are decoded together
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the input.

    Attributes:
        where: file:line, or file:row of Parquet, from 1.
        given: what to answer; None if the row is bad.
        extra: its other columns, which go into the answer as they are.
        error: what is bad about it, with `where`; None if nothing is.
    """

    where: str
    given: Input | None
    extra: Mapping[str, Any] = field(default_factory=dict)
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Section:
    """Rows of a file that follow each other.

    Attributes:
        path: of the file; `-` is standard input.
        form: how it is read.
        first: the number of the first line or row, from 1.
        offset: the byte where that line begins; not used for Parquet.
        lines: how many lines or rows; None for all that follow.
    """

    path: Path
    form: Form
    first: int = 1
    offset: int = 0
    lines: int | None = None


def form_of(path: Path, given: str | None = None) -> Form:
    """How a file is read or written: as asked for, else by its name (`.jsonl`, `.parquet`; both also with `.gz`)."""
    if given in ("text", "jsonl", "parquet"):
        return given  # type: ignore[return-value]
    if path.suffix == ".parquet" or path.suffixes[-2:] == [".parquet", ".gz"]:
        return "parquet"
    return "jsonl" if ".jsonl" in path.suffixes else "text"


def import_parquet() -> Any:
    """The module of pyarrow for Parquet.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        from pyarrow import parquet
    except ModuleNotFoundError as error:
        raise MissingExtraError("pyarrow", "parquet") from error
    return parquet


def read_rows(section: Section) -> Iterator[Row]:
    """The rows of a section, good and bad ones. An empty line is an empty text; in JSON lines it is no row.

    Raises:
        ReadError: the file as a whole cannot be read, or not any further.
        MissingExtraError: it is Parquet, and pyarrow is not installed.
    """
    if section.form == "parquet":
        yield from _parquet_rows(section)
        return
    for number, raw in _lines(section):
        where = f"{section.path}:{number}"
        content = raw.removesuffix(b"\n").removesuffix(b"\r")
        try:
            line = content.decode("utf-8")
        except UnicodeDecodeError as error:
            place = f"byte 0x{content[error.start]:02x} at position {error.start + 1}"
            yield Row(where, None, error=f"{where}: not UTF-8: {place}")
            continue
        if section.form == "text":
            yield Row(where, line)
        elif line.strip():
            yield parse(line, where)


def _lines(section: Section) -> Iterator[tuple[int, bytes]]:
    number = section.first - 1
    opened: BinaryIO = sys.stdin.buffer if section.path == STDIN else open_bytes(str(section.path))
    try:
        if section.offset:
            opened.seek(section.offset)
        lines = opened if section.lines is None else islice(opened, section.lines)
        for number, raw in enumerate(lines, section.first):
            yield number, raw.removeprefix(_BYTE_ORDER_MARK) if number == 1 else raw
    except (OSError, EOFError, zlib.error) as error:
        raise ReadError(f"{section.path}:{number + 1}: cannot be read: {error}") from error
    finally:
        if section.path != STDIN:
            opened.close()


def parse(line: str, where: str) -> Row:
    """A row from a JSON object with `text` (a string or words), perhaps `text_pair`, and whatever is carried along."""
    try:
        found = json.loads(line)
    except json.JSONDecodeError as error:
        return Row(where, None, error=f"{where}: not JSON: {error.msg}")
    except (RecursionError, ValueError) as error:  # nested without end; a number of thousands of digits
        return Row(where, None, error=f"{where}: not JSON that can be read: {error}")
    if not isinstance(found, dict) or "text" not in found:
        return Row(where, None, error=f"{where}: expected an object with the key text, found {line[:60]!r}")
    return _row(found, where)


def _row(found: Mapping[str, Any], where: str) -> Row:
    extra = {key: value for key, value in found.items() if key not in INPUTS}
    for key in ANSWERS:
        if key in extra:
            rest = {name: value for name, value in extra.items() if name not in ANSWERS}
            return Row(where, None, rest, f"{where}: {refuse_column(key)}")
    second = found.get("text_pair")
    for value in (found["text"], *([] if second is None else [second])):
        if not _is_text(value):
            problem = f"{where}: a text is a string or a list of words, found {value!r}"[:200]
            return Row(where, None, extra, problem)
    return Row(where, found["text"] if second is None else (found["text"], second), extra)


def refuse_column(name: str) -> str:
    """What to say of a column that the answer's own would replace."""
    return f"the column {name!r} is one that answers have: rename it or leave it out"


def _is_text(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, list) and all(isinstance(word, str) for word in value))


@contextmanager
def open_parquet(path: Path) -> Iterator[Any]:
    """A Parquet file with a column `text`, closed at the end.

    Raises:
        ReadError: it is none, lacks that column, or has one that answers have.
        MissingExtraError: pyarrow is not installed.
    """
    parquet = import_parquet()
    import pyarrow as arrow

    with open_seekable(str(path)) as content:
        try:
            # Without reading ahead, which would hold whole columns of a row group in memory.
            file = parquet.ParquetFile(content, pre_buffer=False, buffer_size=1 << 20)
        except (arrow.ArrowException, OSError) as error:
            raise ReadError(f"{path}: cannot be read as Parquet: {error}") from error
        names = file.schema_arrow.names
        if "text" not in names:
            raise ReadError(f"{path}: has no column 'text'; there are: {', '.join(names)}")
        for name in names:
            if name in ANSWERS:
                raise ReadError(f"{path}: {refuse_column(name)}")
            if names.count(name) > 1:
                raise ReadError(f"{path}: has more than one column {name!r}")
        yield file


def _parquet_rows(section: Section) -> Iterator[Row]:
    import_parquet()
    import pyarrow as arrow

    number = section.first - 1
    with open_parquet(section.path) as file:
        skip, groups = _groups(file, number)
        last = file.metadata.num_rows if section.lines is None else number + section.lines
        try:
            for batch in file.iter_batches(batch_size=_BATCH, row_groups=groups):
                found = batch.slice(min(skip, batch.num_rows), last - number)
                skip -= min(skip, batch.num_rows)
                for record in found.to_pylist():
                    number += 1
                    yield _row(record, f"{section.path}:{number}")
                if number >= last:
                    return
        except (arrow.ArrowException, OSError, UnicodeDecodeError) as error:
            raise ReadError(f"{section.path}: cannot be read as Parquet after row {number}: {error}") from error


def _groups(file: Any, start: int) -> tuple[int, list[int]]:
    """How many rows to leave out of the row groups from which row `start` (from 0) on is read, and these groups."""
    sizes = [file.metadata.row_group(number).num_rows for number in range(file.metadata.num_row_groups)]
    group = 0
    while group < len(sizes) and start >= sizes[group]:
        start -= sizes[group]
        group += 1
    return start, list(range(group, len(sizes)))
