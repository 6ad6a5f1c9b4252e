"""How many processes share the work, and how large they are."""

from __future__ import annotations

import re
from dataclasses import dataclass

from palmette.errors import ConfigError

_RANGE = re.compile(r"(\d+)(?:\.\.(\d+))?")


@dataclass(frozen=True)
class Replicas:
    """How many servers or workers, and how large.

    Attributes:
        least, most: replicas; as many as the load asks for in between.
        threads: CPUs of each, and threads of its passes.
        ongoing: requests that a replica has in hand on average before another one is started.
    """

    least: int = 1
    most: int = 1
    threads: int = 1
    ongoing: float = 16.0

    @classmethod
    def parse(cls, text: str, *, threads: int = 1, ongoing: float = 16.0) -> Replicas:
        """From `3` or `1..4`.

        Raises:
            ConfigError: it is neither.
        """
        found = _RANGE.fullmatch(text.strip())
        least, most = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
        if not 1 <= least <= most:
            raise ConfigError(f"--replicas {text}: expected a number, or a range as in 1..4")
        return cls(least, most, threads, ongoing)
