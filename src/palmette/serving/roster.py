"""Which models a server answers with, and which of them answers whom."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from palmette.operate.releases.records import State
from palmette.operate.releases.routing import chosen
from palmette.serving.model import Served


@dataclass(frozen=True, eq=False)
class Roster:
    """The models in their roles. Replaced as a whole: who holds one sees no half of a change.

    Attributes:
        live: answers callers.
        candidate: is tried, as `state` says.
        state: the roles in the store; the first of all states without one.
        previous: was live before, and is still loaded, so that a rollback takes no time.
    """

    live: Served
    candidate: Served | None = None
    state: State = field(default_factory=State)
    previous: Served | None = None

    def choose(self, key: str) -> Served:
        """What answers a request.

        Args:
            key: the user that it names, or its own id.
        """
        return self.candidate if self.candidate is not None and self._meets("canary", key) else self.live

    def other(self, model: Served, key: str) -> Served | None:
        """What answers a request once more, in the background, for comparison.

        In shadow mode that is the candidate, after the live version; in canary mode the live version, after the
        candidate. None: nothing.
        """
        if self.candidate is None:
            return None
        if model is self.candidate:
            return self.live
        return self.candidate if model is self.live and self._meets("shadow", key) else None

    def _meets(self, mode: str, key: str) -> bool:
        digest = self.state.candidate
        return digest is not None and self.state.mode == mode and chosen(key, digest, self.state.share)


class Source(Protocol):
    """Where a server's models come from."""

    def read(self, old: Roster | None) -> Roster:
        """The models as they ought to be now.

        Args:
            old: loaded already; what has not changed is kept. None: load everything anew.
        """


class Folder:
    """One model, from one path, and never from another one: who may reload must not read any file.

    Args:
        open_: path -> model; imports whatever that needs.
        path: of the model.
    """

    def __init__(self, open_: Callable[[Path], Served], path: Path) -> None:
        self._open = open_
        self._path = path

    def read(self, old: Roster | None) -> Roster:  # noqa: ARG002 - whether its files changed, only reading tells
        """The model as it is on disk."""
        return Roster(self._open(self._path))
