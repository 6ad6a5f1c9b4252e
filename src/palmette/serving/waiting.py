"""Where the event loop waits for the workers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from starlette.requests import Request

from palmette.serving.refusal import RefusedError


class Waiting:
    """Lets a request wait for its job: until answers come, the client goes away, or the time is up.

    Args:
        request: whose body has been read.
        limit: seconds for each wait.

    Attributes:
        gone: the client has closed the connection.
    """

    def __init__(self, request: Request, limit: float) -> None:
        self._limit = limit
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()
        self.gone = False
        self._watch = asyncio.ensure_future(self._watch_client(request))

    def notify(self) -> None:
        """Look again. Called from any thread."""
        self._loop.call_soon_threadsafe(self._changed.set)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Return when the condition holds or the client has gone.

        Raises:
            RefusedError: 504, neither happened in time.
        """
        try:
            async with asyncio.timeout(self._limit):
                while not condition() and not self.gone:
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError as error:
            raise RefusedError(504, "timeout", f"no answer within {self._limit:g} s; send less, or later") from error

    def end(self) -> None:
        """Watch the client no longer."""
        self._watch.cancel()

    async def _watch_client(self, request: Request) -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        self.gone = True
        self._changed.set()
