"""Watches what the server answers: windows of each task against the bundle's reference profile."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from palmette.deploy.bundle import PROFILE
from palmette.errors import BundleError, MissingExtraError
from palmette.predictor import Predictor
from palmette.runtime import EMBEDDED, NO_EMBEDDINGS, Runtime
from palmette.serving.metrics import Metrics
from palmette.serving.model import Served
from palmette.serving.observing import Answered

if TYPE_CHECKING:
    from palmette.operate.watch.profile import Profile
    from palmette.operate.watch.windows import TaskWatch, Window

_MODELS = 2  # that are watched at once: the one that answers, and the one before it or beside it


class Watcher:
    """An observer that keeps windows of each task and says what moved.

    Args:
        metrics: where its gauges are.
        window: texts in a window.
        seed: of the resampling.
        now: the time.
    """

    def __init__(self, metrics: Metrics, *, window: int, seed: int, now: Callable[[], datetime]) -> None:
        self._metrics = metrics
        self._window = window
        self._seed = seed
        self._now = now
        self._lock = threading.Lock()
        self._watches: dict[str, dict[str, TaskWatch]] = {}
        self._live = ""  # digest of the model that the gauges describe

    def prepare(self, model: Served) -> None:
        """Get ready to watch a model: resampling its reference takes seconds.

        Raises:
            BundleError: the model has no profile, or no task of it was described.
            MissingExtraError: SciPy is not installed.
        """
        profile = read_profile(model)
        try:
            from palmette.operate.watch.windows import TaskWatch
        except ImportError as error:
            raise MissingExtraError(error.name or "scipy", "operate") from error
        if model.digest in self._watches:
            return
        found = {
            task: TaskWatch(task, one, window=self._window, tasks=len(profile), seed=self._seed)
            for task, one in profile.items()
        }
        with self._lock:
            self._watches[model.digest] = found
            for digest in list(self._watches)[:-_MODELS]:
                del self._watches[digest]

    def follow(self, live: Served) -> None:
        """Let the gauges describe this model from now on, once a window of its answers is full."""
        with self._lock:
            if live.digest != self._live:
                self._live = live.digest
                self._metrics.clear_watched()

    def reads(self, model: Served) -> bool:
        """Whether the embeddings of what a model answers are wanted."""
        return model.digest in self._watches

    def answered(self, answers: Sequence[Answered]) -> None:
        """Look at a batch."""
        from palmette.operate.watch.looks import count_words, look, own_subwords
        from palmette.operate.watch.profile import unknown_token

        now = self._now()
        for answer in answers:
            watches, reading = self._watches.get(answer.model.digest, {}), answer.reading
            predictor = answer.model.answerer.predictor
            if reading is None or reading.embedding is None or not isinstance(predictor, Predictor):
                continue
            example, unknown = answer.example, unknown_token(predictor)
            words = count_words(example)
            if not words or not watches.keys() & answer.predictions.keys():
                continue
            subwords = own_subwords(predictor.encoder, example)
            for task, prediction in answer.predictions.items():
                if task not in watches:
                    continue
                seen = look(
                    answer.model.kinds[task],
                    prediction,
                    subwords,
                    reading.embedding,
                    words=words,
                    unknown=unknown,
                )
                with self._lock:
                    if watches[task].add(seen, now=now) and answer.model.digest == self._live:
                        self._publish(task, watches[task])

    def close(self) -> None:
        """Nothing has to be written."""

    def state(self, model: Served) -> dict[str, Any]:
        """What `GET /v1/watch` shows."""
        with self._lock:
            watches = self._watches.get(model.digest, {})
            return {
                "digest": model.digest,
                "window": self._window,
                "tasks": {task: _task(watch) for task, watch in watches.items()},
                "unwatched": [task for task in model.kinds if task not in watches],
            }

    def _publish(self, task: str, watch: TaskWatch) -> None:
        """Set the gauges to the latest window."""
        latest, metrics = watch.windows[-1], self._metrics
        metrics.watch_windows.labels(task).inc()
        for signal, finding in latest.findings.items():
            metrics.drift_distance.labels(task, signal).set(finding.effect)
            metrics.drift_p_value.labels(task, signal).set(finding.p)
            metrics.drift_alarm.labels(task, signal).set(signal in watch.alarms)
        if not watch.profile.claims.any():
            return  # there never is an estimate: nothing to be alarmed about
        found = latest.estimate
        metrics.estimate_supported.labels(task).set(found is not None)
        metrics.estimated_accuracy.labels(task).set(found.value if found else math.nan)
        metrics.estimated_accuracy_low.labels(task).set(found.low if found else math.nan)
        metrics.estimated_accuracy_high.labels(task).set(found.high if found else math.nan)
        metrics.reference_accuracy.labels(task).set(watch.profile.accuracy)


def read_profile(model: Served) -> Profile:
    """The reference profile in a bundle.

    Raises:
        BundleError: there is none.
    """
    answerer = model.answerer
    if not isinstance(answerer, Runtime):
        raise BundleError("watching needs the reference profile of a bundle: palmette export RUN --out BUNDLE")
    names = {found.name for found in answerer.session.get_inputs()}
    where = answerer.bundle.folder
    if PROFILE not in answerer.bundle.manifest["files"] or EMBEDDED not in names:
        raise BundleError(f"{where}: {NO_EMBEDDINGS}")
    from palmette.operate.watch.profile import from_json

    profile = from_json(answerer.bundle.read_json(PROFILE), where=str(where / PROFILE))
    if not profile:
        raise BundleError(f"{where / PROFILE}: describes no task: there were too few examples to watch any of them by")
    return profile


def _task(watch: TaskWatch) -> dict[str, Any]:
    profile = watch.profile
    return {
        "state": _state(watch),
        "texts": watch.seen,
        "filling": watch.waiting,
        "metric": profile.metric,
        "reference": {"texts": profile.texts, "accuracy": _number(profile.accuracy)},
        "signals": watch.detector.signals,
        "limit": watch.limit,
        "alarms": [
            {
                "signal": alarm.signal,
                "since": alarm.since.isoformat(timespec="seconds"),
                "windows": alarm.windows,
                "effect": round(alarm.effect, 5),
                "usual": round(alarm.usual, 5),
                "message": alarm.message,
                "advice": alarm.advice,
            }
            for alarm in watch.alarms.values()
        ],
        "raised": sum(watch.raised.values()),
        "windows": [_window(window) for window in watch.windows],
    }


def _state(watch: TaskWatch) -> str:
    if watch.alarms:
        return "alarm"
    if not watch.windows:
        return "waiting"
    return "ok" if all(found.p > watch.limit for found in watch.windows[-1].findings.values()) else "suspicious"


def _window(window: Window) -> dict[str, Any]:
    found = window.estimate
    return {
        "began": window.began.isoformat(timespec="seconds"),
        "ended": window.ended.isoformat(timespec="seconds"),
        "texts": window.texts,
        "signals": {
            signal: {"effect": round(finding.effect, 5), "usual": round(finding.usual, 5), "p": finding.p}
            for signal, finding in window.findings.items()
        },
        "estimate": None
        if found is None
        else {
            "metric": found.metric,
            "value": round(found.value, 4),
            "low": round(found.low, 4),
            "high": round(found.high, 4),
            "texts": found.texts,
        },
        "reason": window.reason,
    }


def _number(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 4)
