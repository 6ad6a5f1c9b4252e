"""API keys: made once, kept as hashes, compared in constant time."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass
from pathlib import Path

from palmette.errors import ConfigError

_LINE = re.compile(r"([0-9a-f]{64})(?:\s+(.*))?")


def hash_key(key: str) -> str:
    """SHA-256 of a key, hex.

    No slow hash (scrypt, Argon2): those make guessing of short, human passwords dear. A key has 256 random bits, which
    nobody guesses at any speed, and a slow hash would cost each request its time.
    """
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def new_key() -> str:
    """A key of 256 random bits; the prefix lets secret scanners find it where it should not be."""
    return f"palmette_{secrets.token_urlsafe(32)}"


@dataclass(frozen=True)
class Keys:
    """Who may call. Without hashes: everybody."""

    hashes: tuple[str, ...] = ()

    @classmethod
    def read(cls, path: Path | None) -> Keys:
        """A hash a line, each followed by a note if one likes; empty lines and those that begin with # do not count.

        Raises:
            ConfigError: the file cannot be read, has no hash, or a line is none.
        """
        if path is None:
            return cls()
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"keys: {path}: cannot be read: {error}") from error
        hashes = []
        for number, line in enumerate(lines, start=1):
            if not line.strip() or line.startswith("#"):
                continue
            if (found := _LINE.fullmatch(line.strip())) is None:
                # The line is not shown: it may be the key itself.
                raise ConfigError(f"keys: {path}:{number}: expected the hash that `palmette keys new` prints")
            hashes.append(found.group(1))
        if not hashes:
            raise ConfigError(f"keys: {path}: has no key; make one with `palmette keys new`, or leave the file out")
        return cls(tuple(hashes))

    def who(self, authorization: str | None) -> str:
        """Whose request it is, for a log: the key by the beginning of its hash."""
        if not self.hashes:
            return "a caller without a key"
        return f"key {hash_key((authorization or '').partition(' ')[2].strip())[:12]}"

    def allow(self, authorization: str | None) -> bool:
        """Whether an `Authorization` header carries one of the keys."""
        if not self.hashes:
            return True
        scheme, _, key = (authorization or "").partition(" ")
        if scheme.lower() != "bearer":
            return False
        given = hash_key(key.strip())
        # Every hash is compared, so that the time does not tell which one matched.
        return sum(hmac.compare_digest(given, known) for known in self.hashes) > 0
