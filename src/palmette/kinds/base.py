"""What a task kind is. One file a kind holds its labels, head, loss, decoding and metrics.

A kind is made and used without torch; only `head` and `loss` import it, so that serving needs none.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from palmette import sums
from palmette.confidence import Calibration, Decision
from palmette.config import TaskConfig
from palmette.errors import ConfigError, RunError
from palmette.text import Encoded, Row
from palmette.types import Answer, Claim, Example, Label, Prediction

if TYPE_CHECKING:
    from torch import Tensor, nn

Array = NDArray[Any]

# Stands for what a model wrote and nobody can read: a label that no data has, so that it is never right by luck.
UNREADABLE = "\ufffd"
# How people write a label: a tag a word, spans of words, a class, a set of classes, a number, a stretch of the passage,
# a text, or JSON.
Form = Literal["tags", "spans", "class", "classes", "number", "answer", "text", "json"]
RawLabel = str | float | tuple[str, ...] | tuple[Answer, ...]
L = TypeVar("L", bound=Label)


class LabelError(ValueError):
    """A label that the kind cannot take. The caller adds file and line."""


class Kind(ABC, Generic[L]):
    """How one task is predicted.

    Args:
        task: the task's name.
        config: what the user declared.
        state: what `fit` learned from the training labels; plain JSON, stored with the model.

    A subclass says `inputs` and `metrics` and implements the abstract methods. It is known by its name in
    `palmette.kinds.KINDS`, or by an entry point of group `palmette.kinds` in another package.
    """

    inputs: ClassVar[Literal["text", "pair", "any"]]
    metrics: ClassVar[tuple[str, ...]]  # the first is the default
    has_head: ClassVar[bool] = True  # False: only models that write text can answer it
    settings: ClassVar[frozenset[str]] = frozenset()  # which of `scheme` and `options` it reads; others are refused

    def __init__(self, task: str, config: TaskConfig, state: Mapping[str, Any]) -> None:
        self.task = task
        self.config = config
        self.state = dict(state)

    @classmethod
    def check(cls, config: TaskConfig) -> None:
        """Refuse a declaration that this kind cannot follow.

        Raises:
            ConfigError: `key: what is wrong with it`; the caller adds where the task is declared.
        """
        for setting in ("scheme", "options"):
            if getattr(config, setting) and setting not in cls.settings:
                raise ConfigError(f"{setting}: {config.kind} has no such setting")
        if config.metric is not None and config.metric not in cls.metrics:
            raise ConfigError(f"metric: {config.metric!r} is not one of {', '.join(cls.metrics)}")

    @property
    def metric(self) -> str:
        """The metric that stands for the task."""
        return self.config.metric or self.metrics[0]

    @classmethod
    @abstractmethod
    def parse(cls, raw: RawLabel, config: TaskConfig, example: Example) -> L:
        """Check a label as it stands in a file and bring it to the kind's own form.

        Raises:
            LabelError: the label does not fit the kind or the example.
        """

    @classmethod
    def repairs(cls, raw: RawLabel, config: TaskConfig) -> int:
        """How many places of a raw label `parse` has to repair (invalid span tags)."""
        return 0

    @classmethod
    @abstractmethod
    def fit(cls, labels: Sequence[L]) -> dict[str, Any]:
        """The state that the training labels determine: the label set, a scale."""

    def takes(self, example: Example) -> bool:
        """Whether the task was trained on inputs like this one: a text, or a pair."""
        paired = self.state.get("paired")
        return paired is None or paired == (example.pair is not None)

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """The labels it can predict; empty where it predicts something else."""
        return tuple(self.state.get("labels", ()))

    @cached_property
    def _by_squeezed(self) -> dict[str, str]:
        """{what is left of a label however a model writes it: the label}."""
        return {squeeze(label): label for label in self.labels}

    @property
    def columns(self) -> tuple[str, ...]:
        """Of `parts` by class: the labels, and what stands for a written answer that nobody could read.

        Two models can be compared although one of them writes, and only one of them unreadably.
        """
        return (*self.labels, UNREADABLE)

    @property
    def outputs(self) -> int | None:
        """How many numbers its head says of each unit, which a bundle's graph is checked against; None: any."""
        return None

    @cached_property
    def calibration(self) -> Calibration:
        """What its confidences are corrected by; nothing unless the model was calibrated (`palmette export`)."""
        return Calibration.of(self.state.get("calibration"))

    def unseen(self, label: L) -> set[str]:
        """Labels in `label` that training did not have: they can only be scored as errors."""
        return set()

    def index(self, row: Row, number: int, width: int) -> Array:
        """Which hidden vectors the head reads for this row: [units] int64.

        Row numbers for a kind that answers once a row; positions in the flattened [rows x tokens] for one that
        answers once a word.

        Args:
            row: the row.
            number: its place in the batch.
            width: tokens of the padded batch.
        """
        return np.array([number], dtype=np.int64)

    @abstractmethod
    def targets(self, label: L, row: Row, spans: Array | None) -> dict[str, Array]:
        """What the loss compares with, each of first dimension [units]; `weight` says what each unit counts.

        Weights of an example's rows sum to its labelled units: windows of one text share them.

        Args:
            label: the example's label, whose `unseen` is empty.
            row: one of its rows.
            spans: [subwords, 2] character offsets of the second text, for a kind that points into it.
        """

    def out_of_reach(self, label: L, encoded: Encoded) -> bool:
        """Whether no row of the example shows what the label says, so that training on it teaches something else."""
        return False

    @abstractmethod
    def head(self, width: int, dropout: float) -> nn.Module:
        """The layers on the trunk: forward(hidden, parts, index) -> [units, ...] (see `palmette.heads`)."""

    @abstractmethod
    def loss(self, outputs: Tensor, targets: Mapping[str, Tensor]) -> Tensor:
        """Weighted sum of the units' losses: a scalar."""

    @abstractmethod
    def decode(self, windows: Sequence[tuple[Row, Array]], example: Example, spans: Array | None) -> Prediction:
        """One answer from the head's outputs for all rows of an example, in window order."""

    def support(
        self, windows: Sequence[tuple[Row, Array]], example: Example, spans: Array | None, prediction: Prediction
    ) -> Array:
        """How probable these outputs make a given prediction, which need not be the one that they decode to.

        Returns:
            [claims]: a number for each part of the prediction that can be explained by itself, mostly one. For the
            prediction that `decode` finds in the same outputs it is its confidence; a kind without probabilities
            gives its value.

        Raises:
            RunError: the kind does not say.
        """
        raise RunError(
            f"task {self.task!r}: answers of kind {self.config.kind} cannot be explained, {type(self).__name__} has no "
            "`support`; choose other tasks"
        )

    @property
    def explained(self) -> bool:
        """Whether its answers can be explained: whether the kind says how probable an answer is."""
        return type(self).support is not Kind.support

    @property
    def claims_words(self) -> bool:
        """Whether the claims of `support` are the words: each is then explained only when it is asked for."""
        return False

    def attach(self, rendered: dict[str, Any], prediction: Prediction, explanations: Sequence[dict[str, Any]]) -> None:
        """Put the explanation of each claim where it belongs in what `render` gave."""
        (rendered["explanation"],) = explanations

    @abstractmethod
    def score(self, gold: Sequence[L], predicted: Sequence[L]) -> dict[str, float]:
        """Every metric of the kind, by name."""

    def parts(self, gold: Sequence[L], predicted: Sequence[L]) -> NDArray[np.float64]:
        """What each example adds to `metric`: [examples, parts], for `combine`.

        Models can be compared on parts of the same kind object, or of one with the same labels: labels may be columns.
        Unless overridden, an example's own score, of which the metric must then be the mean.

        Raises:
            ConfigError: the metric is no mean over examples; the kind must implement `parts` and `combine`.
        """
        found = [self.score([wanted], [answer])[self.metric] for wanted, answer in zip(gold, predicted, strict=True)]
        if found and not abs(self.score(gold, predicted)[self.metric] - float(np.mean(found))) <= 1e-9:
            raise ConfigError(
                f"tasks.{self.task}.metric: {self.metric} of {self.config.kind} is not the mean of its examples' "
                f"scores: implement `parts` and `combine` in {type(self).__name__}, or choose another metric"
            )
        return sums.means(found)

    def combine(self, totals: NDArray[np.float64]) -> NDArray[np.float64]:
        """Sums of `parts` over any examples [..., parts] -> `metric` on them [...].

        Over all examples at once it is `score(...)[metric]`, up to rounding.
        """
        return sums.ratio(totals)

    def items(self, label: L) -> set[tuple[object, str]]:
        """(place, label) pairs for scores per label; empty where the kind has no labels."""
        return set()

    def claims(self, prediction: Prediction) -> list[Claim]:
        """The parts of an answer that are right or wrong by themselves, each with its calibrated confidence.

        Unless overridden the whole answer is one, if it has one confidence; answers without any claim nothing.
        """
        confidence = prediction.confidence
        if not isinstance(confidence, float) or np.isnan(confidence):
            return []
        return [Claim(prediction.label, self.calibration.mean(confidence))]

    def holds(self, item: object, gold: L) -> bool:
        """Whether what a claim of `claims` says is right."""
        return item == gold

    def attach_decisions(self, rendered: dict[str, Any], decisions: Sequence[Decision]) -> None:
        """Put the decision on each claim where it belongs in what `render` gave, if there may be several."""

    def units(self, label: L) -> tuple[str, ...]:
        """The class of each unit that is decided by itself: of the text, of each word; () without such units."""
        return ()

    def probabilities(self, windows: Sequence[tuple[Row, Array]]) -> NDArray[np.float64] | None:
        """Of each of `labels` for each of the `units`: [units, labels]; None for a kind without units."""
        return None

    def difference(self, first: L, second: L) -> float:
        """How much two models' answers to one text differ: 0 (not at all) to 1 (nothing in common).

        Unless overridden, one minus the share of items in common (Dice 1945, Ecology): of tags the share of words that
        differ, of spans one minus F1; without items, 0 if the labels are equal and 1 if not.
        """
        one, two = self.items(first), self.items(second)
        if not one and not two:
            return float(first != second)
        return 1 - 2 * len(one & two) / (len(one) + len(two))

    def agrees(self, before: L, after: L, alignment: Sequence[int | None]) -> bool | None:
        """Whether an answer to an edited text says the same as the answer to the original (behavioural checks).

        Args:
            before: the label of the original.
            after: that of the edited text.
            alignment: for each word of the edited text the word of the original that it stands for, or None where it
                was added. Words of the original that none stands for were taken away. Empty: both have the same
                words, or should have.

        Returns:
            None where the kind cannot say; unless overridden, that is where a label is a tuple, which may be of places.
        """
        return None if isinstance(before, tuple) else before == after

    @abstractmethod
    def render(self, prediction: Prediction, example: Example) -> dict[str, Any]:
        """The prediction as JSON, offsets in characters of the text."""

    # --- For people who check answers (palmette.operate.review) ---

    @property
    def form(self) -> Form:
        """How people write its labels. As JSON unless the kind says better."""
        return "json"

    def compare(self, one: L, other: L) -> list[tuple[str, str]]:
        """Two labels of an example beside each other, unit by unit: for agreement, and for the size of a correction.

        Returns:
            [units]. The whole label is one unless overridden.
        """
        return [(repr(one), repr(other))]

    # --- As text, for models that read and write it (families text2text and causal_lm) ---

    @classmethod
    def has_text(cls) -> bool:
        """Whether the kind can be put as text."""
        return cls.target_text is not Kind.target_text

    def instruction(self) -> str:
        """What a language model is asked to do, in a sentence or two."""
        raise self._no_text()

    def source_text(self, example: Example) -> str:
        """The input as a model reads it."""
        if example.pair is None:
            return example.text.string
        return f"First: {example.text.string}\nSecond: {example.pair.string}"

    def target_text(self, label: L, example: Example) -> str:
        """A label as a model is to write it; `read_text` gives the label back.

        Raises:
            ConfigError: the kind cannot be put as text.
        """
        raise self._no_text()

    def read_text(self, output: str, example: Example) -> tuple[L, bool]:
        """The label that an output means, and whether all of it could be read.

        Letters' case and the spaces that some tokenizers put around punctuation are overlooked. What cannot be read
        becomes a label that no gold label equals.
        """
        raise self._no_text()

    def next_pieces(self, written: tuple[str, ...], example: Example) -> tuple[str, ...] | None:
        """How a valid output may go on, for constrained decoding.

        Args:
            written: the pieces chosen so far; joined as they are, they make the output.
            example: what is answered.

        Returns:
            The pieces that may follow, the empty one where the output may end; None where anything may be written.
        """
        return None

    def _no_text(self) -> ConfigError:
        return ConfigError(f"tasks.{self.task}.kind: {self.config.kind} cannot be put as text; use family: heads")


