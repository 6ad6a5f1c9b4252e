"""A Ray cluster: the one that RAY_ADDRESS names, else one of this machine alone, which ends with the command."""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from palmette.errors import MissingExtraError, RunError

# Texts travel through it one request at a time, or not at all: by default Ray takes 30 % of the machine's memory.
_OBJECT_STORE = 256 * 1024 * 1024


def import_ray(part: str = "") -> Any:
    """`ray.serve` or `ray.data`; `ray` itself for no part.

    Raises:
        MissingExtraError: Ray is not installed, or not with what this part of it needs.
    """
    try:
        return importlib.import_module(f"ray.{part}" if part else "ray")
    except ImportError as error:
        raise MissingExtraError(f"ray[{part}]" if part else "ray", "ray") from error


@contextmanager
def connected(*, cpus: int, what: str) -> Iterator[None]:
    """A connection to the cluster for as long as the block lasts; one that is there already is used and left alone.

    Args:
        cpus: that the cluster must have at least.
        what: needs them, for the message.

    Raises:
        RunError: there is no cluster at RAY_ADDRESS, or it is too small, and would have let us wait for ever.
    """
    ray = import_ray()
    ours = not ray.is_initialized()
    if ours:
        _connect(ray)
    try:
        found = int(ray.cluster_resources().get("CPU", 0))
        if found < cpus:
            raise RunError(
                f"{what} need {cpus} CPUs; this Ray cluster has {found}: ask for fewer (--threads, --replicas)"
            )
        yield
    finally:
        if ours:
            ray.shutdown()


def _connect(ray: Any) -> None:
    address = os.environ.get("RAY_ADDRESS")
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if not address:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a command of ours reports to nobody
        options |= {"address": "local", "include_dashboard": False, "object_store_memory": _OBJECT_STORE}
    try:
        ray.init(**options)
    except (ConnectionError, RuntimeError, ValueError) as error:
        place = f"RAY_ADDRESS={address}" if address else "on this machine"
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise RunError(f"no Ray cluster {place}: {first[:300]}") from error
