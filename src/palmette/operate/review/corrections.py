"""What people agree on, as labelled examples: what a model is trained on next (`palmette update`)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from typing import Any

from sqlalchemy import Engine

from palmette.kinds.base import LabelError
from palmette.operate.review.labels import label_json, read_label
from palmette.operate.review.queue import Decision, Item, Queue
from palmette.types import Example, Label


@dataclass(frozen=True, slots=True)
class Corrected:
    """An answer that people have checked.

    Attributes:
        example: the text, with the task's label.
        task: the task.
        label: what its reviewers say, which may be what the model said.
        changed: whether that differs from what the model said; None where nobody knows any more what it said.
        item, request_id, number, digest, why: where it comes from (`palmette.operate.review.queue.Item`).
        reviewers: who said so.
        decided: when the last of them did.
    """

    example: Example
    task: str
    label: Label
    changed: bool | None
    item: int
    request_id: str
    number: int
    digest: str
    why: str
    reviewers: tuple[str, ...]
    decided: datetime


@dataclass(frozen=True)
class Corrections:
    """Checked answers, and how many of each task could not be taken.

    Attributes:
        examples: in the order of the queue.
        disagreed: items whose reviewers do not agree.
        textless: items whose text (or label) is not kept, or no longer.
        unreadable: items whose label is no longer one of their kind.
        waiting: items that somebody judged and that wait for another.
    """

    examples: list[Corrected]
    disagreed: dict[str, int]
    textless: dict[str, int]
    unreadable: dict[str, int]
    waiting: dict[str, int]


# Why items are left out, in words, by the field that counts them.
LEFT_OUT = {
    "disagreed": "their reviewers disagree",
    "textless": "their text is not kept",
    "unreadable": "their label is none of the task's kind",
    "waiting": "they wait for another reviewer",
}


def corrections(
    engine: Engine, *, now: datetime, tasks: Collection[str] | None = None, since: datetime | None = None
) -> Corrections:
    """Labels that people gave or confirmed, without the items on which they disagree or that wait for another voice.

    Args:
        engine: of `palmette.store.open_store`.
        now: texts that have expired by then are left out, and counted.
        tasks: only these.
        since: only items that were decided later.
    """
    queue = Queue(engine)
    items = {item.id: item for item in queue.items(now=now)}
    found: list[Corrected] = []
    left: dict[str, Counter[str]] = {name: Counter() for name in LEFT_OUT}
    for identity, group in groupby(queue.decisions(), lambda decision: decision.item):
        said = list(group)
        item = items.get(identity)
        if item is None or (tasks is not None and item.task not in tasks):
            continue
        if since is not None and max(decision.created for decision in said) <= since:
            continue
        outcome = _agreed(item, said)
        if isinstance(outcome, str):
            left[outcome][item.task] += 1
        else:
            found.append(outcome)
    return Corrections(found, **{name: dict(counts) for name, counts in left.items()})


def says(item: Item, decision: Decision) -> Any:
    """The label, as JSON, that a decision stands for; None where it is not kept."""
    return item.prediction if decision.verdict == "right" else decision.label


def _agreed(item: Item, said: Sequence[Decision]) -> Corrected | str:
    if item.open:
        return "waiting"
    labels = [says(item, decision) for decision in said]
    if any(label != labels[0] for label in labels):
        return "disagreed"
    if item.example is None or labels[0] is None:
        return "textless"
    try:
        label = read_label(labels[0], item.kind, item.example)
    except LabelError:
        return "unreadable"
    example = Example(item.example.text, {item.task: label}, pair=item.example.pair, sources=("review",))
    return Corrected(
        example=example,
        task=item.task,
        label=label,
        changed=None if item.prediction is None else label_json(label) != item.prediction,
        item=item.id,
        request_id=item.request_id,
        number=item.number,
        digest=item.digest,
        why=item.why,
        reviewers=tuple(decision.reviewer for decision in said),
        decided=max(decision.created for decision in said),
    )
