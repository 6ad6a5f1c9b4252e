"""From a study's runs to what they show: scores, differences with intervals, verdicts, transfer between tasks."""

from __future__ import annotations

import itertools
import statistics as stdlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from palmette import statistics
from palmette.kinds import AnyKind
from palmette.study import transfer, verdict
from palmette.study.execute import Result
from palmette.study.jobs import Job
from palmette.study.plan import BASELINE, Plan
from palmette.study.regimes import ModelPlan

_RESAMPLING_SEED = 20


@dataclass
class Trial:
    """One setting that was tried for a model."""

    settings: Mapping[str, float]
    job: Job
    result: Result | None = None
    score: float | None = None
    chosen: bool = False


@dataclass
class Group:
    """A regime (or the models of a design, or of a point of a curve) with all that was run for it."""

    name: str
    models: list[ModelPlan]
    description: str = ""
    trials: dict[str, list[Trial]] = field(default_factory=dict)  # by model
    runs: dict[tuple[str, int], tuple[Job, Result]] = field(default_factory=dict)  # by model and seed

    def settings(self, model: ModelPlan) -> Mapping[str, float]:
        """The chosen settings of a model; its configuration's own where all of its trials failed."""
        return next((trial.settings for trial in self.trials.get(model.name, ()) if trial.chosen), {})

    def of_task(self, task: str, model: str | None = None) -> dict[int, Result]:
        """By seed, the runs of the model that answers a task: the first that does, or the one named."""
        name = model or next((m.name for m in self.models if task in m.tasks), "")
        return {seed: result for (owner, seed), (_, result) in self.runs.items() if owner == name}

    def finished(self) -> list[list[Mapping[str, Any]]]:
        """What was measured of the finished runs of each model, and of each model that they started from."""
        found: dict[tuple[bool, str], dict[str, Mapping[str, Any]]] = {}
        for job, result in self.runs.values():
            for start, (ran, became) in enumerate(filter(None, [(job, result), result.start])):
                if became.error is None:
                    found.setdefault((bool(start), ran.model), {})[ran.key] = became.measured
        return [list(by_key.values()) for by_key in found.values()]

    def lacks(self, task: str, kind: AnyKind) -> str:
        """Why none of its models answers a task; nothing where one does."""
        if any(task in model.tasks for model in self.models):
            return ""
        return f"{kind.config.kind} {'cannot be put as text' if kind.has_head else 'has no head'}"

    def wordpieces(self) -> float:
        """That its models processed for a seed, what they started from included: means over the finished runs."""
        return sum(stdlib.fmean(run["wordpieces"] for run in runs) for runs in self.finished())


def weigh(
    plan: Plan,
    kinds: Mapping[str, AnyKind],
    regimes: Mapping[str, Group],
    designs: Mapping[str, Group],
    curves: Mapping[tuple[float, str], Group],
    curve_task: str,
) -> dict[str, Any]:
    """All that the runs of a study show; only what an interrupted and an uninterrupted study agree on.

    Args:
        plan: of the study.
        kinds: its tasks, fitted on all of its training data.
        regimes: by name.
        designs: models of pairs of tasks, and of all tasks but one.
        curves: by percentage and regime.
        curve_task: whose training data they cut.
    """
    comparison = _Comparison(plan, kinds)
    differences = {
        task: {
            name: {"verdict": "not answered", "reason": reason}
            if (reason := group.lacks(task, kind))
            else comparison.of(task, group.of_task(task), regimes[plan.baseline(kind)].of_task(task))
            for name, group in regimes.items()
            if name != plan.baseline(kind)
        }
        for task, kind in kinds.items()
    }
    _correct(differences, plan)
    left_out = _left_out(comparison, designs.get("leave_one_out"), regimes.get("multi_task"))
    pairs = _pairs(comparison, designs.get("pairs"), regimes[BASELINE])
    multi = regimes.get("multi_task")
    groups = [*regimes.values(), *designs.values()]
    cut = [group for group in curves.values() if group.name not in regimes]
    found: dict[str, Any] = {
        "regimes": {name: _describe(group) for name, group in regimes.items()},
        "designs": {group.name: _describe(group) for group in (*designs.values(), *cut)},
        "scores": {
            task: {
                name: {"reason": reason, "seeds": {}, "mean": None, "sd": None}
                if (reason := group.lacks(task, kind))
                else _scores(task, group)
                for name, group in regimes.items()
            }
            for task, kind in kinds.items()
        },
        "differences": differences,
        "transfer": transfer.analyse(_probes(multi), pairs, multi.models[0].tasks) if multi is not None else {},
        "leave_one_out": left_out,
        "learning_curve": _curve(curves, curve_task),
        "alarms": [alarm for group in (*groups, *cut) for alarm in _alarms(group)],
    }
    return {**found, "recommendation": verdict.recommend(plan, found)}


