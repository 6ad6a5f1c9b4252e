"""The queue: what is computed together, when, and what is not computed at all."""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from palmette.predictor import Input
from palmette.serving import batcher as batching
from palmette.serving.batcher import Batcher, Job, QueueFullError, cost
from palmette.serving.metrics import Metrics
from palmette.serving.model import Served
from palmette.serving.observing import Answered, Gallery
from palmette.types import Prediction

TOKENS = 16  # cost of TEXT
TEXT = "x" * 4 * (TOKENS - 3)


class Recorder:
    """A predictor that keeps what it was asked, and waits until it may answer."""

    def __init__(self, *, open_: bool = True, seconds: float = 0.0) -> None:
        self.batches: list[list[Any]] = []
        self.tasks: list[list[Any]] = []
        self.gate = threading.Event()
        self.begun = threading.Semaphore(0)
        self.seconds = seconds
        if open_:
            self.gate.set()

    def example(self, given: Input) -> Input:
        return given

    def answer_each(self, examples: Sequence[Any], tasks: Sequence[Any]) -> list[dict[str, Prediction]]:
        self.batches.append(list(examples))
        self.tasks.append(list(tasks))
        self.begun.release()
        assert self.gate.wait(10)
        time.sleep(self.seconds)
        if "poison" in examples:
            raise ValueError("secret words")
        return [{"t": Prediction(str(example), 0.5)} for example in examples]

    def render(self, example: Any, _: dict[str, Prediction]) -> dict[str, Any]:
        return {"text": example, "value": math.nan if example == "nan" else 1.0}


def served(predictor: Recorder) -> Served:
    answerer: Any = SimpleNamespace(predictor=predictor, kinds={"t": None})
    return Served(answerer, {}, "digest", "")


class Caller:
    """Submits jobs and waits for them."""

    def __init__(self, batcher: Batcher, model: Served) -> None:
        self.batcher = batcher
        self.model = model

    def submit(self, *inputs: Input, tasks: Sequence[str] | None = None, explain: bool = False) -> Job:
        job = Job(self.model, inputs, tasks, lambda: None, explain=explain)
        self.batcher.submit(job)
        return job

    def hold(self) -> Job:
        """Busy the only worker with a text of its own, until the gate opens."""
        job = self.submit("held")
        recorder: Any = self.model.answerer.predictor
        assert recorder.begun.acquire(timeout=10)
        return job


Make = Callable[..., Caller]


@pytest.fixture
def make() -> Iterator[Make]:
    made: list[Caller] = []

    def build(recorder: Recorder, **options: Any) -> Caller:
        made.append(Caller(Batcher(Metrics(), **{"batch_tokens": 4 * TOKENS, **options}), served(recorder)))
        return made[-1]

    yield build
    for caller in made:
        recorder: Any = caller.model.answerer.predictor
        recorder.gate.set()
        caller.batcher.close()


def wait(*jobs: Job) -> None:
    limit = time.monotonic() + 10
    while not all(job.done for job in jobs):
        assert time.monotonic() < limit
        time.sleep(0.001)


def value(caller: Caller, name: str, **labels: str) -> float:
    return caller.batcher._metrics.registry.get_sample_value(name, labels) or 0.0


def test_cost_follows_length_in_any_script_and_counts_empty_words() -> None:
    assert cost(TEXT) == TOKENS
    assert cost("") == 3
    assert cost("漢" * 40) > cost("x" * 40)
    assert cost([""] * 100) == 103
    assert cost(("a", "b")) == cost("a") + cost("b")
    assert cost("\ud800") > 0


def test_requests_with_different_tasks_are_computed_together(make: Make) -> None:
    recorder = Recorder(open_=False)
    caller = make(recorder)
    held = caller.hold()
    jobs = [caller.submit("one", tasks=["a"]), caller.submit("two", tasks=["b"]), caller.submit("three")]
    recorder.gate.set()
    wait(held, *jobs)
    assert recorder.batches == [["held"], ["one", "two", "three"]]
    assert recorder.tasks[1] == [["a"], ["b"], None]
    assert value(caller, "palmette_batch_requests_sum") == 4
    assert value(caller, "palmette_batch_texts_sum") == 4
    assert value(caller, "palmette_texts_total", task="t") == 4
    assert value(caller, "palmette_queue_wait_seconds_count") == 4


