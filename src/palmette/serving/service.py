"""What a server holds while it runs: the models, the queue, the keys, and how they are replaced."""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from palmette.answering import Answerer
from palmette.deploy.bundle import is_bundle
from palmette.errors import MissingExtraError, PalmetteError, ReleaseError, RunError
from palmette.operate.releases.records import State
from palmette.predictor import AT_ONCE
from palmette.serving.batcher import Batcher, Job, QueueFullError
from palmette.serving.comparing import Comparison
from palmette.serving.keys import Keys
from palmette.serving.logs import log
from palmette.serving.metrics import Metrics
from palmette.serving.model import Served
from palmette.serving.observing import Gallery, Observer
from palmette.serving.refusal import RefusedError
from palmette.serving.roster import Folder, Roster, Source
from palmette.serving.settings import ServerSettings
from palmette.serving.watching import Watcher
from palmette.serving.writer import WriterProcess

_LAST_WRITES = 1.0  # seconds, at least, for what observers still have to write
_SEED = 13  # of the resampling that limits of watched signals come from

if TYPE_CHECKING:
    from palmette.operate.releases.book import Releases
    from palmette.serving.reviewing import Reviews
    from palmette.serving.rollout import Follower

_ENTRIES = 100  # of the log, over HTTP


class Service:
    """A running server's state.

    Args:
        load: path -> answerer; imports whatever the model needs.
        path: of the model; None: what is live in the store.
        settings: of the operator.

    Attributes:
        roster: what answers requests that are accepted now.
        releases: the roles in the store; None without one.
        reviews: the queue of answers that people check; None without a store.
        writer: a second model, which writes, in a process of its own; None where none is wanted.
        draining: the server is about to end.
        end_by: when (`time.monotonic`) what is still being computed is left alone.

    Raises:
        PalmetteError: the model cannot be loaded, or the keys, or the store cannot be opened.
    """

    def __init__(self, load: Callable[[Path], Answerer], path: Path | None, settings: ServerSettings) -> None:
        self.settings = settings
        self._path = path
        self.keys = Keys.read(settings.keys)
        self.metrics = Metrics()
        self.releases = _open_releases(path, settings)
        self._load = load
        self._source = self._find_source(path)
        self.roster = self._source.read(None)
        self.writer = self._start_writer(self.roster)
        self._show_roles()
        self._changing = threading.Lock()  # one at a time loads models and replaces them
        self.follower = self._start_following()
        self.reviews = self._open_reviews()
        self.watcher = self._watch()
        self._gallery = Gallery(self._observers(), self.metrics, reads=self._reads)
        # A second worker would be in the first one's way where the two cannot share the engine's threads.
        self.batcher = self._new_batcher(workers=settings.workers or (1 if self.model.beside is None else AT_ONCE))
        # With a queue of its own: whoever waits for the writer holds up nobody else.
        self._written = self._new_batcher() if self.writer is not None else None
        self.draining = False
        self.end_by = math.inf

    def _open(self, path: Path) -> Served:
        return Served.of(self._load(path), path, workers=self.settings.workers or AT_ONCE)

    def _find_source(self, path: Path | None) -> Source:
        if self.releases is not None:
            from palmette.serving.rollout import Store

            return Store(self._open, path, self.releases, self.metrics, keep_previous=self.settings.keep_previous)
        if path is None:
            raise RunError("what to serve? give a bundle, or --store with a store in which one is live")
        return Folder(self._open, path)

    def _start_following(self) -> Follower | None:
        if self.releases is None:
            return None
        from palmette.serving.rollout import Follower

        return Follower(
            self.releases, self.metrics, self.settings.rollout, roster=lambda: self.roster, renew=self._follow
        )

    def _observers(self) -> list[Observer]:
        """Who looks on, as the settings say."""
        observers: list[Observer] = []
        if (follower := self.follower) is not None:
            # Before the reviews, which are told of disagreements to the end.
            observers.append(
                Comparison(
                    self.metrics,
                    roster=lambda: self.roster,
                    trial=lambda: follower.trial,
                    listener=self.reviews,
                    texts=self.settings.compared_texts,
                )
            )
        return [*observers, *(found for found in (self.reviews, self.watcher) if found is not None)]

    @property
    def model(self) -> Served:
        """The live model."""
        return self.roster.live

    def close(self) -> None:
        """Answer what was accepted, then end every thread.

        Past `end_by`, nobody waits for the answers any more: threads that still compute are left, and end with the
        process.
        """
        closing = threading.Thread(target=self._close, name="palmette-closing", daemon=True)
        closing.start()
        left = max(_LAST_WRITES, self.end_by - time.monotonic())
        closing.join(left if left < math.inf else None)
        if closing.is_alive():
            log("not in time: what is still being computed is left", level=logging.WARNING)

    def _close(self) -> None:
        self.batcher.close()
        if self._written is not None:
            self._written.close()
        self._gallery.close()
        if self.follower is not None:
            self.follower.close()

    def _start_writer(self, roster: Roster) -> Served | None:
        path = self.settings.writer
        if path is None:
            return None
        predictor = WriterProcess(self._load, path, log_text=self.settings.log_text)
        if both := sorted(predictor.kinds.keys() & roster.live.kinds.keys()):
            raise RunError(
                f"--writer {path}: both models have a task {', '.join(both)}; requests are told apart by their tasks: "
                "rename it in one of the configurations"
            )
        return Served.of(Answerer(dict(predictor.kinds), predictor), path)

    def _new_batcher(self, *, workers: int = 1) -> Batcher:
        return Batcher(
            self.metrics,
            self._gallery,
            batch_tokens=self.settings.batch_tokens,
            queue_tokens=self.settings.queue_tokens,
            queue_seconds=self.settings.queue_seconds,
            longest_wait=self.settings.longest_wait,
            workers=workers,
        )

    @staticmethod
    def written(model: Served) -> bool:
        """Whether a model is a writer, of now or from before a reload."""
        return isinstance(model.answerer.predictor, WriterProcess)

    def check_room(self) -> None:
        """Refuse what would find no room in any queue.

        Raises:
            QueueFullError: there is none.
        """
        try:
            self.batcher.check_room()
        except QueueFullError:
            if self._written is None:
                raise
            self._written.check_room()

    def submit(self, job: Job) -> None:
        """Put a request into the queue of its model.

        Raises:
            QueueFullError: there is no room for it now.
        """
        self._batcher_of(job).submit(job)

    def cancel(self, job: Job) -> None:
        """Compute no more of a request."""
        self._batcher_of(job).cancel(job)

    def _batcher_of(self, job: Job) -> Batcher:
        return self._written if self._written is not None and self.written(job.model) else self.batcher

    def _open_reviews(self) -> Reviews | None:
        """The queue of answers that people check, where the server has a store.

        Raises:
            StoreError, MissingExtraError: the store cannot be opened.
            ConfigError: the function that redacts texts cannot be found.
        """
        if self.settings.store is None:
            return None
        try:
            from palmette.serving.reviewing import Reviews
        except ModuleNotFoundError as error:
            raise MissingExtraError(error.name or "sqlalchemy", "operate") from error
        models = [self.model, *([self.writer] if self.writer is not None else [])]
        return Reviews.open(self.settings.store, self.settings.review, self.metrics.registry, models)

    def _watch(self) -> Watcher | None:
        if not self.settings.watch:
            return None
        watcher = Watcher(self.metrics, window=self.settings.watch_window, seed=_SEED, now=lambda: datetime.now(UTC))
        watcher.prepare(self.model)
        watcher.follow(self.model)
        return watcher

    def _reads(self, model: Served) -> bool:
        return self.watcher is not None and self.watcher.reads(model)

    async def reload(self) -> Served:
        """Load models and keys anew, in a thread, and answer with them from then on.

        Whatever was accepted before keeps its model. If anything is wrong with the new one, the old one stays.

        Raises:
            RefusedError: 409 if a reload is going on or the model is broken, 500 if loading itself failed.
        """
        if not self._changing.acquire(blocking=False):
            raise RefusedError(409, "reload_running", "a reload is going on; ask again when it is done")
        try:
            keys, roster, writer = await asyncio.to_thread(self._read)
        except PalmetteError as error:
            self.metrics.reloads.labels("refused").inc()
            # Such messages are about the operator's files, not about callers' texts.
            log("reload refused, the old model stays", level=logging.ERROR, reason=str(error))
            raise RefusedError(409, "reload_refused", f"the old model stays: {error}") from error
        except Exception as error:
            self.metrics.reloads.labels("failed").inc()
            log("reload failed, the old model stays", level=logging.ERROR, error=error)
            raise RefusedError(500, "reload_failed", "the old model stays; the log has the reason") from error
        else:
            self.keys, self.roster, self.writer = keys, roster, writer
            self._watch_live()
        finally:
            self._changing.release()
        self._show_roles()
        self.metrics.reloads.labels("done").inc()
        log("reloaded", digest=roster.live.digest)
        return roster.live

    async def change_roles(self, change: Callable[[Releases], State]) -> State:
        """Change roles in the store, and follow them here before answering; other servers follow within a second.

        Raises:
            RefusedError: 409 the change is not possible or there is no store; 503 the store cannot be reached; 500 this
                server cannot load what has the role now.
        """
        if self.releases is None or self.follower is None:
            raise RefusedError(409, "no_store", "this server has no store of releases: palmette serve --store")
        try:
            state = await asyncio.to_thread(change, self.releases)
        except ReleaseError as error:
            raise RefusedError(409, "release_refused", str(error)) from error
        except PalmetteError as error:
            raise RefusedError(503, "store_unavailable", str(error)) from error
        try:
            await asyncio.to_thread(self.follower.look)
        except Exception as error:
            log("the roles cannot be followed", level=logging.ERROR, error=error)
            message = "the roles are changed in the store, but this server cannot follow; its log has the reason"
            raise RefusedError(500, "not_followed", message) from error
        return state

    async def show_releases(self) -> dict[str, Any]:
        """Roles, versions and log, and what this server counted of the candidate.

        Raises:
            RefusedError: 409 there is no store; 503 it cannot be reached.
        """
        if (book := self.releases) is None or self.follower is None:
            raise RefusedError(409, "no_store", "this server has no store of releases: palmette serve --store")
        try:
            state, versions, entries = await asyncio.to_thread(
                lambda: (book.state(), book.versions(), book.log(last=_ENTRIES))
            )
        except PalmetteError as error:
            raise RefusedError(503, "store_unavailable", str(error)) from error
        roster = self.roster
        served = {"live": roster.live} | ({"candidate": roster.candidate} if roster.candidate is not None else {})
        return {
            "state": asdict(state),
            "served": {role: model.digest for role, model in served.items()},
            # Without the path: that is nobody's business who calls over HTTP.
            "versions": [
                {
                    "digest": found.digest,
                    "tasks": dict(found.tasks),
                    "precision": found.precision,
                    "registered": found.registered.isoformat(),
                    "by": found.by,
                    "source": found.source,
                }
                for found in versions.values()
            ],
            "log": [entry.as_json() for entry in entries],
            "trial": self.follower.trial.counts() if roster.candidate is not None else None,
        }

    async def exposition(self) -> bytes:
        """What is counted, for Prometheus."""
        if self.reviews is not None:
            await asyncio.to_thread(self.reviews.measure)
        return self.metrics.render()

    def _read(self) -> tuple[Keys, Roster, Served | None]:
        keys, roster = Keys.read(self.settings.keys), self._source.read(None)
        writer = self._start_writer(roster)
        if self.watcher is not None:
            self.watcher.prepare(roster.live)
        return keys, roster, writer

    def _follow(self) -> None:
        """Answer with what has the roles now. Whatever was accepted before keeps its model."""
        with self._changing:
            roster = self._source.read(self.roster)
            if self.watcher is not None:
                try:
                    self.watcher.prepare(roster.live)
                except PalmetteError as error:  # the store has decided what is live
                    log("the live model is not watched", level=logging.WARNING, reason=str(error))
            self.roster = roster
            self._watch_live()
        self._show_roles()

    def _watch_live(self) -> None:
        if self.watcher is not None:
            self.watcher.follow(self.model)

    def _show_roles(self) -> None:
        state = self.roster.state
        self.metrics.show_roles(state.roles or {"live": self.model.digest}, state.share)


def _open_releases(path: Path | None, settings: ServerSettings) -> Releases | None:
    if settings.store is None:
        return None
    if path is not None and not is_bundle(path) and path.exists():
        log("roles are for bundles: this model is served without", level=logging.WARNING)
        return None
    try:
        from palmette.operate.releases.book import Releases
        from palmette.store import open_store
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "sqlalchemy", "operate") from error
    return Releases(open_store(settings.store), now=lambda: datetime.now(UTC))
