"""`--set KEY=VALUE`, the same for every command that takes it."""

from __future__ import annotations

from typing import Any

import yaml

from palmette.errors import ConfigError


def read_override(given: str, *, example: str) -> tuple[str, Any]:
    """`key.path=value` -> the key path, and the value, which is YAML.

    Args:
        given: what a user wrote.
        example: what it could be, for the error.

    Raises:
        ConfigError: there is no key, or the value is not YAML.
    """
    key, equals, value = given.partition("=")
    if not equals or not key:
        raise ConfigError(f"--set {given}: expected KEY=VALUE, e.g. {example}")
    try:
        return key, yaml.safe_load(value)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a date that is none
        raise ConfigError(f"--set {given}: the value is not YAML") from error
