"""Who has which role, over HTTP: shown, and changed. No request names a path."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import Any

from fastapi import FastAPI, Request
from starlette.responses import JSONResponse

from palmette.serving import bodies
from palmette.serving.openapi import errors
from palmette.serving.service import Service


def add_releases(
    app: FastAPI,
    service: Service,
    authorise: Callable[[Request, Service], None],
    body: Callable[[Request, Service], Awaitable[bytes]],
) -> None:
    """Add the operations.

    Args:
        app: the application.
        service: with a store.
        authorise: refuses who has no key.
        body: reads a request's body. It has to be JSON, which a page of another origin cannot send unasked (CORS).
    """

    async def asked_for(request: Request) -> tuple[str, bodies.RoleChange]:
        """Who asks for a change of roles, and for which."""
        authorise(request, service)
        asked = bodies.read_body(bodies.RoleChange, await body(request, service))
        return service.keys.who(request.headers.get("authorization")), asked

    @app.get(
        "/v1/releases",
        response_model=bodies.ReleasesResponse,
        responses=errors(401, 409, 503),
        operation_id="releases",
    )
    async def releases(request: Request) -> Any:
        """Which version has which role, and who made it so."""
        authorise(request, service)
        return JSONResponse(await service.show_releases())

    # Filled in by `describe`.
    change: dict[str, Any] = {"requestBody": {"required": True, "content": {"application/json": {}}}}
    refusals = errors(400, 401, 408, 409, 413, 415, 422, 500, 503)

    @app.post(
        "/v1/admin/promote",
        response_model=bodies.Roles,
        responses=refusals,
        openapi_extra=change,
        operation_id="promote",
    )
    async def promote(request: Request) -> Any:
        """Make the candidate live, without losing a request."""
        who, asked = await asked_for(request)
        state = await service.change_roles(lambda book: book.promote(by=who, why=asked.why, candidate=asked.digest))
        return JSONResponse(asdict(state))

    @app.post(
        "/v1/admin/rollback",
        response_model=bodies.Roles,
        responses=refusals,
        openapi_extra=change,
        operation_id="rollback",
    )
    async def rollback(request: Request) -> Any:
        """Take the candidate back; without one, make the previous version live, or the one that is named."""
        who, asked = await asked_for(request)
        state = await service.change_roles(lambda book: book.rollback(by=who, why=asked.why, to=asked.digest))
        return JSONResponse(asdict(state))
