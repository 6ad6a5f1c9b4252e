"""Checks that a user writes in YAML: own cases with the right answer, own edits with what is expected of them."""

from __future__ import annotations

import string
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml
from pydantic import Field, ValidationError, model_validator

from palmette.config import LabelField, Settings
from palmette.data.readers.labels import label_of
from palmette.errors import ConfigError, ReadError
from palmette.kinds import AnyKind
from palmette.kinds.base import LabelError
from palmette.operate.behaviour.base import Case, Check, Expectation, Given, Material, Moved, certainty, replaced
from palmette.types import Answer, Example, Label, Origin, Prediction, Text

_MOST_FILLED = 10_000  # sentences of one template


class OwnCase(Settings):
    """A text and its right answer."""

    text: str | list[str] = Field(description="Raw text, or words; raw text is cut at spaces if the label is tags.")
    text_pair: str | None = Field(None, description="The second text.")
    label: Any = Field(description="The right answer, as JSON lines have it.")


class OwnCheck(Settings):
    """One check: cases, a template, or an edit of the data's texts."""

    name: str = Field(min_length=1, description="Names it in the report.")
    description: str = Field("", description="What is expected, in a sentence.")
    tasks: list[str] | None = Field(None, description="Default: every task that it says anything about.")
    cases: list[OwnCase] = Field(default_factory=list, description="Texts and their right answers.")
    template: str | None = Field(None, description="A text with {places} to fill; words stand apart.")
    fill: dict[str, list[str]] = Field(default_factory=dict, description="What each place is filled with, in turn.")
    label: Any = Field(None, description="Of a template: the right answer. Of an edit: texts with this label only.")
    spans: dict[str, str] = Field(default_factory=dict, description="Of a template: places that are spans, by type.")
    replace: dict[str, list[str]] = Field(default_factory=dict, description="Words, and what they are replaced by.")
    prepend: str | None = Field(None, description="Put in front.")
    append: str | None = Field(None, description="Put at the end.")
    expect: Literal["same", "less", "more"] = Field(
        "same",
        description="Of an edit: the answer stays; it changes or is less sure; it stays and is not less sure.",
    )

    @model_validator(mode="after")
    def _one_form(self) -> OwnCheck:
        edits = bool(self.replace or self.prepend or self.append)
        if [bool(self.cases), self.template is not None, edits].count(True) != 1:
            raise ValueError("give one of cases, template, or an edit (replace, prepend, append)")
        if self.template is None:
            if self.fill or self.spans:
                raise ValueError("fill and spans go with template")
            return self
        if (self.label is None) == (not self.spans):
            raise ValueError("a template needs one of label and spans")
        places = {field for _, field, _, _ in string.Formatter().parse(self.template) if field is not None}
        if places != self.fill.keys() or not self.spans.keys() <= places:
            raise ValueError(f"the template's places are {sorted(places)}; fill and spans must name these")
        if np.prod([len(words) for words in self.fill.values()]) > _MOST_FILLED:
            raise ValueError(f"the template makes more than {_MOST_FILLED:,} sentences")
        return self


class OwnChecks(Settings):
    """A file of checks."""

    names: dict[str, dict[str, str]] = Field(
        default_factory=dict,
        description="What tasks call what the built-in checks ask for: {sentiment: {positive: '1', negative: '0'}}; "
        "also person and place.",
    )
    leave_out: list[str] = Field(default_factory=list, description="Checks that are not wanted.")
    checks: list[OwnCheck] = Field(default_factory=list)


def read_own(path: Path) -> tuple[OwnChecks, list[Check]]:
    """Read a file of checks.

    Raises:
        ConfigError: it cannot be read, or something in it is no check.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        read = OwnChecks.model_validate(content)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not YAML: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "checks"
        raise ConfigError(f"{path}: {place}: {first['msg'].removeprefix('Value error, ')}") from error
    return read, [_made(found, path) for found in read.checks]


def _made(found: OwnCheck, path: Path) -> Check:
    return _OwnEdits(found) if found.replace or found.prepend or found.append else _OwnCases(found, path)


class _OwnCases(Check):
    """Texts with their right answers, written out or made from a template."""

    expectation: Expectation = "minimal"

    def __init__(self, own: OwnCheck, path: Path) -> None:
        self.own = own
        self.path = path
        self.name = own.name
        self.description = own.description or "own texts get the right answers"

    def applies(self, kind: AnyKind, material: Material) -> bool:
        """To the tasks it names; a template with spans to spans of these types."""
        if self.own.tasks is not None:
            return kind.task in self.own.tasks
        if self.own.spans:
            return {f"B-{label}" for label in self.own.spans.values()} <= set(kind.labels)
        return all(self._fits(case, kind) for case in self._written())

    def cases(self, kind: AnyKind, material: Material, rng: np.random.Generator) -> Iterator[Case]:
        """As they are written."""
        if self.own.spans:
            yield from self._spans(self.own.template or "")
            return
        for number, case in enumerate(self._written(), 1):
            try:
                given, label = self._parsed(case, kind)
            except (LabelError, ReadError) as error:
                raise ConfigError(
                    f"{self.path}: check {self.name}, case {number}: task {kind.task}: {error}"
                ) from error
            yield Case(given, expected=label, note=f"expected {case.label}")

    def _written(self) -> Iterator[OwnCase]:
        yield from self.own.cases
        if self.own.template is not None:
            for words in product(*self.own.fill.values()):
                filled = self.own.template.format(**dict(zip(self.own.fill, words, strict=True)))
                yield OwnCase(text=filled, text_pair=None, label=self.own.label)

    def _fits(self, case: OwnCase, kind: AnyKind) -> bool:
        try:
            _, label = self._parsed(case, kind)
        except (LabelError, ReadError):
            return False
        return not kind.unseen(label)

    def _parsed(self, case: OwnCase, kind: AnyKind) -> tuple[Given, Label]:
        raw = label_of(case.label, LabelField(column="label"), Origin(str(self.path), 1), passage=case.text_pair)
        if raw is None:
            raise LabelError("the label is empty")
        if (kind.inputs == "pair") != (case.text_pair is not None) and kind.inputs != "any":
            raise LabelError(f"{kind.config.kind} takes {'two texts' if kind.inputs == 'pair' else 'one text'}")
        words = case.text.split() if isinstance(case.text, str) else case.text
        pair = None if case.text_pair is None else _text_of(case.text_pair)
        example = Example(Text(tuple(words)), {}, pair=pair)
        label: Label = kind.parse(raw, kind.config, example)
        raw_text = isinstance(case.text, str) and case.text_pair is None and not _one_a_word(raw)
        return (str(case.text) if raw_text else example), label

    def _spans(self, template: str) -> Iterator[Case]:
        """The template's sentences with the tags of its spans."""
        for filling in product(*self.own.fill.values()):
            values = dict(zip(self.own.fill, filling, strict=True))
            words: list[str] = []
            tags: list[str] = []
            for piece in template.split():
                field = next((f for _, f, _, _ in string.Formatter().parse(piece) if f is not None), None)
                new = piece.format(**values).split()
                label = self.own.spans.get(field or "")
                words += new
                tags += ["O"] * len(new) if label is None else [f"B-{label}", *[f"I-{label}"] * (len(new) - 1)]
            yield Case(Example(Text(tuple(words)), {}), expected=tuple(tags), note=", ".join(filling))


