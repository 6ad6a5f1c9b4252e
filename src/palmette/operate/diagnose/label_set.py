"""Labels that training shows too rarely, and labels that nothing tells apart."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
from sklearn.metrics import roc_auc_score

from palmette.operate.diagnose import quick
from palmette.operate.diagnose.case import Case, NotLookedAtError
from palmette.operate.diagnose.estimates import Floats, Gain, inside, paired
from palmette.operate.diagnose.finding import Finding
from palmette.operate.diagnose.sheet import Sheet, shown

RARE, CONFUSABLE = "rare label", "confusable labels"
_FEW = 40  # units of train below which a label may be rare
_MASS = 8  # units of the data in question that make a label worth looking at
_PAIRS = 4  # pairs looked at
_PAIR = 40  # units of each label that a classifier of two is fitted on: with fewer it is weak, whatever the labels


def detect(case: Case) -> list[Finding]:
    """Rare labels, then confusable pairs."""
    if not len(case.main.gold):
        raise NotLookedAtError(f"{case.kind.config.kind} does not decide among classes")
    return [*rare(case), *confusable(case)]


def rare(case: Case) -> list[Finding]:
    """Labels with few training units that are found less often than the others."""
    train, main = case.train, case.main
    count = len(case.kind.labels)
    support = np.bincount(train.gold[train.gold >= 0], minlength=count)
    wanted = np.bincount(main.gold[main.gold >= 0], minlength=count)
    right = np.bincount(main.gold[_right(main)], minlength=count)
    common = support > _FEW
    usual = float(np.median(right[common & (wanted > 0)] / wanted[common & (wanted > 0)])) if common.any() else 1.0
    rows = [n for n in range(count) if wanted[n] >= _MASS and support[n] <= _FEW and right[n] / wanted[n] < usual]
    # Common in the data in question, rare in train: the shares alone tell that examples of it are missing.
    missing = [n for n in rows if (support[n] + 1) / (support.sum() + count) < 0.3 * wanted[n] / wanted.sum()]
    unseen = int((main.gold < 0).sum())
    if not common.any():  # of all there is little: another cause
        rows = []
        missing = []
    if not rows and not unseen:
        return []
    lost = sum(usual * wanted[n] - right[n] for n in rows) + usual * unseen
    touched = np.isin(np.arange(len(main)), main.owner[np.isin(main.gold, [*rows, -1])])
    ceiling = inside(case.kind, main.parts, touched, seed=case.seed)
    total = wanted.sum() + unseen
    share = lost / total
    error = math.sqrt(max(share * (1 - share), 1e-9) / total)
    gain = Gain(100 * share, 100 * (share - 1.96 * error), 100 * (share + 1.96 * error), ceiling.p)
    if case.kind.metric not in ("accuracy",):
        gain = min(gain, ceiling, key=lambda g: g.points) if case.kind.metric != "macro_f1" else gain
    names = [case.kind.labels[n] for n in rows]
    of_new = [f"{unseen} units of {main.split} have labels that train lacks"] if unseen else []
    return [
        Finding(
            cause=RARE,
            task=case.task,
            summary=f"{len(rows) + bool(unseen)} labels have too few training examples and are found less often than "
            f"the others ({usual:.0%}): {', '.join(names[:6]) or 'labels that train lacks'}",
            gain=gain,
            unit=case.unit,
            how=f"recall of these labels raised to that of the common ones, over all units of {main.split}",
            p=gain.p,
            telling=bool(missing or unseen),
            command=case.label_more("label more examples of these, or merge labels by rename: in the source"),
            evidence=(
                *(
                    f"{case.kind.labels[n]}: {support[n]} in train, {right[n]} of {wanted[n]} found in {main.split}"
                    for n in rows[:6]
                ),
                *of_new,
            ),
            examples=tuple(shown(main.examples[n]) for n in np.flatnonzero(touched & (main.errors > 0))[:6]),
            numbers={"labels": names, "support": {case.kind.labels[n]: int(support[n]) for n in rows}},
        )
    ]


def confusable(case: Case) -> list[Finding]:
    """Pairs of labels that are mixed up, and that a classifier of just these two cannot tell apart either."""
    kind, main = case.kind, case.main
    if len(kind.labels) < 3:
        return []
    case.need_units(case.train)
    mixed = np.zeros((len(kind.labels), len(kind.labels)))
    guess = main.probabilities.argmax(axis=1)
    known = main.gold >= 0
    np.add.at(mixed, (main.gold[known], guess[known]), 1)
    both = mixed + mixed.T
    if kind.config.scheme and "O" in kind.labels:  # a span that is missed is not confused with another
        outside = kind.labels.index("O")
        both[outside] = both[:, outside] = 0
    pairs = sorted(combinations(range(len(kind.labels)), 2), key=lambda pair: -both[pair])[:_PAIRS]
    found = [_pair(case, pair, float(both[pair])) for pair in pairs if both[pair] >= _MASS]
    return sorted((f for f in found if f is not None), key=lambda f: (not f.telling, -f.gain.points))[:1]


def _pair(case: Case, pair: tuple[int, int], errors: float) -> Finding | None:
    kind, main, train = case.kind, case.main, case.train
    head_units = np.isin(train.gold, pair)
    judged = [sheet for split, sheet in case.sheets.items() if split != "train"]
    gold = np.concatenate([sheet.gold[np.isin(sheet.gold, pair)] for sheet in judged]) == pair[1]
    if (
        min(np.bincount(train.gold[head_units], minlength=max(pair) + 1)[list(pair)]) < _PAIR
        or gold.all()
        or not gold.any()
    ):
        return None
    head = quick.fit(train.vectors[head_units], train.gold[head_units], len(kind.labels))
    scores = np.concatenate([head.probabilities(s.vectors[np.isin(s.gold, pair)])[:, pair[1]] for s in judged])
    area = float(roc_auc_score(gold, scores))
    error = math.sqrt((len(gold) + 1) / (12 * gold.sum() * (~gold).sum()))
    first, second = (kind.labels[n] for n in pair)
    merged = _merged(case, main, pair)
    # Merging always helps where two labels are mixed up at all: only the share beyond what a pair that can be told
    # apart would also lose is a fault of the label set.
    gain = merged.scaled(max(0.0, min(1.0, 2 * (1 - area))))
    return Finding(
        cause=CONFUSABLE,
        task=case.task,
        summary=f"{first} and {second} are mixed up {errors:.0f} times in {main.split}, and a classifier of these two "
        f"alone tells them apart with AUC {area:.2f} (0.50 is chance)",
        gain=gain,
        unit=case.unit,
        how="the metric with both labels counted as one, less that with two; times 2 (1 - AUC), the share that is not "
        "the model's fault",
        p=merged.p,
        telling=area + 1.96 * error < 0.68,
        command=f"palmette check {case.subject.data}  # then sharpen the guideline, or rename: one into the other",
        examples=tuple(
            f"{shown(main.examples[main.owner[n]])}  [{kind.labels[main.gold[n]]}]"
            for n in np.flatnonzero(
                np.isin(main.gold, pair) & np.isin(main.probabilities.argmax(axis=1), pair) & ~_right(main)
            )[:6]
        ),
        numbers={"labels": [first, second], "auc": area, "auc_error": error, "errors": errors},
    )


def _merged(case: Case, sheet: Sheet, pair: tuple[int, int]) -> Gain:
    """The gain of counting answers as right that name the other label of the pair."""
    mended = sheet.probabilities.copy()
    swapped = np.isin(sheet.gold, pair) & np.isin(mended.argmax(axis=1), pair)
    mended[swapped] = 0.0
    mended[swapped, sheet.gold[swapped]] = 1.0
    return paired(case.kind, quick.parts(case.kind, sheet, mended), sheet.parts, seed=case.seed)


def _right(sheet: Sheet) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    found: Floats = sheet.probabilities
    return np.asarray((found.argmax(axis=1) == sheet.gold) & (sheet.gold >= 0))
