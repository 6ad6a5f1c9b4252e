"""Weak slices: groups of texts, found by search, on which the model is much worse than on the rest.

Conjunctions of at most two properties are scored on one half of the held-out examples as SliceLine does (Sagadeeva &
Boehm 2021, SIGMOD) and tested on the other half (Holm), so that a slice found by luck does not survive. Those along the
sources' fields that dev shows as well are tested on all of them.
"""

from __future__ import annotations

import shlex
from collections import Counter
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans

from palmette import statistics
from palmette.operate.diagnose.case import Case, NotLookedAtError
from palmette.operate.diagnose.estimates import Floats, greater, inside
from palmette.operate.diagnose.finding import Finding
from palmette.operate.diagnose.sheet import Sheet, shown

CAUSE = "weak slice"
_CLUSTERS = 6
_KEPT = 5  # slices tested on the other half
_VALUES = 30  # most values of a field
_ALPHA = 0.9  # SliceLine's weight of error against size

Mask = NDArray[np.bool_]


def detect(case: Case) -> list[Finding]:
    """The worst slice that both halves show."""
    main = case.main
    if len(main) < 80:
        raise NotLookedAtError("needs 80 held-out examples")
    found = properties(case, main)
    errors = main.errors
    half = np.random.default_rng(case.seed).permutation(len(main)) % 2 == 0
    on_dev = dict(_seen_on_dev(case, found))
    on_half = [(name, mask) for name, mask in search(found, errors, half) if name not in on_dev]
    ranked = [*on_dev.items(), *on_half]
    if not ranked:
        return []
    tests = [greater(errors[mask], errors[~mask]) for mask in on_dev.values()]
    tests += [greater(errors[mask & ~half], errors[~mask & ~half]) for _, mask in on_half]
    corrected = statistics.holm(tests)
    best = min(range(len(ranked)), key=lambda n: (corrected[n] >= 0.05, -_lift(errors, ranked[n][1])))
    name, mask = ranked[best]
    gain = inside(case.kind, main.parts, mask, seed=case.seed)
    inner, outer = float(errors[mask].mean()), float(errors[~mask].mean())
    given = any(f"{field} = " in name for field in _fields(main))
    return [
        Finding(
            cause=CAUSE,
            task=case.task,
            summary=f"{name}: {mask.sum()} of {len(main)} texts of {main.split}, {100 * inner:.0f} % wrong where the "
            f"rest has {100 * outer:.0f} %",
            gain=gain,
            unit=case.unit,
            how=f"the slice answered as well as the rest, on {main.split}",
            p=corrected[best],
            telling=given and inner > 1.5 * outer,
            command=f"palmette evaluate {case.run} --data {case.subject.data} "
            f"--slices {shlex.quote(_fields(main)[0]) if given else 'length,unseen'}",
            evidence=tuple(
                f"{other}: {100 * float(errors[m].mean()):.0f} % of {m.sum()} wrong, p = {p:.2g} "
                + (f"(found on dev, tested on {main.split})" if other in on_dev else "on the other half")
                for (other, m), p in zip(ranked, corrected, strict=True)
            ),
            examples=tuple(shown(main.examples[n]) for n in np.flatnonzero(mask & (errors > 0))[:6]),
            numbers={"slice": name, "texts": int(mask.sum()), "error": inner, "rest": outer, "p_holm": corrected[best]},
        )
    ]


def _seen_on_dev(case: Case, found: dict[str, Mask]) -> list[tuple[str, Mask]]:
    """The worst slices of dev along the sources' fields, to be tested on all of the data in question."""
    if case.beside is None:
        return []
    there = {name: mask for name, mask in _values(case.beside).items() if name in found}
    here = conjunctions({name: found[name] for name in there})
    worst = search(there, case.beside.errors, np.ones(len(case.beside), dtype=bool))
    return [(name, mask) for name, _ in worst if 2 <= (mask := here[name]).sum() <= len(mask) - 2]


def conjunctions(found: dict[str, Mask]) -> dict[str, Mask]:
    """The slices of one property and of two."""
    pairs = combinations(found.items(), 2)
    return found | {f"{one} and {two}": first & second for (one, first), (two, second) in pairs}


def _fields(sheet: Sheet) -> list[str]:
    names = Counter(name for example in sheet.examples for name in example.meta)
    return sorted(names)


def properties(case: Case, sheet: Sheet) -> dict[str, Mask]:
    """What a text may have: a value of a field, a length, unseen words, a casing, a cluster of vectors."""
    found = _values(sheet)
    words = np.array([sum(map(len, example.key)) for example in sheet.examples])
    low, high = np.quantile(words, [0.2, 0.8])
    found |= {f"at most {low:.0f} words": words <= low, f"at least {high:.0f} words": words >= high}
    if "train" in case.sheets:
        from palmette.operate.diagnose.unseen_words import shares
        from palmette.operate.diagnose.unseen_words import words as read_words

        known = frozenset(w for example in case.train.examples for w in read_words(example))
        new = shares(sheet.examples, known)
        edge = float(np.quantile(new, 0.8))
        found[f"over {100 * edge:.0f} % unseen words"] = new > edge
    if sheet.texts.shape[1] and len(sheet) > 10 * _CLUSTERS:
        groups = KMeans(_CLUSTERS, n_init=2, random_state=case.seed).fit_predict(sheet.texts)
        for group in range(_CLUSTERS):
            found[f"texts like “{_central(sheet, groups == group)}”"] = groups == group
    return found


def _values(sheet: Sheet) -> dict[str, Mask]:
    """Each value of the sources' fields that have a few."""
    found: dict[str, Mask] = {}
    for field in _fields(sheet):
        values = [example.meta.get(field) for example in sheet.examples]
        counts = Counter(value for value in values if value is not None)
        if 1 < len(counts) <= _VALUES:
            found |= {f"{field} = {value}": np.array([v == value for v in values]) for value in sorted(counts)}
    return found


def _central(sheet: Sheet, members: Mask) -> str:
    centre = sheet.texts[members].mean(axis=0)
    distance = np.square(sheet.texts - centre).sum(axis=1) + np.where(members, 0, np.inf)
    return shown(sheet.examples[int(distance.argmin())]).split(": ", 1)[-1][:50]


def search(found: dict[str, Mask], errors: Floats, half: Mask) -> list[tuple[str, Mask]]:
    """The best-scoring slices of one and two properties on a half, none inside a better one."""
    fewest = max(10, 0.03 * half.sum())
    scored = []
    mean = max(float(errors[half].mean()), 1e-9)
    for name, mask in conjunctions(found).items():
        size = (mask & half).sum()
        if not fewest <= size <= 0.6 * half.sum():
            continue
        score = _ALPHA * (errors[mask & half].mean() / mean - 1) - (1 - _ALPHA) * (half.sum() / size - 1)
        scored.append((float(score), name, mask))
    kept: list[tuple[str, Mask]] = []
    for score, name, mask in sorted(scored, key=lambda item: -item[0]):
        if score <= 0 or len(kept) == _KEPT:
            break
        if not any((mask & other).sum() > 0.9 * min(mask.sum(), other.sum()) for _, other in kept):
            kept.append((name, mask))
    return kept


def _lift(errors: Floats, mask: Mask) -> float:
    return float((errors[mask].mean() - errors[~mask].mean()) * mask.mean())
