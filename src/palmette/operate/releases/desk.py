"""What the commands do: find the bundle, check what the gate said of it, write it into the book, tell MLflow."""

from __future__ import annotations

import getpass
import hashlib
import json
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from palmette.deploy.bundle import Bundle
from palmette.errors import MissingExtraError, ReleaseError
from palmette.operate.releases import registry
from palmette.operate.releases.records import State, Version

if TYPE_CHECKING:
    from palmette.operate.releases.book import Releases


@contextmanager
def opened(store: str) -> Iterator[Releases]:
    """The releases of a store, by its URL or file.

    Raises:
        StoreError: it cannot be opened.
        MissingExtraError: SQLAlchemy or a driver is not installed.
    """
    try:
        from palmette.operate.releases.book import Releases
        from palmette.store import open_store
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "sqlalchemy", "operate") from error
    releases = Releases(open_store(store), now=lambda: datetime.now(UTC))
    try:
        yield releases
    finally:
        releases.close()


def whoami() -> str:
    """The user and the machine, for the log."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container may run under a number without a name
        user = "unknown"
    return f"{user}@{socket.gethostname()}"


def release(
    releases: Releases,
    bundle: str,
    *,
    mode: Literal["shadow", "canary", "live"],
    share: float,
    gate: Path | None,
    into: Path,
    by: str,
    why: str,
    forced: bool,
) -> State:
    """Make a bundle the candidate, or live.

    Args:
        releases: of the store.
        bundle: a folder, or `models:/NAME/VERSION` of an MLflow registry.
        mode: of the release.
        share: of the traffic that meets a candidate.
        gate: report of `palmette gate` about this bundle.
        into: folder below which a bundle from a registry is kept.
        by: who releases it.
        why: kept in the log.
        forced: although it lacks tasks, or the gate refused it or compared it with another version than the live one.

    Raises:
        BundleError, ReleaseError: it is no bundle, was changed, does not fit, or the gate did not let it pass.
    """
    source = bundle if registry.is_reference(bundle) else None
    opened_bundle = registry.fetch(bundle, into) if source is not None else Bundle.open(bundle)
    if gate is not None:
        why = "; ".join(filter(None, [why, _passed(gate, opened_bundle, live=releases.state().live, forced=forced)]))
    if mode == "live":
        state = releases.replace_live(opened_bundle, by=by, why=why, source=source, forced=forced)
    else:
        state = releases.release(opened_bundle, mode=mode, share=share, by=by, why=why, source=source, forced=forced)
    tell_registry(releases, state)
    return state


def tell_registry(releases: Releases, state: State) -> None:
    """Let MLflow's aliases follow. The roles stand in the store already: a registry that fails is said, not undone.

    Raises:
        ReleaseError: the registry did not follow.
    """
    try:
        registry.follow(state, releases.versions())
    except (ReleaseError, MissingExtraError) as error:
        raise ReleaseError(f"the roles are changed in the store, but not in MLflow: {error}") from error


def as_json(state: State, versions: Mapping[str, Version]) -> dict[str, Any]:
    """Roles and versions, for programs."""
    return {
        "state": asdict(state),
        "versions": [
            {**asdict(found), "path": str(found.path), "registered": found.registered.isoformat()}
            for found in versions.values()
        ],
    }


def _passed(report: Path, bundle: Bundle, *, live: str | None, forced: bool) -> str:
    """What the log says of a gate's report, which is about this bundle in place of the live one, and lets it pass.

    Raises:
        ReleaseError: it is not a report, is about another bundle or another OLD, or its verdict is no.
    """
    try:
        content = report.read_bytes()
        found: Any = json.loads(content)
        digest, old, verdict = str(found["new"]["digest"]), str(found["old"]["digest"]), str(found["verdict"])
    except OSError as error:
        raise ReleaseError(f"{report}: cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise ReleaseError(f"{report}: is no report of `palmette gate … --json`: {error!r}") from error
    if digest != bundle.digest:
        raise ReleaseError(f"{report}: is about the bundle {digest[:12]}, not about {bundle.digest[:12]}")
    elsewhere = live is not None and old != live
    if elsewhere and not forced:
        raise ReleaseError(
            f"{report}: compares with {old[:12]}, but {str(live)[:12]} is live: judge it against that one by "
            "palmette gate LIVE NEW; --force releases it all the same"
        )
    if verdict != "passed" and not forced:
        raise ReleaseError(
            f"{report}: the gate did not let {bundle.digest[:12]} pass; --force releases it all the same"
        )
    said = verdict + f" against {old[:12]}" * elsewhere + ", forced" * (elsewhere or verdict != "passed")
    return f"gate: {said} (report {hashlib.sha256(content).hexdigest()[:12]})"
