"""A language model behind an OpenAI-compatible endpoint. What it costs is bounded, and nothing is paid for twice.

The extra `remote` brings what this needs. Every attempt is made, and so counted, here: a client with retries of its
own would send requests that the budget does not see.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import random
import re
import threading
import time
import weakref
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from palmette.config import EndpointConfig
from palmette.errors import BudgetError, ConfigError, MissingExtraError, PalmetteError, RunError
from palmette.writing.ledger import Ledger
from palmette.writing.wire import (
    AnswerError,
    is_out_of_credit,
    one_line,
    prompt_bound,
    read_answer,
    read_usage,
    retry_after,
    server_message,
    text_bound,
)
from palmette.writing.writer import Heard, Request, Written

try:
    import anyio
    import httpx2
    import tenacity
    from anyio.from_thread import start_blocking_portal
except ModuleNotFoundError as _error:
    raise MissingExtraError(_error.name or "httpx2", "remote") from _error

_LONGEST_WAIT = 300.0  # seconds that a server may ask for; whoever waits longer should know
_LONGEST_BACKOFF = 60.0
_LARGEST_BODY = 16 * 2**20  # bytes; a longer answer is no answer
_ADVICE = {
    400: "check that the prompt is not too long, and that endpoint.model takes max_tokens and temperature 0",
    401: "check the key in the environment variable {variable} (endpoint.key_variable)",
    402: "the account has to be paid for",
    403: "check that the key in the environment variable {variable} (endpoint.key_variable) may use endpoint.model",
    404: "check endpoint.base_url and endpoint.model",
    413: "show fewer shots: the prompt is too long",
    429: "lower endpoint.requests_per_minute or endpoint.concurrency",
}

_RANDOM = random.SystemRandom()
_log = logging.getLogger(__name__)


@dataclass
class Counters:
    """What a writer has done since it was made.

    Attributes:
        texts: requests of the caller that were answered.
        cache_hits: of them, those answered without being sent.
        text_prompt_tokens, text_written_tokens: of all answered texts, whether paid for now or before.
        requests: attempts sent.
        retries: of them, those after a failure.
        prompt_tokens, written_tokens: paid for now.
        estimated: answers whose tokens the server did not report; an upper bound of them is counted.
        lost_tokens: reserved for attempts of which no answer came; they may have been paid for.
        seconds: spent in `write`.
    """

    texts: int = 0
    cache_hits: int = 0
    text_prompt_tokens: int = 0
    text_written_tokens: int = 0
    requests: int = 0
    retries: int = 0
    prompt_tokens: int = 0
    written_tokens: int = 0
    estimated: int = 0
    lost_tokens: int = 0
    seconds: float = 0.0

    def as_json(self) -> dict[str, float]:
        """For reports."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Cost:
    """Money, by the prices of the configuration.

    Attributes:
        paid: for what was sent since the writer was made, lost attempts aside.
        per_thousand: for a thousand texts such as those answered, had none been answered before; None: no text yet.
        currency: its name.
    """

    paid: float
    per_thousand: float | None
    currency: str


class _AttemptError(Exception):
    """An attempt that failed.

    Attributes:
        tokens: that it has cost; None: nobody knows.
        passing: another attempt may help.
        wait: seconds to wait before it.
    """

    def __init__(self, message: str, *, tokens: int | None, passing: bool, wait: float = 0.0) -> None:
        super().__init__(message)
        self.tokens = tokens
        self.passing = passing
        self.wait = wait


