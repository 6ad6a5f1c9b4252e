"""SQuAD's JSON: questions about passages, with reference answers."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, TypeAlias, TypeVar

from palmette.config import SquadSource
from palmette.data.files import read_bytes
from palmette.data.readers.labels import answers_of
from palmette.errors import ReadError
from palmette.types import Answer, Origin, Record

T = TypeVar("T")
Place: TypeAlias = tuple[str | int, ...]  # keys and positions that lead to a value of the document


def read_squad(source: SquadSource, path: str, *, fields: frozenset[str]) -> Iterator[Record]:
    """A record a question: its text is the question, its pair the passage.

    Its fields are `title`, `id` and `context`, the passage, to keep the questions about one on one side of a cut.

    Raises:
        ReadError: if the file is not of SQuAD's form, or an answer does not stand at its offset.
    """
    for task in source.labels:
        field = source.label_field(task)
        if (field.column, field.separator, field.span_types) != ("answers", None, False):
            raise ReadError(f"{path}: labels.{task}: SQuAD files have one label, answers; found {field.column!r}")
    content = _decoded(path)
    lines = _Lines(content)
    try:
        for title, context, question, place in _questions(_parsed(content, path)):
            name = _get(question, "id", str, place)
            origin = Origin(path, lines.of(name))
            text = _get(question, "question", str, place)
            answers = _answers(question, context, origin, place)
            labels = {} if answers is None else dict.fromkeys(source.labels, answers)
            known = {"id": name, "context": context} | ({"title": title} if isinstance(title, str) else {})
            meta = {field: known[field] for field in sorted(fields) if field in known}
            yield Record(text, labels, origin, context, meta)
    except _MalformedError as error:
        raise ReadError(f"{path}:{_line(content, error.place)}: {error}") from error


class _MalformedError(Exception):
    """The document is not of SQuAD's form: the place of what is wrong, and what is."""

    def __init__(self, place: Place, message: str) -> None:
        keys = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in place).removeprefix(".")
        super().__init__(f"{keys}: {message}" if keys else message)
        self.place = place


# With its key: an answer's text may be the same as an id.
_ID = re.compile(r'"id"\s*:\s*("(?:[^"\\]|\\.)*")')


class _Lines:
    """Finds the line of each question, which come in the order of the file."""

    def __init__(self, content: str) -> None:
        self._content = content
        self._position = 0
        self._line = 1

    def of(self, name: str) -> int:
        """The line where a question's id stands; that of the question before if it is written with escapes."""
        written = json.dumps(name, ensure_ascii=False)
        for found in _ID.finditer(self._content, self._position):
            if found[1] == written:
                self._line += self._content.count("\n", self._position, found.end())
                self._position = found.end()
                break
        return self._line


def _decoded(path: str) -> str:
    content = read_bytes(path)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ReadError(f"{path}:{line}: not UTF-8: byte 0x{content[error.start]:02x}") from error


def _parsed(content: str, path: str) -> Any:
    try:
        return json.loads(content)
    except json.JSONDecodeError as error:
        raise ReadError(f"{path}:{error.lineno}: not JSON: {error.msg} (column {error.colno})") from error
    except (ValueError, RecursionError) as error:
        raise ReadError(f"{path}: not JSON: {error}") from error


def _questions(document: Any) -> Iterator[tuple[Any, str, Any, Place]]:
    """Title, passage, question and its place in the document, for every question."""
    for article_number, article in enumerate(_get(document, "data", list, ())):
        where: Place = ("data", article_number)
        paragraphs = _get(article, "paragraphs", list, where)
        title = article.get("title")
        for number, paragraph in enumerate(paragraphs):
            here = (*where, "paragraphs", number)
            context = _get(paragraph, "context", str, here)
            for question_number, question in enumerate(_get(paragraph, "qas", list, here)):
                yield title, context, question, (*here, "qas", question_number)


def _answers(question: Any, context: str, origin: Origin, place: Place) -> tuple[Answer, ...] | None:
    """Reference answers, none for a question marked impossible; None where the file does not say."""
    if question.get("is_impossible") is True:
        return ()
    if question.get("answers") is None:
        return None
    pairs = [
        (_get(answer, "text", str, here), _get(answer, "answer_start", int, here))
        for number, answer in enumerate(_get(question, "answers", list, place))
        for here in [(*place, "answers", number)]
    ]
    return answers_of(pairs, origin, f"question {question['id']}", context)


def _get(value: Any, key: str, kind: type[T], place: Place) -> T:
    """The value under a key.

    Args:
        value: what should be an object with the key.
        key: of the object.
        kind: what the value under the key has to be.
        place: of the object.

    Raises:
        _MalformedError: if there is none of that type.
    """
    found = value.get(key) if isinstance(value, dict) else None
    if not isinstance(found, kind):
        shown = found if found is not None else value
        raise _MalformedError(place, f"expected {key!r} ({kind.__name__}), found {shown!r:.60}")
    return found


_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\],:]|[^\s{}\[\],:"]+')


def _line(content: str, place: Place) -> int:
    """The line where a value of a valid JSON document begins."""
    # Of each object around, the key that is being read, None in front of it; of each list, the position.
    path: list[str | int | None] = []
    for token in _TOKEN.finditer(content):
        text = token[0]
        if text in ":]}":
            path = path[:-1] if text != ":" else path
        elif text == ",":
            path[-1] = path[-1] + 1 if isinstance(path[-1], int) else None
        elif path and path[-1] is None:
            path[-1] = json.loads(text)
        elif tuple(path) == place:
            return content.count("\n", 0, token.start()) + 1
        elif text in "{[":
            path.append(None if text == "{" else 0)
    raise ValueError(f"no such place: {place}")
