"""The HTTP API."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from starlette.background import BackgroundTask
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Match
from starlette.types import Receive, Scope, Send

from palmette import __version__
from palmette.errors import MissingExtraError
from palmette.serving import bodies
from palmette.serving.batcher import Job, QueueFullError
from palmette.serving.middleware import Around
from palmette.serving.openapi import describe, errors
from palmette.serving.pages import file_response
from palmette.serving.refusal import RefusedError
from palmette.serving.release_api import add_releases
from palmette.serving.service import Service
from palmette.serving.waiting import Waiting

_USER = "X-Palmette-User"  # keeps a user with one of two versions
_GONE = Response(status_code=499)  # goes nowhere but into the log: the client has left


class _Lines(StreamingResponse):
    """A stream that says when it ended, however it did: read to the end, or left by the client."""

    def __init__(self, content: AsyncIterator[bytes], ended: Callable[[], None]) -> None:
        super().__init__(content, media_type="application/x-ndjson")
        self._ended = ended

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._ended()


def create_app(service: Service) -> FastAPI:
    """The application over a service, which it closes when it ends."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(service.close)

    app = FastAPI(
        title="Palmette",
        summary="One model, many tasks over a text.",
        version=__version__,
        docs_url=None,  # Swagger's page loads its scripts from elsewhere
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,  # a redirection would lead wherever the request's Host says
        lifespan=lifespan,
        telemetry=_telemetry(),
    )
    if service.settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=service.settings.cors_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type", "X-Request-Id", _USER],
            expose_headers=["X-Request-Id", "Retry-After"],
        )
    app.add_middleware(Around, service=service)  # the outermost, so last
    app.add_exception_handler(RefusedError, _refuse(service))
    app.add_exception_handler(HTTPException, _refuse_route)
    _add_answering(app, service)
    _add_looking(app, service)
    _add_watching(app, service)
    _add_operating(app, service)
    if service.releases is not None:
        add_releases(app, service, _authorise, _body)
    if service.reviews is not None:
        from palmette.serving.review_api import add_review

        add_review(app, service, service.reviews, _authorise, _body)
    _add_pages(app, service)
    return app


def _telemetry() -> Any:
    """FastAPI's own OpenTelemetry, where the environment names a collector. Without logs: ours keep texts out."""
    if not os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT"):
        return {"tracing": False, "metrics": False, "logs": False}
    try:
        import opentelemetry.exporter.otlp.proto.http
        import opentelemetry.sdk  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("opentelemetry", "otel") from error
    return {"auto_configure": True, "logs": False}


def _refuse(service: Service) -> Callable[[Request, Exception], Awaitable[Response]]:
    async def handle(request: Request, refusal: Exception) -> Response:
        if not isinstance(refusal, RefusedError):
            raise refusal
        service.metrics.rejected.labels(refusal.code).inc()
        request.state.log["code"] = refusal.code
        return refusal.response(request.state.request_id)

    return handle


async def _refuse_route(request: Request, error: Exception) -> Response:
    """No such path, or no such method there."""
    if not isinstance(error, HTTPException):
        raise error
    status = HTTPStatus(error.status_code)
    code = status.phrase.lower().replace(" ", "_")
    headers = dict(error.headers or {})
    if status == HTTPStatus.METHOD_NOT_ALLOWED:
        # Starlette names the methods of the first route with this path only.
        found = [route for route in request.app.routes if route.matches(request.scope)[0] is not Match.NONE]
        headers["Allow"] = ", ".join(sorted({method for route in found for method in route.methods or ()}))
    return RefusedError(status, code, status.description or status.phrase, headers=headers).response(
        request.state.request_id
    )


def _authorise(request: Request, service: Service) -> None:
    if not service.keys.allow(request.headers.get("authorization")):
        message = "this server wants a key: Authorization: Bearer …"
        raise RefusedError(401, "unauthorized", message, headers={"WWW-Authenticate": "Bearer"})


