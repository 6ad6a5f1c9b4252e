"""CoNLL-U, columns and JSON lines: what Palmette's own readers take for training, with the item's id beside it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from palmette.config import ColumnsSource, ConlluSource
from palmette.data.files import read_lines
from palmette.data.readers.columns import read_columns
from palmette.data.readers.conllu import read_conllu
from palmette.errors import ReadError, StoreError
from palmette.operate.review.exchange.base import Entry, Format, Said
from palmette.operate.review.queue import Item
from palmette.types import Record

_TAGGED = {"tags", "spans"}


class Jsonl(Format):
    """An object a line: text, text_pair, the task's label under its name, and where it comes from.

    Read by `{format: jsonl, text: text, text_pair: text_pair, labels: {TASK: TASK}}`.
    """

    which: ClassVar[Literal["checked", "all"]] = "checked"

    def write(self, entries: Sequence[Entry], path: Path) -> None:
        """A line an item."""
        with path.open("w", encoding="utf-8") as file:
            for entry in entries:
                item, text, pair = entry.item, entry.example.text, entry.example.pair
                words = item.kind.form in _TAGGED or text.raw is None
                row: dict[str, Any] = {"text": list(text.words) if words else text.string}
                if pair is not None:
                    row["text_pair"] = pair.string
                row |= {
                    item.task: entry.label,
                    "item": item.id,
                    "request_id": item.request_id,
                    "number": item.number,
                    "model": item.digest,
                    "why": item.why,
                    "confidence": item.confidence,
                    "reviewers": [reviewer for reviewer, _ in entry.answers],
                }
                file.write(json.dumps(row, ensure_ascii=False) + "\n")

    def read(self, path: Path, items: dict[int, Item]) -> Iterator[Said]:
        """A line an item; `reviewer` may say who labelled it."""
        task = next((item.task for item in items.values()), None)
        for number, line in read_lines(str(path)):
            if not line.strip():
                continue
            place = f"{path}:{number}"
            try:
                row = json.loads(line)
            except ValueError as error:
                raise ReadError(f"{place}: not JSON: {error}") from error
            if not isinstance(row, dict) or not isinstance(row.get("item"), int):
                raise ReadError(f"{place}: expected an object with the id of its item, found {line[:60]!r}")
            if task is not None and row.get(task) is not None:
                reviewer = row.get("reviewer")
                yield Said(row["item"], reviewer if isinstance(reviewer, str) else None, row[task], place)


class Conllu(Format):
    """CoNLL-U: tags under the task's name in MISC, a class in a comment, so that no column means what it should not.

    Read by `{format: conllu, labels: {TASK: misc.TASK}}`, or `comment.TASK` for classes.
    """

    which: ClassVar[Literal["checked", "all"]] = "checked"

    def write(self, entries: Sequence[Entry], path: Path) -> None:
        """A sentence an item."""
        with path.open("w", encoding="utf-8") as file:
            for entry in entries:
                file.write(_sentence(entry))

    def read(self, path: Path, items: dict[int, Item]) -> Iterator[Said]:
        """Sentences with the comment `item`."""
        if not items:
            return
        task, form = next((item.task, item.kind.form) for item in items.values())
        label = f"misc.{task}" if form in _TAGGED else f"comment.{task}"
        source = ConlluSource.model_validate({"format": "conllu", "train": str(path), "labels": {task: label}})
        yield from _said(read_conllu(source, str(path), fields=frozenset({"item", "reviewer"})), task)


class Columns(Format):
    """A word and its tag a line, with a tab between.

    Read by `{format: columns, text_column: 0, comments: true, labels: {TASK: 1}}`.
    """

    which: ClassVar[Literal["checked", "all"]] = "checked"

    def write(self, entries: Sequence[Entry], path: Path) -> None:
        """A sentence an item."""
        with path.open("w", encoding="utf-8") as file:
            for entry in entries:
                item = entry.item
                if item.kind.form not in _TAGGED:
                    raise StoreError(f"columns: for a tag a word; {item.task} is of {item.kind.config.kind}: use jsonl")
                lines = [f"# item = {item.id}"]
                for word, tag in zip(entry.example.text.words, entry.label, strict=True):
                    _plain(entry, word, tag)
                    lines.append(f"{word}\t{tag}")
                file.write("\n".join(lines) + "\n\n")

    def read(self, path: Path, items: dict[int, Item]) -> Iterator[Said]:
        """Sentences with the comment `item`."""
        if not items:
            return
        task = next(item.task for item in items.values())
        source = ColumnsSource.model_validate(
            {"format": "columns", "train": str(path), "labels": {task: 1}, "comments": True}
        )
        yield from _said(read_columns(source, str(path), fields=frozenset({"item", "reviewer"})), task)


def _said(records: Iterator[Record], task: str) -> Iterator[Said]:
    for record in records:
        number = record.meta.get("item", "")
        if not number.isdigit():
            raise ReadError(f"{record.origin}: the sentence has no comment `# item = NUMBER`")
        if task in record.labels:
            label = record.labels[task]
            found = list(label) if isinstance(label, tuple) else label
            yield Said(int(number), record.meta.get("reviewer"), found, str(record.origin))


def _sentence(entry: Entry) -> str:
    item, text = entry.item, entry.example.text
    form = item.kind.form
    if entry.example.pair is not None or form not in {*_TAGGED, "class"}:
        raise StoreError(
            f"conllu: for words and classes of one text; {item.task} is of {item.kind.config.kind}: use jsonl"
        )
    lines = [f"# sent_id = item-{item.id}", f"# text = {' '.join(text.string.split())}", f"# item = {item.id}"]
    if form == "class":
        lines.append(f"# {item.task} = {entry.label}")
    for number, word in enumerate(text.words):
        misc = []
        if form in _TAGGED:
            _plain(entry, word, entry.label[number])
            misc.append(f"{item.task}={entry.label[number]}")
        else:
            _plain(entry, word, "")
        if number + 1 < len(text.words) and text.spans[number][1] == text.spans[number + 1][0]:
            misc.append("SpaceAfter=No")
        columns = [str(number + 1), word, *"_" * 7, "|".join(misc) or "_"]
        lines.append("\t".join(columns))
    return "\n".join(lines) + "\n\n"


def _plain(entry: Entry, word: str, tag: str) -> None:
    """Refuse what would break lines, columns or MISC."""
    if any(character in word for character in "\t\n\r") or not word.strip() or any(c in tag for c in "\t\n\r| "):
        raise StoreError(f"item {entry.item.id}: the word {word!r} with the tag {tag!r} does not fit a line: use jsonl")
