"""Labels and examples as JSON, in the forms that people edit and that Palmette's readers take."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from palmette.config import TaskConfig
from palmette.errors import PalmetteError, StoreError
from palmette.kinds import AnyKind, find_kind
from palmette.kinds.base import LabelError, RawLabel
from palmette.types import Answer, Example, Label, Text
from palmette.words import well_formed

Json = Any

# Forms whose labels repeat text of the caller, or may do so.
_WITH_TEXT = frozenset({"answer", "text", "json"})


def holds_text(kind: AnyKind) -> bool:
    """Whether labels of the kind repeat text, so that they are kept only where texts are."""
    return kind.form in _WITH_TEXT


def label_json(label: Label) -> Json:
    """A label as JSON: sets as sorted lists, answers as SQuAD has them."""
    if isinstance(label, frozenset):
        return sorted(label)
    if isinstance(label, tuple):
        return [{"text": part.text, "answer_start": part.start} if isinstance(part, Answer) else part for part in label]
    return label


def read_label(value: Json, kind: AnyKind, example: Example) -> Label:
    """The label that JSON stands for, checked as a label of the kind over the example.

    Raises:
        LabelError: it is none.
    """
    label: Label = kind.parse(_raw(value), kind.config, example)
    return label


def _raw(value: Json) -> RawLabel:
    if isinstance(value, bool) or not isinstance(value, str | int | float | list):
        raise LabelError(f"cannot be a label: {value!r}"[:100])
    if isinstance(value, str):
        return well_formed(value)
    if not isinstance(value, list):
        return float(value)
    if all(isinstance(part, str) for part in value):
        return tuple(map(well_formed, value))
    return tuple(_answer(part) for part in value)


def _answer(value: Json) -> Answer:
    if isinstance(value, Mapping) and set(value) == {"text", "answer_start"}:
        text, start = value["text"], value["answer_start"]
        if isinstance(text, str) and isinstance(start, int) and not isinstance(start, bool):
            return Answer(start, well_formed(text))
    raise LabelError(f"expected text and answer_start (a character's place in the passage), found {value!r}"[:200])


def example_json(example: Example) -> dict[str, Json]:
    """The texts of an example."""
    return {
        "text": _text_json(example.text),
        "pair": None if example.pair is None else _text_json(example.pair),
    }


def read_example(value: Mapping[str, Json]) -> Example:
    """The example that `example_json` wrote."""
    pair = value["pair"]
    return Example(_read_text(value["text"]), {}, pair=None if pair is None else _read_text(pair))


def blank_example(words: int, *, paired: bool) -> Example:
    """What is known of an example whose text is not kept: how many words it has."""
    return Example(Text(("",) * words), {}, pair=Text(()) if paired else None)


def _text_json(text: Text) -> dict[str, Json]:
    return {
        "words": list(text.words),
        "raw": text.raw,
        "offsets": None if text.offsets is None else [list(span) for span in text.offsets],
    }


def _read_text(value: Mapping[str, Json]) -> Text:
    offsets = value["offsets"]
    return Text(
        tuple(value["words"]),
        value["raw"],
        None if offsets is None else tuple((start, stop) for start, stop in offsets),
    )


def declaration(kind: AnyKind) -> dict[str, Json]:
    """What the user declared of a task, as JSON."""
    return kind.config.model_dump(mode="json")


def read_kind(task: str, declared: Mapping[str, Json], state: Mapping[str, Json]) -> AnyKind:
    """The kind of a task that a model had.

    Raises:
        StoreError: it is of a kind that another package brings, which is not here.
    """
    try:
        config = TaskConfig.model_validate(declared)
        return find_kind(config.kind)(task, config, state)
    except (PalmetteError, ValidationError, KeyError, ValueError) as error:
        raise StoreError(f"task {task}: its kind cannot be made again: {error}") from error
