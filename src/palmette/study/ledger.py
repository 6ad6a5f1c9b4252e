"""What each regime costs: parameters, bytes, memory, training time, time of an answer. Measured, so it varies."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from statistics import fmean
from typing import Any

from palmette.study.evidence import Group


def tally(regimes: Mapping[str, Group], *, hardware: Mapping[str, Any], started: str) -> dict[str, Any]:
    """The ledger as JSON.

    Args:
        regimes: by name, with their runs.
        hardware: what they ran on.
        started: when this sitting began (ISO 8601).

    Returns:
        {"hardware", "started", "finished", "regimes": {name: {"models", "parameters", "bytes", "peak_rss_gb",
        "seconds", "trial_seconds", "wordpieces", "ms_per_text", "texts"}}}; numbers are means over seeds of sums over
        a regime's models (of peak memory: the largest), None where nothing finished.
    """
    return {
        "hardware": dict(hardware),
        "started": started,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "regimes": {name: _regime(group) for name, group in regimes.items()},
    }


def _regime(group: Group) -> dict[str, Any]:
    per_model: list[dict[str, Any]] = []
    for model in group.models:
        runs = [result for (name, _), (_, result) in group.runs.items() if name == model.name and result.error is None]
        if not runs:
            return {"models": len(group.models)}
        first = runs[0].measured  # sizes are the same for every seed
        per_model.append(
            {
                "parameters": first["parameters"],
                "bytes": first["bytes"],
                "texts": first["texts"],
                "ms_per_text": _mean([run.measured["ms_per_text"] for run in runs]),
                "peak_rss_gb": max(run.measured["peak_rss_gb"] for run in runs),
                "seconds": _mean([run.measured["seconds"] for run in runs]),
            }
        )
    trials = [trial.result for tried in group.trials.values() for trial in tried if trial.result is not None]
    timed = [trial.measured["seconds"] for trial in trials if trial.measured.get("seconds") is not None]
    own = {job.key for job, _ in group.runs.values()}
    starts = [result for job, result in group.with_starts() if job.key not in own]
    before = [start.measured["seconds"] for start in starts if start.measured.get("seconds") is not None]
    seeds = len({seed for _, seed in group.runs})
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
        "peak_rss_gb": max(m["peak_rss_gb"] for m in per_model),
        "seconds": _sum([m["seconds"] for m in per_model], extra=sum(before) / seeds),
        "trial_seconds": round(sum(timed), 1) if timed else None,
        "wordpieces": group.wordpieces(),
        "ms_per_text": _sum([m["ms_per_text"] for m in per_model]),
        "texts": min(m["texts"] for m in per_model),
    }


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def _sum(values: list[float | None], *, extra: float = 0.0) -> float | None:
    return None if any(value is None for value in values) else round(sum(v for v in values if v is not None) + extra, 2)
