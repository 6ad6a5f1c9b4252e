"""Answers that were paid for, and what has been spent on them: a SQLite file that several processes may share."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

from palmette.errors import RunError
from palmette.writing.writer import Written

_APPLICATION = 0x70616C6D  # "palm": says in the file's header whose it is
_VERSION = 1
_LARGEST = 2**62  # what SQLite can count, with room to add
_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS answers (digest TEXT PRIMARY KEY, answer TEXT NOT NULL) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS spent (endpoint TEXT PRIMARY KEY, tokens INTEGER NOT NULL) WITHOUT ROWID",
)


class Ledger:
    """Keeps answers by a digest of their request, and counts tokens by endpoint.

    Tokens are reserved, in the file, before a request is sent: what a killed process had under way stays spent, since
    it may have been paid for. An answer and what it cost are written in one transaction.

    Args:
        path: the file, made where there is none.

    Raises:
        RunError: the file is damaged or something else. It is left as it is.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._clear_errors():
            path.parent.mkdir(parents=True, exist_ok=True)
            # Another process may hold the file for as long as it takes to write an answer.
            self._db = sqlite3.connect(path, timeout=60, isolation_level=None, check_same_thread=False)
        try:
            with self._clear_errors():
                self._open()
        except BaseException:
            self._db.close()
            raise

    def _open(self) -> None:
        if self._number("SELECT count(*) FROM sqlite_master"):  # Before anything is written: it may be another's file.
            application, version = self._number("PRAGMA application_id"), self._number("PRAGMA user_version")
            if application != _APPLICATION or version != _VERSION:
                raise sqlite3.DatabaseError("it is a database of something else, or of another version")
            (found,) = self._db.execute("PRAGMA quick_check(1)").fetchone()
            if found != "ok":
                raise sqlite3.DatabaseError(str(found))
        # An answer that was committed outlives a kill (WAL) and a power cut (FULL).
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")
        with self._transaction():
            for statement in _SCHEMA:
                self._db.execute(statement)
            self._db.execute(f"PRAGMA application_id = {_APPLICATION}")
            self._db.execute(f"PRAGMA user_version = {_VERSION}")

    def answer(self, digest: str) -> Written | None:
        """The answer to a request, if it was paid for.

        Raises:
            RunError: the file cannot be read.
        """
        with self._clear_errors():
            row = self._db.execute("SELECT answer FROM answers WHERE digest = ?", (digest,)).fetchone()
            if row is None:
                return None
            try:
                return replace(Written(**json.loads(row[0])), kept=True)
            except (TypeError, ValueError) as error:
                raise sqlite3.DatabaseError(f"an answer in it cannot be read: {error}") from error

    def reserve(self, endpoint: str, tokens: int, *, budget: int) -> bool:
        """Count tokens as spent, unless the endpoint's budget would be passed.

        Raises:
            RunError: the file cannot be written.
        """
        with self._transaction():
            if self.spent(endpoint) + tokens > min(budget, _LARGEST):
                return False
            self._add(endpoint, tokens)
            return True

    def settle(
        self, endpoint: str, *, reserved: int, spent: int, digest: str = "", written: Written | None = None
    ) -> None:
        """Count what was really spent in place of what was reserved, and keep the answer, if there is one.

        Raises:
            RunError: the file cannot be written.
        """
        with self._transaction():
            self._add(endpoint, spent - reserved)
            if written is not None:
                row = (digest, json.dumps(asdict(written)))  # ASCII: half a surrogate pair is no text for SQLite
                self._db.execute("INSERT OR REPLACE INTO answers VALUES (?, ?)", row)

    def spent(self, endpoint: str) -> int:
        """Tokens that the endpoint has cost, those under way included.

        Raises:
            RunError: the file cannot be read.
        """
        with self._clear_errors():
            row = self._db.execute("SELECT tokens FROM spent WHERE endpoint = ?", (endpoint,)).fetchone()
        return int(row[0]) if row is not None else 0

    def close(self) -> None:
        """Let go of the file."""
        self._db.close()

    def _add(self, endpoint: str, tokens: int) -> None:
        statement = "INSERT INTO spent VALUES (?, ?) ON CONFLICT DO UPDATE SET tokens = tokens + excluded.tokens"
        self._db.execute(statement, (endpoint, tokens))

    def _number(self, statement: str) -> int:
        return int(self._db.execute(statement).fetchone()[0])

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._clear_errors(), self._db:
            self._db.execute("BEGIN IMMEDIATE")
            yield

    @contextmanager
    def _clear_errors(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise RunError(
                f"{self.path}: cannot be used to keep answers (endpoint.cache): {error}. Nothing in it was deleted; "
                "make it usable, or name another file, where answers would be paid for again"
            ) from error
