"""Label Studio: a JSON list of tasks, as its export "JSON" writes and its import reads them.

The labelling configuration stands beside the file, with the ending .xml: `Labels` for tags, spans and answers,
`Choices` for classes, `TextArea` for texts, `Number` for numbers; the control is named like the task.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal
from xml.sax.saxutils import quoteattr

from palmette.errors import ReadError
from palmette.operate.review.exchange.base import Entry, Format, Said, field, read_said, spans_of, tags_of
from palmette.operate.review.queue import Item
from palmette.types import Example

_TYPES = {
    "tags": "labels",
    "spans": "labels",
    "answer": "labels",
    "class": "choices",
    "classes": "choices",
    "number": "number",
}


class LabelStudio(Format):
    """The model's answer is a prediction; each reviewer's is an annotation."""

    which: ClassVar[Literal["checked", "all"]] = "all"

    def write(self, entries: Sequence[Entry], path: Path) -> None:
        """All tasks in a list, and the labelling configuration beside it."""
        path.write_text(json.dumps([_task(entry) for entry in entries], ensure_ascii=False, indent=1), "utf-8")
        if entries:
            path.with_suffix(".xml").write_text(_configuration(entries), "utf-8")

    def read(self, path: Path, items: dict[int, Item]) -> Iterator[Said]:
        """The annotations of every task; cancelled ones are none."""
        try:
            tasks = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ReadError(f"{path}: not JSON that can be read: {error}") from error
        if not isinstance(tasks, list):
            raise ReadError(f"{path}: expected a list of tasks")
        for number, task in enumerate(tasks):
            place = f"{path}: task {number}"
            identity = field(field(task, "data", dict, place), "item", int, place)
            item = items.get(identity)
            for annotation in field(task, "annotations", list, place):
                if not isinstance(annotation, dict):
                    raise ReadError(f"{place}: expected annotations, found {annotation!r:.80}")
                if not annotation.get("was_cancelled"):
                    read = partial(_label, annotation, place=place)
                    yield read_said(item, identity, _reviewer(annotation.get("completed_by")), place, read)


def _reviewer(by: Any) -> str | None:
    """Label Studio has a number there, or an object with an address."""
    if isinstance(by, dict):
        by = by.get("email") or by.get("id")
    return None if by is None else str(by)


def _task(entry: Entry) -> dict[str, Any]:
    item, example = entry.item, entry.example
    data = {"text": example.text.string, "item": item.id, "task": item.task, "why": item.why}
    if example.pair is not None:
        data["text_pair"] = example.pair.string
    predictions = []
    if item.prediction is not None:
        result = _result(item.prediction, item, example)
        predictions.append({"model_version": item.digest, "score": item.confidence, "result": result})
    annotations = [
        {"completed_by": {"email": name}, "was_cancelled": False, "result": _result(label, item, example)}
        for name, label in entry.answers
        if label is not None
    ]
    return {"data": data, "annotations": annotations, "predictions": predictions}


def _result(label: Any, item: Item, example: Example) -> list[dict[str, Any]]:
    form = item.kind.form
    kind = _TYPES.get(form, "textarea")
    to = "text_pair" if form == "answer" else "text"
    values: list[dict[str, Any]]
    if form in {"tags", "spans"}:
        text = example.text.string
        spans = spans_of(label, example.text, plain=form == "tags")
        values = [{"start": a, "end": b, "text": text[a:b], "labels": [name]} for a, b, name in spans]
    elif form == "answer":
        starts = [(answer["answer_start"], answer["text"]) for answer in label]
        values = [{"start": a, "end": a + len(text), "text": text, "labels": ["answer"]} for a, text in starts]
    elif kind == "choices":
        values = [{"choices": [label] if form == "class" else label}]
    elif form == "number":
        values = [{"number": label}]
    else:
        values = [{"text": [label[0] if form == "text" else json.dumps(label)]}]
    return [
        {"id": f"r{place}", "from_name": item.task, "to_name": to, "type": kind, "value": value}
        for place, value in enumerate(values)
    ]


def _label(annotation: dict[str, Any], item: Item, example: Example, *, place: str) -> tuple[Any, int]:
    result = field(annotation, "result", list, place)
    form = item.kind.form
    kind = _TYPES.get(form, "textarea")
    values = [
        field(part, "value", dict, place)
        for part in result
        if field(part, "type", str, place) == kind and part.get("from_name") == item.task
    ]
    if kind == "labels":
        spans = [
            (field(v, "start", int, place), field(v, "end", int, place), _only(field(v, "labels", list, place), place))
            for v in values
        ]
        if form != "answer":
            return tags_of(spans, example.text, plain=form == "tags", place=place)
        passage = "" if example.pair is None else example.pair.string
        return [{"text": passage[start:end], "answer_start": start} for start, end, _ in spans[:1]], 0
    if form == "classes":
        return (field(values[0], "choices", list, place) if values else []), 0
    if not values:
        raise ReadError(f"{place}: an annotation without a {kind} of {item.task!r}")
    if form == "class":
        return _only(field(values[0], "choices", list, place), place), 0
    if form == "number":
        return field(values[0], "number", (int, float), place), 0
    written = field(values[0], "text", (list, str), place)
    first = written if isinstance(written, str) else "\n".join(map(str, written))
    if form == "text":
        return [first], 0
    try:
        return json.loads(first), 0
    except ValueError as error:
        raise ReadError(f"{place}: cannot be a label: {first!r:.60}") from error


def _only(chosen: list[Any], place: str) -> str:
    if not chosen or not isinstance(chosen[0], str):
        raise ReadError(f"{place}: expected a label, found {chosen!r:.60}")
    return chosen[0]


def _configuration(entries: Sequence[Entry]) -> str:
    """The labelling interface, in Label Studio's tags."""
    item = entries[0].item
    form, task = item.kind.form, quoteattr(item.task)
    paired = entries[0].example.pair is not None
    texts = ['  <Text name="text" value="$text"/>'] + (
        ['  <Text name="text_pair" value="$text_pair"/>'] if paired else []
    )
    labels = sorted({label[2:] if form == "spans" else label for label in item.kind.labels if label != "O"})
    if form == "answer":
        labels = ["answer"]
    to = '"text_pair"' if form == "answer" else '"text"'
    kind = _TYPES.get(form, "textarea")
    if kind == "labels":
        control = [f"  <Labels name={task} toName={to}>"]
        control += [f"    <Label value={quoteattr(label)}/>" for label in labels] + ["  </Labels>"]
    elif kind == "choices":
        control = [f'  <Choices name={task} toName={to} choice="{"single" if form == "class" else "multiple"}">']
        control += [f"    <Choice value={quoteattr(label)}/>" for label in labels] + ["  </Choices>"]
    else:
        control = [f"  <{'Number' if kind == 'number' else 'TextArea'} name={task} toName={to}/>"]
    return "\n".join(["<View>", *texts, *control, "</View>"]) + "\n"
