"""Whether `palmette.statistics.compare` keeps its promises: false positives, coverage and power on simulated studies.

Each study draws a new test set and new seeds of two regimes, with what was measured on the reference mix: errors,
spread over seeds, and how many of its errors a model shares with another seed. The true difference is known.

    python benchmarks/calibration.py               # about 20 minutes on one core; 1,000 studies a setting
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

import common

if TYPE_CHECKING:
    from palmette.statistics import Difference

Floats = NDArray[np.float64]

_LEVEL = 0.95
_POWER = 0.8

# Of gold spans that a tagger gets wrong, these leave a wrong span behind; the rest of wrong spans stand where no gold
# one is. With both, precision, recall and F1 are all 1 - error.
_REPLACED = 0.7
_CLUSTERED = 0.2  # how much of an item's difficulty is that of its sentence


@dataclass(frozen=True, slots=True)
class Setting:
    """A task as it was measured.

    Attributes:
        examples: of the test set (sentences, texts).
        items: words or gold spans an example, on average; None where an example is one item.
        error: share of items that a model gets wrong; the metric is 1 - error on average.
        seed_sd: standard deviation over seeds of a model's true error, for each regime. What a finite test set adds to
            the spread of measured scores comes on top.
        spans: whether the metric is F1 of spans, not accuracy of items.
        shared: share of a model's errors that another seed of its regime makes too.
        across: the same of a model of the other regime.
    """

    examples: int
    items: float | None
    error: float
    seed_sd: tuple[float, float]
    spans: bool = False
    shared: float = 0.65
    across: float = 0.6

    @property
    def metric(self) -> Callable[[Floats], Floats]:
        """The task's metric over sums of parts."""
        from palmette import sums

        return sums.f1 if self.spans else sums.ratio


# Spread over seeds as measured on test: POS 0.1, NER 0.8, SST-2 0.5 points. The others are what a study may meet
# besides: seeds vary far more than test examples, not at all, or in one regime only.
SETTINGS = {
    "pos": Setting(2077, 12.0, 0.02, (0.0008, 0.0008)),
    "ner": Setting(2077, 0.48, 0.25, (0.001, 0.001), spans=True),
    "sst2": Setting(1821, None, 0.10, (0.0025, 0.0025)),
    "seeds dominate": Setting(1821, None, 0.10, (0.02, 0.02)),
    "seeds agree": Setting(1821, None, 0.10, (0.0, 0.0)),
    "one side varies": Setting(1821, None, 0.10, (0.02, 0.0025)),
}
MEASURED = ("pos", "ner", "sst2")


def main() -> None:
    """Simulate and report."""
    parser = common.parser(__doc__)
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[3, 5], help="of each regime")
    parser.add_argument("--studies", type=int, default=1000)
    parser.add_argument("--resamples", type=int, default=500, help="a study's; more only cost time (default 500)")
    parser.add_argument("--seed", type=int, default=20261122)
    arguments = parser.parse_args()
    common.use_threads(arguments.threads)
    found: dict[str, Any] = {}
    for name in arguments.settings:
        for seeds in arguments.seeds:
            key = f"{name}, {seeds} seeds"
            options = {"studies": arguments.studies, "resamples": arguments.resamples, "seed": arguments.seed}
            found[key] = measure(SETTINGS[name], seeds=seeds, **options)
            found[key]["rivals"] = rivals(SETTINGS[name], seeds=seeds, **options)
            common.log(f"{key}: {found[key]}")
    measured = {key: values for key, values in found.items() if key.split(",")[0] in MEASURED}
    common.report(
        "calibration",
        f"{arguments.studies} studies, {', '.join(map(str, arguments.seeds))} seeds",
        arguments=arguments,
        headline={
            key: f"{100 * values['false_positives']:.1f} % false positives, {100 * values['coverage']:.1f} % coverage"
            for key, values in found.items()
        },
        targets={
            f"{key}: {name}": target
            for key, values in measured.items()
            for name, target in {
                "false positives": common.Target(values["false_positives"], 0.06, at_most=True),
                "coverage, at least": common.Target(values["coverage"], 0.93),
                "coverage, at most": common.Target(values["coverage"], 0.97, at_most=True),
            }.items()
        },
        details={
            "unit": "points",
            "level": _LEVEL,
            "studies": arguments.studies,
            "resamples": arguments.resamples,
            "settings": found,
        },
    )