@dataclass(frozen=True)
class _Comparison:
    """Compares two sets of runs on a task, if both have the seeds for it."""

    plan: Plan
    kinds: Mapping[str, AnyKind]

    def of(self, task: str, first: Mapping[int, Result], second: Mapping[int, Result]) -> dict[str, Any]:
        """The difference as JSON; `verdict` alone, with the reason, where there can be no interval."""
        finished = [[run for run in runs.values() if run.error is None] for runs in (first, second)]
        fewest = min(map(len, finished))
        if fewest < 2:
            return {"verdict": "too few runs", "reason": f"{fewest} finished where an interval takes two"}
        for run in itertools.chain(*finished):
            if reason := run.measured.get("incomparable", {}).get(task):
                return {"verdict": "not comparable", "reason": reason}
        both = [[run.parts()[task] for run in runs] for runs in finished]
        found, strictest = (
            statistics.compare(
                np.stack(both[0]),
                np.stack(both[1]),
                metric=self.kinds[task].combine,
                seed=_RESAMPLING_SEED,
                level=level,
            )
            # Holm asks this of the task with the smallest p; what the others are asked is never more.
            for level in (self.plan.level, 1 - (1 - self.plan.level) / len(self.kinds))
        )
        return {**asdict(found), "detectable": strictest.detectable}


def _correct(differences: Mapping[str, dict[str, dict[str, Any]]], plan: Plan) -> None:
    """Holm's correction over the tasks of each regime, and the verdict that follows."""
    for regime in {name for by_regime in differences.values() for name in by_regime}:
        for entry in _holm([one[regime] for one in differences.values() if regime in one]):
            sure = entry["p_holm"] < 1 - plan.level
            entry["verdict"] = "no difference shown" if not sure else "helps" if entry["difference"] > 0 else "hurts"


