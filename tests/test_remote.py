"""The remote writer against a real server: what it pays, what it keeps, what it does when things go wrong."""

from __future__ import annotations

import json
import logging
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio
import hypothesis
import pytest
from hypothesis import strategies as st

import palmette
from endpoint import Endpoint, Reply, served
from fakes import tiny_corpora
from palmette.config import Config, EndpointConfig, TaskConfig
from palmette.errors import BudgetError, ConfigError, PalmetteError, RunError
from palmette.kinds import find_kind
from palmette.types import Example, Text
from palmette.writing.ledger import Ledger
from palmette.writing.predictor import WritingPredictor
from palmette.writing.prompts import Prompter
from palmette.writing.remote import RemoteWriter
from palmette.writing.wire import prompt_bound, read_usage, retry_after, server_message
from palmette.writing.writer import Request, Writer, Written

KEY = "sk-thekey/0123456789-that-nobody-may-see"

Make = Callable[..., RemoteWriter]


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[Endpoint]:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with served() as endpoint:
        yield endpoint


class Sleeps:
    """Waits that take no time, and are kept."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)
        await anyio.lowlevel.checkpoint()


@pytest.fixture
def sleeps() -> Sleeps:
    return Sleeps()


@pytest.fixture
def make(endpoint: Endpoint, sleeps: Sleeps, tmp_path: Path) -> Iterator[Make]:
    made: list[RemoteWriter] = []

    def build(**settings: Any) -> RemoteWriter:
        config = EndpointConfig(**{"base_url": endpoint.url, "model": "m", "token_budget": 10**6, **settings})
        answers = tmp_path / f"run-{len(made)}" / "answers.sqlite"
        made.append(RemoteWriter(config, answers, clock=lambda: 100.0, sleep=sleeps, jitter=lambda low, _: low))
        return made[-1]

    yield build
    for writer in made:
        writer.close()


def ask(text: str, longest: int = 20) -> Request:
    return Request(({"role": "user", "content": text},), longest)


def wait(condition: Callable[[], bool]) -> None:
    limit = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.002)


def texts(answers: list[Written]) -> list[str]:
    return [answer.text for answer in answers]


# The protocol


def test_answers_come_in_order_with_what_they_cost(endpoint: Endpoint, make: Make) -> None:
    endpoint.otherwise = lambda asked: Reply(seconds=0.2 if "slow" in str(asked) else 0.03)
    writer = make(concurrency=3)
    found = writer.write([ask("slow"), *(ask(f"text {number}") for number in range(8)), ask("x" * 50, longest=3)])
    assert texts(found) == ["SLOW", *(f"TEXT {number}" for number in range(8)), "XXX"]
    assert [answer.truncated for answer in found] == [False] * 9 + [True]
    assert (found[0].prompt_tokens, found[0].written_tokens) == (8, 4)
    assert sum(answer.prompt_tokens + answer.written_tokens for answer in found) == endpoint.given == writer.spent()
    assert endpoint.most == 3
    assert endpoint.keys == {f"Bearer {KEY}"}
    assert writer.counters.requests == writer.counters.texts == 10
    assert writer.counters.retries == writer.counters.cache_hits == writer.counters.lost_tokens == 0


def test_a_request_says_what_the_protocol_wants(endpoint: Endpoint, make: Make) -> None:
    turns = ({"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "ü"})
    make().write([Request(turns, 7, lambda _: ("never",))])  # type: ignore[arg-type]
    assert endpoint.seen == [{"model": "m", "messages": list(turns), "max_tokens": 7, "temperature": 0}]


def test_nothing_is_asked_for_no_requests(endpoint: Endpoint, make: Make) -> None:
    assert make().write([]) == []
    assert endpoint.seen == []


@pytest.mark.parametrize("text", ["", "half a pair: \ud800", "\x00", "🙂\u202e", "a\nb"])
def test_any_text_is_sent_answered_and_kept(endpoint: Endpoint, make: Make, tmp_path: Path, text: str) -> None:
    answer = text.replace("\ud800", "\ufffd")
    for _ in range(2):
        writer = make(cache=str(tmp_path / "answers.sqlite"))
        endpoint.otherwise = lambda _: Reply(
            change=lambda content: content["choices"][0]["message"].update(content=answer)
        )
        assert texts(writer.write([ask(text)])) == [answer]
    assert len(endpoint.seen) == 1


def test_it_writes_inside_a_running_event_loop(make: Make) -> None:
    async def notebook() -> list[Written]:
        return make().write([ask("a")])

    assert texts(anyio.run(notebook)) == ["A"]


def test_calls_from_several_threads_share_the_limits(endpoint: Endpoint, make: Make) -> None:
    endpoint.otherwise = lambda _: Reply(seconds=0.005)
    writer = make(concurrency=2)
    found: dict[int, list[str]] = {}

    def call(number: int) -> None:
        found[number] = texts(writer.write([ask(f"{number} {text}") for text in range(4)]))

    threads = [threading.Thread(target=call, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {number: [f"{number} {text}" for text in range(4)] for number in range(4)}
    assert endpoint.most <= 2
    assert writer.spent() == endpoint.given


def test_a_task_is_answered_and_what_cannot_be_read_is_counted(endpoint: Endpoint, make: Make) -> None:
    found = find_kind("text_classification")
    kind = found("mood", TaskConfig(kind="text_classification"), found.fit(["good", "bad"]))
    prompter = Prompter({"mood": kind}, {}, lambda *_: ())
    endpoint.otherwise = lambda asked: Reply(text="Bad." if "rain" in str(asked) else "who knows")
    writer: Writer = make()
    predictor = WritingPredictor({"mood": kind}, lambda raw: Text(tuple(raw.split())), writer, prompter.prompt)
    answers = predictor.answer_each([Example(Text(("rain",)), {}), Example(Text(("fog",)), {})], [["mood"], ["mood"]])
    assert answers[0]["mood"].label == "bad"
    assert [answer["mood"].readable for answer in answers] == [True, False]
    assert predictor.usage["mood"].unparseable == 1
    assert predictor.usage["mood"].prompt_tokens + predictor.usage["mood"].written_tokens == endpoint.given


# Failures that pass


@pytest.mark.parametrize(
    ("faults", "lost"),
    [
        ([Reply(429), Reply(429, {"Retry-After": "1"})], 0),
        ([Reply(500), Reply(502), Reply(503), Reply(529)], 0),
        ([Reply(cut="before"), Reply(cut="within")], 2),
        ([Reply(seconds=1), Reply(drip=0.02)], 2),
        ([Reply(body=b"<html>"), Reply(body=b"[" * 100_000), Reply(body=b"\xff"), Reply(body=b"null")], 4),
        ([Reply(body=b'{"choices": []}'), Reply(body=b'{"error": {"message": "overloaded"}}')], 2),
        ([Reply(change=lambda content: content["choices"][0]["message"].update(content=17))], 0),
        ([Reply(headers={"Content-Encoding": "gzip"})], 1),
        ([Reply(headers={"Content-Length": "many"})], 1),
    ],
    ids=["429", "5xx", "cut", "slow", "garbage", "no choices", "wrong type", "encoding", "length"],
)
def test_a_failure_that_passes_is_tried_again(
    endpoint: Endpoint, make: Make, sleeps: Sleeps, faults: list[Reply], lost: int
) -> None:
    endpoint.replies = list(faults)
    slow = any(fault.seconds or fault.drip for fault in faults)
    writer = make(timeout=0.5 if slow else 10)
    assert texts(writer.write([ask("a")])) == ["A"]
    assert writer.counters.retries == len(faults) == len(endpoint.seen) - 1
    # What may have been paid for counts in full; what is known to be free, or is counted by the server, as it is.
    assert writer.counters.lost_tokens == lost * (prompt_bound(ask("a").prompt) + 20)
    assert writer.spent() >= endpoint.given


def test_waits_grow_and_keep_to_what_the_server_asks(endpoint: Endpoint, make: Make, sleeps: Sleeps) -> None:
    endpoint.replies = [Reply(500), Reply(500), Reply(429, {"Retry-After": "7"}), Reply(500)]
    make().write([ask("a")])
    # Half of 1, 2, 4, 8 seconds, the third behind the 7; as this clock stands still, later turns wait for them, too.
    assert sleeps.seconds == [0.5, 1.0, 7 + 2.0, 7.0, 4.0, 7.0]


def test_a_wait_that_the_server_asks_for_holds_for_all(endpoint: Endpoint, make: Make, sleeps: Sleeps) -> None:
    endpoint.replies = [Reply(429, {"Retry-After": "7"})]
    make(concurrency=1).write([ask("a"), ask("b")])
    assert sleeps.seconds == [7.5, 7.0, 7.0]


def test_requests_are_spaced(endpoint: Endpoint, make: Make, sleeps: Sleeps) -> None:
    writer = make(requests_per_minute=20, concurrency=4)
    writer.jitter = lambda *_: 0.0
    endpoint.replies = [Reply(500)]
    for part in "ab":
        writer.write([ask(f"{number} {part}") for number in range(3)])
    assert sorted(sleeps.seconds) == [0.0, 3.0, 6.0, 9.0, 12.0, 15.0, 18.0]  # the 0 is the back-off


# Failures that do not


@pytest.mark.parametrize(
    ("reply", "named"),
    [
        (Reply(400, body=b'{"error": {"message": "maximum context length is 10"}}'), "maximum context length is 10"),
        (Reply(401, body=b'{"error": {"message": "Incorrect key: %s"}}' % KEY.encode()), "OPENAI_API_KEY"),
        (Reply(403), "403"),
        (Reply(404, body=b'{"detail": "no such model {x}"}'), "endpoint.model"),
        (Reply(408), "408"),
        (Reply(422, body=b"{" + b"x" * 1000), "xxx…"),
        (Reply(301, {"Location": "http://127.0.0.1:1/v2"}), "moved to 'http://127.0.0.1:1/v2'"),
        (Reply(429, body=b'{"error": {"code": "insufficient_quota"}}'), "has to be paid for"),
        (Reply(503, {"Retry-After": "86400"}), "wait 86,400 s"),
        (Reply(change=lambda content: content["choices"][0].update(message={"refusal": "no"})), "'no'"),
    ],
    ids=lambda value: str(value.status) if isinstance(value, Reply) else "",
)
def test_a_failure_that_stays_is_one_clear_line(endpoint: Endpoint, make: Make, reply: Reply, named: str) -> None:
    endpoint.otherwise = lambda _: reply
    with pytest.raises(RunError) as caught:
        make(concurrency=1).write([ask("a"), ask("b")])
    message = str(caught.value)
    assert named in message
    assert endpoint.url in message
    assert "\n" not in message
    assert len(message) < 700
    assert KEY not in message
    assert len(endpoint.seen) == 1


@pytest.mark.parametrize(
    ("reply", "named"),
    [
        (Reply(500, body=b"<h1>oh\x1b[31m no</h1>"), "status 500: '<h1>oh?[31m no</h1>'"),
        (Reply(cut="within"), "broke off"),
        (Reply(seconds=0.6), "endpoint.timeout"),
        (Reply(body=b"<html>hello"), "found '<html>hello'"),
        (Reply(body=b"{}"), "choices: Field required"),
        (Reply(429), "endpoint.requests_per_minute"),
    ],
)
def test_retries_come_to_an_end(endpoint: Endpoint, make: Make, reply: Reply, named: str) -> None:
    endpoint.otherwise = lambda _: reply
    with pytest.raises(RunError) as caught:
        make(retries=1, timeout=0.2 if reply.seconds else 10).write([ask("a")])
    assert named in str(caught.value)
    assert "(2 attempts)" in str(caught.value)
    assert len(endpoint.seen) == 2


def test_a_server_that_is_not_there_costs_nothing(endpoint: Endpoint, make: Make) -> None:
    writer = make(base_url="http://127.0.0.1:9/v1", retries=2)
    with pytest.raises(RunError, match=r"127\.0\.0\.1:9/v1/chat/completions: cannot be reached: .*0 of 1 texts"):
        writer.write([ask("a")])
    assert writer.spent() == 0
    assert writer.counters.retries == 2


@pytest.mark.parametrize("first", ["again", "bad"])
def test_after_a_failure_what_is_under_way_is_kept_and_nothing_new_is_sent(
    endpoint: Endpoint, make: Make, tmp_path: Path, first: str
) -> None:
    replies = {"bad": Reply(400), "again": Reply(500), "slow": Reply(seconds=0.6)}
    replies["again" if first == "bad" else "bad"].seconds = 0.2

    def reply(asked: dict[str, Any]) -> Reply:
        return replies.get(asked["messages"][0]["content"], Reply())

    endpoint.otherwise = reply
    writer = make(concurrency=3, cache=str(tmp_path / "answers.sqlite"))
    writer.sleep = anyio.sleep
    writer.jitter = lambda *_: 30.0
    started = time.monotonic()
    with pytest.raises(RunError, match=r"status 400.*1 of 5 texts are answered; answers are kept in .*sqlite"):
        writer.write([ask("again"), ask("slow"), ask("bad"), ask("d"), ask("e")])
    assert time.monotonic() - started < 10  # The wait for another attempt ended with the call.
    assert len(endpoint.seen) == 3
    assert texts(writer.write([ask("slow")])) == ["SLOW"]
    assert len(endpoint.seen) == 3


# The budget


@hypothesis.settings(max_examples=25, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture])
@hypothesis.given(
    sizes=st.lists(st.tuples(st.integers(0, 60), st.integers(1, 60)), min_size=1, max_size=12),
    concurrency=st.integers(1, 6),
    budget=st.integers(1, 4000),
    faults=st.lists(st.sampled_from(["", "", "429", "cut", "garbage", "silent", "zero"]), max_size=8),
)
def test_the_budget_is_never_passed(
    endpoint: Endpoint,
    make: Make,
    sizes: list[tuple[int, int]],
    concurrency: int,
    budget: int,
    faults: list[str],
) -> None:
    known = {
        "": Reply(text="é" * 40),
        "429": Reply(429),
        "cut": Reply(cut="within"),
        "garbage": Reply(change=lambda _: {"x": 1}),
        "silent": Reply(text="é", change=lambda content: {"choices": content["choices"]}),
        "zero": Reply(change=lambda content: content["usage"].update(prompt_tokens=0, completion_tokens=0)),
    }
    endpoint.replies = [known[fault] for fault in faults]
    endpoint.otherwise = lambda _: known[""]
    endpoint.given = 0
    endpoint.seen.clear()
    requests = [ask(f"{number}{'ü' * size}", longest) for number, (size, longest) in enumerate(sizes)]
    writer = make(token_budget=budget, concurrency=concurrency)
    error = ""
    try:
        assert len(writer.write(requests)) == len(requests)
    except BudgetError as stopped:
        error = str(stopped)
    assert not error or f"of {budget:,} tokens" in error
    assert not error or f"{writer.counters.texts:,} of {len(requests):,} texts" in error
    assert endpoint.given <= writer.spent() <= budget
    # Nothing answered is lost: with more to spend, only the rest is sent.
    sent, answered = len(endpoint.seen), writer.counters.texts
    endpoint.replies = []
    writer.config = writer.config.model_copy(update={"token_budget": 10**6})
    assert len(writer.write(requests)) == len(requests)
    assert len(endpoint.seen) - sent == len(requests) - answered


def test_what_others_did_not_need_can_be_spent(endpoint: Endpoint, make: Make) -> None:
    # Each reserves about 350 and takes 10; all are asked for at once, and the budget holds two reservations.
    endpoint.otherwise = lambda _: Reply(seconds=0.01)
    writer = make(token_budget=800, concurrency=8)
    assert len(writer.write([ask(f"{number:03}", longest=200) for number in range(20)])) == 20
    assert endpoint.most <= 2


def test_the_budget_holds_across_processes_that_share_a_cache(endpoint: Endpoint, make: Make, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"cache": str(tmp_path / "answers.sqlite"), "token_budget": 260}
    first = make(**settings)
    with pytest.raises(BudgetError, match=r"endpoint\.token_budget: \d+ of 260 tokens are spent.*are kept in"):
        first.write([ask(f"{number}", longest=50) for number in range(100)])
    second = make(**settings)
    assert second.spent() == first.spent() == endpoint.given
    with pytest.raises(BudgetError):
        second.write([ask("something else", longest=50)])
    assert make(**settings, model="another").spent() == 0


def test_the_budget_holds_for_writers_that_share_a_cache_at_the_same_time(
    endpoint: Endpoint, make: Make, tmp_path: Path
) -> None:
    endpoint.otherwise = lambda _: Reply(seconds=0.01, text="x" * 50)
    writers = [make(cache=str(tmp_path / "answers.sqlite"), token_budget=1000, concurrency=3) for _ in range(3)]
    stopped: list[int] = []

    def spend(number: int) -> None:
        try:
            writers[number].write([ask(f"{number} {text}", longest=40) for text in range(20)])
        except BudgetError:
            stopped.append(number)

    threads = [threading.Thread(target=spend, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(stopped) == [0, 1, 2]
    assert 1000 - (prompt_bound(ask("0 00").prompt) + 40) * 3 < endpoint.given == writers[0].spent() <= 1000


def test_a_server_that_counts_more_than_can_be_is_believed(endpoint: Endpoint, make: Make) -> None:
    endpoint.otherwise = lambda _: Reply(change=lambda content: content["usage"].update(prompt_tokens=1000))
    writer = make(token_budget=3000, concurrency=1)
    with pytest.raises(BudgetError):
        writer.write([ask(f"{number}") for number in range(10)])
    assert len(endpoint.seen) == 2
    assert writer.spent() <= 3000


# Runs


def remote_run(folder: Path, endpoint: Endpoint, prompting: dict[str, Any] | None = None, **settings: Any) -> Config:
    """A model behind the endpoint is asked for the tone of a few sentences."""
    source = tiny_corpora(folder / "data", examples=8)[0]
    source["labels"] = {"tone": "tone"}
    asked = {"base_url": endpoint.url, "model": "m", "token_budget": 10**6, "concurrency": 1, **settings}
    data = {"family": "causal_lm", "tasks": {"tone": {"kind": "text_classification"}}, "sources": [source]}
    return Config.parse(data | {"endpoint": asked, "prompting": prompting or {}})


def test_a_run_goes_on_with_a_raised_budget_and_takes_a_corrected_price(endpoint: Endpoint, tmp_path: Path) -> None:
    endpoint.otherwise = lambda _: Reply(text="up")
    with pytest.raises(BudgetError, match=r"are kept in .*run/answers\.sqlite"):
        palmette.train(remote_run(tmp_path, endpoint, token_budget=900), tmp_path / "run")
    sent = len(endpoint.seen)
    assert 0 < sent < 16
    raised = remote_run(tmp_path, endpoint, retries=1)
    palmette.train(raised, tmp_path / "run", resume=True)
    assert len(endpoint.seen) == 16, "dev and test, each text once"
    priced = remote_run(tmp_path, endpoint, input_price=1.0, output_price=2.0)
    run = palmette.train(priced, tmp_path / "run", resume=True)
    assert len(endpoint.seen) == 16
    assert run.config.endpoint is not None
    assert (run.config.endpoint.input_price, run.config.endpoint.token_budget) == (1.0, 10**6)
    with pytest.raises(RunError, match="another configuration"):
        palmette.train(remote_run(tmp_path, endpoint, model="other"), tmp_path / "run", resume=True)


def test_a_run_has_one_budget_however_often_it_is_started_and_whatever_for(endpoint: Endpoint, tmp_path: Path) -> None:
    endpoint.otherwise = lambda _: Reply(text="up")
    palmette.train(remote_run(tmp_path, endpoint), tmp_path / "run")
    used = endpoint.given
    assert used > 500
    left = 500  # enough for some texts, not for ten
    limited = remote_run(tmp_path, endpoint, token_budget=used + left)
    palmette.train(limited, tmp_path / "run", resume=True)
    for number in range(2):
        for text in range(10):
            try:
                palmette.load(tmp_path / "run").predict(f"a text {number} {text}")
            except BudgetError:
                break
        else:
            raise AssertionError("the budget was passed")
    assert used < endpoint.given <= used + left


def test_a_run_that_cannot_begin_leaves_no_folder_behind(endpoint: Endpoint, tmp_path: Path) -> None:
    endpoint.otherwise = lambda _: Reply(text="up")
    with pytest.raises(ConfigError, match=r"prompting\.shots: 99 shots"):
        palmette.train(remote_run(tmp_path, endpoint, {"shots": 99}), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    palmette.train(remote_run(tmp_path, endpoint, {"shots": 2}), tmp_path / "run")


def test_answers_that_were_kept_take_no_time_and_estimates_say_so(endpoint: Endpoint, tmp_path: Path) -> None:
    def silent(content: dict[str, Any]) -> dict[str, Any]:
        return {"choices": content["choices"]}

    # All of dev is counted; of test half is not.
    endpoint.replies = [Reply(text="up", seconds=0.01) for _ in range(8)]
    endpoint.replies += [Reply(text="up", seconds=0.01, change=silent) for _ in range(4)]
    endpoint.otherwise = lambda _: Reply(text="up", seconds=0.01)
    run = palmette.train(remote_run(tmp_path, endpoint), tmp_path / "run")
    spent = json.loads((tmp_path / "run" / "prompted.json").read_text())["usage"]
    assert (spent["dev"]["tone"]["timed"], spent["dev"]["tone"]["estimated"]) == (8, 0)
    assert (spent["test"]["tone"]["timed"], spent["test"]["tone"]["estimated"]) == (8, 4)
    assert spent["test"]["tone"]["seconds"] > 8 * 0.01
    again = run.evaluate("test")["usage"]["tone"]
    assert (again["examples"], again["timed"], again["seconds"], again["estimated"]) == (8, 0, 0, 4)
    assert again["prompt_tokens"] == spent["test"]["tone"]["prompt_tokens"]
    endpoint.otherwise = lambda _: Reply(text="up", seconds=0.2)
    texts = [Example(Text(("again",)), {}), *(Example(Text(("again", "and", "again")), {}) for _ in range(2))]
    run.predictor.forget_usage()  # type: ignore[attr-defined]
    run.predictor.answer(texts)
    usage = run.predictor.usage["tone"]  # type: ignore[attr-defined]
    assert (usage.examples, usage.timed) == (3, 2), "an equal text is asked once"
    assert usage.seconds / usage.timed > 0.2


# The cache


def test_equal_requests_are_paid_for_once(endpoint: Endpoint, make: Make, tmp_path: Path) -> None:
    cache = str(tmp_path / "new" / "answers.sqlite")
    endpoint.otherwise = lambda _: Reply(seconds=0.01)
    writer = make(cache=cache)
    assert texts(writer.write([ask("a"), ask("b"), ask("a"), ask("a")])) == ["A", "B", "A", "A"]
    assert texts(make(cache=cache).write([ask("b"), ask("a")])) == ["B", "A"]
    assert len(endpoint.seen) == 2
    assert (writer.counters.texts, writer.counters.cache_hits) == (4, 2)


def test_another_question_is_another_answer(endpoint: Endpoint, make: Make, tmp_path: Path) -> None:
    cache = str(tmp_path / "answers.sqlite")
    make(cache=cache).write([ask("a"), ask("a", longest=21), ask("A")])
    make(cache=cache, model="other").write([ask("a")])
    make(cache=cache, base_url=endpoint.url.replace("v1", "./v1")).write([ask("a")])
    assert len(endpoint.seen) == 5
    make(cache=cache, base_url=endpoint.url + "/", concurrency=1, retries=0).write([ask("a")])
    assert len(endpoint.seen) == 5


def test_what_another_process_answered_meanwhile_is_not_asked_again(
    endpoint: Endpoint, make: Make, tmp_path: Path
) -> None:
    writer, other = (make(cache=str(tmp_path / "answers.sqlite"), concurrency=1) for _ in range(2))
    endpoint.replies = [Reply(change=lambda _: other.write([ask("b")]) and None)]
    assert texts(writer.write([ask("a"), ask("b")])) == ["A", "B"]
    assert len(endpoint.seen) == 2


def test_what_is_answered_needs_no_key(
    endpoint: Endpoint, make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = str(tmp_path / "answers.sqlite")
    make(cache=cache).write([ask("a")])
    monkeypatch.delenv("OPENAI_API_KEY")
    assert texts(make(cache=cache).write([ask("a")])) == ["A"]


PROCESS = """
import signal
import sys
from pathlib import Path
from palmette.config import EndpointConfig
from palmette.writing.remote import RemoteWriter
from palmette.writing.writer import Request
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background job has ignored
url, cache, first, last = sys.argv[1:]
config = EndpointConfig(base_url=url, model="m", token_budget=10**6, concurrency=2)
writer = RemoteWriter(config, Path(cache))
for number in range(int(first), int(last)):
    found = writer.write([Request(({"role": "user", "content": f"{number} {part}"},), 20) for part in "ab"])
    print(found[0].text, flush=True)
