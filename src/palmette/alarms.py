"""Alarms while training: a task that falls significantly below its own best, or that is below a given baseline."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from palmette import statistics
from palmette.errors import ConfigError
from palmette.kinds import AnyKind
from palmette.types import Example, Prediction

Floats = NDArray[np.float64]

OWN_BEST, BASELINE = "below_own_best", "below_baseline"
_LEVEL = 0.05  # chance that a run in which nothing is wrong raises any alarm
_ROUNDS = 2000


@dataclass
class State:
    """All that the next evaluation's alarms depend on; stored in checkpoints.

    Attributes:
        looks: evaluations seen.
        best: by task, the update and value of its best evaluation so far.
        below: by task, the first update of the present stretch of evaluations below its baseline.
        active: by alarm that has not ended, `kind/task`: its `since`.
        opposed: by task, the tasks whose gradients opposed it in the last probe; None where there was none.
        unwatched: tasks whose metric cannot be tested.
    """

    looks: int = 0
    best: dict[str, tuple[int, float]] = field(default_factory=dict)
    below: dict[str, int] = field(default_factory=dict)
    active: dict[str, int] = field(default_factory=dict)
    opposed: dict[str, list[str]] | None = None
    unwatched: list[str] = field(default_factory=list)

    @classmethod
    def parse(cls, stored: Mapping[str, Any]) -> State:
        """From JSON, which has no tuples."""
        return cls(**{**stored, "best": {task: (update, value) for task, (update, value) in stored["best"].items()}})


@dataclass(frozen=True, slots=True)
class _Test:
    """A task's present answers against one reference.

    Attributes:
        task, kind: what is tested against what.
        value, reference: of the task's metric.
        since: when it was at the reference (own best), or first below it (baseline).
        p: one-sided, of not being below; 1 where it is not.
        looks: how many references this one was chosen from.
    """

    task: str
    kind: str
    value: float
    reference: float
    since: int
    p: float
    looks: int = 1


class Alarms:
    """Watches each task's metric on dev over a run.

    After each evaluation a task is tested against its own best evaluation so far (approximate randomisation between
    the two models' answers to the same examples: Yeh 2000) and, where one is given, against a baseline value (its
    distance in standard errors, by a bootstrap over the dev examples). A task that is still rising may yet reach its
    baseline: that alarm waits until an evaluation brings no new best, at most for the first half of the run.

    Every evaluation is another chance to be wrong. Of 5 %, each of the run's planned evaluations may spend an equal
    share (Bonferroni); the best of n earlier evaluations stands for n tests (Bonferroni, too); tasks and references of
    one evaluation share by Holm 1979. So at most 5 % of the runs in which no model is worse than an earlier one, or
    than its baseline, raise any alarm. An alarm ends at the first evaluation that is not below the reference, or not
    significantly so even without these corrections.

    The tests ask whether one *model* is worse than another on texts like dev's, not whether training would end so
    again with another seed. A baseline counts as exact, although it was measured, too.

    Args:
        kinds: the tasks.
        baseline: a dev value of some tasks' own metrics.
        evaluations: how many the run will make at most.
        seed: of the tests.
    """

    def __init__(
        self, kinds: Mapping[str, AnyKind], *, baseline: Mapping[str, float], evaluations: int, seed: int
    ) -> None:
        self.kinds = kinds
        self.baseline = baseline
        self.evaluations = evaluations
        self.seed = seed
        self.state = State()
        self.best: dict[str, Floats] = {}  # parts [examples, parts] of each task's best evaluation

    def probed(self, cosine: Mapping[str, Mapping[str, Sequence[float]]]) -> None:
        """Take in the cosines of a probe: which tasks' gradients oppose each other, on average over layers."""
        found: dict[str, list[tuple[float, str]]] = {task: [] for task in self.kinds}
        for first, others in cosine.items():
            for second, by_layer in others.items():
                mean = float(np.mean(by_layer))
                if mean < 0:
                    found[first].append((mean, second))
                    found[second].append((mean, first))
        self.state.opposed = {task: [other for _, other in sorted(others)] for task, others in found.items() if others}

    def look(
        self,
        examples: Sequence[Example],
        answers: Sequence[Mapping[str, Prediction]],
        values: Mapping[str, float],
        *,
        update: int,
        epoch: int,
    ) -> list[dict[str, Any]]:
        """Test an evaluation's answers. -> events: alarms that begin, alarms that end, tasks that cannot be watched.

        Args:
            examples: of dev, the same at each look.
            answers: to them.
            values: each task's own metric.
            update: after which they were measured.
            epoch: from 1.
        """
        self.state.looks += 1
        tests: list[_Test] = []
        events: list[dict[str, Any]] = []
        for task, value in values.items():
            try:
                parts = self._parts(task, examples, answers)
            except ConfigError as error:  # a kind from another package, whose metric does not come apart
                if task not in self.state.unwatched:
                    self.state.unwatched.append(task)
                    events.append({"event": "unwatched", "task": task, "reason": str(error)})
                continue
            tests += self._tests(task, value, parts, update)
            if not math.isnan(value) and (task not in self.state.best or value > self.state.best[task][1]):
                self.state.best[task], self.best[task] = (update, value), parts
        corrected = self._corrected(tests)
        for test, p in zip(tests, corrected, strict=True):
            name = f"{test.kind}/{test.task}"
            begins = name not in self.state.active and p <= _LEVEL
            ends = name in self.state.active and test.p > _LEVEL
            if begins:
                self.state.active[name] = test.since
            if begins or ends:
                since = self.state.active[name]
                events.append(self._event(test, p, since, update=update, epoch=epoch, over=ends))
            if ends:
                del self.state.active[name]
        return events

    def _event(self, test: _Test, p: float, since: int, *, update: int, epoch: int, over: bool) -> dict[str, Any]:
        return {
            "event": "alarm",
            "task": test.task,
            "update": update,
            "epoch": epoch,
            "kind": test.kind,
            "over": over,
            "value": test.value,
            "reference": test.reference,
            "since": since,
            "p": float(f"{p:.4g}"),
            "opposed_by": self._opposed(test.task),
        }

    def _opposed(self, task: str) -> list[str] | None:
        """The tasks whose gradients oppose this one's; None where nobody looked, although there are others."""
        if self.state.opposed is None:
            return None if len(self.kinds) > 1 else []
        return list(self.state.opposed.get(task, []))

    def _parts(self, task: str, examples: Sequence[Example], answers: Sequence[Mapping[str, Prediction]]) -> Floats:
        pairs = [(e.labels[task], a[task].label) for e, a in zip(examples, answers, strict=True) if task in e.labels]
        return self.kinds[task].parts([gold for gold, _ in pairs], [answer for _, answer in pairs])

    def _tests(self, task: str, value: float, parts: Floats, update: int) -> list[_Test]:
        """The task against each of its references."""
        tests, rising = [], True
        if task in self.state.best:
            since, best = self.state.best[task]
            rising = value > best
            p = 1.0 if value >= best else self._against_best(task, parts)
            tests.append(_Test(task, OWN_BEST, value, best, since, p, looks=self.state.looks - 1))
        if task in self.baseline:
            baseline = self.baseline[task]
            if value >= baseline:
                self.state.below.pop(task, None)
            since = update if value >= baseline else self.state.below.setdefault(task, update)
            early = rising and 2 * self.state.looks < self.evaluations and f"{BASELINE}/{task}" not in self.state.active
            p = 1.0 if value >= baseline or early else self._against_baseline(task, value, baseline, parts)
            tests.append(_Test(task, BASELINE, value, baseline, since, p))
        return tests

    def _against_best(self, task: str, parts: Floats) -> float:
        metric, seed = self.kinds[task].combine, self.seed + self.state.looks
        p = statistics.paired(self.best[task], parts, metric=metric, seed=seed, rounds=_ROUNDS)
        # The correction may ask for a p that so few rounds cannot show; more are worth their time only if this is one.
        needed = math.ceil(5 * self.evaluations * (self.state.looks - 1) * self._family() / _LEVEL)
        if needed > _ROUNDS and p * _ROUNDS < 5:
            p = statistics.paired(self.best[task], parts, metric=metric, seed=seed + 1, rounds=needed)
        return p

    def _against_baseline(self, task: str, value: float, baseline: float, parts: Floats) -> float:
        from scipy.stats import t

        seed = self.seed + self.state.looks
        moved = statistics.resample(parts[None], metric=self.kinds[task].combine, seed=seed, resamples=_ROUNDS)
        error = float(moved.std(ddof=1))
        if not error > 0:  # every example answered alike, or with what is no number
            return 0.0
        return float(t.sf((baseline - value) / error, max(len(parts) - 1, 1)))

    def _family(self) -> int:
        """How many tests an evaluation makes at most."""
        return len(self.kinds) + len(self.baseline)

    def _corrected(self, tests: Sequence[_Test]) -> list[float]:
        """Each test's p for all that a run tests."""
        p_values = [min(1.0, test.p * test.looks * self.evaluations) for test in tests]
        if not any(p <= _LEVEL for p in p_values):
            return p_values
        return statistics.holm(p_values)
