"""Training or serving in a process of its own, which may be told when to die.

Imported by a fork server, or run as a script:

python tests/workers.py CONFIG OUT [--resume] [--die module.name:COUNT:before|after]
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

# Loaded once, before processes are forked.
import scipy.stats  # noqa: F401
import sklearn.metrics  # noqa: F401
import spacy  # noqa: F401
import torch._dynamo  # noqa: F401
import transformers.models.bert.modeling_bert  # noqa: F401

import palmette.run
import palmette.trainer
from palmette.config import Config


def die(point: str) -> None:
    """Make the process kill itself at the COUNTth call of a function: `module[:Class].name:COUNT:before|after`."""
    path, count, moment = point.rsplit(":", 2)
    owner, name = _resolve(path)
    original: Callable[..., Any] = getattr(owner, name)
    calls = 0

    def deadly(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == int(count) and moment == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = original(*arguments, **options)
        if calls == int(count) and moment == "after":
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, name, deadly)


def serve(run: str, settings: dict[str, Any], listener: socket.socket) -> None:
    """Serve a run on a socket until somebody kills the process."""
    import uvicorn

    from palmette.serving import ServerSettings
    from palmette.serving.app import create_app
    from palmette.serving.service import Service

    service = Service(palmette.run.Run.load, Path(run), ServerSettings.model_validate(settings))
    config = uvicorn.Config(create_app(service), log_config=None, access_log=False, ws="none")
    uvicorn.Server(config).run(sockets=[listener])


def _resolve(path: str) -> tuple[Any, str]:
    """`a.b.C.d` -> (C, "d")."""
    parts = path.split(".")
    for end in range(len(parts) - 1, 0, -1):
        try:
            owner: Any = import_module(".".join(parts[:end]))
        except ModuleNotFoundError:
            continue
        for part in parts[end:-1]:
            owner = getattr(owner, part)
        return owner, parts[-1]
    raise ModuleNotFoundError(path)


def train(config: str, out: str, *, resume: bool = False, point: str | None = None, environment: Any = None) -> None:
    """One life of a run."""
    os.environ.update(environment or {})
    if point is not None:
        die(point)
    palmette.trainer.train(Config.load(config), out, resume=resume)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("config")
    parser.add_argument("out")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--die")
    given = parser.parse_args()
    train(given.config, given.out, resume=given.resume, point=given.die)
