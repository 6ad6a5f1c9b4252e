"""A number for a text or a pair: similarity, rating, intensity."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from palmette import metrics, sums
from palmette.config import TaskConfig
from palmette.errors import ConfigError
from palmette.kinds.base import Array, Form, Kind, LabelError, RawLabel, share
from palmette.text import Row
from palmette.types import Example, Prediction

if TYPE_CHECKING:
    from torch import Tensor, nn


class Regression(Kind[float]):
    """Trained on standardised values, so that its loss is on the scale of the others; answers on the original scale."""

    inputs: ClassVar = "any"
    metrics: ClassVar = ("pearson", "spearman", "mse")

    @classmethod
    def check(cls, config: TaskConfig) -> None:
        super().check(config)
        if config.metric == "mse":  # it is reported, but the metric that stands for a task grows as the model improves
            raise ConfigError("metric: mse falls as a model improves; choose pearson or spearman")

    @classmethod
    def parse(cls, raw: RawLabel, config: TaskConfig, example: Example) -> float:
        try:
            value = float(raw)  # type: ignore[arg-type]
        except (TypeError, ValueError) as error:
            raise LabelError(f"expected a number, found {raw!r}") from error
        if not math.isfinite(value):
            raise LabelError(f"expected a finite number, found {raw!r}")
        return value

    @classmethod
    def fit(cls, labels: Sequence[float]) -> dict[str, Any]:
        values = np.sort(np.asarray(labels, dtype=np.float64))  # sums of floats depend on their order
        spread = float(values.std())
        return {
            "mean": float(values.mean()),
            "deviation": spread if spread > 0 else 1.0,
            "low": float(values[0]),
            "high": float(values[-1]),
        }

    def targets(self, label: float, row: Row, spans: Array | None) -> dict[str, Array]:
        standardised = (label - self.state["mean"]) / self.state["deviation"]
        return {"target": np.array([standardised], dtype=np.float32), "weight": share(row)}

    @property
    def outputs(self) -> int:
        return 1

    def head(self, width: int, dropout: float) -> nn.Module:
        from palmette.heads import PairHead, TextHead

        return (PairHead if self.state.get("paired") else TextHead)(width, 1, dropout=dropout)

    def loss(self, outputs: Tensor, targets: Mapping[str, Tensor]) -> Tensor:
        errors = outputs.float().squeeze(-1) - targets["target"]  # [texts]
        return (errors.square() * targets["weight"]).sum()

    def decode(self, windows: Sequence[tuple[Row, Array]], example: Example, spans: Array | None) -> Prediction:
        return Prediction(self._value(windows), math.nan)

    def support(
        self, windows: Sequence[tuple[Row, Array]], example: Example, spans: Array | None, prediction: Prediction
    ) -> Array:
        """The value that these outputs give: what explains a number is what changes it."""
        return np.array([self._value(windows)])

    def _value(self, windows: Sequence[tuple[Row, Array]]) -> float:
        """The mean over all windows, on the original scale."""
        value = float(np.concatenate([outputs for _, outputs in windows]).astype(np.float64).mean())
        return float(value * self.state["deviation"] + self.state["mean"])

    def score(self, gold: Sequence[float], predicted: Sequence[float]) -> dict[str, float]:
        predicted = self._filled(gold, predicted)
        errors = np.asarray(gold, dtype=float) - np.asarray(predicted, dtype=float)
        return {
            "pearson": metrics.pearson(gold, predicted),
            "spearman": metrics.spearman(gold, predicted),
            "mse": float(np.square(errors).mean()),
        }

    def parts(self, gold: Sequence[float], predicted: Sequence[float]) -> NDArray[np.float64]:
        """For Spearman, moments of the ranks among all these examples.

        On all of them `combine` is exact; on some of them it is Pearson's correlation of ranks that were not ranked
        anew: an approximation that differs only in how the drawn examples fill the scale.
        """
        predicted = self._filled(gold, predicted)
        if self.metric == "pearson":
            return sums.moments(gold, predicted)
        from scipy.stats import rankdata

        return sums.moments(*(rankdata(np.asarray(side, dtype=np.float64)) for side in (gold, predicted)))

    def combine(self, totals: NDArray[np.float64]) -> NDArray[np.float64]:
        return sums.pearson(totals)

    def _filled(self, gold: Sequence[float], predicted: Sequence[float]) -> list[float]:
        """Predictions; where there is none (unreadable text), the end of the scale that is farther from gold."""
        low, high = self._range
        return [
            (low if wanted - low > high - wanted else high) if math.isnan(found) else found
            for wanted, found in zip(gold, predicted, strict=True)
        ]

    def difference(self, first: float, second: float) -> float:
        """In standard deviations of the training labels, at most 1; less than a tenth of one is none."""
        if math.isnan(first) or math.isnan(second):
            return float(math.isnan(first) != math.isnan(second))
        apart = abs(first - second) / float(self.state["deviation"])
        return min(1.0, apart) if apart >= 0.1 else 0.0

    def agrees(self, before: float, after: float, alignment: Sequence[int | None]) -> bool:
        """At most a quarter of a standard deviation of the training labels apart."""
        return abs(before - after) <= 0.25 * float(self.state["deviation"])

    @property
    def _range(self) -> tuple[float, float]:
        mean, deviation = self.state["mean"], self.state["deviation"]
        return self.state.get("low", mean - 3 * deviation), self.state.get("high", mean + 3 * deviation)

    @property
    def _step(self) -> float:
        """What written numbers are rounded to: 0.2 on STS-B (1 to 5), as T5 does it (Raffel et al. 2020)."""
        return float(2 * 10.0 ** math.floor(math.log10(self.state["deviation"] / 2)))

    def _write(self, value: float) -> str:
        digits = max(0, -math.floor(math.log10(self._step)))
        return f"{round(value / self._step) * self._step + 0.0:.{digits}f}"

    @property
    def form(self) -> Form:
        return "number"

    def compare(self, one: float, other: float) -> list[tuple[str, str]]:
        return [(f"{one:.6g}", f"{other:.6g}")]

    def instruction(self) -> str:
        low, high = map(self._write, self._range)
        return f"Give the {'pair' if self.state.get('paired') else 'text'} a number from {low} to {high}."

    def target_text(self, label: float, example: Example) -> str:
        return self._write(label)

    def read_text(self, output: str, example: Example) -> tuple[float, bool]:
        """The number that the output begins with, if it is on the scale."""
        found = re.match(r"[\s\"'`*:]*([+-]?\s*\d+(?:\s*\.\s*\d+)?)(?![\d.]*\d)", output)
        value = float("".join(found[1].split())) if found else math.nan
        low, high = self._range
        return (value, True) if low - self._step <= value <= high + self._step else (math.nan, False)

    def next_pieces(self, written: tuple[str, ...], example: Example) -> tuple[str, ...]:
        if written:
            return ("",)
        low, high = (round(end / self._step) for end in self._range)
        return tuple(self._write(number * self._step) for number in range(low, high + 1))

    def render(self, prediction: Prediction, example: Example) -> dict[str, Any]:
        value = float(prediction.label)  # type: ignore[arg-type]
        return {} if math.isnan(value) else {"value": round(value, 4)}  # NaN: nobody could read it
