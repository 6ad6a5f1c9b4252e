"""Examples -> padded batches, by token budget and bucketed by length. Arrays only: no torch."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from palmette.kinds import AnyKind
from palmette.text import Encoded, Row
from palmette.types import Example

Array = NDArray[Any]

# Rows are sorted by length inside pools of this many updates: large enough that padding stays under 5 % on EWT
# (4.2 % at 48, 5.3 % at 32), small enough that an update is still a random draw.
_POOL = 48


@dataclass(frozen=True, slots=True)
class TaskBatch:
    """What one task's head and loss need of a batch.

    Attributes:
        index: [units] hidden vectors that the head reads (see `Kind.index`).
        targets: what the loss compares with, each of first dimension [units]; empty when predicting.
        rows: which rows of the batch carry the task.
        sizes: how many units each of them has.
    """

    index: Array
    targets: Mapping[str, Array]
    rows: list[int]
    sizes: list[int]

    @property
    def units(self) -> float:
        """Labelled units: words, texts, questions; windows of one text share one unit."""
        return float(self.targets["weight"].sum(dtype=np.float64)) if self.targets else 0.0


# Where an engine puts the mean vector of each row, beside the tasks' outputs. No task has this name.
EMBEDDING = ""


@dataclass(frozen=True, slots=True)
class Batch:
    """Padded rows and what each task reads of them.

    Attributes:
        inputs: `input_ids`, `attention_mask`, `token_type_ids`, `casing`: [rows, tokens] int64.
        tasks: the tasks that a row of the batch carries.
        rows: the rows, unpadded.
        embed: whether the mean vector of each row is asked for as well: `EMBEDDING` in what the engine gives.
    """

    inputs: Mapping[str, Array]
    tasks: Mapping[str, TaskBatch]
    rows: Sequence[Row]
    embed: bool = False

    @property
    def tokens(self) -> int:
        """Real tokens, padding excluded."""
        return int(self.inputs["attention_mask"].sum())


@dataclass(frozen=True)
class Dataset:
    """Encoded examples; `encoded[n]` belongs to `examples[n]`."""

    examples: Sequence[Example]
    encoded: Sequence[Encoded]

    def rows(self, numbers: Iterable[int]) -> list[Row]:
        """All rows of some examples, in order."""
        return [row for number in numbers for row in self.encoded[number].rows]


def collate(
    rows: Sequence[Row],
    dataset: Dataset,
    kinds: Mapping[str, AnyKind],
    *,
    pad: int,
    labelled: bool,
    wanted: Sequence[Collection[str]] | None = None,
) -> Batch:
    """Pad rows into a batch.

    Args:
        rows: of the dataset; at least one.
        dataset: where their examples are.
        kinds: the tasks to prepare.
        pad: vocabulary id of padding.
        labelled: prepare targets for the tasks that an example is labelled for (training); else prepare, without
            targets, every task that takes it (prediction).
        wanted: when predicting, the tasks to prepare of each example of the dataset instead.
    """
    lengths = [len(row) for row in rows]
    width = max(lengths)
    inputs = {
        "input_ids": _padded([row.ids for row in rows], width, filler=pad),
        "attention_mask": _padded([np.ones(length, dtype=np.int64) for length in lengths], width),
        "token_type_ids": _padded([row.types for row in rows], width),
        "casing": _padded([row.casing for row in rows], width),
    }
    tasks = {}
    for task, kind in kinds.items():
        chosen = [
            (number, row)
            for number, row in enumerate(rows)
            if _carries(
                task, kind, dataset.examples[row.example], labelled, None if wanted is None else wanted[row.example]
            )
        ]
        if chosen:
            tasks[task] = _task_batch(task, kind, chosen, dataset, width=width, labelled=labelled)
    return Batch(inputs, tasks, rows)


def _padded(parts: Sequence[Array], width: int, *, filler: int = 0) -> Array:
    """[rows, width]; of a single row, which needs no padding, the same memory."""
    if len(parts) == 1:
        return parts[0][np.newaxis]
    padded = np.full((len(parts), width), filler, dtype=np.int64)
    for number, part in enumerate(parts):
        padded[number, : len(part)] = part
    return padded


def _carries(task: str, kind: AnyKind, example: Example, labelled: bool, wanted: Collection[str] | None) -> bool:
    if wanted is not None:
        return task in wanted
    return task in example.labels if labelled else kind.takes(example)


def _task_batch(
    task: str, kind: AnyKind, chosen: Sequence[tuple[int, Row]], dataset: Dataset, *, width: int, labelled: bool
) -> TaskBatch:
    index = [kind.index(row, number, width) for number, row in chosen]
    targets: dict[str, Array] = {}
    if labelled:
        parts = [
            kind.targets(dataset.examples[row.example].labels[task], row, dataset.encoded[row.example].spans)
            for _, row in chosen
        ]
        targets = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return TaskBatch(
        index=index[0] if len(index) == 1 else np.concatenate(index),
        targets=targets,
        rows=[number for number, _ in chosen],
        sizes=[len(part) for part in index],
    )


R = TypeVar("R", bound=Sized)
Sizes = Callable[[R], tuple[int, ...]]


def _whole(row: Sized) -> tuple[int, ...]:
    """The sizes of a row that is one sequence."""
    return (len(row),)


def _longest_first(rows: Iterable[R], sizes: Sizes[R]) -> list[R]:
    return sorted(rows, key=lambda row: tuple(-size for size in sizes(row)))


def by_length(rows: Sequence[R], *, batch_tokens: int, sizes: Sizes[R] = _whole) -> Iterator[list[R]]:
    """Cut rows into batches of at most `batch_tokens` padded tokens, longest first; a longer row stands alone.

    Longest first, so that memory is at its peak in the first batch and not in the last.

    Args:
        rows: of the batches.
        batch_tokens: their budget.
        sizes: tokens of each sequence that a row has; each is padded by itself.
    """
    batch: list[R] = []
    widths: tuple[int, ...] = ()
    for row in _longest_first(rows, sizes):
        wider = tuple(map(max, widths, sizes(row))) if batch else sizes(row)
        if batch and sum(wider) * (len(batch) + 1) > batch_tokens:
            yield batch
            batch, wider = [], sizes(row)
        batch.append(row)
        widths = wider
    if batch:
        yield batch


def cheapest_passes(rows: Sequence[R], *, batch_tokens: int, overhead: int) -> list[list[R]]:
    """Cut rows into passes of at most `batch_tokens` padded tokens that together cost least, longest first.

    A few long rows among short ones make `by_length` pad much, a pass for each length makes many passes: of all cuts
    between lengths, this takes the one with the fewest padded tokens and passes. A longer row stands alone.

    Args:
        rows: of the passes.
        batch_tokens: the budget of a pass.
        overhead: what a pass costs besides, in tokens.
    """
    if len(rows) == 1:
        return [list(rows)]
    ordered = sorted(rows, key=len, reverse=True)
    # Rows of one length stay together: [start, stop) of each length.
    cuts = [number for number, row in enumerate(ordered) if not number or len(row) != len(ordered[number - 1])]
    cuts.append(len(ordered))
    least, origin = [0.0], [0]  # cost of the rows before each cut, and where the last stretch of them begins
    for stop in range(1, len(cuts)):
        costs = []
        for start in range(stop):
            width, count = len(ordered[cuts[start]]), cuts[stop] - cuts[start]
            passes = -(-count // max(1, batch_tokens // max(1, width)))
            costs.append(least[start] + width * count + overhead * passes)
        least.append(min(costs))
        origin.append(costs.index(least[-1]))
    found: list[list[R]] = []
    stop = len(cuts) - 1
    while stop > 0:
        start = origin[stop]
        most = max(1, batch_tokens // max(1, len(ordered[cuts[start]])))
        stretch = ordered[cuts[start] : cuts[stop]]
        found = [stretch[first : first + most] for first in range(0, len(stretch), most)] + found
        stop = start
    return found


def plan_updates(
    rows: Sequence[R], *, batch_tokens: int, rng: np.random.Generator, sizes: Sizes[R] = _whole, lengths: int = 1
) -> list[list[R]]:
    """The updates of an epoch: rows in their random order, sorted by length inside pools, batches shuffled.

    Every row is in exactly one update.

    Args:
        rows: of the epoch.
        batch_tokens: most padded tokens of an update.
        rng: what shuffles.
        sizes: see `by_length`.
        lengths: batches, each of one length and its share of the budget, that an update is made of. Its rows come
            longest first.
    """
    batches: list[list[R]] = []
    pool: list[R] = []
    size = 0
    for row in rows:
        pool.append(row)
        size += len(row)
        if size >= _POOL * batch_tokens:
            batches += by_length(pool, batch_tokens=batch_tokens // lengths, sizes=sizes)
            pool, size = [], 0
    batches += by_length(pool, batch_tokens=batch_tokens // lengths, sizes=sizes)
    shuffled = [batches[number] for number in rng.permutation(len(batches))]
    updates = [itertools.chain(*shuffled[first : first + lengths]) for first in range(0, len(shuffled), lengths)]
    return [_longest_first(update, sizes) for update in updates]


def split_update(rows: Sequence[R], parts: int) -> list[list[R]]:
    """Cut an update's rows (longest first) into `parts` runs of about equal numbers of tokens; some may be empty."""
    lengths = np.array([len(row) for row in rows])
    ends = np.cumsum(lengths)
    middles = ends - lengths / 2  # a row is of the part that its middle lies in
    cuts = [0, *(int(np.searchsorted(middles, ends[-1] * n / parts)) for n in range(1, parts)), len(rows)]
    return [list(rows[start:stop]) for start, stop in itertools.pairwise(cuts)]


def padding_share(updates: Iterable[Sequence[R]], *, sizes: Sizes[R] = _whole) -> float:
    """Share of padding among all tokens of some updates."""
    real = padded = 0
    for rows in updates:
        each = [sizes(row) for row in rows]
        real += sum(map(sum, each))
        padded += len(rows) * sum(map(max, zip(*each, strict=True)))
    return 1 - real / padded if padded else 0.0
