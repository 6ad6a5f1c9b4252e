"""What a model that writes is asked, and what it gives back. No torch: a remote model needs none."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypedDict

import numpy as np
from numpy.typing import NDArray

Role = Literal["system", "user", "assistant"]

# Told, as an answer grows: the number of its request, and all of its text so far.
Heard = Callable[[int, str], None]

# What may follow the pieces written so far (see `Kind.next_pieces`); None: anything.
NextPieces = Callable[[tuple[str, ...]], tuple[str, ...] | None]


class Message(TypedDict):
    """A turn of a conversation, in the field's usual form."""

    role: Role
    content: str


@dataclass(frozen=True, slots=True)
class Request:
    """Something to write.

    Attributes:
        prompt: the conversation so far; the answer is the assistant's next turn. A text-to-text model has one turn of
            the user, its source text.
        longest: most tokens to write.
        next_pieces: constrains what is written; None: nothing does.
    """

    prompt: tuple[Message, ...]
    longest: int
    next_pieces: NextPieces | None = None


@dataclass(frozen=True, slots=True)
class Written:
    """What was written on a request.

    Attributes:
        text: the answer.
        prompt_tokens, written_tokens: what it cost.
        truncated: the prompt did not fit and was cut, or the answer was still going on at its longest.
        estimated: nobody counted the tokens; they are an upper bound.
        kept: it was written before, and took no time now.
    """

    text: str
    prompt_tokens: int
    written_tokens: int
    truncated: bool = False
    estimated: bool = False
    kept: bool = False


@dataclass(frozen=True, slots=True)
class Likelihoods:
    """How probable continuations of a prompt are.

    Attributes:
        values: [choices] log-probability of each choice, summed over its tokens.
        prompt_tokens, scored_tokens: what it cost.
        truncated: the prompt did not fit and was cut.
    """

    values: NDArray[np.float64]
    prompt_tokens: int
    scored_tokens: int
    truncated: bool = False


class Writer(Protocol):
    """A model that writes."""

    def write(self, requests: Sequence[Request], heard: Heard | None = None) -> list[Written]:
        """An answer to each request, in order.

        Args:
            requests: what to write.
            heard: is told whenever an answer has grown. A search with beams, or a remote model, whose answers are known
                at their end only, says nothing.
        """


class Scorer(Writer, Protocol):
    """A model that can also say how probable given answers are."""

    def likelihoods(self, prompts: Sequence[tuple[Message, ...]], choices: Sequence[str]) -> list[Likelihoods]:
        """For each prompt, the log-probability of each choice as the answer."""
