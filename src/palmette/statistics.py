"""How sure a difference is: between two ways of training over seeds and test examples, between two single models.

Models are given as parts that each example adds to a metric (`Kind.parts`), the metric as a function of their sums
(`Kind.combine`), because F1 of a set is not a mean over its examples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from palmette.errors import MissingExtraError
from palmette.sums import Floats

# Summed parts [..., parts] -> metric [...].
Metric = Callable[[Floats], Floats]

_CHUNK = 8_000_000  # weights held at once: 64 MB
_POWER = 0.8  # of `Difference.detectable` (Cohen 1988)


@dataclass(frozen=True, slots=True)
class Difference:
    """What separates two ways of training, and how sure that is. Values are on the metric's scale.

    Attributes:
        difference: `first_mean` - `second_mean`.
        low, high: bounds of its interval.
        p: two-sided, of no difference; below 1 - level exactly where the interval excludes 0.
        effect: Hedges' g, the difference in standard deviations over seeds; None where seeds do not vary at all.
        detectable: the smallest true difference that a study like this one finds with 80 % power at this level; an
            estimate, as rough as `error` is.
        error: standard error of the difference.
        freedom: degrees of freedom of that error.
        first_mean, second_mean: the metric on all test examples, averaged over seeds.
        first_sd, second_sd: its standard deviation over seeds.
    """

    difference: float
    low: float
    high: float
    p: float
    effect: float | None
    detectable: float
    error: float
    freedom: float
    first_mean: float
    second_mean: float
    first_sd: float
    second_sd: float


def compare(
    first: ArrayLike,
    second: ArrayLike,
    *,
    metric: Metric,
    seed: int,
    resamples: int = 2000,
    level: float = 0.95,
) -> Difference:
    """The difference `first` - `second` between two ways of training, with an interval over seeds and test examples.

    A model's score varies with its seed and with the test examples that happened to be drawn; an interval that
    ignores either is too narrow (Dror et al. 2018, "The Hitchhiker's Guide to Testing Statistical Significance in
    NLP", ACL; Reimers & Gurevych 2017, EMNLP, on seeds). Of a hierarchical bootstrap of both (Davison &
    Hinkley 1997, "Bootstrap Methods and their Application", section 3.8) this takes the variance:

    - test examples are drawn with replacement, the same for every model of both, since all answered the same ones
      (a paired design: Koehn 2004, EMNLP; a sentence is drawn with all its words, so that their dependence stays);
    - seeds are independent, between `first` and `second` too, and the variance of a mean over resampled seeds is known
      without drawing: s² / seeds, unbiased;
    - luck of one seed with one example is part of both and would be counted twice (Owen 2007, "The pigeonhole
      bootstrap", Annals of Applied Statistics): it is estimated from how differently the seeds of one side move when
      examples are drawn, and counted once (variance components of a crossed design: Searle, Casella & McCulloch 1992,
      "Variance Components", chapter 4).

    Percentiles of a bootstrap over three seeds know no tails heavier than the seeds' own and cover too little: 88 to
    90 % where seeds vary most (and too much where they vary least, 99 %). The interval is therefore Student's t, with
    degrees of freedom for a sum of variances (Satterthwaite 1946, Biometrics Bulletin; Welch 1947, Biometrika: the
    sides may vary unequally).
    `benchmarks/calibration.py` simulates studies with measured variances: 4.0 to 5.3 % false positives, 94 to 96 %
    coverage, with 3 and 5 seeds. Weakest where one side's seeds vary several times as much as the other's and
    outweigh the test examples: 7 % false positives with three seeds, 6 % with five.

    Args:
        first: [seeds, examples, parts] parts of each test example, by model; at least two seeds.
        second: the same for the other side, its examples in the same order; its seeds may be more or fewer.
        metric: sums of parts -> value, over leading axes of any shape.
        seed: of the resampling.
        resamples: how many.
        level: of the interval.

    Raises:
        ValueError: the shapes do not fit, there is no example, or a side has fewer than two seeds.
    """
    one, two = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    _check(one, two, resamples=resamples, level=level)
    scores = [metric(side.sum(axis=1)) for side in (one, two)]  # [seeds] each
    moved = resample(np.concatenate([one, two]), metric=metric, seed=seed, resamples=resamples)
    error, freedom = _error(scores, [moved[:, : len(one)], moved[:, len(one) :]], examples=one.shape[1])
    difference = float(scores[0].mean() - scores[1].mean())
    reach = _critical(freedom, level) * error
    return Difference(
        difference=difference,
        low=difference - reach,
        high=difference + reach,
        p=_p_value(difference, error, freedom),
        effect=_hedges(*scores),
        detectable=_detectable(error, freedom, level),
        error=error,
        freedom=freedom,
        first_mean=float(scores[0].mean()),
        second_mean=float(scores[1].mean()),
        first_sd=float(scores[0].std(ddof=1)),
        second_sd=float(scores[1].std(ddof=1)),
    )


def resample(parts: ArrayLike, *, metric: Metric, seed: int, resamples: int = 2000) -> Floats:
    """The metric of each model on test examples drawn with replacement, the same for all models.

    Args:
        parts: [models, examples, parts].
        metric: sums of parts -> value, over leading axes of any shape.
        seed: of the draws.
        resamples: how many.

    Returns:
        [resamples, models].

    Raises:
        ValueError: the parts have another shape, or there is no example.
    """
    counts = np.asarray(parts, dtype=np.float64)
    if counts.ndim != 3 or counts.shape[1] == 0:
        raise ValueError(f"parts: expected [models, examples, parts] with at least one example, found {counts.shape}")
    models, examples, _ = counts.shape
    columns = counts.transpose(1, 0, 2).reshape(examples, -1)  # [examples, models x parts]
    rng = np.random.default_rng(seed)
    values = []
    for count in _chunks(resamples, examples):
        # How often each example is in each resample: [count, examples]. Counting draws is faster than a multinomial.
        drawn = rng.integers(examples, size=(count, examples)) + examples * np.arange(count)[:, None]
        weights = np.bincount(drawn.ravel(), minlength=count * examples).reshape(count, examples)
        values.append(metric((weights.astype(np.float64) @ columns).reshape(count, models, -1)))
    return np.concatenate(values)


def paired(first: ArrayLike, second: ArrayLike, *, metric: Metric, seed: int, rounds: int = 2000) -> float:
    """One-sided p that the model `second` is no worse than the model `first`: small where it is worse.

    Approximate randomisation (Noreen 1989, "Computer-Intensive Methods for Testing Hypotheses"; Yeh 2000, COLING): if
    the two did not differ, their answers to any example could be exchanged. Of the rounds, and the two as they are,
    it is the share in which chance makes `second` at least as much worse (so never 0: Phipson & Smyth 2010).
    It speaks of these two models, not of other seeds of them.

    Args:
        first: [examples, parts].
        second: the same for the other model, its examples in the same order.
        metric: sums of parts -> value, over leading axes of any shape.
        seed: of the exchanges.
        rounds: how many.

    Raises:
        ValueError: the shapes do not fit, there is no example, or no round.
    """
    one, two = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if one.ndim != 2 or one.shape != two.shape or len(one) == 0:
        raise ValueError(f"expected [examples, parts] of the same examples, found {one.shape} and {two.shape}")
    if rounds < 1:
        raise ValueError(f"rounds: expected at least 1, found {rounds}")
    total, apart = (one + two).sum(axis=0), one - two
    apart = apart[apart.any(axis=1)]  # [examples that differ, parts]; exchanging the others changes nothing
    rng = np.random.default_rng(seed)
    observed = _gap(total, apart.sum(axis=0), metric)
    reached = 0
    for count in _chunks(rounds, max(len(apart), 1)):
        signs = 2.0 * rng.integers(2, size=(count, len(apart))) - 1
        # Sums in another order round otherwise: a tie is to count.
        reached += int((_gap(total, signs @ apart, metric) >= observed - 1e-12).sum())
    return (1 + reached) / (1 + rounds)


def holm(p_values: Sequence[float]) -> list[float]:
    """Each p corrected for testing all of them (Holm 1979, Scandinavian Journal of Statistics).

    Raises:
        MissingExtraError: statsmodels is not installed.
    """
    if not p_values:
        return []
    try:
        from statsmodels.stats.multitest import multipletests
    except ImportError as error:
        raise MissingExtraError("statsmodels", "train") from error
    return [float(p) for p in multipletests(p_values, method="holm")[1]]


def _chunks(rounds: int, examples: int) -> Iterator[int]:
    """How many rounds to hold at once, until all are done."""
    step = max(1, _CHUNK // examples)
    for start in range(0, rounds, step):
        yield min(step, rounds - start)


def _gap(total: Floats, apart: Floats, metric: Metric) -> Floats:
    """First minus second, from the sum and the difference of their parts."""
    return metric((total + apart) / 2) - metric((total - apart) / 2)


def _error(scores: Sequence[Floats], moved: Sequence[Floats], *, examples: int) -> tuple[float, float]:
    """Standard error of the difference of means and its degrees of freedom.

    Args:
        scores: of each side's seeds on all examples: [seeds] each.
        moved: the same when examples are drawn: [resamples, seeds] each.
        examples: of the test set.
    """
    over_examples = float((moved[0].mean(axis=1) - moved[1].mean(axis=1)).var(ddof=1))
    luck = sum(_own(side) / side.shape[1] for side in moved)
    common = max(over_examples - luck, 0.0)  # what all seeds of a side share
    # Not bounded below by `luck`: with three seeds that would reject 1 % where 5 % are due (benchmarks/calibration.py).
    over_seeds = [float(side.var(ddof=1)) / len(side) for side in scores]
    variance = common + sum(over_seeds)
    freedom = max(min(examples, len(moved[0])) - 1, 1)
    spread = common**2 / freedom + sum(part**2 / (len(side) - 1) for part, side in zip(over_seeds, scores, strict=True))
    return math.sqrt(variance), variance**2 / spread if spread else float(freedom)


def _own(moved: Floats) -> float:
    """Variance of one seed's score over draws of examples, as far as the other seeds do not move with it."""
    return float((moved - moved.mean(axis=0)).var(axis=1, ddof=1).mean())


def _critical(freedom: float, level: float) -> float:
    from scipy.stats import t

    return float(t.ppf((1 + level) / 2, freedom))


def _p_value(difference: float, error: float, freedom: float) -> float:
    from scipy.stats import t

    if error == 0:
        return float(difference == 0)
    return float(2 * t.sf(abs(difference) / error, freedom))


def _detectable(error: float, freedom: float, level: float) -> float:
    """The true difference at which Student's t has 80 % power, too small as often as too large."""
    from scipy.optimize import brentq
    from scipy.stats import chi2, nct

    critical = _critical(freedom, level)
    errors = brentq(lambda shift: nct.sf(critical, freedom, shift) - _POWER, 0, 10 * critical + 10)
    # Few degrees of freedom are skewed: more than half of such studies see a smaller error than the true one.
    return float(errors) * error * math.sqrt(freedom / float(chi2.median(freedom)))


def _hedges(first: Floats, second: Floats) -> float | None:
    """Hedges' g with its exact correction for small samples (Hedges 1981, Journal of Educational Statistics)."""
    if np.ptp(first) == 0 and np.ptp(second) == 0:
        return None
    freedom = len(first) + len(second) - 2
    squares = sum(float(np.square(side - side.mean()).sum()) for side in (first, second))
    logarithm = math.lgamma(freedom / 2) - math.lgamma((freedom - 1) / 2) - math.log(freedom / 2) / 2
    return math.exp(logarithm) * float(first.mean() - second.mean()) / math.sqrt(squares / freedom)


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
    if resamples < 2:
        raise ValueError(f"resamples: expected at least 2, found {resamples}")
    if not 0 < level < 1:
        raise ValueError(f"level: expected a number between 0 and 1, found {level}")
