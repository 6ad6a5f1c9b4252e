"""Probes of the tasks' gradients: right numbers, small cost, and no trace in the run."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from conftest import make_loop, train_and_keep
from fakes import ALL_TASKS, tiny_config
from palmette.batching import collate
from palmette.config import Config, TrunkConfig
from palmette.model import run, to_tensors
from palmette.probes import Probes, affordable, draw, layers, marks
from palmette.trunk import load_pretrained
from test_trunk import ROBERTA, other_trunk

CPU = torch.device("cpu")
RATE = 0.05  # large enough for a lookahead that is no longer linear


@pytest.fixture(scope="module")
def loop(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("probes")
    return make_loop(
        Config.parse(tiny_config(folder, long=2, probes=2, learning_rate=RATE, accumulation=2)), folder / "run"
    )


def probe(loop: Any, *, tokens: int = 10**6) -> Probes:
    return Probes(loop.bare, loop.kinds, loop.learner.dataset, training=loop.training, tokens=tokens, device=CPU)


@pytest.fixture(scope="module")
def measured(loop: Any) -> tuple[Probes, dict[str, Any]]:
    made = probe(loop)
    return made, made.measure()


class Reference:
    """The same by the plainest means: one batch a task, a copy of the model, `.backward()`."""

    def __init__(self, loop: Any, examples: dict[str, list[int]]) -> None:
        self.loop = loop
        self.examples = examples
        self.model = copy.deepcopy(loop.bare).eval()

    def loss(self, model: Any, task: str) -> torch.Tensor:
        loop = self.loop
        rows = loop.learner.dataset.rows(self.examples[task])
        batch = collate(rows, loop.learner.dataset, {task: loop.kinds[task]}, pad=0, labelled=True)
        part = batch.tasks[task]
        loss: torch.Tensor = loop.kinds[task].loss(run(model, batch, CPU)[task], to_tensors(part.targets, CPU))
        return loss / part.units

    def gradient(self, task: str) -> dict[str, torch.Tensor]:
        self.model.zero_grad()
        torch.autograd.backward(self.loss(self.model, task))
        return {
            name: torch.zeros_like(p) if p.grad is None else p.grad.clone()
            for name, p in self.model.trunk.named_parameters()
        }

    def affinity(self, task: str, other: str) -> float:
        stepped = copy.deepcopy(self.model)
        gradient = self.gradient(task)
        with torch.no_grad():
            before = self.loss(stepped, other)
            for name, parameter in stepped.trunk.named_parameters():
                parameter.sub_(RATE * gradient[name])
            return float(1 - self.loss(stepped, other) / before)


class TestNumbers:
    def test_norms_and_cosines_by_layer(self, loop: Any, measured: tuple[Probes, dict[str, Any]]) -> None:
        made, found = measured
        assert found["layers"] == ["embeddings", "layer.0", "layer.1"]
        tasks = sorted(ALL_TASKS)
        reference = Reference(loop, made.examples)
        flat = {}
        for task in tasks:
            gradient = reference.gradient(task)
            for layer in found["layers"]:
                chosen = [g.flatten() for name, g in gradient.items() if made.places[name] == layer]
                flat[task, layer] = torch.cat(chosen).double()
            norms = [float(flat[task, layer].norm()) for layer in found["layers"]]
            assert found["norm"][task] == pytest.approx(norms, rel=1e-4)
        assert list(found["cosine"]) == tasks[:-1]
        for number, first in enumerate(tasks[:-1]):
            assert list(found["cosine"][first]) == tasks[number + 1 :]
            for second, cosines in found["cosine"][first].items():
                expected = [
                    float(torch.cosine_similarity(flat[first, layer], flat[second, layer], dim=0))
                    for layer in found["layers"]
                ]
                assert cosines == pytest.approx(expected, abs=1e-4)

    def test_affinity_is_what_a_step_for_one_task_does_to_another(
        self, loop: Any, measured: tuple[Probes, dict[str, Any]]
    ) -> None:
        made, found = measured
        reference = Reference(loop, made.examples)
        for task in ALL_TASKS:
            assert found["affinity"][task].keys() == ALL_TASKS.keys() - {task}
        for task, other in (("pos", "ner"), ("ner", "pos"), ("answer", "tone"), ("likeness", "same")):
            expected = reference.affinity(task, other)
            assert abs(expected) > 1e-4
            assert found["affinity"][task][other] == pytest.approx(expected, rel=1e-3, abs=1e-6)

    def test_they_are_json_and_the_same_each_time(self, loop: Any, measured: tuple[Probes, dict[str, Any]]) -> None:
        made, found = measured
        assert json.loads(json.dumps(found)) == found
        assert made.measure() == found
        assert probe(loop).measure() == found
        assert found["examples"] == dict.fromkeys(sorted(ALL_TASKS), 24)

    def test_a_single_task_has_nothing_to_be_compared_with(self, tmp_path: Path) -> None:
        data = tiny_config(tmp_path, examples=6, probes=1)
        data["tasks"] = {"tone": ALL_TASKS["tone"]}
        data["sources"] = [data["sources"][0] | {"labels": {"tone": "tone"}}]
        found = probe(make_loop(Config.parse(data), tmp_path / "run")).measure()
        assert (found["cosine"], found["affinity"]) == ({}, {"tone": {}})
        assert len(found["norm"]["tone"]) == 3


class TestNoTrace:
    def test_model_and_random_state_are_left_as_they_were(self, loop: Any) -> None:
        made = probe(loop)
        loop.bare.train()
        before = {name: tensor.clone() for name, tensor in loop.bare.state_dict().items()}
        state = torch.get_rng_state()
        made.measure()
        assert torch.equal(torch.get_rng_state(), state)
        assert all(torch.equal(tensor, before[name]) for name, tensor in loop.bare.state_dict().items())
        assert all(parameter.grad is None for parameter in loop.bare.parameters())
        assert all(module.training for module in loop.bare.modules())

    def test_a_run_with_probes_ends_with_the_weights_of_one_without(self, tmp_path: Path) -> None:
        data = tiny_config(tmp_path, examples=12)
        events = {}
        for probes in (0, 3):
            config = Config.parse(data | {"training": data["training"] | {"probes": probes}})
            events[probes] = train_and_keep(config, tmp_path / str(probes)).events
        for name in ("model.safetensors", "metrics.json"):
            assert (tmp_path / "0" / name).read_bytes() == (tmp_path / "3" / name).read_bytes()
        found = [event for event in events[3] if event["event"] == "probe"]
        total = events[3][0]["updates"]
        assert [event["update"] for event in found] == sorted(marks(3, total))
        assert found[0].keys() == {"event", "update", "layers", "examples", "cosine", "norm", "affinity"}
        assert found[0]["norm"] != found[1]["norm"]

        def rest(kind: int) -> list[Any]:
            return [event for event in events[kind] if event["event"] not in ("probe", "progress", "started")]

        assert rest(0) == rest(3)


@given(st.integers(1, 20), st.integers(1, 5000))
def test_probes_are_spread_evenly(probes: int, updates: int) -> None:
    found = sorted(marks(probes, updates))
    assert len(found) == min(probes, updates)
    assert found[0] >= 1
    assert found[-1] <= updates
    stretch = updates / probes
    for number in found:
        assert abs((number - 0.5) / stretch % 1 - 0.5) <= max(0.5, 1 / stretch)


class TestCost:
    def test_the_sample_is_small_fixed_and_of_the_task(self, loop: Any) -> None:
        for tokens, counts in ((10**9, 24), (0, 8)):
            found = draw(loop.learner.dataset, list(ALL_TASKS), seed=1, tokens=tokens)
            for task, chosen in found.items():
                assert len(set(chosen)) == len(chosen) == counts
                assert all(task in loop.learner.dataset.examples[number].labels for number in chosen)
        assert draw(loop.learner.dataset, list(ALL_TASKS), seed=1, tokens=0) != draw(
            loop.learner.dataset, list(ALL_TASKS), seed=2, tokens=0
        )

    def test_tokens_are_a_limit_above_the_fewest(self, loop: Any) -> None:
        for task, chosen in draw(loop.learner.dataset, list(ALL_TASKS), seed=1, tokens=400).items():
            sizes = [sum(map(len, loop.learner.dataset.encoded[number].rows)) for number in chosen]
            assert sum(sizes) <= 400 or len(chosen) == 8, task

    @given(st.integers(1000, 10**9), st.integers(1, 100), st.integers(1, 12))
    def test_all_probes_together_stay_below_a_tenth(self, tokens: int, probes: int, tasks: int) -> None:
        each = affordable(tokens, probes=probes, tasks=tasks)
        passes = probes * tasks * each * (3 + (tasks - 1))  # forward, backward; a lookahead for each other task
        assert passes <= 0.1 * 3 * tokens
        assert math.isclose(passes, 0.06 * 3 * tokens)


@pytest.mark.parametrize(
    ("kind", "settings", "expected"),
    [
        ("bert", {}, {"embeddings", "layer.0", "layer.1"}),
        ("roberta", ROBERTA, {"embeddings", "layer.0", "layer.1"}),
        ("distilbert", {}, {"embeddings", "layer.0", "layer.1"}),
        ("electra", {"embedding_size": 16}, {"embeddings", "layer.0", "layer.1"}),
        ("mpnet", {"max_position_embeddings": 66, "pad_token_id": 1}, {"embeddings", "layer.0", "layer.1", "rest"}),
        ("albert", {}, {"embeddings", "rest"}),
    ],
)
def test_every_parameter_has_its_layer(kind: str, settings: dict[str, Any], expected: set[str], tmp_path: Path) -> None:
    trunk, _ = load_pretrained(TrunkConfig(name=str(other_trunk(tmp_path, kind, **settings)), casing=True))
    places = layers(trunk)
    assert places.keys() == dict(trunk.named_parameters()).keys()
    assert set(places.values()) == expected
    assert places["casing.weight"] == "embeddings"
