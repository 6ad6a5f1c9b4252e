"""What a server holds while it runs: the model, the queue, the keys, and how they are replaced."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from palmette.answering import Answerer
from palmette.errors import MissingExtraError, PalmetteError
from palmette.serving.batcher import Batcher
from palmette.serving.keys import Keys
from palmette.serving.logs import log
from palmette.serving.metrics import Metrics
from palmette.serving.model import Served
from palmette.serving.observing import Gallery, Observer
from palmette.serving.refusal import RefusedError
from palmette.serving.settings import ServerSettings
from palmette.serving.watching import Watcher

_SEED = 13  # of the resampling that limits of watched signals come from

if TYPE_CHECKING:
    from palmette.serving.reviewing import Reviews


class Service:
    """A running server's state.

    Args:
        load: path -> answerer; imports whatever the model needs.
        path: of the model. A reload reads it again, and never another one: who may reload must not read any file.
        settings: of the operator.

    Attributes:
        model: what answers requests that are accepted now.
        reviews: the queue of answers that people check; None without a store.
        draining: the server is about to end.

    Raises:
        PalmetteError: the model cannot be loaded, or the keys.
    """

    def __init__(self, load: Callable[[Path], Answerer], path: Path, settings: ServerSettings) -> None:
        self.settings = settings
        self._load = load
        self._path = path
        self.keys = Keys.read(settings.keys)
        self.model = Served.of(load(path), path)
        self.metrics = Metrics()
        self.reviews = self._open_reviews()
        self.watcher = self._watch()
        self.batcher = Batcher(
            self.metrics,
            Gallery(self._observers(), self.metrics, reads=self._reads),
            batch_tokens=settings.batch_tokens,
            queue_tokens=settings.queue_tokens,
            queue_seconds=settings.queue_seconds,
            longest_wait=settings.longest_wait,
            workers=settings.workers,
        )
        self.draining = False
        self._reloading = False

    def _observers(self) -> list[Observer]:
        """Who looks on, as the settings say."""
        return [observer for observer in (self.reviews, self.watcher) if observer is not None]

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
        return Reviews.open(self.settings.store, self.settings.review, self.metrics.registry, self.model)

    def _watch(self) -> Watcher | None:
        if not self.settings.watch:
            return None
        watcher = Watcher(self.metrics, window=self.settings.watch_window, seed=_SEED, now=lambda: datetime.now(UTC))
        watcher.prepare(self.model)
        return watcher

    def _reads(self, model: Served) -> bool:
        return self.watcher is not None and self.watcher.reads(model)

    async def reload(self) -> Served:
        """Load model and keys anew, in a thread, and answer with them from then on.

        Whatever was accepted before keeps its model. If anything is wrong with the new one, the old one stays.

        Raises:
            RefusedError: 409 if a reload is going on or the model is broken, 500 if loading itself failed.
        """
        if self._reloading:
            raise RefusedError(409, "reload_running", "a reload is going on; ask again when it is done")
        self._reloading = True
        try:
            keys, model = await asyncio.to_thread(self._read)
        except PalmetteError as error:
            self.metrics.reloads.labels("refused").inc()
            # Such messages are about the operator's files, not about callers' texts.
            log("reload refused, the old model stays", level=logging.ERROR, reason=str(error))
            raise RefusedError(409, "reload_refused", f"the old model stays: {error}") from error
        except Exception as error:
            self.metrics.reloads.labels("failed").inc()
            log("reload failed, the old model stays", level=logging.ERROR, error=error)
            raise RefusedError(500, "reload_failed", "the old model stays; the log has the reason") from error
        finally:
            self._reloading = False
        self.keys, self.model = keys, model
        self.metrics.reloads.labels("done").inc()
        log("reloaded", digest=model.digest)
        return model

    async def exposition(self) -> bytes:
        """What is counted, for Prometheus."""
        if self.reviews is not None:
            await asyncio.to_thread(self.reviews.measure)
        return self.metrics.render()

    def _read(self) -> tuple[Keys, Served]:
        keys, model = Keys.read(self.settings.keys), Served.of(self._load(self._path), self._path)
        if self.watcher is not None:
            self.watcher.prepare(model)
        return keys, model
