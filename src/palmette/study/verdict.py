"""Would you ship it? From differences to a decision for each task, with its reason, and what would change."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean
from typing import Any

from palmette.study.plan import BASELINE, Plan

_LATE = 0.5  # of the run: the probes after it say whether tasks still oppose each other
_RARE = 0.1  # share of the draws below which a task that loses may simply be seen too rarely


def recommend(plan: Plan, found: Mapping[str, Any]) -> dict[str, Any]:
    """What to ship: all tasks as one model, some of them apart, or one left out of the sharing altogether.

    A task that no head answers is none of the shared model's. A task that sharing hurts is split off. If leaving it out
    also helps another, it is named as one to leave out.
    Where no difference is shown the task stays in, since one model costs less to host; the reason says how large a
    loss the study could have missed.

    Args:
        plan: of the study.
        found: its evidence (`palmette.study.evidence.weigh`).

    Returns:
        {"overall", "sentence", "tasks": {task: {"decision", "reason", "change", "cost"}}}
    """
    if "multi_task" not in plan.regimes:
        return {}
    tasks = {
        task: _decide(task, found)
        for task, by_regime in found["differences"].items()
        if by_regime["multi_task"]["verdict"] != "not answered"
    }
    apart = [task for task, entry in tasks.items() if entry["decision"] in {"split", "leave out"}]
    unknown = [task for task, entry in tasks.items() if entry["decision"] == "undecided"]
    together = [task for task in tasks if task not in {*apart, *unknown}]
    if unknown:
        overall = "undecided"
        sentence = f"Undecided: {_list(unknown)} could not be compared; see the failed runs."
    elif not apart:
        overall = "ship as one"
        sentence = f"Ship {_list(together)} as one model: sharing is not shown to hurt any of them."
    elif len(together) < 2:
        overall = "split"
        sentence = f"Do not share: {_list(apart)} {'lose' if len(apart) > 1 else 'loses'} by it."
    else:
        overall = "split"
        sentence = f"Ship {_list(together)} as one model, and {_list(apart)} apart: sharing hurts {_it(apart)}."
    return {"overall": overall, "sentence": sentence, "tasks": tasks}


def _decide(task: str, found: Mapping[str, Any]) -> dict[str, Any]:
    difference = found["differences"][task]["multi_task"]
    kind = difference["verdict"]
    if kind == "too few runs":
        return {"decision": "undecided", "reason": difference["reason"], "change": None, "cost": "more seeds"}
    size = _points(difference["difference"])
    interval = f"95 % interval {_points(difference['low'])} to {_points(difference['high'])} points"
    if kind == "helps":
        reason = f"Sharing helps: {size} points ({interval})."
        return {"decision": "share", "reason": reason, "change": None, "cost": "none"}
    if kind == "no difference shown":
        reason = (
            f"No difference shown: {size} points ({interval}); "
            f"this study finds one of {_points(difference['detectable'], sign=False)} points four times in five."
        )
        return {"decision": "share", "reason": reason, "change": None, "cost": "none"}
    helped = _helped_by_leaving_out(task, found)
    change, why, cost = _change(task, found)
    reason = f"Sharing hurts: {size} points ({interval}). {why}"
    if helped:
        reason += f" Without it, {_list(helped)} {'gain' if len(helped) > 1 else 'gains'}."
    return {"decision": "leave out" if helped else "split", "reason": reason, "change": change, "cost": cost}


def _helped_by_leaving_out(task: str, found: Mapping[str, Any]) -> list[str]:
    """The tasks that a model without `task` does better at, each interval above 0."""
    others = found["leave_one_out"].get(task, {})
    return [other for other, difference in others.items() if difference.get("low", 0.0) > 0]


def _change(task: str, found: Mapping[str, Any]) -> tuple[str, str, str]:
    """Which part of the system would change for a task that sharing hurts: the part, why, and what it costs.

    In order: a trunk of its own where the evidence is that the tasks pull the trunk apart, or that fine-tuning it after
    sharing mends the loss; more draws where it is seen rarely; else its head, the cheapest thing to change.
    """
    opposed = opposed_by(task, found["transfer"].get("probes", ()))
    sequential = found["differences"][task].get("sequential", {})
    alone = found["regimes"][BASELINE]["parameters"][task]
    size = (alone["shared"] + alone["tasks"][task]) / 1e6
    own_trunk = f"{size:.1f} M parameters more to train and host, and one more encoder pass a text (cost ledger)"
    if opposed:
        return "separate trunk", f"Its gradients oppose those of {_list(opposed)}.", own_trunk
    if sequential.get("verdict") in {"helps", "no difference shown"}:
        why = "Fine-tuning the shared trunk for it afterwards mends the loss."
        return "separate trunk", why, own_trunk
    drawn = found["regimes"]["multi_task"]["drawn"]
    if drawn.get(task, 0) < _RARE * sum(drawn.values()):
        why = "It is a small part of what the model draws, and no gradients oppose it."
        return "sampling", why, "longer training (raise its share in mixing, or its weight); nothing when serving"
    why = "No gradients oppose it and it is drawn often, so that what it reads from the trunk is the next thing to try."
    return "heads", why, "a deeper head, well under a million parameters; no further encoder pass"


def opposed_by(task: str, probes: Any) -> list[str]:
    """Tasks whose gradients on the trunk opposed this one's: a negative mean cosine in the second half of training."""
    cosines: dict[str, list[float]] = {}
    for probe in probes:
        if probe["share"] < _LATE:
            continue
        for first, row in probe["cosine"].items():
            for second, layers in row.items():
                if task in (first, second) and layers:
                    cosines.setdefault(second if task == first else first, []).append(fmean(layers))
    return sorted(other for other, values in cosines.items() if fmean(values) < 0)


def _points(fraction: float, *, sign: bool = True) -> str:
    return f"{100 * fraction:+.2f}" if sign else f"{100 * fraction:.2f}"


def _list(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _it(names: list[str]) -> str:
    return "it" if len(names) == 1 else "them"
