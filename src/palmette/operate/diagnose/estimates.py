"""Gains in points with intervals, by drawing examples again."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm, t

from palmette.kinds import AnyKind

Floats = NDArray[np.float64]
_DRAWS = 400


@dataclass(frozen=True, slots=True)
class Gain:
    """What mending would bring, in points (hundredths of the metric).

    Attributes:
        points: the estimate.
        low, high: its 95 % interval.
        p: one-sided, of no gain.
    """

    points: float
    low: float
    high: float
    p: float

    def scaled(self, factor: float) -> Gain:
        """The same for a share of it."""
        return Gain(self.points * factor, self.low * factor, self.high * factor, self.p)

    def less(self, points: float) -> Gain:
        """What is left when `points` of it have another cause."""
        error = max((self.high - self.low) / (2 * 1.96), 1e-9)
        left = self.points - points
        return Gain(left, self.low - points, self.high - points, float(norm.sf(left / error)))


def from_error(points: float, error: float) -> Gain:
    """A gain and its standard error, both in points; the interval is normal."""
    if error <= 0:
        return Gain(points, points, points, 0.0 if points > 0 else 1.0)
    return Gain(points, points - 1.96 * error, points + 1.96 * error, float(norm.sf(points / error)))


def metric(kind: AnyKind, parts: Floats) -> float:
    """A task's metric on the examples of these parts."""
    return float(kind.combine(parts.sum(axis=0)))


def _drawn(kind: AnyKind, parts: Floats, weights: NDArray[np.int64]) -> Floats:
    return np.asarray(kind.combine(weights.astype(np.float64) @ parts), dtype=np.float64)


def _weights(examples: int, seed: int) -> NDArray[np.int64]:
    return np.random.default_rng(seed).multinomial(examples, np.full(examples, 1 / examples), size=_DRAWS)


def paired(kind: AnyKind, after: Floats, before: Floats, *, seed: int) -> Gain:
    """`after` - `before`, two answers to the same examples (parts [examples, parts] of each)."""
    if len(after) < 2:
        return from_error(0.0, 1.0)
    weights = _weights(len(after), seed)
    moved = _drawn(kind, after, weights) - _drawn(kind, before, weights)
    return from_error(100 * (metric(kind, after) - metric(kind, before)), 100 * float(moved.std(ddof=1)))


def apart(kind: AnyKind, better: Floats, worse: Floats, *, seed: int) -> Gain:
    """The metric on `better` less that on `worse`, different examples."""
    if len(better) < 2 or len(worse) < 2:
        return from_error(0.0, 1.0)
    error = math.hypot(
        float(_drawn(kind, better, _weights(len(better), seed)).std(ddof=1)),
        float(_drawn(kind, worse, _weights(len(worse), seed + 1)).std(ddof=1)),
    )
    return from_error(100 * (metric(kind, better) - metric(kind, worse)), 100 * error)


def inside(kind: AnyKind, parts: Floats, members: NDArray[np.bool_], *, seed: int) -> Gain:
    """What the metric over all would gain if the members were answered as well as the others are."""
    if members.sum() < 2 or (~members).sum() < 2:
        return from_error(0.0, 1.0)
    weights = _weights(len(parts), seed)
    moved = _drawn(kind, parts[~members], weights[:, ~members]) - _drawn(kind, parts, weights)
    return from_error(100 * (metric(kind, parts[~members]) - metric(kind, parts)), 100 * float(moved.std(ddof=1)))


def greater(first: Floats, second: Floats) -> float:
    """One-sided p-value that the mean of `first` is not the greater one; values in [0, 1] (Welch's test).

    Variances are not taken below what a single differing value would give: shares of none or all are not certain.
    """
    if min(len(first), len(second)) < 2:
        return 1.0
    variances = [max(float(side.var(ddof=1)), 1 / (len(side) + 4)) / len(side) for side in (first, second)]
    return float(t.sf((first.mean() - second.mean()) / math.sqrt(sum(variances)), min(len(first), len(second)) - 1))
