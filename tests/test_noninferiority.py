"""Non-inferiority and paired failure rates: what they say, and how often they are wrong."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from palmette import sums
from palmette.noninferiority import rise, shift
from palmette.sums import Floats


def right(answers: Any) -> Floats:
    return np.stack([answers.astype(np.float64), np.ones(len(answers))], axis=-1)


def test_equal_models_pass_only_where_there_are_enough_examples() -> None:
    few, many = (right(np.ones(count)) for count in (100, 400))
    found = shift(few, few, metric=sums.ratio, margin=0.01, seed=1)
    assert found.verdict == "undecided"
    assert found.needed == 271  # z² / margin, as by Tango's test where no answer differs
    assert shift(many, many, metric=sums.ratio, margin=0.01, seed=1).verdict == "passed"


def test_as_many_examples_as_are_said_to_be_needed_do_decide() -> None:
    few = right(np.ones(50))
    needed = shift(few, few, metric=sums.ratio, margin=0.02, seed=1).needed
    assert needed is not None
    enough = right(np.ones(needed))
    assert shift(enough, enough, metric=sums.ratio, margin=0.02, seed=1).verdict == "passed"


def test_a_clear_loss_fell_and_a_clear_gain_passes() -> None:
    rng = np.random.default_rng(3)
    good, bad = right(rng.random(500) < 0.9), right(rng.random(500) < 0.8)
    assert shift(good, bad, metric=sums.ratio, margin=0.01, seed=1).verdict == "fell"
    assert shift(bad, good, metric=sums.ratio, margin=0.01, seed=1).verdict == "passed"


@pytest.mark.parametrize(("examples", "differing"), [(300, 0.01), (300, 0.1), (1000, 0.03)])
def test_a_loss_of_exactly_the_margin_passes_in_at_most_five_percent(examples: int, differing: float) -> None:
    rng, passed, rounds = np.random.default_rng(5), 0, 300
    for seed in range(rounds):
        old = rng.random(examples) < 0.9
        new = np.where(rng.random(examples) < differing, ~old, old)  # 0.9 of the changes lose, 0.1 win
        margin = 0.8 * differing
        found = shift(right(old), right(new), metric=sums.ratio, margin=margin, seed=seed, resamples=200)
        passed += found.verdict == "passed"
    assert passed / rounds <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / rounds)


def test_the_intervals_are_those_that_tango_published() -> None:
    # 44 pairs of which one differs: 95 % from -0.0594 to 0.1181 (Tango 1998; here both bounds at 97.5 %).
    new = np.arange(44) < 1
    found = rise(np.zeros(44, bool), new, margin=0.0, level=0.975)
    assert (found.low, found.high) == pytest.approx((-0.0594, 0.1181), abs=5e-4)


def test_without_a_margin_it_is_mcnemars_test() -> None:
    old, new = np.arange(10) == 0, np.arange(10) > 0
    assert rise(old, new, margin=0.0).p == pytest.approx(0.5 * math.erfc(8 / math.sqrt(10) / math.sqrt(2)))


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60), st.floats(0, 0.5))
def test_bounds_hold_the_difference_and_fit_the_p_value(pairs: list[tuple[bool, bool]], margin: float) -> None:
    old, new = (np.array([pair[side] for pair in pairs]) for side in (0, 1))
    found = rise(old, new, margin=margin)
    assert -1 <= found.low <= found.difference + 1e-9
    assert found.difference - 1e-9 <= found.high <= 1
    other = rise(new, old, margin=margin)
    assert (other.low, other.high) == pytest.approx((-found.high, -found.low), abs=1e-6)
    if abs(found.low - margin) > 1e-6:
        assert (found.p < 0.05) == (found.low > margin)


@pytest.mark.parametrize("shapes", [((0, 2), (0, 2)), ((3, 2), (4, 2)), ((3,), (3,))])
def test_what_cannot_be_compared_is_refused(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    with pytest.raises(ValueError, match="expected"):
        shift(np.zeros(shapes[0]), np.zeros(shapes[1]), metric=sums.ratio, margin=0.1, seed=1)
    with pytest.raises(ValueError, match="margin"):
        shift(np.zeros((3, 2)), np.zeros((3, 2)), metric=sums.ratio, margin=0.0, seed=1)
