from __future__ import annotations

import importlib
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from palmette.statistics import compare, holm, paired, resample
from palmette.sums import f1
from palmette.sums import ratio as accuracy

Floats = NDArray[np.float64]


BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def counts_of(rng: np.random.Generator, *, seeds: int, difficulty: Floats, gain: float, seed_noise: float) -> Floats:
    """[seeds, examples, (correct, total)]: example n is right with probability difficulty[n] + gain + seed's luck."""
    luck = rng.normal(0, seed_noise, size=(seeds, 1))
    right = rng.random((seeds, len(difficulty))) < np.clip(difficulty + gain + luck, 0, 1)
    return np.stack([right, np.ones_like(right)], axis=-1).astype(np.float64)


def levels_of(*levels: float, examples: int = 30) -> Floats:
    """[seeds, examples, (correct, total)]: every example equally right, to a degree that only the seed decides."""
    return np.stack([np.stack([np.full(examples, level), np.ones(examples)], axis=-1) for level in levels])


def test_difference_is_that_of_the_mean_metrics() -> None:
    first = [[[3, 4], [1, 2]], [[4, 4], [1, 2]]]
    second = [[[2, 4], [2, 2]], [[2, 4], [1, 2]]]
    found = compare(first, second, metric=accuracy, seed=1, resamples=50)
    assert found.first_mean == pytest.approx((4 / 6 + 5 / 6) / 2)
    assert found.second_mean == pytest.approx((4 / 6 + 3 / 6) / 2)
    assert found.difference == pytest.approx(found.first_mean - found.second_mean)
    assert (found.first_sd, found.second_sd) == pytest.approx([np.std([4 / 6, 5 / 6], ddof=1)] * 2)
    assert found.low <= found.difference <= found.high


def test_the_metric_is_of_summed_parts() -> None:
    first = [[[1, 1, 1], [0, 0, 3]]] * 2
    second = [[[0, 1, 1], [3, 3, 3]]] * 2
    found = compare(first, second, metric=f1, seed=1, resamples=50)
    assert found.first_mean == pytest.approx(2 / 5)
    assert found.second_mean == pytest.approx(6 / 8)


def test_equal_models_do_not_differ() -> None:
    rng = np.random.default_rng(0)
    right = rng.integers(0, 2, size=(1, 40, 1))
    counts = np.concatenate([right, np.ones_like(right)], axis=-1).repeat(3, axis=0)
    found = compare(counts, counts, metric=accuracy, seed=3, resamples=200)
    # Joint resampling: what is hard for one is hard for the other, so nothing is left of the examples' variance.
    assert (found.difference, found.p, found.effect) == (0.0, 1.0, None)
    assert (found.low, found.high, found.detectable) == pytest.approx((0, 0, 0), abs=1e-12)


def test_same_seed_same_result() -> None:
    rng = np.random.default_rng(0)
    one, two = (counts_of(rng, seeds=3, difficulty=rng.random(60), gain=0, seed_noise=0.02) for _ in range(2))
    results = [compare(one, two, metric=accuracy, seed=seed, resamples=300) for seed in (5, 5, 6)]
    assert results[0] == results[1]
    assert results[0] != results[2]


def test_exchanging_the_sides_changes_only_the_sign() -> None:
    rng = np.random.default_rng(0)
    one = counts_of(rng, seeds=3, difficulty=np.full(60, 0.7), gain=0.1, seed_noise=0.02)
    two = counts_of(rng, seeds=5, difficulty=np.full(60, 0.7), gain=0.0, seed_noise=0.02)
    there, back = (compare(*sides, metric=accuracy, seed=1, resamples=200) for sides in ((one, two), (two, one)))
    assert there.difference == -back.difference
    assert (there.low, there.p) == pytest.approx((-back.high, back.p))
    assert there.effect == pytest.approx(-(back.effect or 0))
    assert there.detectable == pytest.approx(back.detectable)


def test_chunks_cover_all_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    one, two = (counts_of(rng, seeds=3, difficulty=np.full(50, 0.7), gain=g, seed_noise=0.02) for g in (0.1, 0.0))
    whole = compare(one, two, metric=accuracy, seed=5, resamples=2000)
    p = paired(one[0], two[0], metric=accuracy, seed=5)
    monkeypatch.setattr("palmette.statistics._CHUNK", 50 * 7)
    assert resample(one, metric=accuracy, seed=5, resamples=2000).shape == (2000, 3)
    parts = compare(one, two, metric=accuracy, seed=5, resamples=2000)
    assert (parts.low, parts.high) == pytest.approx((whole.low, whole.high), abs=0.02)
    assert paired(one[0], two[0], metric=accuracy, seed=5) == pytest.approx(p, abs=0.03)


