"""How often a model fails each check: cases are made once, and every model answers the same ones."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from palmette.answering import Answerer
from palmette.kinds import AnyKind
from palmette.operate.behaviour.base import Case, Check, Given, Material
from palmette.types import Example, Prediction

Entities = Mapping[str, Sequence[tuple[str, ...]]]


@dataclass(frozen=True, slots=True)
class Asked:
    """The cases of one check for one task; at most `most` of those that there are."""

    task: str
    check: Check
    cases: tuple[Case, ...]


def make_cases(
    checks: Sequence[Check],
    kinds: Mapping[str, AnyKind],
    examples: Sequence[Example],
    names: Mapping[str, Mapping[str, str]],
    *,
    most: int,
    seed: int,
) -> list[Asked]:
    """The cases of every check that applies to a task and finds any.

    Args:
        checks: which.
        kinds: the tasks.
        examples: labelled data.
        names: by task, what its labels mean.
        most: cases of a check for a task.
        seed: of all choices; a check's cases do not depend on which others there are.
    """
    order = sorted(examples, key=_digest)
    entities = _entities(order, kinds)
    found = []
    for task, kind in kinds.items():
        own = [example for example in order if task in example.labels]
        material = Material(own, names.get(task, {}), entities, lambda example: _spans(example, kinds))
        for check in checks:
            if not check.applies(kind, material):
                continue
            rng = np.random.default_rng([seed, *hashlib.sha256(f"{task}/{check.name}".encode()).digest()])
            cases = tuple(islice(check.cases(kind, material, rng), most))
            if cases:
                found.append(Asked(task, check, cases))
    return found


def failures(model: Answerer, asked: Sequence[Asked]) -> list[list[tuple[bool | None, Prediction | None]]]:
    """Whether a model fails each case of each check (None: nobody can say), and its answer (None: it has none).

    A text that several checks ask for is answered once.
    """
    wanted: dict[Any, tuple[Given, dict[str, None]]] = {}
    for group in asked:
        for case in group.cases:
            for given in (case.after, case.before):
                if given is not None:
                    wanted.setdefault(_key(given), (given, {}))[1][group.task] = None
    inputs = [model.predictor.example(given) if isinstance(given, str) else given for given, _ in wanted.values()]
    answers: list[dict[str, Prediction]] = []
    for start in range(0, len(inputs), _CHUNK):
        tasks = [list(tasks) for _, tasks in list(wanted.values())[start : start + _CHUNK]]
        answers += model.predictor.answer_each(inputs[start : start + _CHUNK], tasks)
    by_key = dict(zip(wanted, answers, strict=True))
    return [[_judge(model.kinds[group.task], group, case, by_key) for case in group.cases] for group in asked]


_CHUNK = 512  # texts that are sorted by length and answered together


def _judge(
    kind: AnyKind, group: Asked, case: Case, answers: Mapping[Any, Mapping[str, Prediction]]
) -> tuple[bool | None, Prediction | None]:
    after = answers[_key(case.after)].get(group.task)
    before = None if case.before is None else answers[_key(case.before)].get(group.task)
    if after is None:
        return None, None
    held = group.check.holds(kind, case, before, after)
    return (None if held is None else not held), after


def _key(given: Given) -> Any:
    return given if isinstance(given, str) else (given.key, given.pair.string if given.pair is not None else None)


def _digest(example: Example) -> bytes:
    return hashlib.sha256(repr(example.key).encode(errors="surrogatepass")).digest()


def _spans(example: Example, kinds: Mapping[str, AnyKind]) -> list[tuple[int, int, str]]:
    """Stretches of words that some task labels."""
    found = []
    for task, kind in kinds.items():
        if task in example.labels:
            for place, label in kind.items(example.labels[task]):
                if isinstance(place, tuple):
                    found.append((*place, label))
    return sorted(found)


def _entities(examples: Sequence[Example], kinds: Mapping[str, AnyKind]) -> dict[str, list[tuple[str, ...]]]:
    found: dict[str, dict[tuple[str, ...], None]] = {}
    for example in examples:
        for start, stop, label in _spans(example, kinds):
            found.setdefault(label, {})[example.text.words[start:stop]] = None
    return {label: sorted(texts) for label, texts in found.items()}
