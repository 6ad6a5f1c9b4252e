"""What the operator of a server decides."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import Field, ValidationError

from palmette.config import Settings
from palmette.errors import ConfigError
from palmette.operate.releases.rules import RolloutRules
from palmette.overrides import read_override


class ReviewSettings(Settings):
    """Which answers people check (docs/review.md). It takes a `store`."""

    threshold: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Answers of lower confidence go to people; of tags, the least certain word counts.",
    )
    thresholds: dict[str, float] = Field({}, description="The same for single tasks, by name.")
    audit: float = Field(0.01, ge=0, le=1, description="Share of the other texts that people check, drawn by request.")
    seed: int = Field(13, description="Of the draw.")
    capacity: int = Field(
        1000, ge=1, description="Most items of a task that wait; what comes then is dropped, counted."
    )
    reviewers: int = Field(1, ge=1, le=5, description="People who look at each item; from 2 on agreement is measured.")
    keep_texts: bool = Field(False, description="Keep the texts of items, without which people see answers only.")
    keep_days: float = Field(30.0, gt=0, description="Days that texts are kept.")
    redact: str | None = Field(
        None,
        description="Replaces words before a text is kept: module:function, or an entry point of palmette.redactions.",
    )
    lease_minutes: float = Field(10.0, gt=0, description="Minutes that an item a reviewer was given is kept for them.")


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
    workers: int | None = Field(
        None, ge=1, description="Batches computed at the same time; by default 2 of a bundle on several cores, else 1."
    )
    request_timeout: float = Field(
        30.0, gt=0, description="Seconds until an answer, or between two of a stream; and for a body to arrive."
    )
    drain_seconds: float = Field(
        1.0, ge=0, description="Seconds after SIGTERM in which /readyz says 503 and requests are still taken."
    )
    shutdown_timeout: float = Field(
        60.0,
        gt=0,
        description="Seconds that accepted requests then have to end; what is not done a second later is left.",
    )
    keys: Path | None = Field(None, description="File of key hashes (palmette keys new); none: no key is asked for.")
    watch: bool = Field(False, description="Compare what is answered with the bundle's reference profile (/watch).")
    watch_window: int = Field(500, ge=50, le=100_000, description="Texts in a window that is compared, of each task.")
    cors_origins: tuple[str, ...] = Field((), description="Origins whose pages may call; none by default.")
    writer: Path | None = Field(
        None, description="Run folder of a second model, which writes, in a process of its own; none by default."
    )
    store: str | None = Field(
        None, description="What the server remembers: an SQLite file, or the URL of a database; none: nothing."
    )
    review: ReviewSettings = Field(ReviewSettings(), description="Which answers people check.")
    compared_texts: int = Field(
        2000, ge=1, description="Texts that may wait to be answered by the candidate as well; more are left out."
    )
    keep_previous: bool = Field(
        True, description="What was live before a promotion stays in memory, so that a rollback takes no time."
    )
    rollout: RolloutRules = Field(RolloutRules(), description="When a candidate is taken back (docs/releases.md).")
    log_text: bool = Field(False, description="Texts of callers may stand in the log.")

    @classmethod
    def read(cls, overrides: Sequence[str] = (), **given: object) -> ServerSettings:
        """Settings from `KEY=VALUE` (values are YAML) and from named options, which win unless None.

        Raises:
            ConfigError: a key is unknown or a value does not fit.
        """
        values: dict[str, object] = {}
        for override in overrides:
            key, value = read_override(override, example="batch_tokens=1024")
            _put(values, key, value)
        values |= {key: value for key, value in given.items() if value is not None}
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            problem = error.errors(include_url=False)[0]
            place = ".".join(map(str, problem["loc"]))
            known = f"; settings: {', '.join(cls.model_fields)}" if problem["type"] == "extra_forbidden" else ""
            raise ConfigError(f"{place}: {problem['msg']}, found {problem['input']!r}{known}") from error


def _put(values: dict[str, object], key: str, value: object) -> None:
    """Set `a.b` in {"a": {"b": …}}."""
    head, dot, rest = key.partition(".")
    if not dot:
        values[head] = value
        return
    inner = values.get(head)
    inner = dict(inner) if isinstance(inner, dict) else {}
    _put(inner, rest, value)
    values[head] = inner
