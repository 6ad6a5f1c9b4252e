"""The queue of answers that people check, in a database. A decision that was taken is on disk when it returns."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import OperationalError

from palmette.errors import StoreError
from palmette.kinds import AnyKind
from palmette.kinds.base import LabelError
from palmette.operate.review.labels import (
    blank_example,
    declaration,
    example_json,
    holds_text,
    label_json,
    read_example,
    read_kind,
    read_label,
)
from palmette.operate.review.redaction import Redact, redact_example, redact_label
from palmette.operate.review.tables import CountRow, DecisionRow, ItemRow, LeaseRow, TaskRow, TextRow
from palmette.types import Example, Label

Why = Literal["low_confidence", "unreadable", "disagreement", "audit", "reported"]
Verdict = Literal["right", "corrected", "skipped", "withdrawn"]
VERDICTS: tuple[Verdict, ...] = ("right", "corrected", "skipped", "withdrawn")

# The last decision of each reviewer is the one that counts.
_latest = (
    sa.select(sa.func.max(DecisionRow.id).label("id"))
    .group_by(DecisionRow.item_id, DecisionRow.reviewer)
    .subquery("latest")
)
STANDING = sa.select(DecisionRow).join(_latest, DecisionRow.id == _latest.c.id)


class NoItemError(StoreError):
    """The queue has no such item, or no longer."""

    def __init__(self, identity: int) -> None:
        super().__init__(f"no item {identity} in the review queue")


@dataclass(frozen=True, slots=True)
class Candidate:
    """An answer that people are to check.

    Attributes:
        request_id, number: the request, and the text's place in it from 0.
        task, kind, digest: which task of which model answered.
        example: the text.
        prediction: the answer; None where what the model wrote cannot be read.
        confidence: in [0, 1]; None where the kind has none.
        why: why people are to check it.
        automatic: whether the answer went out without a person.
        candidate: what another model answered, where the two disagree.
    """

    request_id: str
    number: int
    task: str
    kind: AnyKind
    digest: str
    example: Example
    prediction: Label | None
    confidence: float | None
    why: Why
    automatic: bool
    candidate: Label | None = None


@dataclass(frozen=True, slots=True)
class Item:
    """An answer in the queue.

    Attributes:
        id: names it.
        created: when it was put in.
        request_id, number, task, digest, confidence, why, automatic: see `Candidate`.
        kind: of the task.
        words: of the text.
        paired: whether it is a pair.
        example: the text; None where it is not kept, or no longer.
        prediction, candidate: answers as JSON; None where they repeat text that is not kept, or cannot be read.
        open: whether it still waits for people.
        reviewers: how many it needs; None where that was not written down.
        redacted: whether its text went through a redaction; False where none is kept.
    """

    id: int
    created: datetime
    request_id: str
    number: int
    task: str
    kind: AnyKind
    digest: str
    words: int
    paired: bool
    example: Example | None
    prediction: Any
    candidate: Any
    confidence: float | None
    why: Why
    automatic: bool
    open: bool
    reviewers: int | None
    redacted: bool


@dataclass(frozen=True, slots=True)
class Decision:
    """What a reviewer said of an item.

    Attributes:
        verdict: right (the answer as it is), corrected, skipped, or withdrawn (as if nothing had been said).
        label: of a correction, as JSON; None where it repeats text that is not kept.
        changed, units: how much of the answer the reviewer changed, of how much (`Kind.compare`).
    """

    item: int
    reviewer: str
    verdict: Verdict
    label: Any
    changed: int
    units: int
    created: datetime


@dataclass(frozen=True)
class Rules:
    """How a queue is kept.

    Attributes:
        capacity: most items of a task that wait.
        reviewers: how many people look at each item that is put in.
        keep: how long texts are kept; None: they are not.
        redact: replaces words before a text is kept.
        lease: how long an item that a reviewer was given is not given to others.
    """

    capacity: int = 1000
    reviewers: int = 1
    keep: timedelta | None = None
    redact: Redact | None = None
    lease: timedelta = timedelta(minutes=10)


class Queue:
    """Answers that people check.

    Args:
        engine: of `palmette.store.open_store`.
        rules: how it is kept.
    """

    def __init__(self, engine: Engine, rules: Rules | None = None) -> None:
        self.engine = engine
        self.rules = rules or Rules()
        self._kinds: dict[tuple[str, str], AnyKind] = {}
        # Rows were deleted that may still be in the files. A process before this one may have died in between.
        self._owes_erasure = True
        self._erasing = threading.Lock()

    # --- In ---------------------------------------------------------------------------------------------------------

    def know(self, kinds: Mapping[str, AnyKind], digest: str, *, now: datetime) -> None:
        """Remember the tasks of a model, so that labels can be checked when it has gone."""
        with self.engine.begin() as connection:
            for task, kind in kinds.items():
                self._kinds[task, digest] = kind
                row = {"declared": declaration(kind), "state": kind.state, "seen": now}
                _insert_or(connection, TaskRow, {"task": task, "digest": digest}, row, row)

    def add(self, candidates: Sequence[Candidate], *, now: datetime) -> tuple[list[int], list[Candidate], list[str]]:
        """Put answers into the queue.

        A model's tasks must be known (`know`).

        Returns:
            The ids of the new items; what found no room; and why texts of some are not kept (what redaction failed at).
        """
        ids: list[int] = []
        dropped: list[Candidate] = []
        problems: list[str] = []
        with self.engine.begin() as connection:
            room = self._room(connection, {candidate.task for candidate in candidates})
            for candidate in candidates:
                if candidate.why != "reported":  # what a person reports needs no further person
                    if room[candidate.task] <= 0:
                        dropped.append(candidate)
                        continue
                    room[candidate.task] -= 1
                ids.append(self._insert(connection, candidate, now, problems))
        return ids, dropped, problems

    def _room(self, connection: Connection, tasks: set[str]) -> dict[str, int]:
        query = sa.select(ItemRow.task, sa.func.count()).where(ItemRow.open, ItemRow.task.in_(tasks))
        waiting = {row[0]: row[1] for row in connection.execute(query.group_by(ItemRow.task))}
        return {task: self.rules.capacity - waiting.get(task, 0) for task in tasks}

    def _insert(self, connection: Connection, given: Candidate, now: datetime, problems: list[str]) -> int:
        kept = None
        if self.rules.keep is not None:
            try:
                kept = self._redacted(given)
            except StoreError as error:
                problems.append(str(error))
        with_text = holds_text(given.kind)
        row = {
            "created": now,
            "request_id": given.request_id,
            "number": given.number,
            "task": given.task,
            "digest": given.digest,
            "words": len(given.example.text.words),
            "paired": given.example.pair is not None,
            "prediction": None if with_text else _json(given.prediction),
            "candidate": None if with_text else _json(given.candidate),
            "confidence": given.confidence,
            "why": given.why,
            "automatic": given.automatic,
            "open": given.why != "reported",
            "reviewers": 1 if given.why == "reported" else self.rules.reviewers,
        }
        identity = int(connection.execute(sa.insert(ItemRow).values(row).returning(ItemRow.id)).scalar_one())
        if kept is not None and self.rules.keep is not None:
            example, answers = kept
            text = {
                "item_id": identity,
                "example": example_json(example),
                "expires": now + self.rules.keep,
                "redacted": self.rules.redact is not None,
            }
            if with_text:
                text |= {key: _json(found) for key, found in answers.items()}
            connection.execute(sa.insert(TextRow).values(text))
        return identity

    def _redacted(self, given: Candidate) -> tuple[Example, dict[str, Label | None]]:
        answers = {"prediction": given.prediction, "candidate": given.candidate}
        if self.rules.redact is None:
            return given.example, answers
        example = redact_example(given.example, self.rules.redact)
        return example, {
            key: None if label is None else redact_label(label, given.kind, given.example, example, self.rules.redact)
            for key, label in answers.items()
        }

    def count(self, answers: Mapping[tuple[str, str], int], *, now: datetime) -> None:
        """Add to the number of automatic answers.

        Args:
            answers: {(task, digest): how many more}.
            now: its day (UTC) is the one they count for.
        """
        day = now.date().isoformat()
        with self.engine.begin() as connection:
            for (task, digest), more in sorted(answers.items()):
                key = {"task": task, "digest": digest, "day": day}
                _insert_or(connection, CountRow, key, {"answers": more}, {"answers": CountRow.answers + more})

    # --- Out --------------------------------------------------------------------------------------------------------

    def next(self, reviewer: str, *, now: datetime, task: str | None = None, after: int = 0) -> Item | None:
        """The oldest item that waits for this reviewer, who then has it for a while.

        Args:
            reviewer: who asks.
            now: the time.
            task: only items of this task.
            after: only items with a higher id.
        """
        said = STANDING.subquery("said")
        mine = sa.select(said.c.id).where(
            said.c.item_id == ItemRow.id, said.c.reviewer == reviewer, said.c.verdict != "withdrawn"
        )
        decided = sa.select(sa.func.count()).where(
            said.c.item_id == ItemRow.id,
            said.c.reviewer != reviewer,
            said.c.verdict.in_(("right", "corrected")),
        )
        leased = sa.select(sa.func.count()).where(
            LeaseRow.item_id == ItemRow.id, LeaseRow.reviewer != reviewer, LeaseRow.until > now
        )
        needed = sa.func.coalesce(ItemRow.reviewers, self.rules.reviewers)
        query = (
            sa.select(ItemRow.id)
            .where(ItemRow.open, ItemRow.id > after, ~mine.exists())
            .where(decided.scalar_subquery() + leased.scalar_subquery() < needed)
            .order_by(ItemRow.id)
            .limit(1)
        )
        if task is not None:
            query = query.where(ItemRow.task == task)
        with self.engine.begin() as connection:
            self._alone(connection)
            identity = connection.execute(query).scalar_one_or_none()
            if identity is None:
                return None
            until = {"until": now + self.rules.lease}
            _insert_or(connection, LeaseRow, {"item_id": identity, "reviewer": reviewer}, until, until)
            return self._read(connection, ItemRow.id == identity, now)[0]

    def item(self, identity: int, *, now: datetime) -> Item:
        """An item by its id.

        Raises:
            NoItemError: there is none.
        """
        with self.engine.connect() as connection:
            found = self._read(connection, ItemRow.id == identity, now)
        if not found:
            raise NoItemError(identity)
        return found[0]

    def items(self, *, now: datetime, task: str | None = None) -> list[Item]:
        """All items, oldest first."""
        with self.engine.connect() as connection:
            return self._read(connection, sa.true() if task is None else ItemRow.task == task, now)

    def find(self, request_id: str, number: int, task: str, *, now: datetime) -> Item | None:
        """The newest item of an answer."""
        where = sa.and_(ItemRow.request_id == request_id, ItemRow.number == number, ItemRow.task == task)
        with self.engine.connect() as connection:
            found = self._read(connection, where, now)
        return found[-1] if found else None

    def waiting(self) -> dict[str, int]:
        """How many items of each task wait."""
        query = sa.select(ItemRow.task, sa.func.count()).where(ItemRow.open).group_by(ItemRow.task)
        with self.engine.connect() as connection:
            return {row[0]: row[1] for row in connection.execute(query)}

    def decided(self) -> dict[str, int]:
        """How many items of each task somebody judged."""
        said = STANDING.where(DecisionRow.verdict.in_(("right", "corrected"))).subquery("said")
        items = sa.func.count(sa.distinct(said.c.item_id))
        query = sa.select(ItemRow.task, items).join(said, said.c.item_id == ItemRow.id).group_by(ItemRow.task)
        with self.engine.connect() as connection:
            return {row[0]: row[1] for row in connection.execute(query)}

    def decisions(self, *, task: str | None = None) -> list[Decision]:
        """What stands, by item and then by who spoke first: the last word of each reviewer, skips left out."""
        said = STANDING.where(DecisionRow.verdict.in_(("right", "corrected")))
        if task is not None:
            said = said.join(ItemRow, ItemRow.id == DecisionRow.item_id).where(ItemRow.task == task)
        with self.engine.connect() as connection:
            rows = connection.execute(said.order_by(DecisionRow.item_id, DecisionRow.id)).mappings()
            return [_decision(dict(row)) for row in rows]

    def kind(self, task: str, digest: str) -> AnyKind:
        """The kind of a task, as a model had it.

        Raises:
            StoreError: the model is not known here.
        """
        if (found := self._kinds.get((task, digest))) is not None:
            return found
        with self.engine.connect() as connection:
            row = connection.execute(
                sa.select(TaskRow).where(TaskRow.task == task, TaskRow.digest == digest)
            ).mappings()
            known = row.one_or_none()
        if known is None:
            raise StoreError(f"no task {task!r} of model {digest[:12]} in the review queue")
        return self._kinds.setdefault((task, digest), read_kind(task, known["declared"], known["state"]))

    def kinds(self) -> dict[str, tuple[str, AnyKind]]:
        """{task: digest and kind} of the model that was seen last."""
        with self.engine.connect() as connection:
            rows = connection.execute(sa.select(TaskRow.task, TaskRow.digest).order_by(TaskRow.seen)).all()
        return {task: (digest, self.kind(task, digest)) for task, digest in rows}

    def _read(self, connection: Connection, where: sa.ColumnElement[bool], now: datetime) -> list[Item]:
        query = (
            sa.select(
                ItemRow.__table__,
                TextRow.example,
                TextRow.prediction.label("text_prediction"),
                TextRow.candidate.label("text_candidate"),
                TextRow.redacted,
            )
            .outerjoin(TextRow, sa.and_(TextRow.item_id == ItemRow.id, TextRow.expires > now))
            .where(where)
            .order_by(ItemRow.id)
        )
        return [self._item(dict(row)) for row in connection.execute(query).mappings().all()]

    def _item(self, row: Mapping[str, Any]) -> Item:
        plain = ("id", "created", "request_id", "number", "task", "digest", "words", "paired")
        rest = ("confidence", "why", "automatic", "open", "reviewers")
        return Item(
            **{key: row[key] for key in (*plain, *rest)},
            kind=self.kind(row["task"], row["digest"]),
            example=None if row["example"] is None else read_example(row["example"]),
            prediction=row["prediction"] if row["prediction"] is not None else row["text_prediction"],
            candidate=row["candidate"] if row["candidate"] is not None else row["text_candidate"],
            redacted=bool(row["redacted"]),
        )

    # --- Decisions --------------------------------------------------------------------------------------------------

    def decide(
        self,
        identity: int,
        reviewer: str,
        verdict: Verdict,
        *,
        now: datetime,
        label: Any = None,
        example: Example | None = None,
    ) -> Decision:
        """Write down what a reviewer says. It is committed, and on disk, when this returns.

        Args:
            identity: of the item.
            reviewer: who says it.
            verdict: what.
            now: the time.
            label: of a correction, as JSON.
            example: the text, for items whose text is not kept.

        Raises:
            NoItemError: there is no such item.
            LabelError: the label is none of the task's kind over this text.
        """
        item = self.item(identity, now=now)
        row = self._row(item, reviewer, verdict, label, example, now)
        with self.engine.begin() as connection:
            self._alone(connection)
            if connection.execute(sa.select(ItemRow.id).where(ItemRow.id == identity)).first() is None:
                raise NoItemError(identity)
            self._say(connection, item, row)
        return _decision(row)

    def report(
        self, candidate: Candidate, reviewer: str, *, now: datetime, label: Any, example: Example | None = None
    ) -> tuple[Decision, list[str]]:
        """Put an answer into the queue together with its correction: both are on disk when this returns, or neither.

        Args:
            candidate: the answer, which somebody reports.
            reviewer: who corrects it.
            now: the time.
            label: of the correction, as JSON.
            example: the text, as the reviewer has it.

        Returns:
            The decision, and why the text is not kept (what redaction failed at).

        Raises:
            LabelError: the label is none of the task's kind over this text.
        """
        problems: list[str] = []
        with self.engine.begin() as connection:
            self._alone(connection)
            identity = self._insert(connection, candidate, now, problems)
            (item,) = self._read(connection, ItemRow.id == identity, now)
            row = self._row(item, reviewer, "corrected", label, example, now)
            self._say(connection, item, row)
        return _decision(row), problems

    def _row(
        self, item: Item, reviewer: str, verdict: Verdict, label: Any, example: Example | None, now: datetime
    ) -> dict[str, Any]:
        """What is written of a decision."""
        changed = units = 0
        kept = None
        if verdict == "corrected":
            kept, changed, units = self._measure(item, label, example)
            if item.prediction is not None and changed == 0:
                verdict, kept = "right", None  # written out, and the same
        elif verdict == "right" and item.prediction is not None:
            known = item.example or example or blank_example(item.words, paired=item.paired)
            units = _size(item, known)
        return {
            "item_id": item.id,
            "reviewer": reviewer,
            "verdict": verdict,
            "label": kept,
            "changed": changed,
            "units": units,
            "created": now,
        }

    def _say(self, connection: Connection, item: Item, row: Mapping[str, Any]) -> None:
        """Write a decision, and close the item once it has enough of them."""
        mine = (LeaseRow.item_id == item.id, LeaseRow.reviewer == row["reviewer"])
        connection.execute(sa.insert(DecisionRow).values(row))
        connection.execute(sa.delete(LeaseRow).where(*mine))
        said = STANDING.where(DecisionRow.item_id == item.id, DecisionRow.verdict.in_(("right", "corrected")))
        enough = connection.execute(sa.select(sa.func.count()).select_from(said.subquery())).scalar_one()
        still = enough < (item.reviewers or self.rules.reviewers)
        connection.execute(sa.update(ItemRow).where(ItemRow.id == item.id).values(open=still))

    def _measure(self, item: Item, label: Any, example: Example | None) -> tuple[Any, int, int]:
        """The label as it is kept, and how much of the answer it changes."""
        known = item.example or example or blank_example(item.words, paired=item.paired)
        kept: Label | None
        if item.example is not None and self.rules.redact is not None:
            # An answer's place is one in the text that the reviewer has, which may be the one before redaction.
            given = item.example
            if item.kind.form == "answer" and example is not None and example.pair is not None:
                given = example
            found = read_label(label, item.kind, given)
            kept = self.redacted(found, item, given)
        else:
            found = read_label(label, item.kind, known)
            kept = None if holds_text(item.kind) and item.example is None else found
        written = _json(kept)
        if item.prediction is None:
            return written, 1, 1
        before = read_label(item.prediction, item.kind, known)
        pairs = item.kind.compare(before, found if kept is None else kept)
        return written, sum(one != other for one, other in pairs), len(pairs)

    def redacted(self, label: Label, item: Item, given: Example | None = None) -> Label | None:
        """What a label becomes before it is kept over an item's redacted text; None where redaction cannot tell.

        Args:
            label: as a reviewer gave it.
            item: whose.
            given: the text that the reviewer had; by default as the item has it.

        Raises:
            LabelError: the text that was given is not the item's.
        """
        if self.rules.redact is None or (after := item.example) is None:
            return label
        given = given or after
        try:
            if given.pair != after.pair and redact_example(given, self.rules.redact).pair != after.pair:
                raise LabelError("its place is in another passage than the item's")
            return redact_label(label, item.kind, given, after, self.rules.redact)
        except StoreError:
            return None

    # --- Deletion ---------------------------------------------------------------------------------------------------

    def delete(self, identities: Iterable[int]) -> int:
        """Delete items with their texts and decisions; the bytes go from the database's files as well (`erase`)."""
        return self._delete(ItemRow.id.in_(sorted(set(identities))))

    def delete_before(self, moment: datetime) -> int:
        """Delete items that are older, with their texts and decisions, and counts of days that ended before."""
        found = self._delete(ItemRow.created < moment)
        with self.engine.begin() as connection:
            connection.execute(sa.delete(CountRow).where(CountRow.day < moment.date().isoformat()))
        return found

    def expire(self, *, now: datetime) -> int:
        """Delete the texts whose time is over, and the labels that repeat them. The items stay."""
        over = sa.select(TextRow.item_id).where(TextRow.expires <= now)
        with self.engine.begin() as connection:
            identities = list(connection.execute(over).scalars())
            tasks = sa.select(ItemRow.id, ItemRow.task, ItemRow.digest).where(ItemRow.id.in_(identities))
            quoting = [
                identity for identity, task, digest in connection.execute(tasks).all() if self._holds(task, digest)
            ]
            connection.execute(sa.update(DecisionRow).where(DecisionRow.item_id.in_(quoting)).values(label=None))
            connection.execute(sa.delete(TextRow).where(TextRow.item_id.in_(identities)))
        self._erase(deleted=bool(identities))
        return len(identities)

    def _holds(self, task: str, digest: str) -> bool:
        try:
            return holds_text(self.kind(task, digest))
        except StoreError:
            return True  # a kind that nobody knows any more may repeat anything

    def _delete(self, where: sa.ColumnElement[bool]) -> int:
        with self.engine.begin() as connection:
            count = connection.execute(sa.delete(ItemRow).where(where)).rowcount
        self._erase(deleted=count > 0)
        return count

    def _erase(self, *, deleted: bool) -> None:
        """Erase what was deleted, now or by an earlier deletion whose erasure failed."""
        with self._erasing:
            self._owes_erasure |= deleted
            if self._owes_erasure:
                erase(self.engine)
                self._owes_erasure = False

    def _alone(self, connection: Connection) -> None:
        """Nobody else gives out or closes items until this transaction ends."""
        if connection.dialect.name == "sqlite":
            # The first statement that writes takes SQLite's lock; one that changes nothing will do.
            connection.execute(sa.update(LeaseRow).where(sa.false()).values(reviewer=""))
        else:
            connection.execute(sa.text("SELECT pg_advisory_xact_lock(7255466254)"))


