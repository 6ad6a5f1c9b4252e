"""Train-test shift: texts or labels that are distributed otherwise than in training."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2_contingency

from palmette.operate.diagnose import quick
from palmette.operate.diagnose.case import Case, NotLookedAtError
from palmette.operate.diagnose.estimates import Gain, apart, paired
from palmette.operate.diagnose.finding import Finding
from palmette.operate.diagnose.sheet import Sheet, shown

CAUSE = "train-test shift"
_TELLING_AUC = 0.65


def detect(case: Case) -> list[Finding]:
    """Texts of test that a classifier tells from those of train, and labels in other shares."""
    return [*texts(case), *labels(case)]


def texts(case: Case) -> list[Finding]:
    """The gap between what is like train and what is not."""
    train, main = case.train, case.main
    if not train.texts.shape[1]:
        raise NotLookedAtError("needs the trunk before training, which cannot be loaded")
    if min(len(train), len(main)) < 20:
        raise NotLookedAtError("needs 20 examples of train and of test")
    area, p, _ = quick.two_sample(train.texts, main.texts, seed=case.seed)
    gain, how = gap(case)
    return [
        Finding(
            cause=CAUSE,
            task=case.task,
            summary=f"a classifier tells {main.split} texts from train texts with AUC {area:.2f} (0.50 is chance)",
            gain=gain,
            unit=case.unit,
            how=how,
            p=p,
            telling=area >= _TELLING_AUC,
            command=case.label_more(
                "label texts like those of test; then palmette update RUN --corrections STORE --out CANDIDATE"
            ),
            evidence=(_typical(train, main),),
            examples=tuple(shown(main.examples[n]) for n in _farthest(train, main)),
            numbers={"auc": area, "p_auc": p, "gap_points": gain.points},
        )
    ]


def gap(case: Case) -> tuple[Gain, str]:
    """The score on data like train less the score on the data in question."""
    main = case.main
    if case.beside is not None and case.dev_is_like_train:
        gain = apart(case.kind, case.beside.parts, main.parts, seed=case.seed)
        return gain, f"the score on dev less that on {main.split}"
    inside_train = quick.parts(case.kind, case.train, case.quick_train)
    outside = quick.parts(case.kind, main, case.quick_head.probabilities(main.vectors))
    return (
        apart(case.kind, inside_train, outside, seed=case.seed),
        f"a quick head's score on held-out parts of train less that on {main.split}",
    )


def labels(case: Case) -> list[Finding]:
    """Labels in other shares than in train; the gain is of re-weighting the probabilities by them.

    Saerens, Latinne & Decaestecker 2002, "Adjusting the outputs of a classifier to new a priori probabilities".
    """
    train, main = case.train, case.main
    if not len(main.gold):
        return []
    count = len(case.kind.labels)
    before, after = (np.bincount(s.gold[s.gold >= 0], minlength=count) for s in (train, main))
    present = (before + after) > 0
    if present.sum() < 2:
        return []
    p = float(chi2_contingency(np.stack([before[present], after[present]])).pvalue)
    ratio = ((after + 0.5) / (after.sum() + 0.5 * count)) / ((before + 0.5) / (before.sum() + 0.5 * count))
    adjusted = main.probabilities * ratio
    gain = paired(
        case.kind,
        quick.parts(case.kind, main, adjusted / adjusted.sum(axis=1, keepdims=True)),
        main.parts,
        seed=case.seed,
    )
    distance = 0.5 * float(np.abs(before / before.sum() - after / after.sum()).sum())
    moved = np.argsort(-np.abs(np.log(ratio)) * present)[:3]
    return [
        Finding(
            cause=CAUSE,
            task=case.task,
            summary=f"labels of {main.split} come in other shares than in train (total variation {distance:.2f})",
            gain=gain,
            unit=case.unit,
            how=f"probabilities re-weighted to the shares of {main.split}, measured on it",
            p=p,
            telling=distance >= 0.1,
            command=f"palmette train {case.subject.data} --out NEW_RUN  # on data with the shares that you expect",
            evidence=tuple(
                f"{case.kind.labels[n]}: {before[n] / before.sum():.1%} of train, {after[n] / after.sum():.1%} of "
                f"{main.split}"
                for n in moved
            ),
            numbers={"total_variation": distance, "chi2_p": p, "shift": "labels"},
        )
    ]


def _typical(train: Sheet, main: Sheet) -> str:
    """Words that are much more frequent in the data in question."""
    counts: list[dict[str, int]] = []
    for sheet in (train, main):
        found: dict[str, int] = {}
        for example in sheet.examples:
            for word in {word.casefold() for part in example.key for word in part}:
                found[word] = found.get(word, 0) + 1
        counts.append(found)
    known, new = counts

    def lift(word: str) -> float:
        return new[word] * math.log(((new[word] + 0.5) / len(main)) / ((known.get(word, 0) + 0.5) / len(train)))

    words = sorted(new, key=lambda word: -lift(word))[:8]
    return f"words typical of {main.split}: {', '.join(words)}"


def _farthest(train: Sheet, main: Sheet, most: int = 5) -> NDArray[np.int64]:
    centre, spread = train.texts.mean(axis=0), train.texts.std(axis=0) + 1e-9
    distance = np.square((main.texts - centre) / spread).sum(axis=1)
    return np.argsort(-distance)[:most]