class RemoteWriter:
    """Writes by asking an endpoint, greedily (temperature 0). Calls from several threads wait for one another.

    What may follow (`Request.next_pieces`) cannot be enforced from here and is ignored: an answer that cannot be read
    is counted where it is read.

    Args:
        config: the endpoint.
        answers: file that keeps answers and counts what they cost, where `config.cache` names none.
        clock: seconds that only grow.
        sleep: waits.
        jitter: a number between two, so that clients that failed together do not come back together.

    Attributes:
        counters: what was done and paid for.

    Raises:
        ConfigError: the endpoint's address is none.
        RunError: the cache cannot be used.
    """

    def __init__(
        self,
        config: EndpointConfig,
        answers: Path,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
        jitter: Callable[[float, float], float] = _RANDOM.uniform,
    ) -> None:
        self.config = config
        self.counters = Counters()
        self.url = _address(config.base_url)
        self.clock = clock
        self.sleep = sleep
        self.jitter = jitter
        self.endpoint = f"{self.url} {config.model}"
        self.ledger = Ledger(Path(config.cache) if config.cache is not None else answers)
        self.next_slot = -float("inf")  # when the next request may be sent
        self.excess = 0  # tokens by which the server's count was over the bound, at most
        self._lock = threading.Lock()
        weakref.finalize(self, self.ledger.close)

    def close(self) -> None:
        """Let go of the cache."""
        self.ledger.close()

    def spent(self) -> int:
        """Tokens of the budget that are spent, by all that share the file of answers, since it was begun."""
        return self.ledger.spent(self.endpoint)

    def cost(self) -> Cost | None:
        """Money; None unless both prices are configured."""
        counted = self.counters
        paid = self.config.money(counted.prompt_tokens, counted.written_tokens)
        fresh = self.config.money(counted.text_prompt_tokens, counted.text_written_tokens)
        if paid is None or fresh is None:
            return None
        return Cost(paid, 1000 * fresh / counted.texts if counted.texts else None, self.config.currency)

    def write(self, requests: Sequence[Request], heard: Heard | None = None) -> list[Written]:
        """An answer to each request, in order. Equal requests are sent once; those answered before, never.

        Raises:
            BudgetError: the next request may not fit into what is left of `endpoint.token_budget`.
            ConfigError: there is no key.
            RunError: the server refuses, or keeps failing. In every case answers that came are kept.
        """
        del heard  # an answer arrives whole
        with self._lock:
            started = self.clock()
            try:
                return self._write(requests)
            finally:
                self.counters.seconds += self.clock() - started

    def _write(self, requests: Sequence[Request]) -> list[Written]:
        payloads = [self._payload(request) for request in requests]
        digests = [hashlib.sha256(f"{self.url}\n{payload}".encode()).hexdigest() for payload in payloads]
        answers: dict[str, Written] = {}
        asked: dict[str, _Asked] = {}
        for digest, payload, request in zip(digests, payloads, requests, strict=True):
            known = self.ledger.answer(digest) if digest not in answers and digest not in asked else None
            if known is not None:
                answers[digest] = known
            elif digest not in answers:
                asked[digest] = _Asked(digest, payload, request, prompt_bound(request.prompt))
        failure: PalmetteError | None = None
        if asked:
            call = _Call(self, _key(self.config.key_variable))
            with start_blocking_portal() as portal:
                portal.call(call.run, iter(asked.values()))
            answers |= call.answers
            failure = call.failure
        found = []
        for digest in digests:
            if digest in answers:
                found.append(answers[digest])
                answers[digest] = replace(answers[digest], kept=True)  # an equal request takes nothing more
        self.counters.texts += len(found)
        self.counters.cache_hits += sum(written.kept for written in found)
        self.counters.text_prompt_tokens += sum(written.prompt_tokens for written in found)
        self.counters.text_written_tokens += sum(written.written_tokens for written in found)
        if failure is not None:
            answered = f"{len(found):,} of {len(requests):,} texts are answered"
            raise type(failure)(f"{failure}; {answered}; answers are kept in {self.ledger.path}")
        return found

    def _payload(self, request: Request) -> str:
        """A request's body: ASCII, and the same for equal requests."""
        content = {
            "model": self.config.model,
            "messages": list(request.prompt),
            "max_tokens": request.longest,
            "temperature": 0,
        }
        return json.dumps(content, sort_keys=True)


@dataclass(frozen=True, slots=True)
class _Asked:
    """A request about to be sent."""

    digest: str
    payload: str
    request: Request
    prompt_bound: int


