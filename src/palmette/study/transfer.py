"""What tasks do to each other: gradients, affinity, measured transfer, and which of them to train together."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any

Gains = Mapping[str, Mapping[str, float]]  # trained with -> task -> gain

_EXHAUSTIVE = 9  # tasks up to which every partition is looked at (21,147 of them)


def analyse(probes: Sequence[Mapping[str, Any]], pairs: Mapping[str, Any], tasks: Sequence[str]) -> dict[str, Any]:
    """Transfer between tasks, as a multi-task run's probes and the pairs of a study show it.

    Args:
        probes: events of the multi-task runs (`palmette.probes`), with seed and share of the run.
        pairs: {trained with: {task: difference to the task alone}}; empty without the design.
        tasks: all of them.

    Returns:
        {"layers", "probes", "affinity": {i: {j: mean}}, "pairs", "grouping", "grouped_by", "rank_correlation"}
    """
    affinity = _affinity(probes, tasks)
    measured = {i: {j: d["difference"] for j, d in row.items() if "difference" in d} for i, row in pairs.items()}
    gains = measured if any(measured.values()) else affinity
    return {
        "layers": probes[0]["layers"] if probes else [],
        "probes": [{k: p[k] for k in ("seed", "update", "share", "cosine", "norm", "affinity")} for p in probes],
        "affinity": affinity,
        "pairs": dict(pairs),
        "grouped_by": "measured pairs" if gains is measured else "affinity",
        "grouping": group(gains, tasks) if gains else [],
        "rank_correlation": rank_correlation(affinity, measured),
    }


def _affinity(probes: Sequence[Mapping[str, Any]], tasks: Sequence[str]) -> dict[str, dict[str, float]]:
    """Mean over probes and seeds (Fifty et al. 2021 average over training)."""
    found: dict[str, dict[str, float]] = {}
    for i in tasks:
        for j in tasks:
            values = [p["affinity"][i][j] for p in probes if j in p["affinity"].get(i, {})]
            if i != j and values:
                found.setdefault(i, {})[j] = fmean(values)
    return found


def rank_correlation(affinity: Gains, measured: Gains) -> dict[str, Any] | None:
    """How well affinity ranks measured transfer: Spearman over all ordered pairs of tasks; None with fewer than four.

    The pairs are few and share tasks, so that `p` (SciPy, as if they were independent) says little.
    """
    from scipy.stats import spearmanr

    both = [
        (affinity[i][j], gain) for i, row in measured.items() for j, gain in row.items() if j in affinity.get(i, {})
    ]
    if len(both) < 4 or len({a for a, _ in both}) < 2 or len({g for _, g in both}) < 2:
        return None
    found = spearmanr([a for a, _ in both], [g for _, g in both])
    return {"rho": float(found.statistic), "p": float(found.pvalue), "pairs": len(both)}


def group(gains: Gains, tasks: Sequence[str]) -> list[dict[str, Any]]:
    """For each number of models, which tasks to train together.

    A task's expected gain is the mean gain that the others of its group give it, 0 where it is alone (Standley et al.
    2020, "Which Tasks Should Be Learned Together in Multi-task Learning?"; Fifty et al. 2021). The partition with the
    highest sum is taken: of all partitions up to nine tasks, beyond that by merging the two groups that lose least.

    Args:
        gains: gains[i][j] is what training with i gives j.
        tasks: all of them.

    Returns:
        [{"models", "groups", "expected": {task: gain}}] for 1, 2, … models.
    """
    best: dict[int, tuple[float, list[list[str]]]] = {}
    for partition in _partitions(list(tasks)) if len(tasks) <= _EXHAUSTIVE else _merged(list(tasks), gains):
        total = sum(_expected(gains, partition).values())
        if total > best.get(len(partition), (-math.inf, []))[0]:
            best[len(partition)] = (total, partition)
    return [
        {"models": count, "groups": groups, "expected": _expected(gains, groups)}
        for count, (_, groups) in sorted(best.items())
    ]


def _expected(gains: Gains, partition: Sequence[Sequence[str]]) -> dict[str, float]:
    found = {}
    for members in partition:
        for task in members:
            others = [gains.get(other, {}).get(task, 0.0) for other in members if other != task]
            found[task] = fmean(others) if others else 0.0
    return found


def _partitions(tasks: list[str]) -> Iterator[list[list[str]]]:
    """Every way to split tasks into groups."""
    if not tasks:
        yield []
        return
    first, *rest = tasks
    for partition in _partitions(rest):
        yield [[first], *partition]
        for number, members in enumerate(partition):
            yield [*partition[:number], [first, *members], *partition[number + 1 :]]


def _merged(tasks: list[str], gains: Gains) -> Iterator[list[list[str]]]:
    """From every task alone to all together, each time the merge that leaves the highest sum."""
    partition = [[task] for task in tasks]
    yield partition
    while len(partition) > 1:
        candidates = [
            [[*partition[a], *partition[b]], *(g for n, g in enumerate(partition) if n not in (a, b))]
            for a in range(len(partition))
            for b in range(a + 1, len(partition))
        ]
        partition = max(candidates, key=lambda groups: sum(_expected(gains, groups).values()))
        yield partition
