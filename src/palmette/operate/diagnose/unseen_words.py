"""Unseen words: words that training lacks, more of them than it leads one to expect, and answers that suffer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from palmette.operate.diagnose.case import Case
from palmette.operate.diagnose.estimates import Floats, from_error, greater, metric
from palmette.operate.diagnose.finding import Finding
from palmette.operate.diagnose.sheet import Sheet, shown
from palmette.types import Example

CAUSE = "unseen words"
_BANDS = (0.0, 0.1, 0.25)  # shares of unseen words that part the strata
_FEWEST = 8  # examples that make a stratum
_DRAWS = 200


def words(example: Example) -> list[str]:
    """Case-folded words that have a letter: numbers are always new."""
    return [w.casefold() for part in example.key for w in part if any(map(str.isalpha, w))]


def shares(examples: Sequence[Example], known: frozenset[str]) -> Floats:
    """The share of each example's words that are not known."""
    found = [words(example) for example in examples]
    return np.array([sum(w not in known for w in ws) / max(len(ws), 1) for ws in found], dtype=np.float64)


def detect(case: Case) -> list[Finding]:
    """More unseen words than one part of train has for the rest of it, with answers that are worse where they are."""
    train, main = case.train, case.main
    if not main.has_units and not len(main):
        return []
    known = frozenset(w for example in case.subject.corpus.splits["train"] for w in words(example))
    here = shares(main.examples, known)
    usual = shares(case.sheets["dev"].examples, known) if main.split != "dev" and "dev" in case.sheets else _own(train)
    p = greater(here, usual)
    rng = np.random.default_rng(case.seed)
    points = _points(case, np.arange(len(main)), here, usual)
    moved = [_points(case, rng.integers(0, len(main), len(main)), here, usual) for _ in range(_DRAWS)]
    gain = from_error(points, float(np.std(moved, ddof=1)) or 1e-6)
    new = Counter(w for example in main.examples for w in words(example) if w not in known)
    common = ", ".join(f"{word} ({count})" for word, count in new.most_common(8))
    worst = np.argsort(-(here * main.errors))[:6]
    return [
        Finding(
            cause=CAUSE,
            task=case.task,
            summary=f"{100 * here.mean():.1f} % of a text's words are not in train, where {100 * usual.mean():.1f} % "
            "are to be expected",
            gain=gain,
            unit=case.unit,
            how=f"texts of {main.split} re-weighted to the shares of unseen words that are to be expected",
            p=p,
            telling=here.mean() > 1.3 * usual.mean() and p < 0.001,
            command=case.label_more(
                "label texts with such words; then palmette update RUN --corrections STORE --out CANDIDATE"
            ),
            evidence=(f"most frequent: {common}",) if common else (),
            examples=tuple(shown(main.examples[n]) for n in worst if here[n] * main.errors[n] > 0),
            numbers={"share": float(here.mean()), "expected": float(usual.mean()), "p_share": p},
        )
    ]


def _own(train: Sheet) -> Floats:
    """What a tenth of train lacks of the rest."""
    known = frozenset(w for n, example in enumerate(train.examples) if n % 10 for w in words(example))
    return shares(train.examples[::10], known)


def _points(case: Case, drawn: np.ndarray[tuple[int], np.dtype[np.int64]], here: Floats, usual: Floats) -> float:
    """Points that the drawn texts would gain were their shares of unseen words the usual ones."""
    parts = case.main.parts[drawn]
    bands = np.searchsorted(_BANDS, here[drawn], side="left")
    wanted = np.bincount(np.searchsorted(_BANDS, usual, side="left"), minlength=len(_BANDS) + 1).astype(np.float64)
    weights = np.zeros(len(drawn))
    for band in range(len(_BANDS) + 1):
        members = bands == band
        if members.sum() >= _FEWEST:
            weights[members] = wanted[band] / len(usual) / members.sum()
    if not weights.sum():
        return 0.0
    total = (weights[:, None] * parts).sum(axis=0)
    return 100 * (float(case.kind.combine(total)) - metric(case.kind, parts))
