"""Rows -> answers in the order of the rows, one for each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from palmette.answering import Answerer
from palmette.bulk.rows import Row
from palmette.errors import ReadError, RunError
from palmette.types import Example

CHUNK = 512  # rows that are sorted by length together, as the predictor does; a section's rows are a multiple
_CHUNKS = 4  # that are read before they are answered, so that the predictor can answer some at the same time


@dataclass(frozen=True, slots=True)
class Answered:
    """What became of a row.

    Attributes:
        extra: its other columns.
        answer: text, words, offsets, tasks; None if the row is bad.
        error: file:row and what is bad about it.
    """

    extra: Mapping[str, Any]
    answer: Mapping[str, Any] | None
    error: str | None = None

    def record(self) -> dict[str, Any]:
        """All of it as one object."""
        if self.answer is None:
            return {**self.extra, "error": self.error}
        return {**self.extra, **self.answer}


def answer_rows(
    model: Answerer, rows: Iterable[Row], *, tasks: Sequence[str] | None = None, keep: bool = False
) -> Iterator[Answered]:
    """Answers of rows, in bounded memory.

    Args:
        model: what answers.
        rows: of the input.
        tasks: which tasks; by default all that take a row.
        keep: go on past bad rows, with the error in their place.

    Raises:
        RunError: the model has no such task.
        ReadError: a row is bad, and bad rows are not kept; what came before it has been answered.
    """
    model.predictor.choose(tasks)
    source = iter(rows)
    while chunk := list(islice(source, _CHUNKS * CHUNK)):
        read = [_read(model, row, tasks) for row in chunk]
        bad = next((error for _, error in read if error is not None), None)
        if bad is not None and not keep:
            read = read[: next(number for number, (_, error) in enumerate(read) if error is not None)]
        found = model.predictor.stream([example for example, _ in read if example is not None], tasks)
        for row, (_, error) in zip(chunk, read, strict=False):
            if error is not None:
                yield Answered(row.extra, None, error)
                continue
            example, predictions = next(found)
            yield Answered(row.extra, model.predictor.render(example, predictions))
        if bad is not None and not keep:
            raise ReadError(bad)


def _read(model: Answerer, row: Row, tasks: Sequence[str] | None) -> tuple[Example | None, str | None]:
    """A row's example, or what is bad about the row."""
    if row.given is None:
        return None, row.error
    try:
        example = model.predictor.example(row.given)
        if tasks:
            model.predictor.refuse_unanswerable([example], tasks)
    except RunError as error:
        return None, f"{row.where}: {error}"
    return example, None
