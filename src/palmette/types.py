"""The records that flow from readers to predictions. Plain data: no torch, no behaviour beyond access."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

Split = str  # "train", "dev" or "test"
SPLITS: tuple[Split, ...] = ("train", "dev", "test")


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a record stands: the file as the user named it, and its first line (or row), from 1."""

    path: str
    line: int

    def __str__(self) -> str:
        return f"{self.path}:{self.line}"


@dataclass(frozen=True, slots=True)
class Answer:
    """A stretch of a passage that answers a question: `start` is a character offset into the passage."""

    start: int
    text: str


# What a task may predict, by kind:
#   sequence_labeling            one tag a word            tuple[str, ...]
#   text/pair_classification     one class                 str
#   multilabel_classification    a set of classes          frozenset[str]
#   regression                   a number                  float
#   extractive_qa                the reference answers     tuple[Answer, ...]  (empty: unanswerable)
#   generation                   the reference texts       tuple[str, ...]
Label = str | float | tuple[str, ...] | frozenset[str] | tuple[Answer, ...]


@dataclass(frozen=True, slots=True)
class Record:
    """What a reader yields: texts as the file has them (a string, or words) and labels not yet checked.

    A label is a string, a number, a tuple of strings (one a word, or a set's members) or a tuple of
    `Answer`. A task that the record is not annotated for is absent from `labels`.
    """

    text: str | tuple[str, ...]
    labels: Mapping[str, str | float | tuple[str, ...] | tuple[Answer, ...]]
    origin: Origin
    pair: str | tuple[str, ...] | None = None
    meta: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Text:
    """A text as words. `raw` and `offsets` (of each word in `raw`) are there when words were found in a string."""

    words: tuple[str, ...]
    raw: str | None = None
    offsets: tuple[tuple[int, int], ...] | None = None

    @cached_property
    def spans(self) -> tuple[tuple[int, int], ...]:
        """Character offsets of each word in `string`: [start, end)."""
        if self.offsets is not None:
            return self.offsets
        spans, start = [], 0
        for word in self.words:
            spans.append((start, start + len(word)))
            start += len(word) + 1
        return tuple(spans)

    @property
    def string(self) -> str:
        """The string that offsets refer to: as typed, or the words joined by single spaces."""
        return self.raw if self.raw is not None else " ".join(self.words)


@dataclass(frozen=True, slots=True)
class Example:
    """One text (or a pair; or question + passage) with checked labels for any subset of the tasks."""

    text: Text
    labels: Mapping[str, Label]
    pair: Text | None = None
    meta: Mapping[str, str] = field(default_factory=dict)
    sources: tuple[str, ...] = ()
    origin: Origin | None = None

    @property
    def key(self) -> tuple[tuple[str, ...], ...]:
        """What makes two examples the same input: their word sequences."""
        return (self.text.words,) if self.pair is None else (self.text.words, self.pair.words)


@dataclass(frozen=True, slots=True)
class Prediction:
    """A task's answer for one example.

    Attributes:
        label: in the same form as a gold label of the kind (a QA answer is a tuple of at most one `Answer`).
        confidence: probability of the answer in [0, 1]; one a word for sequence labelling.
            NaN where the kind has none (regression).
        readable: of models that write text, whether all of what they wrote could be read as an answer.
        truncated: of models with heads, whether a part of the input was not read, since it did not fit: of an endless
            word, or of the first text of a pair.
    """

    label: Label
    confidence: float | tuple[float, ...]
    readable: bool | None = None
    truncated: bool = False


@dataclass(frozen=True, slots=True)
class Claim:
    """A part of an answer that is right or wrong by itself: a tag, a span, the class.

    Attributes:
        item: what is claimed, in a form that `Kind.holds` compares with a gold label.
        confidence: probability that it holds, in [0, 1]; calibrated if the model is.
    """

    item: object
    confidence: float
