"""Per task: is the new model's metric lower than the old one's by less than the margin?

Every task has to pass, each at the full level. That needs no correction for their number: a gate that opens only where
all pass opens wrongly at most as often as the worst single task would pass wrongly (an intersection-union test: Berger
1982, "Multiparameter Hypothesis Testing and Acceptance Sampling", Technometrics).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from palmette.kinds import AnyKind
from palmette.noninferiority import shift
from palmette.operate.gate.settings import GateSettings
from palmette.types import Example, Prediction

Answers = Sequence[Mapping[str, Prediction]]


def changed(old: AnyKind, new: AnyKind) -> str | None:
    """What makes two tasks of one name different ones, in a clause; None if nothing does."""
    for key in ("kind", "scheme", "options"):
        one, two = getattr(old.config, key), getattr(new.config, key)
        if one != two:
            return f"its {key} was {one}, now it is {two}"
    gone, come = (sorted(set(a.labels) - set(b.labels)) for a, b in ((old, new), (new, old)))
    parts = [f"{word} {', '.join(labels)}" for word, labels in (("lost", gone), ("got", come)) if labels]
    return f"it {' and '.join(parts)} as labels" if parts else None


def judge_tasks(
    old: Mapping[str, AnyKind],
    new: Mapping[str, AnyKind],
    examples: Sequence[Example],
    answers: tuple[Answers, Answers],
    settings: GateSettings,
) -> dict[str, dict[str, Any]]:
    """What is said of each task of the old model: passed, fell, undecided, missing or changed; its numbers, as JSON."""
    found = {}
    for task, kind in old.items():
        margin = settings.margin_of(task)
        entry: dict[str, Any] = {"kind": kind.config.kind, "metric": kind.metric, "margin": margin}
        difference = changed(kind, new[task]) if task in new else None
        pairs = [
            (example.labels[task], one[task].label, two[task].label)
            for example, one, two in zip(examples, *answers, strict=True)
            if task in example.labels and task in one and task in two
        ]
        if task not in new:
            entry |= {"verdict": "missing", "reason": "the new model has no such task"}
        elif difference is not None:
            entry |= {"verdict": "changed", "reason": f"it is another task: {difference}"}
        elif not pairs:
            entry |= {
                "verdict": "undecided",
                "reason": f"the data have no {settings.split} example with its label",
                "examples": 0,
            }
        else:
            entry |= _compared(kind, pairs, margin, settings)
        found[task] = entry
    return found


def _compared(
    kind: AnyKind, pairs: Sequence[tuple[Any, Any, Any]], margin: float, settings: GateSettings
) -> dict[str, Any]:
    gold, one, two = ([pair[side] for pair in pairs] for side in range(3))
    # Of one kind object: labels may be columns. An unseen gold label may be one too, in both alike.
    parts = kind.parts([*gold, *gold], [*one, *two])
    result = shift(
        parts[: len(gold)],
        parts[len(gold) :],
        metric=kind.combine,
        margin=margin / 100,
        seed=settings.seed,
        resamples=settings.resamples,
        level=settings.level,
    )
    differing = sum(a != b for a, b in zip(one, two, strict=True))
    return {**asdict(result), "differing": differing, "reason": _reason(result, margin)}


def _reason(found: Any, margin: float) -> str:
    low = f"{100 * found.low:+.2f} points at worst"
    if found.verdict == "passed":
        return f"lower by less than {margin:g} points: {low}"
    if found.verdict == "fell":
        least, most = -100 * found.high, -100 * found.low
        return (
            f"lower by {-100 * found.difference:.2f} points ({least:.2f} to {most:.2f}), not shown to be less than the "
            f"{margin:g} that are accepted"
        )
    return (
        f"{found.examples:,} examples do not tell: {low}, {100 * found.high:+.2f} at best; "
        f"about {found.needed:,} would (at this difference, four times in five)"
    )


def new_tasks(
    old: Mapping[str, AnyKind], new: Mapping[str, AnyKind], examples: Sequence[Example], answers: Answers
) -> dict[str, dict[str, Any]]:
    """Tasks that only the new model has, with their metric where the data label them."""
    found = {}
    for task, kind in new.items():
        if task in old:
            continue
        pairs = [
            (example.labels[task], answer[task].label)
            for example, answer in zip(examples, answers, strict=True)
            if task in example.labels
        ]
        value = kind.score([gold for gold, _ in pairs], [label for _, label in pairs])[kind.metric] if pairs else None
        found[task] = {"kind": kind.config.kind, "metric": kind.metric, "value": value, "examples": len(pairs)}
    return found