def test_a_batch_keeps_to_the_budget_and_a_longer_text_goes_alone(make: Make) -> None:
    recorder = Recorder(open_=False)
    caller = make(recorder)
    held = caller.hold()
    long = TEXT * 9
    jobs = [caller.submit("first"), caller.submit(long), *(caller.submit(TEXT) for _ in range(5))]
    recorder.gate.set()
    wait(held, *jobs)
    assert [long] in recorder.batches
    for batch in recorder.batches:
        assert len(batch) == 1 or sum(map(cost, batch)) <= 4 * TOKENS
    # It found no room in the batch of the first text, kept its place, and came next.
    assert recorder.batches[2] == [long]


def test_a_large_request_lets_a_small_one_through(make: Make) -> None:
    recorder = Recorder(open_=False)
    caller = make(recorder)
    held = caller.hold()
    large = caller.submit(*[TEXT] * 1000)
    small = caller.submit("small")
    recorder.gate.set()
    wait(held, small, large)
    assert "small" in recorder.batches[1]
    assert large.answers == [large.answers[0]] * 1000


def test_who_computes_beside_others_takes_part_of_the_threads(make: Make) -> None:
    whole, part = Recorder(open_=False), Recorder(open_=False)
    caller = make(whole, workers=2)
    caller.model = replace(caller.model, beside=part)  # type: ignore[arg-type]  # it is asked like a predictor
    first = caller.hold()
    second = caller.submit("second")
    assert part.begun.acquire(timeout=10)
    part.gate.set()
    wait(second)
    whole.gate.set()
    wait(first)
    last = caller.submit("last")
    wait(last)
    assert (whole.batches, part.batches) == ([["held"], ["last"]], [["second"]])


def test_a_worker_that_leaves_texts_to_others_takes_part_of_the_threads(make: Make) -> None:
    whole, part = Recorder(), Recorder()
    caller = make(whole, workers=2)
    caller.model = replace(caller.model, beside=part)  # type: ignore[arg-type]  # it is asked like a predictor
    wait(caller.submit(*[TEXT] * 100))
    assert len(part.batches) + len(whole.batches) == 25
    assert len(whole.batches) < 25


def test_answers_keep_the_order_of_the_request(make: Make) -> None:
    recorder = Recorder()
    caller = make(recorder, workers=3)
    texts = [f"{number} " + "x" * (number % 7) * 20 for number in range(300)]
    job = caller.submit(*texts)
    wait(job)
    assert [json.loads(answer or b"")["text"] for answer in job.answers] == texts


def test_who_would_wait_too_long_is_refused_before_the_queue_is_full(make: Make) -> None:
    recorder = Recorder(seconds=0.2)
    caller = make(recorder, batch_tokens=4 * TOKENS, queue_seconds=0.5)
    wait(caller.submit(*[TEXT] * 4))  # 20 texts a second
    held = caller.hold()
    large = caller.submit(*[TEXT] * 100)  # five seconds of work, but it gives way at every turn
    small = [caller.submit(TEXT) for _ in range(9)]
    with pytest.raises(QueueFullError):
        caller.batcher.check_room()
    with pytest.raises(QueueFullError):
        caller.submit(TEXT)
    for job in (held, large, *small):
        caller.batcher.cancel(job)
    caller.batcher.check_room()


def test_a_cancelled_job_is_not_computed_and_gives_its_room_back(make: Make) -> None:
    recorder = Recorder(open_=False)
    caller = make(recorder, queue_tokens=10 * TOKENS)
    held = caller.hold()
    left = caller.submit(*[TEXT] * 9)
    with pytest.raises(QueueFullError) as full:
        caller.submit(TEXT, TEXT)
    assert full.value.seconds >= 1
    caller.batcher.cancel(left)
    caller.batcher.cancel(left)
    assert value(caller, "palmette_queue_tokens") == 0
    stays = caller.submit("stays")
    recorder.gate.set()
    wait(held, stays)
    assert recorder.batches == [["held"], ["stays"]]
    assert value(caller, "palmette_dropped_texts_total") == 9


def test_a_job_larger_than_the_queue_is_taken_when_nothing_waits(make: Make) -> None:
    caller = make(Recorder(), queue_tokens=TOKENS)
    job = caller.submit(*[TEXT] * 50)
    wait(job)
    assert job.error is None