def measure(setting: Setting, *, seeds: int, studies: int, resamples: int, seed: int) -> dict[str, float]:
    """How `compare` does, without a difference and with one that it should find in 80 % of the studies.

    Returns:
        `false_positives`, without a difference; `coverage` of the difference `found_80`, at which it has `power`:
        `found_80` is the difference that would have been found in 80 % of the studies without one, had it been added
        to each. `detectable` is what those studies themselves say of it (median). Also the spread of the regimes'
        scores over `seeds`, as a study sees it (root mean square), and half the interval's width (median).
        Differences are in points, the others are shares.
    """
    rng = np.random.default_rng(seed)
    null = [_compare(setting, seeds=seeds, gain=0.0, rng=rng, resamples=resamples) for _ in range(studies)]
    found = _found_in(_POWER, [result.difference for result in null], [_reach(result) for result in null])
    true = [_compare(setting, seeds=seeds, gain=found, rng=rng, resamples=resamples) for _ in range(studies)]
    variances = [(result.first_sd**2 + result.second_sd**2) / 2 for result in null]
    values = {
        "false_positives": sum(result.p < 1 - _LEVEL for result in null) / studies,
        "coverage": sum(result.low <= found <= result.high for result in true) / studies,
        "power": sum(result.low > 0 for result in true) / studies,
        "found_80": 100 * found,
        "detectable": 100 * float(np.median([result.detectable for result in null])),
        "sd_over_seeds": 100 * math.sqrt(float(np.mean(variances))),
        "half_width": 100 * float(np.median([_reach(result) for result in null])),
    }
    return {name: round(value, 4) for name, value in values.items()}


def _compare(setting: Setting, *, seeds: int, gain: float, rng: np.random.Generator, resamples: int) -> Difference:
    from palmette.statistics import compare

    first, second = study(setting, seeds=seeds, gain=gain, rng=rng)
    seed = int(rng.integers(2**31))
    return compare(first, second, metric=setting.metric, seed=seed, resamples=resamples, level=_LEVEL)


def _reach(result: Difference) -> float:
    return (result.high - result.low) / 2


def _found_in(share: float, differences: list[float], reaches: list[float]) -> float:
    """What has to be added to the differences for this share of them to exceed their reach."""
    return float(np.quantile(np.array(reaches) - np.array(differences), share))


def rivals(setting: Setting, *, seeds: int, studies: int, resamples: int, seed: int) -> dict[str, dict[str, float]]:
    """False positives and half the width (median, points) of other intervals over the same kind of study.

    - `percentile`: of a bootstrap over seeds (one less than there are) and examples, as in Dror et al. 2018;
    - `normal`: its standard error, with normal tails;
    - `seeds alone`: Welch's t-test on the scores, as if the test set were all there is;
    - `counted twice`: Student's t, the luck of one seed with one example left in both components;
    - `bounded below`: as chosen, the seeds' component at least what that luck explains;
    - `pooled`: as chosen, one variance over seeds for both regimes.
    """
    rng = np.random.default_rng(seed)
    hits: dict[str, int] = {}
    widths: dict[str, list[float]] = {}
    for _ in range(studies):
        first, second = study(setting, seeds=seeds, gain=0.0, rng=rng)
        for name, (low, high) in _intervals(setting, first, second, rng=rng, resamples=resamples).items():
            hits[name] = hits.get(name, 0) + (low > 0 or high < 0)
            widths.setdefault(name, []).append(50 * (high - low))
    return {
        name: {
            "false_positives": round(hits[name] / studies, 4),
            "half_width": round(float(np.median(widths[name])), 4),
        }
        for name in hits
    }


