"""How sure an answer is: confidences made to mean what they say, and the threshold under which people look."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Method = Literal["none", "temperature", "isotonic"]
Decision = Literal["automatic", "review"]


@dataclass(frozen=True)
class Calibration:
    """What a task's confidences are corrected by.

    Attributes:
        method: how it was fitted.
        temperature: that the head's scores are divided by before they are decoded (Guo et al. 2017). It changes no
            answer, only how sure it is.
        knots: raw confidences in [0, 1], ascending, and what they mean; between them linear (isotonic regression,
            Zadrozny & Elkan 2002). None: they stay as they are.
        threshold: least confidence with which an answer needs nobody to look at it; None where none was set.
    """

    method: Method = "none"
    temperature: float = 1.0
    knots: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    threshold: float | None = None

    @classmethod
    def of(cls, state: Mapping[str, Any] | None) -> Calibration:
        """From the plain form that a task's state holds.

        Raises:
            ValueError, TypeError, KeyError: it is damaged.
        """
        if not state:
            return cls()
        knots = state.get("knots")
        if knots is not None:
            low, high = (tuple(map(float, part)) for part in knots)
            if len(low) != len(high) or not low or list(low) != sorted(low):
                raise ValueError("the knots of a calibration must ascend, each with its value")
            knots = (low, high)
        temperature = float(state.get("temperature", 1.0))
        if not temperature > 0:
            raise ValueError(f"a temperature must be above 0, found {temperature}")
        threshold = state.get("threshold")
        return cls(state["method"], temperature, knots, None if threshold is None else float(threshold))

    def state(self) -> dict[str, Any]:
        """The plain form."""
        found: dict[str, Any] = {"method": self.method, "temperature": self.temperature}
        if self.knots is not None:
            found["knots"] = [list(part) for part in self.knots]
        if self.threshold is not None:
            found["threshold"] = self.threshold
        return found

    def mean(self, confidence: float) -> float:
        """What a confidence of the (tempered) model means: [0, 1] -> [0, 1]."""
        return confidence if self.knots is None else float(np.interp(confidence, *self.knots))

    def means(self, confidences: NDArray[np.float64] | Sequence[float]) -> NDArray[np.float64]:
        """The same of many: [claims] -> [claims]."""
        given = np.asarray(confidences, dtype=np.float64)
        return given if self.knots is None else np.asarray(np.interp(given, *self.knots))

    def decide(self, confidence: float) -> Decision:
        """Whether somebody should look at a claim of this (calibrated) confidence."""
        return "review" if self.threshold is not None and confidence < self.threshold else "automatic"
