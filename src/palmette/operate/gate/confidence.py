"""Whether the new model's confidences are as honest as the old one's: expected calibration error, per task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from palmette.kinds import AnyKind
from palmette.operate.gate.settings import GateSettings
from palmette.types import Example, Prediction

_BINS = 15  # Guo et al. 2017
_Floats = NDArray[np.float64]


def judge_calibration(
    kinds: tuple[Mapping[str, AnyKind], Mapping[str, AnyKind]],
    examples: Sequence[Example],
    answers: tuple[Sequence[Mapping[str, Prediction]], Sequence[Mapping[str, Prediction]]],
    settings: GateSettings,
) -> dict[str, dict[str, Any]]:
    """Expected calibration error of both, of every task of the old one's kinds that claims anything.

    ECE (Guo et al. 2017, "On Calibration of Modern Neural Networks", ICML): the mean distance between confidence and
    share of right answers, over 15 bins of equal width. Its rise has bounds from a paired bootstrap over examples. ECE
    of few answers is too high, of both models alike. This is a guard, no proof: a task fails where the rise is shown to
    exceed the budget.

    Returns:
        By task, as JSON.
    """
    found = {}
    for task in kinds[0]:
        sums = [
            _sums(
                own[task], [(e.labels[task], a[task]) for e, a in zip(examples, side, strict=True) if task in e.labels]
            )
            for own, side in zip(kinds, answers, strict=True)
        ]
        if not all(len(side) and side[..., 0].sum() for side in sums):
            continue
        old, new = (float(_ece(side.sum(axis=0))) for side in sums)
        rises = _drawn_rises(sums[0], sums[1], settings)
        error = float(rises.std(ddof=1))
        reach = _quantile(settings.level) * error
        rise, budget = new - old, settings.calibration_budget / 100
        low, high = rise - reach, rise + reach
        found[task] = {
            "verdict": "failed" if low > budget else "passed",
            "old": old,
            "new": new,
            "rise": rise,
            "low": low,
            "high": high,
            "budget": settings.calibration_budget,
            "claims": int(sums[1][..., 0].sum()),
            "reason": f"ECE {100 * old:.2f} -> {100 * new:.2f} points ({100 * low:+.2f} to {100 * high:+.2f}); a rise "
            f"of {settings.calibration_budget:g} is accepted",
        }
    return found


def _sums(kind: AnyKind, pairs: Sequence[tuple[Any, Prediction]]) -> _Floats:
    """[examples, bins, (answers, right ones, sum of confidences)]."""
    table = np.zeros((len(pairs), _BINS, 3))
    for number, (gold, prediction) in enumerate(pairs):
        for claim in kind.claims(prediction):
            place = min(int(claim.confidence * _BINS), _BINS - 1)
            table[number, place] += (1.0, float(kind.holds(claim.item, gold)), claim.confidence)
    return table


def _ece(sums: _Floats) -> _Floats:
    """[..., bins, 3] -> [...]."""
    gaps = np.abs(sums[..., 1] - sums[..., 2]).sum(axis=-1)
    total = sums[..., 0].sum(axis=-1)
    result: _Floats = gaps / np.maximum(total, 1)
    return result


def _drawn_rises(old: _Floats, new: _Floats, settings: GateSettings) -> _Floats:
    """New minus old on examples drawn with replacement, the same for both: [resamples]."""
    rng = np.random.default_rng(settings.seed)
    flat = [side.reshape(len(side), -1) for side in (old, new)]
    rises = []
    for _ in range(settings.resamples // 4):  # a standard error needs fewer than a percentile
        weights = np.bincount(rng.integers(len(old), size=len(old)), minlength=len(old)).astype(np.float64)
        one, two = (_ece((weights @ side).reshape(_BINS, 3)) for side in flat)
        rises.append(float(two - one))
    return np.array(rises)


def _quantile(level: float) -> float:
    from statistics import NormalDist

    return NormalDist().inv_cdf(level)
