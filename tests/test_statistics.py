from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from palmette.statistics import accuracy, f1, hierarchical_bootstrap

Floats = NDArray[np.float64]


def counts_of(rng: np.random.Generator, *, seeds: int, difficulty: Floats, gain: float, seed_noise: float) -> Floats:
    """[seeds, examples, (correct, total)]: example n is right with probability difficulty[n] + gain + seed's luck."""
    luck = rng.normal(0, seed_noise, size=(seeds, 1))
    right = rng.random((seeds, len(difficulty))) < np.clip(difficulty + gain + luck, 0, 1)
    return np.stack([right, np.ones_like(right)], axis=-1).astype(np.float64)


def test_difference_is_that_of_the_mean_metrics() -> None:
    first = [[[3, 4], [1, 2]], [[4, 4], [1, 2]]]
    second = [[[2, 4], [2, 2]], [[2, 4], [1, 2]]]
    found = hierarchical_bootstrap(first, second, metric=accuracy, seed=1, resamples=50)
    assert found.first == pytest.approx((4 / 6 + 5 / 6) / 2)
    assert found.second == pytest.approx((4 / 6 + 3 / 6) / 2)
    assert found.difference == pytest.approx(found.first - found.second)
    assert found.low <= found.difference <= found.high


def test_f1_is_of_summed_counts() -> None:
    assert f1(np.array([[1.0, 2.0, 4.0], [0.0, 0.0, 0.0]])) == pytest.approx([2 / 6, 0.0])
    first = [[[1, 1, 1], [0, 0, 3]]] * 2
    second = [[[0, 1, 1], [3, 3, 3]]] * 2
    found = hierarchical_bootstrap(first, second, metric=f1, seed=1, resamples=50)
    assert found.first == pytest.approx(2 / 5)
    assert found.second == pytest.approx(6 / 8)


def test_equal_models_do_not_differ() -> None:
    rng = np.random.default_rng(0)
    right = rng.integers(0, 2, size=(1, 40, 1))
    counts = np.concatenate([right, np.ones_like(right)], axis=-1).repeat(3, axis=0)
    found = hierarchical_bootstrap(counts, counts, metric=accuracy, seed=3, resamples=200)
    # Joint resampling: what is hard for one is hard for the other, so nothing is left of the examples' variance.
    assert (found.difference, found.low, found.high) == (0.0, 0.0, 0.0)


def test_same_seed_same_interval() -> None:
    rng = np.random.default_rng(0)
    one, two = (counts_of(rng, seeds=3, difficulty=np.full(60, 0.7), gain=gain, seed_noise=0.02) for gain in (0.1, 0.0))
    results = [hierarchical_bootstrap(one, two, metric=accuracy, seed=seed, resamples=300) for seed in (5, 5, 6)]
    assert results[0] == results[1]
    assert results[0] != results[2]


def test_chunks_cover_all_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    one, two = (counts_of(rng, seeds=3, difficulty=np.full(50, 0.7), gain=g, seed_noise=0.02) for g in (0.1, 0.0))
    whole = hierarchical_bootstrap(one, two, metric=accuracy, seed=5, resamples=2000)
    monkeypatch.setattr("palmette.statistics._CHUNK", 50 * 7)
    parts = hierarchical_bootstrap(one, two, metric=accuracy, seed=5, resamples=2000)
    assert (parts.low, parts.high) == pytest.approx((whole.low, whole.high), abs=0.02)


def test_width_without_seed_noise_is_the_paired_standard_error() -> None:
    rng = np.random.default_rng(2)
    examples = 800
    one, two = (counts_of(rng, seeds=1, difficulty=np.full(examples, p), gain=0, seed_noise=0) for p in (0.8, 0.7))
    found = hierarchical_bootstrap(
        one.repeat(4, axis=0), two.repeat(4, axis=0), metric=accuracy, seed=1, resamples=2000
    )
    error = (one[0, :, 0] - two[0, :, 0]).std(ddof=1) / np.sqrt(examples)
    assert found.high - found.low == pytest.approx(2 * 1.96 * error, rel=0.08)


def test_width_without_example_noise_is_the_seeds_standard_error() -> None:
    # Every example is equally (half) right, to a degree that only the seed decides: the unbiased variance of means.
    levels = np.array([0.60, 0.64, 0.70, 0.61, 0.67, 0.72, 0.66, 0.63])
    one = np.stack([np.stack([np.full(30, level), np.ones(30)], axis=-1) for level in levels])
    two = one - [0.1, 0.0]
    found = hierarchical_bootstrap(one, two, metric=accuracy, seed=1, resamples=4000)
    error = np.sqrt(2 * levels.var(ddof=1) / len(levels))
    assert found.high - found.low == pytest.approx(2 * 1.96 * error, rel=0.08)


def agreeing_counts(rng: np.random.Generator, *, seeds: int, rate: Floats, seed_noise: float) -> Floats:
    """As real models do: one regime's seeds are right about the same examples, except for some of their own luck."""
    luck = rng.normal(0, seed_noise, size=(seeds, 1))
    shared = rng.random((1, len(rate)))
    own = rng.random((seeds, len(rate)))
    right = np.where(rng.random(own.shape) < 0.3, own, shared) < rate + luck
    return np.stack([right, np.ones_like(right)], axis=-1).astype(np.float64)


@pytest.mark.parametrize("seed_noise", [0.0, 0.02])
def test_interval_covers_the_true_difference(seed_noise: float) -> None:
    rng = np.random.default_rng(11)
    gain, covered, trials = 0.03, 0, 200
    for trial in range(trials):
        rate = rng.uniform(0.4, 0.85, size=250)
        one = agreeing_counts(rng, seeds=4, rate=rate + gain, seed_noise=seed_noise)
        two = agreeing_counts(rng, seeds=4, rate=rate, seed_noise=seed_noise)
        found = hierarchical_bootstrap(one, two, metric=accuracy, seed=trial, resamples=300)
        covered += found.low <= gain <= found.high
    assert 0.91 <= covered / trials < 1.0  # 0.95 is nominal; two crossed levels make it err on the wide side


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (np.zeros((2, 3)), np.zeros((2, 3)), "first: expected"),
        (np.zeros((1, 3, 2)), np.zeros((2, 3, 2)), "first: at least two seeds"),
        (np.zeros((2, 3, 2)), np.zeros((1, 3, 2)), "second: at least two seeds"),
        (np.zeros((2, 0, 2)), np.zeros((2, 0, 2)), "no test example"),
        (np.zeros((2, 3, 2)), np.zeros((2, 4, 2)), "differ in examples"),
    ],
)
def test_what_does_not_fit_is_refused(first: Floats, second: Floats, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        hierarchical_bootstrap(first, second, metric=accuracy, seed=1)


@pytest.mark.parametrize(("options", "message"), [({"resamples": 0}, "resamples"), ({"level": 1.0}, "level")])
def test_options_are_checked(options: dict[str, float], message: str) -> None:
    counts = np.ones((2, 3, 2))
    with pytest.raises(ValueError, match=message):
        hierarchical_bootstrap(counts, counts, metric=accuracy, seed=1, **options)  # type: ignore[arg-type]
