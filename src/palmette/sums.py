"""Metrics as functions of sums, so that any set of examples is scored by adding up. NumPy only.

Each example has parts (counts, moments); the sum of the parts of some examples gives the metric on them. A bootstrap
scores thousands of sets of examples this way with one matrix product. Where nothing can be divided, a metric is 0, as
in `palmette.metrics`.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence, Sized
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
L = TypeVar("L", bound=Hashable)


def ratio(sums: Floats) -> Floats:
    """[..., (value, total)] -> value / total: accuracy from counts, a mean from values."""
    return _divide(sums[..., 0], sums[..., 1])


def f1(sums: Floats) -> Floats:
    """[..., (true positives, predicted, gold)] -> micro-averaged F1."""
    return _divide(2 * sums[..., 0], sums[..., 1] + sums[..., 2])


def macro_f1(sums: Floats) -> Floats:
    """[..., 3 x classes] of `by_class` -> mean F1 over the classes that occur in gold or prediction."""
    correct, predicted, gold = _classes(sums)
    occurring = ((predicted + gold) > 0).sum(axis=-1)
    return _divide(_divide(2 * correct, predicted + gold).sum(axis=-1), occurring)


def mcc(sums: Floats) -> Floats:
    """[..., 3 x classes] of `by_class`, one class an example -> Matthews correlation (Gorodkin 2004, eq. 8)."""
    correct, predicted, gold = _classes(sums)
    total = gold.sum(axis=-1)
    agreement = correct.sum(axis=-1) * total - (predicted * gold).sum(axis=-1)
    spread = (total**2 - (predicted**2).sum(axis=-1)) * (total**2 - (gold**2).sum(axis=-1))
    return _divide(agreement, np.sqrt(np.maximum(spread, 0)))


def pearson(sums: Floats) -> Floats:
    """[..., 6] of `moments` -> Pearson's correlation; 0 where a side is constant."""
    total, x, y, xx, yy, xy = np.moveaxis(sums, -1, 0)
    # Values are standardised, so that what rounding leaves of a constant is far below this.
    floor = 1e-12 * np.maximum(total, 1) ** 2
    x_spread, y_spread = total * xx - x**2, total * yy - y**2
    varies = (x_spread > floor) & (y_spread > floor)
    found = _divide(total * xy - x * y, np.sqrt(np.where(varies, x_spread * y_spread, 0)))
    return np.clip(found, -1, 1)


def equal(gold: Sequence[object], predicted: Sequence[object]) -> Floats:
    """[examples, (1 where equal, 1)]."""
    return means([float(wanted == found) for wanted, found in zip(gold, predicted, strict=True)])


def means(values: Sequence[float]) -> Floats:
    """[examples, (value, 1)]: `ratio` of their sum is the mean."""
    return np.stack([np.asarray(values, dtype=np.float64), np.ones(len(values))], axis=-1)


def sets(gold: Iterable[Iterable[Hashable]], predicted: Iterable[Iterable[Hashable]]) -> Floats:
    """[examples, (true positives, predicted, gold)] of sets (spans of a sentence, labels of a text)."""
    pairs = zip(map(set, gold), map(set, predicted), strict=True)
    return _table([(wanted & found, found, wanted) for wanted, found in pairs])


def by_class(items: Sequence[tuple[Iterable[L], Iterable[L], Iterable[L]]], known: Iterable[L]) -> Floats:
    """[examples, 3 x classes]: how often each class is correct, is predicted, is gold.

    Args:
        items: for each example its classes that are correct, that are predicted, that are gold; once an occurrence.
        known: classes that have columns even if no example has them. Two models can be compared only on the same
            columns: give both the same, with all that either may predict.
    """
    columns = [tuple(map(list, triple)) for triple in items]
    occurring = {label for triple in columns for labels in triple for label in labels}
    number = {label: place for place, label in enumerate(sorted({*known, *occurring}, key=str))}
    counts = np.zeros((len(columns), 3, len(number)))
    for example, triple in enumerate(columns):
        for row, labels in enumerate(triple):
            for label in labels:
                counts[example, row, number[label]] += 1
    return counts.reshape(len(columns), 3 * len(number))


def moments(gold: ArrayLike, predicted: ArrayLike) -> Floats:
    """[examples, (1, x, y, x², y², xy)], each side standardised: correlation does not change, rounding errors do."""
    x, y = _standardised(gold), _standardised(predicted)
    if x.shape != y.shape:
        raise ValueError(f"gold and predicted differ in length: {len(x)} and {len(y)}")
    return np.stack([np.ones_like(x), x, y, x**2, y**2, x * y], axis=-1)


def _standardised(values: ArrayLike) -> Floats:
    wanted = np.asarray(values, dtype=np.float64)
    if len(wanted) == 0 or np.ptp(wanted) < 1e-12:  # as in `palmette.metrics`: constant
        return np.zeros_like(wanted)
    centred = wanted - wanted.mean()
    standardised: Floats = centred / centred.std()
    return standardised


def _table(rows: Sequence[tuple[Sized, ...]]) -> Floats:
    return np.array([[len(cell) for cell in row] for row in rows], dtype=np.float64).reshape(len(rows), 3)


def _classes(sums: Floats) -> tuple[Floats, Floats, Floats]:
    """[..., 3 x classes] -> correct, predicted, gold, each [..., classes]."""
    split = sums.reshape(*sums.shape[:-1], 3, sums.shape[-1] // 3)
    return split[..., 0, :], split[..., 1, :], split[..., 2, :]


def _divide(above: Floats, below: ArrayLike) -> Floats:
    """Quotient, 0 where there is nothing to divide by."""
    divisor = np.asarray(below, dtype=np.float64)
    result: Floats = np.divide(above, divisor, out=np.zeros(divisor.shape), where=divisor > 0)
    return result