async def _body(request: Request, service: Service) -> bytes:
    """The body, if it is JSON, not too long, and arrives in time.

    Only `application/json`: a page of another origin cannot send that without asking first (CORS).
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise RefusedError(415, "unsupported_media_type", "send JSON, with Content-Type: application/json")
    most = service.settings.body_bytes
    refusal = RefusedError(413, "body_too_large", f"at most {most} bytes in a body; send the texts in several requests")
    if int(request.headers.get("content-length", 0)) > most:
        raise refusal
    body = bytearray()
    try:
        async with asyncio.timeout(service.settings.request_timeout):
            async for chunk in request.stream():
                body += chunk
                if len(body) > most:
                    raise refusal
    except TimeoutError as error:
        raise RefusedError(408, "body_timeout", "the body did not arrive in time") from error
    return bytes(body)


async def _accept(request: Request, service: Service, form: type[bodies.PredictRequest]) -> tuple[Job, Waiting]:
    """Check a request and put it into the queue."""
    _authorise(request, service)
    with _refusing_when_full():
        service.check_room()  # what is refused anyway need not be read
    body = await _body(request, service)
    identity = request.state.request_id
    roster, key = service.roster, request.headers.get(_USER) or identity
    model = roster.choose(key)
    try:
        asked = bodies.read_request(form, body, model, service.settings, writer=service.writer)
    except RefusedError:
        if model is roster.live:
            raise
        # A candidate that lacks a task must not be what callers see of it.
        asked = bodies.read_request(form, body, roster.live, service.settings, writer=service.writer)
    request.state.log.update(texts=len(asked.inputs), tasks=asked.tasks)
    waiting = Waiting(request, service.settings.request_timeout)
    job = Job(
        asked.model,
        asked.inputs,
        asked.tasks,
        waiting.notify,
        explain=asked.explain,
        tokens=asked.tokens,
        request_id=identity,
        key=key,
    )
    try:
        with _refusing_when_full():
            service.submit(job)
    except RefusedError:
        waiting.end()
        raise
    return job, waiting


@contextmanager
def _refusing_when_full() -> Iterator[None]:
    try:
        yield
    except QueueFullError as full:
        message = f"too many texts are waiting; try again in {full.seconds} s"
        raise RefusedError(429, "queue_full", message, headers={"Retry-After": str(full.seconds)}) from full


async def _first(job: Job, waiting: Waiting, service: Service, ready: Callable[[Job], bool]) -> Job:
    """Wait until a job is ready, or failed, or the client has gone.

    What the candidate fails at, before anything was sent, the live version answers: a trial costs no caller an answer.

    Returns:
        The job, or the one that took its place.

    Raises:
        RefusedError: 504, not in time.
    """
    live = service.model
    try:
        await waiting.until(lambda: ready(job))
        if job.error is not None and job.model is not live and not service.written(job.model):
            _count_failure(job, service)
            job = job.again(live)
            try:
                service.submit(job)
            except QueueFullError as full:
                raise _failed() from full
            await waiting.until(lambda: ready(job))
            service.metrics.rescued.inc(job.error is None)
    except BaseException as error:
        service.cancel(job)
        if isinstance(error, RefusedError) and error.status == HTTPStatus.GATEWAY_TIMEOUT:
            _count_failure(job, service)
        raise
    if job.error is not None:
        _count_failure(job, service)
        raise _failed()
    return job


def _count_failure(job: Job, service: Service) -> None:
    if service.follower is not None:
        service.follower.failed(job.model)


def _ready(job: Job, number: int) -> bool:
    return job.answers[number] is not None or bool(job.growing) or job.error is not None


async def _account(request: Request, job: Job, service: Service) -> None:
    """An answered request, in the metrics: a quarter of what the event loop does for it, so after it was sent.

    It awaits nothing. What is no coroutine Starlette would give to a thread.
    """
    service.metrics.version_texts.labels(job.model.digest[:12]).inc(len(job.inputs))
    if service.follower is not None:
        service.follower.answered(job.model, (job.finished or time.monotonic()) - job.submitted)
    pairs = {isinstance(given, tuple) for given in job.inputs}
    asked = dict.fromkeys(job.tasks or job.model.kinds)
    tasks = [task for task in asked if any(job.model.takes(task, pair=pair) for pair in pairs)]
    service.metrics.answered(tasks, time.monotonic() - request.state.begun)


def _failed() -> RefusedError:
    return RefusedError(500, "internal", "computing failed; the log has the reason under this request_id")


def _add_answering(app: FastAPI, service: Service) -> None:
    extra = {"requestBody": {"required": True, "content": {"application/json": {}}}}  # filled in by `describe`

    @app.post(
        "/v1/predict",
        response_class=Response,
        responses={200: {"model": bodies.PredictResponse}, **errors(400, 401, 408, 413, 415, 422, 429, 500, 504)},
        openapi_extra=extra,
        operation_id="predict",
    )
    async def predict(request: Request) -> Response:
        """Answer tasks over one text or many."""
        try:
            job, waiting = await _accept(request, service, bodies.PredictRequest)
        except ClientDisconnect:
            return _GONE
        try:
            job = await _first(job, waiting, service, lambda job: job.done)
        finally:
            waiting.end()
            service.cancel(job)  # no effect on one that is done
        if not job.done:
            return _GONE
        counting = BackgroundTask(_account, request, job, service)
        return Response(_render(request, job), media_type="application/json", background=counting)

    @app.post(
        "/v1/stream",
        response_class=Response,
        responses={
            200: {"description": "An answer a line (NDJSON).", "content": {"application/x-ndjson": {}}},
            **errors(400, 401, 408, 413, 415, 422, 429, 500, 504),
        },
        openapi_extra=extra,
        operation_id="stream",
    )
    async def stream(request: Request) -> Response:
        """The same, an answer a line, in order, each sent as soon as it is ready; with `tokens` as it is being written.

        What goes wrong after the first line ends the stream with a line that has `error` in it.
        """
        try:
            job, waiting = await _accept(request, service, bodies.StreamRequest)
        except ClientDisconnect:
            return _GONE
        try:
            job = await _first(job, waiting, service, lambda job: _ready(job, 0))
        finally:
            waiting.end()  # the response watches the client itself
        if waiting.gone:
            service.cancel(job)
            return _GONE
        return _Lines(_lines(request, job, waiting, service), partial(service.cancel, job))


async def _lines(request: Request, job: Job, waiting: Waiting, service: Service) -> AsyncIterator[bytes]:
    sent = 0
    while sent < len(job.answers):
        ready = b"".join(job.grown(sent))
        while sent < len(job.answers) and (answer := job.answers[sent]) is not None:
            ready += answer + b"\n"
            sent += 1
        if ready:
            yield ready
            continue
        try:
            if job.error is not None:
                raise _failed()
            await waiting.until(partial(_ready, job, sent))
        except RefusedError as refusal:
            _count_failure(job, service)
            service.metrics.rejected.labels(refusal.code).inc()
            request.state.log["code"] = refusal.code
            yield refusal.body(request.state.request_id) + b"\n"
            return
    await _account(request, job, service)


def _render(request: Request, job: Job) -> bytes:
    """The whole response, put together from answers that are JSON already."""
    started, finished = job.started or job.submitted, job.finished or job.submitted
    total = time.monotonic() - request.state.begun
    rest = {
        "model": {"digest": job.model.digest},
        "request_id": request.state.request_id,
        "milliseconds": {
            "queue": round(1000 * (started - job.submitted), 2),
            "compute": round(1000 * (finished - started), 2),
            "total": round(1000 * total, 2),
        },
    }
    answers = b",".join(answer for answer in job.answers if answer is not None)
    return b'{"answers":[' + answers + b"]," + json.dumps(rest).encode()[1:]


def _add_looking(app: FastAPI, service: Service) -> None:
    @app.get("/v1/tasks", response_model=bodies.TasksResponse, responses=errors(401), operation_id="tasks")
    async def tasks(request: Request) -> Any:
        """What can be asked for."""
        _authorise(request, service)
        tasks = service.model.tasks()
        for task, about in service.writer.tasks(by_writer=True).items() if service.writer is not None else ():
            tasks.setdefault(task, about)
        return JSONResponse({"tasks": tasks})

    @app.get("/v1/model", response_model=bodies.ModelResponse, responses=errors(401), operation_id="model")
    async def model(request: Request) -> Any:
        """Manifest, digest and card of the model (a writer's digest is in its answers)."""
        _authorise(request, service)
        found = service.model
        return JSONResponse({"manifest": found.manifest, "digest": found.digest, "card": found.card})


def _add_watching(app: FastAPI, service: Service) -> None:
    @app.get("/v1/watch", response_model=bodies.WatchResponse, responses=errors(401, 404), operation_id="watch")
    async def watch(request: Request) -> Any:
        """What is asked and answered now, against what the model was measured on: alarms, trends, accuracy."""
        _authorise(request, service)
        if service.watcher is None:
            raise RefusedError(404, "not_watched", "this server does not watch: start it with --set watch=true")
        return JSONResponse(await asyncio.to_thread(service.watcher.state, service.model))

    @app.get("/watch", include_in_schema=False)
    async def watch_page() -> Response:
        return file_response("watch.html")


def _add_operating(app: FastAPI, service: Service) -> None:
    @app.post(
        "/v1/admin/reload",
        response_model=bodies.ModelName,
        responses=errors(400, 401, 409, 500),
        operation_id="reload",
    )
    async def reload(request: Request) -> Any:
        """Load the model anew from where it was loaded, without losing a request."""
        _authorise(request, service)
        async for chunk in request.stream():
            if chunk:
                raise RefusedError(400, "body_not_allowed", "a reload takes no body: the path is the server's own")
        return JSONResponse({"digest": (await service.reload()).digest})

    @app.get("/healthz", response_model=bodies.Status, operation_id="healthz")
    async def healthz() -> Any:
        """Whether the process lives."""
        return JSONResponse({"status": "ok"})

    @app.get("/readyz", response_model=bodies.Status, responses=errors(503), operation_id="readyz")
    async def readyz() -> Any:
        """Whether to send requests here."""
        if service.draining:
            raise RefusedError(503, "draining", "the server is about to end")
        return JSONResponse({"status": "ok"})

    @app.get(
        "/metrics",
        response_class=Response,
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}, **errors(401)},
        operation_id="metrics",
    )
    async def metrics(request: Request) -> Response:
        """Counts, for Prometheus."""
        _authorise(request, service)
        return Response(await service.exposition(), media_type=service.metrics.content_type)


def _add_pages(app: FastAPI, service: Service) -> None:
    @app.get("/openapi.json", include_in_schema=False)
    async def openapi() -> Response:
        return JSONResponse(describe(app, service))

    @app.get("/", include_in_schema=False)
    async def index() -> Response:
        return file_response("index.html")

    @app.get("/review", include_in_schema=False)
    async def review() -> Response:
        return file_response("review.html")

    @app.get("/{name}", include_in_schema=False)
    async def page(name: str) -> Response:
        return file_response(name)
