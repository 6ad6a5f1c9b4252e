"""One task's examples of one split, with what the model and a trunk say of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from palmette.kinds import AnyKind
from palmette.types import Example, Prediction, Text

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Sheet:
    """One task in one split.

    Attributes:
        kind: the task.
        split: its name.
        examples: labelled for the task.
        answers: the model's, one an example.
        probabilities: [units, labels] the model's; no row for a kind without units.
        gold: [units] label numbers, -1 for a label that training lacks.
        owner: [units] the example that each belongs to, ascending.
        vectors: [units, width] of the trunk before training; no column where there is none.
        trained: [units, width] of the model's own trunk; no column for a bundle.
        texts: [examples, width] of the trunk before training.
    """

    kind: AnyKind
    split: str
    examples: Sequence[Example]
    answers: Sequence[Prediction]
    probabilities: Floats
    gold: NDArray[np.int64]
    owner: NDArray[np.int64]
    vectors: Floats
    trained: Floats
    texts: Floats

    def __len__(self) -> int:
        return len(self.examples)

    @cached_property
    def labels(self) -> list[Any]:
        """The gold labels."""
        return [example.labels[self.kind.task] for example in self.examples]

    @cached_property
    def parts(self) -> Floats:
        """What each example adds to the task's metric: [examples, parts]."""
        return self.kind.parts(self.labels, [answer.label for answer in self.answers])

    @cached_property
    def errors(self) -> Floats:
        """How wrong each answer is, 0 to 1: [examples]."""
        if len(self.gold):
            wrong = np.array(
                [
                    unit != found
                    for label, answer in zip(self.labels, self.answers, strict=True)
                    for unit, found in zip(self.kind.units(label), self.kind.units(answer.label), strict=True)
                ],
                dtype=np.float64,
            )
            count = np.maximum(np.bincount(self.owner, minlength=len(self)), 1)
            return np.asarray(np.bincount(self.owner, weights=wrong, minlength=len(self)) / count)
        return np.asarray(1 - np.clip(self.kind.combine(self.parts), 0, 1), dtype=np.float64)

    @property
    def has_units(self) -> bool:
        """Whether it has units with vectors, for quick heads."""
        return len(self.gold) > 0 and self.vectors.shape[1] > 0

    def take(self, numbers: Sequence[int] | NDArray[Any]) -> Sheet:
        """Some of its examples, in this order."""
        chosen = np.asarray(numbers, dtype=np.int64)
        bounds = np.searchsorted(self.owner, np.arange(len(self) + 1))
        units = (
            np.concatenate([np.arange(bounds[n], bounds[n + 1]) for n in chosen]) if len(chosen) else np.zeros(0, int)
        )
        units = units.astype(np.int64)
        sizes = bounds[chosen + 1] - bounds[chosen]
        return replace(
            self,
            examples=[self.examples[n] for n in chosen],
            answers=[self.answers[n] for n in chosen],
            probabilities=self.probabilities[units],
            gold=self.gold[units],
            owner=np.repeat(np.arange(len(chosen)), sizes),
            vectors=self.vectors[units],
            trained=self.trained[units],
            texts=self.texts[chosen],
        )


def rewritten(example: Example, change: Callable[[Sequence[str]], tuple[str, ...]]) -> Example:
    """An example with other words, in both texts of a pair."""
    pair = None if example.pair is None else Text(words=change(example.pair.words))
    return replace(example, text=Text(words=change(example.text.words)), pair=pair)


def shown(example: Example, most: int = 90) -> str:
    """An example in a line: where it stands, and its text."""
    text = example.text.string.replace("\n", " ")
    if example.pair is not None:
        text += " | " + example.pair.string.replace("\n", " ")
    cut = text if len(text) <= most else text[: most - 1] + "…"
    return f"{example.origin}: {cut}" if example.origin is not None else cut
