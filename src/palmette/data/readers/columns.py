"""One token a line in columns, as CoNLL shared tasks and IOB files have them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from palmette.config import ColumnsSource
from palmette.data.files import read_blocks, read_lines
from palmette.data.readers.comments import Comments
from palmette.data.readers.labels import RecordLabel, label_of
from palmette.errors import ReadError
from palmette.types import Origin, Record

_SEPARATED_BY = {"tab": "tab-separated", "space": "space-separated", "whitespace": "white-space-separated"}
# not \s: a no-break space or U+2028 inside a token is part of it
_WHITESPACE = re.compile(r"[ \t]+")


def read_columns(source: ColumnsSource, path: str, *, fields: frozenset[str]) -> Iterator[Record]:
    """The sentences of a file. Every line that is not blank (or a comment) is a token, also one with an empty form.

    Raises:
        ReadError: with the line, if it has not as many columns as the file's first token line, or if that
            line lacks a column that the source names.
    """
    labels = [(task, source.label_field(task)) for task in source.labels]
    width = _width(source, path, {task: field.column for task, field in labels})
    comments = Comments() if source.comments else None
    for block in read_blocks(path):
        notes, rest = _apart(block, source, width)
        meta = comments.read(notes) if comments else {}
        tokens = [_token(line, source, width, f"{path}:{number}") for number, line in rest]
        if not tokens:
            continue  # comments alone: a file's header, or a newdoc that stands by itself
        origin = Origin(path, block[0][0])
        read: dict[str, RecordLabel] = {}
        for task, field in labels:
            label = label_of(tuple(token[int(field.column)] for token in tokens), field, origin)
            if label is not None:
                read[task] = label
        words = tuple(token[source.text_column] for token in tokens)
        yield Record(words, read, origin, meta={field: meta[field] for field in sorted(fields) if field in meta})


def _split(line: str, source: ColumnsSource) -> list[str]:
    if source.delimiter == "whitespace":
        return _WHITESPACE.split(line.strip(" \t"))
    return line.split("\t" if source.delimiter == "tab" else " ")


def _apart(
    block: Sequence[tuple[int, str]], source: ColumnsSource, width: int
) -> tuple[list[str], list[tuple[int, str]]]:
    """The comments of a block, and its other lines."""
    notes: list[str] = []
    rest: list[tuple[int, str]] = []
    for number, line in block:
        if source.comments and _is_comment(line, source, width, leading=not rest):
            notes.append(line)
        else:
            rest.append((number, line))
    return notes, rest


def _is_comment(line: str, source: ColumnsSource, width: int, *, leading: bool) -> bool:
    """A token may begin with # too; it then has all the columns.

    A comment may by chance have as many fields as a token: `# id 12 x` in a file of spaces, a text with a tab in it. So
    in front of the tokens of a block, `# ` always begins one.
    """
    if not line.startswith("#"):
        return False
    return len(_split(line, source)) != width or (leading and line.startswith("# "))


def _token(line: str, source: ColumnsSource, width: int, where: str) -> list[str]:
    columns = _split(line, source)
    if len(columns) != width:
        kind = _SEPARATED_BY[source.delimiter]
        raise ReadError(
            f"{where}: expected {width} {kind} columns, found {len(columns)}: {line[:40]!r}{_hint(line, source)}"
        )
    return columns


def _width(source: ColumnsSource, path: str, labels: Mapping[str, str | int]) -> int:
    """The number of columns of the file's first token line, which must reach to every column of the source."""
    for number, line in read_lines(path):
        if not line.strip() or (source.comments and line.startswith("#")):
            continue
        columns = _split(line, source)
        wanted = {"text_column": source.text_column} | {f"labels.{task}": column for task, column in labels.items()}
        for setting, column in wanted.items():
            if column not in range(len(columns)):
                kind = _SEPARATED_BY[source.delimiter]
                raise ReadError(
                    f"{path}:{number}: {setting} is column {column!r}, but the first token line has {len(columns)} "
                    f"{kind} columns, counted from 0: {line[:40]!r}{_hint(line, source)}"
                )
        return len(columns)
    return 0


def _hint(line: str, source: ColumnsSource) -> str:
    hinted = line.startswith("#") and not source.comments
    return " (if lines that begin with # are comments, set comments: true)" if hinted else ""
