"""Items out of the queue into files, and corrections made elsewhere back into it."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

from palmette.errors import StoreError
from palmette.kinds.base import LabelError
from palmette.operate.review.corrections import corrections, says
from palmette.operate.review.exchange import FORMATS, Entry
from palmette.operate.review.labels import holds_text, label_json, read_label
from palmette.operate.review.queue import Item, Queue
from palmette.types import Example

Which = Literal["checked", "waiting", "all"]


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written.

    Attributes:
        items: written.
        textless: left out, since their text is not kept, or no longer.
        disagreed: left out, since their reviewers disagree (of `checked`).
        waiting: left out, since they wait for another reviewer (of `checked`).
        unanswered: left out of formats for training: what the model wrote cannot be read, and nobody gave an answer.
    """

    items: int
    textless: int
    disagreed: int
    waiting: int
    unanswered: int


@dataclass(frozen=True, slots=True)
class Imported:
    """What was read.

    Attributes:
        taken: new decisions.
        known: decisions that the queue has already.
        unknown: of items that the queue does not have, or of another task.
        refused: labels that are none over their text, or that cannot be redacted, the first reason in `reason`.
        widened: spans that were widened to whole words.
    """

    taken: int
    known: int
    unknown: int
    refused: int
    widened: int
    reason: str | None


def export(queue: Queue, name: str, task: str, path: Path, *, now: datetime, which: Which | None = None) -> Exported:
    """Write the items of a task.

    Args:
        queue: where they are.
        name: of a format (`FORMATS`).
        task: whose.
        path: of the file.
        now: the time.
        which: checked (those on which people agree), waiting or all; by default what the format is for.

    Raises:
        StoreError: the task is unknown, the format cannot hold an item, or the file cannot be written.
    """
    if task not in (known := queue.kinds()):
        raise StoreError(f"no task {task!r} in the review queue; it has {', '.join(sorted(known)) or 'none'}")
    trained_on = FORMATS[name].which == "checked"  # the others are for annotation, and hold items without a label
    which = which or FORMATS[name].which
    items = queue.items(now=now, task=task)
    said = {item: list(group) for item, group in groupby(queue.decisions(task=task), lambda found: found.item)}
    agreed = corrections(queue.engine, now=now, tasks=[task])
    labels = {found.item: label_json(found.label) for found in agreed.examples}
    entries, textless, unanswered = [], 0, 0
    for item in items:
        wanted = {"checked": item.id in labels, "waiting": item.open, "all": True}[which]
        if item.example is None:
            textless += {"checked": item.id in said and not item.open, "waiting": item.open, "all": True}[which]
        elif wanted:
            label = labels.get(item.id, item.prediction)
            answers = tuple((found.reviewer, says(item, found)) for found in said.get(item.id, ()))
            if label is None and trained_on:
                unanswered += 1
            else:
                entries.append(Entry(item, label, answers))
    try:
        FORMATS[name].write(entries, path)
    except OSError as error:
        raise StoreError(f"{path}: cannot be written: {error.strerror}") from error
    disagreed, waiting = (
        (found.get(task, 0) if which == "checked" else 0) for found in (agreed.disagreed, agreed.waiting)
    )
    return Exported(len(entries), int(textless), disagreed, waiting, unanswered)


def bring_back(queue: Queue, name: str, task: str, path: Path, *, reviewer: str, now: datetime) -> Imported:
    """Take corrections that were made elsewhere into the queue; what it has already is not taken twice.

    Args:
        queue: where the items are.
        name: of a format (`FORMATS`).
        task: whose.
        path: of the file.
        reviewer: who said it, where the file does not tell.
        now: the time.

    Raises:
        ReadError: the file is not of the format.
        StoreError: its labels may repeat text that the server redacts, and the queue's rules have no redaction.
    """
    items: dict[int, Item] = {item.id: item for item in queue.items(now=now, task=task)}
    if queue.rules.redact is None and any(item.redacted and holds_text(item.kind) for item in items.values()):
        raise StoreError(
            f"the texts of {task} went through the server's redaction, and its labels may repeat them: give the same "
            "one with --redact (the server's review.redact)"
        )
    standing: dict[tuple[int, str], Any] = {
        (found.item, found.reviewer): says(items[found.item], found) for found in queue.decisions(task=task)
    }
    counts: dict[str, int] = defaultdict(int)
    reason = None
    for said in FORMATS[name].read(path, items):
        item, who = items.get(said.item), said.reviewer or reviewer
        if said.fault is not None:
            counts["refused"] += 1
            reason = reason or said.fault
            continue
        counts["widened"] += said.widened
        if item is None or item.example is None:
            counts["unknown"] += 1
            continue
        try:
            label, kept = _labels(queue, item, item.example, said.label)
        except LabelError as error:
            counts["refused"] += 1
            reason = reason or f"{said.place}: {error}"
            continue
        if (said.item, who) in standing and standing[said.item, who] == kept:
            counts["known"] += 1
            continue
        queue.decide(said.item, who, "corrected", label=label, now=now)
        standing[said.item, who] = kept
        counts["taken"] += 1
    return Imported(
        taken=counts["taken"],
        known=counts["known"],
        unknown=counts["unknown"],
        refused=counts["refused"],
        widened=counts["widened"],
        reason=reason,
    )


def _labels(queue: Queue, item: Item, example: Example, said: Any) -> tuple[Any, Any]:
    """A label as JSON: as the file has it, and as the queue keeps it.

    Raises:
        LabelError: it is none over the text, or cannot be redacted.
    """
    label = read_label(said, item.kind, example)
    if (kept := queue.redacted(label, item)) is None:
        raise LabelError("the redaction cannot be applied to it")
    return label_json(label), label_json(kept)
