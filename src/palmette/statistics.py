"""How sure a difference between two ways of training is: intervals over seeds and test examples. NumPy only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
# Summed counts [..., parts] -> metric [...].
Metric = Callable[[Floats], Floats]

_CHUNK = 8_000_000  # weights held at once: 64 MB


@dataclass(frozen=True, slots=True)
class Interval:
    """A difference and where it plausibly lies.

    Attributes:
        difference: first - second, each the mean over its seeds of the metric on all test examples.
        low, high: bounds of the interval.
        first, second: the two means.
    """

    difference: float
    low: float
    high: float
    first: float
    second: float


def accuracy(counts: Floats) -> Floats:
    """[..., (correct, total)] -> share of correct; 0 where there is nothing."""
    return _ratio(counts[..., 0], counts[..., 1])


def f1(counts: Floats) -> Floats:
    """[..., (true positives, predicted, gold)] -> micro-averaged F1; 0 where there is nothing."""
    return _ratio(2 * counts[..., 0], counts[..., 1] + counts[..., 2])


def _ratio(above: Floats, below: Floats) -> Floats:
    result: Floats = np.divide(above, below, out=np.zeros_like(above, dtype=np.float64), where=below > 0)
    return result


def hierarchical_bootstrap(
    first: ArrayLike,
    second: ArrayLike,
    *,
    metric: Metric,
    seed: int,
    resamples: int = 2000,
    level: float = 0.95,
) -> Interval:
    """Percentile interval of `first` - `second` under resampling of both seeds and test examples.

    A model's score varies with its seed and with the test examples that happened to be drawn; an interval that
    ignores either is too narrow (Dror et al. 2018, "The Hitchhiker's Guide to Testing Statistical Significance in
    NLP", ACL; Reimers & Gurevych 2017, EMNLP, on seeds). Each resample therefore draws

    - test examples with replacement, the same for every model of both regimes, since all answered the same ones
      (a paired design: Koehn 2004, EMNLP; a sentence is drawn with all its words, so that their dependence stays);
    - seeds with replacement within each regime, independently, since a seed of one regime has nothing in common with
      the same number in the other (hierarchical data: Davison & Hinkley 1997, "Bootstrap Methods and their
      Application", section 3.8). Of n seeds n - 1 are drawn: n draws would understate the variance of their mean by
      the factor (n - 1) / n, a third with three seeds (McCarthy & Snowden 1985; Rao & Wu 1988, JASA).

    The metric is computed again from summed counts, because F1 of a set is not a mean over its examples. With three
    seeds and seed noise above example noise, coverage can fall below the nominal level (a bootstrap cannot know the
    heavy tails of Student's t with few degrees of freedom): add seeds where a verdict is close. Where example noise
    prevails, the interval errs on the wide side: luck of one seed with one example is counted at both levels (Owen
    2007, "The pigeonhole bootstrap", Annals of Applied Statistics).

    Args:
        first: [seeds, examples, parts] counts of each test example, by model; at least two seeds.
        second: the same for the other regime, its examples in the same order; its seeds may be more or fewer.
        metric: sums of counts -> value, over leading axes of any shape (`accuracy`, `f1`).
        seed: of the resampling.
        resamples: how many.
        level: of the interval.

    Raises:
        ValueError: the shapes do not fit, there is no example, or a regime has fewer than two seeds.
    """
    one, two = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    _check(one, two, resamples=resamples, level=level)
    rng = np.random.default_rng(seed)
    examples = one.shape[1]
    both = np.concatenate([one, two])  # [models, examples, parts]
    columns = both.transpose(1, 0, 2).reshape(examples, -1)  # [examples, models x parts]
    differences: list[Floats] = []
    step = max(1, _CHUNK // examples)
    for start in range(0, resamples, step):
        count = min(step, resamples - start)
        # How often each example is in each resample: drawing positions one by one would need as much again.
        weights = rng.multinomial(examples, np.full(examples, 1 / examples), size=count)  # [count, examples]
        sums = weights.astype(np.float64) @ columns
        values = metric(sums.reshape(count, len(both), -1))  # [count, models]
        means = [
            np.take_along_axis(part, rng.integers(part.shape[1], size=(count, part.shape[1] - 1)), axis=1).mean(axis=1)
            for part in (values[:, : len(one)], values[:, len(one) :])
        ]
        differences.append(means[0] - means[1])
    tail = (1 - level) / 2
    low, high = np.quantile(np.concatenate(differences), [tail, 1 - tail])
    averages = [float(metric(part.sum(axis=1)).mean()) for part in (one, two)]
    return Interval(averages[0] - averages[1], float(low), float(high), averages[0], averages[1])


def _check(one: Floats, two: Floats, *, resamples: int, level: float) -> None:
    for name, counts in (("first", one), ("second", two)):
        if counts.ndim != 3:
            raise ValueError(f"{name}: expected [seeds, examples, parts], found {counts.ndim} axes")
        if counts.shape[0] < 2:
            raise ValueError(
                f"{name}: at least two seeds are needed to see how much they vary, found {counts.shape[0]}"
            )
        if counts.shape[1] == 0:
            raise ValueError(f"{name}: no test example")
    if one.shape[1:] != two.shape[1:]:
        raise ValueError(f"first and second differ in examples or parts: {one.shape[1:]} and {two.shape[1:]}")
    if resamples < 1:
        raise ValueError(f"resamples: expected at least 1, found {resamples}")
    if not 0 < level < 1:
        raise ValueError(f"level: expected a number between 0 and 1, found {level}")
