"""What each regime costs: parameters, bytes, memory, training time, time of an answer. Measured, so it varies."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from statistics import median
from typing import Any

from palmette.study.evidence import Group


def tally(regimes: Mapping[str, Group], others: Sequence[Group], *, started: str) -> dict[str, Any]:
    """The ledger as JSON.

    Args:
        regimes: by name, with their runs.
        others: models of designs and of learning curves: of these only what they ran on is noted.
        started: when this sitting began (ISO 8601).

    Returns:
        {"hardware", "started", "finished", "regimes": {name: {"models", "parameters", "bytes", "peak_rss_gb",
        "seconds", "probe_seconds", "trial_seconds", "wordpieces", "ms_per_text", "written_ms", "texts",
        "one_by_one"}}}; numbers are sums over a regime's models of medians over seeds (of peak memory: the largest),
        None where nothing finished; `written_ms` is of each task, None where all of its answers were kept from before.
        `hardware` lists each machine with its `threads` a run and how many `runs` it made.
    """
    return {
        "hardware": _hardware([*regimes.values(), *others]),
        "started": started,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "regimes": {name: _regime(group) for name, group in regimes.items()},
    }


def _hardware(groups: Sequence[Group]) -> list[dict[str, Any]]:
    """What the runs say that they ran on; an older Palmette's say no more than how many threads."""
    runs = {
        job.key: {**result.measured.get("hardware", {}), "threads": result.measured["threads"]}
        for group in groups
        for job, result in group.runs.values()
        if result.error is None
    }
    counts = Counter(json.dumps(machine) for machine in runs.values())
    return [{"runs": count, **json.loads(machine)} for machine, count in counts.most_common()]


def _regime(group: Group) -> dict[str, Any]:
    per_model: list[dict[str, Any]] = []
    for model in group.models:
        runs = [
            result.measured
            for (name, _), (_, result) in group.runs.items()
            if name == model.name and result.error is None
        ]
        if not runs:
            return {"models": len(group.models)}
        # An older Palmette timed batches of texts of the model's own tasks, which compares with nothing else.
        timed = [run for run in runs if run.get("one_by_one")] or runs
        per_model.append(
            {
                "parameters": _parameters(runs[0]["parameters"]),  # sizes are the same for every seed
                "bytes": runs[0]["bytes"],
                "texts": timed[0]["texts"],
                "ms_per_text": _median([run["ms_per_text"] for run in timed]),
                "one_by_one": timed[0].get("one_by_one", False),
            }
        )
    everything = group.finished()
    return {
        "models": len(group.models),
        "parameters": {
            "total": sum(m["parameters"]["shared"] + sum(m["parameters"]["tasks"].values()) for m in per_model),
            "shared": sum(m["parameters"]["shared"] for m in per_model),
            "tasks": {task: count for m in per_model for task, count in m["parameters"]["tasks"].items()},
            # Results of older studies do not say.
            "trained": sum(m["parameters"]["trained"] for m in per_model)
            if all("trained" in m["parameters"] for m in per_model)
            else None,
        },
        "bytes": sum(m["bytes"] for m in per_model),
        "peak_rss_gb": max(run["peak_rss_gb"] for runs in everything for run in runs),
        "seconds": _sum([_median([run["seconds"] for run in runs]) for runs in everything]),
        "probe_seconds": _sum([_median([run.get("probe_seconds") for run in runs]) for runs in everything]),
        "trial_seconds": _trial_seconds(group),
        "wordpieces": group.wordpieces(),
        "ms_per_text": _sum([m["ms_per_text"] for m in per_model]),
        "written_ms": _written_ms([run for runs in everything for run in runs]),
        "texts": min(m["texts"] for m in per_model),
        "one_by_one": all(m["one_by_one"] for m in per_model),
    }


def _written_ms(runs: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    """Of models that write: milliseconds for an example of each task's test, over all runs; None: all were kept."""
    found: dict[str, float | None] = {}
    for task in sorted({task for run in runs for task in run.get("usage", {})}):
        spent = [run["usage"][task] for run in runs if task in run.get("usage", {})]
        timed = sum(one.get("timed", one["examples"]) for one in spent)  # an older Palmette's say no more
        found[task] = 1000 * sum(one["seconds"] for one in spent) / timed if timed else None
    return found


def _parameters(found: Mapping[str, Any]) -> dict[str, Any]:
    """What a model that answers one task holds is that task's own: it shares nothing."""
    if len(found["tasks"]) > 1:
        return dict(found)
    return {**found, "shared": 0, "tasks": {task: found["shared"] + own for task, own in found["tasks"].items()}}


def _trial_seconds(group: Group) -> float | None:
    """Of all trials and of what they started from; None where there were none, or nobody knows of one."""
    tried = [(t.job, t.result) for trials in group.trials.values() for t in trials if t.result is not None]
    ran = {job.key: result for job, result in tried}
    ran |= {result.start[0].key: result.start[1] for _, result in tried if result.start is not None}
    seconds = [result.measured["seconds"] for result in ran.values() if result.error is None]
    return _sum(seconds) if seconds else None


def _median(values: Sequence[float | None]) -> float | None:
    """Of times: what else the machine did adds to some of them, and takes nothing from any."""
    known = [value for value in values if value is not None]
    return median(known) if known else None


def _sum(values: Sequence[float | None]) -> float | None:
    """Of what a killed process spent on a run nobody knows: no sum without it."""
    return None if any(value is None for value in values) else round(sum(v for v in values if v is not None), 2)
