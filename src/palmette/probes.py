"""How tasks pull at the shared parameters: angles of their gradients, and what a step for one does to the others."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from palmette.batching import Dataset, by_length, collate
from palmette.config import TrainingConfig
from palmette.kinds import AnyKind
from palmette.model import Model, pad_id, to_tensors
from palmette.trunk import Trunk

# Examples of each task in a probe. Fewer than the most where they would cost too much, never fewer than the fewest.
_MOST, _FEWEST = 64, 8
# What all probes of a run may cost, in passes over tokens (a backward pass is two forward ones); the rest of the 10 %
# that is promised is for what passes over tokens do not count: lookahead weights, dot products, smaller batches.
# Measured: 8.5 % of the CPU time of one epoch of the reference mix; 3.8 % of four, where 64 examples are the limit.
_SHARE = 0.06


def marks(probes: int, updates: int) -> frozenset[int]:
    """After which of `updates` updates (from 1) to probe: in the middle of each of `probes` equal stretches."""
    return frozenset(max(1, math.ceil(updates * (number + 0.5) / probes)) for number in range(probes))


def draw(dataset: Dataset, tasks: Sequence[str], *, seed: int, tokens: float) -> dict[str, list[int]]:
    """The probe's examples of each task, drawn once a run: at most 64, and `tokens` subwords unless that is under 8."""
    chosen = {}
    for number, task in enumerate(sorted(tasks)):
        labelled = [position for position, example in enumerate(dataset.examples) if task in example.labels]
        order = np.random.default_rng([seed, 3, number]).permutation(labelled)[:_MOST]
        sizes = np.cumsum([sum(map(len, dataset.encoded[position].rows)) for position in order])
        fitting = int(np.searchsorted(sizes, tokens, side="right"))
        chosen[task] = [int(position) for position in order[: max(_FEWEST, fitting)]]
    return chosen


def affordable(tokens: int, *, probes: int, tasks: int) -> float:
    """Subwords of each task that a probe may read, so that all probes stay within their share of the training.

    Args:
        tokens: subwords that the run trains on.
        probes: how many.
        tasks: how many.
    """
    # In a probe a task's tokens pass forward and backward once, and forward once for each other task.
    return _SHARE * 3 * tokens / (probes * tasks * (tasks + 2))


def layers(trunk: Trunk) -> dict[str, str]:
    """Which layer each parameter of a trunk belongs to, by name: `embeddings`, `layer.0`, … or `rest`.

    `rest` is what is neither (a final norm, a bias of all layers; all of an encoder whose layers share their weights).
    """
    count = trunk.encoder.config.num_hidden_layers
    stack = next(
        (
            f"{name}."
            for name, found in trunk.named_modules()
            if isinstance(found, nn.ModuleList) and len(found) == count
        ),
        None,
    )
    places = {}
    for name, _ in trunk.named_parameters():
        if stack is not None and name.startswith(stack):
            places[name] = f"layer.{name.removeprefix(stack).partition('.')[0]}"
        else:
            places[name] = "embeddings" if "embed" in name or name.startswith("casing.") else "rest"
    return places


@dataclass(frozen=True, slots=True)
class _Part:
    """A batch of one task's probe examples, on the device."""

    inputs: Mapping[str, Tensor]
    index: Mapping[str, Tensor]
    targets: Mapping[str, Tensor]


