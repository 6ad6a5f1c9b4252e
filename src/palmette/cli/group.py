"""The command itself, and what its parts share."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from palmette import __version__
from palmette.errors import PalmetteError

if TYPE_CHECKING:
    from rich.console import Console


# How what was interrupted is taken up again.
_GOES_ON = {
    "train": "; palmette train … --resume goes on from the last checkpoint",
    "compare": "; the same command goes on where it was",
}


class _Group(click.Group):
    """Turns a user's mistake into one message and exit code 2, never a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except PalmetteError as error:
            click.echo(f"palmette: {error}", err=True)
            ctx.exit(2)
        except BrokenPipeError:
            # The reader of our output (head, less) has seen enough.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            ctx.exit(0)
        except KeyboardInterrupt:
            click.echo(f"palmette: interrupted{_GOES_ON.get(ctx.invoked_subcommand or '', '')}", err=True)
            ctx.exit(130)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="palmette")
def main() -> None:
    """One model for many text tasks: train, prove, ship, operate."""


def beside(given: Path, what: str) -> Path:
    """Where a command writes that was not told where: a folder beside what it was given, called NAME-WHAT."""
    whole = given if given.name not in ("", "..") else given.resolve()  # of "." the folder's own name
    return whole.parent / f"{whole.name}-{what}"


def open_console(*, stderr: bool = False) -> Console:
    """A console on standard output, or on standard error, that colours only what it is told to."""
    from rich.console import Console

    return Console(stderr=stderr, highlight=False)
