"""Files of texts to predict: a text a line, or JSON lines; read as a stream."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from palmette.data.files import read_lines
from palmette.errors import ReadError
from palmette.predictor import Input


def read_inputs(path: Path, *, form: str | None = None) -> Iterator[Input]:
    """The inputs of a file, or of standard input for `-`.

    JSON lines are objects with `text` (a string or a list of words) and, for pairs and questions, `text_pair`.
    Plain lines are a text each; an empty line is an empty text.

    Args:
        path: the file, also compressed (`.gz`).
        form: `text` or `jsonl`; by default jsonl where the name says so, else text.

    Raises:
        ReadError: with file and line.
    """
    if str(path) == "-":
        lines: Iterable[tuple[int, str]] = ((n, line.rstrip("\r\n")) for n, line in enumerate(sys.stdin, start=1))
    else:
        lines = read_lines(str(path))
    as_json = form == "jsonl" or (form is None and ".jsonl" in path.suffixes)
    for number, line in lines:
        if not as_json:
            yield line
        elif line.strip():
            yield _parse(line, f"{path}:{number}")


def _parse(line: str, where: str) -> Input:
    try:
        found = json.loads(line)
    except json.JSONDecodeError as error:
        raise ReadError(f"{where}: not JSON: {error.msg}") from error
    if not isinstance(found, dict) or "text" not in found:
        raise ReadError(f"{where}: expected an object with the key text, found {line[:60]!r}")
    first = _text(found["text"], where)
    second = found.get("text_pair")
    return first if second is None else (first, _text(second, where))


def _text(value: Any, where: str) -> str | list[str]:
    if isinstance(value, str) or (isinstance(value, list) and all(isinstance(word, str) for word in value)):
        return value
    raise ReadError(f"{where}: a text is a string or a list of words, found {value!r}"[:200])
