"""A large file in parts: where each begins, and a folder that holds the answers of those that are finished."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from palmette.answering import Answerer
from palmette.bulk.answers import CHUNK
from palmette.bulk.columns import Column
from palmette.bulk.local import Counts, write_answers
from palmette.bulk.rows import STDIN, Form, Section, form_of, import_parquet, open_parquet, read_rows
from palmette.bulk.sinks import open_sink
from palmette.errors import ReadError, RunError

PART = 16 * CHUNK  # lines; a multiple, so that the same rows are computed together as without parts
_MOST = 10_000  # parts: a larger file has larger ones
_BLOCK = 1 << 22  # bytes
_PLAN = "plan.json"
_NEWLINE = ord("\n")
_GZIP = b"\x1f\x8b"


def cut(path: Path, form: Form, *, lines: int = PART) -> list[Section]:
    """The parts of a file, which together are all of it. A text file is read once, to find where lines begin.

    Args:
        path: of the file.
        form: of it.
        lines: or rows of each part, at least.

    Raises:
        ReadError: it cannot be read, or is compressed and so can be read from its beginning only.
        MissingExtraError: it is Parquet, and pyarrow is not installed.
    """
    if path == STDIN:
        raise ReadError("--input -: standard input has no parts: give a file")
    if form == "parquet":
        with open_parquet(path) as file:
            starts = [(number, 0) for number in range(0, file.metadata.num_rows, lines)]
    else:
        starts = list(_starts(path, lines))
    together = -(-len(starts) // _MOST) or 1
    return [
        Section(path, form, first=line + 1, offset=offset, lines=lines * together)
        for line, offset in starts[::together]
    ]


def _starts(path: Path, lines: int) -> Iterator[tuple[int, int]]:
    """Number (from 0) and offset of the first line of each part."""
    try:
        with path.open("rb") as file:
            if file.read(len(_GZIP)) == _GZIP:
                raise ReadError(f"{path}: is compressed, so its parts cannot be found: decompress it, or use Parquet")
            file.seek(0)
            size = os.fstat(file.fileno()).st_size
            if size:
                yield 0, 0
            seen = position = 0
            for block in iter(partial(file.read, _BLOCK), b""):
                ends = np.flatnonzero(np.frombuffer(block, dtype=np.uint8) == _NEWLINE)  # [lines that end in it]
                for index in range(lines - 1 - seen % lines, len(ends), lines):
                    if (offset := position + int(ends[index]) + 1) < size:
                        yield seen + index + 1, offset
                seen += len(ends)
                position += len(block)
    except FileNotFoundError as error:
        raise ReadError(f"{path}: no such file") from error
    except OSError as error:
        raise ReadError(f"{path}: cannot be read: {error}") from error


@dataclass(frozen=True)
class Parts:
    """The folder beside the output in which parts wait for each other.

    Attributes:
        output: the file that they become.
        sections: of the input.
        columns: of it that a Parquet file keeps.
    """

    output: Path
    sections: Sequence[Section]
    columns: Sequence[Column]

    @property
    def folder(self) -> Path:
        """Where they are."""
        return self.output.with_name(self.output.name + ".parts")

    def place(self, number: int) -> Path:
        """A part's file; its name ends as the output's, which says its form."""
        return self.folder / f"{number:06d}-{self.output.name}"

    def prepare(self, plan: Mapping[str, Any]) -> None:
        """Make the folder, or go on in one that was made for the same.

        Args:
            plan: what the answers depend on.

        Raises:
            RunError: it holds parts of something else, or cannot be made.
        """
        file = self.folder / _PLAN
        try:
            if file.exists():
                found = json.loads(file.read_text(encoding="utf-8"))
                changed = [name for name in plan if found.get(name) != plan[name]]
                if changed:
                    raise RunError(
                        f"{self.folder}: holds parts of another job ({', '.join(changed)} differ): delete it, or give "
                        "--output another name"
                    )
                return
            self.folder.mkdir(exist_ok=True)
            _write(file, json.dumps(plan, indent=2))
        except (OSError, ValueError) as error:
            raise RunError(f"{self.folder}: cannot be used: {error}") from error

    def finished(self, number: int) -> Counts | None:
        """What a finished part holds; None if it is not finished."""
        try:
            return Counts(**json.loads(self._note(number).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    def answer(self, number: int, model: Answerer, *, tasks: Sequence[str] | None, keep: bool) -> Counts:
        """Answer a part. It counts as finished only when it is whole, so it can be done again at any time.

        Raises:
            ReadError, RunError: as `write_answers`.
        """
        place = _apart(self.place(number))
        rows = read_rows(self.sections[number])
        counts = write_answers(model, rows, place, columns=self.columns, tasks=tasks, keep=keep, hint=False)
        place.replace(self.place(number))
        _write(self._note(number), json.dumps(asdict(counts)))
        return counts

    def join(self) -> None:
        """Put all parts together into the output, and remove the folder.

        Raises:
            RunError: the output cannot be written.
        """
        partial_ = self.output.with_name(self.output.name + ".partial")
        places = [self.place(number) for number in range(len(self.sections))]
        try:
            if not places:
                open_sink(partial_, like=self.output, columns=self.columns).close()
            elif form_of(self.output) == "parquet":
                _join_parquet(places, partial_)
            else:  # also compressed: gzip files one after another are a gzip file
                with partial_.open("wb") as whole:
                    for place in places:
                        with place.open("rb") as part:
                            shutil.copyfileobj(part, whole, _BLOCK)
            partial_.replace(self.output)
            shutil.rmtree(self.folder)
        except OSError as error:
            raise RunError(f"{self.output}: cannot be written: {error}") from error

    def _note(self, number: int) -> Path:
        return self.folder / f"{number:06d}.json"


def _join_parquet(places: Sequence[Path], whole: Path) -> None:
    parquet = import_parquet()
    with parquet.ParquetFile(places[0]) as first:
        schema = first.schema_arrow
    with parquet.ParquetWriter(whole, schema, compression="zstd") as writer:
        for place in places:
            with parquet.ParquetFile(place) as part:
                for group in range(part.num_row_groups):
                    writer.write_table(part.read_row_group(group))


def _write(path: Path, content: str) -> None:
    """A file that is there only when it is whole."""
    temporary = _apart(path)
    temporary.write_text(content, encoding="utf-8")
    temporary.replace(path)


def _apart(path: Path) -> Path:
    """A name beside a file for this process alone: a machine that was given up may still write the same part."""
    return path.with_name(f".{os.uname().nodename}.{os.getpid()}.{path.name}")
