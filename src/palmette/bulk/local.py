"""A file of answers, written by this process."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from palmette.answering import Answerer
from palmette.bulk.answers import Answered, answer_rows
from palmette.bulk.columns import Column
from palmette.bulk.rows import Row
from palmette.bulk.sinks import open_sink
from palmette.errors import ReadError, RunError


@dataclass(frozen=True, slots=True)
class Counts:
    """What was written.

    Attributes:
        rows: of the input, each of which has a row in the output.
        bad: those with an error instead of an answer.
        first: the first of these errors.
    """

    rows: int = 0
    bad: int = 0
    first: str | None = None

    def __add__(self, other: Counts) -> Counts:
        """Of two files, the first of them in front."""
        return Counts(self.rows + other.rows, self.bad + other.bad, self.first or other.first)


def write_answers(
    model: Answerer,
    rows: Iterable[Row],
    output: Path,
    *,
    columns: Sequence[Column] = (),
    tasks: Sequence[str] | None = None,
    keep: bool = False,
    hint: bool = True,
    tick: Callable[[], object] = lambda: None,
) -> Counts:
    """Answer rows into a file, which appears under its name only when it is whole.

    Args:
        model: what answers.
        rows: all of the input.
        output: `.parquet` for Parquet, else JSON lines.
        columns: of the input that a Parquet file keeps (`columns_of`).
        tasks: which tasks; by default all that take a row.
        keep: put a bad row's error in its place instead of ending there.
        hint: say, with the error, where the answers before it are.
        tick: called for every row.

    Raises:
        ReadError: the input cannot be read, or a row is bad and bad rows are not kept. What was answered before it
            stays in the file that ends in `.partial`.
        RunError: the output cannot be written, or the model has no such task.
        MissingExtraError: a file is Parquet, and pyarrow is not installed.
    """
    model.predictor.choose(tasks)
    partial = output.with_name(output.name + ".partial")
    counts = Counts()
    try:
        sink = open_sink(partial, like=output, columns=columns)
        try:
            for answered in answer_rows(model, rows, tasks=tasks, keep=keep):
                sink.write(answered)
                counts += count(answered)
                tick()
        finally:
            sink.close()
    except ReadError as error:
        if not hint:
            raise
        rest = f"the {counts.rows} answers before it are in {partial}, and --bad-rows keep goes on past bad rows"
        raise ReadError(f"{error}; {rest}") from error
    except OSError as error:
        raise RunError(f"{output}: cannot be written: {error}") from error
    partial.replace(output)
    return counts


def count(answered: Answered) -> Counts:
    """What one row counts."""
    return Counts(1, int(answered.error is not None), answered.error)
