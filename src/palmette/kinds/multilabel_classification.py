"""Any number of classes for a text, none included."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

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
    expect_strings,
    label_set,
    share,
    squeeze,
    vote,
)
from palmette.text import Row
from palmette.types import Example, Prediction

if TYPE_CHECKING:
    from torch import Tensor, nn


_MARKS = " .\n\"'`"  # what some models put around a label


class MultilabelClassification(Kind[frozenset[str]]):
    """A yes or no for each class; yes above the state's `threshold`, a probability of one half."""

    inputs: ClassVar = "any"
    metrics: ClassVar = ("micro_f1", "macro_f1", "subset_accuracy")

    def __init__(self, task: str, config: TaskConfig, state: Mapping[str, Any]) -> None:
        super().__init__(task, config, state)
        self._number = {label: number for number, label in enumerate(self.labels)}
        # Scores that were divided by a temperature are compared with a threshold that was as well: no answer changes.
        threshold = float(state.get("threshold", 0.5))
        self._threshold = 1 / (1 + (1 / threshold - 1) ** (1 / self.calibration.temperature))

    @classmethod
    def parse(cls, raw: RawLabel, config: TaskConfig, example: Example) -> frozenset[str]:
        labels = (raw,) if isinstance(raw, str) else expect_strings(raw)
        if any(not label.strip() for label in labels):
            raise LabelError("one of the labels is empty")
        return frozenset(label.strip() for label in labels)

    @classmethod
    def fit(cls, labels: Sequence[frozenset[str]]) -> dict[str, Any]:
        found = {label for members in labels for label in members}
        if not found:
            raise LabelError("no training example has any class")
        return {**label_set(found), "threshold": 0.5}

    def unseen(self, label: frozenset[str]) -> set[str]:
        return set(label) - self._number.keys()

    def targets(self, label: frozenset[str], row: Row, spans: Array | None) -> dict[str, Array]:
        target = np.zeros((1, len(self.labels)), dtype=np.float32)
        target[0, [self._number[member] for member in sorted(label)]] = 1
        return {"target": target, "weight": share(row)}

    @property
    def outputs(self) -> int:
        return len(self.labels)

    def head(self, width: int, dropout: float) -> nn.Module:
        from palmette.heads import TextHead

        return TextHead(width, len(self.labels), dropout=dropout)

    def loss(self, outputs: Tensor, targets: Mapping[str, Tensor]) -> Tensor:
        from torch.nn.functional import binary_cross_entropy_with_logits

        losses = binary_cross_entropy_with_logits(
            outputs.float(), targets["target"], reduction="none"
        )  # [texts, labels]
        # As large at the start as the loss of one class among as many, log(labels): a sum drowned the other tasks of a
        # mix, a mean let the set itself learn too slowly (LOG.md, 2026-11-23).
        scale = math.log2(max(len(self.labels), 2))
        return (losses.mean(-1) * scale * targets["weight"]).sum()

    def decode(self, windows: Sequence[tuple[Row, Array]], example: Example, spans: Array | None) -> Prediction:
        logits = vote(windows)
        probabilities = _sigmoid(logits)
        chosen = frozenset(label for label, p in zip(self.labels, probabilities, strict=True) if p > self._threshold)
        # The set is right only if every yes and every no is; the least certain of them bounds it.
        return Prediction(chosen, float(np.maximum(probabilities, 1 - probabilities).min(initial=1.0)))

    def support(
        self, windows: Sequence[tuple[Row, Array]], example: Example, spans: Array | None, prediction: Prediction
    ) -> Array:
        """The probability of each member of the set, in alphabetical order."""
        members: Any = prediction.label
        return _sigmoid(vote(windows))[[self._number[member] for member in sorted(members)]]

    def attach(self, rendered: dict[str, Any], prediction: Prediction, explanations: Sequence[dict[str, Any]]) -> None:
        rendered["explanations"] = dict(zip(rendered["labels"], explanations, strict=True))

    def score(self, gold: Sequence[frozenset[str]], predicted: Sequence[frozenset[str]]) -> dict[str, float]:
        found = metrics.sets_f1(gold, predicted)
        labels = metrics.per_label([self.items(label) for label in gold], [self.items(label) for label in predicted])
        return {
            "micro_f1": found.pop("f1"),
            **found,
            "macro_f1": sum(scores["f1"] for scores in labels.values()) / max(len(labels), 1),
            "subset_accuracy": sum(g == p for g, p in zip(gold, predicted, strict=True)) / len(gold),
        }

    def parts(self, gold: Sequence[frozenset[str]], predicted: Sequence[frozenset[str]]) -> NDArray[np.float64]:
        if self.metric == "subset_accuracy":
            return sums.equal(gold, predicted)
        if self.metric == "micro_f1":
            return sums.sets(gold, predicted)
        pairs = zip(gold, predicted, strict=True)
        return sums.by_class([(wanted & found, found, wanted) for wanted, found in pairs], self.columns)

    def combine(self, totals: NDArray[np.float64]) -> NDArray[np.float64]:
        return {"micro_f1": sums.f1, "macro_f1": sums.macro_f1, "subset_accuracy": sums.ratio}[self.metric](totals)

    def items(self, label: frozenset[str]) -> set[tuple[object, str]]:
        return {("text", member) for member in label}

    @property
    def form(self) -> Form:
        return "classes"

    def compare(self, one: frozenset[str], other: frozenset[str]) -> list[tuple[str, str]]:
        """Yes or no for a class is a unit."""
        answers = ("no", "yes")
        return [(answers[label in one], answers[label in other]) for label in sorted({*self.labels, *one, *other})]

    def instruction(self) -> str:
        return (
            f"Which of these hold for the text: {', '.join(self.labels)}? "
            f"Write them in this order, separated by commas, or {self._nothing}."
        )

    def target_text(self, label: frozenset[str], example: Example) -> str:
        return ", ".join(sorted(label)) or self._nothing

    def read_text(self, output: str, example: Example) -> tuple[frozenset[str], bool]:
        if squeeze(output.strip(_MARKS)) == squeeze(self._nothing):
            return frozenset(), True
        parts = output.split(",")
        members, start = set(), 0
        while start < len(parts):
            member, start = self._next_member(parts, start)
            members.add(member)
        return frozenset(members), UNREADABLE not in members

    def _next_member(self, parts: Sequence[str], start: int) -> tuple[str, int]:
        """The longest label at a place of an output, and the place behind it: labels may have commas, too."""
        for stop in range(min(len(parts), start + self._most_parts), start, -1):
            written = ",".join(parts[start:stop])
            for bare in (written.strip(), written.strip(_MARKS)):
                label = bare if bare in self._number else self._by_squeezed.get(squeeze(bare))
                if label is not None:
                    return label, stop
        return UNREADABLE, start + 1

    @cached_property
    def _most_parts(self) -> int:
        """Of how many parts between commas a label is at most."""
        return 1 + max((label.count(",") for label in self.labels), default=0)

    @cached_property
    def _nothing(self) -> str:
        """How an empty set is written."""
        return "none" if "none" not in self._by_squeezed else "no label"

    def next_pieces(self, written: tuple[str, ...], example: Example) -> tuple[str, ...]:
        if not written:
            return (*self.labels, self._nothing)
        last = written[-1].removeprefix(", ")
        later = self.labels[self._number[last] + 1 :] if last in self._number else ()
        return (*(f", {label}" for label in later), "")

    def render(self, prediction: Prediction, example: Example) -> dict[str, Any]:
        members: Any = prediction.label
        confidence = self.calibration.mean(float(prediction.confidence))  # type: ignore[arg-type]
        return {"labels": sorted(members - {UNREADABLE}), "confidence": round(confidence, 4)}


def _sigmoid(logits: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-np.clip(logits, -60, 60))))
