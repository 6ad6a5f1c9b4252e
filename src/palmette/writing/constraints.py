"""Pieces of text that may follow each other -> tokens that may: what a model writes is then always a valid output.

A kind says how an output may go on in pieces of text (`Kind.next_pieces`); a model writes tokens. Each piece becomes
the tokens that it is alone, so that it does not matter that the tokens of a whole text may be others. Where the pieces
of a moment begin with the same tokens, or one goes on where another ends, all readings are followed until they part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from palmette.writing.writer import NextPieces

Encode = Callable[[str], Sequence[int]]  # a text -> its ids, without special tokens

# What a continuing piece is encoded behind: some tokenizers (SentencePiece) put a space in front of any text.
_ANCHOR = "a"
_MOST_TRIES = 4096  # kept at once; a tagged text has one for each of its words


@dataclass(slots=True)
class _Node:
    """A place in the pieces of a moment, tokens deep.

    Attributes:
        then: the place behind each token that may follow.
        piece: what has been written whole here.
    """

    then: dict[int, _Node] = field(default_factory=dict)
    piece: str | None = None


class PieceTokens:
    """The tokens of pieces, remembered: outputs of many examples share them.

    Args:
        encode: of the model's tokenizer.
        end: the token that ends an output.
        lead: what the first piece is written behind, as a part of its tokens: a space, where a line goes on.
    """

    def __init__(self, encode: Encode, end: int, *, lead: str = "") -> None:
        self.encode = encode
        self.end = end
        self.lead = lead
        self._anchor = tuple(encode(_ANCHOR))
        self._tokens: dict[tuple[str, bool], tuple[int, ...]] = {}
        self._tries: dict[tuple[tuple[str, ...], bool], _Node] = {}

    def tokens(self, piece: str, *, first: bool) -> tuple[int, ...]:
        """A piece's tokens, at the beginning of an output or behind other pieces."""
        key = (piece, first)
        if key not in self._tokens:
            self._tokens[key] = self._encode(piece, first=first)
        return self._tokens[key]

    def _encode(self, piece: str, *, first: bool) -> tuple[int, ...]:
        if not first:
            anchored = tuple(self.encode(_ANCHOR + piece))
            if anchored[: len(self._anchor)] == self._anchor:
                return anchored[len(self._anchor) :]
        return tuple(self.encode(self.lead + piece if first else piece))

    def trie(self, pieces: tuple[str, ...], *, first: bool) -> _Node:
        """Pieces by their tokens. Of two that the tokenizer cannot tell apart the first stands for both."""
        key = (pieces, first)
        root = self._tries.get(key)
        if root is None:
            root = _Node()
            for piece in filter(None, pieces):
                node = root
                for token in self.tokens(piece, first=first):
                    node = node.then.setdefault(token, _Node())
                if node is not root and node.piece is None:
                    node.piece = piece
            if len(self._tries) >= _MOST_TRIES:
                self._tries.clear()
            self._tries[key] = root
        return root


@dataclass(frozen=True, slots=True)
class _Reading:
    """One way to understand the tokens so far: whole pieces, and how far into the next one."""

    pieces: tuple[str, ...]
    node: _Node
    ends: bool  # the output may end here


class Constraint:
    """What may be written on one request.

    Args:
        tokens: of the model.
        next_pieces: of the request.
    """

    def __init__(self, tokens: PieceTokens, next_pieces: NextPieces) -> None:
        self._tokens = tokens
        self._next = next_pieces
        self._readings: dict[tuple[int, ...], list[_Reading]] = {(): [self._begin(())]}

    def allowed(self, written: Sequence[int]) -> list[int]:
        """The tokens that may follow those written so far (without special tokens in front); never empty.

        Behind an end, or behind tokens that were not allowed, the only one is the end.
        """
        found: dict[int, None] = {}
        for reading in self._follow(tuple(written)):
            found |= dict.fromkeys(reading.node.then)
            if reading.ends:
                found[self._tokens.end] = None
        return list(found) or [self._tokens.end]

    def text(self, written: Sequence[int]) -> str:
        """The whole pieces that some allowed tokens are, joined; what follows an end is left out."""
        ids = tuple(written)
        if self._tokens.end in ids:
            ids = ids[: ids.index(self._tokens.end)]
        readings = self._follow(ids)
        # Where it may end is what was meant; elsewhere it was cut, and the last piece may be unfinished.
        best = next((reading for reading in readings if reading.ends), readings[0] if readings else None)
        return "".join(best.pieces) if best is not None else ""

    def _follow(self, written: tuple[int, ...]) -> list[_Reading]:
        known = len(written)
        while written[:known] not in self._readings:  # mostly all but the last token
            known -= 1
        readings = self._readings[written[:known]]
        for length in range(known + 1, len(written) + 1):
            readings = list(self._step(readings, written[length - 1]))
            self._readings[written[:length]] = readings
        return readings

    def _step(self, readings: Sequence[_Reading], token: int) -> Iterator[_Reading]:
        for reading in readings:
            node = reading.node.then.get(token)
            if node is not None and node.then:
                yield _Reading(reading.pieces, node, ends=False)
            if node is not None and node.piece is not None:
                yield self._begin((*reading.pieces, node.piece))

    def _begin(self, pieces: tuple[str, ...]) -> _Reading:
        """The moment in which the next piece begins."""
        following = self._next(pieces)
        if following is None:
            raise ValueError("a request that nothing constrains has no constraint")
        return _Reading(pieces, self._tokens.trie(following, first=not pieces), ends="" in following)