def test_one_broken_text_fails_its_own_request_only(make: Make) -> None:
    recorder = Recorder(open_=False)
    caller = make(recorder)
    held = caller.hold()
    good, bad, other = caller.submit("good"), caller.submit("poison", "after"), caller.submit("other")
    recorder.gate.set()
    wait(held, good, bad, other)
    assert isinstance(bad.error, ValueError)
    assert good.error is other.error is None
    later = caller.submit("later")
    wait(later)
    assert later.missing == 0
    assert value(caller, "palmette_queue_tokens") == 0


def test_what_is_no_number_is_null(make: Make) -> None:
    job = make(Recorder()).submit("nan")
    wait(job)
    assert json.loads(job.answers[0] or b"") == {"text": "nan", "value": None}


class Portions:
    """Explanations of a number of portions; each goes on only when it is let."""

    def __init__(self, portions: int) -> None:
        self.portions = portions
        self.computed = 0
        self.begun = threading.Semaphore(0)
        self.let = threading.Semaphore(0)

    def __call__(self, _: Any, example: Any, __: Any, *, tokens: int) -> Iterator[dict[str, Any] | None]:
        for number in range(self.portions):
            if number:
                yield None
            self.begun.release()
            assert self.let.acquire(timeout=10)
            if example == "poison":
                raise ValueError("secret words")
            self.computed += 1
        yield {"text": example, "explained": tokens}


@pytest.fixture
def portions(monkeypatch: pytest.MonkeyPatch) -> Portions:
    found = Portions(5)
    monkeypatch.setattr(batching, "by_portions", found)
    return found


def test_between_portions_of_an_explanation_others_have_their_turns(make: Make, portions: Portions) -> None:
    recorder = Recorder()
    caller = make(recorder, queue_tokens=100 * TOKENS)
    long = caller.submit(TEXT * 9, "b", explain=True)
    assert portions.begun.acquire(timeout=10)
    small = [caller.submit("one"), caller.submit("two")]
    portions.let.release()
    wait(*small)
    assert recorder.batches == [["one", "two"]]
    assert portions.computed == 1
    assert value(caller, "palmette_queue_tokens") == cost(TEXT * 9) + cost("b")
    for _ in range(9):
        portions.let.release()
    wait(long)
    assert [json.loads(answer or b"") for answer in long.answers] == [
        {"text": text, "explained": 4 * TOKENS} for text in (TEXT * 9, "b")
    ]
    assert value(caller, "palmette_queue_tokens") == 0
    wait(caller.submit("later"))


def test_a_cancelled_explanation_stops_at_the_next_portion(make: Make, portions: Portions) -> None:
    caller = make(Recorder())
    job = caller.submit(TEXT, TEXT, explain=True)
    assert portions.begun.acquire(timeout=10)
    caller.batcher.cancel(job)
    assert value(caller, "palmette_queue_tokens") == 0
    assert value(caller, "palmette_dropped_texts_total") == 2
    for _ in range(9):
        portions.let.release()
    wait(caller.submit("later"))
    assert portions.computed == 1
    assert job.answers == [None, None]


def test_an_explanation_that_breaks_fails_its_own_request_only(make: Make, portions: Portions) -> None:
    caller = make(Recorder())
    bad = caller.submit("poison", TEXT, explain=True)
    good = caller.submit("good")
    portions.let.release()
    wait(bad, good)
    assert isinstance(bad.error, ValueError)
    assert good.error is None
    assert value(caller, "palmette_queue_tokens") == 0


def test_a_second_long_explanation_is_refused_and_a_small_text_is_not(make: Make, portions: Portions) -> None:
    caller = make(Recorder(seconds=0.1), queue_seconds=0.5)
    wait(caller.submit(*[TEXT] * 4))  # 640 subwords a second
    job = caller.submit(TEXT * 9, explain=True)  # 20,000 of them
    assert portions.begun.acquire(timeout=10)
    with pytest.raises(QueueFullError) as full:
        caller.submit(TEXT * 9, explain=True)
    assert full.value.seconds > 10
    small = caller.submit("small")
    caller.batcher.cancel(job)
    portions.let.release()
    wait(small)


