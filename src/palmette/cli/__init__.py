"""The commands. Thin: each reads its options, calls one function, shows the result. Heavy imports are inside.

A module for each step: train, prove, ship, operate.
"""

from palmette.cli import operate, prove, ship, train
from palmette.cli.group import main

__all__ = ["main", "operate", "prove", "ship", "train"]