def squeeze(text: str) -> str:
    """A text without case and white space: what survives a lower-casing tokenizer that splits at punctuation."""
    return "".join(text.casefold().split())


def spaced(text: str) -> str:
    """A pattern of a text with white space anywhere between its characters."""
    return r"\s*".join(map(re.escape, text.replace(" ", "")))


def share(row: Row) -> NDArray[np.float32]:
    """What one of an example's windows counts for a kind that answers once an example: [1]."""
    return np.array([1.0 / row.windows], dtype=np.float32)


def expect_string(raw: RawLabel) -> str:
    """A label that is one string."""
    if not isinstance(raw, str):
        raise LabelError(f"expected one label, found {_describe(raw)}")
    return raw


def expect_strings(raw: RawLabel) -> tuple[str, ...]:
    """A label that is several strings."""
    if isinstance(raw, tuple) and all(isinstance(item, str) for item in raw):
        return tuple(str(item) for item in raw)
    raise LabelError(f"expected a list of labels, found {_describe(raw)}")


def _describe(raw: RawLabel) -> str:
    return repr(raw)[:60]


def label_set(labels: Sequence[str] | set[str]) -> dict[str, Any]:
    """The state of a kind with a closed label set, in an order that no data order changes."""
    return {"labels": sorted(set(labels))}


def softmax(logits: Array) -> NDArray[np.float64]:
    """Over the last axis, in double precision."""
    raised = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    return np.asarray(raised / raised.sum(axis=-1, keepdims=True))


def vote(windows: Sequence[tuple[Row, Array]]) -> NDArray[np.float64]:
    """The mean output of all windows of a text: [labels]."""
    if len(windows) == 1:
        return np.asarray(windows[0][1][0], dtype=np.float64)
    return np.asarray(np.concatenate([outputs for _, outputs in windows]).mean(axis=0), dtype=np.float64)
