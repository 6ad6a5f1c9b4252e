"""A quick head: logistic regression on vectors of a trunk that is not trained, as a yardstick beside the model."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from palmette.kinds import AnyKind
from palmette.operate.diagnose.sheet import Sheet

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
FOLDS = 5
MOST_UNITS = 6000  # that a quick head is fitted on
_FLOOR = 1e-6
_MOST_TEXTS = 800  # of each side that are told apart


@dataclass(frozen=True)
class QuickHead:
    """A fitted one.

    Attributes:
        scaler: standardises vectors.
        model: the regression; None where training shows one label only.
        classes: [classes] label numbers that it knows.
        labels: how many the kind has.
    """

    scaler: Any
    model: Any
    classes: Ints
    labels: int

    def probabilities(self, vectors: Floats) -> Floats:
        """[units, width] -> [units, labels]; labels that it has not seen get next to nothing."""
        found = np.full((len(vectors), self.labels), _FLOOR)
        if len(vectors):
            known = (
                np.ones((len(vectors), 1))
                if self.model is None
                else self.model.predict_proba(self.scaler.transform(vectors))
            )
            found[:, self.classes] = np.maximum(known, _FLOOR)
        return np.asarray(found / found.sum(axis=1, keepdims=True))


def fit(vectors: Floats, gold: Ints, labels: int, *, strength: float = 0.02) -> QuickHead:
    """Fit on units whose label is known (`gold` >= 0)."""
    known = gold >= 0
    vectors, gold = vectors[known][:MOST_UNITS], gold[known][:MOST_UNITS]
    scaler = StandardScaler().fit(vectors)
    classes = np.unique(gold)
    if len(classes) < 2:
        return QuickHead(scaler, None, classes, labels)
    model = LogisticRegression(C=strength, max_iter=60, tol=1e-3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # sixty steps are near enough for a yardstick
        model.fit(scaler.transform(vectors), gold)
    return QuickHead(scaler, model, model.classes_.astype(np.int64), labels)


def out_of_fold(sheet: Sheet, *, seed: int) -> Floats:
    """Probabilities of a sheet's units by heads that were fitted on other examples: [units, labels]."""
    labels = len(sheet.kind.labels)
    found = np.full((len(sheet.gold), labels), 1.0 / labels)
    for train, rest in folds(sheet, seed=seed):
        head = fit(sheet.vectors[train], sheet.gold[train], labels)
        found[rest] = head.probabilities(sheet.vectors[rest])
    return found


def folds(sheet: Sheet, *, seed: int) -> Iterator[tuple[NDArray[np.bool_], NDArray[np.bool_]]]:
    """Masks of units, (to fit on, held out); an example's units stay together."""
    count = len(sheet.examples)
    first = np.zeros(count, dtype=np.int64)
    first[sheet.owner[::-1]] = sheet.gold[::-1]  # the label of each example's first unit
    split = StratifiedKFold(min(FOLDS, max(2, count)), shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a label with fewer examples than folds
        for _, held in split.split(np.zeros(count), first if _enough(first) else np.zeros(count)):
            rest = np.isin(sheet.owner, held)
            yield ~rest, rest


def _enough(labels: Ints) -> bool:
    return bool(np.bincount(labels - labels.min()).max() >= FOLDS)


def parts(kind: AnyKind, sheet: Sheet, probabilities: Floats) -> Floats:
    """What each example adds to the task's metric if answered by these probabilities: [examples, parts]."""
    answers = decode(kind, sheet, probabilities)
    return kind.parts([example.labels[kind.task] for example in sheet.examples], answers)


def decode(kind: AnyKind, sheet: Sheet, probabilities: Floats) -> list[Any]:
    """Each example's label by the kind's own decoding of unit probabilities."""
    logits = np.log(np.maximum(probabilities, _FLOOR))
    bounds = np.searchsorted(sheet.owner, np.arange(len(sheet.examples) + 1))
    row: Any = None  # kinds with units decode by their outputs alone
    return [
        kind.decode([(row, logits[start:stop])], example, None).label
        for example, start, stop in zip(sheet.examples, bounds, bounds[1:], strict=False)
    ]


def nats(probabilities: Floats, gold: Ints) -> Floats:
    """The loss of each unit: -log p(gold); labels that are unknown count 0."""
    known = gold >= 0
    found = np.zeros(len(gold))
    found[known] = -np.log(np.maximum(probabilities[known, gold[known]], _FLOOR))
    return found


def error(probabilities: Floats, gold: Ints | Sequence[int]) -> float:
    """The share of units whose most probable label is not theirs."""
    return float((probabilities.argmax(axis=1) != np.asarray(gold)).mean()) if len(probabilities) else 0.0


def two_sample(first: Floats, second: Floats, *, seed: int) -> tuple[float, float, Floats]:
    """How well a classifier tells two sets of vectors apart (Lopez-Paz & Oquab 2017, ICLR).

    Returns:
        Out-of-fold area under the ROC curve, its p-value (normal approximation of Mann-Whitney's U), and the scores.
    """
    rng = np.random.default_rng(seed)
    first, second = (side[rng.permutation(len(side))[:_MOST_TEXTS]] for side in (first, second))
    joined = np.concatenate([first, second])
    side = np.r_[np.zeros(len(first)), np.ones(len(second))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        scores = cross_val_predict(
            make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=60, tol=1e-3)),
            joined,
            side,
            cv=min(5, len(first), len(second)),
            method="decision_function",
        )
    area = float(roc_auc_score(side, scores))
    n, m = len(first), len(second)
    return area, float(norm.sf((area - 0.5) / math.sqrt((n + m + 1) / (12 * n * m)))), np.asarray(scores)
