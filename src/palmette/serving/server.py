"""The process: a socket, signals, and uvicorn between them.

uvicorn with uvloop and httptools: 16 MB on disk, and both C. The workers hold the interpreter for their tokenising and
decoding, so what the event loop does in Python it takes from them. With asyncio and h11 instead, /healthz took 46 ms
where it takes 2 with these: asyncio seems not to switch Nagle's algorithm off on a socket that is handed to it.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from palmette.answering import Answerer
from palmette.serving import logs
from palmette.serving.app import create_app
from palmette.serving.listening import address, listen, turn_away
from palmette.serving.refusal import RefusedError
from palmette.serving.service import Service
from palmette.serving.settings import ServerSettings

_LAST_REQUESTS = 0.2  # seconds
LOOPBACK = ("127.0.0.1", "::1", "localhost")


class _Protocol(HttpToolsProtocol):
    """HTTP, and nothing to upgrade to."""

    def _unsupported_upgrade_warning(self) -> None:
        """The request is answered as any other. uvicorn would advise, twice for each, to install packages."""


class _Server(uvicorn.Server):
    """uvicorn, but SIGTERM drains before it closes the socket, the exit code is 0, and SIGHUP reloads."""

    def __init__(self, config: uvicorn.Config, service: Service, listener: socket.socket) -> None:
        super().__init__(config)
        self._service = service
        self._listener = listener
        self._reloads: set[asyncio.Task[None]] = set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        handlers = {signal.SIGTERM: self._drain, signal.SIGINT: self._interrupt, signal.SIGHUP: self._reload}
        for number, handler in handlers.items():
            loop.add_signal_handler(number, handler)
        yield
        for number in handlers:
            loop.remove_signal_handler(number)

    def _drain(self) -> None:
        """Say "not ready" first, so that whoever sends requests here can stop; then take no more, and end."""
        if self._service.draining:
            return
        self._service.draining = True
        logs.log("draining", seconds=self._service.settings.drain_seconds)
        asyncio.get_running_loop().call_later(self._service.settings.drain_seconds, self._end)

    def _interrupt(self) -> None:
        """Ctrl+C: at once, though accepted requests are still answered; a second time: leave them."""
        self.force_exit = self.should_exit
        self._service.draining = True
        if not self.should_exit:
            self._end()

    def _end(self) -> None:
        turn_away(self._listener)
        # uvicorn closes connections whose request it has not read yet: time to read them.
        asyncio.get_running_loop().call_later(_LAST_REQUESTS, self._close)

    def _close(self) -> None:
        self._service.end_by = time.monotonic() + self._service.settings.shutdown_timeout
        self.should_exit = True

    def _reload(self) -> None:
        task = asyncio.ensure_future(self._reload_quietly())
        self._reloads.add(task)  # the loop itself holds tasks but weakly
        task.add_done_callback(self._reloads.discard)

    async def _reload_quietly(self) -> None:
        try:
            await self._service.reload()
        except RefusedError as refusal:
            logs.log("reload by signal not done", level=logging.WARNING, code=refusal.code)


def serve(load: Callable[[Path], Answerer], path: Path | None, settings: ServerSettings) -> None:
    """Serve a model until a signal ends it.

    Args:
        load: path -> answerer.
        path: of the model; None: what is live in the store.
        settings: of the operator.

    Raises:
        PalmetteError: the model or the keys cannot be loaded, or the address cannot be listened on.
    """
    logs.configure(log_text=settings.log_text)
    service = Service(load, path, settings)
    app = create_app(service)
    gc.collect()
    gc.freeze()  # what stays is not looked through again: full collections doubled the slowest refusals (LOG.md)
    listener = listen(settings.host, settings.port)
    if settings.host not in LOOPBACK and not service.keys.hashes:
        logs.log("anybody who reaches this address may call: see --keys", level=logging.WARNING)
    logs.log("listening", address=address(listener), digest=service.model.digest)
    _Server(_configure(app, settings), service, listener).run(sockets=[listener])
    logs.log("ended")


def _configure(app: FastAPI, settings: ServerSettings) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        loop="uvloop",
        http=_Protocol,
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=settings.shutdown_timeout,  # type: ignore[arg-type]  # asyncio takes half a second too
    )
