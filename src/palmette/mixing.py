"""Which example enters when. Stateless: an epoch's draws are a function of the seed and the epoch alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from palmette.config import Config, MixingConfig
from palmette.types import Example

Signature = tuple[str, ...]


class Mixing:
    """Draws each epoch's examples.

    An epoch draws as many examples as there are. A task's share of them follows the configuration; examples that
    carry the same tasks form a group, and a group is drawn at the rate of the task in it that is to be drawn most,
    so that a fused example serves its neediest task. Each group is walked through in one shuffled pass after another,
    across epochs: no example is drawn a second time before all others of its group were drawn.

    Args:
        examples: the training examples; each carries at least one of `tasks`.
        tasks: every task.
        config: the kind of mixing.
        epochs: how many will be drawn (annealing needs it).
        seed: of the shuffles.
    """

    def __init__(
        self, examples: Sequence[Example], *, tasks: Sequence[str], config: MixingConfig, epochs: int, seed: int
    ) -> None:
        self.config = config
        self.epochs = epochs
        self.seed = seed
        groups: dict[Signature, list[int]] = {}
        for number, example in enumerate(examples):
            groups.setdefault(tuple(sorted(example.labels)), []).append(number)
        self._groups = {signature: np.array(groups[signature]) for signature in sorted(groups)}
        self.labelled = {task: sum(task in example.labels for example in examples) for task in tasks}
        self.total = len(examples)

    @classmethod
    def of(cls, config: Config, examples: Sequence[Example]) -> Mixing:
        """The mixing of a configuration's training examples."""
        training = config.training
        tasks = list(config.tasks)
        return cls(examples, tasks=tasks, config=config.mixing, epochs=training.epochs, seed=training.seed)

    def shares(self, epoch: int) -> dict[str, float]:
        """Each task's share of the draws, summing to 1, were no example labelled for two tasks."""
        sizes = {task: float(count) for task, count in self.labelled.items()}
        kind = self.config.kind
        if kind == "weights":
            sizes = dict(self.config.weights)
        elif kind == "uniform":
            sizes = dict.fromkeys(sizes, 1.0)
        elif kind == "temperature":
            sizes = {task: count ** (1 / self.config.temperature) for task, count in sizes.items()}
        elif kind == "annealed":
            # Stickland & Murray 2019 (PALs), equation 3: from proportional towards uniform over the run.
            alpha = 1 - 0.8 * (epoch / max(self.epochs - 1, 1))
            sizes = {task: count**alpha for task, count in sizes.items()}
        total = sum(sizes.values())
        return {task: size / total for task, size in sizes.items()}

    def counts(self, epoch: int) -> dict[Signature, int]:
        """How many examples of each group the epoch draws, summing to the number of examples."""
        shares = self.shares(epoch)
        rates = {task: shares[task] / self.labelled[task] for task in shares}
        if self.config.kind == "proportional":
            return {signature: len(members) for signature, members in self._groups.items()}
        wanted = np.array([max(rates[t] for t in signature) * len(m) for signature, m in self._groups.items()])
        return dict(zip(self._groups, _apportion(wanted, self.total), strict=True))

    def draw(self, epoch: int) -> NDArray[np.int64]:
        """The positions of the examples of an epoch (from 0), in random order."""
        drawn = []
        for number, (signature, members) in enumerate(self._groups.items()):
            start = sum(self.counts(earlier)[signature] for earlier in range(epoch))
            drawn.append(self._walk(number, members, start, start + self.counts(epoch)[signature]))
        order = np.random.default_rng([self.seed, 1, epoch]).permutation(sum(map(len, drawn)))
        return np.concatenate(drawn)[order]

    def _walk(self, group: int, members: NDArray[np.int64], start: int, stop: int) -> NDArray[np.int64]:
        """Places [start, stop) of the group's endless sequence of shuffled passes."""
        passes = range(start // len(members), -(-stop // len(members)))
        walk = [members[np.random.default_rng([self.seed, 0, group, n]).permutation(len(members))] for n in passes]
        begin = start - passes.start * len(members)
        return np.concatenate([*walk, members[:0]])[begin : begin + stop - start]


def _apportion(wanted: NDArray[np.float64], total: int) -> list[int]:
    """Whole numbers in proportion to `wanted` that sum to `total` (largest remainders)."""
    exact = wanted / wanted.sum() * total
    counts = np.floor(exact).astype(int)
    for position in np.argsort(-(exact - counts), kind="stable")[: total - counts.sum()]:
        counts[position] += 1
    return [int(count) for count in counts]


def sampling_rates(mixing: Mixing) -> dict[str, float]:
    """How often an epoch draws each of a task's examples, on average over the run's epochs."""
    drawn = dict.fromkeys(mixing.labelled, 0.0)
    for epoch in range(mixing.epochs):
        for signature, count in mixing.counts(epoch).items():
            for task in signature:
                drawn[task] += count
    return {task: drawn[task] / mixing.epochs / mixing.labelled[task] for task in drawn}
