"""`# key = value` comments above sentences, as CoNLL-U and many column files have them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from palmette.errors import MissingExtraError


def conllu_parser() -> Any:
    """The conllu package's parser.

    Raises:
        MissingExtraError: if the package is not installed.
    """
    try:
        from conllu import parser
    except ModuleNotFoundError as error:
        raise MissingExtraError("conllu", "train") from error
    return parser


class Comments:
    """Reads the comments of a file's sentences in order, and knows the document that each stands in."""

    def __init__(self) -> None:
        self._parse = conllu_parser().parse_comment_line
        self._document: str | None = None

    def read(self, lines: Iterable[str]) -> dict[str, str]:
        """Keys and values of one sentence's comments; `newdoc id` is that of the last document begun."""
        values: dict[str, str] = {}
        for line in lines:
            for key, value in self._parse(line):
                if key in {"newdoc", "newdoc id"}:  # a document without an id ends the one before all the same
                    self._document = value
                elif value is not None:
                    values[key] = value
        return values if self._document is None else values | {"newdoc id": self._document}
