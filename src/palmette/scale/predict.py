"""`palmette predict --engine ray`: the parts of a file, answered by actors that each hold the model (Ray Data).

Actors read their part of the input and write the answers themselves. So no text passes through Ray's object store, a
row keeps its file:row, order does not depend on who is done first, and what is finished survives whatever comes after.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from palmette import load
from palmette.bulk.columns import columns_of
from palmette.bulk.local import Counts
from palmette.bulk.parts import PART, Parts, cut
from palmette.bulk.rows import Section, form_of
from palmette.cluster import connected, import_ray
from palmette.errors import PalmetteError, ReadError, RunError
from palmette.scale.replicas import Replicas
from palmette.serving.model import Served


class Answering:
    """An actor: a loaded model that answers parts.

    Args:
        path: of the model.
        parts: of the file.
        tasks: which tasks.
        keep: go on past bad rows.
        threads: that a pass computes with.
    """

    def __init__(self, path: Path, parts: Parts, tasks: Sequence[str] | None, keep: bool, threads: int) -> None:
        self._model = load(path, threads=threads)
        self._parts = parts
        self._tasks = tasks
        self._keep = keep

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        """Answer the parts of some numbers; a user's mistake is handed back, for Ray would wrap it in tracebacks."""
        found = [self._answer(int(number)) for number in batch["id"]]
        return {name: [row[name] for row in found] for name in ("rows", "bad", "first", "failed")}

    def _answer(self, number: int) -> dict[str, Any]:
        try:
            counts = self._parts.answer(number, self._model, tasks=self._tasks, keep=self._keep)
        except PalmetteError as error:
            return {"rows": 0, "bad": 0, "first": "", "failed": str(error)}
        return {"rows": counts.rows, "bad": counts.bad, "first": counts.first or "", "failed": ""}


def predict(
    model: Path,
    source: Section,
    output: Path,
    *,
    replicas: Replicas | None = None,
    threads: int = 1,
    tasks: Sequence[str] | None = None,
    keep: bool = False,
    lines: int = PART,
    begin: Callable[[int, int], object] = lambda _all, _found: None,
    tick: Callable[[int], object] = lambda _rows: None,
) -> Counts:
    """Answer a file into another on a Ray cluster, whose machines see model, input and output at the same paths.

    Args:
        model: path of a bundle or a run.
        source: all of the input.
        output: `.parquet` for Parquet, else JSON lines. Finished parts wait in a folder beside it, which is gone at
            the end; where it is found, only what is missing in it is computed.
        replicas: how many actors; by default from one to as many as the cluster has CPUs for.
        threads: CPUs of each.
        tasks: which tasks; by default all that take a row.
        keep: put a bad row's error in its place instead of ending there.
        lines: of a part.
        begin: called with the number of parts, and of those that were finished already.
        tick: called with the number of rows whenever a part is finished.

    Raises:
        ReadError: the input cannot be read, or a row is bad and bad rows are not kept. Finished parts stay.
        RunError: the output cannot be written, there is no cluster, a worker failed, or the folder holds other parts.
        MissingExtraError: Ray Data is not installed, or what a file or the model needs.
    """
    import_ray("data")
    model, output = model.resolve(), output.resolve()
    source = Section(source.path.resolve() if str(source.path) != "-" else source.path, source.form)
    sections = cut(source.path, source.form, lines=lines)
    served = Served.of(load(model), model)
    served.answerer.predictor.choose(tasks)
    parts = Parts(output, sections, columns_of(source) if form_of(output) == "parquet" else ())
    identity = _identity(source)
    parts.prepare(
        {
            "input": identity,
            "form": source.form,
            "model": served.digest,
            "tasks": tasks,
            "lines": [lines, len(sections)],
        }
    )
    found = {number: counts for number in range(len(sections)) if (counts := parts.finished(number)) is not None}
    if not keep:
        found = {number: counts for number, counts in found.items() if not counts.bad}
    begin(len(sections), len(found))
    total = sum((found[number] for number in sorted(found)), Counts())
    missing = [number for number in range(len(sections)) if number not in found]
    if missing:
        with connected(cpus=(replicas.least if replicas else 1) * threads, what="the workers"):
            for counts in _run(model, parts, missing, replicas, threads=threads, tasks=tasks, keep=keep):
                total += counts
                tick(counts.rows)
    if _identity(source) != identity:
        raise ReadError(f"{source.path}: was changed while it was read; the answers are in {parts.folder}")
    parts.join()
    return total


def _identity(source: Section) -> list[Any]:
    try:
        found = source.path.stat()
    except OSError as error:
        raise ReadError(f"{source.path}: cannot be read: {error}") from error
    return [str(source.path), found.st_size, found.st_mtime_ns]


def _run(
    model: Path,
    parts: Parts,
    missing: Sequence[int],
    replicas: Replicas | None,
    *,
    threads: int,
    tasks: Sequence[str] | None,
    keep: bool,
) -> Iterator[Counts]:
    """Counts of parts, in the order in which they are finished."""
    data = import_ray("data")
    ray = import_ray()
    context = data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    for name in ("ray.data", "ray"):
        logging.getLogger(name).setLevel(logging.ERROR)
    if replicas is None:
        replicas = Replicas(1, max(1, int(ray.cluster_resources().get("CPU", 1)) // threads))
    most = min(replicas.most, len(missing))
    answered = data.from_items([{"id": number} for number in missing], override_num_blocks=len(missing)).map_batches(
        Answering,
        fn_constructor_args=(model, parts, tasks, keep, threads),
        batch_size=1,
        num_cpus=threads,
        compute=data.ActorPoolStrategy(min_size=min(replicas.least, most), max_size=most),
    )
    done = 0
    try:
        for row in answered.iter_rows():
            if row["failed"]:
                rest = f"{len(parts.sections) - len(missing) + done} of {len(parts.sections)} parts are finished in"
                raise ReadError(
                    f"{row['failed']}; {rest} {parts.folder}: the same command goes on from there, and "
                    "--bad-rows keep goes past bad rows"
                )
            done += 1
            yield Counts(row["rows"], row["bad"], row["first"] or None)
    except ray.exceptions.RayError as error:
        last = [line for line in str(error).splitlines() if line.strip()][-1].strip()
        raise RunError(
            f"a worker of the Ray cluster failed: {last[:300]}; finished parts stay in {parts.folder}, and the same "
            "command goes on from there"
        ) from error
