"""Who looks on while a server answers: reviews, drift, candidates. No caller waits for them."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from prometheus_client import Counter

from palmette.predictor import Reading
from palmette.serving.logs import log
from palmette.serving.metrics import Metrics
from palmette.serving.model import Served
from palmette.types import Example, Prediction


@dataclass(frozen=True, slots=True)
class Answered:
    """A text that was answered.

    Attributes:
        model: what answered it.
        request_id: of the request.
        number: the text's place in the request, from 0.
        example: the text, with its words.
        predictions: {task: answer}, of the tasks that were asked for.
        key: what the request is told apart by where models share the traffic: the user it names, or its id.
        reading: what they were decoded from, with the text's mean vector, where an observer reads that.
    """

    model: Served
    request_id: str
    number: int
    example: Example
    predictions: Mapping[str, Prediction]
    key: str = ""
    reading: Reading | None = None


class Observer(Protocol):
    """Looks on. It is called from one thread, one batch after the other."""

    def answered(self, answers: Sequence[Answered]) -> None:
        """Look at what a batch was answered. An error is logged, and the next batch comes all the same."""

    def close(self) -> None:
        """No more will come: write what has to be written."""


class Gallery:
    """Passes answers to observers, in a thread of its own.

    What comes while `texts` wait already is not looked at, and counted: answering goes first.

    Args:
        observers: who looks on.
        metrics: what to count with.
        texts: that may wait.
        reads: whether an observer wants the readings of what a model answers; no by default.
        unseen: counts what was not looked at; by default the server's own counter.
    """

    def __init__(
        self,
        observers: Sequence[Observer],
        metrics: Metrics,
        *,
        texts: int = 20_000,
        reads: Callable[[Served], bool] = lambda _: False,
        unseen: Counter | None = None,
    ) -> None:
        self.observers = tuple(observers)
        self.reads = reads
        self._metrics = metrics
        self._unseen = unseen or metrics.unobserved
        self._most = texts
        self._waiting = 0
        self._changed = threading.Lock()
        self._queue: queue.SimpleQueue[list[Answered] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="palmette-observers", daemon=True)
        if self.observers:
            self._thread.start()

    def show(self, answers: list[Answered]) -> None:
        """Let the observers look at a batch, later."""
        if not self.observers:
            return
        with self._changed:
            seen = self._waiting + len(answers) <= self._most
            self._waiting += len(answers) * seen
        if seen:
            self._queue.put(answers)
        else:
            self._unseen.inc(len(answers))

    def close(self) -> None:
        """Show what waits, then end."""
        if self.observers:
            self._queue.put(None)
            self._thread.join()
        for observer in self.observers:
            observer.close()

    def _work(self) -> None:
        while (answers := self._queue.get()) is not None:
            for observer in self.observers:
                try:
                    observer.answered(answers)
                except Exception as error:  # noqa: BLE001 - whatever fails there, answering goes on
                    self._metrics.observer_errors.labels(type(observer).__name__).inc()
                    log("an observer failed", level=logging.ERROR, error=error, observer=type(observer).__name__)
            with self._changed:
                self._waiting -= len(answers)
