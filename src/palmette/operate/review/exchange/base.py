"""What the formats share: an item with what was said of it, and spans of characters for tags of words."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from palmette.errors import ReadError
from palmette.kinds.sequence_labeling import read_spans, write_iob2
from palmette.operate.review.queue import Item
from palmette.types import Example, Text

Json = Any


@dataclass(frozen=True, slots=True)
class Entry:
    """An item to write.

    Attributes:
        item: with its text.
        label: what to write as its label, as JSON: what people agree on, else what the model said; None: nothing.
        answers: (reviewer, label as JSON) of each who judged it.
    """

    item: Item
    label: Json
    answers: tuple[tuple[str, Json], ...]

    @property
    def example(self) -> Example:
        """Its text; entries are made of items whose text is kept."""
        if self.item.example is None:
            raise ValueError(f"item {self.item.id} has no text")
        return self.item.example


@dataclass(frozen=True, slots=True)
class Said:
    """What a file says of an item.

    Attributes:
        item: its id.
        reviewer: who says it; None where the file does not tell.
        label: as JSON.
        widened: spans that began or ended inside a word, and were widened to whole words.
        place: where in the file, for messages.
        fault: why it is no label; None where it may be one.
    """

    item: int
    reviewer: str | None
    label: Json
    place: str
    widened: int = 0
    fault: str | None = None


class Format(ABC):
    """A file format.

    Attributes:
        which: what is written unless asked otherwise: items that people agree on, or all.
    """

    which: ClassVar[Literal["checked", "all"]]

    @abstractmethod
    def write(self, entries: Sequence[Entry], path: Path) -> None:
        """Write items of one task.

        Raises:
            StoreError: the format cannot hold one of them.
        """

    @abstractmethod
    def read(self, path: Path, items: dict[int, Item]) -> Iterator[Said]:
        """What a file says of the items that it names, in its order.

        Args:
            path: of the file.
            items: those of the task, by id, with their texts.

        Raises:
            ReadError: the file is not of the format.
        """


def read_said(
    item: Item | None,
    identity: int,
    reviewer: str | None,
    place: str,
    label: Callable[[Item, Example], tuple[Json, int]],
) -> Said:
    """What an annotation says; one that cannot be read is a fault of its own, and the others are taken.

    Args:
        item: that it is of; None where the queue has none.
        identity: the item's id.
        reviewer: who says it.
        place: where in the file.
        label: reads the label over the item's text, and how many spans were widened.
    """
    if item is None or item.example is None:
        return Said(identity, reviewer, None, place)
    try:
        found, widened = label(item, item.example)
    except ReadError as error:
        return Said(identity, reviewer, None, place, fault=str(error))
    return Said(identity, reviewer, found, place, widened)


def spans_of(tags: Sequence[str], text: Text, *, plain: bool) -> list[tuple[int, int, str]]:
    """Characters [start, end) and label: of each span, or with `plain` tags of each word."""
    places = text.spans
    if plain:
        return [(start, end, tag) for (start, end), tag in zip(places, tags, strict=True)]
    return [(places[first][0], places[last - 1][1], kind) for first, last, kind in read_spans(tags, "iob2")]


def tags_of(spans: Sequence[tuple[int, int, str]], text: Text, *, plain: bool, place: str) -> tuple[list[str], int]:
    """Tags of a text's words, and how many spans were widened to whole words.

    Raises:
        ReadError: spans overlap, lie outside the text, or leave a word without its plain tag.
    """
    found: list[tuple[int, int, str]] = []
    widened = 0
    for start, end, label in sorted(spans):
        inside = [n for n, (low, high) in enumerate(text.spans) if low < end and high > start]
        if not inside:
            raise ReadError(f"{place}: no word of the text stands at characters {start} to {end}")
        first, last = inside[0], inside[-1] + 1
        widened += (text.spans[first][0], text.spans[last - 1][1]) != (start, end)
        if found and found[-1][1] > first:
            raise ReadError(f"{place}: two spans share the word {text.words[first]!r}")
        found.append((first, last, label))
    if not plain:
        return list(write_iob2(found, len(text.words))), widened
    tags: list[str | None] = [None] * len(text.words)
    for first, last, label in found:
        tags[first:last] = [label] * (last - first)
    missing = [word for word, tag in zip(text.words, tags, strict=True) if tag is None]
    if missing:
        raise ReadError(f"{place}: the word {missing[0]!r} has no tag")
    return [tag for tag in tags if tag is not None], widened


def field(value: Json, key: str, kind: type | tuple[type, ...], place: str) -> Json:
    """The value under a key of an object.

    Raises:
        ReadError: it is not there, or of another type.
    """
    found = value.get(key) if isinstance(value, dict) else None
    if not isinstance(found, kind) or isinstance(found, bool):
        raise ReadError(f"{place}: expected {key!r}, found {value!r:.80}")
    return found