class _OwnEdits(Check):
    """An edit of the data's texts and what is expected of the answers."""

    def __init__(self, own: OwnCheck) -> None:
        self.own = own
        self.name = own.name
        self.expectation: Expectation = "invariance" if own.expect == "same" else "direction"
        wanted = {"same": "stay", "less": "change or be less sure", "more": "stay and be no less sure"}[own.expect]
        self.description = own.description or f"own edit; the answer must {wanted}"

    def applies(self, kind: AnyKind, material: Material) -> bool:
        """To the tasks it names, or to all."""
        return self.own.tasks is None or kind.task in self.own.tasks

    def cases(self, kind: AnyKind, material: Material, rng: np.random.Generator) -> Iterator[Case]:
        """One for each example that has the word, or for every one."""
        for example in material.examples:
            moved = self._edit(example.text.words, rng)
            if moved is None or (self.own.label is not None and example.labels.get(kind.task) != str(self.own.label)):
                continue
            case = moved.case(example)
            yield case if self.own.label is None else replace(case, expected=str(self.own.label))

    def holds(self, kind: AnyKind, case: Case, before: Prediction | None, after: Prediction) -> bool | None:
        """As `expect` says; None where the original did not get the label that the check is about."""
        if before is None or (case.expected is not None and before.label != case.expected):
            return None
        same = kind.agrees(before.label, after.label, case.alignment)
        if same is None or self.own.expect == "same":
            return same
        if self.own.expect == "less":
            return not same or certainty(after) < certainty(before)
        return same and certainty(after) >= certainty(before)

    def _edit(self, words: tuple[str, ...], rng: np.random.Generator) -> Moved | None:
        own = self.own
        if own.replace:
            places = [n for n, word in enumerate(words) if word in own.replace]
            if not places:
                return None
            place = int(rng.choice(places))
            choices = own.replace[words[place]]
            new = choices[int(rng.integers(len(choices)))]
            return replaced(words, place, 1, new.split(), f"{words[place]} -> {new}")
        place, added = (0, own.prepend) if own.prepend is not None else (len(words), own.append or "")
        return replaced(words, place, 0, added.split(), f"+ {added}")


def _text_of(text: str) -> Text:
    """Words at spaces, with their places in the text."""
    offsets, start = [], 0
    words = text.split()
    for word in words:
        start = text.index(word, start)
        offsets.append((start, start + len(word)))
        start += len(word)
    return Text(tuple(words), text, tuple(offsets))


def _one_a_word(raw: object) -> bool:
    return isinstance(raw, tuple) and not any(isinstance(part, Answer) for part in raw)


def names_of(
    own: OwnChecks, kinds: Mapping[str, AnyKind], known: Mapping[str, Sequence[str]]
) -> dict[str, dict[str, str]]:
    """What each task calls a meaning: as the file says, else a label that is called so.

    Raises:
        ConfigError: the file names a task or label that is not there.
    """
    found: dict[str, dict[str, str]] = {}
    for task in own.names:
        if task not in kinds:
            raise ConfigError(f"names.{task}: the model has no such task; it has {', '.join(kinds)}")
    for task, kind in kinds.items():
        labels = {label.casefold(): label for label in kind.labels}
        names = {}
        for meaning, candidates in known.items():
            name = next((labels[c.casefold()] for c in candidates if c.casefold() in labels), None)
            if name is not None:
                names[meaning] = name.removeprefix("B-")
        for meaning, name in own.names.get(task, {}).items():
            if meaning not in known:
                raise ConfigError(f"names.{task}.{meaning}: expected one of {', '.join(known)}")
            if not {name, f"B-{name}"} & set(kind.labels):
                raise ConfigError(f"names.{task}.{meaning}: {name!r} is not a label of the task")
            names[meaning] = name
        found[task] = names
    return found
