"""The HTTP API of the review queue."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, TypeVar

from fastapi import FastAPI, Request
from sqlalchemy.exc import DataError, SQLAlchemyError
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response

from palmette.errors import StoreError
from palmette.kinds import AnyKind
from palmette.kinds.base import LabelError
from palmette.operate.review.agreement import agreement
from palmette.operate.review.cleanup import clean_up
from palmette.operate.review.labels import blank_example, read_label
from palmette.operate.review.queue import Candidate, Decision, Item, NoItemError
from palmette.operate.review.tables import NAME
from palmette.serving import review_bodies as bodies
from palmette.serving.bodies import read_body
from palmette.serving.logs import log
from palmette.serving.openapi import errors
from palmette.serving.refusal import RefusedError
from palmette.serving.reviewing import Reviews
from palmette.serving.service import Service
from palmette.types import Example

T = TypeVar("T")
Authorise = Callable[[Request, Service], None]
ReadBytes = Callable[[Request, Service], Awaitable[bytes]]

_GONE = Response(status_code=499)
_MOST = 2**31 - 1  # an id that the database can hold


def add_review(app: FastAPI, service: Service, reviews: Reviews, authorise: Authorise, read_bytes: ReadBytes) -> None:
    """Add the operations under /v1/review."""
    _add_items(app, service, reviews, authorise, read_bytes)
    _add_measures(app, service, reviews, authorise)
    _add_deletion(app, service, reviews, authorise)


async def _stored(call: Callable[[], T]) -> T:
    """What the store says, asked in a thread: it waits for disks.

    Raises:
        RefusedError: 422 for a label that is none, 404 for an item that is not there, 503 while the store is away.
    """
    try:
        return await asyncio.to_thread(call)
    except LabelError as error:
        raise RefusedError(422, "invalid_label", f"label: {error}", field="label") from error
    except NoItemError as error:
        raise RefusedError(404, "not_found", str(error)) from error
    except DataError as error:
        raise RefusedError(422, "invalid", "the store cannot hold one of these values") from error
    except (SQLAlchemyError, StoreError) as error:
        log("the review queue's store failed", level=logging.ERROR, error=error)
        raise RefusedError(503, "store_unavailable", "the store does not answer now; the log has the reason") from error


def _body(model: type[Any]) -> dict[str, Any]:
    schema = model.model_json_schema()
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def _parameter(name: str, about: str, *, required: bool = False, **schema: Any) -> dict[str, Any]:
    return {
        "name": name,
        "in": "query",
        "required": required,
        "description": about,
        "schema": {"type": "string", **schema},
    }


def _identity(given: str) -> int:
    if not (given.isascii() and given.isdigit()):
        raise RefusedError(422, "invalid", "identity: expected the number of an item", field="identity")
    if len(given) > 30 or int(given) > _MOST:
        raise RefusedError(404, "not_found", f"no item {given[:40]!r} in the review queue")
    return int(given)


_ID = [{"name": "identity", "in": "path", "required": True, "schema": {"type": "string", "pattern": "^[0-9]+$"}}]


def _add_items(app: FastAPI, service: Service, reviews: Reviews, authorise: Authorise, read_bytes: ReadBytes) -> None:
    queue = reviews.queue

    @app.get(
        "/v1/review/next",
        response_model=bodies.NextResponse,
        responses=errors(401, 422, 503),
        openapi_extra={
            "parameters": [
                _parameter("reviewer", "Who asks.", required=True, minLength=1, maxLength=NAME),
                _parameter("task", "Only items of this task."),
                _parameter("after", "Only items with a higher id.", pattern="^[0-9]{1,9}$"),
            ]
        },
        operation_id="review_next",
    )
    async def following(request: Request) -> Any:
        """The oldest item that waits for a reviewer, kept for them for a while."""
        authorise(request, service)
        reviewer = request.query_params.get("reviewer", "")
        if not reviewer.strip() or len(reviewer) > NAME:
            message = f"reviewer: expected a name of at most {NAME} characters"
            raise RefusedError(422, "invalid", message, field="reviewer")
        task, after = request.query_params.get("task") or None, request.query_params.get("after", "0")
        if not (after.isascii() and after.isdigit() and len(after) < 10):
            raise RefusedError(422, "invalid", "after: expected the id of an item", field="after")
        item = await _stored(lambda: queue.next(reviewer, now=reviews.now(), task=task, after=int(after)))
        waiting = await _stored(queue.waiting)
        count = sum(waiting.values()) if task is None else waiting.get(task, 0)
        return JSONResponse({"item": None if item is None else item_json(item), "waiting": count})

    @app.get(
        "/v1/review/items/{identity}",
        response_model=bodies.ItemResponse,
        responses=errors(401, 404, 422, 503),
        openapi_extra={"parameters": _ID},
        operation_id="review_item",
    )
    async def show(request: Request) -> Any:
        """An item."""
        authorise(request, service)
        identity = _identity(request.path_params["identity"])
        return JSONResponse(item_json(await _stored(lambda: queue.item(identity, now=reviews.now()))))

    @app.post(
        "/v1/review/items/{identity}/decisions",
        response_model=bodies.DecisionResponse,
        responses=errors(400, 401, 404, 408, 413, 415, 422, 503),
        openapi_extra={"parameters": _ID, **_body(bodies.DecisionRequest)},
        operation_id="review_decide",
    )
    async def decide(request: Request) -> Any:
        """Say of an item that it is right, or what would be; skip it, or take back what was said.

        The answer comes when the decision is on disk.
        """
        authorise(request, service)
        identity = _identity(request.path_params["identity"])
        try:
            given = read_body(bodies.DecisionRequest, await read_bytes(request, service))
        except ClientDisconnect:
            return _GONE
        if (given.verdict == "corrected") != (given.label is not None):
            message = "label: a correction needs one, and nothing else takes one"
            raise RefusedError(422, "invalid", message, field="label")
        example = await _example(service, given.text, given.text_pair)

        def write() -> Response:
            before = queue.item(identity, now=reviews.now())
            _check_text(before, given.verdict == "corrected", example)
            decision = queue.decide(
                identity, given.reviewer.strip(), given.verdict, now=reviews.now(), label=given.label, example=example
            )
            return _said(reviews, decision)

        return await _stored(write)

    @app.post(
        "/v1/review/corrections",
        response_model=bodies.DecisionResponse,
        responses=errors(400, 401, 404, 408, 413, 415, 422, 503),
        openapi_extra=_body(bodies.CorrectionRequest),
        operation_id="review_correct",
    )
    async def correct(request: Request) -> Any:
        """Correct any answer that was given, also one that is not in the queue: it counts in the clean-up rate.

        The answer comes when the correction is on disk.
        """
        authorise(request, service)
        try:
            given = read_body(bodies.CorrectionRequest, await read_bytes(request, service))
        except ClientDisconnect:
            return _GONE
        if given.label is None:
            raise RefusedError(422, "invalid", "label: say what is right", field="label")
        example = await _example(service, given.text, given.text_pair)
        return await _stored(lambda: _correct(reviews, given, example))


async def _example(service: Service, text: str | list[str] | None, pair: str | list[str] | None) -> Example | None:
    """The text that a body brings."""
    if text is None and pair is None:
        return None
    for field, part in (("text", text), ("text_pair", pair)):
        if part is not None and sum(map(len, part)) > service.settings.characters:
            most = service.settings.characters
            raise RefusedError(422, "text_too_long", f"{field}: at most {most} characters", field=field)
    predictor = service.model.answerer.predictor
    given: Any = ("" if text is None else text) if pair is None else ("" if text is None else text, pair)
    return await asyncio.to_thread(predictor.example, given)


def _check_text(item: Item, corrected: bool, example: Example | None) -> None:
    known = item.example or example
    if corrected and item.kind.form == "answer" and (known is None or known.pair is None):
        message = "text_pair: the passage is not kept here; give it, so that the answer's place can be checked"
        raise RefusedError(422, "text_needed", message, field="text_pair")


def _correct(reviews: Reviews, given: bodies.CorrectionRequest, example: Example | None) -> Response:
    queue, now = reviews.queue, reviews.now()
    item = queue.find(given.request_id, given.number, given.task, now=now)
    if item is None:
        candidate = _reported(reviews, given, example)
        decision = reviews.report(candidate, given.reviewer.strip(), label=given.label, example=example)
        return _said(reviews, decision)
    _check_text(item, corrected=True, example=example)
    decision = queue.decide(item.id, given.reviewer.strip(), "corrected", now=now, label=given.label, example=example)
    return _said(reviews, decision)


def _reported(reviews: Reviews, given: bodies.CorrectionRequest, example: Example | None) -> Candidate:
    """An answer that is not in the queue, as the caller says it was."""
    queue = reviews.queue
    for field, value in (("model", given.model), ("prediction", given.prediction)):
        if value is None:
            message = f"{field}: this answer is not in the queue; say what answered (model) and what (prediction)"
            raise RefusedError(422, "unknown_answer", message, field=field)
    try:
        kind = queue.kind(given.task, str(given.model))
    except StoreError as error:
        raise RefusedError(422, "unknown_task", f"task: {error}", field="task") from error
    tags = kind.form in {"tags", "spans"} and isinstance(given.prediction, list)
    known = example or blank_example(len(given.prediction) if tags else 0, paired=False)
    if kind.form == "answer" and known.pair is None:
        message = "text_pair: give the passage, so that the answer's place can be checked"
        raise RefusedError(422, "text_needed", message, field="text_pair")
    if queue.rules.keep is not None:
        _check_whole(given, kind, known)
    try:
        prediction = read_label(given.prediction, kind, known)
    except LabelError as error:
        raise RefusedError(422, "invalid_label", f"prediction: {error}", field="prediction") from error
    return Candidate(
        request_id=given.request_id,
        number=given.number,
        task=given.task,
        kind=kind,
        digest=str(given.model),
        example=known,
        prediction=prediction,
        confidence=None,
        why="reported",
        automatic=True,
    )


def _check_whole(given: bodies.CorrectionRequest, kind: AnyKind, example: Example) -> None:
    """Refuse a text that would be kept and is not all that the task read: a model would be trained on it."""
    if given.text is None:
        message = "text: this server keeps texts, to learn from corrections; give that of the answer"
        raise RefusedError(422, "text_needed", message, field="text")
    if not kind.takes(example):
        wanted = "pairs: give the second text" if example.pair is None else "single texts"
        raise RefusedError(422, "input_not_taken", f"text_pair: {given.task} answers {wanted}", field="text_pair")


def _said(reviews: Reviews, decision: Decision) -> Response:
    item = reviews.queue.item(decision.item, now=reviews.now())
    reviews.said(item, decision)
    found = {
        "item": decision.item,
        "reviewer": decision.reviewer,
        "verdict": decision.verdict,
        "changed": decision.changed,
        "units": decision.units,
        "created": decision.created.isoformat(),
        "open": item.open,
    }
    return JSONResponse(found)


def _add_measures(app: FastAPI, service: Service, reviews: Reviews, authorise: Authorise) -> None:
    queue = reviews.queue

    @app.get(
        "/v1/review/tasks",
        response_model=bodies.ReviewTasksResponse,
        responses=errors(401, 503),
        operation_id="review_tasks",
    )
    async def tasks(request: Request) -> Any:
        """What there is to review, and how."""
        authorise(request, service)
        return JSONResponse(await _stored(lambda: _tasks(reviews)))

    @app.get(
        "/v1/review/agreement",
        response_model=bodies.AgreementResponse,
        responses=errors(401, 503),
        operation_id="review_agreement",
    )
    async def agreed(request: Request) -> Any:
        """How far reviewers agree, on items that two have judged."""
        authorise(request, service)
        found = await _stored(lambda: agreement(queue, now=reviews.now()))
        return JSONResponse({"pairs": [asdict(pair) | {"reviewers": list(pair.reviewers)} for pair in found]})

    @app.get(
        "/v1/review/cleanup",
        response_model=bodies.CleanUpResponse,
        responses=errors(401, 503),
        operation_id="review_cleanup",
    )
    async def cleaned(request: Request) -> Any:
        """How many automatic answers were corrected afterwards, and by how much."""
        authorise(request, service)

        def ask() -> list[dict[str, Any]]:
            reviews.flush()
            rows = [asdict(found) for found in clean_up(queue)]
            return [row | {"last": row["last"] and row["last"].isoformat()} for row in rows]

        return JSONResponse({"versions": await _stored(ask)})


def _tasks(reviews: Reviews) -> dict[str, Any]:
    queue = reviews.queue
    waiting = queue.waiting()
    decided = queue.decided()
    return {
        "tasks": {
            task: {
                "kind": kind.config.kind,
                "form": kind.form,
                "labels": list(kind.labels),
                "waiting": waiting.get(task, 0),
                "decided": decided.get(task, 0),
            }
            for task, (_, kind) in queue.kinds().items()
        },
        "reviewers": queue.rules.reviewers,
        "texts": queue.rules.keep is not None,
    }


def _add_deletion(app: FastAPI, service: Service, reviews: Reviews, authorise: Authorise) -> None:
    queue = reviews.queue

    @app.delete(
        "/v1/review/items/{identity}",
        response_model=bodies.DeletedResponse,
        responses=errors(401, 404, 422, 503),
        openapi_extra={"parameters": _ID},
        operation_id="review_delete",
    )
    async def delete(request: Request) -> Any:
        """Delete an item with its text and decisions, from the database's files as well."""
        authorise(request, service)
        identity = _identity(request.path_params["identity"])
        if not await _stored(lambda: queue.delete([identity])):
            raise RefusedError(404, "not_found", f"no item {identity} in the review queue")
        return JSONResponse({"deleted": 1})

    @app.delete(
        "/v1/review/items",
        response_model=bodies.DeletedResponse,
        responses=errors(401, 422, 503),
        openapi_extra={
            "parameters": [
                _parameter(
                    "before", "A time with its zone, as 2026-11-01T00:00:00Z.", required=True, format="date-time"
                )
            ]
        },
        operation_id="review_delete_before",
    )
    async def delete_before(request: Request) -> Any:
        """Delete all items older than a time."""
        authorise(request, service)
        moment: datetime | None
        try:
            moment = datetime.fromisoformat(request.query_params.get("before", ""))
            moment = moment.astimezone(UTC) if moment.tzinfo is not None else None
        except (ValueError, OverflowError):
            moment = None
        if moment is None:
            message = "before: expected a time with its zone, as 2026-11-01T00:00:00Z"
            raise RefusedError(422, "invalid", message, field="before")
        return JSONResponse({"deleted": await _stored(lambda: queue.delete_before(moment))})


def item_json(item: Item) -> dict[str, Any]:
    """An item as the API shows it."""
    text = None if item.example is None else item.example.text
    pair = None if item.example is None else item.example.pair
    return {
        "id": item.id,
        "created": item.created.isoformat(),
        "request_id": item.request_id,
        "number": item.number,
        "task": item.task,
        "kind": item.kind.config.kind,
        "form": item.kind.form,
        "labels": list(item.kind.labels),
        "digest": item.digest,
        "why": item.why,
        "confidence": item.confidence,
        "open": item.open,
        "prediction": item.prediction,
        "candidate": item.candidate,
        "text": None if text is None else text.string,
        "words": None if text is None else list(text.words),
        "offsets": None if text is None else [list(span) for span in text.spans],
        "text_pair": None if pair is None else pair.string,
        "pair_words": None if pair is None else list(pair.words),
        "pair_offsets": None if pair is None else [list(span) for span in pair.spans],
    }