def _intervals(
    setting: Setting, first: Floats, second: Floats, *, rng: np.random.Generator, resamples: int
) -> dict[str, tuple[float, float]]:
    """Each rival's interval; both regimes have as many seeds."""
    from scipy.stats import norm, t

    from palmette.statistics import resample

    seeds = len(first)
    both = np.concatenate([first, second])
    moved = resample(both, metric=setting.metric, seed=int(rng.integers(2**31)), resamples=resamples)
    sides = moved[:, :seeds], moved[:, seeds:]
    scores = [setting.metric(side.sum(axis=1)) for side in (first, second)]
    difference = float(scores[0].mean() - scores[1].mean())
    drawn = [
        np.take_along_axis(side, rng.integers(seeds, size=(resamples, seeds - 1)), axis=1).mean(axis=1)
        for side in sides
    ]
    low, high = np.quantile(drawn[0] - drawn[1], [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2])
    over_seeds = np.array([side.var(ddof=1) / seeds for side in scores])
    over_examples = float((sides[0].mean(axis=1) - sides[1].mean(axis=1)).var(ddof=1))
    # Seeds of one side less their mean, in each resample, less what they differ by anyway.
    luck = np.array([(side - side.mean(axis=0)).var(axis=1, ddof=1).mean() / seeds for side in sides])
    common_part = max(over_examples - float(luck.sum()), 0.0)

    def student(seeds_part: Floats, examples_part: float, freedom: int) -> tuple[float, float]:
        variance = float(seeds_part.sum()) + examples_part
        spread = float((seeds_part**2).sum()) / freedom + examples_part**2 / (resamples - 1)
        reach = float(t.ppf((1 + _LEVEL) / 2, variance**2 / spread)) * math.sqrt(variance)
        return difference - reach, difference + reach

    normal = float(norm.ppf((1 + _LEVEL) / 2)) * math.sqrt(float(over_seeds.sum()) + over_examples)
    return {
        "percentile": (float(low), float(high)),
        "normal": (difference - normal, difference + normal),
        "seeds alone": student(over_seeds, 0.0, seeds - 1),
        "counted twice": student(over_seeds, over_examples, seeds - 1),
        "bounded below": student(np.maximum(over_seeds, luck), common_part, seeds - 1),
        "pooled": student(over_seeds.sum(keepdims=True), common_part, 2 * (seeds - 1)),
    }


def study(setting: Setting, *, seeds: int, gain: float, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Parts of both regimes' models, each [seeds, examples, parts]; the first is better by `gain`.

    An item is wrong where its liability, a standard normal, exceeds a threshold that the model's error sets: a
    component common to all models (part of it to the whole example), one of the regime, one of the model.
    """
    sizes = _sizes(setting, rng)
    spurious = rng.poisson((1 - _REPLACED) * sizes) if setting.spans else np.zeros_like(sizes)
    owner = np.repeat(np.arange(setting.examples), sizes + spurious)
    gold = np.ones(len(owner), dtype=bool)
    if setting.spans:
        first_of = np.cumsum(sizes + spurious) - (sizes + spurious)
        gold = np.arange(len(owner)) - first_of[owner] < sizes[owner]
    replaced = rng.random(len(owner)) < _REPLACED
    across, within = _correlation(setting.error, setting.across), _correlation(setting.error, setting.shared)
    clustered = _CLUSTERED if setting.items else 0.0
    common_part = math.sqrt(across * clustered) * rng.normal(size=setting.examples)[owner]
    common_part += math.sqrt(across * (1 - clustered)) * rng.normal(size=len(owner))

    def model(regime: Floats, error: float) -> Floats:
        wrong = regime + math.sqrt(1 - within) * rng.normal(size=len(owner)) > _threshold(error)

        def count(items: NDArray[np.bool_]) -> Floats:
            return np.bincount(owner[items], minlength=setting.examples).astype(np.float64)

        right, all_gold = count(gold & ~wrong), count(gold)
        if not setting.spans:
            return np.stack([right, all_gold], axis=-1)
        return np.stack([right, right + count(wrong & (replaced | ~gold)), all_gold], axis=-1)

    sides = []
    for shift, spread in zip((-gain, 0.0), setting.seed_sd, strict=True):
        regime = common_part + math.sqrt(within - across) * rng.normal(size=len(owner))
        errors = np.clip(setting.error + shift + spread * rng.normal(size=seeds), 1e-4, 0.999)
        sides.append(np.stack([model(regime, float(error)) for error in errors]))
    return sides[0], sides[1]


def _sizes(setting: Setting, rng: np.random.Generator) -> NDArray[np.int64]:
    """Items of each example: as uneven as sentences are."""
    if setting.items is None:
        return np.ones(setting.examples, dtype=np.int64)
    return rng.poisson(rng.gamma(2.0, setting.items / 2.0, size=setting.examples))


def _threshold(error: float) -> float:
    from scipy.stats import norm

    return float(norm.isf(error))


@cache
def _correlation(error: float, shared: float) -> float:
    """Of two models' liabilities, so that this share of one's errors is the other's too."""
    from scipy.optimize import brentq
    from scipy.stats import norm

    points, weights = np.polynomial.hermite_e.hermegauss(101)
    weights = weights / weights.sum()

    def excess(correlation: float) -> float:
        alone = norm.sf((_threshold(error) - math.sqrt(correlation) * points) / math.sqrt(1 - correlation))
        return float((weights * alone**2).sum()) / error - shared

    return float(brentq(excess, 0.0, 0.98))


if __name__ == "__main__":
    main()
