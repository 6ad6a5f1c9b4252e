"""Argilla 2: a JSON list of records, as `Dataset.records.to_json` writes and `from_json` reads them.

The dataset has the fields `text` and, for pairs, `text_pair`, and one question, named like the task: a SpanQuestion
for tags, spans and answers, a LabelQuestion or MultiLabelQuestion for classes, a TextQuestion for texts and numbers.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

from palmette.errors import ReadError
from palmette.operate.review.exchange.base import Entry, Format, Said, field, read_said, spans_of, tags_of
from palmette.operate.review.queue import Item
from palmette.types import Example

_USERS = uuid.UUID("6f0b1ab8-6d2b-5f0e-9c0c-6a2a3a5e1d11")  # Argilla's users have UUIDs: of a name, always the same


class Argilla(Format):
    """The model's answer is a suggestion; each reviewer's is a response."""

    which: ClassVar[Literal["checked", "all"]] = "all"

    def write(self, entries: Sequence[Entry], path: Path) -> None:
        """All records in a list."""
        path.write_text(json.dumps([_record(entry) for entry in entries], ensure_ascii=False, indent=1), "utf-8")

    def read(self, path: Path, items: dict[int, Item]) -> Iterator[Said]:
        """The responses of every record."""
        for number, record in enumerate(_records(path)):
            place = f"{path}: record {number}"
            metadata = field(record, "metadata", dict, place)
            item = items.get(identity := field(metadata, "item", int, place))
            names = {str(_user(name)): name for name in str(metadata.get("reviewers", "")).split("\n") if name}
            task = str(metadata.get("task", "")) if item is None else item.task
            for response in field({task: [], **field(record, "responses", dict, place)}, task, list, place):
                if not isinstance(response, dict):
                    raise ReadError(f"{place}: expected responses, found {response!r:.80}")
                user = str(response.get("user_id"))
                yield read_said(item, identity, names.get(user, user), place, partial(_label, response, place=place))


def _user(name: str) -> uuid.UUID:
    try:
        return uuid.UUID(name)  # came from Argilla
    except ValueError:
        return uuid.uuid5(_USERS, name)


def _records(path: Path) -> list[Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ReadError(f"{path}: not JSON that can be read: {error}") from error
    if not isinstance(found, list):
        raise ReadError(f"{path}: expected a list of records")
    return found


def _record(entry: Entry) -> dict[str, Any]:
    item, example = entry.item, entry.example
    fields = {"text": example.text.string}
    if example.pair is not None:
        fields["text_pair"] = example.pair.string
    suggestions = {}
    if item.prediction is not None:
        value = _value(item.prediction, item, example)
        suggestions[item.task] = {"value": value, "score": item.confidence, "agent": item.digest}
    responses = [
        {"value": _value(label, item, example), "user_id": str(_user(name))}
        for name, label in entry.answers
        if label is not None
    ]
    return {
        "id": f"{item.task}-{item.id}",
        "fields": fields,
        "metadata": {
            "item": item.id,
            "task": item.task,
            "why": item.why,
            "reviewers": "\n".join(name for name, _ in entry.answers),
        },
        "suggestions": suggestions,
        "responses": {item.task: responses} if responses else {},
        "vectors": {},
        "_server_id": None,
    }


def _value(label: Any, item: Item, example: Example) -> Any:
    form = item.kind.form
    if form in {"tags", "spans"}:
        spans = spans_of(label, example.text, plain=form == "tags")
        return [{"start": start, "end": end, "label": name} for start, end, name in spans]
    if form == "answer":
        starts = [(answer["answer_start"], answer["text"]) for answer in label]
        return [{"start": start, "end": start + len(text), "label": "answer"} for start, text in starts]
    if form == "text":
        return label[0]
    return str(label) if form == "number" else label if form in {"class", "classes"} else json.dumps(label)


def _label(response: dict[str, Any], item: Item, example: Example, *, place: str) -> tuple[Any, int]:
    value = field(response, "value", (str, list, int, float), place)
    form = item.kind.form
    if form in {"tags", "spans", "answer"}:
        if not isinstance(value, list):
            raise ReadError(f"{place}: expected a list of spans")
        spans = [
            (field(s, "start", int, place), field(s, "end", int, place), field(s, "label", str, place)) for s in value
        ]
        if form != "answer":
            return tags_of(spans, example.text, plain=form == "tags", place=place)
        passage = "" if example.pair is None else example.pair.string
        return [{"text": passage[start:end], "answer_start": start} for start, end, _ in spans[:1]], 0
    if form == "text":
        return [value], 0
    if form in {"class", "classes"}:
        return value, 0
    try:
        return json.loads(value), 0
    except (TypeError, ValueError) as error:
        raise ReadError(f"{place}: cannot be a label: {value!r:.60}") from error
