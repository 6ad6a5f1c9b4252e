"""Tables of versions and of the log. That the log only grows is a rule of the database (migration 0002)."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Text
from sqlalchemy.orm import Mapped, mapped_column

from palmette.store import Base
from palmette.store.database import Moment


class VersionRow(Base):
    """A registered bundle."""

    __tablename__ = "release_versions"

    digest: Mapped[str] = mapped_column(Text, primary_key=True)
    path: Mapped[str] = mapped_column(Text)
    tasks: Mapped[str] = mapped_column(Text)  # JSON
    precision: Mapped[str] = mapped_column(Text)
    registered: Mapped[datetime] = mapped_column(Moment)
    by: Mapped[str] = mapped_column("registered_by", Text)
    source: Mapped[str | None] = mapped_column(Text)


class EntryRow(Base):
    """A line of the log."""

    __tablename__ = "release_log"

    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    at: Mapped[datetime] = mapped_column(Moment)
    who: Mapped[str] = mapped_column(Text)
    action: Mapped[str] = mapped_column(Text)
    origin: Mapped[str | None] = mapped_column(Text)
    target: Mapped[str | None] = mapped_column(Text)
    why: Mapped[str] = mapped_column(Text)
    state: Mapped[str] = mapped_column(Text)  # JSON
    before: Mapped[str] = mapped_column(Text)
    hash: Mapped[str] = mapped_column(Text)
