"""Too little data: a learning curve that still rises, extrapolated by a power law."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.optimize import least_squares

from palmette.operate.diagnose import quick
from palmette.operate.diagnose.case import Case
from palmette.operate.diagnose.estimates import Floats, Gain, from_error, metric
from palmette.operate.diagnose.finding import Finding

CAUSE = "too little data"
_SHARES = (0.125, 0.25, 0.5, 1.0)
_REPEATS = 6
_FEW, _OFTEN = 400, 20  # with so few examples a draw says little, and a head costs nothing


def detect(case: Case) -> list[Finding]:
    """What twice the examples would bring: by a study's curve if there is one, else by a quick head's."""
    own = _of_study(case)
    sizes, scores, source = own if own is not None else _quick(case)
    gain, exponent = doubled(sizes, scores)
    size = len([e for e in case.subject.corpus.splits["train"] if case.task in e.labels])
    return [
        Finding(
            cause=CAUSE,
            task=case.task,
            summary=f"{size} training examples, and {source} still rises: {_written(sizes, scores)}",
            gain=gain,
            unit=case.unit,
            how=f"twice the examples, extrapolated by the power law error ~ n^-{exponent:.2f} of {source}",
            p=gain.p,
            telling=size < _FEW or own is not None,
            command=f"palmette compare {case.subject.data} --out STUDY --learning-curve 10,30,100 --curve-task "
            f"{case.task}  # the model's own curve; then label more: palmette review export",
            numbers={"sizes": list(sizes), "scores": [list(found) for found in scores], "exponent": exponent},
        )
    ]


def doubled(sizes: Sequence[int], scores: Sequence[Sequence[float]]) -> tuple[Gain, float]:
    """What twice the largest size gains, by a power law fitted to the mean errors (Hestness et al. 2017).

    Args:
        sizes: training examples, ascending.
        scores: the metric at each size, some of each, in [0, 1].

    Returns:
        The gain and the law's exponent.
    """
    means = np.array([np.mean(found) for found in scores])
    x = np.array(sizes, dtype=np.float64)

    def law(n: Floats, scale: float, exponent: float, floor: float) -> Floats:
        return np.asarray(floor + scale * (n / x[0]) ** -exponent, dtype=np.float64)

    errors = 1 - means
    start = (max(errors[0] / 2, 1e-3), 0.5, max(errors[-1] / 2, 1e-3))
    found = least_squares(lambda way: law(x, *way) - errors, start, bounds=([0, 0.05, 0], [1, 1.5, 1]))
    scale, exponent, _ = map(float, found.x)
    by_law = 100 * scale * ((x[-1] / x[0]) ** -exponent - (2 * x[-1] / x[0]) ** -exponent)
    # The law's tail is loosely held by a few points: the mean with what the last doublings gained, falling as the law
    # does from the middle of them to the next one.
    slope, error = _slope(x, scores)
    falls = float((2 * x[-1] / math.sqrt(2)) / math.sqrt(x[0] * x[-1])) ** -exponent
    return from_error(max((by_law + 100 * falls * slope) / 2, 0.0), max(100 * error * falls, 0.1)), exponent


def _slope(sizes: Floats, scores: Sequence[Sequence[float]]) -> tuple[float, float]:
    """What a doubling gained, by least squares, and its standard error."""
    x = np.concatenate([np.full(len(found), math.log2(size)) for size, found in zip(sizes, scores, strict=True)])
    y = np.concatenate([np.asarray(found, dtype=np.float64) for found in scores])
    spread = float(np.square(x - x.mean()).sum())
    slope = float(((x - x.mean()) * (y - y.mean())).sum() / spread)
    rest = y - y.mean() - slope * (x - x.mean())
    # Draws of one pool, judged on one set, are less apart than new ones would be: half as much again.
    return slope, 1.5 * math.sqrt(float(np.square(rest).sum()) / max(len(x) - 2, 1) / spread)


def _quick(case: Case) -> tuple[list[int], list[list[float]], str]:
    train = case.train
    case.need_units(train)
    judges = [sheet for split, sheet in case.sheets.items() if split != "train"]
    judge = next((s for s in judges if s.split == "dev"), case.main)
    rng = np.random.default_rng(case.seed)
    repeats = _OFTEN if len(train) < _FEW else _REPEATS
    sizes = sorted({max(4, round(share * len(train))) for share in _SHARES if share * len(train) >= 4})
    scores: list[list[float]] = []
    for size in sizes:
        found = []
        for _ in range(repeats if size < len(train) else 1):
            part = train.take(np.sort(rng.permutation(len(train))[:size]))
            head = quick.fit(part.vectors, part.gold, len(case.kind.labels))
            found.append(metric(case.kind, quick.parts(case.kind, judge, head.probabilities(judge.vectors))))
        scores.append(found)
    return sizes, scores, "a quick head's learning curve"


def _of_study(case: Case) -> tuple[list[int], list[list[float]], str] | None:
    """Points of a study's learning curve: the first regime that has the task."""
    curve = (case.subject.study or {}).get("learning_curve")
    if not curve or curve.get("task") != case.task:
        return None
    by_size: dict[int, list[float]] = {}
    regime = curve["points"][0].get("regime") if curve["points"] else None
    for point in curve["points"]:
        if point.get("regime") == regime and point.get("examples"):
            by_size.setdefault(int(point["examples"]), []).extend(_values(point))
    sizes = sorted(size for size, found in by_size.items() if found)
    if len(sizes) < 3:
        return None
    return sizes, [by_size[size] for size in sizes], "the study's learning curve"


def _values(point: Mapping[str, Any]) -> list[float]:
    return [float(value) for value in point.get("seeds", {}).values() if value is not None]


def _written(sizes: Sequence[int], scores: Sequence[Sequence[float]]) -> str:
    return ", ".join(
        f"{100 * float(np.mean(found)):.1f} with {size}" for size, found in zip(sizes, scores, strict=True)
    )
