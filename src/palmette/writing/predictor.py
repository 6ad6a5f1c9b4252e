"""Answers tasks by a model that writes: examples -> prompts -> text -> labels, with what could not be read counted."""

from __future__ import annotations

import json
import math
import time
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from palmette.kinds import AnyKind
from palmette.kinds.base import softmax
from palmette.kinds.sequence_labeling import SequenceLabeling
from palmette.predictor import AnyPredictor
from palmette.types import Example, Prediction, Text
from palmette.writing.prompts import Prompt
from palmette.writing.writer import Heard, NextPieces, Request, Scorer, Writer

Told = Callable[[int, str, str], None]  # number of an example, task, all of its text so far

_SUBWORDS_A_WORD = 4  # room for what is written of a word: a number, a tag of a few subwords


@dataclass
class Usage:
    """What a task's answers have cost since the model was loaded.

    Attributes:
        examples: answered.
        unparseable: of them, those whose text could not all be read.
        prompt_tokens, written_tokens: read and written (or scored, for likelihoods).
        estimated: answers whose tokens nobody counted, so that what is counted is an upper bound.
        truncated: prompts that were cut, and answers that had no end.
        seconds: spent on answers.
        timed: answers that were given in them; the others had been given before, and kept.
    """

    examples: int = 0
    unparseable: int = 0
    prompt_tokens: int = 0
    written_tokens: int = 0
    estimated: int = 0
    truncated: int = 0
    seconds: float = 0.0
    timed: int = 0

    def as_json(self) -> dict[str, float]:
        """For reports."""
        return asdict(self)


class Aloud(AnyPredictor):
    """Answers by writing, here or in another process, and can be heard meanwhile."""

    def render(self, example: Example, predictions: Mapping[str, Prediction]) -> dict[str, Any]:
        """Predictions as JSON, which has no NaN: what is written without a probability has no `confidence`.

        Where not all that was written could be read, the answer says `"readable": false`.
        """
        rendered = super().render(example, predictions)
        for task, found in rendered["tasks"].items():
            if predictions[task].readable is False:
                found["readable"] = False
            for part in (found, *found.get("spans", ())):
                if not np.isfinite(part.get("confidence", 0.0)).all():
                    del part["confidence"]
        return rendered

    def answer_aloud(
        self, examples: Sequence[Example], tasks: Sequence[Sequence[str] | None], heard: Told
    ) -> list[dict[str, Prediction]]:
        """What `answer_each` answers, and meanwhile what is being written.

        Args:
            examples: the texts.
            tasks: of each.
            heard: is told, whenever an answer has grown, the example's number, the task, and all of the text so far.
                Nothing is said of answers that are chosen by their likelihood, or known at their end only.
        """
        wanted = [self._taking(example, self.choose(chosen)) for example, chosen in zip(examples, tasks, strict=True)]
        return self._run(examples, wanted, heard)

    @abstractmethod
    def _run(
        self, examples: Sequence[Example], wanted: Sequence[Sequence[str]], heard: Told | None = None
    ) -> list[dict[str, Prediction]]:
        """Answers of each example to the tasks that are wanted of it, in that order."""


