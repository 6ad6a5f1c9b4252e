"""What is kept of an answered text: counts, lengths and a vector, never the text."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from palmette.kinds import AnyKind
from palmette.text import Encoded
from palmette.types import Label, Prediction

Floats = NDArray[np.float64]
NOTHING = "(none)"  # stands for an answer without any label


@dataclass(frozen=True, slots=True)
class Look:
    """One text, as it was answered for one task.

    Attributes:
        marks: {label: how often it was answered}.
        claims: the confidences of what the answer says, one for each part that is right or wrong by itself.
        confidence: mean of the answer's confidences; None where the kind has none.
        words: of the text, or both.
        subwords: a word.
        unknown: share of subwords that the vocabulary does not have.
        embedding: mean vector of the trunk, [width].
    """

    marks: Mapping[str, int]
    claims: tuple[float, ...]
    confidence: float | None
    words: int
    subwords: float
    unknown: float
    embedding: NDArray[Any]


def look(
    kind: AnyKind, prediction: Prediction, encoded: Encoded, embedding: NDArray[Any], *, words: int, unknown: int | None
) -> Look:
    """Look at an answer.

    Args:
        kind: of the task.
        prediction: its answer.
        encoded: the text, as the trunk read it.
        embedding: its mean vector.
        words: of the text, or both.
        unknown: vocabulary id of the unknown token, if there is one.
    """
    found = prediction.confidence
    values = (found,) if isinstance(found, float) else found
    confidence = fmean(values) if values and not math.isnan(values[0]) else None
    ids = np.concatenate([row.ids for row in encoded.rows])
    return Look(
        marks(kind, prediction.label),
        tuple(value for _, value in claims(kind, prediction)),
        confidence,
        words,
        len(ids) / max(1, words),
        float((ids == unknown).mean()) if unknown is not None and len(ids) else 0.0,
        np.asarray(embedding, dtype=np.float32),
    )


def marks(kind: AnyKind, label: Label) -> dict[str, int]:
    """How often an answer has each label; empty for a kind without labels."""
    if not kind.labels:
        return {}
    return dict(Counter(name for _, name in kind.items(label))) or {NOTHING: 1}


def claims(kind: AnyKind, prediction: Prediction) -> list[tuple[object, float]]:
    """The parts of an answer that are right or wrong by themselves, each with its confidence.

    Tags one by one; a span as a whole, as sure as its least certain tag; any other answer as a whole (None).
    """
    found = prediction.confidence
    if isinstance(found, float):
        return [] if math.isnan(found) else [(None, found)]
    parts: list[tuple[object, float]] = []
    for item in sorted(kind.items(prediction.label), key=repr):
        place: Any = item[0]
        if isinstance(place, int):
            parts.append((item, found[place]))
        else:
            start, stop = place
            parts.append((item, min(found[start:stop])))
    return parts


def right(kind: AnyKind, gold: Label, prediction: Prediction) -> list[float]:
    """Of each claim, whether it is right: 1 or 0; of a whole answer its own score, in [0, 1]."""
    items = kind.items(gold)
    scores: Sequence[float] = [
        float(item in items) if item is not None else _whole(kind, gold, prediction)
        for item, _ in claims(kind, prediction)
    ]
    return list(scores)


def _whole(kind: AnyKind, gold: Label, prediction: Prediction) -> float:
    if kind.labels:
        return float(gold == prediction.label)
    return float(kind.score([gold], [prediction.label])[kind.metric])
