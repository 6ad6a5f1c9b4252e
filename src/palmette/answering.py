"""What answers: a run with torch, or a bundle without it; both are asked in the same ways."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from palmette.explain import explanations
from palmette.kinds import AnyKind
from palmette.predictor import AnyPredictor, Input
from palmette.types import Example, Prediction


@dataclass(frozen=True)
class Answerer:
    """A model that answers its tasks over texts.

    Attributes:
        kinds: its tasks, in the order of the configuration.
        predictor: texts -> answers.
    """

    kinds: dict[str, AnyKind]
    predictor: AnyPredictor

    def predict(
        self, inputs: Input | Sequence[Input], *, tasks: Sequence[str] | None = None, explain: bool = False
    ) -> Any:
        """Answers as JSON-like objects: one for one text, a list for a list of texts.

        Args:
            inputs: a string, a pair (tuple of two), or a list of inputs; words are a list of strings inside that list.
            tasks: which tasks to answer; all that take such an input by default.
            explain: say which words carried each answer (`palmette.explain`), at the cost of a pass a word.

        Raises:
            RunError: an input is none of these, a task is unknown or, with `explain`, cannot be explained.
        """
        if isinstance(inputs, str | tuple):
            return next(self.stream([inputs], tasks=tasks, explain=explain))
        return list(self.stream(inputs, tasks=tasks, explain=explain))

    def stream(
        self, inputs: Iterable[Input], *, tasks: Sequence[str] | None = None, explain: bool = False
    ) -> Iterator[dict[str, Any]]:
        """Answers in order, in bounded memory, for any number of inputs."""
        if explain:
            yield from explanations(self.predictor, inputs, tasks)
            return
        for example, predictions in self.predictor.stream(inputs, tasks):
            yield self.predictor.render(example, predictions)

    def answer(self, examples: Sequence[Example], tasks: Sequence[str] | None = None) -> list[dict[str, Prediction]]:
        """Predictions for examples, of those of `tasks` (default: all) that take them."""
        answers: list[dict[str, Prediction]] = self.predictor.answer(examples, tasks)
        return answers
