"""Behavioural checks of both models, and whether the new one fails them more often.

Any check that fails closes the gate, so that their number counts: p values are corrected over all of them (Holm 1979).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from palmette.answering import Answerer
from palmette.kinds import AnyKind
from palmette.noninferiority import rise
from palmette.operate.behaviour.base import Case, Given
from palmette.operate.behaviour.find import find_checks
from palmette.operate.behaviour.measure import failures, make_cases
from palmette.operate.behaviour.own import names_of
from palmette.operate.behaviour.vocabulary import MEANINGS
from palmette.operate.gate.settings import GateSettings
from palmette.statistics import holm
from palmette.types import Example, Prediction

_SHOWN = 5  # failures of the new model that a report has, of each check


def judge_behaviour(
    old: Answerer,
    new: Answerer,
    kinds: Mapping[str, AnyKind],
    examples: Sequence[Example],
    settings: GateSettings,
    *,
    file: Path | None,
) -> list[dict[str, Any]]:
    """Failure rates of both for each check and task, the failures that only the new model has shown first.

    Args:
        old: a model.
        new: the one that is to take its place.
        kinds: the tasks that both have.
        examples: labelled data that cases are made from.
        settings: margin, most cases, seed.
        file: own checks.

    Returns:
        As JSON, an entry a check and task. A check fails where the new model's rate is shown to be higher by more than
        the margin.

    Raises:
        ConfigError: see `find_checks`.
    """
    own, checks = find_checks(file)
    names = names_of(own, kinds, MEANINGS)
    asked = make_cases(checks, kinds, examples, names, most=settings.cases, seed=settings.seed)
    judged = [failures(model, asked) for model in (old, new)]
    entries = []
    for group, one, two in zip(asked, *judged, strict=True):
        both = [
            (case, first[0], second)
            for case, first, second in zip(group.cases, one, two, strict=True)
            if first[0] is not None and second[0] is not None
        ]
        entry = {
            "task": group.task,
            "check": group.check.name,
            "expectation": group.check.expectation,
            "description": group.check.description,
            "made": len(group.cases),
            "cases": len(both),
        }
        if both:
            entry |= _rates(kinds[group.task], both, settings)
        else:
            entry |= {"verdict": "passed", "reason": "no case that both models can be judged on", "p": 1.0}
        entries.append(entry)
    for entry, p in zip(entries, holm([entry["p"] for entry in entries]), strict=True):
        entry["holm"] = p
        if p < 1 - settings.level:
            entry["verdict"] = "failed"
    return entries


def _rates(
    kind: AnyKind,
    both: Sequence[tuple[Case, bool | None, tuple[bool | None, Prediction | None]]],
    settings: GateSettings,
) -> dict[str, Any]:
    failed = [bool(first) for _, first, _ in both], [bool(second[0]) for _, _, second in both]
    found = rise(*failed, margin=settings.behaviour_margin / 100, level=settings.level)
    shown = sorted((n for n, bad in enumerate(failed[1]) if bad), key=lambda n: failed[0][n])[:_SHOWN]
    return {
        "verdict": "passed",
        "old": found.old,
        "new": found.new,
        "difference": found.difference,
        "low": found.low,
        "high": found.high,
        "p": found.p,
        "old_failures": sum(failed[0]),
        "new_failures": sum(failed[1]),
        "only_new": sum(new and not old for old, new in zip(*failed, strict=True)),
        "only_old": sum(old and not new for old, new in zip(*failed, strict=True)),
        "reason": f"fails {100 * found.old:.1f} -> {100 * found.new:.1f} % of {found.cases} cases "
        f"({100 * found.low:+.1f} to {100 * found.high:+.1f}); a rise of {settings.behaviour_margin:g} is accepted",
        "failures": [_shown(kind, both[n][0], both[n][2][1], old_too=failed[0][n]) for n in shown],
    }


def _shown(kind: AnyKind, case: Case, answer: Prediction | None, *, old_too: bool) -> dict[str, Any]:
    given = case.after
    shown: dict[str, Any] = {"text": _text(given), "edit": case.note, "old_too": old_too}
    if case.before is not None:
        shown["before"] = _text(case.before)
    if isinstance(given, Example) and answer is not None:
        shown["answer"] = kind.render(answer, given)
    elif answer is not None:
        shown["answer"] = _plain(answer)
    return shown


def _plain(answer: Prediction) -> Any:
    label = answer.label
    if isinstance(label, frozenset):
        return sorted(label)
    return [str(part) for part in label] if isinstance(label, tuple) else label


def _text(given: Given) -> str:
    if isinstance(given, str):
        return given
    return given.text.string if given.pair is None else f"{given.text.string} | {given.pair.string}"
