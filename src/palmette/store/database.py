"""A database by its URL, with the tables of this version."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import DateTime, Engine, create_engine, event, inspect
from sqlalchemy.engine import Dialect
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.orm import DeclarativeBase
from sqlalchemy.types import TypeDecorator

from palmette.errors import MissingExtraError, StoreError

_MIGRATIONS = Path(__file__).parent / "migrations"
_BUSY_SECONDS = 30.0  # that a writer of SQLite waits for another
_LOCK = 7_255_466_253  # any number: the advisory lock under which PostgreSQL's tables are made


class Base(DeclarativeBase):
    """What every table derives from. A table needs a migration as well (`palmette/store/migrations/versions`)."""


class Moment(TypeDecorator[datetime]):
    """A time with its zone; SQLite keeps none, so UTC is stored."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """As it is stored.

        Raises:
            ValueError: the time has no zone.
        """
        if value is not None and value.tzinfo is None:
            raise ValueError(f"a time without a zone: {value}")
        return value.astimezone(UTC) if value is not None else None

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """As it was given, in UTC."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def open_store(url: str) -> Engine:
    """Open a database, and bring its tables to this version.

    Args:
        url: SQLAlchemy's form, `postgresql+psycopg://user@host/name` or `sqlite:///file`; or the path of an SQLite
            file, which is made if it does not exist.

    Raises:
        StoreError: the URL is none, the database cannot be reached, or it is of a later version.
        MissingExtraError: its driver is not installed.
    """
    if "://" not in url:
        url = f"sqlite:///{Path(url).absolute()}"
    if url.startswith(("postgresql://", "postgres://")):
        url = "postgresql+psycopg://" + url.partition("://")[2]
    try:
        engine = create_engine(url, pool_pre_ping=True, connect_args=_connecting(url))
    except (ArgumentError, NoSuchModuleError, ValueError) as error:
        raise StoreError(f"{_shown(url)}: is not the URL of a database: {error}") from error
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "psycopg", "operate") from error
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _configure_sqlite)
    try:
        _migrate(engine)
    except SQLAlchemyError as error:
        engine.dispose()
        raise StoreError(f"{_shown(url)}: {str(error).splitlines()[0]}") from error
    return engine


def _connecting(url: str) -> dict[str, Any]:
    return {"timeout": _BUSY_SECONDS} if url.startswith("sqlite") else {}


def _shown(url: str) -> str:
    """The URL without user and password."""
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"


def _configure_sqlite(connection: Any, _: Any) -> None:
    """What was acknowledged survives a kill and a power cut; readers do not wait for the writer; no key dangles."""
    for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON", "secure_delete = ON"):
        connection.execute(f"PRAGMA {pragma}")


def _migrate(engine: Engine) -> None:
    """Run the migrations that the database lacks, one process at a time."""
    from alembic import command
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    with engine.begin() as connection:
        if engine.dialect.name == "postgresql":
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_LOCK})")
        elif engine.dialect.name == "sqlite":
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
        if inspect(connection).has_table("alembic_version"):
            found = {row[0] for row in connection.exec_driver_sql("SELECT version_num FROM alembic_version")}
            if later := found - known:
                raise StoreError(
                    f"{_shown(engine.url.render_as_string())}: is of a later version ({', '.join(sorted(later))}): "
                    "update Palmette"
                )
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
