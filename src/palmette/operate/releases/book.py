"""The book of releases in the store: what is registered, who has which role, and every change of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from palmette.deploy.bundle import Bundle
from palmette.errors import ReleaseError, StoreError
from palmette.operate.releases.records import FIRST, Action, Entry, Mode, State, Version
from palmette.operate.releases.tables import EntryRow, VersionRow
from palmette.store import Base

_LOCK = 7_255_466_254  # any number: the advisory lock under which PostgreSQL's log grows
_LOG, _VERSIONS = (Base.metadata.tables[row.__tablename__] for row in (EntryRow, VersionRow))

# The state there is -> the action's name, the digests it leads from and to, and the new state.
Change = Callable[[State], tuple[Action, str | None, str | None, State]]


class Releases:
    """Roles of versions. Each change is one transaction, and one entry of the log, whichever process makes it.

    Args:
        engine: of the store (`palmette.store.open_store`).
        now: the time, with its zone.
    """

    def __init__(self, engine: Engine, *, now: Callable[[], datetime]) -> None:
        self._engine = engine
        self._now = now

    # --- Reading ---

    def state(self) -> State:
        """Who has which role.

        Raises:
            StoreError: the store cannot be read.
        """
        with self._reading() as connection:
            return _state(connection)

    def versions(self) -> dict[str, Version]:
        """Every registered version by its digest, the oldest first."""
        with self._reading() as connection:
            rows = connection.execute(sa.select(_VERSIONS).order_by(_VERSIONS.c.registered, _VERSIONS.c.digest))
            return {row.digest: _version(row) for row in rows}

    def version(self, digest: str) -> Version:
        """A registered version.

        Args:
            digest: or its beginning, of at least 6 characters.

        Raises:
            ReleaseError: there is none, or there are several.
        """
        found = [version for known, version in self.versions().items() if known.startswith(digest)]
        if len(digest) < 6 or len(found) != 1:
            reason = (
                "has at least 6 characters" if len(digest) < 6 else f"fits {len(found) or 'no'} registered versions"
            )
            raise ReleaseError(f"{digest}: a digest {reason}; `palmette releases show STORE` lists them")
        return found[0]

    def log(self, *, last: int | None = None) -> list[Entry]:
        """The log, the oldest entry first; or its last entries."""
        with self._reading() as connection:
            rows = connection.execute(sa.select(_LOG).order_by(_LOG.c.number.desc()).limit(last)).all()
        return [_entry(row) for row in reversed(rows)]

    def verify(self, *, known: str | None = None) -> Entry | None:
        """Check that no entry of the log was changed, taken out or put in between, and give the last one.

        Whoever owns the database could write the whole log anew. Against that, keep the last entry's hash elsewhere.

        Args:
            known: hash of an entry, from earlier.

        Raises:
            ReleaseError: naming the first entry that does not fit.
        """
        entries = self.log()
        before = FIRST
        for number, entry in enumerate(entries, start=1):
            if entry.state.number != number:
                raise ReleaseError(f"log of releases: entry {number} is missing, found {entry.state.number} instead")
            if entry.before != before or not entry.genuine:
                raise ReleaseError(f"log of releases: entry {number} was changed, or one before it was")
            before = entry.hash
        if known is not None and known not in {entry.hash for entry in entries}:
            raise ReleaseError(
                f"log of releases: has no entry with the hash {known}: it was written anew, or cut short"
            )
        return entries[-1] if entries else None

    # --- Changing ---

    def serve(self, bundle: Bundle, *, by: str, why: str = "") -> State:
        """Make a bundle live where nothing is yet: what the first server of a store does. Otherwise nothing changes."""
        with self._writing() as connection:
            if (state := _state(connection)).live is not None:
                return state
            self._register(connection, bundle, by=by, source=None)
            return self._append(connection, "serve", None, bundle.digest, replace(state, live=bundle.digest), by, why)

    def release(
        self,
        bundle: Bundle,
        *,
        mode: Mode,
        share: float,
        by: str,
        why: str = "",
        source: str | None = None,
        forced: bool = False,
    ) -> State:
        """Make a bundle the candidate; or change mode and share of the one that is.

        Args:
            bundle: whose folder every server of the store sees at the same path.
            mode: shadow or canary.
            share: of the traffic that meets it, in (0, 1].
            by: who asks for it.
            why: kept in the log.
            source: where the bundle came from, if not from a folder.
            forced: even if it lacks tasks of the live version.

        Raises:
            ReleaseError: nothing is live, another candidate is there, it is live already, or it lacks tasks.
        """
        if not 0 < share <= 1:
            raise ReleaseError(f"share: expected a number above 0 and at most 1, found {share}")
        with self._writing() as connection:
            state = _state(connection)
            if state.live is None:
                raise ReleaseError("nothing is live in this store: palmette serve BUNDLE --store STORE, or --mode live")
            if state.live == bundle.digest:
                raise ReleaseError(f"{bundle.folder}: is live already ({bundle.digest[:12]})")
            if state.candidate not in (None, bundle.digest):
                raise ReleaseError(
                    f"{str(state.candidate)[:12]} is the candidate already: promote it, or take it back with "
                    "`palmette rollback STORE`"
                )
            if not forced:
                self._compare_tasks(connection, state.live, bundle)
            self._register(connection, bundle, by=by, source=source)
            new = replace(state, candidate=bundle.digest, mode=mode, share=share)
            return self._append(connection, "release", state.candidate, bundle.digest, new, by, why)

    def promote(self, *, by: str, why: str = "", candidate: str | None = None) -> State:
        """Make the candidate live, and the live version the previous one.

        Args:
            by: who asks for it.
            why: kept in the log.
            candidate: the digest that whoever asks believes to be the candidate's, or its beginning.

        Raises:
            ReleaseError: there is no candidate, or it is another one.
        """

        def change(state: State) -> tuple[Action, str | None, str | None, State]:
            if state.candidate is None:
                raise ReleaseError("there is no candidate: palmette release STORE BUNDLE --mode canary")
            if candidate is not None and not state.candidate.startswith(candidate):
                raise ReleaseError(f"the candidate is {state.candidate[:12]}, not {candidate[:12]}")
            return "promote", state.live, state.candidate, State(live=state.candidate, previous=state.live)

        return self._change(change, by, why)

    def rollback(self, *, by: str, why: str = "", to: str | None = None) -> State:
        """Undo the last step: take the candidate back if there is one, otherwise make the previous version live.

        Args:
            by: who asks for it.
            why: kept in the log.
            to: make this version live instead, whichever it is: its digest or the beginning of it. A candidate is
                taken back as well. Then there is no previous version, until the next promotion.

        Raises:
            ReleaseError: there is nothing to go back to, or no such version.
        """
        target = self.version(to).digest if to is not None else None

        def change(state: State) -> tuple[Action, str | None, str | None, State]:
            if target is None and state.candidate is not None:
                return "withdraw", state.candidate, None, State(live=state.live, previous=state.previous)
            wanted = target or state.previous
            if wanted is None:
                raise ReleaseError("there is neither a candidate to take back nor a version before the live one")
            if wanted == state.live:
                raise ReleaseError(f"{wanted[:12]} is live already")
            # What was just left is no version to go back to: a second rollback must not bring it again.
            return "rollback", state.live, wanted, State(live=wanted)

        return self._change(change, by, why)

    def replace_live(self, bundle: Bundle, *, by: str, why: str = "", source: str | None = None, forced: bool) -> State:
        """Make a bundle live at once, without a trial.

        Raises:
            ReleaseError: it is live already, or lacks tasks of the live version and `forced` is not set.
        """
        with self._writing() as connection:
            state = _state(connection)
            if state.live == bundle.digest:
                raise ReleaseError(f"{bundle.folder}: is live already ({bundle.digest[:12]})")
            if state.live is not None and not forced:
                self._compare_tasks(connection, state.live, bundle)
            self._register(connection, bundle, by=by, source=source)
            new = State(live=bundle.digest, previous=state.live)
            return self._append(connection, "release", state.live, bundle.digest, new, by, why)

    def demote(self, number: int, *, by: str, why: str) -> State:
        """Take the candidate back because it broke a rule.

        Args:
            number: of the state that was judged. If it is no longer the state, a decision came first, and nothing
                changes: of several servers that find the same, one writes it down.
            by: which server.
            why: which rule, with the figures.
        """
        with self._writing() as connection:
            state = _state(connection)
            if state.number != number or state.candidate is None:
                return state
            new = State(live=state.live, previous=state.previous)
            return self._append(connection, "demote", state.candidate, None, new, by, why)

    def close(self) -> None:
        """Close the connections."""
        self._engine.dispose()

    def _change(self, change: Change, by: str, why: str) -> State:
        with self._writing() as connection:
            action, origin, target, state = change(_state(connection))
            return self._append(connection, action, origin, target, state, by, why)

    def _append(
        self,
        connection: Connection,
        action: Action,
        origin: str | None,
        target: str | None,
        state: State,
        who: str,
        why: str,
    ) -> State:
        """Write the entry that leads to a state."""
        last = connection.execute(sa.select(_LOG.c.number, _LOG.c.hash).order_by(_LOG.c.number.desc()).limit(1)).first()
        state = replace(state, number=last.number + 1 if last is not None else 1)
        entry = Entry.make(
            before=last.hash if last is not None else FIRST,
            at=self._now(),
            who=who,
            action=action,
            origin=origin,
            target=target,
            why=why,
            state=state,
        )
        row = {
            name: getattr(entry, name) for name in ("at", "who", "action", "origin", "target", "why", "before", "hash")
        }
        connection.execute(sa.insert(_LOG).values(**row, number=state.number, state=json.dumps(asdict(state))))
        return state

    def _register(self, connection: Connection, bundle: Bundle, *, by: str, source: str | None) -> None:
        """Note where a bundle lies; one that is known may have moved."""
        place = {"path": str(bundle.folder.resolve())} | ({"source": source} if source is not None else {})
        known = connection.execute(sa.select(_VERSIONS.c.digest).where(_VERSIONS.c.digest == bundle.digest)).first()
        if known is not None:
            connection.execute(sa.update(_VERSIONS).where(_VERSIONS.c.digest == bundle.digest).values(**place))
            return
        connection.execute(
            sa.insert(_VERSIONS).values(
                digest=bundle.digest,
                tasks=json.dumps(dict(bundle.manifest.get("tasks", {}))),
                precision=str(bundle.manifest.get("precision", "")),
                registered=self._now(),
                registered_by=by,
                **place,
            )
        )

    @staticmethod
    def _compare_tasks(connection: Connection, live: str, bundle: Bundle) -> None:
        """Refuse a bundle that does not answer what callers ask for now."""
        row = connection.execute(sa.select(_VERSIONS).where(_VERSIONS.c.digest == live)).one()
        tasks = dict(bundle.manifest.get("tasks", {}))
        problems = [
            f"lacks {task}" if task not in tasks else f"{task} is {tasks[task]}, not {kind}"
            for task, kind in _version(row).tasks.items()
            if tasks.get(task) != kind
        ]
        if problems:
            raise ReleaseError(
                f"{bundle.folder}: does not answer all that the live version answers: {', '.join(problems)}; "
                "--force releases it all the same"
            )

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        try:
            with self._engine.connect() as connection:
                yield connection
        except SQLAlchemyError as error:
            raise _unusable(error) from error

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        """A transaction that no other change of the roles overlaps."""
        try:
            with self._engine.begin() as connection:
                if self._engine.dialect.name == "postgresql":
                    connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
                else:
                    connection.exec_driver_sql("BEGIN IMMEDIATE")
                yield connection
        except SQLAlchemyError as error:
            raise _unusable(error) from error


def _unusable(error: SQLAlchemyError) -> StoreError:
    return StoreError(f"the store cannot be used: {str(error).splitlines()[0]}")


def _state(connection: Connection) -> State:
    found = connection.execute(sa.select(_LOG.c.state).order_by(_LOG.c.number.desc()).limit(1)).scalar()
    return State(**json.loads(found)) if found is not None else State()


def _version(row: sa.Row[tuple[object, ...]]) -> Version:
    return Version(
        digest=row.digest,
        path=Path(row.path),
        tasks=json.loads(row.tasks),
        precision=row.precision,
        registered=row.registered,
        by=row.registered_by,
        source=row.source,
    )


def _entry(row: sa.Row[tuple[object, ...]]) -> Entry:
    return Entry(
        at=row.at,
        who=row.who,
        action=row.action,
        origin=row.origin,
        target=row.target,
        why=row.why,
        # The number in the row is what the database orders by; the one in the state is what the hash covers.
        state=State(**json.loads(row.state)),
        before=row.before,
        hash=row.hash,
    )