"""


def process(endpoint: Endpoint, cache: Path, first: int, last: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PROCESS, endpoint.url, str(cache), str(first), str(last)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_killed_process_loses_no_answer_and_frees_no_token(endpoint: Endpoint, make: Make, tmp_path: Path) -> None:
    endpoint.otherwise = lambda asked: Reply(seconds=60 if "3 b" in str(asked) else 0)
    cache = tmp_path / "answers.sqlite"
    with process(endpoint, cache, 0, 100) as writing:
        assert writing.stdout is not None
        assert [writing.stdout.readline() for _ in range(3)] == ["0 A\n", "1 A\n", "2 A\n"]
        with closing(sqlite3.connect(cache)) as database:
            wait(lambda: database.execute("SELECT count(*) FROM answers").fetchone() == (7,))
        wait(lambda: len(endpoint.seen) == 8)
        writing.kill()
    endpoint.otherwise = lambda _: Reply()
    writer = make(cache=str(cache))
    # What was under way may have been paid for.
    assert writer.spent() == endpoint.given + prompt_bound(ask("3 b").prompt) + 20
    assert len(writer.write([ask(f"{number} {part}") for number in range(4) for part in "ab"])) == 8
    assert len(endpoint.seen) == 9


def test_processes_share_a_cache_at_the_same_time(endpoint: Endpoint, make: Make, tmp_path: Path) -> None:
    cache = tmp_path / "answers.sqlite"
    running = [process(endpoint, cache, 2 * number, 2 * number + 4) for number in range(2)]
    for one in running:
        _, said = one.communicate(timeout=60)
        assert one.returncode == 0, said
    writer = make(cache=str(cache))
    assert writer.spent() == endpoint.given
    sent = len(endpoint.seen)
    assert len(writer.write([ask(f"{number} {part}") for number in range(6) for part in "ab"])) == 12
    assert len(endpoint.seen) == sent


def test_an_interrupt_ends_at_once_without_freeing_tokens(endpoint: Endpoint, tmp_path: Path) -> None:
    endpoint.otherwise = lambda _: Reply(seconds=60)
    cache = tmp_path / "answers.sqlite"
    with process(endpoint, cache, 0, 1) as writing:
        wait(lambda: len(endpoint.seen) == 2)
        writing.send_signal(signal.SIGINT)
        _, said = writing.communicate(timeout=50)  # less than the replies take
    assert said.rstrip().endswith("KeyboardInterrupt")
    ledger = Ledger(cache)
    assert ledger.spent(f"{endpoint.url}/chat/completions m") == 2 * (prompt_bound(ask("0 a").prompt) + 20)
    ledger.close()


@pytest.mark.parametrize("damage", ["text", "foreign", "page", "answer", "folder", "version"])
def test_a_damaged_cache_is_named_and_left_alone(endpoint: Endpoint, make: Make, tmp_path: Path, damage: str) -> None:
    path = tmp_path / "answers.sqlite"
    if damage == "folder":
        path.mkdir()
    elif damage == "text":
        path.write_text("my notes " * 200)
    else:
        writer = make(cache=str(path))
        writer.write([ask(f"{number} {'x' * 4000}", longest=4000) for number in range(6)])
        writer.close()
        database = sqlite3.connect(path)
        if damage == "foreign":
            database.execute("PRAGMA application_id = 0")
        elif damage == "version":
            database.execute("PRAGMA user_version = 99")
        elif damage == "answer":
            database.execute("UPDATE answers SET answer = 'half an ans'")
            database.commit()
        database.close()
        if damage == "page":
            content = bytearray(path.read_bytes())
            content[4096:12288] = os.urandom(8192)
            path.write_bytes(bytes(content))
    before = None if damage == "folder" else path.read_bytes()
    with pytest.raises(RunError, match=r"answers\.sqlite: cannot be used to keep answers \(endpoint\.cache\)"):
        make(cache=str(path)).write([ask(f"0 {'x' * 4000}", longest=4000)])
    assert before is None or path.read_bytes() == before


def test_a_full_disk_is_an_error_that_ends_the_call(endpoint: Endpoint, make: Make) -> None:
    writer = make(concurrency=4, token_budget=600)
    writer.ledger._db.execute("CREATE TRIGGER full BEFORE INSERT ON answers BEGIN SELECT RAISE(FAIL, 'disk full'); END")
    with pytest.raises(RunError, match="disk full"):
        writer.write([ask(f"{number}") for number in range(20)])


# The key


def test_the_key_is_nowhere_but_in_the_header(
    endpoint: Endpoint, make: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    said = json.dumps({"error": {"message": f"{'x' * 180} {KEY} is wrong"}}).encode()
    endpoint.replies = [Reply(500, body=said), Reply(body=said), Reply(503, body=KEY.encode()), Reply()]
    endpoint.otherwise = lambda _: Reply(401, body=said)
    writer = make(cache=str(tmp_path / "answers.sqlite"), concurrency=1)
    with pytest.raises(PalmetteError) as caught:
        writer.write([ask("a"), ask("b")])
    shown = [str(caught.value), repr(caught.value.__context__), caplog.text, repr(writer), repr(writer.config)]
    assert "attempt 2 of 6" in caplog.text
    writer.close()
    shown += [file.read_bytes().decode("latin-1") for file in tmp_path.iterdir()]
    assert len(shown) >= 6
    for text in shown:
        assert KEY[3:] not in text
        assert "sk-the" not in text


@pytest.mark.parametrize("value", [None, "", "  ", "two words", "né", "a\r\nb"])
def test_a_key_that_is_none_is_named_by_its_variable(
    endpoint: Endpoint, make: Make, monkeypatch: pytest.MonkeyPatch, value: str | None
) -> None:
    monkeypatch.delenv("MY_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("MY_KEY", value)
    with pytest.raises(ConfigError, match=r"endpoint\.key_variable: .*MY_KEY") as caught:
        make(key_variable="MY_KEY").write([ask("a")])
    assert not value or value.strip() == "" or value not in str(caught.value)
    assert endpoint.seen == []


@pytest.mark.parametrize(
    "url", ["api.example.org/v1", "ftp://a/v1", "http://", "http://u:secret@a/v1", "http://a/?k=secret"]
)
def test_an_address_that_is_none_is_refused_unseen(make: Make, url: str) -> None:
    with pytest.raises(ConfigError, match=r"endpoint\.base_url: expected http") as caught:
        make(base_url=url)
    assert "secret" not in str(caught.value)


# Counting


def test_cost_is_what_was_paid_and_what_a_thousand_texts_take(endpoint: Endpoint, make: Make, tmp_path: Path) -> None:
    prices: dict[str, Any] = {"input_price": 2.0, "output_price": 10.0, "currency": "EUR"}
    cache = str(tmp_path / "answers.sqlite")
    assert make(input_price=2.0).cost() is None
    assert make(**prices).cost().per_thousand is None  # type: ignore[union-attr]
    for paid in (10 * (8 * 2 + 4 * 10) / 1e6, 0.0):
        writer = make(**prices, cache=cache)
        writer.write([ask(f"abc{number}") for number in range(10)])
        cost = writer.cost()
        assert cost is not None
        assert (cost.paid, cost.per_thousand, cost.currency) == pytest.approx((paid, 1000 * 56 / 1e6, "EUR"))
    assert set(writer.counters.as_json()) > {"requests", "retries", "cache_hits", "prompt_tokens", "seconds"}


def test_a_server_that_does_not_count_is_taken_at_its_most(endpoint: Endpoint, make: Make) -> None:
    endpoint.otherwise = lambda _: Reply(change=lambda content: content.pop("usage") and content)
    writer = make()
    (found,) = writer.write([ask("a", longest=20)])
    assert writer.counters.estimated == 1
    assert writer.spent() == prompt_bound(ask("a").prompt) + 20
    assert (found.prompt_tokens, found.written_tokens) == (prompt_bound(ask("a").prompt), 1)


@pytest.mark.parametrize(
    ("usage", "wanted"),
    [
        ({"prompt_tokens": 3, "completion_tokens": 4}, (3, 4)),
        ({"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 17}, (3, 14)),
        ({"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 2}, (3, 4)),
        ({"prompt_tokens": 0, "completion_tokens": 4}, None),
        ({"prompt_tokens": 3}, None),
        ({"prompt_tokens": "3", "completion_tokens": 4}, None),
        ({"prompt_tokens": True, "completion_tokens": 4}, None),
        ({"prompt_tokens": 3, "completion_tokens": -4}, None),
        ({"prompt_tokens": 10**30, "completion_tokens": 4}, None),
        (None, None),
    ],
)
def test_usage_is_read_strictly(usage: Any, wanted: tuple[int, int] | None) -> None:
    assert read_usage(json.dumps({"usage": usage}).encode()) == wanted


def test_a_model_that_reasons_to_its_end_has_written_nothing(endpoint: Endpoint, make: Make) -> None:
    def change(content: dict[str, Any]) -> None:
        content["choices"][0] = {"message": {"content": None}, "finish_reason": "length"}

    endpoint.otherwise = lambda _: Reply(change=change)
    (found,) = make().write([ask("a")])
    assert (found.text, found.truncated) == ("", True)


@hypothesis.settings(max_examples=30)
@hypothesis.given(st.text(max_size=30))
@hypothesis.example("\ufdfa" * 20)  # a phrase in one character: 3 bytes, normalised 33
def test_the_bound_covers_normalised_text(text: str) -> None:
    for form in ("NFC", "NFKC"):
        written = unicodedata.normalize(form, text)
        assert prompt_bound(ask(text).prompt) > len(written.encode("utf-8", "surrogatepass"))


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "3"}, 3.0),
        ({"retry-after": "0"}, 0.0),
        ({"retry-after": "3", "retry-after-ms": "250"}, 0.25),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "Tue, 24 Nov 2026 12:00:30 GMT", "date": "Tue, 24 Nov 2026 12:00:00 GMT"}, 30.0),
        ({"retry-after": "Tue, 24 Nov 2026 11:00:30 GMT", "date": "Tue, 24 Nov 2026 12:00:00 GMT"}, 0.0),
        ({"retry-after": "Tue, 24 Nov 2026 12:00:30 GMT"}, None),
    ],
)
def test_retry_after_is_read_in_all_its_forms(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(headers) == seconds


@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        (b'{"error": {"message": "no"}}', "no"),
        (b'{"error": "no"}', "no"),
        (b'{"object": "error", "message": "no"}', "no"),
        (b'{"detail": [{"loc": 1}]}', '[{"loc": 1}]'),
        (b"plain\n text", "plain text"),
        (b"[" * 100_000, "[" * 199 + "…"),
        (b"", ""),
    ],
)
def test_what_a_server_says_is_found(body: bytes, wanted: str) -> None:
    assert server_message(body, secret=KEY) == wanted