class WritingPredictor(Aloud):
    """Answers by writing, or by the likelihood of each answer where there are few.

    Args:
        kinds: the tasks.
        find_words: raw text -> words.
        writer: the model.
        prompt: task and example -> what the model reads.
        constrained: let only valid outputs be written, where the kind says which are.
        longest: most tokens written for an example; None: by the task and its input.
        scorer: gives likelihoods of closed label sets; None: labels are written as well.
        neutral: task and example -> the same prompt with a content-free input, by whose likelihoods the example's are
            divided (Zhao et al. 2021); None: they are taken as they are.

    Attributes:
        usage: what each task has cost.
    """

    def __init__(
        self,
        kinds: Mapping[str, AnyKind],
        find_words: Callable[[str], Text],
        writer: Writer,
        prompt: Callable[[str, Example], Prompt],
        *,
        constrained: bool = True,
        longest: int | None = None,
        scorer: Scorer | None = None,
        neutral: Callable[[str, Example], Prompt] | None = None,
    ) -> None:
        super().__init__(kinds, find_words)
        self.writer = writer
        self.prompt = prompt
        self.constrained = constrained
        self.longest = longest
        self.scorer = scorer
        self.neutral = neutral
        self.forget_usage()
        self._biases: dict[str, dict[str, Any]] = {}  # of each task, by prompt

    def forget_usage(self) -> None:
        """Count anew."""
        self.usage: dict[str, Usage] = {task: Usage() for task in self.kinds}

    def usage_json(self) -> dict[str, dict[str, float]]:
        """What each task that was asked has cost."""
        return {task: usage.as_json() for task, usage in self.usage.items() if usage.examples}

    def _run(
        self, examples: Sequence[Example], wanted: Sequence[Sequence[str]], heard: Told | None = None
    ) -> list[dict[str, Prediction]]:
        answers: list[dict[str, Prediction]] = [{} for _ in examples]
        for task in self.kinds:
            numbers = [number for number, tasks in enumerate(wanted) if task in tasks]
            if not numbers:
                continue
            usage, timed, started = self.usage[task], self.usage[task].timed, time.perf_counter()

            def grown(place: int, text: str, task: str = task, numbers: list[int] = numbers) -> None:
                if heard is not None:
                    heard(numbers[place], task, text)

            found = self._answer(task, [examples[number] for number in numbers], grown if heard is not None else None)
            usage.seconds += time.perf_counter() - started if usage.timed > timed else 0.0
            usage.examples += len(found)
            usage.unparseable += sum(not prediction.readable for prediction in found)
            for number, prediction in zip(numbers, found, strict=True):
                answers[number][task] = prediction
        return [{task: found[task] for task in tasks} for found, tasks in zip(answers, wanted, strict=True)]

    def _answer(self, task: str, examples: Sequence[Example], heard: Heard | None) -> list[Prediction]:
        kind = self.kinds[task]
        if self.scorer is not None and kind.labels and kind.next_pieces((), examples[0]) == kind.labels:
            return self._by_likelihood(task, kind, examples, self.scorer)
        requests = [
            Request(
                self.prompt(task, example),
                self.longest or longest_output(kind, example),
                _constraint(kind, example) if self.constrained else None,
            )
            for example in examples
        ]
        found = []
        for example, written in zip(examples, self.writer.write(requests, heard), strict=True):
            self._count(task, written.prompt_tokens, written.written_tokens, truncated=written.truncated)
            self.usage[task].estimated += written.estimated
            self.usage[task].timed += not written.kept
            label, readable = kind.read_text(written.text, example)
            found.append(Prediction(label, _no_confidence(kind, label), readable))
        return found

    def _by_likelihood(self, task: str, kind: AnyKind, examples: Sequence[Example], scorer: Scorer) -> list[Prediction]:
        """The label that is the most probable answer; always readable."""
        biases = self._find_biases(task, kind, examples, scorer)
        prompts = [self.prompt(task, example) for example in examples]
        found = []
        for likelihoods, bias in zip(scorer.likelihoods(prompts, kind.labels), biases, strict=True):
            self._count(task, likelihoods.prompt_tokens, likelihoods.scored_tokens, truncated=likelihoods.truncated)
            self.usage[task].timed += 1
            probabilities = softmax(likelihoods.values - bias)
            best = int(np.argmax(probabilities))
            found.append(Prediction(kind.labels[best], float(probabilities[best]), readable=True))
        return found

    def _find_biases(self, task: str, kind: AnyKind, examples: Sequence[Example], scorer: Scorer) -> list[Any]:
        """[examples] of [choices]: what each one's prompt makes of every label, whatever the input; 0 if not wanted."""
        if self.neutral is None:
            return [0.0] * len(examples)
        prompts = [self.neutral(task, example) for example in examples]
        names = [json.dumps(prompt) for prompt in prompts]
        known = self._biases.get(task, {})
        asked = {name: prompt for name, prompt in zip(names, prompts, strict=True) if name not in known}
        if asked:
            for name, found in zip(asked, scorer.likelihoods(list(asked.values()), kind.labels), strict=True):
                known[name] = found.values
                self._count(task, found.prompt_tokens, found.scored_tokens, truncated=False)
        # Shots are the same for every text, and so is their bias, or each text's own: then the next call has others.
        self._biases[task] = {name: known[name] for name in names}
        return [known[name] for name in names]

    def _count(self, task: str, prompt_tokens: int, written_tokens: int, *, truncated: bool) -> None:
        usage = self.usage[task]
        usage.prompt_tokens += prompt_tokens
        usage.written_tokens += written_tokens
        usage.truncated += truncated


def longest_output(kind: AnyKind, example: Example) -> int:
    """Most tokens that an answer should need, generously."""
    longest = kind.state.get("longest")  # of generation: words of the longest reference
    if longest is not None:
        return 16 + 2 * int(longest)
    if isinstance(kind, SequenceLabeling):  # repeats the words: at most a token a byte
        return 16 + sum(
            2 * _SUBWORDS_A_WORD + len(word.encode("utf-8", "surrogatepass")) for word in example.text.words
        )
    words = sum(map(len, example.key))
    pieces = kind.next_pieces((), example)
    if pieces is None:
        return 64
    if len(kind.labels) == 0 or kind.labels == pieces:
        return 16 + 2 * _SUBWORDS_A_WORD * 4
    return 16 + 2 * _SUBWORDS_A_WORD * max(words, len(kind.labels))


def _constraint(kind: AnyKind, example: Example) -> NextPieces | None:
    if kind.next_pieces((), example) is None:
        return None
    return lambda written: kind.next_pieces(written, example)


def _no_confidence(kind: AnyKind, label: Any) -> float | tuple[float, ...]:
    """What is written has no probability; tags have one place each for it."""
    return (math.nan,) * len(label) if isinstance(kind, SequenceLabeling) else math.nan
