"""Errors as the caller of the API sees them."""

from __future__ import annotations

import json
from collections.abc import Mapping

from starlette.responses import Response

from palmette.errors import PalmetteError
from palmette.words import well_formed


class RefusedError(PalmetteError):
    """A request is not answered: why, and where the reason stands in it.

    Args:
        status: of the HTTP response.
        code: short and stable, for programs.
        message: for people.
        field: where in the body, as in `texts[3].text_pair`.
        headers: for the response.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        field: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.field = field
        self.headers = dict(headers or {})

    def body(self, request_id: str) -> bytes:
        """The JSON of the response. It may repeat half a surrogate pair of the request, so: made well-formed."""
        error = {"code": self.code, "message": self.message}
        if self.field is not None:
            error["field"] = self.field
        return json.dumps({"error": {k: well_formed(v) for k, v in error.items()}, "request_id": request_id}).encode()

    def response(self, request_id: str) -> Response:
        """The whole response."""
        return Response(self.body(request_id), self.status, self.headers, media_type="application/json")
