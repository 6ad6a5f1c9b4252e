"""What is kept of an answered text: counts, lengths and a vector, never the text."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from palmette.kinds import AnyKind
from palmette.text import TextEncoder
from palmette.types import Example, Label, Prediction

Floats = NDArray[np.float64]
NOTHING = "(none)"  # stands for an answer without any label


@dataclass(frozen=True, slots=True)
class Look:
    """One text, as it was answered for one task.

    Attributes:
        marks: {label: how often it was answered}.
        claims: the calibrated confidence of each of the answer's claims (`Kind.claims`).
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
    kind: AnyKind,
    prediction: Prediction,
    subwords: NDArray[Any],
    embedding: NDArray[Any],
    *,
    words: int,
    unknown: int | None,
) -> Look:
    """Look at an answer.

    Args:
        kind: of the task.
        prediction: its answer.
        subwords: [subwords] vocabulary ids of the text, or both, as `own_subwords` gives them.
        embedding: the text's mean vector.
        words: of the text, or both; at least 1.
        unknown: vocabulary id of the unknown token, if there is one.
    """
    found = prediction.confidence
    values = [value for value in ((found,) if isinstance(found, float) else found) if not math.isnan(value)]
    return Look(
        marks(kind, prediction.label),
        tuple(claim.confidence for claim in kind.claims(prediction)),
        fmean(values) if values else None,
        words,
        len(subwords) / words,
        float((subwords == unknown).mean()) if unknown is not None and len(subwords) else 0.0,
        np.asarray(embedding, dtype=np.float32),
    )


def own_subwords(encoder: TextEncoder, example: Example) -> NDArray[np.int64]:
    """Vocabulary ids of an example's texts: each subword once, without special tokens.

    Rows would not do: they have special tokens, which weigh more in short texts, and windows overlap.
    """
    texts = [example.text] if example.pair is None else [example.text, example.pair]
    return np.array([n for found in encoder.subwords(texts, offsets=False) for n in found.ids], dtype=np.int64)


def count_words(example: Example) -> int:
    """Words of an example's text, or both."""
    return len(example.text.words) + (len(example.pair.words) if example.pair is not None else 0)


def marks(kind: AnyKind, label: Label) -> dict[str, int]:
    """How often an answer has each label; empty for a kind without labels."""
    if not kind.labels:
        return {}
    return dict(Counter(name for _, name in kind.items(label))) or {NOTHING: 1}
