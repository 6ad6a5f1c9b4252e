"""Texts in, answers out, over any engine that turns a batch into head outputs. No torch: serving uses the same code."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from copy import copy
from dataclasses import dataclass, replace
from itertools import chain, islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from palmette.batching import EMBEDDING, Batch, Dataset, cheapest_passes, collate
from palmette.errors import RunError
from palmette.kinds import AnyKind
from palmette.text import Encoded, Row, TextEncoder
from palmette.types import Example, Prediction, Text
from palmette.words import well_formed

Engine = Callable[[Batch], Mapping[str, NDArray[Any]]]

# What a caller may give as one input: raw text, words, or two of either (a pair; question and passage).
Input = str | Sequence[str] | tuple[str | Sequence[str], str | Sequence[str]]

# What a task's head says of an example: its rows, in window order, and the outputs of each.
Windows = list[tuple[Row, NDArray[Any]]]

# What a pass costs besides its tokens. Of 10 to 80, 40 is the fastest for batches of 80 texts, as fast as any for 512
# (MiniLM, int8, two cores; LOG.md, 2026-11-24).
_PASS_TOKENS = 40
_CHUNK = 512  # examples that are sorted by length together; bounds the memory of a stream


# Chunks or batches that are computed at the same time where there is work for it. A third would wait for the
# interpreter, which words, subwords and decoding hold.
AT_ONCE = 2

_Chunk = tuple[list[Example], list[list[str]]]  # and the tasks that are wanted of each
_AnsweredChunk = tuple[list[Example], list[dict[str, Prediction]]]


@dataclass(frozen=True, slots=True)
class Reading:
    """What the heads of some tasks say of an example, not yet decoded; where asked for, its mean vector [width]."""

    example: Example
    encoded: Encoded
    windows: Mapping[str, Windows]
    embedding: NDArray[np.float32] | None = None


class AnyPredictor(ABC):
    """Answers tasks over texts, by whatever means.

    Args:
        kinds: the tasks of the model.
        find_words: raw text -> words.
    """

    def __init__(self, kinds: Mapping[str, AnyKind], find_words: Callable[[str], Text]) -> None:
        self.kinds = kinds
        self.find_words = find_words

    def divided(self, parts: int) -> AnyPredictor | None:  # noqa: ARG002 - not every engine has threads to divide
        """The same predictor for each of several callers at the same time, with its part of the engine's threads.

        Args:
            parts: how many answer at the same time.

        Returns:
            None where the threads cannot be divided into so many parts, or need not.
        """
        return None

    @abstractmethod
    def _run(self, examples: Sequence[Example], wanted: Sequence[Sequence[str]]) -> list[dict[str, Prediction]]:
        """Answers of each example to the tasks that are wanted of it, in that order."""

    def choose(self, tasks: Sequence[str] | None) -> dict[str, AnyKind]:
        """The kinds of some tasks, all by default.

        Raises:
            RunError: the model has no such task, or it is no list of tasks.
        """
        if tasks is None:
            return dict(self.kinds)
        if isinstance(tasks, str) or not isinstance(tasks, Collection):
            raise RunError(f"tasks: expected a list of names, found {tasks!r}"[:200])
        for task in tasks:
            if not isinstance(task, str) or task not in self.kinds:
                raise RunError(f"no task {task!r} in this model; it has {', '.join(self.kinds)}")
        return {task: self.kinds[task] for task in tasks}

    def example(self, given: Input) -> Example:
        """An unlabelled example from what a caller gave: a string is raw text, a list is words, a pair is a tuple.

        Raises:
            RunError: it is none of these.
        """
        if isinstance(given, str):
            return Example(self.find_words(given), {})
        if isinstance(given, tuple) and len(given) == 2 and not any(isinstance(part, tuple) for part in given):
            first, second = (self.example(part).text for part in given)
            return Example(first, {}, pair=second)
        if isinstance(given, list) and all(isinstance(word, str) for word in given):
            return Example(Text(words=tuple(map(well_formed, given))), {})
        raise RunError(f"expected a text, a list of words or a pair (a tuple of two), found {given!r}"[:200])

    def answer(self, examples: Sequence[Example], tasks: Sequence[str] | None = None) -> list[dict[str, Prediction]]:
        """Each example's predictions, for those of `tasks` that take such an input."""
        return self._run(examples, [self._taking(example, self.choose(tasks)) for example in examples])

    def answer_each(
        self, examples: Sequence[Example], tasks: Sequence[Sequence[str] | None]
    ) -> list[dict[str, Prediction]]:
        """The same, each example with tasks of its own: what several callers asked for, computed together."""
        pairs = zip(examples, tasks, strict=True)
        return self._run(examples, [self._taking(example, self.choose(chosen)) for example, chosen in pairs])

    def answer_labelled(self, examples: Sequence[Example]) -> list[dict[str, Prediction]]:
        """Each example's predictions for the tasks that it is labelled for (evaluation)."""
        return self._run(examples, [[task for task in self.kinds if task in e.labels] for e in examples])

    @staticmethod
    def _taking(example: Example, kinds: Mapping[str, AnyKind]) -> list[str]:
        return [task for task, kind in kinds.items() if kind.takes(example)]

    def stream(
        self, inputs: Iterable[Input | Example], tasks: Sequence[str] | None = None
    ) -> Iterator[tuple[Example, dict[str, Prediction]]]:
        """Answers in order, in bounded memory, for an input of any length.

        Raises:
            RunError: a task is unknown, an input is of no known form (one text is none: `[text]`), or none of the named
                tasks takes it.
        """
        for chunk, answers in self._answered(self._chunks(inputs, tasks)):
            yield from zip(chunk, answers, strict=True)

    def _answered(self, chunks: Iterator[_Chunk]) -> Iterator[_AnsweredChunk]:
        """Each chunk with its answers, in order."""
        for chunk, wanted in chunks:
            yield chunk, self._run(chunk, wanted)

    def _chunks(self, inputs: Iterable[Input | Example], tasks: Sequence[str] | None) -> Iterator[_Chunk]:
        """Examples, some at a time, and the tasks that are wanted of each."""
        kinds = self.choose(tasks)
        if isinstance(inputs, str | bytes | Mapping) or not isinstance(inputs, Iterable):
            wanted = "a text, a pair (a tuple of two) or a list of such inputs"
            raise RunError(f"expected {wanted}, found {inputs!r}"[:200])
        source = iter(inputs)
        while chunk := [
            given if isinstance(given, Example) else self.example(given) for given in islice(source, _CHUNK)
        ]:
            if tasks:
                self.refuse_unanswerable(chunk, tasks)
            yield chunk, [self._taking(example, kinds) for example in chunk]

    def refuse_unanswerable(self, examples: Sequence[Example], tasks: Sequence[str]) -> None:
        """Who asks for certain tasks and gives none of them a fitting input must not get an empty answer.

        Raises:
            RunError: none of the tasks takes one of the examples.
        """
        kinds = self.choose(tasks)
        for example in examples:
            if not any(kind.takes(example) for kind in kinds.values()):
                found = "one text" if example.pair is None else "a pair"
                raise RunError(f"none of the tasks {', '.join(kinds)} takes {found}: {example.text.string[:60]!r}")

    def render(self, example: Example, predictions: Mapping[str, Prediction]) -> dict[str, Any]:
        """Predictions as JSON: text, words, offsets and one object a task."""
        text = example.text
        rendered: dict[str, Any] = {
            "text": text.string,
            "words": list(text.words),
            "offsets": [list(s) for s in text.spans],
        }
        if example.pair is not None:
            rendered["text_pair"] = example.pair.string
        rendered["tasks"] = {task: self._render(task, found, example) for task, found in predictions.items()}
        return rendered

    def _render(self, task: str, prediction: Prediction, example: Example) -> dict[str, Any]:
        kind = self.kinds[task]
        rendered = kind.render(prediction, example)
        if prediction.truncated:
            rendered["truncated"] = True
        if kind.calibration.threshold is not None:
            decisions = [kind.calibration.decide(claim.confidence) for claim in kind.claims(prediction)]
            kind.attach_decisions(rendered, decisions)
            rendered["decision"] = "review" if "review" in decisions else "automatic"
        return rendered


