"""How far reviewers agree, beyond what chance would bring."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import combinations, groupby

import numpy as np

from palmette.kinds.base import LabelError
from palmette.operate.review.corrections import says
from palmette.operate.review.labels import blank_example, holds_text, read_label
from palmette.operate.review.queue import Decision, Item, Queue


@dataclass(frozen=True, slots=True)
class Agreement:
    """Of two people on a task.

    Attributes:
        task: the task.
        reviewers: the two.
        items: that both have judged.
        units: of those items (`Kind.compare`: words of tags, yes or no of classes, …).
        agreed: share of the units on which they say the same, in [0, 1].
        kappa: Cohen's, at most 1; None where both always say the same one thing, and it is not defined.
    """

    task: str
    reviewers: tuple[str, str]
    items: int
    units: int
    agreed: float
    kappa: float | None


def cohens_kappa(pairs: Sequence[tuple[str, str]]) -> float | None:
    """Agreement of two raters beyond chance: (observed - expected) / (1 - expected) (Cohen 1960).

    Args:
        pairs: what both say of each unit.

    Returns:
        At most 1, 0 for what chance would bring; None where chance alone would agree on everything, or without a unit.
    """
    categories = sorted({said for pair in pairs for said in pair})
    number = {category: place for place, category in enumerate(categories)}
    table = np.zeros((len(categories), len(categories)))  # [first, second]
    for first, second in pairs:
        table[number[first], number[second]] += 1
    if not pairs or len(categories) == 1:
        return None
    table /= table.sum()
    expected = float(table.sum(axis=1) @ table.sum(axis=0))
    return float((np.trace(table) - expected) / (1 - expected))


def agreement(queue: Queue, *, now: datetime) -> list[Agreement]:
    """Of every two people who have judged the same items of a task, by task and names."""
    items = {item.id: item for item in queue.items(now=now)}
    units: dict[tuple[str, str, str], list[tuple[str, str]]] = defaultdict(list)
    judged: dict[tuple[str, str, str], int] = defaultdict(int)
    for identity, group in groupby(queue.decisions(), lambda decision: decision.item):
        if (item := items.get(identity)) is None:
            continue
        for one, other in combinations(sorted(group, key=lambda decision: decision.reviewer), 2):
            if (pairs := _compare(item, one, other)) is not None:
                key = (item.task, one.reviewer, other.reviewer)
                units[key] += pairs
                judged[key] += 1
    return [
        Agreement(
            task,
            (one, other),
            judged[task, one, other],
            len(pairs),
            sum(first == second for first, second in pairs) / len(pairs) if pairs else math.nan,
            cohens_kappa(pairs),
        )
        for (task, one, other), pairs in sorted(units.items())
    ]


def _compare(item: Item, one: Decision, other: Decision) -> list[tuple[str, str]] | None:
    """What the two say, unit by unit; None where it is no longer known."""
    labels = [says(item, decision) for decision in (one, other)]
    if any(label is None for label in labels) or (holds_text(item.kind) and item.example is None):
        return None
    example = item.example or blank_example(item.words, paired=item.paired)
    try:
        return item.kind.compare(*(read_label(label, item.kind, example) for label in labels))
    except LabelError:
        return None