class Probes:
    """Measures, at any moment of a run, how its tasks pull at the trunk; always on the same examples.

    A task's loss is the mean over its labelled units, without its static weight. The model is in evaluation mode, in
    fp32 (a lookahead's change would drown in the rounding of bf16), and is left exactly as it was. No random number
    is drawn, so that a run with probes ends with the weights of one without.

    Memory: a copy of the trunk's weights, and one more for each task, less the embeddings of words that the examples
    lack.

    Args:
        model: being trained, not wrapped.
        kinds: its tasks.
        dataset: the training examples.
        training: `probes`, `seed`, `batch_tokens`, `accumulation`; `learning_rate` is that of the lookahead.
        tokens: subwords that the run trains on.
        device: of the model.
    """

    def __init__(
        self,
        model: Model,
        kinds: Mapping[str, AnyKind],
        dataset: Dataset,
        *,
        training: TrainingConfig,
        tokens: int,
        device: torch.device,
    ) -> None:
        self.model = model
        self.kinds = {task: kinds[task] for task in sorted(kinds)}
        self.rate = training.learning_rate
        self.parameters = dict(model.trunk.named_parameters())
        self.places = layers(model.trunk)
        order = sorted(set(self.places.values()), key=_position)
        self.layers = order
        budget = affordable(tokens, probes=training.probes, tasks=len(kinds))
        self.examples = draw(dataset, list(kinds), seed=training.seed, tokens=budget)
        self.parts: dict[str, list[_Part]] = {}
        self.units: dict[str, float] = {}
        for task, chosen in self.examples.items():
            size = max(1, training.batch_tokens // training.accumulation)  # no more memory than an update takes
            batches = [
                collate(rows, dataset, {task: kinds[task]}, pad=pad_id(model), labelled=True)
                for rows in by_length(dataset.rows(chosen), batch_tokens=size)
            ]
            self.units[task] = sum(batch.tasks[task].units for batch in batches) or 1.0
            self.parts[task] = [
                _Part(
                    to_tensors(batch.inputs, device),
                    to_tensors({task: batch.tasks[task].index}, device),
                    to_tensors(batch.tasks[task].targets, device),
                )
                for batch in batches
            ]
        read = [part.inputs["input_ids"].flatten() for parts in self.parts.values() for part in parts]
        self.read = torch.unique(torch.cat(read))  # every other word's embedding has no gradient

    def measure(self) -> dict[str, Any]:
        """Gradients of each task's loss on the trunk's parameters, compared.

        Returns:
            `layers`: names, from the input up; `examples`: how many of each task were read;
            `norm`: {task: [a layer's gradient norm, …]};
            `cosine`: {task: {later task: [a layer's cosine, …]}}, tasks sorted, in [-1, 1], 0 where a gradient is 0;
            `affinity`: {i: {j: 1 - L_j(trunk - rate * gradient of i) / L_j(trunk)}}, above 0 where a step for task i
            also serves task j (Fifty et al. 2021, "Efficiently Identifying Task Groupings for Multi-Task Learning",
            equation 1). The step is a plain one at the peak rate of the trunk, so that probes of a run can be compared.
        """
        training = self.model.training
        self.model.eval()
        try:
            return self._measure()
        finally:
            self.model.train(training)

    def _measure(self) -> dict[str, Any]:
        losses: dict[str, float] = {}
        ahead: dict[str, dict[str, float]] = {}  # {i: {j: loss of j after a step for i}}
        gradients: dict[str, dict[str, Tensor]] = {}
        for task in self.kinds:
            losses[task], found = self._gradient(task)
            ahead[task] = self._look_ahead(task, found)
            gradients[task] = self._compact(found)
        dots = {(i, j): self._dots(gradients[i], gradients[j]) for i in self.kinds for j in self.kinds if i <= j}
        norms = {task: [math.sqrt(dot) for dot in dots[task, task]] for task in self.kinds}
        cosine: dict[str, dict[str, list[float]]] = {}
        for (i, j), products in dots.items():
            if i != j:
                pairs = zip(products, norms[i], norms[j], strict=True)
                cosine.setdefault(i, {})[j] = [_short(dot / (a * b)) if a * b else 0.0 for dot, a, b in pairs]
        return {
            "layers": self.layers,
            "examples": {task: len(chosen) for task, chosen in self.examples.items()},
            "cosine": cosine,
            "norm": {task: [_short(norm) for norm in found] for task, found in norms.items()},
            "affinity": {
                i: {j: _short(1 - after / losses[j]) if losses[j] else 0.0 for j, after in found.items()}
                for i, found in ahead.items()
            },
        }

    def _gradient(self, task: str) -> tuple[float, dict[str, Tensor]]:
        """A task's loss, and its gradient on each parameter of the trunk; `.grad` is not touched."""
        total, sums = 0.0, [torch.zeros_like(parameter) for parameter in self.parameters.values()]
        for part in self.parts[task]:
            loss = self._loss(task, part, self.model(part.inputs, part.index))
            found = torch.autograd.grad(loss, list(self.parameters.values()), materialize_grads=True)
            for gathered, gradient in zip(sums, found, strict=True):
                gathered.add_(gradient)
            total += loss.item()
        return total, dict(zip(self.parameters, sums, strict=True))

    @torch.no_grad()
    def _look_ahead(self, task: str, gradient: Mapping[str, Tensor]) -> dict[str, float]:
        """Every other task's loss were the trunk to take a plain step for `task`."""
        stepped = {f"trunk.{name}": p - self.rate * gradient[name] for name, p in self.parameters.items()}
        return {
            other: sum(
                self._loss(other, part, functional_call(self.model, stepped, (part.inputs, part.index))).item()
                for part in parts
            )
            for other, parts in self.parts.items()
            if other != task
        }

    def _loss(self, task: str, part: _Part, outputs: Mapping[str, Tensor]) -> Tensor:
        return self.kinds[task].loss(outputs[task], part.targets) / self.units[task]

    def _compact(self, gradient: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Without the embeddings of words that no example has: most of a small trunk, and all zeros."""
        words = self.model.trunk.encoder.get_input_embeddings().weight
        return {name: g[self.read] if self.parameters[name] is words else g for name, g in gradient.items()}

    def _dots(self, first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> list[float]:
        """The scalar product of two gradients in each layer: [layers]."""
        sums = dict.fromkeys(self.layers, 0.0)
        for name, place in self.places.items():
            sums[place] += float(torch.dot(first[name].flatten(), second[name].flatten()))
        return list(sums.values())


def _position(layer: str) -> tuple[int, int]:
    """Where a layer stands between input and output."""
    if layer.startswith("layer."):
        return 1, int(layer.removeprefix("layer."))
    return (0, 0) if layer == "embeddings" else (2, 0)


def _short(value: float) -> float:
    """Six digits: what fp32 is good for."""
    return float(f"{value:.6g}")