def test_without_seed_noise_the_error_is_the_paired_one() -> None:
    rng = np.random.default_rng(2)
    examples = 800
    one, two = (counts_of(rng, seeds=1, difficulty=np.full(examples, p), gain=0, seed_noise=0) for p in (0.8, 0.7))
    found = compare(one.repeat(4, axis=0), two.repeat(4, axis=0), metric=accuracy, seed=1)
    assert found.error == pytest.approx((one[0, :, 0] - two[0, :, 0]).std(ddof=1) / np.sqrt(examples), rel=0.06)
    assert found.freedom == pytest.approx(examples - 1)


def test_without_example_noise_it_is_welch_s_t_test() -> None:
    first, second = (0.60, 0.64, 0.70, 0.61, 0.67), (0.55, 0.58, 0.56)
    found = compare(levels_of(*first), levels_of(*second), metric=accuracy, seed=1, resamples=50)
    wanted = stats.ttest_ind(first, second, equal_var=False)
    assert found.p == pytest.approx(wanted.pvalue)
    assert (found.low, found.high) == pytest.approx(tuple(wanted.confidence_interval(0.95)))
    assert found.freedom == pytest.approx(wanted.df)


def test_luck_of_a_seed_with_an_example_is_counted_once() -> None:
    # Seeds differ by nothing but their own coin for every example: the error is that of seeds x examples coins.
    rng = np.random.default_rng(4)
    seeds, examples = 40, 400
    one, two = (counts_of(rng, seeds=seeds, difficulty=np.full(examples, 0.7), gain=0, seed_noise=0) for _ in range(2))
    found = compare(one, two, metric=accuracy, seed=1)
    assert found.error == pytest.approx(math.sqrt(2 * 0.7 * 0.3 / (seeds * examples)), rel=0.15)


def test_effect_is_hedges_g() -> None:
    found = compare(levels_of(0.6, 0.7, 0.8), levels_of(0.5, 0.6, 0.7), metric=accuracy, seed=1, resamples=20)
    # One pooled standard deviation, times the correction for four degrees of freedom, Gamma(2) / (sqrt(2) Gamma(1.5)).
    assert found.effect == pytest.approx(1 / (math.sqrt(2) * math.gamma(1.5)))


def test_detectable_is_what_a_power_analysis_says() -> None:
    from statsmodels.stats.power import TTestIndPower

    rng = np.random.default_rng(1)
    levels = rng.normal(0.7, 0.02, size=(2, 60))
    found = compare(levels_of(*levels[0]), levels_of(*levels[1]), metric=accuracy, seed=1, resamples=20)
    wanted = TTestIndPower().solve_power(nobs1=60, alpha=0.05, power=0.8)  # in standard deviations
    deviation = math.sqrt((found.first_sd**2 + found.second_sd**2) / 2)
    assert found.detectable == pytest.approx(wanted * deviation, rel=0.01)


@given(
    st.lists(st.floats(0.1, 0.9), min_size=2, max_size=5),
    st.lists(st.floats(0.1, 0.9), min_size=2, max_size=5),
    st.sampled_from((0.8, 0.95, 0.99)),
)
@settings(max_examples=60)
def test_p_and_interval_agree(first: list[float], second: list[float], level: float) -> None:
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 0.1, size=(30, 1)) * [1, 0]
    found = compare(levels_of(*first) + noise, levels_of(*second), metric=accuracy, seed=1, resamples=30, level=level)
    assert (found.p < 1 - level) == (found.low > 0 or found.high < 0)
    assert found.low <= found.difference <= found.high
    assert 0 <= found.p <= 1
    assert found.detectable >= (found.high - found.low) / 2


