"""Negative transfer: other tasks of the model cost this one; which, from a study or from the run's probes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.stats import ttest_1samp

from palmette.operate.diagnose import quick
from palmette.operate.diagnose.case import Case, NotLookedAtError
from palmette.operate.diagnose.estimates import Gain, metric, paired
from palmette.operate.diagnose.finding import Finding

CAUSE = "negative transfer"
DOMINANT = 10.0  # times this task's weighted loss: with so much, the updates are another task's


def detect(case: Case) -> list[Finding]:
    """By a study where one is given: it trained the task alone. Else by what training has done to the trunk."""
    if len(case.subject.kinds) < 2:
        raise NotLookedAtError("the model has one task only")
    found = _of_study(case)
    return found if found is not None else _of_run(case)


def _of_study(case: Case) -> list[Finding] | None:
    difference = (case.subject.study or {}).get("differences", {}).get(case.task, {}).get("multi_task")
    baseline = ((case.subject.study or {}).get("plan") or {}).get("baseline_regime")
    if not difference or "difference" not in difference or baseline != "single_task":
        return None
    lost = Gain(
        -100 * difference["difference"],
        -100 * difference["high"],
        -100 * difference["low"],
        difference["p"] / 2 if difference["difference"] < 0 else 1 - difference["p"] / 2,
    )
    blamed = _culprits(case.subject.study or {}, case.task)
    names = ", ".join(f"{name} ({points:+.1f})" for name, points in blamed)
    return [
        Finding(
            cause=CAUSE,
            task=case.task,
            summary=f"the study's single-task models do better by {lost.points:.1f} points",
            gain=lost,
            unit=case.unit,
            how="single-task less multi-task in the study, over its seeds and test examples",
            p=lost.p,
            telling=True,
            command=f"palmette train {case.subject.data} --out NEW_RUN  # without "
            f"{blamed[0][0] if blamed else 'the task that conflicts'}",
            evidence=(f"what training with it does to {case.task}: {names}",) if names else (),
            numbers={"difference": dict(difference), "from": blamed},
        )
    ]


def _culprits(study: Mapping[str, Any], task: str) -> list[tuple[str, float]]:
    """Points that each other task costs: by leaving it out, else by the pairs; the worst first."""
    left_out = {
        other: -100 * found[task]["difference"]
        for other, found in study.get("leave_one_out", {}).items()
        if "difference" in found.get(task, {})
    }
    measured = study.get("transfer", {}).get("pairs", {})
    pairs = {
        other: 100 * found[task]["difference"]
        for other, found in measured.items()
        if "difference" in found.get(task, {})
    }
    return sorted((left_out or pairs).items(), key=lambda item: item[1])


def conflict(case: Case) -> list[tuple[str, float, float]]:
    """What the run's probes say of each other task: (task, mean affinity to this one, mean cosine), the worst first.

    Affinity is that of Fifty et al. 2021 ("Efficiently Identifying Task Groupings for Multi-Task Learning").
    """
    probes = [line for line in case.subject.history if line.get("event") == "probe"]
    found = []
    for other in case.subject.kinds:
        affinity = [p["affinity"].get(other, {}).get(case.task) for p in probes]
        one, two = sorted((case.task, other))
        cosines = [np.mean(c) for p in probes if (c := p["cosine"].get(one, {}).get(two)) is not None]
        known = [value for value in affinity if value is not None]
        if other != case.task and known:
            found.append((other, float(np.mean(known)), float(np.mean(cosines or [0.0]))))
    return sorted(found, key=lambda item: item[1])


def dominance(case: Case) -> list[tuple[str, float, float]]:
    """How many times this task's weighted loss each other task's was, over the run; the greatest first.

    Returns:
        (task, times, p): p is one-sided, of at most `DOMINANT` times, over the run's reports of progress (t-test).
    """
    weights = {task: case.subject.config.tasks[task].weight for task in case.subject.kinds}
    losses = [
        {task: weight * loss[task] for task, weight in weights.items() if task in loss}
        for line in case.subject.history
        if line.get("event") == "progress" and (loss := line["loss"]).get(case.task, 0.0) > 0
    ]
    found = []
    for task in weights:
        both = [(loss[task], loss[case.task]) for loss in losses if loss.get(task, 0.0) > 0]
        if task == case.task or not both:
            continue
        theirs, ours = np.array(both).T
        p = 1.0
        if len(both) > 1:
            p = float(ttest_1samp(np.log(theirs / ours), np.log(DOMINANT), alternative="greater").pvalue)
        found.append((task, float(theirs.mean() / ours.mean()), p))
    return sorted(found, key=lambda item: -item[1])


def _of_run(case: Case) -> list[Finding]:
    """A quick head does better on the trunk as it was before training than the model does on the one it has now."""
    main, train = case.like_train, case.train
    if not main.trained.shape[1] or not main.vectors.shape[1] or not len(main.gold):
        raise NotLookedAtError("needs a study (--study), or a run of a task with classes and its trunk before training")
    before = quick.parts(case.kind, main, case.quick_head.probabilities(main.vectors))
    head = quick.fit(train.trained, train.gold, len(case.kind.labels))
    refitted = quick.parts(case.kind, main, head.probabilities(main.trained))
    gain = min(
        paired(case.kind, before, refitted, seed=case.seed),
        paired(case.kind, before, main.parts, seed=case.seed),
        key=lambda g: g.points,
    )
    heavier = dominance(case)
    crowded_out = bool(heavier) and heavier[0][1] >= DOMINANT
    summary = (
        "a quick head on the trunk as it was before training beats one on the trunk as it is now, and the model: the "
        "training with other tasks has cost the trunk what this one needs"
    )
    how = f"the quick head on the untrained trunk less the better of the two, on {main.split}"
    p = gain.p
    if crowded_out:
        mended = max((before, refitted), key=lambda parts: metric(case.kind, parts))
        gain = paired(case.kind, mended, main.parts, seed=case.seed)
        summary = f"{heavier[0][0]} has {heavier[0][1]:.0f} times the weighted loss of this task: it crowds it out"
        how = f"what a quick head of this task alone does better, on {main.split}"
        # Either is evidence: that it has lost something, and that it was crowded out from the beginning.
        p = min(gain.p, heavier[0][2])
    blamed = conflict(case)
    others = [task for task in case.subject.kinds if task != case.task]
    worst = heavier[0][0] if crowded_out else blamed[0][0] if blamed else others[0]
    evidence = [
        f"probes: a step for {other} changes this task's loss by {-100 * affinity:+.2f} %, cosine {cosine:+.2f}"
        for other, affinity, cosine in blamed
    ]
    weights = {task: case.subject.config.tasks[task].weight for task in case.subject.kinds}
    return [
        Finding(
            cause=CAUSE,
            task=case.task,
            summary=summary,
            gain=gain,
            unit=case.unit,
            how=how,
            p=p,
            telling=True,
            command=f"palmette compare {case.subject.data} --out STUDY  # then lower tasks.{worst}.weight "
            f"({weights[worst]:g}), or train {case.task} without {worst}",
            evidence=(*evidence, "without a study the culprit is a guess" if len(others) > 1 else f"from {worst}"),
            numbers={"from": worst, "affinity": {other: affinity for other, affinity, _ in blamed}},
        )
    ]