class _Call:
    """One `write`: what is under way. All of it happens in one event loop, so nothing here needs a lock."""

    def __init__(self, writer: RemoteWriter, key: str) -> None:
        self.writer = writer
        self.config = writer.config
        self.counters = writer.counters
        self.key = key
        self.answers: dict[str, Written] = {}
        self.failure: PalmetteError | None = None
        self.open = 0  # reservations that are not settled
        self.settled = anyio.Event()
        self.pauses: set[anyio.CancelScope] = set()
        try:
            self.client = httpx2.AsyncClient(
                headers={"Authorization": f"Bearer {key}", "Content-Type": "application/json"},
                # What cannot connect has cost nothing, so it should not end as a request without an answer.
                timeout=httpx2.Timeout(self.config.timeout, connect=min(self.config.timeout / 2, 10.0)),
                limits=httpx2.Limits(max_connections=self.config.concurrency),
                verify=_certificates(),
            )
        except (ImportError, OSError, ValueError) as error:  # a proxy or certificates that the environment names
            raise RunError(f"{writer.url}: no client can be made: {one_line(str(error), secret=key)}") from None

    async def run(self, asked: Iterator[_Asked]) -> None:
        """Send all, some at once. After a failure nothing new is sent, and what is under way comes to its end."""
        async with self.client, anyio.create_task_group() as group:
            for _ in range(self.config.concurrency):
                group.start_soon(self._work, asked)

    async def _work(self, asked: Iterator[_Asked]) -> None:
        for one in asked:
            if self.failure is not None:
                return
            try:
                self.answers[one.digest] = await self._answer(one)
            except PalmetteError as error:
                self._stop(error)
            except _AttemptError as error:
                attempts = f" ({1 + self.config.retries} attempts)" if error.passing else ""
                self._stop(RunError(f"{self.writer.url}: {error}{attempts}"))

    def _stop(self, failure: PalmetteError) -> None:
        self.failure = self.failure or failure
        for pause in self.pauses:
            pause.cancel()

    async def _answer(self, one: _Asked) -> Written:
        known = self.writer.ledger.answer(one.digest)  # Another process may have been faster.
        if known is not None:
            return known
        retrying = tenacity.AsyncRetrying(
            stop=tenacity.stop_after_attempt(1 + self.config.retries),
            retry=tenacity.retry_if_exception(lambda error: isinstance(error, _AttemptError) and error.passing),
            wait=self._backoff,
            before_sleep=self._say,
            sleep=self._pause,
            reraise=True,
        )
        written: Written = await retrying(self._attempt, one)
        return written

    def _backoff(self, state: tenacity.RetryCallState) -> float:
        longest = min(_LONGEST_BACKOFF, 2.0 ** (state.attempt_number - 1))
        error = state.outcome.exception() if state.outcome is not None else None
        asked = error.wait if isinstance(error, _AttemptError) else 0.0
        return asked + self.writer.jitter(longest / 2, longest)

    def _say(self, state: tenacity.RetryCallState) -> None:
        self.counters.retries += 1
        error = state.outcome.exception() if state.outcome is not None else None
        _log.warning(
            "%s: %s; attempt %d of %d in %.1f s",
            self.writer.url,
            error,
            state.attempt_number + 1,
            1 + self.config.retries,
            state.next_action.sleep if state.next_action is not None else 0.0,
        )

    async def _pause(self, seconds: float) -> None:
        """Wait, unless the call has failed or fails meanwhile."""
        with anyio.CancelScope() as scope:
            self.pauses.add(scope)
            try:
                if self.failure is None:
                    await self.writer.sleep(seconds)
            finally:
                self.pauses.discard(scope)
        if self.failure is not None:
            raise self.failure

    async def _attempt(self, one: _Asked) -> Written:
        """Reserve, wait for the request's turn, send, settle."""
        reserved = await self._reserve(one)
        spent, written = reserved, None  # What was sent and has no answer may have been paid for.
        try:
            try:
                await self._turn()
            except BaseException:
                spent = 0
                raise
            self.counters.requests += 1
            body = await self._send(one.payload)
            usage = read_usage(body)
            spent = sum(usage) if usage is not None else reserved
            written = self._read(one, body, usage)
        except _AttemptError as error:
            spent = spent if error.tokens is None else error.tokens
            self.counters.lost_tokens += spent if error.tokens is None else 0
            raise
        finally:
            self.open -= 1
            self.settled.set()
            self.settled = anyio.Event()
            self.writer.excess = max(self.writer.excess, spent - one.prompt_bound - one.request.longest)
            self.writer.ledger.settle(
                self.writer.endpoint, reserved=reserved, spent=spent, digest=one.digest, written=written
            )
        return written

    def _read(self, one: _Asked, body: bytes, usage: tuple[int, int] | None) -> Written:
        try:
            text, cut = read_answer(body)
        except AnswerError as error:
            if usage is not None:
                self._count(usage)
            said = server_message(body, secret=self.key)
            found = f"not an answer: {one_line(str(error), secret=self.key)}; found {said!r}"
            tokens = sum(usage) if usage is not None else None
            raise _AttemptError(found, tokens=tokens, passing=not error.final) from None
        estimated = usage is None
        if usage is None:
            self.counters.estimated += 1
            usage = one.prompt_bound, min(one.request.longest, text_bound(text))
        self._count(usage)
        return Written(text, usage[0], usage[1], cut, estimated)

    def _count(self, usage: tuple[int, int]) -> None:
        self.counters.prompt_tokens += usage[0]
        self.counters.written_tokens += usage[1]

    async def _reserve(self, one: _Asked) -> int:
        """Set aside what the request can cost at most; wait for others under way, which may cost less than set aside.

        Raises:
            BudgetError: there is not so much left.
        """
        writer, budget = self.writer, self.config.token_budget
        while self.failure is None:
            need = one.prompt_bound + one.request.longest + writer.excess
            if writer.ledger.reserve(writer.endpoint, need, budget=budget):
                self.open += 1
                return need
            if self.open == 0:
                raise BudgetError(
                    f"endpoint.token_budget: {writer.spent():,} of {budget:,} tokens are spent, and the next request "
                    f"may take {need:,} (prompt at most {need - one.request.longest:,}, answer at most "
                    f"{one.request.longest:,}): raise it to go on from here"
                )
            await self.settled.wait()
        raise self.failure

    async def _turn(self) -> None:
        """Wait until the rate allows for a request."""
        writer = self.writer
        now = writer.clock()
        start = max(now, writer.next_slot)
        writer.next_slot = start + (60.0 / self.config.requests_per_minute if self.config.requests_per_minute else 0.0)
        if start > now:
            await self._pause(start - now)

    async def _send(self, payload: str) -> bytes:
        """The body of a successful response.

        Raises:
            _AttemptError: there is none.
        """
        status, headers, body = 0, httpx2.Headers(), bytearray()
        try:
            with anyio.fail_after(self.config.timeout):  # the whole answer: httpx2 limits only each wait for a piece
                async with self.client.stream("POST", self.writer.url, content=payload.encode()) as response:
                    status, headers = response.status_code, response.headers
                    async for piece in response.aiter_bytes():
                        body += piece
                        if len(body) > _LARGEST_BODY:
                            found = f"not an answer: more than {_LARGEST_BODY:,} bytes"
                            raise _AttemptError(found, tokens=None, passing=False)
        except (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.ProxyError) as error:
            said = one_line(str(error), secret=self.key) or "no connection in time"
            raise _AttemptError(f"cannot be reached: {said}", tokens=0, passing=True) from None
        except (TimeoutError, httpx2.TimeoutException):
            found = f"no answer within {self.config.timeout:g} s (endpoint.timeout)"
            raise _AttemptError(found, tokens=None, passing=True) from None
        except httpx2.HTTPError as error:
            said = one_line(str(error), secret=self.key)
            found = f"the answer broke off: {said or type(error).__name__}"
            raise _AttemptError(found, tokens=None, passing=True) from None
        if 200 <= status < 300:
            return bytes(body)
        raise self._refusal(status, headers, bytes(body))

    def _refusal(self, status: int, headers: Mapping[str, str], body: bytes) -> _AttemptError:
        """What a status other than success means; none of these is paid for."""
        said = server_message(body, secret=self.key)
        if 300 <= status < 400:
            target = one_line(headers.get("location", ""), secret=self.key)
            return _AttemptError(
                f"status {status}: moved to {target!r}: correct endpoint.base_url", tokens=0, passing=False
            )
        passing = status >= 500 or (status == 429 and not is_out_of_credit(body))
        advice = _ADVICE.get(402 if status == 429 and not passing else status, "")
        advice = advice.format(variable=self.config.key_variable)
        message = f"status {status}: {said!r}" + (f"; {advice}" if advice else "")
        wait = retry_after(headers) or 0.0 if passing else 0.0
        if wait > _LONGEST_WAIT:
            return _AttemptError(f"{message}; it asks to wait {wait:,.0f} s: run again then", tokens=0, passing=False)
        if wait:  # The server means all of this client's requests.
            self.writer.next_slot = max(self.writer.next_slot, self.writer.clock() + wait)
        return _AttemptError(message, tokens=0, passing=passing, wait=wait)


