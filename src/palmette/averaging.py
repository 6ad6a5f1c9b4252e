"""A moving average of the weights, which is what gets evaluated and kept.

Averages of late iterates vary less than the last one and often generalise better (Polyak & Juditsky 1992; Izmailov et
al. 2018). On the reference mix they did no harm and showed no consistent gain (LOG.md, 2026-11-22).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

_EVERY = 4  # updates between two steps of the average: each costs a pass over all weights


class WeightAverage:
    """An exponential moving average over about the last `horizon` updates.

    Args:
        model: whose parameters are averaged; its present weights are the first average.
        horizon: updates after which a weight's influence has fallen to 1/e.
    """

    def __init__(self, model: nn.Module, *, horizon: float) -> None:
        self.horizon = horizon
        self._names = [name for name, _ in model.named_parameters()]
        self._live = [parameter.data for parameter in model.parameters()]
        self._average = [weight.clone() for weight in self._live]

    def update(self, updates: int) -> None:
        """Take in the weights after `updates` updates; early in the run the average is over fewer of them."""
        if updates % _EVERY == 0:
            horizon = min(self.horizon, max(updates / 4, _EVERY))
            torch._foreach_lerp_(self._average, self._live, 1 - (1 - 1 / max(horizon, 1)) ** _EVERY)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Inside, the model has the averaged weights; afterwards its own again."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        for live, average in zip(self._live, self._average, strict=True):
            kept = live.clone()
            live.copy_(average)
            average.copy_(kept)

    def state(self) -> dict[str, Tensor]:
        """The averaged weights by parameter name."""
        return dict(zip(self._names, self._average, strict=True))

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Put back what `state` gave."""
        for name, average in zip(self._names, self._average, strict=True):
            average.copy_(state[name])
