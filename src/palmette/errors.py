"""What a user can get wrong. Each of these ends a command with one line on stderr and exit code 2."""

from __future__ import annotations


class PalmetteError(Exception):
    """Base of every error that is the input's fault, not the program's.

    The message names what is wrong, where (file:line, key path or task) and what to do.
    """


class ConfigError(PalmetteError):
    """The configuration does not describe a run: unknown key, wrong type, missing source."""


class ReadError(PalmetteError):
    """A data file cannot be read as the configuration says it should be."""


class RunError(PalmetteError):
    """A run folder is missing something, or does not fit what is asked of it."""


class BudgetError(RunError):
    """What is asked for would cost more than may be spent."""


class BundleError(PalmetteError):
    """A bundle is damaged, was changed, is not one, or cannot be made."""


class StoreError(PalmetteError):
    """A database cannot be used, or lacks what is asked of it."""


class ReleaseError(PalmetteError):
    """A version cannot take the role that is asked for."""


class MissingExtraError(PalmetteError):
    """A feature needs packages that an extra of Palmette brings."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"{package} is not installed: pip install 'palmette[{extra}]'")
