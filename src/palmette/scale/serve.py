"""`palmette serve --engine ray`: starts the replicas, waits for a signal, and ends them in good order."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from palmette import load
from palmette.cluster import connected, import_ray
from palmette.errors import RunError
from palmette.scale.replicas import Replicas
from palmette.serving import logs
from palmette.serving.keys import Keys
from palmette.serving.listening import address, listen
from palmette.serving.model import Served
from palmette.serving.server import LOOPBACK
from palmette.serving.settings import ServerSettings

_LOOK = 5.0  # seconds between two looks at the replicas
_ALWAYS = 10**6  # a replica has its own queue and limits: Ray Serve shall hold nothing back


def serve(path: Path, settings: ServerSettings, replicas: Replicas) -> None:
    """Serve a model from several processes until a signal ends them.

    Args:
        path: of the model; every machine of the cluster sees it there.
        settings: of the operator, for each of the replicas.
        replicas: how many.

    Raises:
        PalmetteError: the model or the keys cannot be loaded, the address cannot be listened on, there is no cluster,
            or it cannot hold the least number of replicas.
        MissingExtraError: Ray Serve is not installed.
    """
    import_ray("serve")
    logs.configure(log_text=settings.log_text)
    path = path.resolve()
    settings = settings.model_copy(update={"keys": settings.keys and settings.keys.resolve()})
    # What is wrong with them is said here, not by an actor.
    keys, digest = Keys.read(settings.keys), Served.of(load(path, threads=replicas.threads), path).digest
    with listen(settings.host, settings.port) as listener:
        place, port = address(listener), listener.getsockname()[1]
    if settings.host not in LOOPBACK and not keys.hashes:
        logs.log("anybody who reaches this address may call: see --keys", level=logging.WARNING)
    with _signals() as signals, connected(cpus=replicas.least * replicas.threads, what="the replicas"):
        signals.take()  # Ray has set a handler of its own, and loggers
        logs.configure(log_text=settings.log_text)
        _start(path, settings.model_copy(update={"port": port}), replicas)
        try:
            logs.log("listening", address=place, digest=digest, replicas=replicas.least, most=replicas.most)
            _watch(signals)
        finally:
            _end(settings, at_once=signals.interrupted)
    logs.log("ended")


class _Signals:
    """What was asked for by signals. A second Ctrl+C does not wait any longer."""

    def __init__(self) -> None:
        self.changed = threading.Event()
        self.ended = self.interrupted = self.reload = False

    def take(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._handle)

    def _handle(self, number: int, _: Any) -> None:
        if number == signal.SIGINT and self.ended:
            raise KeyboardInterrupt
        if number == signal.SIGHUP:
            self.reload = True
        else:
            self.ended, self.interrupted = True, number == signal.SIGINT
        self.changed.set()


@contextmanager
def _signals() -> Iterator[_Signals]:
    signals = _Signals()
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in numbers}
    signals.take()
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _start(path: Path, settings: ServerSettings, replicas: Replicas) -> None:
    """Start Ray Serve and the replicas, and wait until they answer.

    Raises:
        RunError: the cluster serves something already, or a replica does not start.
    """
    ray_serve = import_ray("serve")

    from palmette.scale.replica import APPLICATION, DEPLOYMENT, Replica

    others = ", ".join(ray_serve.status().applications)
    if others:
        raise RunError(f"this Ray cluster serves already: {others}")
    logging_config = {"log_level": "WARNING", "enable_access_log": False}
    # A proxy on every machine, where other machines may call at all.
    location = "HeadOnly" if settings.host in LOOPBACK else "EveryNode"
    ray_serve.start(
        http_options={"host": settings.host, "port": settings.port, "location": location},
        logging_config=logging_config,
    )
    logs.configure(log_text=settings.log_text)  # it has made a logger anew
    scaling: dict[str, Any] = {"num_replicas": replicas.least}
    if replicas.least < replicas.most:
        scaling = {
            "autoscaling_config": {
                "min_replicas": replicas.least,
                "max_replicas": replicas.most,
                "target_ongoing_requests": replicas.ongoing,
            }
        }
    deployment = ray_serve.deployment(
        name=DEPLOYMENT,
        ray_actor_options={"num_cpus": replicas.threads},
        max_ongoing_requests=_ALWAYS,
        graceful_shutdown_timeout_s=settings.shutdown_timeout,
        graceful_shutdown_wait_loop_s=0.1,
        max_constructor_retry_count=2,
        logging_config=logging_config,
        **scaling,
    )(ray_serve.ingress()(Replica))
    try:
        ray_serve.run(
            deployment.bind(path, settings, replicas.threads), name=APPLICATION, logging_config=logging_config
        )
    except RuntimeError as error:
        found = ray_serve.status().applications.get(APPLICATION)
        reason = _last_line(found.message if found is not None else str(error))
        ray_serve.shutdown()
        raise RunError(f"the replicas do not start: {reason}; Ray's log of the replica has more") from error


def _last_line(message: str) -> str:
    lines = [line.strip() for line in message.strip().splitlines() if line.strip()]
    return lines[-1][:300] if lines else "no reason given"


def _watch(signals: _Signals) -> None:
    """Until a signal ends it; a signal to reload is handed on, and replicas that are not well are told of once."""
    ray_serve = import_ray("serve")

    from palmette.scale.replica import APPLICATION

    last = "RUNNING"
    while not signals.ended:
        signals.changed.wait(_LOOK)
        signals.changed.clear()
        if signals.reload and not signals.ended:
            signals.reload = False
            failed = [problem for problem in _ask("reload") if problem]
            if failed:
                logs.log("replicas keep the old model", level=logging.ERROR, reasons=list(map(str, failed)))
            else:
                logs.log("reloaded")
        found = ray_serve.status().applications.get(APPLICATION)
        state = str(found.status.value) if found is not None else "GONE"
        if state != last:
            logs.log("replicas", level=logging.INFO if state == "RUNNING" else logging.WARNING, state=state)
        last = state


def _ask(method: str) -> list[Any]:
    ray_serve = import_ray("serve")

    from palmette.scale.replica import APPLICATION, DEPLOYMENT

    handle = ray_serve.get_deployment_handle(DEPLOYMENT, APPLICATION)
    return list(handle.broadcast(method).results(timeout_s=60, return_exceptions=True))


def _end(settings: ServerSettings, *, at_once: bool) -> None:
    """Say "not ready", go on for a while, then take no more and answer what was accepted."""
    ray_serve = import_ray("serve")

    from palmette.scale.replica import APPLICATION

    logs.log("draining", seconds=0 if at_once else settings.drain_seconds)
    try:
        _ask("drain")
        time.sleep(0 if at_once else settings.drain_seconds)
        ray_serve.delete(APPLICATION)
    finally:
        ray_serve.shutdown()
