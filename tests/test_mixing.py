"""An epoch's draws: as many as there are examples, in the shares that were asked for, nobody forgotten."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palmette.config import MixingConfig
from palmette.mixing import Mixing, sampling_rates
from palmette.types import Example, Text

TASKS = ("ner", "pos", "tone")
KIND_NAMES: tuple[Literal["proportional", "uniform", "temperature", "annealed", "weights"], ...] = (
    "proportional",
    "uniform",
    "temperature",
    "annealed",
    "weights",
)
kind_names = pytest.mark.parametrize("kind", KIND_NAMES)


def config_of(kind: Any, **settings_: Any) -> MixingConfig:
    weights = {"weights": {"ner": 3.0, "pos": 1.0, "tone": 2.0}} if kind == "weights" else {}
    return MixingConfig(kind=kind, **weights, **settings_)


def examples_of(groups: dict[tuple[str, ...], int]) -> list[Example]:
    found = [Example(Text(()), dict.fromkeys(tasks, "x")) for tasks, count in groups.items() for _ in range(count)]
    order = np.random.default_rng(0).permutation(len(found))
    return [found[number] for number in order]


def mixing_of(groups: dict[tuple[str, ...], int], config: MixingConfig, *, epochs: int = 3, seed: int = 1) -> Mixing:
    return Mixing(examples_of(groups), tasks=TASKS, config=config, epochs=epochs, seed=seed)


SEPARATE: dict[tuple[str, ...], int] = {("ner",): 40, ("pos",): 200, ("tone",): 360}
signatures = st.sampled_from([("ner",), ("pos",), ("tone",), ("ner", "pos"), ("ner", "pos", "tone"), ("pos", "tone")])
groupings = st.dictionaries(signatures, st.integers(1, 40), min_size=1).map(
    lambda groups: groups | {("ner", "pos", "tone"): groups.get(("ner", "pos", "tone"), 1)}
)


@kind_names
def test_an_epoch_draws_as_many_as_there_are_and_walks_through_everybody(kind: str) -> None:
    @given(groupings, st.integers(0, 2**16))
    @settings(max_examples=60)
    def check(groups: dict[tuple[str, ...], int], seed: int) -> None:
        mixing = mixing_of(groups, config_of(kind), epochs=4, seed=seed)
        examples = examples_of(groups)
        drawn: Counter[int] = Counter()
        for epoch in range(4):
            draw = mixing.draw(epoch)
            assert len(draw) == len(examples)
            counts = Counter(tuple(sorted(examples[number].labels)) for number in draw)
            assert counts == Counter(mixing.counts(epoch))
            drawn.update(draw.tolist())
            for signature in groups:
                times = [drawn[n] for n, example in enumerate(examples) if tuple(sorted(example.labels)) == signature]
                # nobody a second time before everybody else once
                assert max(times) - min(times) <= 1
        if kind == "proportional":
            assert set(drawn.values()) == {4}
            assert len(drawn) == len(examples)

    check()


@kind_names
def test_an_epoch_is_a_function_of_seed_and_epoch(kind: str) -> None:
    first, second = mixing_of(SEPARATE, config_of(kind)), mixing_of(SEPARATE, config_of(kind))
    for epoch in (2, 0, 1, 2):
        assert first.draw(epoch).tolist() == second.draw(epoch).tolist()
    assert first.draw(0).tolist() != first.draw(1).tolist()
    assert first.draw(0).tolist() != mixing_of(SEPARATE, config_of(kind), seed=2).draw(0).tolist()


@pytest.mark.parametrize(
    ("kind", "epoch", "powers"),
    [
        ("uniform", 0, 0.0),
        ("temperature", 0, 0.5),
        ("annealed", 0, 1.0),
        ("annealed", 2, 0.2),
        ("proportional", 1, 1.0),
    ],
)
def test_shares_are_realised_within_rounding(kind: str, epoch: int, powers: float) -> None:
    mixing = mixing_of(SEPARATE, config_of(kind))
    sizes = {tasks[0]: count**powers for tasks, count in SEPARATE.items()}
    shares = {task: size / sum(sizes.values()) for task, size in sizes.items()}
    assert mixing.shares(epoch) == pytest.approx(shares)
    for task, share in shares.items():
        assert abs(mixing.counts(epoch)[task,] - share * 600) < 1


def test_weights_are_the_shares() -> None:
    assert mixing_of(SEPARATE, config_of("weights")).counts(0) == {("ner",): 300, ("pos",): 100, ("tone",): 200}


@given(groupings)
@settings(max_examples=40)
def test_temperature_one_is_proportional(groups: dict[tuple[str, ...], int]) -> None:
    """Without fused examples: a fused one is drawn at its neediest task's rate, here the same for all."""
    mixing = mixing_of(groups, config_of("temperature", temperature=1.0))
    assert mixing.counts(0) == {tuple(sorted(tasks)): count for tasks, count in groups.items()}


@pytest.mark.parametrize("kind", ["uniform", "temperature", "weights"])
def test_fused_examples_are_drawn_as_often_as_their_neediest_task(kind: str) -> None:
    groups: dict[tuple[str, ...], int] = {("ner", "pos"): 100, ("pos",): 500, ("tone",): 900}
    mixing = mixing_of(groups, config_of(kind))
    counts, shares = mixing.counts(0), mixing.shares(0)
    labelled = {"ner": 100, "pos": 600, "tone": 900}
    rates = {task: shares[task] / labelled[task] for task in TASKS}
    per_example = {signature: counts[signature] / groups[signature] for signature in groups}
    assert per_example["ner", "pos"] / per_example["tone",] == pytest.approx(rates["ner"] / rates["tone"], rel=0.05)
    assert per_example["pos",] / per_example["tone",] == pytest.approx(rates["pos"] / rates["tone"], rel=0.05)


def test_sampling_rates_count_what_is_drawn() -> None:
    groups = {("ner", "pos"): 30, ("pos",): 50, ("tone",): 220}
    examples = examples_of(groups)
    mixing = Mixing(examples, tasks=TASKS, config=config_of("annealed"), epochs=3, seed=1)
    rates = sampling_rates(mixing)
    for task in TASKS:
        drawn = sum(task in examples[number].labels for epoch in range(3) for number in mixing.draw(epoch))
        assert rates[task] == pytest.approx(drawn / 3 / mixing.labelled[task])
    assert not any(math.isnan(rate) for rate in rates.values())


def test_a_single_task_draws_each_example_once() -> None:
    examples = [Example(Text(()), {"pos": "x"}) for _ in range(7)]
    for kind in ("proportional", "uniform", "temperature", "annealed"):
        mixing = Mixing(examples, tasks=["pos"], config=MixingConfig(kind=kind), epochs=1, seed=0)
        assert sorted(mixing.draw(0).tolist()) == list(range(7))
