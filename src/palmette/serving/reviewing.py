"""Puts answers into the queue that people check: uncertain ones, disputed ones, and some by chance."""

from __future__ import annotations

import hashlib
import logging
import math
import threading
import time
from collections import Counter as Tally
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge

from palmette.errors import ConfigError
from palmette.kinds import AnyKind
from palmette.operate.review.cleanup import clean_up
from palmette.operate.review.queue import Candidate, Decision, Item, Queue, Rules, Why
from palmette.operate.review.redaction import find_redaction
from palmette.serving.logs import log
from palmette.serving.model import Served
from palmette.serving.observing import Answered
from palmette.serving.settings import ReviewSettings
from palmette.store import open_store
from palmette.types import Example, Label, Prediction

_SWEEP = 60.0  # seconds between two looks for expired texts
_FLUSH = 1.0  # seconds that counts of answers wait in memory; a crash loses them
_MEASURE = 5.0  # seconds that the gauges stay as they are: they take queries


class ReviewMetrics:
    """What Prometheus learns of the queue and of corrections."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, about: str, *labels: str) -> Counter:
            return Counter(f"palmette_review_{name}", about, labels, registry=registry)

        def gauge(name: str, about: str, *labels: str) -> Gauge:
            return Gauge(f"palmette_{name}", about, labels, registry=registry)

        version = ("task", "digest")
        self.items = counter("items", "Answers put into the queue.", "task", "why")
        self.dropped = counter("dropped", "Answers that found the queue full.", "task", "why")
        self.decisions = counter("decisions", "What reviewers said.", "task", "verdict")
        self.unkept = counter("unkept_texts", "Texts not kept since redaction failed.")
        self.waiting = gauge("review_waiting", "Items that wait.", "task")
        self.answers = gauge("cleanup_answers", "Answers that went out without a person.", *version)
        self.corrected = gauge("cleanup_corrected", "Of them, corrected afterwards.", *version)
        self.rate = gauge("cleanup_rate", "Share corrected afterwards: a lower bound of the errors.", *version)
        self.size = gauge("cleanup_size", "Share of a corrected answer's units that was changed.", *version)


class Reviews:
    """An `Observer` that keeps the queue.

    Args:
        queue: where items go.
        settings: which answers people check.
        registry: of the metrics.
        clock: the time, with its zone.
    """

    def __init__(
        self,
        queue: Queue,
        settings: ReviewSettings,
        registry: CollectorRegistry,
        *,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.queue = queue
        self.settings = settings
        self.metrics = ReviewMetrics(registry)
        self.now = clock
        self._known: set[str] = set()
        self._counts: Tally[tuple[str, str]] = Tally()
        self._changed = threading.Lock()
        self._measured = -math.inf
        self._ended = threading.Event()
        self._sweeper = threading.Thread(target=self._sweep, name="palmette-reviews", daemon=True)
        self._sweeper.start()

    @classmethod
    def open(cls, url: str, settings: ReviewSettings, registry: CollectorRegistry, models: Sequence[Served]) -> Reviews:
        """Open the store, and make the tasks of the models that answer known in it.

        Raises:
            StoreError: it cannot be opened.
            ConfigError: the function that redacts cannot be found, or a threshold is of no task.
        """
        known = [task for model in models for task in model.kinds]
        for task in settings.thresholds.keys() - set(known):
            raise ConfigError(f"review.thresholds.{task}: no model has such a task; there are {', '.join(known)}")
        rules = Rules(
            capacity=settings.capacity,
            reviewers=settings.reviewers,
            keep=timedelta(days=settings.keep_days) if settings.keep_texts else None,
            redact=None if settings.redact is None else find_redaction(settings.redact),
            lease=timedelta(minutes=settings.lease_minutes),
        )
        reviews = cls(Queue(open_store(url), rules), settings, registry)
        for model in models:
            reviews.know(model)
        return reviews

    # --- Answers come in ------------------------------------------------------------------------------------------

    def know(self, model: Served) -> None:
        """Make a model's tasks known, so that its items can be read when it has gone."""
        if model.digest not in self._known:
            self.queue.know(model.kinds, model.digest, now=self.now())
            self._known.add(model.digest)

    def answered(self, answers: Sequence[Answered]) -> None:
        """Choose what people check, and count the rest."""
        chosen: list[Candidate] = []
        automatic: Tally[tuple[str, str]] = Tally()
        for answer in answers:
            self.know(answer.model)
            audited = self._audited(answer)
            for task, prediction in answer.predictions.items():
                doubt = self._doubt(answer.model.kinds[task], prediction)
                automatic[task, answer.model.digest] += doubt is None
                if doubt is not None or audited:
                    chosen.append(_candidate(answer, task, doubt or "audit", automatic=doubt is None))
        with self._changed:
            self._counts.update(automatic)
        self._add(chosen)

    def disagreed(self, answers: Sequence[tuple[Answered, Mapping[str, Prediction]]]) -> int:
        """Put those answers into the queue on which another model says something else.

        Args:
            answers: what was answered, each with {task: what the other model answers}.

        Returns:
            How many there are, whether the queue had room or not.
        """
        found = []
        for answer, others in answers:
            self.know(answer.model)
            found += [
                _candidate(
                    answer,
                    task,
                    "disagreement",
                    automatic=self._doubt(answer.model.kinds[task], prediction) is None,
                    other=other,
                )
                for task, prediction in answer.predictions.items()
                if (other := others.get(task)) is not None and other.label != prediction.label
            ]
        self._add(found)
        return len(found)

    def _add(self, chosen: Sequence[Candidate]) -> None:
        if not chosen:
            return
        _, dropped, problems = self.queue.add(chosen, now=self.now())
        lost = Tally((candidate.task, candidate.why) for candidate in dropped)
        for (task, why), count in Tally((candidate.task, candidate.why) for candidate in chosen).items():
            self.metrics.items.labels(task, why).inc(count - lost[task, why])
        for (task, why), count in lost.items():
            self.metrics.dropped.labels(task, why).inc(count)
        self._tell(problems)

    def _tell(self, problems: Sequence[str]) -> None:
        """Count and log texts that are not kept."""
        if problems:
            self.metrics.unkept.inc(len(problems))
            log("texts not kept", level=logging.ERROR, texts=len(problems), reason=problems[0])

    def _doubt(self, kind: AnyKind, prediction: Prediction) -> Why | None:
        """Why an answer is not to be trusted, if it is not."""
        if prediction.readable is False:
            return "unreadable"
        return "low_confidence" if self._is_low(kind, prediction) else None

    def _is_low(self, kind: AnyKind, prediction: Prediction) -> bool:
        """Below the operator's threshold; where there is none, below the model's own (`palmette calibrate`)."""
        threshold = self.settings.thresholds.get(kind.task, self.settings.threshold)
        if threshold is None:
            decide = kind.calibration.decide
            return any(decide(claim.confidence) == "review" for claim in kind.claims(prediction))
        confidence = least(prediction, kind)
        return confidence is not None and confidence < threshold

    def _audited(self, answer: Answered) -> bool:
        """By a hash, so that the same request is drawn wherever and whenever it is asked."""
        name = f"{self.settings.seed}\0{answer.request_id}\0{answer.number}"
        drawn = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big")
        return drawn < self.settings.audit * 2**64

    # --- People come in -------------------------------------------------------------------------------------------

    def report(self, candidate: Candidate, reviewer: str, *, label: Any, example: Example | None) -> Decision:
        """Put an answer into the queue together with its correction (`Queue.report`)."""
        decision, problems = self.queue.report(candidate, reviewer, now=self.now(), label=label, example=example)
        self.metrics.items.labels(candidate.task, candidate.why).inc()
        self._tell(problems)
        return decision

    def said(self, item: Item, decision: Decision) -> None:
        """Count a decision."""
        self.metrics.decisions.labels(item.task, decision.verdict).inc()

    # --- From time to time ----------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Write down the counts of answers."""
        with self._changed:
            counts, self._counts = self._counts, Tally()
        if counts := Tally({key: count for key, count in counts.items() if count}):
            try:
                self.queue.count(counts, now=self.now())
            except BaseException:
                with self._changed:
                    self._counts.update(counts)
                raise

    def measure(self) -> None:
        """Bring the gauges up to date."""
        if time.monotonic() - self._measured < _MEASURE:
            return
        self._measured = time.monotonic()
        self.flush()
        self.metrics.waiting.clear()
        for task, count in self.queue.waiting().items():
            self.metrics.waiting.labels(task).set(count)
        for found in clean_up(self.queue):
            version = (found.task, found.digest)
            self.metrics.answers.labels(*version).set(found.answers)
            self.metrics.corrected.labels(*version).set(found.corrected)
            if found.rate is not None:
                self.metrics.rate.labels(*version).set(found.rate)
            if found.units:
                self.metrics.size.labels(*version).set(found.changed / found.units)

    def _sweep(self) -> None:
        swept = -math.inf
        while not self._ended.wait(_FLUSH):
            try:
                self.flush()
                if time.monotonic() - swept >= _SWEEP:
                    swept = time.monotonic()
                    self.queue.expire(now=self.now())
            except Exception as error:  # noqa: BLE001 - a database that is away comes back
                log("the review queue could not be tended", level=logging.ERROR, error=error)

    def close(self) -> None:
        """Write down what is counted, and close the store."""
        self._ended.set()
        self._sweeper.join()
        self.flush()
        self.queue.engine.dispose()


def least(prediction: Prediction, kind: AnyKind) -> float | None:
    """The confidence of an answer as callers see it, of tags that of the least certain word; None without one."""
    found = prediction.confidence
    value = found if isinstance(found, float) else min(found, default=math.nan)
    return None if math.isnan(value) else kind.calibration.mean(float(value))


def _candidate(answer: Answered, task: str, why: Why, *, automatic: bool, other: Prediction | None = None) -> Candidate:
    kind: AnyKind = answer.model.kinds[task]
    prediction = answer.predictions[task]
    return Candidate(
        request_id=answer.request_id,
        number=answer.number,
        task=task,
        kind=kind,
        digest=answer.model.digest,
        example=answer.example,
        prediction=_readable(prediction),
        confidence=least(prediction, kind),
        why=why,
        automatic=automatic,
        candidate=None if other is None else _readable(other),
    )


def _readable(prediction: Prediction) -> Label | None:
    """The label; None where nobody could read all of what the model wrote: what stands for that is no label."""
    return None if prediction.readable is False else prediction.label
