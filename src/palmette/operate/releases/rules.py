"""When a candidate is taken back without asking: errors, latency, disagreement, each beside the live version."""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from pydantic import Field

from palmette.config import Settings
from palmette.sequential import evidence_above, highest

Side = Literal["live", "candidate"]
_SLOW = 0.05  # of the live version's requests are slower than its 95th percentile
_KEPT = 1000  # latest latencies of the live version, whose percentile that is
_REFRESH = 20  # requests of the live version after which the percentile is computed anew


class RolloutRules(Settings):
    """Limits that take a candidate back. None of them is about a single request: each asks for statistical evidence."""

    least: int = Field(50, ge=1, description="Requests of the candidate, and of the live version, before it is judged.")
    error_ratio: float = Field(
        2.0, ge=1, description="Most failed requests, as a multiple of the live version's share of them."
    )
    error_floor: float = Field(
        0.01, gt=0, lt=1, description="Share of failed requests that is no reason, however few fail otherwise."
    )
    latency_ratio: float = Field(
        1.5,
        ge=1,
        description="Slow is a request that takes longer than this multiple of the live version's 95th percentile; "
        "at most one in twenty may be.",
    )
    disagreement: float = Field(
        0.2, gt=0, le=1, description="Most that answers of a task may differ from the live version's, on average."
    )
    task_disagreement: dict[str, float] = Field({}, description="The same for single tasks.")
    alpha: float = Field(
        0.001, gt=0, lt=0.5, description="Chance at most that a window takes a faultless candidate back."
    )
    window: float = Field(3600.0, gt=0, description="Seconds after which counting starts anew.")


@dataclass(slots=True)
class _Sum:
    """Values in [0, 1]."""

    total: float = 0.0
    count: int = 0

    def add(self, value: float) -> None:
        self.total += value
        self.count += 1


@dataclass(slots=True)
class _Window:
    """What was counted since it began."""

    began: float
    failed: dict[Side, _Sum] = field(default_factory=lambda: {"live": _Sum(), "candidate": _Sum()})
    slow: _Sum = field(default_factory=_Sum)
    differences: dict[str, _Sum] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Why a candidate is taken back.

    Attributes:
        rule: errors, latency or disagreement.
        reason: with the figures.
    """

    rule: Literal["errors", "latency", "disagreement"]
    reason: str


class Trial:
    """What a server has seen of a candidate beside the live version, and whether that is enough to take it back.

    Counts are kept for a window and then begin anew, so that a fault that comes late is not outweighed by good days
    before it. The evidence is of a kind that may be looked at after every request (`palmette.sequential`); `alpha` is
    shared by the rules. It takes requests to be independent of each other.

    Called from several threads.

    Args:
        rules: the limits.
        now: seconds on a clock that never goes back.
    """

    def __init__(self, rules: RolloutRules, *, now: float) -> None:
        self._rules = rules
        self._changed = threading.Lock()
        self._window = _Window(now)
        self._latest: deque[float] = deque(maxlen=_KEPT)
        self._unread = 0
        self._limit: float | None = None

    def answered(self, side: Side, seconds: float | None) -> None:
        """A request was answered, `seconds` after it was accepted; None: in the background, where nobody waits."""
        with self._changed:
            self._window.failed[side].add(0.0)
            if seconds is None:
                return
            if side == "live":
                self._note(seconds)
            elif self._limit is not None:  # before, nobody can say what slow is
                self._window.slow.add(float(seconds > self._limit))

    def failed(self, side: Side) -> None:
        """A request could not be answered, or not in time."""
        with self._changed:
            self._window.failed[side].add(1.0)

    def compared(self, differences: Mapping[str, float]) -> None:
        """Both answered the same request.

        Args:
            differences: {task: how much the answers differ, in [0, 1]}, a mean over the request's texts.
        """
        with self._changed:
            for task, difference in differences.items():
                self._window.differences.setdefault(task, _Sum()).add(difference)

    def verdict(self, now: float) -> Verdict | None:
        """Whether a rule is broken, and which; and begin anew if the window is over."""
        with self._changed:
            window = self._window
            found = self._errors(window) or self._latency(window) or self._disagreement(window)
            if now - window.began >= self._rules.window:
                self._window = _Window(now)
            return found

    def counts(self) -> dict[str, object]:
        """What was counted in this window, for the API."""
        with self._changed:
            window = self._window
            return {
                "requests": {side: found.count for side, found in window.failed.items()},
                "failed": {side: round(found.total) for side, found in window.failed.items()},
                "slow": round(window.slow.total),
                "slow_seconds": None if self._limit is None else round(self._limit, 4),
                "disagreement": {
                    task: {"requests": found.count, "mean": round(found.total / found.count, 4)}
                    for task, found in window.differences.items()
                },
            }

    def _note(self, seconds: float) -> None:
        """A latency of the live version, and what counts as slow from now on."""
        self._latest.append(seconds)
        self._unread += 1
        if len(self._latest) >= self._rules.least and (self._limit is None or self._unread >= _REFRESH):
            self._limit = self._rules.latency_ratio * float(np.quantile(self._latest, 1 - _SLOW))
            self._unread = 0

    def _needed(self, window: _Window) -> float:
        """The evidence that a rule needs: alpha is shared by all of them, and one bound more."""
        return math.log((3 + len(window.differences)) / self._rules.alpha)

    def _errors(self, window: _Window) -> Verdict | None:
        live, candidate = window.failed["live"], window.failed["candidate"]
        if candidate.count < self._rules.least:
            return None
        # With hardly any traffic of the live version (a share of 1) its errors are unknown, and only the floor counts.
        known = live.count >= self._rules.least
        bound = highest(live.total, live.count, alpha=math.exp(-self._needed(window))) if known else 0.0
        limit = min(1.0, max(self._rules.error_floor, self._rules.error_ratio * bound))
        if evidence_above(candidate.total, candidate.count, limit) < self._needed(window):
            return None
        return Verdict(
            "errors",
            f"{candidate.total:.0f} of {candidate.count} requests failed, more than {limit:.2%}; "
            f"of the live version's {live.total:.0f} of {live.count}",
        )

    def _latency(self, window: _Window) -> Verdict | None:
        slow = window.slow
        if slow.count < self._rules.least or evidence_above(slow.total, slow.count, _SLOW) < self._needed(window):
            return None
        return Verdict(
            "latency",
            f"{slow.total:.0f} of {slow.count} requests took longer than {1000 * (self._limit or 0):.1f} ms, "
            f"{self._rules.latency_ratio:g} times the 95th percentile of the live version",
        )

    def _disagreement(self, window: _Window) -> Verdict | None:
        for task, found in window.differences.items():
            limit = self._rules.task_disagreement.get(task, self._rules.disagreement)
            enough = found.count >= self._rules.least
            if enough and evidence_above(found.total, found.count, limit) >= self._needed(window):
                mean = found.total / found.count
                reason = f"{task}: answers differ by {mean:.1%} over {found.count} requests, more than {limit:.1%}"
                return Verdict("disagreement", reason)
        return None
