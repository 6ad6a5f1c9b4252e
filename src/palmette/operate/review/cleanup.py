"""Clean-up rate: how many answers that went out without a person were corrected afterwards, and by how much."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

import sqlalchemy as sa

from palmette.operate.review.queue import Decision, Queue
from palmette.operate.review.tables import CountRow, ItemRow


@dataclass(frozen=True, slots=True)
class CleanUp:
    """Of a task and a version.

    Attributes:
        task, digest: whose.
        answers: that went out without a person.
        corrected: of them, known to be wrong since somebody corrected them.
        rate: corrected / answers, at most 1; a lower bound, since nobody looks at every answer. None without answers.
        changed, units: of the corrected ones, how much was changed, of how much (`Kind.compare`).
        audited: answers of the random audit that somebody judged.
        audited_corrected: of them, corrected.
        estimate: share of wrong answers among all, from the audit: (low, middle, high), Wilson's 95 % interval; None
            without an audited answer.
        last: when the last correction was made.
    """

    task: str
    digest: str
    answers: int
    corrected: int
    rate: float | None
    changed: int
    units: int
    audited: int
    audited_corrected: int
    estimate: tuple[float, float, float] | None
    last: datetime | None


@dataclass(slots=True)
class _Tally:
    corrected: int = 0
    changed: float = 0.0
    units: float = 0.0
    audited: int = 0
    audited_corrected: int = 0
    last: datetime | None = field(default=None)


def clean_up(queue: Queue) -> list[CleanUp]:
    """Of every task and version that answered or was corrected, by name.

    An answer is corrected when most of its reviewers changed it; the size of a correction is their mean. It is one
    answer although it may be several items, as of the audit and of a disagreement.
    """
    with queue.engine.connect() as connection:
        counts = sa.select(CountRow.task, CountRow.digest, sa.func.sum(CountRow.answers)).group_by(
            CountRow.task, CountRow.digest
        )
        answers = {(task, digest): int(count) for task, digest, count in connection.execute(counts)}
        columns = (ItemRow.id, ItemRow.request_id, ItemRow.number, ItemRow.task, ItemRow.digest, ItemRow.why)
        items = {row.id: row for row in connection.execute(sa.select(*columns).where(ItemRow.automatic))}
    said: dict[tuple[str, str, str, int], dict[str, Decision]] = defaultdict(dict)  # {answer: {reviewer: last word}}
    audited = set()
    for decision in sorted(queue.decisions(), key=lambda decision: decision.created):
        if (item := items.get(decision.item)) is not None:
            answer = (item.task, item.digest, item.request_id, item.number)
            said[answer][decision.reviewer] = decision
            if item.why == "audit":
                audited.add(answer)
    tallies: dict[tuple[str, str], _Tally] = defaultdict(_Tally)
    for answer, words in said.items():
        _add(tallies[answer[:2]], list(words.values()), audited=answer in audited)
    return [_result(key, answers.get(key, 0), tallies[key]) for key in sorted({*answers, *tallies})]


def _add(tally: _Tally, said: Sequence[Decision], *, audited: bool) -> None:
    corrections = [decision for decision in said if decision.verdict == "corrected"]
    corrected = 2 * len(corrections) > len(said)
    if corrected:
        tally.corrected += 1
        tally.changed += sum(decision.changed for decision in corrections) / len(corrections)
        tally.units += sum(decision.units for decision in corrections) / len(corrections)
        moments = [decision.created for decision in corrections]
        tally.last = max([*moments, tally.last] if tally.last is not None else moments)
    if audited:
        tally.audited += 1
        tally.audited_corrected += corrected


def _result(key: tuple[str, str], answers: int, tally: _Tally) -> CleanUp:
    estimate = None
    if tally.audited:
        low, high = wilson(tally.audited_corrected, tally.audited)
        estimate = (low, tally.audited_corrected / tally.audited, high)
    return CleanUp(
        task=key[0],
        digest=key[1],
        answers=answers,
        corrected=tally.corrected,
        # A reported answer may have been an uncertain one that found the queue full: it is not among `answers`.
        rate=min(1.0, tally.corrected / answers) if answers else None,
        changed=round(tally.changed),
        units=round(tally.units),
        audited=tally.audited,
        audited_corrected=tally.audited_corrected,
        estimate=estimate,
        last=tally.last,
    )


def wilson(successes: int, trials: int, *, z: float = 1.959964) -> tuple[float, float]:
    """An interval for a share (Wilson 1927), 95 % unless z says otherwise; [0, 1] where nothing was tried."""
    if not trials:
        return 0.0, 1.0
    share = successes / trials
    middle = share + z * z / (2 * trials)
    half = z * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    scale = 1 + z * z / trials
    return max(0.0, (middle - half) / scale), min(1.0, (middle + half) / scale)
