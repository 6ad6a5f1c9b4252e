"""SQuAD's JSON: questions about passages, with reference answers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, TypeVar

from palmette.config import SquadSource
from palmette.data.files import read_bytes
from palmette.data.readers.labels import answers_of
from palmette.errors import ReadError
from palmette.types import Answer, Origin, Record

T = TypeVar("T")


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
    for title, context, question, place in _questions(_parsed(content, path), path):
        name = _get(question, "id", str, place)
        origin = Origin(path, lines.of(name))
        where = f"{origin}: question {name}"
        text = _get(question, "question", str, where)
        answers = _answers(question, context, origin, where)
        labels = {} if answers is None else dict.fromkeys(source.labels, answers)
        known = {"id": name, "context": context} | ({"title": title} if isinstance(title, str) else {})
        meta = {field: known[field] for field in sorted(fields) if field in known}
        yield Record(text, labels, origin, context, meta)


class _Lines:
    """Finds the line of each question, which come in the order of the file."""

    def __init__(self, content: str) -> None:
        self._content = content
        self._position = 0
        self._line = 1

    def of(self, name: str) -> int:
        """The line where a question's id stands; that of the question before if it is written with escapes."""
        position = self._content.find(json.dumps(name, ensure_ascii=False), self._position)
        if position >= 0:
            self._line += self._content.count("\n", self._position, position)
            self._position = position
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


def _questions(document: Any, path: str) -> Iterator[tuple[Any, str, Any, str]]:
    """Title, passage, question and its place in the document, for every question."""
    for article_number, article in enumerate(_get(document, "data", list, path)):
        where = f"{path}: data[{article_number}]"
        paragraphs = _get(article, "paragraphs", list, where)
        title = article.get("title")
        for number, paragraph in enumerate(paragraphs):
            here = f"{where}.paragraphs[{number}]"
            context = _get(paragraph, "context", str, here)
            for question_number, question in enumerate(_get(paragraph, "qas", list, here)):
                yield title, context, question, f"{here}.qas[{question_number}]"


def _answers(question: Any, context: str, origin: Origin, where: str) -> tuple[Answer, ...] | None:
    """Reference answers, none for a question marked impossible; None where the file does not say."""
    if question.get("is_impossible") is True:
        return ()
    if question.get("answers") is None:
        return None
    answers = _get(question, "answers", list, where)
    pairs = [(_get(answer, "text", str, where), _get(answer, "answer_start", int, where)) for answer in answers]
    return answers_of(pairs, origin, f"question {question['id']}", context)


def _get(value: Any, key: str, kind: type[T], where: str) -> T:
    """The value under a key.

    Raises:
        ReadError: if there is none of that type.
    """
    found = value.get(key) if isinstance(value, dict) else None
    if not isinstance(found, kind):
        raise ReadError(
            f"{where}: expected {key!r} ({kind.__name__}), found {found if found is not None else value!r:.60}"
        )
    return found
