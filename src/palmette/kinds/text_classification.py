"""One class for a text, or for a pair of texts."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from palmette import metrics, sums
from palmette.config import TaskConfig
from palmette.kinds.base import (
    UNREADABLE,
    Array,
    Form,
    Kind,
    LabelError,
    RawLabel,
    expect_string,
    label_set,
    share,
    softmax,
    spaced,
    vote,
)
from palmette.text import Row
from palmette.types import Example, Prediction

if TYPE_CHECKING:
    from torch import Tensor, nn


class TextClassification(Kind[str]):
    """A class for the whole text; windows of a long text vote by their mean logits."""

    inputs: ClassVar[Literal["text", "pair", "any"]] = "text"
    metrics: ClassVar = ("accuracy", "macro_f1", "mcc")

    def __init__(self, task: str, config: TaskConfig, state: Mapping[str, Any]) -> None:
        super().__init__(task, config, state)
        self._number = {label: number for number, label in enumerate(self.labels)}

    @classmethod
    def parse(cls, raw: RawLabel, config: TaskConfig, example: Example) -> str:
        label = expect_string(raw).strip()
        if not label:
            raise LabelError("the label is empty")
        return label

    @classmethod
    def fit(cls, labels: Sequence[str]) -> dict[str, Any]:
        return label_set(labels)

    def unseen(self, label: str) -> set[str]:
        return {label} - self._number.keys()

    def targets(self, label: str, row: Row, spans: Array | None) -> dict[str, Array]:
        return {"target": np.array([self._number[label]], dtype=np.int64), "weight": share(row)}

    @property
    def outputs(self) -> int:
        return len(self.labels)

    def head(self, width: int, dropout: float) -> nn.Module:
        from palmette.heads import PairHead, TextHead

        return (PairHead if self.state.get("paired") else TextHead)(width, len(self.labels), dropout=dropout)

    def loss(self, outputs: Tensor, targets: Mapping[str, Tensor]) -> Tensor:
        from torch.nn.functional import cross_entropy

        losses = cross_entropy(outputs.float(), targets["target"], reduction="none")  # [texts]
        return (losses * targets["weight"]).sum()

    def decode(self, windows: Sequence[tuple[Row, Array]], example: Example, spans: Array | None) -> Prediction:
        logits = vote(windows)
        best = int(logits.argmax())
        return Prediction(self.labels[best], 1 / float(np.exp(logits - logits[best]).sum()))  # the softmax at the best

    def support(
        self, windows: Sequence[tuple[Row, Array]], example: Example, spans: Array | None, prediction: Prediction
    ) -> Array:
        return softmax(vote(windows))[[self._number[str(prediction.label)]]]

    def score(self, gold: Sequence[str], predicted: Sequence[str]) -> dict[str, float]:
        return {
            "accuracy": metrics.accuracy(gold, predicted),
            "macro_f1": metrics.macro_f1(gold, predicted),
            "mcc": metrics.mcc(gold, predicted),
        }

    def parts(self, gold: Sequence[str], predicted: Sequence[str]) -> NDArray[np.float64]:
        if self.metric == "accuracy":
            return sums.equal(gold, predicted)
        pairs = zip(gold, predicted, strict=True)
        return sums.by_class([({wanted} & {found}, {found}, {wanted}) for wanted, found in pairs], self.columns)

    def combine(self, totals: NDArray[np.float64]) -> NDArray[np.float64]:
        return {"accuracy": sums.ratio, "macro_f1": sums.macro_f1, "mcc": sums.mcc}[self.metric](totals)

    def items(self, label: str) -> set[tuple[object, str]]:
        return {("text", label)}

    def units(self, label: str) -> tuple[str, ...]:
        return (label,)

    def probabilities(self, windows: Sequence[tuple[Row, Array]]) -> NDArray[np.float64]:
        return softmax(vote(windows))[None]

    @property
    def form(self) -> Form:
        return "class"

    def compare(self, one: str, other: str) -> list[tuple[str, str]]:
        return [(one, other)]

    def instruction(self) -> str:
        return f"Classify the {'pair' if self.state.get('paired') else 'text'} as one of: {', '.join(self.labels)}."

    def target_text(self, label: str, example: Example) -> str:
        return label

    def read_text(self, output: str, example: Example) -> tuple[str, bool]:
        """The label that the output is, or that it begins with: "positive." and "Positive, because" are positive."""
        if output.strip() in self._number:  # labels may differ by case alone, or begin with a mark
            return output.strip(), True
        written = output.strip(" \t\n\"'`*:")
        for label in sorted(self.labels, key=len, reverse=True):
            if re.match(spaced(label) + r"(?!\w)", written, re.IGNORECASE):
                return label, True
        return UNREADABLE, False

    def next_pieces(self, written: tuple[str, ...], example: Example) -> tuple[str, ...]:
        return ("",) if written else self.labels

    def render(self, prediction: Prediction, example: Example) -> dict[str, Any]:
        confidence = self.calibration.mean(float(prediction.confidence))  # type: ignore[arg-type]
        named = {} if prediction.label == UNREADABLE else {"label": prediction.label}
        return {**named, "confidence": round(confidence, 4)}
