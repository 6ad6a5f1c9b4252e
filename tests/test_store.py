"""Databases: found by URL, told apart from what is none."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
import sqlalchemy as sa

from palmette.errors import StoreError
from palmette.store import Base, open_store
from palmette.store.database import Moment


def test_a_file_becomes_a_database_with_every_table(tmp_path: Path) -> None:
    engine = open_store(str(tmp_path / "store.db"))
    assert set(sa.inspect(engine).get_table_names()) >= set(Base.metadata.tables)
    engine.dispose()


def test_it_is_opened_again(tmp_path: Path) -> None:
    for _ in range(2):
        open_store(str(tmp_path / "store.db")).dispose()


def test_many_may_open_it_at_once(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        for engine in pool.map(lambda _: open_store(str(tmp_path / "store.db")), range(8)):
            engine.dispose()


@pytest.mark.parametrize("url", ["nothing://at/all", "sqlite:////no/such/folder/store.db"])
def test_what_is_no_database_is_refused(url: str) -> None:
    with pytest.raises(StoreError, match=r"://"):
        open_store(url)


def test_a_password_is_not_shown() -> None:
    with pytest.raises(StoreError) as caught:
        open_store("postgresql://somebody:secret@127.0.0.1:1/none")
    assert "secret" not in str(caught.value)


def test_a_later_version_is_refused(tmp_path: Path) -> None:
    engine = open_store(str(tmp_path / "store.db"))
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE IF NOT EXISTS alembic_version (version_num VARCHAR(32))"))
        connection.execute(sa.text("DELETE FROM alembic_version"))
        connection.execute(sa.text("INSERT INTO alembic_version VALUES ('9999')"))
    engine.dispose()
    with pytest.raises(StoreError, match="9999"):
        open_store(str(tmp_path / "store.db"))


def test_times_keep_their_moment(tmp_path: Path) -> None:
    engine = open_store(str(tmp_path / "store.db"))
    table = sa.Table("moments", sa.MetaData(), sa.Column("at", Moment))
    here = datetime(2026, 3, 1, 12, tzinfo=timezone(timedelta(hours=2)))
    with engine.begin() as connection:
        table.create(connection)
        connection.execute(table.insert().values(at=here))
        assert connection.execute(sa.select(table.c.at)).scalar_one() == here.astimezone(UTC)
        with pytest.raises(sa.exc.StatementError, match="zone"):
            connection.execute(table.insert().values(at=datetime(2026, 3, 1)))
    engine.dispose()
