"""Which checks there are: the built-in ones, those of other packages, those of a file."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import entry_points
from pathlib import Path

from palmette.errors import ConfigError
from palmette.operate.behaviour.base import Check
from palmette.operate.behaviour.built_in import CHECKS
from palmette.operate.behaviour.own import OwnChecks, read_own


def find_checks(path: Path | None = None) -> tuple[OwnChecks, list[Check]]:
    """All checks but those that the file leaves out.

    Args:
        path: a file of own checks.

    Returns:
        What the file says, and the checks.

    Raises:
        ConfigError: the file is no file of checks, an entry point is no check, a name is there twice or nowhere.
    """
    own, written = read_own(path) if path is not None else (OwnChecks(), [])
    found = [*CHECKS, *_installed(), *written]
    names = [check.name for check in found]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"check {name!r}: there are {names.count(name)} of that name; call one otherwise")
    for name in own.leave_out:
        if name not in names:
            raise ConfigError(f"{path}: leave_out: no check {name!r}; there are {', '.join(names)}")
    return own, [check for check in found if check.name not in own.leave_out]


def _installed() -> Sequence[Check]:
    """Checks of other packages: an entry point of group `palmette.checks` is a subclass of `Check` or an instance."""
    found = []
    for point in sorted(entry_points(group="palmette.checks"), key=lambda point: point.name):
        loaded = point.load()
        made = loaded() if isinstance(loaded, type) and issubclass(loaded, Check) else loaded
        if not isinstance(made, Check):
            raise ConfigError(f"the entry point {point.value} is no palmette.operate.behaviour.Check")
        found.append(made)
    return found
