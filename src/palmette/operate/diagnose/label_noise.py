"""Label noise: labels that contradict what models of the other examples say."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from palmette.errors import MissingExtraError
from palmette.operate.diagnose import quick
from palmette.operate.diagnose.case import Case
from palmette.operate.diagnose.estimates import Gain, from_error, metric, paired
from palmette.operate.diagnose.finding import Finding
from palmette.operate.diagnose.sheet import Floats, Sheet, shown

CAUSE = "label noise"
# What a point of wrong training labels cost a fine-tuned model, in points of its metric: see docs/diagnose.md.
PRICE = 0.3
_FEWEST = 20  # examples


def detect(case: Case) -> list[Finding]:
    """Wrong labels in train.

    Confident learning (Northcutt, Jiang & Chuang 2021, JAIR; cleanlab) counts labels that out-of-fold probabilities
    contradict. A quick head errs on clean labels as well, so the count alone proves nothing: what does is that labels
    of train are contradicted more often than those of dev and test, which the same kind of head has not seen either.
    Where so many are wrong that no head learns anything of them, one that learned of dev still contradicts them.
    """
    train, found = case.train, case.quick_train
    suspects = issues(train, found)
    held_out = [case.sheets[split] for split in ("dev", "test") if split in case.sheets]
    excess, error = max(_excess(case, found, held_out), _by_dev(case), key=lambda pair: pair[0] - 1.96 * pair[1])
    gain = _gain(case, suspects, excess, error)
    share = len(suspects) / max(len(train.gold), 1)
    labels = case.kind.labels
    numbers = {"suspects": len(suspects), "share": share, "excess_points": 100 * excess, "units": len(train.gold)}
    return [
        Finding(
            cause=CAUSE,
            task=case.task,
            summary=f"labels of train are contradicted by models of the other examples {100 * excess:.1f} points more "
            f"often than those of held-out data (± {196 * error:.1f})",
            gain=gain,
            unit=case.unit,
            how="the greater of: a quick head refitted without the suspects, measured on held-out data; "
            f"{PRICE} points for each point of wrong labels",
            p=from_error(excess, error).p,
            telling=excess - 1.96 * error > 0.03,
            command=f"palmette check {case.subject.data}  # then correct the labels below and train again",
            evidence=(f"cleanlab suspects {len(suspects)} of {len(train.gold)} labels ({100 * share:.1f} %)",),
            examples=tuple(
                f"{shown(train.examples[train.owner[n]])}  [{labels[train.gold[n]]}, "
                f"others say {labels[int(found[n].argmax())]}]"
                for n in suspects[:8]
            ),
            numbers=numbers,
        )
    ]


def issues(sheet: Sheet, probabilities: Floats) -> NDArray[np.int64]:
    """Units whose label cleanlab suspects, the worst first."""
    try:
        from cleanlab.filter import find_label_issues
    except ImportError as error:
        raise MissingExtraError("cleanlab", "operate") from error
    known = np.flatnonzero(sheet.gold >= 0)
    present = np.unique(sheet.gold[known])
    if len(present) < 2:
        return np.zeros(0, dtype=np.int64)
    dense = np.searchsorted(present, sheet.gold[known])
    kept = probabilities[np.ix_(known, present)]
    ranked = find_label_issues(
        dense, kept / kept.sum(axis=1, keepdims=True), return_indices_ranked_by="self_confidence", n_jobs=1
    )
    return known[np.asarray(ranked, dtype=np.int64)]


def _excess(case: Case, found: Floats, held_out: list[Sheet]) -> tuple[float, float]:
    """How much more often train is contradicted than the held-out split that is contradicted most, and its error."""
    ours = _rates(case.train, found)
    gaps = [_gap(ours, _rates(sheet, case.quick_head.probabilities(sheet.vectors))) for sheet in held_out]
    return min(gaps, default=(0.0, 1.0), key=lambda pair: pair[0])


def _gap(first: Floats, second: Floats) -> tuple[float, float]:
    """How much greater the mean of the first is, and the error of that."""
    error = float(np.sqrt(first.var() / len(first) + second.var() / max(len(second), 1)))
    return float(first.mean() - second.mean()), error


def _by_dev(case: Case) -> tuple[float, float]:
    """How much more often heads that were fitted on dev contradict train than the rest of dev, and its error.

    Nothing where dev is not like train: then they err on train for that.
    """
    train, dev = case.train, case.beside
    if dev is None or min(len(train), len(dev)) < _FEWEST or not case.dev_is_like_train:
        return 0.0, 1.0
    head = quick.fit(dev.vectors, dev.gold, len(case.kind.labels))
    ours = _rates(train, head.probabilities(train.vectors))
    return _gap(ours, _rates(dev, quick.out_of_fold(dev, seed=case.seed)))


def _rates(sheet: Sheet, probabilities: Floats) -> Floats:
    """The share of each example's units that are contradicted."""
    wrong = (probabilities.argmax(axis=1) != sheet.gold).astype(np.float64)
    return np.asarray(
        np.bincount(sheet.owner, wrong, len(sheet)) / np.maximum(np.bincount(sheet.owner, minlength=len(sheet)), 1)
    )


def _gain(case: Case, suspects: NDArray[np.int64], excess: float, error: float) -> Gain:
    train, judge = case.train, case.sheets.get("dev", case.main)
    clean = np.ones(len(train.gold), dtype=bool)
    clean[suspects] = False
    head = quick.fit(train.vectors[clean], train.gold[clean], len(case.kind.labels))
    refit = paired(
        case.kind,
        quick.parts(case.kind, judge, head.probabilities(judge.vectors)),
        quick.parts(case.kind, judge, case.quick_head.probabilities(judge.vectors)),
        seed=case.seed,
    )
    # A metric of spans knows the words inside of them alone: there the wrong labels are, or what they are missing for.
    outside = case.kind.labels.index("O") if case.kind.metric == "span_f1" and "O" in case.kind.labels else -1
    counted = float((train.gold != outside).mean())
    price = 100 * PRICE / max(counted, 0.01)
    priced = from_error(price * excess, price * error)
    room = 100 * (1 - metric(case.kind, judge.parts))
    best = max(refit, priced, key=lambda gain: gain.low)
    return best if best.points <= room else best.scaled(room / best.points)
