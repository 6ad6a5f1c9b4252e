"""What a file has in a label's place -> the label of a record."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

from palmette.config import LabelField
from palmette.errors import ReadError
from palmette.types import Answer, Origin

RecordLabel: TypeAlias = str | float | tuple[str, ...] | tuple[Answer, ...]


def label_of(value: object, field: LabelField, origin: Origin, *, passage: str | None = None) -> RecordLabel | None:
    """The label that `value` stands for, or None where the text is not annotated.

    Not annotated are None, an empty string, NaN (how pandas writes a missing number) and a list of None.

    Args:
        value: as the file has it: a string, a number, a truth value, a list, or SQuAD answers.
        field: where it stands and how it is to be taken apart.
        origin: the record, for errors.
        passage: the text that answers are offsets into.

    Raises:
        ReadError: if the value is no label, or the field's separator or span_types do not fit it.
    """
    label = _plain(value, origin, field.column, passage)
    if label is None:
        return None
    if field.separator is not None:
        if not isinstance(label, str):
            raise ReadError(f"{origin}: {field.column}: separator splits one string, found {value!r:.60}")
        label = tuple(part for part in (part.strip() for part in label.split(field.separator)) if part)
    if field.span_types:
        if not isinstance(label, tuple):
            raise ReadError(f"{origin}: {field.column}: span_types needs a list of tags, found {value!r:.60}")
        label = _span_types(str(tag) for tag in label)
    return label


def answers_of(
    answers: Iterable[tuple[object, object]], origin: Origin, what: str, passage: str | None
) -> tuple[Answer, ...]:
    """Reference answers from pairs of text and start, each once, checked against the passage if there is one.

    Raises:
        ReadError: if an answer is malformed or does not stand at its offset.
    """
    checked: dict[Answer, None] = {}
    for text, start in answers:
        if not isinstance(text, str) or not text or not isinstance(start, int) or isinstance(start, bool) or start < 0:
            raise ReadError(f"{origin}: {what}: expected a text and its start, found {text!r:.60} and {start!r:.60}")
        if passage is not None and not passage.startswith(text, start):
            found = passage[start : start + len(text)]
            raise ReadError(
                f"{origin}: {what}: answer {text!r:.60} is not at {start}, where the passage has {found!r:.60}"
            )
        checked[Answer(start, text)] = None
    return tuple(checked)


def scalar_text(value: object) -> str | None:
    """A string, number or truth value as text; None for anything else."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, str | int | float) else None


def require_encodable(text: str, key: str | int, origin: Origin) -> str:
    """The text; JSON can escape half of a surrogate pair, on which all would fail later, far from the file.

    Raises:
        ReadError: it is no Unicode text.
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ReadError(f"{origin}: {key}: not Unicode text: lone surrogate {text[error.start]!r}") from error
    return text


def _plain(value: object, origin: Origin, column: str | int, passage: str | None) -> RecordLabel | None:
    if value is None or value == "":
        return None
    if isinstance(value, float):
        if math.isinf(value):
            raise ReadError(f"{origin}: {column}: a label must be finite, found {value}")
        return None if math.isnan(value) else value
    if isinstance(value, list | tuple | dict):
        pairs = _answer_pairs(value)
        if pairs is not None:
            return answers_of(pairs, origin, str(column), passage)
    if isinstance(value, list | tuple):
        return _members(value, origin, column)
    text = scalar_text(value)
    if text is None:
        raise ReadError(f"{origin}: {column}: cannot be a label: {value!r:.60}")
    return require_encodable(text, column, origin)


def _members(values: Sequence[object], origin: Origin, column: str | int) -> tuple[str, ...] | None:
    if values and all(value is None for value in values):
        return None
    members = []
    for value in values:
        text = None if isinstance(value, float) else scalar_text(value)
        if text is None:
            raise ReadError(f"{origin}: {column}: a list label holds strings, found {value!r:.60} in it")
        members.append(require_encodable(text, column, origin))
    return tuple(members)


def _answer_pairs(value: Sequence[object] | Mapping[str, object]) -> list[tuple[object, object]] | None:
    """Text and start of each answer, if `value` has one of the two forms that answers are written in."""
    if isinstance(value, Mapping):
        texts, starts = value.get("text"), value.get("answer_start")
        if isinstance(texts, list) and isinstance(starts, list) and len(texts) == len(starts):
            return list(zip(texts, starts, strict=True))
        return None
    items = [item for item in value if isinstance(item, Mapping) and {"text", "answer_start"} <= item.keys()]
    if not items or len(items) != len(value):
        return None
    return [(item["text"], item["answer_start"]) for item in items]


def _span_types(tags: Iterable[str]) -> tuple[str, ...]:
    types = {tag.partition("-")[2] or tag for tag in tags if tag not in {"O", "_"}}
    return tuple(sorted(types - {""}))