def _holm(entries: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Give each comparison its p for all of them; -> those that have one."""
    made = [entry for entry in entries if "p" in entry]
    for entry, p in zip(made, statistics.holm([entry["p"] for entry in made]), strict=True):
        entry["p_holm"] = p
    return made


def _pairs(comparison: _Comparison, group: Group | None, single: Group) -> dict[str, dict[str, Any]]:
    """{trained with: {task: difference to the task alone}} over all ordered pairs."""
    found: dict[str, dict[str, Any]] = {}
    for model in group.models if group is not None else ():
        for task, other in (model.tasks, model.tasks[::-1]):
            difference = comparison.of(task, group.of_task(task, model.name), single.of_task(task)) if group else {}
            found.setdefault(other, {})[task] = difference
    return found


def _left_out(comparison: _Comparison, group: Group | None, multi: Group | None) -> dict[str, dict[str, Any]]:
    """{task left out: {other task: difference of the model without it to the model of all}}."""
    found: dict[str, dict[str, Any]] = {}
    if group is None or multi is None:
        return found
    for model in group.models:
        (left_out,) = set(multi.models[0].tasks) - set(model.tasks)
        found[left_out] = {
            task: comparison.of(task, group.of_task(task, model.name), multi.of_task(task)) for task in model.tasks
        }
    _holm([entry for by_task in found.values() for entry in by_task.values()])
    return found


def _describe(group: Group) -> dict[str, Any]:
    done = [result.measured for _, result in group.runs.values() if result.error is None]
    drawn: dict[str, float] = {}
    for same in group.finished():
        for task in same[0]["drawn"]:
            drawn[task] = drawn.get(task, 0) + stdlib.fmean(run["drawn"][task] for run in same)
    trials = [
        {
            "model": name,
            "settings": dict(trial.settings),
            "score": trial.score,
            "dev": None if trial.result is None else trial.result.measured.get("scores", {}).get("dev"),
            "state": "failed" if trial.result is not None and trial.result.error else "done",
            "error": None if trial.result is None else trial.result.error,
            "chosen": trial.chosen,
        }
        for name, tried in group.trials.items()
        for trial in tried
        if trial.result is not None
    ]
    runs = [
        {
            "model": model,
            "seed": seed,
            "tasks": list(job.tasks),
            "state": "done" if result.error is None else "failed",
            "error": result.error,
            "key": job.key,
        }
        for (model, seed), (job, result) in group.runs.items()
    ]
    return {
        "description": group.description,
        "models": [list(model.tasks) for model in group.models],
        "trials": trials,
        "chosen": {model.name: dict(group.settings(model)) for model in group.models},
        "runs": runs,
        "parameters": {
            job.model: result.measured["parameters"] for job, result in group.runs.values() if result.error is None
        },
        "drawn": drawn,
        "wordpieces": group.wordpieces(),
        "usage": _usage(group, done),
    }


def _usage(group: Group, done: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """What models that write spent on an example of each task's test, and what of it was in vain: means over runs.

    Money is by the prices that the configuration has now. But for the time, which no two runs agree on: that is in the
    ledger.
    """
    remote = group.models[0].config.endpoint if group.models else None
    tasks = {task for measured in done for task in measured.get("usage", {})}
    found: dict[str, dict[str, Any]] = {}
    for task in sorted(tasks):
        spent = [measured["usage"][task] for measured in done if task in measured.get("usage", {})]
        examples = sum(one["examples"] for one in spent)
        shares = ("unparseable", "truncated", "prompt_tokens", "written_tokens", "estimated")
        # What an older Palmette wrote says nothing of estimates.
        found[task] = {name: sum(one.get(name, 0) for one in spent) / examples for name in shares}
        tokens = found[task]["prompt_tokens"], found[task]["written_tokens"]
        if remote is not None and (money := remote.money(*tokens)) is not None:
            found[task] |= {"money_per_thousand": 1000 * money, "currency": remote.currency}
    return found


def _scores(task: str, group: Group) -> dict[str, Any]:
    """What the models of a regime score on a task: every seed, and over the seeds that finished."""
    runs = group.of_task(task)
    done = {seed: run.measured["scores"] for seed, run in runs.items() if run.error is None}
    test = [scores["test"][task] for scores in done.values()]
    return {
        "seeds": {str(seed): done[seed]["test"][task] if seed in done else None for seed in runs},
        "mean": stdlib.fmean(test) if test else None,
        "sd": stdlib.stdev(test) if len(test) > 1 else None,
        "dev": _mean([scores["dev"].get(task) for scores in done.values()]),
        "train": _mean([scores["train"].get(task) for scores in done.values()]),
        "gap": _mean([_gap(scores, task) for scores in done.values()]),
    }


def _gap(scores: Mapping[str, Mapping[str, float]], task: str) -> float | None:
    if task not in scores["train"] or task not in scores["dev"]:
        return None
    return scores["train"][task] - scores["dev"][task]


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return stdlib.fmean(known) if known else None


def _curve(curves: Mapping[tuple[float, str], Group], task: str) -> dict[str, Any]:
    """How each regime does with a part of one task's training data."""
    points = []
    for (percent, regime), group in curves.items():
        drawn = [run.measured["examples"][task] for run in group.of_task(task).values() if run.error is None]
        points.append(
            {
                "percent": percent,
                "regime": regime,
                **_scores(task, group),
                "examples": drawn[0] if drawn else None,
            }
        )
    return {"task": task, "points": points} if points else {}


def _probes(multi: Group | None) -> list[dict[str, Any]]:
    """Every probe of the multi-task runs, with its seed and its place in the run."""
    return [
        {"seed": seed, "share": probe["update"] / result.measured["updates"], **probe}
        for (_, seed), (_, result) in (multi.runs.items() if multi is not None else ())
        for probe in result.measured.get("probes", ())
    ]


def _alarms(group: Group) -> list[dict[str, Any]]:
    return [
        {"regime": group.name, "model": model, "seed": seed, **{k: v for k, v in alarm.items() if k != "event"}}
        for (model, seed), (_, result) in group.runs.items()
        for alarm in result.measured.get("alarms", ())
    ]
