"""Whether one model is no worse than another by more than a margin, on the same examples, and how sure that is.

Both questions are about two single models, not about other seeds of them (those: `palmette.statistics.compare`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike

from palmette.statistics import Metric, resample

_POWER = 0.8  # of `Shift.needed` (Cohen 1988)


@dataclass(frozen=True, slots=True)
class Shift:
    """What separates the new model from the old one on a task. Values are on the metric's scale, 0 to 1 mostly.

    Attributes:
        old, new: the metric on all examples.
        difference: `new` - `old`.
        low, high: one-sided bounds: each is passed by the true difference with a chance of 1 - level.
        error: standard error of the difference.
        examples: how many.
        needed: examples that would decide four times in five, if the true difference is the one seen; None where the
            verdict is not open.
        verdict: `passed`: shown to be lower by less than the margin. `fell`: shown to be lower, and not shown to be so
            by less than the margin. `undecided`: neither is shown.
    """

    old: float
    new: float
    difference: float
    low: float
    high: float
    error: float
    examples: int
    needed: int | None
    verdict: str


def shift(
    old: ArrayLike,
    new: ArrayLike,
    *,
    metric: Metric,
    margin: float,
    seed: int,
    resamples: int = 2000,
    level: float = 0.95,
) -> Shift:
    """Non-inferiority of `new`: is its metric lower than that of `old` by less than a margin?

    The standard error is that of a paired bootstrap over examples (Koehn 2004, EMNLP; a sentence is drawn with all its
    words). Where two models differ in few answers, a bootstrap sees too little of what could be. The bounds are those
    at which the seen difference would be z standard errors away if the variance grew with the bound as a share's does
    (Wilson 1927): where no answer differs they are z² / (n + z²) away, as by Tango's score test. Simulated with 3 to 30
    answers that differ (tests/test_noninferiority.py), a loss of exactly the margin passes in at most 5 %.
    Non-inferiority by a one-sided bound: Schuirmann 1987; Piaggio et al. 2012 (CONSORT extension), JAMA.

    Args:
        old: [examples, parts] (`Kind.parts`).
        new: the same of the other model, its examples in the same order.
        metric: sums of parts -> value (`Kind.combine`).
        margin: the largest loss that is accepted, above 0, on the metric's scale.
        seed: of the draws.
        resamples: how many.
        level: of each bound.

    Raises:
        ValueError: the shapes do not fit, there is no example, or the margin is not above 0.
    """
    one, two = np.asarray(old, dtype=np.float64), np.asarray(new, dtype=np.float64)
    if one.ndim != 2 or one.shape != two.shape or len(one) == 0:
        raise ValueError(f"expected [examples, parts] of the same examples, found {one.shape} and {two.shape}")
    if not margin > 0:
        raise ValueError(f"margin: expected a number above 0, found {margin}")
    both = np.stack([one, two])
    before, after = (float(value) for value in metric(both.sum(axis=1)))
    moved = resample(both, metric=metric, seed=seed, resamples=resamples)
    error = float((moved[:, 1] - moved[:, 0]).std(ddof=1))
    z = NormalDist().inv_cdf(level)
    half = z**2 / (len(one) + z**2) / 2
    reach = half + math.hypot(z * error, half)
    difference = after - before
    low, high = difference - reach, difference + reach
    verdict = "passed" if low > -margin else "fell" if high < 0 else "undecided"
    needed = _needed(difference, error, len(one), margin, z) if verdict == "undecided" else None
    return Shift(before, after, difference, low, high, error, len(one), needed, verdict)


def _needed(difference: float, error: float, examples: int, margin: float, z: float) -> int:
    """Examples with which the seen difference would be decided, whichever way it points, with a power of 80 %."""
    distance = difference + margin if difference > -margin else -difference
    distance = max(distance, margin / 100)  # a difference of just the margin is never decided
    # reach = half + hypot(z error, half) is the distance where (z error)² + z²/n distance = distance².
    spread = examples * ((z + NormalDist().inv_cdf(_POWER)) * error) ** 2
    return max(examples + 1, math.ceil((spread + z**2 * distance) / distance**2))


@dataclass(frozen=True, slots=True)
class Rise:
    """How much more often the new model fails than the old one, on the same cases. Rates are from 0 to 1.

    Attributes:
        old, new: share of the cases that each fails.
        difference: `new` - `old`.
        low, high: one-sided bounds of the difference, each at the level.
        p: of the new model failing at most `margin` more often; small where it fails more often than that.
        cases: how many.
    """

    old: float
    new: float
    difference: float
    low: float
    high: float
    p: float
    cases: int


def rise(old: ArrayLike, new: ArrayLike, *, margin: float, level: float = 0.95) -> Rise:
    """How much more often one model fails than the other, by Tango's score test of paired proportions.

    Tango 1998, "Equivalence test and confidence interval for the difference in proportions for the paired-sample
    design", Statistics in Medicine 17: it keeps its level where only a few answers differ.

    Args:
        old: [cases] whether the old model fails.
        new: the same of the new one.
        margin: a rise that is accepted, at least 0 and below 1.
        level: of each bound.

    Raises:
        ValueError: the lengths differ, or there is no case.
    """
    one, two = np.asarray(old, dtype=bool), np.asarray(new, dtype=bool)
    if one.ndim != 1 or one.shape != two.shape or len(one) == 0:
        raise ValueError(f"expected [cases] of the same cases, found {one.shape} and {two.shape}")
    total, worse, better = len(one), int((two & ~one).sum()), int((one & ~two).sum())
    z = NormalDist().inv_cdf(level)
    seen = (worse - better) / total
    return Rise(
        old=float(one.mean()),
        new=float(two.mean()),
        difference=seen,
        low=_crossing(worse, better, total, z, -1.0, seen),
        high=_crossing(worse, better, total, -z, seen, 1.0),
        p=NormalDist().cdf(-_tango(worse, better, total, margin)),
        cases=total,
    )


def _tango(worse: int, better: int, total: int, difference: float) -> float:
    """The score statistic of a true difference, above 0 where more is seen."""
    b = -worse - better + (2 * total - worse + better) * difference
    c = -better * difference * (1 - difference)
    # The probability of the new model being better, as likely as can be under that difference.
    share = (math.sqrt(max(b * b - 8 * total * c, 0.0)) - b) / (4 * total)
    variance = total * (2 * share + difference * (1 - difference))
    distance = worse - better - total * difference
    if variance <= 1e-12:
        return 0.0 if abs(distance) < 1e-9 else math.copysign(math.inf, distance)
    return distance / math.sqrt(variance)


def _crossing(worse: int, better: int, total: int, wanted: float, low: float, high: float) -> float:
    """Where the statistic, which falls as the difference grows, is `wanted`: by halving."""
    for _ in range(60):
        middle = (low + high) / 2
        if _tango(worse, better, total, middle) > wanted:
            low = middle
        else:
            high = middle
    return (low + high) / 2
