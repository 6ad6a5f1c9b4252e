"""What the operator of a server decides."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import yaml
from pydantic import Field, ValidationError

from palmette.config import Settings
from palmette.errors import ConfigError


class ServerSettings(Settings):
    """Limits and behaviour of a server. The defaults are for one machine of a few cores, reached from itself only."""

    host: str = Field("127.0.0.1", description="Address to listen on; loopback unless told otherwise.")
    port: int = Field(8000, ge=0, le=65535, description="0 takes a free one; the log says which.")
    body_bytes: int = Field(2_000_000, ge=1, description="Longest body of a request.")
    texts: int = Field(1000, ge=1, description="Most texts in a request.")
    characters: int = Field(50_000, ge=1, description="Longest text; a pair's texts count apart.")
    explained_characters: int = Field(
        2000, ge=1, description="Longest text whose answers are explained, which takes about a pass for each word."
    )
    batch_tokens: int = Field(2048, ge=1, description="Subwords (estimated) computed together.")
    queue_tokens: int = Field(65_536, ge=1, description="Subwords (estimated) that may wait; more is answered 429.")
    queue_seconds: float = Field(
        5.0, gt=0, description="Seconds that a request may have to wait for its turns; longer is answered 429."
    )
    longest_wait: float = Field(0.005, ge=0, description="Seconds that a batch waits for more, at most.")
    workers: int = Field(1, ge=1, description="Threads that compute; the engine of each uses threads of its own.")
    request_timeout: float = Field(
        30.0, gt=0, description="Seconds until an answer, or between two of a stream; and for a body to arrive."
    )
    drain_seconds: float = Field(
        1.0, ge=0, description="Seconds after SIGTERM in which /readyz says 503 and requests are still taken."
    )
    shutdown_timeout: float = Field(60.0, gt=0, description="Seconds that accepted requests then have to end.")
    keys: Path | None = Field(None, description="File of key hashes (palmette keys new); none: no key is asked for.")
    watch: bool = Field(False, description="Compare what is answered with the bundle's reference profile (/watch).")
    watch_window: int = Field(500, ge=50, le=100_000, description="Texts in a window that is compared, of each task.")
    cors_origins: tuple[str, ...] = Field((), description="Origins whose pages may call; none by default.")
    log_text: bool = Field(False, description="Texts of callers may stand in the log.")

    @classmethod
    def read(cls, overrides: Sequence[str] = (), **given: object) -> ServerSettings:
        """Settings from `KEY=VALUE` (values are YAML) and from named options, which win unless None.

        Raises:
            ConfigError: a key is unknown or a value does not fit.
        """
        values: dict[str, object] = {}
        for override in overrides:
            key, equals, value = override.partition("=")
            if not equals or not key:
                raise ConfigError(f"--set {override}: expected KEY=VALUE, e.g. batch_tokens=1024")
            try:
                values[key] = yaml.safe_load(value)
            except yaml.YAMLError as error:
                raise ConfigError(f"--set {override}: the value is not YAML") from error
        values |= {key: value for key, value in given.items() if value is not None}
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            problem = error.errors(include_url=False)[0]
            place = ".".join(map(str, problem["loc"]))
            known = f"; settings: {', '.join(cls.model_fields)}" if problem["type"] == "extra_forbidden" else ""
            raise ConfigError(f"{place}: {problem['msg']}, found {problem['input']!r}{known}") from error
