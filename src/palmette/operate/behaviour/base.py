"""What a behavioural check is: it makes cases for a task, and says of an answer whether it is as expected."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from palmette.errors import ConfigError
from palmette.kinds import AnyKind
from palmette.types import Example, Label, Prediction, Text

Expectation = Literal["invariance", "direction", "minimal"]
Given = Example | str  # a string: raw text, whose words the model finds itself


@dataclass(frozen=True, slots=True)
class Case:
    """One input, or an input and what became of it.

    Attributes:
        after: the input whose answer is judged.
        before: the input that it was made from; None for a minimal test.
        alignment: for each word of `after` the word of `before` that it stands for; None for one that was added.
            Empty where both have the same words in the same order.
        expected: the right answer, of a minimal test.
        note: what was done, in a few words.
    """

    after: Given
    before: Given | None = None
    alignment: tuple[int | None, ...] = ()
    expected: Label | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class Moved:
    """The words of a text after an edit, with the word of the original that each stands for."""

    words: tuple[str, ...]
    alignment: tuple[int | None, ...]
    note: str = ""

    def case(self, example: Example) -> Case:
        """The example with its (first) text edited, without labels."""
        before = replace(example, labels={}, text=Text(example.text.words))
        return Case(replace(before, text=Text(self.words)), before, self.alignment, note=self.note)


def _no_spans(_: Example) -> list[tuple[int, int, str]]:
    return []


@dataclass(frozen=True)
class Material:
    """What cases are made from.

    Attributes:
        examples: labelled for the task, in an order that their words alone determine.
        names: what the task's labels are called, by what they mean: {"positive": "1", "person": "PER"}.
        entities: entities in the data, by type, in the order of their words.
        spans: function of an example: its entities as (start, stop, type), from whichever task labels them.
    """

    examples: Sequence[Example]
    names: Mapping[str, str] = field(default_factory=dict)
    entities: Mapping[str, Sequence[tuple[str, ...]]] = field(default_factory=dict)
    spans: Callable[[Example], list[tuple[int, int, str]]] = _no_spans


class Check(ABC):
    """One capability, tested in one way.

    A subclass says `name`, `expectation` and `description`, and makes `cases`. `holds` follows from the expectation,
    except for a direction, which the subclass judges.
    """

    name: str
    expectation: Expectation
    description: str  # what is done and what is expected, in a sentence

    def applies(self, kind: AnyKind, material: Material) -> bool:
        """Whether the check says anything about this task. Unless overridden, it does where cases are found."""
        return True

    @abstractmethod
    def cases(self, kind: AnyKind, material: Material, rng: np.random.Generator) -> Iterator[Case]:
        """Cases for a task, as many as there are: who asks takes what it needs.

        Args:
            kind: the task.
            material: its examples, and what its labels mean.
            rng: of every choice.
        """

    def holds(self, kind: AnyKind, case: Case, before: Prediction | None, after: Prediction) -> bool | None:
        """Whether an answer is as expected; None where that cannot be said.

        Args:
            kind: the task.
            case: what was asked.
            before: the same model's answer to `case.before`, if the case has one.
            after: its answer to `case.after`.
        """
        if self.expectation == "minimal":
            wanted = case.expected
        elif self.expectation == "invariance" and before is not None:
            wanted = before.label
        else:
            raise ConfigError(f"check {self.name}: {type(self).__name__} has to say itself what `holds`")
        if wanted is None:
            return None
        return kind.agrees(wanted, after.label, case.alignment)


class Edit(Check):
    """An invariance check that edits words; the answer must stay."""

    expectation: Expectation = "invariance"

    @abstractmethod
    def edit(self, words: tuple[str, ...], rng: np.random.Generator) -> Moved | None:
        """The edited words, or None where this text cannot be edited so."""

    def cases(self, kind: AnyKind, material: Material, rng: np.random.Generator) -> Iterator[Case]:
        """One for each example that can be edited."""
        for example in material.examples:
            moved = self.edit(example.text.words, rng)
            if moved is not None:
                yield moved.case(example)


def replaced(words: Sequence[str], place: int, width: int, new: Sequence[str], note: str) -> Moved:
    """Words with `width` of them at `place` replaced: the first stands for the first, …, those beyond for the last."""
    alignment: list[int | None] = [*range(place)]
    alignment += [place + min(number, width - 1) if width else None for number in range(len(new))]
    alignment += range(place + width, len(words))
    return Moved((*words[:place], *new, *words[place + width :]), tuple(alignment), note)


def certainty(prediction: Prediction) -> float:
    """The confidence of an answer, of its least certain word where each has one."""
    given = prediction.confidence
    return min(given, default=1.0) if isinstance(given, tuple) else given
