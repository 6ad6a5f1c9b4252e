"""One JSON object a line on stderr. No text of a caller unless the settings say so."""

from __future__ import annotations

import json
import logging
import re
import sys
import traceback
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

_SANE = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_logger = logging.getLogger("palmette.serving")


class JsonLines(logging.Formatter):
    """Log records as JSON.

    Args:
        log_text: messages of exceptions may be shown. They can quote what the caller sent, so otherwise an exception
            is its type and the places it came through.
    """

    def __init__(self, *, log_text: bool) -> None:
        super().__init__()
        self._log_text = log_text

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info is not None and record.exc_info[1] is not None:
            error = record.exc_info[1]
            line["error"] = type(error).__name__
            if self._log_text:
                line["message"] = str(error)
            line["trace"] = [f"{f.filename}:{f.lineno} {f.name}" for f in traceback.extract_tb(error.__traceback__)]
        return json.dumps(line)


def configure(*, log_text: bool) -> None:
    """Send the server's log, and what uvicorn and Ray have to say, to stderr as JSON lines."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines(log_text=log_text))
    levels = {"palmette.serving": logging.INFO} | dict.fromkeys(("uvicorn", "ray", "ray.serve"), logging.WARNING)
    for name, level in levels.items():
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(level)


def log(event: str, *, level: int = logging.INFO, error: BaseException | None = None, **fields: Any) -> None:
    """Write a line: what happened, and its particulars. `error` is shown without its message, see `JsonLines`."""
    _logger.log(level, event, exc_info=error, extra={"fields": {k: v for k, v in fields.items() if v is not None}})


def request_id(headers: Sequence[tuple[bytes, bytes]]) -> str:
    """The caller's X-Request-Id where it is a plain word (nobody shall forge lines of the log), else a new one."""
    for name, value in headers:
        if name == b"x-request-id" and _SANE.fullmatch(given := value.decode("latin-1")):
            return given
    return uuid.uuid4().hex
