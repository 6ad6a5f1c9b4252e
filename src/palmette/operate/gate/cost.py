"""Time and size of both models."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from palmette.answering import Answerer
from palmette.operate.gate.settings import GateSettings
from palmette.types import Example


def measure_latency(
    old: Answerer, new: Answerer, examples: Sequence[Example], settings: GateSettings
) -> dict[str, Any]:
    """Milliseconds of a text, all tasks that both have, one text at a time; both models in turn, in this process.

    In each round both answer the same texts, the one that begins alternating, so that what else the machine does meets
    both. The ratio is the median over the rounds of new / old; its bounds are order statistics of the rounds (the sign
    test's: Conover 1999, "Practical Nonparametric Statistics", section 3.2).

    Returns:
        As JSON: passed if the ratio is within the budget, failed if even its lower bound is above, else undecided.
    """
    step = max(1, len(examples) // settings.latency_texts)
    texts = [replace(example, labels={}) for example in examples[::step][: settings.latency_texts]]
    tasks = [task for task in old.kinds if task in new.kinds]
    if not texts or not tasks:
        return {
            "verdict": "undecided",
            "reason": "no text, or no task that both have",
            "budget": settings.latency_budget,
        }
    sides = [old, new]
    for side in sides:  # warm
        _round(side, texts[:5], tasks)
    times: list[list[float]] = [[], []]
    for number in range(settings.latency_rounds):
        for place in (0, 1) if number % 2 == 0 else (1, 0):
            times[place].append(_round(sides[place], texts, tasks))
    ratios = sorted(two / one for one, two in zip(*times, strict=True))
    low, high = _median_bounds(ratios, settings.level)
    ratio, budget = statistics.median(ratios), settings.latency_budget
    verdict = "passed" if ratio <= budget else "failed" if low > budget else "undecided"
    return {
        "verdict": verdict,
        "old_ms": statistics.median(times[0]),
        "new_ms": statistics.median(times[1]),
        "ratio": ratio,
        "low": low,
        "high": high,
        "budget": budget,
        "texts": len(texts),
        "rounds": settings.latency_rounds,
        "old_rounds_ms": times[0],
        "new_rounds_ms": times[1],
        "reason": f"{ratio:.2f} times the old model's time (rounds: {low:.2f} to {high:.2f}); {budget:g} are accepted",
    }


def _round(model: Answerer, texts: Sequence[Example], tasks: Sequence[str]) -> float:
    """Milliseconds a text."""
    started = time.perf_counter()
    for text in texts:
        model.answer([text], tasks)
    return 1000 * (time.perf_counter() - started) / len(texts)


def _median_bounds(ordered: Sequence[float], level: float) -> tuple[float, float]:
    """One-sided bounds of the median: as far in as the level allows, or the extremes where there are too few."""
    from math import comb

    count, tail, place = len(ordered), 0.0, 0
    while place < count // 2:
        tail += comb(count, place) / 2**count
        if tail > 1 - level:
            break
        place += 1
    place = max(place - 1, 0)
    return float(ordered[place]), float(ordered[count - 1 - place])


def judge_size(old: int, new: int, settings: GateSettings) -> dict[str, Any]:
    """Bytes of both, against the budget."""
    ratio = new / old if old else float(np.inf)
    return {
        "verdict": "passed" if ratio <= settings.size_budget else "failed",
        "old_bytes": old,
        "new_bytes": new,
        "ratio": ratio,
        "budget": settings.size_budget,
        "reason": f"{ratio:.2f} times the old model's {old / 1e6:.1f} MB; {settings.size_budget:g} are accepted",
    }
