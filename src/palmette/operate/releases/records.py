"""What is known of releases: versions, their roles, and the log of who changed them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

Mode = Literal["shadow", "canary"]
Action = Literal["serve", "release", "promote", "rollback", "withdraw", "demote"]
FIRST = "0" * 64  # stands for the hash before the first entry


@dataclass(frozen=True, slots=True)
class Version:
    """A bundle that was registered.

    Attributes:
        digest: of the bundle: its manifest's sha256.
        path: of its folder, absolute.
        tasks: {task: kind}.
        precision: fp32, int8.
        registered: when.
        by: whom.
        source: where it came from if not from a folder, as `models:/NAME/3`.
    """

    digest: str
    path: Path
    tasks: Mapping[str, str]
    precision: str
    registered: datetime
    by: str
    source: str | None = None


@dataclass(frozen=True, slots=True)
class State:
    """Which version has which role.

    Attributes:
        number: of the log's entry that made it so; 0 before the first.
        live: digest of what answers; None: nothing was served yet.
        previous: what was live before.
        candidate: what is tried.
        mode: shadow (it answers in the background and nobody sees it) or canary (it answers callers).
        share: of the traffic that meets the candidate, in (0, 1]; 0 without one.
    """

    number: int = 0
    live: str | None = None
    previous: str | None = None
    candidate: str | None = None
    mode: Mode | None = None
    share: float = 0.0

    @property
    def roles(self) -> dict[str, str]:
        """{role: digest} of the roles that are taken."""
        found = {"live": self.live, "candidate": self.candidate, "previous": self.previous}
        return {role: digest for role, digest in found.items() if digest is not None}


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of the log. It holds the whole state that it led to: the last line is the state.

    Attributes:
        at: when.
        who: a user, a key of the server, or the server itself.
        action: what was done: serve (the first live version), release, promote, rollback, withdraw (a person took the
            candidate back), demote (the server did, by its rules).
        origin, target: digests that it led from and to: of the live version; of the candidate where only that changed.
        why: the reason that was given.
        state: what held from then on.
        before: hash of the entry before.
        hash: of this entry, the one before included.
    """

    at: datetime
    who: str
    action: Action
    origin: str | None
    target: str | None
    why: str
    state: State
    before: str
    hash: str

    @classmethod
    def make(cls, *, before: str, **fields: Any) -> Entry:
        """An entry with its hash."""
        return cls(before=before, hash=_hash(before, fields), **fields)

    @property
    def genuine(self) -> bool:
        """Whether the hash is that of what the entry says."""
        fields = ("at", "who", "action", "origin", "target", "why", "state")
        return self.hash == _hash(self.before, {name: getattr(self, name) for name in fields})

    def as_json(self) -> dict[str, Any]:
        """For programs, and for the API."""
        return {
            "number": self.state.number,
            "at": self.at.astimezone(UTC).isoformat(),
            "who": self.who,
            "action": self.action,
            "from": self.origin,
            "to": self.target,
            "why": self.why,
            "state": asdict(self.state),
            "hash": self.hash,
        }


def _hash(before: str, fields: Mapping[str, Any]) -> str:
    plain = {**fields, "at": fields["at"].astimezone(UTC).isoformat(), "state": asdict(fields["state"])}
    return hashlib.sha256(json.dumps([before, plain], sort_keys=True).encode()).hexdigest()
