"""Versions of a model in the roles of a release: what answers, what is tried, what was before."""

from palmette.operate.releases.book import Releases
from palmette.operate.releases.records import Entry, State, Version
from palmette.operate.releases.rules import RolloutRules, Trial

__all__ = ["Entry", "Releases", "RolloutRules", "State", "Trial", "Version"]
