"""What a server with OpenAI's chat completions says: answers, usage, failures. Nothing here sends anything."""

from __future__ import annotations

import json
import math
import unicodedata
from collections.abc import Mapping, Sequence
from email.utils import parsedate_to_datetime
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from palmette.writing.writer import Message

# A chat template writes marks around each turn, and some add an instruction of their own; that of gpt-oss, the
# longest known, is about 70 tokens.
_TOKENS_A_MESSAGE = 16
_TOKENS_A_PROMPT = 128

_Count = Annotated[int, Field(ge=0, le=2**40)]


class _Said(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")


class _Message(_Said):
    content: str | None = None
    refusal: Any = None


class _Choice(_Said):
    message: _Message
    finish_reason: Any = None


class _Completion(_Said):
    choices: list[_Choice] = Field(min_length=1)


class _Usage(_Said):
    prompt_tokens: Annotated[int, Field(ge=1, le=2**40)]  # no prompt has none: a server that says so does not count
    completion_tokens: _Count
    total_tokens: _Count | None = None


class _Counted(_Said):
    usage: _Usage


class AnswerError(Exception):
    """An answer that is none.

    Attributes:
        final: asking again would not help.
    """

    def __init__(self, message: str, *, final: bool = False) -> None:
        super().__init__(message)
        self.final = final


def prompt_bound(messages: Sequence[Message]) -> int:
    """More tokens than a prompt can have: no tokenizer in use makes two tokens of a byte of what it reads."""
    return _TOKENS_A_PROMPT + sum(_TOKENS_A_MESSAGE + text_bound(message["content"]) for message in messages)


def text_bound(text: str) -> int:
    """Bytes of a text, as it is or normalised as some tokenizers do, which lengthens a few characters."""
    forms = (text, unicodedata.normalize("NFKC", text))
    return max(len(form.encode("utf-8", "surrogatepass")) for form in forms)


def read_answer(body: bytes) -> tuple[str, bool]:
    """The text of an answer, and whether it was cut at its longest.

    Raises:
        AnswerError: saying what there is instead.
    """
    try:
        choice = _Completion.model_validate_json(body).choices[0]
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False, include_context=False)[0]
        place = ".".join(map(str, problem["loc"]))
        raise AnswerError(f"{place}: {problem['msg']}" if place else problem["msg"]) from None
    cut = choice.finish_reason == "length"
    if choice.message.content is None and not cut:  # A model that reasons may come to its end before it answers.
        reason = choice.message.refusal or choice.finish_reason
        raise AnswerError(f"choices.0.message.content is null, the reason: {reason!r:.100}", final=True)
    return choice.message.content or "", cut


def read_usage(body: bytes) -> tuple[int, int] | None:
    """Tokens of the prompt and of the answer; None where the server does not count, or not in earnest."""
    try:
        usage = _Counted.model_validate_json(body).usage
    except ValidationError:
        return None
    # What a total has beyond its parts, as of hidden reasoning, was written.
    written = max(usage.completion_tokens, (usage.total_tokens or 0) - usage.prompt_tokens)
    return usage.prompt_tokens, written


def server_message(body: bytes, *, secret: str) -> str:
    """What a server says in a failure: a line, without the key."""
    said = body.decode("utf-8", "replace")
    try:
        value = json.loads(said)
    except (ValueError, RecursionError):
        value = None
    for key in ("error", "message", "detail"):
        if isinstance(value, dict) and value.get(key):
            value = value[key]
    if isinstance(value, str):
        said = value
    elif isinstance(value, list | dict):
        said = json.dumps(value, ensure_ascii=False)
    return one_line(said, secret=secret)


def one_line(said: str, *, secret: str, longest: int = 200) -> str:
    """Foreign text made fit for a message: cut, on a line, without control characters or the key."""
    # The key first: a cut through it would hide it from the search, and show half of it.
    said = " ".join(said.replace(secret, "[key]").split())
    said = "".join(character if character.isprintable() else "?" for character in said)
    return said if len(said) <= longest else said[: longest - 1] + "…"


def is_out_of_credit(body: bytes) -> bool:
    """Whether a refusal, sent as too many requests, will not pass by waiting."""
    try:
        error = json.loads(body)["error"]
        return "insufficient_quota" in (error.get("code"), error.get("type"))
    except (ValueError, RecursionError, LookupError, TypeError, AttributeError):
        return False


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that a server asks to wait; a date is taken by the server's own clock."""
    for name, scale in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        try:
            seconds = float(headers[name]) / scale
        except (KeyError, ValueError):
            continue
        if math.isfinite(seconds) and seconds >= 0:
            return seconds
    try:
        until, now = parsedate_to_datetime(headers["retry-after"]), parsedate_to_datetime(headers["date"])
        return max(0.0, (until - now).total_seconds())
    except (KeyError, ValueError, TypeError):
        return None