@cache
def _certificates() -> Any:
    """What proves a server's name. Reading it takes 0.1 s, so it is read once."""
    return httpx2.create_ssl_context()


def _address(base_url: str) -> str:
    """Where requests go.

    Raises:
        ConfigError: it is no address.
    """
    try:
        url = httpx2.URL(base_url)
    except (httpx2.InvalidURL, ValueError):
        url = httpx2.URL("")
    if url.scheme not in {"http", "https"} or not url.host or url.userinfo or url.query or url.fragment:
        # Not shown: a password may be in it.
        raise ConfigError(
            "endpoint.base_url: expected http[s]://host[:port]/path, without a user, a query or a fragment; "
            "the key stands in an environment variable (endpoint.key_variable)"
        )
    return f"{base_url.rstrip('/')}/chat/completions"


def _key(variable: str) -> str:
    """The key of the endpoint.

    Raises:
        ConfigError: there is none, or it cannot be one. It is not shown.
    """
    key = os.environ.get(variable, "").strip()
    if not key:
        raise ConfigError(
            f"endpoint.key_variable: the environment variable {variable} is not set; it holds the key of the endpoint "
            "(any word, for a server that asks for none)"
        )
    if not re.fullmatch(r"[\x21-\x7e]+", key):
        raise ConfigError(f"endpoint.key_variable: what the environment variable {variable} holds cannot be a key")
    return key