def with_heads(predictor: AnyPredictor, what: str) -> Predictor:
    """A predictor that is asked for what only heads can say.

    Raises:
        RunError: the model writes its answers.
    """
    if not isinstance(predictor, Predictor):
        raise RunError(f"{what}: the model writes its answers, and has no probabilities of them; use family: heads")
    return predictor


class Predictor(AnyPredictor):
    """Answers tasks over texts, by heads on a trunk.

    Args:
        kinds: the tasks of the model.
        encoder: texts -> rows.
        engine: batch -> outputs of each task in the batch.
        pad: vocabulary id of padding.
        find_words: raw text -> words.
        batch_tokens: most padded tokens in one batch.
        divide: number of callers at the same time -> an engine with the part of each of the threads, or None.
    """

    def __init__(
        self,
        kinds: Mapping[str, AnyKind],
        encoder: TextEncoder,
        engine: Engine,
        *,
        pad: int,
        find_words: Callable[[str], Text],
        batch_tokens: int = 4096,
        divide: Callable[[int], Engine | None] | None = None,
    ) -> None:
        super().__init__(kinds, find_words)
        self.encoder = encoder
        self.engine = engine
        self.pad = pad
        self.batch_tokens = batch_tokens
        self._divide = divide

    def divided(self, parts: int) -> Predictor | None:
        """The same words, subwords and tasks over an engine with a part of the threads.

        Two passes of one thread each are done sooner than two of two threads, one after the other: threads of a pass
        wait for each other, and all but one wait while subwords are made and answers decoded (LOG.md, 2026-11-27).
        """
        engine = self._divide(parts) if self._divide is not None and parts > 1 else None
        if engine is None:
            return None
        beside = copy(self)
        beside.engine = engine
        return beside

    def _answered(self, chunks: Iterator[_Chunk]) -> Iterator[_AnsweredChunk]:
        """Two chunks at a time, where there are two and the engine's threads can be divided."""
        if self._divide is None:
            yield from super()._answered(chunks)
            return
        failures: list[Exception] = []

        def read() -> Iterator[_Chunk]:
            """What was read before reading failed is answered first."""
            try:
                yield from chunks
            except Exception as error:  # noqa: BLE001 - it is raised below
                failures.append(error)

        source = read()
        begun = list(islice(source, 2))
        beside = self.divided(AT_ONCE) if len(begun) > 1 else None
        if beside is None:
            yield from super()._answered(chain(begun, source))
        else:
            yield from _at_once(beside._run, chain(begun, source))  # noqa: SLF001 - it is a copy of this one
        if failures:
            raise failures[0]

    def readings(self, inputs: Iterable[Input | Example], tasks: Sequence[str] | None = None) -> Iterator[Reading]:
        """What `stream` decodes, for whoever asks more of the outputs than the best answer.

        Raises:
            RunError: as `stream`.
        """
        for chunk, wanted in self._chunks(inputs, tasks):
            yield from self._read(chunk, wanted)

    def readings_labelled(self, examples: Sequence[Example]) -> Iterator[Reading]:
        """The same for the tasks that each example is labelled for."""
        for first in range(0, len(examples), _CHUNK):
            chunk = examples[first : first + _CHUNK]
            yield from self._read(chunk, [[task for task in self.kinds if task in e.labels] for e in chunk])

    def decode(self, reading: Reading) -> dict[str, Prediction]:
        """The answers in a reading."""
        found = {
            task: self.kinds[task].decode(windows, reading.example, reading.encoded.spans)
            for task, windows in reading.windows.items()
        }
        if any(row.truncated for row in reading.encoded.rows):
            return {task: replace(prediction, truncated=True) for task, prediction in found.items()}
        return found

    def _run(self, examples: Sequence[Example], wanted: Sequence[Sequence[str]]) -> list[dict[str, Prediction]]:
        """Answers of each example to the tasks that are wanted of it, in that order."""
        return [self.decode(reading) for reading in self._read(examples, wanted)]

    def embedded(
        self, examples: Sequence[Example], tasks: Sequence[Sequence[str] | None]
    ) -> tuple[list[Reading], list[dict[str, Prediction]]]:
        """What `answer_each` answers, and what that was read from, with the mean vector of each text."""
        pairs = zip(examples, tasks, strict=True)
        wanted = [self._taking(example, self.choose(chosen)) for example, chosen in pairs]
        readings = self._read(examples, wanted, embed=True)
        return readings, [self.decode(reading) for reading in readings]

    def _read(
        self, examples: Sequence[Example], wanted: Sequence[Sequence[str]], *, embed: bool = False
    ) -> list[Reading]:
        dataset = Dataset(examples, self.encoder.encode(examples))
        vectors: dict[int, list[NDArray[Any]]] = {}
        found = self.compute(dataset, wanted, vectors=vectors if embed else None)
        means = [np.mean(vectors[n], axis=0) if n in vectors else None for n in range(len(examples))]
        return [Reading(*reading) for reading in zip(examples, dataset.encoded, found, means, strict=True)]

    def compute(
        self,
        dataset: Dataset,
        wanted: Sequence[Sequence[str]],
        *,
        vectors: dict[int, list[NDArray[Any]]] | None = None,
    ) -> list[dict[str, Windows]]:
        """The heads' outputs for the rows of each example, for the tasks that are wanted of it, in that order.

        Args:
            dataset: the examples.
            wanted: tasks of each.
            vectors: filled with the mean vectors of each example's rows, by its number, if it is given.
        """
        asked = [number for number, tasks in enumerate(wanted) if tasks]
        outputs: dict[tuple[str, int], dict[int, NDArray[Any]]] = {}
        for rows in cheapest_passes(dataset.rows(asked), batch_tokens=self.batch_tokens, overhead=_PASS_TOKENS):
            batch = collate(rows, dataset, self.kinds, pad=self.pad, labelled=False, wanted=wanted)
            if vectors is not None:
                batch = replace(batch, embed=True)
            found = self.engine(batch)
            if vectors is not None:
                for row, vector in zip(rows, found[EMBEDDING], strict=True):
                    vectors.setdefault(row.example, []).append(vector)
            for task, part in batch.tasks.items():
                start = 0
                scores = _tempered(found[task], self.kinds[task])
                for number, size in zip(part.rows, part.sizes, strict=True):
                    row = rows[number]
                    outputs.setdefault((task, row.example), {})[row.window] = scores[start : start + size]
                    start += size
        return [
            {task: [(row, outputs[task, number][row.window]) for row in dataset.encoded[number].rows] for task in tasks}
            for number, tasks in enumerate(wanted)
        ]


def _at_once(
    run: Callable[[list[Example], list[list[str]]], list[dict[str, Prediction]]], chunks: Iterable[_Chunk]
) -> Iterator[_AnsweredChunk]:
    """Chunks with their answers, in order, computed by threads of this call's own."""
    pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="palmette-stream")
    waiting: deque[tuple[list[Example], Future[list[dict[str, Prediction]]]]] = deque()
    try:
        for chunk, wanted in chunks:
            waiting.append((chunk, pool.submit(run, chunk, wanted)))
            if len(waiting) > AT_ONCE:
                done, answers = waiting.popleft()
                yield done, answers.result()
        for done, answers in waiting:
            yield done, answers.result()
    finally:
        pool.shutdown(cancel_futures=True)  # who leaves the stream waits for no more than is being computed


def _tempered(scores: NDArray[Any], kind: AnyKind) -> NDArray[Any]:
    temperature = kind.calibration.temperature
    return scores if temperature == 1.0 else scores / temperature
