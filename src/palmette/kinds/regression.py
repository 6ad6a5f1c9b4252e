"""A number for a text or a pair: similarity, rating, intensity."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from palmette import metrics, sums
from palmette.config import TaskConfig
from palmette.errors import ConfigError
from palmette.kinds.base import Array, Kind, LabelError, RawLabel, share
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
        return {"mean": float(values.mean()), "deviation": spread if spread > 0 else 1.0}

    def targets(self, label: float, row: Row, spans: Array | None) -> dict[str, Array]:
        standardised = (label - self.state["mean"]) / self.state["deviation"]
        return {"target": np.array([standardised], dtype=np.float32), "weight": share(row)}

    def head(self, width: int, dropout: float) -> nn.Module:
        from palmette.heads import TextHead

        return TextHead(width, 1, dropout=dropout)

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
        if self.metric == "pearson":
            return sums.moments(gold, predicted)
        from scipy.stats import rankdata

        return sums.moments(*(rankdata(np.asarray(side, dtype=np.float64)) for side in (gold, predicted)))

    def combine(self, totals: NDArray[np.float64]) -> NDArray[np.float64]:
        return sums.pearson(totals)

    def render(self, prediction: Prediction, example: Example) -> dict[str, Any]:
        return {"value": round(float(prediction.label), 4)}  # type: ignore[arg-type]