_PATIENCE = 5.0  # seconds that deletion waits for those who read the database
_AGAIN = "delete once more"

# Whose snapshot may hold rows that are deleted by now. Those of autovacuum hold none.
_OLDER = """
    SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'
      AND xact_start < :moment AND (backend_xid IS NOT NULL OR backend_xmin IS NOT NULL)
"""


def erase(engine: Engine) -> None:
    """Have deleted rows gone from the database's files.

    SQLite overwrites them in its file (secure_delete), but its log of changes still has them: the log is written back
    and cut to nothing. PostgreSQL writes its tables anew; what its own log (WAL) has goes when that is recycled.

    Args:
        engine: of the database.

    Raises:
        StoreError: a reader kept SQLite's log, or rows of PostgreSQL's tables, for all that time.
    """
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        if engine.dialect.name == "sqlite":
            _cut_log(connection)
        else:
            _rewrite_tables(connection)


def _cut_log(connection: Connection) -> None:
    usual = connection.exec_driver_sql("PRAGMA busy_timeout").scalar_one()
    connection.exec_driver_sql(f"PRAGMA busy_timeout = {1000 * _PATIENCE:.0f}")
    busy = connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").one()[0]
    connection.exec_driver_sql(f"PRAGMA busy_timeout = {usual}")
    if busy:
        raise StoreError(f"deleted, but a reader keeps the log of changes: {_AGAIN} to have it cut")


