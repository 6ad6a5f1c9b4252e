"""A server that follows the roles in a store: loads what they name, judges the candidate, and takes it back."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

from palmette.deploy.bundle import Bundle
from palmette.errors import PalmetteError, ReleaseError
from palmette.operate.releases import desk
from palmette.operate.releases.book import Releases
from palmette.operate.releases.records import State
from palmette.operate.releases.rules import RolloutRules, Side, Trial, Verdict
from palmette.serving.logs import log
from palmette.serving.metrics import Metrics
from palmette.serving.model import Served
from palmette.serving.roster import Roster

_LOOK = 1.0  # seconds between two looks at the store
_LONGEST = 60.0  # seconds between two attempts to load what cannot be loaded


def name() -> str:
    """This server, for the log of releases."""
    return f"palmette serve ({socket.gethostname()}, process {os.getpid()})"


class Store:
    """The models that have roles in a store.

    Args:
        open_: path -> model.
        path: bundle to begin with where nothing is live yet; None: the store has something live.
        releases: of the store.
        metrics: what to count with.
        keep_previous: keep a model in memory when another one takes its place.

    Raises:
        PalmetteError: nothing is live and there is no bundle, or the bundle is not known to the store.
    """

    def __init__(
        self,
        open_: Callable[[Path], Served],
        path: Path | None,
        releases: Releases,
        metrics: Metrics,
        *,
        keep_previous: bool,
    ) -> None:
        self._open = open_
        self._keep_previous = keep_previous
        self._releases = releases
        self._metrics = metrics
        if path is not None:
            self._begin(Bundle.open(path))
        elif releases.state().live is None:
            raise ReleaseError("nothing is live in this store yet: palmette serve BUNDLE --store STORE")

    def _begin(self, bundle: Bundle) -> None:
        live = self._releases.serve(bundle, by=name()).live
        if live == bundle.digest:
            return
        if bundle.digest not in self._releases.versions():
            raise ReleaseError(
                f"{bundle.folder}: {bundle.digest[:12]} is unknown to the store, where {str(live)[:12]} is live. Give "
                "it a role with `palmette release STORE BUNDLE --mode shadow|canary|live`, or leave the bundle out"
            )
        log("the store's live version is served, not the bundle given", level=logging.WARNING, digest=live)

    def read(self, old: Roster | None) -> Roster:
        """The models that the store names.

        A candidate that cannot be loaded is taken back. A live version that cannot be loaded is an error, and whatever
        answers now goes on.

        Raises:
            PalmetteError: the live version cannot be loaded, or is not what was registered.
        """
        state = self._releases.state()
        known = (old.live, old.candidate, old.previous) if old is not None else ()
        loaded = {model.digest: model for model in known if model is not None}
        if state.live is None:
            raise ReleaseError("nothing is live in this store")
        live = self._model(state.live, loaded)
        candidate = None
        if state.candidate is not None:
            try:
                candidate = self._model(state.candidate, loaded)
            except Exception as error:  # noqa: BLE001 - whatever is wrong with it, the live version goes on
                log("the candidate cannot be loaded", level=logging.ERROR, error=error, digest=state.candidate)
                reason = str(error) if isinstance(error, PalmetteError) else type(error).__name__
                self._metrics.taken_back.labels("loading").inc()
                state = self._releases.demote(state.number, by=name(), why=f"loading: {reason}")
                if state.live != live.digest:  # somebody decided otherwise meanwhile
                    live = self._model(str(state.live), loaded)
                candidate = loaded.get(state.candidate) if state.candidate is not None else None
        previous = loaded.get(state.previous) if state.previous is not None and self._keep_previous else None
        return Roster(live, candidate, state, previous)

    def _model(self, digest: str, loaded: dict[str, Served]) -> Served:
        if digest not in loaded:
            path = self._releases.version(digest).path
            model = self._open(path)
            if model.digest != digest:
                raise ReleaseError(f"{path}: is {model.digest[:12]} now, and was {digest[:12]} when it was registered")
            loaded[digest] = model
        return loaded[digest]


class Follower:
    """Looks at the store every second, in a thread of its own: judges the candidate, and follows the roles.

    A store that cannot be reached changes nothing: the roles stay as they are until it is back.

    Args:
        releases: of the store.
        metrics: what to count with.
        rules: when a candidate is taken back.
        roster: what the server answers with now.
        renew: makes the server answer with what the store names; raises if it cannot.
    """

    def __init__(
        self,
        releases: Releases,
        metrics: Metrics,
        rules: RolloutRules,
        *,
        roster: Callable[[], Roster],
        renew: Callable[[], None],
    ) -> None:
        self._releases = releases
        self._metrics = metrics
        self._rules = rules
        self._roster = roster
        self._renew = renew
        self._judged = roster().state
        self.trial = Trial(rules, now=time.monotonic())
        self._closed = threading.Event()
        self._looking = threading.Lock()
        self._failures = 0
        self._again = 0.0
        self._told = -1  # number of the state that the registry was told
        self._thread = threading.Thread(target=self._work, name="palmette-releases", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Look no more."""
        self._closed.set()
        self._thread.join()
        self._releases.close()

    def answered(self, model: Served, seconds: float) -> None:
        """A request was answered by a model, `seconds` after it was accepted."""
        self._metrics.version_latency.labels(model.digest[:12]).observe(seconds)
        if (side := self._side(model)) is not None:
            self.trial.answered(side, seconds)

    def failed(self, model: Served) -> None:
        """A model could not answer a request, or not in time."""
        self._metrics.version_failed.labels(model.digest[:12]).inc()
        if (side := self._side(model)) is not None:
            self.trial.failed(side)

    def _side(self, model: Served) -> Side | None:
        """The role of a model, as it is now: a request may end after its model has lost it."""
        roster = self._roster()
        return "live" if model is roster.live else "candidate" if model is roster.candidate else None

    def look(self) -> None:
        """Judge, and follow the store now.

        Raises:
            PalmetteError: the store cannot be read, or the live version not loaded.
        """
        with self._looking:
            roster = self._roster()
            if roster.candidate is not None and (verdict := self.trial.verdict(time.monotonic())) is not None:
                self._demote(roster.state, verdict)
            if self._releases.state() != roster.state:
                self._renew()
                self._begin_trial(self._roster().state)

    def _begin_trial(self, state: State) -> None:
        log("roles changed", number=state.number, roles=state.roles, mode=state.mode, share=state.share or None)
        if (state.live, state.candidate, state.mode) != (self._judged.live, self._judged.candidate, self._judged.mode):
            self.trial = Trial(self._rules, now=time.monotonic())
        self._judged = state

    def _demote(self, state: State, verdict: Verdict) -> None:
        why = f"{verdict.rule}: {verdict.reason}"
        new = self._releases.demote(state.number, by=name(), why=why)
        if new.number == state.number + 1:
            self._metrics.taken_back.labels(verdict.rule).inc()
            log("candidate taken back", level=logging.WARNING, digest=state.candidate, reason=why)

    def _work(self) -> None:
        while not self._closed.wait(_LOOK):
            if time.monotonic() < self._again:
                continue
            try:
                self.look()
            except Exception as error:  # noqa: BLE001 - the server goes on with the roles that it has
                self._failures += 1
                self._again = time.monotonic() + min(_LONGEST, 2.0 ** min(self._failures, 10) - 1)
                self._metrics.store_errors.inc()
                reason = str(error) if isinstance(error, PalmetteError) else None
                log("the roles cannot be followed", level=logging.ERROR, error=error, reason=reason)
            else:
                self._failures = 0
                self._tell()

    def _tell(self) -> None:
        """Let MLflow's aliases follow, for versions that came from there."""
        state = self._roster().state
        if state.number == self._told:
            return
        self._told = state.number
        try:
            desk.tell_registry(self._releases, state)
        except Exception as error:  # noqa: BLE001 - the roles hold all the same
            log("the registry does not follow", level=logging.ERROR, error=error, reason=str(error))
