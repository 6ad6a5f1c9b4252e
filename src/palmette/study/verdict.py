"""Would you ship it? From differences to a decision for each task, with its reason, and what would change."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean
from typing import Any

from palmette.study.plan import BASELINE, Plan

_LATE = 0.5  # of the run: the probes after it say whether tasks still oppose each other
_RARE = 0.1  # share of the draws below which a task that loses may simply be seen too rarely
_COST_OF_KNOWING = {"too few runs": "more seeds", "not comparable": "another metric, or `parts` of the kind"}


def recommend(plan: Plan, found: Mapping[str, Any]) -> dict[str, Any]:
    """What to ship: all tasks as one model, some of them apart, or one left out of the sharing altogether.

    A task that no head answers is none of the shared model's. A task that sharing hurts is split off. One that others
    do better without, by more than it gains itself, is left out. Where no difference is shown the task stays in, since
    one model costs less to host; the reason says how large a loss the study could have missed.

    Args:
        plan: of the study.
        found: its evidence (`palmette.study.evidence.weigh`).

    Returns:
        {"overall", "sentence", "tasks": {task: {"decision", "reason", "change", "cost"}}}; overall is "ship as one",
        "split", "leave out" or "undecided"
    """
    if "multi_task" not in plan.regimes:
        return {}
    tasks = {
        task: _decide(task, plan, found)
        for task, by_regime in found["differences"].items()
        if by_regime["multi_task"]["verdict"] != "not answered"
    }
    by_decision = {
        decision: [task for task, entry in tasks.items() if entry["decision"] == decision]
        for decision in ("share", "split", "leave out", "undecided")
    }
    return {**_overall(by_decision), "tasks": tasks}


def _overall(tasks: Mapping[str, list[str]]) -> dict[str, str]:
    """What to do with all of them, from the tasks of each decision."""
    together, split, out = tasks["share"], tasks["split"], tasks["leave out"]
    if tasks["undecided"]:
        sentence = f"Undecided: {_list(tasks['undecided'])} could not be compared; the reason stands beside each."
        return {"overall": "undecided", "sentence": sentence}
    if not split and not out:
        sentence = f"Ship {_list(together)} as one model: sharing is not shown to hurt any of them."
        return {"overall": "ship as one", "sentence": sentence}
    better = f"the others do better without {_list(out)}" if out else ""
    if len(together) < 2:
        loses = f"{_list(split)} {'lose' if len(split) > 1 else 'loses'} by it" if split else ""
        return {"overall": "split", "sentence": f"Do not share: {' and '.join(filter(None, [loses, better]))}."}
    apart = f"{_list(split)} apart: sharing hurts {_it(split)}" if split else ""
    left = f"leave {_list(out)} out: the others do better without {_it(out)}" if out else ""
    rest = "; ".join(filter(None, [apart, left]))
    return {
        "overall": "split" if split else "leave out",
        "sentence": f"Ship {_list(together)} as one model, and {rest}.",
    }


def _decide(task: str, plan: Plan, found: Mapping[str, Any]) -> dict[str, Any]:
    difference = found["differences"][task]["multi_task"]
    kind = difference["verdict"]
    if kind in _COST_OF_KNOWING:
        cost = _COST_OF_KNOWING[kind]
        return {"decision": "undecided", "reason": difference["reason"], "change": None, "cost": cost}
    size = _points(difference["difference"])
    interval = f"{100 * plan.level:g} % interval {_points(difference['low'])} to {_points(difference['high'])} points"
    if kind == "helps":
        reason = f"Sharing helps: {size} points ({interval})."
    elif kind == "no difference shown":
        reason = (
            f"No difference shown: {size} points ({interval}); "
            f"this study finds one of {_points(difference['detectable'], sign=False)} points four times in five."
        )
    else:
        reason = f"Sharing hurts: {size} points ({interval})."
    gains = _gains_without(task, plan, found)
    own = difference["difference"] if kind == "helps" else 0.0
    if gains:
        named = [f"{other} ({_points(gain)})" for other, gain in gains.items()]
        reason += f" Without it, {_list(named)} {'gain' if len(named) > 1 else 'gains'}."
        if sum(gains.values()) > own:
            why, cost = _opposition(task, found), _own_trunk(task, found)
            reason = f"{reason} {why}".strip()
            return {"decision": "leave out", "reason": reason, "change": "separate trunk", "cost": cost}
    if kind != "hurts":
        return {"decision": "share", "reason": reason, "change": None, "cost": "none"}
    change, why, cost = _change(task, found)
    return {"decision": "split", "reason": f"{reason} {why}", "change": change, "cost": cost}


def _gains_without(task: str, plan: Plan, found: Mapping[str, Any]) -> dict[str, float]:
    """What other tasks are shown to gain in a model without `task` (corrected for all that were left out)."""
    return {
        other: difference["difference"]
        for other, difference in found["leave_one_out"].get(task, {}).items()
        if difference.get("p_holm", 1.0) < 1 - plan.level and difference["difference"] > 0
    }


def _opposition(task: str, found: Mapping[str, Any]) -> str:
    opposed = opposed_by(task, found["transfer"].get("probes", ()))
    return f"Its gradients oppose those of {_list(opposed)}." if opposed else ""


def _own_trunk(task: str, found: Mapping[str, Any]) -> str:
    alone = found["regimes"][BASELINE]["parameters"][task]
    size = (alone["shared"] + alone["tasks"][task]) / 1e6
    return f"{size:.1f} M parameters more to train and host, and one more encoder pass a text (cost ledger)"


def _change(task: str, found: Mapping[str, Any]) -> tuple[str, str, str]:
    """Which part of the system would change for a task that sharing hurts: the part, why, and what it costs.

    In order: a trunk of its own where the evidence is that the tasks pull the trunk apart, or that fine-tuning it after
    sharing mends the loss; more draws where it is seen rarely; else its head, the cheapest thing to change.
    """
    opposition = _opposition(task, found)
    own_trunk = _own_trunk(task, found)
    if opposition:
        return "separate trunk", opposition, own_trunk
    sequential = found["differences"][task].get("sequential", {})
    if sequential.get("verdict") in {"helps", "no difference shown"} and _mended(found["differences"][task]):
        why = "Fine-tuning the shared trunk for it afterwards mends the loss."
        return "separate trunk", why, own_trunk
    drawn = found["regimes"]["multi_task"]["drawn"]
    if drawn.get(task, 0) < _RARE * sum(drawn.values()):
        why = "It is a small part of what the model draws, and no gradients oppose it."
        return "sampling", why, "longer training (raise its share in mixing, or its weight); nothing when serving"
    why = "No gradients oppose it and it is drawn often, so that what it reads from the trunk is the next thing to try."
    return "heads", why, "a deeper head, well under a million parameters; no further encoder pass"


def _mended(by_regime: Mapping[str, Any]) -> bool:
    """Whether fine-tuning afterwards is better than sharing by more than the uncertainty about it.

    That no loss is shown is not yet that it is mended: the interval must leave out what sharing costs.
    """
    return float(by_regime["sequential"]["low"]) > float(by_regime["multi_task"]["difference"])


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
