"""What is remembered of answers that people check. Migration 0001 makes these tables."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, Float, ForeignKey, Index, String
from sqlalchemy.orm import Mapped, mapped_column

from palmette.store.database import Base, Moment

NAME = 200  # characters of a task's, kind's or reviewer's name
REQUEST = 128  # of a request's id, as the server takes it
DIGEST = 64


class TaskRow(Base):
    """A task of a model that answered: enough to check labels after the model has gone."""

    __tablename__ = "review_tasks"
    task: Mapped[str] = mapped_column(String(NAME), primary_key=True)
    digest: Mapped[str] = mapped_column(String(DIGEST), primary_key=True)
    declared: Mapped[dict[str, Any]] = mapped_column(JSON)
    state: Mapped[dict[str, Any]] = mapped_column(JSON)
    seen: Mapped[datetime] = mapped_column(Moment)


class ItemRow(Base):
    """An answer that people are to check."""

    __tablename__ = "review_items"
    __table_args__ = (
        Index("review_items_waiting", "open", "task", "id"),
        Index("review_items_answer", "request_id", "number", "task"),
        {"sqlite_autoincrement": True},  # the id of a deleted item is not given again
    )
    id: Mapped[int] = mapped_column(primary_key=True)
    created: Mapped[datetime] = mapped_column(Moment, index=True)
    request_id: Mapped[str] = mapped_column(String(REQUEST))
    number: Mapped[int]
    task: Mapped[str] = mapped_column(String(NAME))
    digest: Mapped[str] = mapped_column(String(DIGEST))
    words: Mapped[int]
    paired: Mapped[bool]
    prediction: Mapped[Any] = mapped_column(JSON(none_as_null=True), nullable=True)
    candidate: Mapped[Any] = mapped_column(JSON(none_as_null=True), nullable=True)
    confidence: Mapped[float | None] = mapped_column(Float)
    why: Mapped[str] = mapped_column(String(20))
    automatic: Mapped[bool]
    open: Mapped[bool]
    reviewers: Mapped[int | None]  # whom it needs; None: put in by a version that did not write it down


class TextRow(Base):
    """The text of an item, and what of its answers repeats text; there only where the operator keeps texts."""

    __tablename__ = "review_texts"
    item_id: Mapped[int] = mapped_column(ForeignKey("review_items.id", ondelete="CASCADE"), primary_key=True)
    example: Mapped[dict[str, Any]] = mapped_column(JSON)
    prediction: Mapped[Any] = mapped_column(JSON(none_as_null=True), nullable=True)
    candidate: Mapped[Any] = mapped_column(JSON(none_as_null=True), nullable=True)
    expires: Mapped[datetime] = mapped_column(Moment, index=True)
    redacted: Mapped[bool | None]  # whether it went through a redaction; None: kept by a version that did not note it


class DecisionRow(Base):
    """What a reviewer said of an item. Rows are only added; the last one of a reviewer counts."""

    __tablename__ = "review_decisions"
    __table_args__ = (Index("review_decisions_item", "item_id", "reviewer", "id"), {"sqlite_autoincrement": True})
    id: Mapped[int] = mapped_column(primary_key=True)
    item_id: Mapped[int] = mapped_column(ForeignKey("review_items.id", ondelete="CASCADE"))
    reviewer: Mapped[str] = mapped_column(String(NAME))
    verdict: Mapped[str] = mapped_column(String(20))
    label: Mapped[Any] = mapped_column(JSON(none_as_null=True), nullable=True)
    changed: Mapped[int]
    units: Mapped[int]
    created: Mapped[datetime] = mapped_column(Moment)


class LeaseRow(Base):
    """Who is looking at an item, so that two people do not do the same work."""

    __tablename__ = "review_leases"
    item_id: Mapped[int] = mapped_column(ForeignKey("review_items.id", ondelete="CASCADE"), primary_key=True)
    reviewer: Mapped[str] = mapped_column(String(NAME), primary_key=True)
    until: Mapped[datetime] = mapped_column(Moment)


class CountRow(Base):
    """How many answers went out without a person on a day (UTC)."""

    __tablename__ = "review_counts"
    task: Mapped[str] = mapped_column(String(NAME), primary_key=True)
    digest: Mapped[str] = mapped_column(String(DIGEST), primary_key=True)
    day: Mapped[str] = mapped_column(String(10), primary_key=True)
    answers: Mapped[int]
