"""The same texts answered by both models, in the background: how far the candidate's answers are from the live ones."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import fmean
from typing import Protocol

from palmette.operate.releases.rules import Trial
from palmette.predictor import Input
from palmette.serving.logs import log
from palmette.serving.metrics import Metrics
from palmette.serving.model import Served
from palmette.serving.observing import Answered, Gallery
from palmette.serving.roster import Roster
from palmette.types import Example, Prediction, Text


@dataclass(frozen=True, slots=True)
class Compared:
    """A text with the answers of both.

    Attributes:
        seen: what the caller was answered.
        predictions: {task: answer of the other model}.
        differences: {task: how much the two differ, in [0, 1]} (`Kind.difference`).
    """

    seen: Answered
    predictions: dict[str, Prediction]
    differences: dict[str, float]


class Listener(Protocol):
    """Whoever wants to know of texts on which the models differ: the review queue."""

    def disagreed(self, answers: Sequence[tuple[Answered, Mapping[str, Prediction]]]) -> int:
        """Look at texts, each with {task: answer of the other model} where that differs; how many answers it took."""


class Comparison:
    """An observer that has the other model answer too. It computes in a thread of its own, behind a short queue.

    Live answers wait for nothing but the processor. What comes while `texts` wait already is not compared, and counted.

    Args:
        metrics: what to count with.
        roster: what the server answers with now.
        trial: where counts go, now.
        listener: is told of differences.
        texts: that may wait.
    """

    def __init__(
        self,
        metrics: Metrics,
        *,
        roster: Callable[[], Roster],
        trial: Callable[[], Trial],
        listener: Listener | None = None,
        texts: int = 2000,
    ) -> None:
        self._roster = roster
        self._gallery = Gallery(
            [_Pairs(metrics, roster, trial, listener)], metrics, texts=texts, unseen=metrics.uncompared
        )

    def answered(self, answers: Sequence[Answered]) -> None:
        """Put what is to be compared into the queue."""
        roster = self._roster()
        if meant := [found for found in answers if roster.other(found.model, found.key) is not None]:
            self._gallery.show(meant)

    def close(self) -> None:
        """Compare what waits, then end."""
        self._gallery.close()


class _Pairs:
    """Answers once more, and compares."""

    def __init__(
        self,
        metrics: Metrics,
        roster: Callable[[], Roster],
        trial: Callable[[], Trial],
        listener: Listener | None,
    ) -> None:
        self._metrics = metrics
        self._roster = roster
        self._trial = trial
        self._listener = listener

    def answered(self, answers: Sequence[Answered]) -> None:
        """Compare the texts of a batch, request by request: one that fails is no fault of the others.

        The listener is told at the end, of all of them at once: it writes into a database, for which no count waits.
        """
        roster, trial = self._roster(), self._trial()
        differing: list[tuple[Answered, Mapping[str, Prediction]]] = []
        for _, group in groupby(answers, key=lambda found: found.request_id):
            seen = list(group)
            other = roster.other(seen[0].model, seen[0].key)
            if other is None:  # the roles have changed meanwhile
                continue
            try:
                found = list(_compare(seen, other))
            except Exception as error:  # noqa: BLE001 - no caller is concerned
                log("comparing failed", level=logging.ERROR, error=error, request_id=seen[0].request_id)
                self._metrics.version_failed.labels(other.digest[:12]).inc()
                if other is roster.candidate:
                    trial.failed("candidate")
                continue
            if other is roster.candidate:
                trial.answered("candidate", None)
            self._count(found, trial)
            differing += _differing(found)
        if differing and self._listener is not None:
            self._listener.disagreed(differing)

    def _count(self, found: Sequence[Compared], trial: Trial) -> None:
        by_task: dict[str, list[float]] = {}
        for pair in found:
            for task, difference in pair.differences.items():
                by_task.setdefault(task, []).append(difference)
        for task, differences in by_task.items():
            self._metrics.compared_texts.labels(task).inc(len(differences))
            self._metrics.differing_texts.labels(task).inc(sum(difference > 0 for difference in differences))
            self._metrics.difference.labels(task).inc(sum(differences))
        # A request counts once, however many texts it has: they are seldom independent of each other.
        trial.compared({task: fmean(differences) for task, differences in by_task.items()})

    def close(self) -> None:
        """Nothing is kept."""


def _differing(found: Iterable[Compared]) -> Iterator[tuple[Answered, Mapping[str, Prediction]]]:
    """The texts on which the models differ, with the other one's answers."""
    for pair in found:
        if others := {task: pair.predictions[task] for task, far in pair.differences.items() if far > 0}:
            yield pair.seen, others


def _compare(seen: Sequence[Answered], other: Served) -> Iterable[Compared]:
    """Answer texts by the other model, and say how far its answers are."""
    predictor = other.answerer.predictor
    examples = [predictor.example(_given(found.example)) for found in seen]
    tasks = [[task for task in found.predictions if task in other.kinds] for found in seen]
    for answered, predictions in zip(seen, predictor.answer_each(examples, tasks), strict=True):
        kinds = answered.model.kinds
        differences = {
            task: kinds[task].difference(answered.predictions[task].label, prediction.label)
            for task, prediction in predictions.items()
            if kinds[task].config.kind == other.kinds[task].config.kind
        }
        yield Compared(answered, predictions, differences)


def _given(example: Example) -> Input:
    """What the caller sent: the other model finds words by its own rules."""
    first = _text(example.text)
    return first if example.pair is None else (first, _text(example.pair))


def _text(text: Text) -> str | list[str]:
    return text.raw if text.raw is not None else list(text.words)
