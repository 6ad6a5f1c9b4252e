"""One of several servers of a model: the application of `palmette serve` inside an actor of Ray Serve."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from palmette import load
from palmette.answering import Answerer
from palmette.scale.exposition import merge
from palmette.serving import logs
from palmette.serving.app import create_app
from palmette.serving.model import Served
from palmette.serving.refusal import RefusedError
from palmette.serving.service import Service
from palmette.serving.settings import ServerSettings

APPLICATION = "palmette"
DEPLOYMENT = "Replica"
_PATIENCE = 60.0  # seconds until the other replicas have done what all of them are asked to do


class ReplicaService(Service):
    """A service that reloads and counts together with those of the other replicas.

    Args:
        load: path -> answerer.
        path: of the model.
        settings: of the operator.
        name: of this replica.
        everywhere: calls a method of every replica, this one among them.
    """

    def __init__(
        self,
        load: Callable[[Path], Answerer],
        path: Path,
        settings: ServerSettings,
        *,
        name: str,
        everywhere: Callable[..., Any],
    ) -> None:
        super().__init__(load, path, settings)
        self.name = name
        self._everywhere = everywhere

    async def reload(self) -> Served:
        """Reload here first; only a model that works here is asked of the others.

        Raises:
            RefusedError: as for one server; or 500, some of the others did not follow.
        """
        model = await super().reload()
        failed = [str(problem) for problem in await self._everywhere("reload_too", self.name) if problem]
        if failed:
            logs.log("replicas keep the old model", level=logging.ERROR, reasons=failed)
            raise RefusedError(
                500, "reload_failed", f"{len(failed)} other replicas keep the old model; the log has the reason"
            )
        return model

    async def exposition(self) -> bytes:
        """What all replicas count, each with its name as a label."""
        # One that has just ended has nothing to say.
        return merge([page for page in await self._everywhere("count") if not isinstance(page, BaseException)])


class _Unnamed:
    """The application without `X-Request-Id` in what it answers: Ray Serve's proxy adds the same a second time."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, or the lifespan."""

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = [(name, value) for name, value in message["headers"] if name != b"x-request-id"]
                message = {**message, "headers": headers}
            await send(message)

        await self._app(scope, receive, answer)


class Replica:
    """What Ray Serve starts.

    Args:
        path: of the model, the same on every machine.
        settings: of the operator.
        threads: that a pass computes with.
    """

    def __init__(self, path: Path, settings: ServerSettings, threads: int) -> None:
        from ray import serve

        logs.configure(log_text=settings.log_text)
        name = serve.get_replica_context().replica_id.unique_id
        loading = partial(load, threads=threads)
        self._service = ReplicaService(loading, path, settings, name=name, everywhere=_everywhere)

    def __serve_build_asgi_app__(self) -> Any:
        """The application; Ray Serve runs its lifespan."""
        return _Unnamed(create_app(self._service))

    async def reload_too(self, first: str) -> str | None:
        """Reload, unless this is the replica that has done so first; what went wrong."""
        if self._service.name == first:
            return None
        try:
            await Service.reload(self._service)
        except RefusedError as refusal:
            return f"{self._service.name}: {refusal.message}"
        return None

    async def reload(self) -> str | None:
        """Reload on a signal to the command; what went wrong."""
        return await self.reload_too("")

    async def count(self) -> tuple[str, bytes]:
        """This replica's name and its counts."""
        return self._service.name, self._service.metrics.render()

    async def drain(self) -> None:
        """Say "not ready" from now on."""
        self._service.draining = True


async def _everywhere(method: str, *arguments: Any) -> Sequence[Any]:
    """What every replica answers, or the exception that it ended with."""
    from ray import serve

    response = serve.get_deployment_handle(DEPLOYMENT, APPLICATION).broadcast(method, *arguments)
    return list(await response.results_async(timeout_s=_PATIENCE, return_exceptions=True))
