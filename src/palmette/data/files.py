"""Data files as lines and bytes: gzip, byte-order marks and broken encodings are dealt with here, once."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, TypeAlias, cast

from palmette.errors import ReadError

Line: TypeAlias = tuple[int, str]  # its number in the file, from 1, and its text without the line end

_GZIP_MAGIC = b"\x1f\x8b"
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def open_bytes(path: str) -> BinaryIO:
    """Open a file for reading; gzip, told by suffix or by its first bytes, is decompressed.

    Raises:
        ReadError: if there is no such file, it is a folder, or it ends in .gz and is not gzip.
    """
    try:
        with Path(path).open("rb") as file:
            magic = file.read(len(_GZIP_MAGIC))
        if magic == _GZIP_MAGIC:
            # the buffer matters: GzipFile finds line ends in Python, some three times slower
            return cast("BinaryIO", io.BufferedReader(gzip.open(path, "rb")))
        if path.endswith(".gz"):
            raise ReadError(f"{path}: ends in .gz, but is not gzip")
        return Path(path).open("rb")
    except FileNotFoundError as error:
        raise ReadError(f"{path}: no such file") from error
    except IsADirectoryError as error:
        raise ReadError(f"{path}: is a folder, expected a file") from error
    except (OSError, ValueError) as error:
        raise ReadError(f"{path}: cannot be opened: {error}") from error


def read_bytes(path: str) -> bytes:
    """All of a file, decompressed.

    Raises:
        ReadError: if it cannot be opened or is broken gzip.
    """
    with open_bytes(path) as file:
        try:
            return file.read()
        except (OSError, EOFError, zlib.error) as error:
            raise ReadError(f"{path}: cannot be read: {error}") from error


def open_seekable(path: str) -> BinaryIO:
    """Open a file that is not read from front to back; gzip is decompressed into memory, since it cannot jump.

    Raises:
        ReadError: as `read_bytes`.
    """
    file = open_bytes(path)
    if isinstance(file, io.BufferedReader) and not isinstance(file.raw, gzip.GzipFile):
        return file
    file.close()
    return io.BytesIO(read_bytes(path))


def read_lines(path: str) -> Iterator[Line]:
    r"""The lines of a UTF-8 file, without their ends (`\n` or `\r\n`) and without a byte-order mark.

    Only `\n` ends a line: `str.splitlines` would also break texts at U+2028, U+0085 and form feeds.

    Raises:
        ReadError: if the file cannot be opened or read, or a line is not UTF-8 (with its number).
    """
    number = 0
    with open_bytes(path) as file:
        try:
            for number, raw in enumerate(file, 1):
                content = raw.removeprefix(_BYTE_ORDER_MARK) if number == 1 else raw
                yield number, content.removesuffix(b"\n").removesuffix(b"\r").decode("utf-8")
        except UnicodeDecodeError as error:
            found = error.object[error.start]
            raise ReadError(f"{path}:{number}: not UTF-8: byte 0x{found:02x} at position {error.start + 1}") from error
        except (OSError, EOFError, zlib.error) as error:
            raise ReadError(f"{path}:{number + 1}: cannot be read: {error}") from error


def read_blocks(path: str) -> Iterator[list[Line]]:
    """Runs of lines between lines that are empty or only white space (which some corpora use as separators).

    Raises:
        ReadError: as `read_lines`.
    """
    block: list[Line] = []
    for number, line in read_lines(path):
        if line.strip():
            block.append((number, line))
        elif block:
            yield block
            block = []
    if block:
        yield block