def test_what_is_being_computed_counts(make: Make) -> None:
    recorder = Recorder(seconds=0.05)
    caller = make(recorder, queue_seconds=0.5)
    wait(caller.submit(*[TEXT] * 4))
    recorder.gate.clear()
    recorder.begun.acquire()
    long = caller.submit(TEXT * 90)
    assert recorder.begun.acquire(timeout=10)
    with pytest.raises(QueueFullError):
        caller.submit("small")
    recorder.gate.set()
    wait(long)
    caller.batcher.check_room()


def test_texts_of_two_models_are_not_mixed(make: Make) -> None:
    recorder, newer = Recorder(open_=False), Recorder()
    caller = make(recorder)
    held = caller.hold()
    old = caller.submit("old")
    new = Job(served(newer), ["new"], None, lambda: None)
    caller.batcher.submit(new)
    old_too = caller.submit("old too")
    recorder.gate.set()
    wait(held, old, new, old_too)
    assert recorder.batches == [["held"], ["old", "old too"]]
    assert newer.batches == [["new"]]


def test_closing_works_off_what_was_accepted_and_takes_no_more() -> None:
    recorder = Recorder()
    caller = Caller(Batcher(Metrics(), batch_tokens=TOKENS), served(recorder))
    jobs = [caller.submit(*[TEXT] * 20) for _ in range(5)]
    caller.batcher.close()
    assert all(job.missing == 0 for job in jobs)
    with pytest.raises(RuntimeError, match="closed"):
        caller.submit("late")


def test_nobody_waits_after_an_idle_time_and_one_caller_never_waits(make: Make) -> None:
    caller = make(Recorder(), longest_wait=5.0)
    begun = time.monotonic()
    for _ in range(5):
        wait(caller.submit("alone"))
    assert time.monotonic() - begun < 4


def test_under_load_a_worker_waits_for_those_it_has_just_answered(make: Make) -> None:
    recorder = Recorder(open_=False, seconds=0.6)
    caller = make(recorder, longest_wait=1.0)
    held = caller.hold()
    first = [caller.submit(f"first {number}") for number in range(3)]
    recorder.gate.set()
    wait(held, *first)
    second = []
    for number in range(3):  # not at once, but within a quarter of the 0.6 s that the batch took
        second.append(caller.submit(f"second {number}"))
        time.sleep(0.005)
    wait(*second)
    assert recorder.batches[2] == ["second 0", "second 1", "second 2"]
    wait(*(third := [caller.submit("third")]))
    wait(*(fourth := [caller.submit("fourth")]))
    waits = [(job.started or 0) - job.submitted for job in third + fourth]
    assert 0.14 < waits[0] < 0.5, "waited for two more, in vain, and no longer than the limit"
    assert waits[1] < 0.12, "and expects no more of them"


class Onlooker:
    """Keeps what it saw; fails at what it is told to."""

    def __init__(self, *, fails: bool = False) -> None:
        self.seen: list[Answered] = []
        self.fails = fails
        self.closed = False

    def answered(self, answers: Sequence[Answered]) -> None:
        if self.fails:
            raise ValueError("secret words")
        self.seen += answers

    def close(self) -> None:
        self.closed = True


def test_observers_see_every_answer_once_and_one_that_fails_harms_nobody() -> None:
    good, bad, metrics = Onlooker(), Onlooker(fails=True), Metrics()
    gallery = Gallery([bad, good], metrics)
    batcher = Batcher(metrics, gallery)
    job = Caller(batcher, served(Recorder())).submit("a", "b")
    batcher.close()
    gallery.close()
    assert all(answer is not None for answer in job.answers)
    assert [(answer.number, answer.predictions["t"].label) for answer in good.seen] == [(0, "a"), (1, "b")]
    assert good.closed
    assert b'palmette_observer_errors_total{observer="Onlooker"} 1.0' in metrics.render()


def test_what_observers_are_too_slow_for_is_counted() -> None:
    metrics = Metrics()
    gallery = Gallery([onlooker := Onlooker()], metrics, texts=1)
    batcher = Batcher(metrics, gallery)
    Caller(batcher, served(Recorder())).submit("a", "b")
    batcher.close()
    gallery.close()
    assert not onlooker.seen
    assert b"palmette_unobserved_texts_total 2.0" in metrics.render()