def _rewrite_tables(connection: Connection) -> None:
    # VACUUM FULL copies rows that an older transaction can still see, and says nothing.
    older = _older_transactions(connection)
    connection.exec_driver_sql(f"SET lock_timeout = {1000 * _PATIENCE:.0f}")
    try:
        for table in (ItemRow, TextRow, DecisionRow, LeaseRow):
            connection.exec_driver_sql(f"VACUUM FULL {table.__tablename__}")
    except OperationalError as error:
        raise StoreError(f"deleted, but the tables cannot be written anew: {error.orig}: {_AGAIN}") from error
    finally:
        connection.exec_driver_sql("SET lock_timeout = DEFAULT")
    if older:
        raise StoreError(f"deleted, but {older} older transactions can still see it: {_AGAIN} when they have ended")


def _older_transactions(connection: Connection) -> int:
    """How many transactions that began before now are still there after a while."""
    moment = connection.execute(sa.text("SELECT clock_timestamp()")).scalar_one()
    stop = time.monotonic() + _PATIENCE
    while True:
        count = int(connection.execute(sa.text(_OLDER), {"moment": moment}).scalar_one())
        if not count or time.monotonic() > stop:
            return count
        time.sleep(0.02)


def _json(label: Label | None) -> Any:
    return None if label is None else label_json(label)


def _size(item: Item, example: Example) -> int:
    label = read_label(item.prediction, item.kind, example)
    return len(item.kind.compare(label, label))


def _decision(row: Mapping[str, Any]) -> Decision:
    return Decision(
        row["item_id"], row["reviewer"], row["verdict"], row["label"], row["changed"], row["units"], row["created"]
    )


def _insert_or(
    connection: Connection, table: Any, key: Mapping[str, Any], new: Mapping[str, Any], change: Mapping[str, Any]
) -> None:
    """Insert a row, or change the one that has its key."""
    from sqlalchemy.dialects import postgresql, sqlite

    insert = sqlite.insert if connection.dialect.name == "sqlite" else postgresql.insert
    statement = insert(table).values({**key, **new})
    connection.execute(statement.on_conflict_do_update(index_elements=list(key), set_=dict(change)))