def test_a_study_says_what_its_simulations_say(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small part of the slow test below, to be run always."""
    calibration = simulations(monkeypatch)
    found = calibration.measure(calibration.SETTINGS["sst2"], seeds=3, studies=150, resamples=100, seed=1)
    assert found["false_positives"] <= 0.1
    assert found["coverage"] >= 0.9
    assert found["power"] == pytest.approx(0.8, abs=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize("task", ["pos", "ner", "sst2", "seeds dominate"])
def test_false_positives_coverage_and_power(monkeypatch: pytest.MonkeyPatch, task: str, seeds: int) -> None:
    calibration = simulations(monkeypatch)
    found = calibration.measure(calibration.SETTINGS[task], seeds=seeds, studies=1000, resamples=200, seed=20261122)
    assert found["false_positives"] <= 0.06
    assert 0.93 <= found["coverage"] <= 0.97
    assert found["power"] == pytest.approx(0.8, abs=0.05)
    assert found["detectable"] == pytest.approx(found["found_80"], rel=0.15)


def simulations(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("calibration")


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
        compare(first, second, metric=accuracy, seed=1)


@pytest.mark.parametrize(("options", "message"), [({"resamples": 1}, "resamples"), ({"level": 1.0}, "level")])
def test_options_are_checked(options: dict[str, float], message: str) -> None:
    counts = np.ones((2, 3, 2))
    with pytest.raises(ValueError, match=message):
        compare(counts, counts, metric=accuracy, seed=1, **options)  # type: ignore[arg-type]


def test_resampling_draws_the_same_examples_for_all_models() -> None:
    rng = np.random.default_rng(0)
    parts = counts_of(rng, seeds=1, difficulty=np.full(200, 0.7), gain=0, seed_noise=0).repeat(2, axis=0)
    values = resample(parts, metric=accuracy, seed=1)
    assert (values[:, 0] == values[:, 1]).all()
    assert values.mean() == pytest.approx(accuracy(parts[0].sum(axis=0)), abs=0.003)
    assert values[:, 0].std() == pytest.approx(parts[0, :, 0].std() / math.sqrt(200), rel=0.06)
    for wrong in (parts[0], parts[:, :0]):
        with pytest.raises(ValueError, match="parts: expected"):
            resample(wrong, metric=accuracy, seed=1)


# --- two single models ------------------------------------------------------------------------------------------------


def pair_of(rng: np.random.Generator, *, loss: float, examples: int = 300) -> tuple[Floats, Floats]:
    """Parts of two models that share most errors; the second is worse by `loss`."""
    shared = rng.random(examples)
    one, two = (shared < 0.8 - drop + 0.05 * rng.normal(size=examples) for drop in (0.0, loss))
    sides = [np.stack([right, np.ones_like(right)], axis=-1).astype(np.float64) for right in (one, two)]
    return sides[0], sides[1]


def test_a_worse_model_is_found_and_a_better_one_is_not() -> None:
    one, two = pair_of(np.random.default_rng(1), loss=0.1)
    assert paired(one, two, metric=accuracy, seed=1) == 1 / 2001  # never 0
    assert paired(two, one, metric=accuracy, seed=1) == 1
    assert paired(one, one, metric=accuracy, seed=1) == 1


def test_paired_is_the_exact_test_where_all_exchanges_can_be_counted() -> None:
    # Eight answers differ, one of them in favour of the second: a sign test.
    one = np.array([[1, 1]] * 7 + [[0, 1]] + [[1, 1]] * 20)
    two = np.array([[0, 1]] * 7 + [[1, 1]] + [[1, 1]] * 20)
    found = paired(one, two, metric=accuracy, seed=2, rounds=20_000)
    assert found == pytest.approx(stats.binomtest(7, 8, alternative="greater").pvalue, abs=0.003)
    assert found == paired(one, two, metric=accuracy, seed=2, rounds=20_000)
    assert found != paired(one, two, metric=accuracy, seed=3, rounds=20_000)


def test_paired_is_of_the_metric_not_of_its_mean() -> None:
    # The second finds every span, and three that are not there: worse by F1, better by spans found.
    one = np.array([[1, 1, 1]] * 20 + [[0, 0, 1]] * 2)
    two = np.array([[1, 4, 1]] * 20 + [[1, 1, 1]] * 2)
    assert paired(one, two, metric=f1, seed=1) < 0.01
    assert paired(one[:, [0, 2]], two[:, [0, 2]], metric=accuracy, seed=1) == 1


def test_equal_models_rarely_seem_worse() -> None:
    rng = np.random.default_rng(7)
    found = [paired(*pair_of(rng, loss=0.0), metric=accuracy, seed=n, rounds=200) for n in range(400)]
    assert np.mean(np.array(found) <= 0.05) <= 0.07


@pytest.mark.parametrize(
    ("first", "second", "rounds"),
    [
        (np.zeros((3, 2)), np.zeros((4, 2)), 10),
        (np.zeros((0, 2)), np.zeros((0, 2)), 10),
        (np.zeros((1, 3, 2)), np.zeros((1, 3, 2)), 10),
        (np.zeros((3, 2)), np.zeros((3, 2)), 0),
    ],
)
def test_pairs_that_do_not_fit_are_refused(first: Floats, second: Floats, rounds: int) -> None:
    with pytest.raises(ValueError, match="expected"):
        paired(first, second, metric=accuracy, seed=1, rounds=rounds)


# --- several tests ----------------------------------------------------------------------------------------------------


def test_holm_multiplies_by_the_tests_that_are_left() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([0.2]) == [0.2]
    assert holm([]) == []
