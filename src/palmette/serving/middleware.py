"""Around each request: its id, its line in the log, headers for browsers, and what to say when something broke."""

from __future__ import annotations

import logging
import time
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from palmette.serving.logs import log, request_id
from palmette.serving.refusal import RefusedError
from palmette.serving.service import Service

_SAFETY = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    # The playground is all this server shows, and it loads nothing from elsewhere.
    (
        b"content-security-policy",
        (
            b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
            b"manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        ),
    ),
]


class Around:
    """Pure ASGI: Starlette's BaseHTTPMiddleware would put a queue between the client and a stream."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app = app
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        state = scope.setdefault("state", {})
        state["begun"] = begun = time.monotonic()
        state["request_id"] = identity = request_id(scope["headers"])
        fields: dict[str, Any] = {}
        state["log"] = fields
        status = 0

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = [*message["headers"], (b"x-request-id", identity.encode()), *_SAFETY]
                if self._service.draining:
                    headers.append((b"connection", b"close"))  # the client's next request goes to another server
                message = {**message, "headers": headers}
            await send(message)

        try:
            await self._app(scope, receive, answer)
        except Exception as error:  # noqa: BLE001 - the last to see it: the caller learns that, the log learns what
            log("request failed", level=logging.ERROR, error=error, request_id=identity)
            if not status:
                refusal = RefusedError(
                    500, "internal", "the server failed; its log has the reason under this request_id"
                )
                await refusal.response(identity)(scope, receive, answer)
        finally:
            # The route, not the path: that is the caller's text.
            path = getattr(scope.get("route"), "path", "unknown")
            self._service.metrics.responses.labels(path, str(status)).inc()
            log(
                "request",
                request_id=identity,
                method=scope["method"] if len(scope["method"]) < 10 else "unknown",
                path=path,
                status=status,
                milliseconds=round(1000 * (time.monotonic() - begun), 2),
                **fields,
            )
