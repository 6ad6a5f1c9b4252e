"""Miscalibration: confidences that do not say how often an answer is right."""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize_scalar

from palmette.operate.diagnose.case import Case, NotLookedAtError
from palmette.operate.diagnose.estimates import Floats, Gain, from_error
from palmette.operate.diagnose.finding import Finding
from palmette.operate.diagnose.sheet import Sheet

CAUSE = "miscalibration"
BINS = 10
# A point of calibration error is not a point of the metric: no answer changes. It counts half in the ranking.
WORTH = 0.5
_DRAWS = 100
_USUAL = 0.45, 3.0  # temperatures that models have which nothing happened to


def ece(confidence: Floats, right: Floats) -> float:
    """Expected calibration error in ten equally filled bins (Naeini, Cooper & Hauskrecht 2015; Nixon et al. 2019)."""
    order = np.argsort(confidence)
    gaps = [
        len(part) * abs(float((right[part] - confidence[part]).mean()))
        for part in np.array_split(order, BINS)
        if len(part)
    ]
    return sum(gaps) / max(len(right), 1)


def temper(probabilities: Floats, temperature: float) -> Floats:
    """Probabilities at another temperature."""
    logits = np.log(np.maximum(probabilities, 1e-12)) / temperature
    raised = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(raised / raised.sum(axis=1, keepdims=True))


def temperature(sheet: Sheet) -> float:
    """The temperature that makes the labels most probable (Guo et al. 2017, ICML)."""
    known = sheet.gold >= 0
    probabilities, gold = sheet.probabilities[known], sheet.gold[known]

    def loss(logarithm: float) -> float:
        found = temper(probabilities, float(np.exp(logarithm)))
        return float(-np.log(np.maximum(found[np.arange(len(gold)), gold], 1e-12)).mean())

    return float(np.exp(minimize_scalar(loss, bounds=(-2.5, 2.5), method="bounded").x))


def detect(case: Case) -> list[Finding]:
    """Calibration error before and after one temperature, fitted on examples that are not measured."""
    main = case.main
    if not len(main.gold) or len(main) < 50:
        raise NotLookedAtError("needs 50 held-out examples of a task with classes")
    halves = [np.flatnonzero(np.arange(len(main)) % 2 == side) for side in (0, 1)]
    if case.beside is not None:
        fitted, judged = case.beside, main
    else:
        fitted, judged = main.take(halves[0]), main.take(halves[1])
    found = temperature(fitted)
    # As callers see them: what was calibrated by isotonic regression is no longer the greatest probability.
    before = case.kind.calibration.means(judged.probabilities.max(axis=1))
    after = temper(judged.probabilities, found).max(axis=1)
    hits = (judged.probabilities.argmax(axis=1) == judged.gold).astype(np.float64)
    first, last = ece(before, hits), ece(after, hits)
    gain = _gain(judged, before, after, hits, case.seed)
    telling = 100 * first >= 3 and not _USUAL[0] < found < _USUAL[1]
    confidence, right = float(before.mean()), float(hits.mean())
    word = "over-confident" if confidence > right else "under-confident"
    return [
        Finding(
            cause=CAUSE,
            task=case.task,
            summary=f"{word}: {confidence:.0%} confident on average, {right:.0%} right; calibration error "
            f"{100 * first:.1f} points",
            gain=gain,
            unit="ECE, counted half",
            how=f"one temperature ({found:.2f}) fitted on {fitted.split} leaves {100 * last:.1f} points on "
            f"{judged.split}; no answer changes, so a point counts half",
            p=gain.p,
            telling=telling,
            follows=not telling,  # fine-tuned models are over-confident, the more so the worse their data are
            command=f"palmette export {case.run} --out NEW_BUNDLE  # it calibrates the bundle's confidences on dev",
            numbers={"ece": first, "ece_after": last, "temperature": found, "confidence": confidence, "right": right},
        )
    ]


def _gain(judged: Sheet, before: Floats, after: Floats, hits: Floats, seed: int) -> Gain:
    rng = np.random.default_rng(seed)
    bounds = np.searchsorted(judged.owner, np.arange(len(judged) + 1))
    moved = []
    for _ in range(_DRAWS):
        drawn = rng.integers(0, len(judged), len(judged))
        units = np.concatenate([np.arange(bounds[n], bounds[n + 1]) for n in drawn])
        moved.append(ece(before[units], hits[units]) - ece(after[units], hits[units]))
    lost = ece(before, hits) - ece(after, hits)
    return from_error(100 * WORTH * lost, 100 * WORTH * max(float(np.std(moved, ddof=1)), 1e-6))
