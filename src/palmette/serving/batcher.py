"""Texts of many requests, each with tasks of its own, computed together. Threads only: knows nothing of HTTP."""

from __future__ import annotations

import json
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from palmette.explain import MOST, by_portions
from palmette.predictor import AnyPredictor, Input, Predictor, Reading
from palmette.serving.logs import log
from palmette.serving.metrics import Metrics
from palmette.serving.model import Served
from palmette.serving.observing import Answered, Gallery
from palmette.types import Prediction
from palmette.writing.predictor import Aloud

_SPECIAL = 3  # special tokens around a text
_BYTES_A_SUBWORD = 4  # of English in UTF-8; a character of most other scripts takes two to four bytes
_TURNS = 4  # requests whose turns fill a batch


class QueueFullError(Exception):
    """The queue has no room now.

    Attributes:
        seconds: until it should have some.
    """

    def __init__(self, seconds: int) -> None:
        super().__init__(f"the queue is full for about {seconds} s")
        self.seconds = seconds


def cost(given: Input) -> int:
    """About how many subwords an input has. An estimate by length: to count them would be half of the work."""
    if isinstance(given, str):
        return _SPECIAL + _size(given) // _BYTES_A_SUBWORD
    if isinstance(given, tuple):
        return sum(map(cost, given))
    return _SPECIAL + max(len(given), sum(map(_size, given)) // _BYTES_A_SUBWORD)


def _size(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


class Job:
    """The texts of one request on their way through the queue.

    Args:
        model: what answers them.
        inputs: the texts; at least one.
        tasks: which tasks; None for all that take a text.
        notify: called from a worker's thread whenever answers have been added, or the error.
        explain: say which words carried the answers.
        tokens: tell what is being written (`growing`).
        request_id: for the log.
        key: what the request is told apart by where models share the traffic; by default its id.

    Attributes:
        answers: rendered JSON of each text, as they become ready.
        growing: the newest text of what is being written, by number of the text and task, until it is fetched.
        error: why there will be no more.
    """

    def __init__(
        self,
        model: Served,
        inputs: Sequence[Input],
        tasks: Sequence[str] | None,
        notify: Callable[[], None],
        *,
        explain: bool = False,
        tokens: bool = False,
        request_id: str = "",
        key: str = "",
    ) -> None:
        self.model = model
        self.inputs = inputs
        self.tasks = tasks
        self.notify = notify
        self.request_id = request_id
        self.key = key or request_id
        self.explain = explain
        self.tokens = tokens
        self.growing: dict[tuple[int, str], str] = {}
        self.costs = [cost(given) for given in inputs]
        # An explanation computes a text once more without each of its words.
        self._work = [needed * (1 + min(needed, MOST)) for needed in self.costs] if explain else self.costs
        self.explaining: Iterator[dict[str, Any] | None] | None = None  # the explanation that was begun
        self.portion = 0  # cost of what was last taken of it
        self.answers: list[bytes | None] = [None] * len(inputs)
        self.error: BaseException | None = None
        self.cancelled = False
        self.submitted = time.monotonic()
        self.started: float | None = None
        self.finished: float | None = None
        self.missing = len(inputs)
        self.waiting = sum(self._work)  # cost of what no worker has taken yet
        self.stored = sum(self.costs)  # cost of the texts that are kept for that
        self._next = 0

    @property
    def done(self) -> bool:
        """Whether nothing more will come."""
        return self.missing == 0 or self.error is not None

    def again(self, model: Served) -> Job:
        """The same request, to be answered by another model."""
        return Job(
            model,
            self.inputs,
            self.tasks,
            self.notify,
            explain=self.explain,
            tokens=self.tokens,
            request_id=self.request_id,
            key=self.key,
        )

    def grown(self, first: int) -> Iterator[bytes]:
        """Lines of what has been written since the last call, of the texts from `first` on: the others are answered."""
        while self.growing:
            (number, task), written = self.growing.popitem()
            if number >= first:
                yield _dump({"number": number, "task": task, "written": written}) + b"\n"

    def take(self, *, turn: int, room: int, forced: bool) -> list[int]:
        """The next texts: what fits into a turn, but at least one if there is room for it, or if `forced`."""
        taken: list[int] = []
        spent = 0
        while self._next < len(self.inputs):
            needed = self.costs[self._next]
            if spent + needed > (min(turn, room) if taken else room) and (taken or not forced):
                break
            taken.append(self._next)
            spent += needed
            self._next += 1
        self.waiting -= spent
        self.stored -= spent
        return taken

    def take_portion(self, most: int) -> int:
        """The text of which a portion of the explanation is to be computed; it stays here until `explained`."""
        left = self._work[self._next]
        # An estimate: what is left of it is not nothing before the end.
        self.portion = max(1, min(most, left - 1))
        self._work[self._next] -= min(self.portion, left - 1)
        self.waiting -= min(self.portion, left - 1)
        return self._next

    def explained(self) -> None:
        """The text of which portions were taken is done."""
        self.waiting -= self._work[self._next]
        self.stored -= self.costs[self._next]
        self._next += 1

    def drop(self) -> int:
        """Take no more of it; how many texts that leaves out."""
        left = len(self.inputs) - self._next
        self._next, self.waiting, self.stored, self.cancelled = len(self.inputs), 0, 0, True
        return left


class Batcher:
    """A queue of jobs and the threads that work it off.

    *What goes together.* A worker takes texts until `batch_tokens` are full; a longer text goes alone. Jobs take turns,
    a quarter of a batch each: a request of 1,000 texts does not hold up a single text, and an ordinary request is done
    in one turn. A job whose next text found no room keeps its place, so that it comes first soon. Texts of two models
    (around a reload) are never mixed.

    *Explanations.* One text may cost as much as hundreds. So it is explained by portions of `batch_tokens`, each
    computed alone, and the job queues up again after each.

    *When to wait for more.* After an idle time, never: the first text goes at once. Under load, callers who have just
    been answered are about to ask again, and taking the first of them alone would leave the others for a second batch.
    So a worker that finds fewer requests than were there one batch before waits until as many have come, the batch is
    full, or the limit is over: `longest_wait`, or a quarter of what the last batch took, if that is less. Who waited in
    vain expects fewer next time. A single caller, who asks one thing after the other, never waits.

    *Alone or not.* A batch beside which no other is computed or waits has all of the engine's threads; else each worker
    has its part of them (`Served.predictor`).

    *What is not computed.* Texts of a cancelled job (the caller went away, or its time is up) leave the queue at once.

    Words are found and subwords made in the workers, not where requests are accepted.

    Args:
        metrics: what to count with.
        gallery: who looks at the answers; nobody by default.
        batch_tokens, queue_tokens, queue_seconds, longest_wait, workers: see `ServerSettings`.
    """

    def __init__(
        self,
        metrics: Metrics,
        gallery: Gallery | None = None,
        *,
        batch_tokens: int = 2048,
        queue_tokens: int = 65_536,
        queue_seconds: float = 5.0,
        longest_wait: float = 0.005,
        workers: int = 1,
    ) -> None:
        self._metrics = metrics
        self._gallery = gallery or Gallery((), metrics)
        self._batch_tokens = batch_tokens
        self._queue_tokens = queue_tokens
        self._queue_seconds = queue_seconds
        self._longest_wait = longest_wait
        self._queue: deque[Job] = deque()
        self._queued = 0  # cost of all texts that wait
        self._explained: list[Job] = []  # by portions, one of which is being computed
        self._computing = 0  # cost of what workers have taken
        self._changed = threading.Condition()
        self._closed = False
        self._crowd = 1  # requests that were there one batch before
        self._took = 0.0  # seconds of the last batch
        self._rate: float | None = None  # subwords a second, smoothed; unknown before the first full batch
        # Word rules share a cache; finding words holds the interpreter anyway.
        self._words = threading.Lock()
        metrics.watch_queue(lambda: len(self._queue), lambda: self._queued)
        self._threads = [
            threading.Thread(target=self._work, name=f"palmette-worker-{number}", daemon=True)
            for number in range(workers)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, job: Job) -> None:
        """Accept a job.

        A job that is larger than the whole queue is accepted when nothing else waits.

        Raises:
            QueueFullError: there is no room for it now.
            RuntimeError: the batcher was closed.
        """
        with self._changed:
            if self._closed:
                raise RuntimeError("the batcher is closed")
            self.check_room(job.stored, work=job.waiting)
            self._queue.append(job)
            self._queued += job.stored
            self._changed.notify()

    def check_room(self, tokens: int = 1, *, work: int = 1) -> None:
        """Refuse what would find no room. Asked before a body is read, it costs a full server next to nothing.

        The queue is bounded twice: in subwords, for the memory, and in seconds, so that whoever is accepted is answered
        in time, and who would not be can go elsewhere at once. The seconds are those until a request of this size would
        have had its turns: one of 1,000 texts, or an explanation, shuts nobody out.

        Args:
            tokens: that are to be added.
            work: what they cost; more than the texts have, where they are to be explained.

        Raises:
            QueueFullError: there is no room for them now.
        """
        turn = self._batch_tokens // _TURNS
        turns = turn * -(-work // turn)
        with self._changed:
            ahead = self._computing
            for job in (*self._queue, *self._explained):
                ahead += min(job.waiting, max(turns, self._batch_tokens) if job.explain else turns)
            seconds = ahead / self._rate if self._rate else 0.0
            if self._queued and self._queued + tokens > self._queue_tokens:
                seconds = max(seconds, self._queued / self._rate if self._rate else 0.0)
            elif seconds <= self._queue_seconds:
                return
            raise QueueFullError(min(60, max(1, math.ceil(seconds))))

    def cancel(self, job: Job) -> None:
        """Compute no more of a job; what is being computed is thrown away."""
        with self._changed:
            if not job.done and not job.cancelled:
                self._metrics.dropped.inc(self._withdraw(job))

    def _withdraw(self, job: Job) -> int:
        self._queued -= job.stored
        if job in self._queue:
            self._queue.remove(job)
        return job.drop()

    def close(self) -> None:
        """Work off what was accepted, then end the threads. The gallery stays open: others may use it."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while found := self._next_batch():
            self._serve(*found)
            del found  # a model that has been replaced shall not stay in memory until the next request

    def _serve(self, batch: Sequence[tuple[Job, int]], alone: bool) -> None:
        begun = time.monotonic()
        tokens = _tokens(batch)
        self._compute(batch, batch[0][0].model.predictor(alone=alone))
        with self._changed:
            self._took = time.monotonic() - begun
            self._computing -= tokens
            self._put_back(batch[0][0])
            if tokens < self._batch_tokens / 2:
                return  # says nothing about what a full queue takes
            rate = tokens / max(self._took, 1e-4) * (1 if alone else len(self._threads))
            self._rate = rate if self._rate is None else self._rate + 0.2 * (rate - self._rate)

    def _put_back(self, job: Job) -> None:
        """Of an explanation, a portion is done: the next waits for its turn."""
        if job in self._explained:
            self._explained.remove(job)
            if job.waiting:
                self._queue.append(job)
                self._changed.notify()

    def _next_batch(self) -> tuple[list[tuple[Job, int]], bool] | None:
        """What to compute next, and whether no other worker computes or is about to; None: nothing more will come."""
        with self._changed:
            while True:
                idle = time.monotonic()
                while not self._queue:
                    if self._closed:
                        return None
                    self._changed.wait()
                if time.monotonic() - idle > self._longest_wait:
                    self._crowd = 1
                self._gather()
                if self._queue:  # nobody cancelled, no other worker took it
                    batch = self._portion() if self._queue[0].explain else self._fill()
                    alone = not self._computing and not self._queue
                    self._computing += _tokens(batch)
                    return batch, alone

    def _gather(self) -> None:
        """Wait for more where the rule says so."""
        limit = time.monotonic() + min(self._longest_wait, self._took / 4)
        while len(self._queue) < self._crowd and self._queued < self._batch_tokens and not self._closed:
            left = limit - time.monotonic()
            if left <= 0:
                return
            self._changed.wait(left)

    def _portion(self) -> list[tuple[Job, int]]:
        """Take a portion of the explanation that comes first."""
        self._crowd = len(self._queue)
        job = self._queue.popleft()
        self._explained.append(job)
        return [(job, job.take_portion(self._batch_tokens))]

    def _fill(self) -> list[tuple[Job, int]]:
        """Take a batch off the queue."""
        batch: list[tuple[Job, int]] = []
        self._crowd = len(self._queue)
        model = self._queue[0].model
        turns = deque(job for job in self._queue if job.model is model and not job.explain)
        room = self._batch_tokens
        while turns:
            job = turns.popleft()
            before = job.stored
            taken = job.take(turn=self._batch_tokens // _TURNS, room=room, forced=not batch)
            if not taken:
                continue
            batch += [(job, number) for number in taken]
            room -= before - job.stored
            self._queued -= before - job.stored
            self._queue.remove(job)
            if job.waiting:
                self._queue.append(job)
                turns.append(job)
        return batch

    def _compute(self, batch: Sequence[tuple[Job, int]], predictor: AnyPredictor) -> None:
        """Answer a batch and tell the jobs. Whatever goes wrong ends the jobs concerned, never the thread."""
        now = time.monotonic()
        jobs = list(dict.fromkeys(job for job, _ in batch))
        for job in jobs:
            if job.started is None:
                job.started = now
                self._metrics.queue_wait.observe(now - job.submitted)
        self._metrics.batch_texts.observe(len(batch))
        self._metrics.batch_requests.observe(len(jobs))
        self._metrics.batch_tokens.observe(_tokens(batch))
        try:
            explained = self._explain(*batch[0]) if jobs[0].explain else None
            if jobs[0].explaining is not None:
                return
            answers, seen = self._answer(batch, predictor, explained)
        except BaseException as error:  # noqa: BLE001 - a panic of the tokenizers is no Exception
            if len(jobs) > 1:
                # One of them is at fault; the others are strangers to it.
                log("batch failed, its requests are computed apart", level=logging.WARNING, error=error)
                for job in jobs:
                    self._compute([(owner, number) for owner, number in batch if owner is job], predictor)
                return
            log("computing failed", level=logging.ERROR, error=error, request_id=jobs[0].request_id)
            with self._changed:
                jobs[0].error = error
                self._withdraw(jobs[0])
            jobs[0].notify()
            return
        self._deliver(batch, answers)
        self._gallery.show(seen)

    def _explain(self, job: Job, number: int) -> dict[str, Any] | None:
        """Compute a portion of an explanation; the explained answer after the last."""
        predictor = job.model.answerer.predictor
        if job.explaining is None:
            with self._words:
                example = predictor.example(job.inputs[number])
            job.explaining = by_portions(predictor, example, job.tasks, tokens=self._batch_tokens)
        answer = next(job.explaining)
        if answer is not None:
            job.explaining = None
        return answer

    def _answer(
        self, batch: Sequence[tuple[Job, int]], predictor: AnyPredictor, explained: dict[str, Any] | None
    ) -> tuple[list[bytes], list[Answered]]:
        """The rendered answers of a batch, and what observers see of them.

        Args:
            batch: the texts.
            predictor: what answers them.
            explained: the answer over the only text, if it was asked to be explained.
        """
        with self._words:
            examples = [predictor.example(job.inputs[number]) for job, number in batch]
        tasks = [job.tasks for job, _ in batch]
        readings: Sequence[Reading | None] = [None] * len(batch)
        if isinstance(predictor, Predictor) and self._gallery.reads(batch[0][0].model):
            readings, found = predictor.embedded(examples, tasks)
        elif isinstance(predictor, Aloud) and any(job.tokens for job, _ in batch):
            found = predictor.answer_aloud(examples, tasks, partial(_tell, batch))
        else:
            found = predictor.answer_each(examples, tasks)
        by_task: dict[str, list[Prediction]] = {}
        for predictions in found:
            for task, prediction in predictions.items():
                by_task.setdefault(task, []).append(prediction)
        for task, answers in by_task.items():
            self._metrics.predicted(task, answers)
        pairs = zip(examples, found, strict=True)
        rendered = [predictor.render(*pair) for pair in pairs] if explained is None else [explained]
        seen = [
            Answered(job.model, job.request_id, number, example, predictions, job.key, reading)
            for (job, number), example, predictions, reading in zip(batch, examples, found, readings, strict=True)
        ]
        return [_dump(answer) for answer in rendered], seen

    def _deliver(self, batch: Sequence[tuple[Job, int]], answers: Sequence[bytes]) -> None:
        with self._changed:
            for (job, number), answer in zip(batch, answers, strict=True):
                job.answers[number] = answer
                job.missing -= 1
                if job.explain and not job.cancelled:
                    self._queued -= job.costs[number]
                    job.explained()
            jobs = dict.fromkeys(job for job, _ in batch)
            for job in jobs:
                if job.missing == 0:
                    job.finished = time.monotonic()
        for job in jobs:
            job.notify()


def _tokens(batch: Sequence[tuple[Job, int]]) -> int:
    """What a batch costs; an explanation is alone in its batch."""
    return sum(job.portion if job.explain else job.costs[number] for job, number in batch)


def _tell(batch: Sequence[tuple[Job, int]], place: int, task: str, written: str) -> None:
    """Pass on to its job what is being written; of a job that is slow to fetch it, the newest text only is kept."""
    job, number = batch[place]
    if job.tokens:
        job.growing[number, task] = written
        job.notify()


def _dump(answer: dict[str, Any]) -> bytes:
    """JSON, which has no NaN and no infinity: null stands for them."""
    try:
        text = json.dumps(answer, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except ValueError:
        text = json.dumps(_finite(answer), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.encode("utf-8")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
