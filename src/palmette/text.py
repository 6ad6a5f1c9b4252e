"""Subwords, offsets, windows: from words to the rows that the trunk reads. No torch.

Training and serving share this file, so that a text is always cut in the same way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from palmette.errors import ConfigError
from palmette.types import Example, Text
from palmette.words import well_formed

IntArray = NDArray[np.int64]

# What a lower-casing trunk cannot see, given back by a small embedding (trunk.py).
CASINGS: tuple[str, ...] = ("lower or uncased", "capitalised", "all capitals", "mixed")

# A tokenizer's file does not say which of its tokens is the mask; these are the names that trunks give it.
_MASKS = ("[MASK]", "<mask>")


def casing(word: str) -> int:
    """Index into `CASINGS` of a word's shape."""
    if word.islower():  # most words
        return 0
    letters = [character for character in word if character.isupper() or character.islower()]
    upper = sum(character.isupper() for character in letters)
    if upper == 0:
        return 0
    if upper == 1 and letters[0].isupper():
        return 1
    return 2 if upper == len(letters) else 3


@dataclass(frozen=True, slots=True)
class Subwords:
    """A text in subwords, without special tokens. Every word has at least one.

    Attributes:
        ids: [subwords] vocabulary ids.
        word: [subwords] which word each belongs to, ascending.
        offsets: [subwords, 2] characters in `Text.string`, [start, end); empty if not asked for.
        casing: [subwords] index into `CASINGS` of the word.
        first: [words] index of each word's first subword.
    """

    ids: IntArray
    word: IntArray
    offsets: IntArray
    casing: IntArray
    first: IntArray


@dataclass(frozen=True, slots=True)
class Row:
    """One input of the trunk: a window of an example, special tokens included.

    Attributes:
        example: position of the example in the list that was encoded.
        window, windows: which window of how many.
        ids, types, casing: [tokens].
        words: [answered] the words of the text that this window answers for (each word has one window).
        word_positions: [answered] where the first subword of each stands in the row.
        passage: [start, end) of the second text's subwords in the row; (0, 0) without one.
        passage_from: which subword of the second text stands at `passage[0]`.
        truncated: the input did not fit although windowed (an endless word, or an endless first text of a pair).
    """

    example: int
    window: int
    windows: int
    ids: IntArray
    types: IntArray
    casing: IntArray
    words: IntArray
    word_positions: IntArray
    passage: tuple[int, int]
    passage_from: int
    truncated: bool

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, slots=True)
class Encoded:
    """An example as the trunk reads it.

    Attributes:
        rows: one, or a window each where it is too long.
        spans: [subwords, 2] character offsets of the second text's subwords; None without one.
    """

    rows: list[Row]
    spans: IntArray | None


@dataclass(frozen=True, slots=True)
class _Window:
    """Words [start, stop) in subwords [first, last), of which it answers for words [own_start, own_stop)."""

    start: int
    stop: int
    own_start: int
    own_stop: int
    first: int
    last: int
    cut: bool


def windows(first: Sequence[int] | IntArray, total: int, *, limit: int, overlap: int) -> list[_Window]:
    """Cut words into windows of at most `limit` subwords that overlap by about `overlap`.

    Args:
        first: index of each word's first subword, ascending from 0.
        total: number of subwords.
        limit: most subwords in a window; a longer word is cut to it.
        overlap: subwords of context shared by neighbours.

    Returns:
        At least one window. Every word is answered for by exactly one: the one that shows more context.
    """
    bounds = np.append(np.asarray(first, dtype=np.int64), total)  # [words + 1]
    count = len(bounds) - 1
    if total <= limit:
        return [_Window(0, count, 0, count, 0, total, cut=False)]
    ranges: list[tuple[int, int]] = []
    start = 0
    while True:
        stop = int(np.searchsorted(bounds, bounds[start] + limit, side="right")) - 1
        stop = max(stop, start + 1)
        ranges.append((start, stop))
        if stop >= count:
            break
        # Where the next word is so long that it leaves no room for the overlap, the overlap gives way.
        needed = max(bounds[stop] - overlap, bounds[stop + 1] - limit)
        following = int(np.searchsorted(bounds, needed, side="left"))
        start = min(max(following, start + 1), stop)
    middles = [0, *((later[0] + earlier[1]) // 2 for earlier, later in pairwise(ranges)), count]
    return [
        _Window(
            start,
            stop,
            own_start,
            own_stop,
            int(bounds[start]),
            min(int(bounds[stop]), int(bounds[start]) + limit),
            cut=int(bounds[stop] - bounds[start]) > limit,
        )
        for (start, stop), (own_start, own_stop) in zip(ranges, pairwise(middles), strict=True)
    ]


class TextEncoder:
    """Turns examples into rows for one trunk.

    Args:
        tokenizer: the trunk's; truncation and padding that its file may fix are switched off.
        max_length: longest row in subwords, special tokens included.
    """

    def __init__(self, tokenizer: Tokenizer, *, max_length: int) -> None:
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self.tokenizer = tokenizer
        self.max_length = max_length
        self._single = _Template.of(tokenizer, pair=False)
        self._pair = _Template.of(tokenizer, pair=True)
        unknown = getattr(tokenizer.model, "unk_token", None)
        filler = tokenizer.token_to_id(unknown) if unknown else None
        # Byte-level vocabularies have no unknown token; any separator will do for a word without a subword.
        special = [*self._single.after, *self._single.before, *self._pair.between, 0]
        self._filler: int = filler if filler is not None else special[0]
        room = max_length - len(self._pair) - 2
        if room < 8:
            raise ConfigError(f"trunk.max_length: {max_length} leaves no room for a pair beside the special tokens")

    @property
    def mask(self) -> int:
        """What stands for a word that is hidden: the mask token, or the unknown token where there is none."""
        found = (self.tokenizer.token_to_id(name) for name in _MASKS)
        return next((number for number in found if number is not None), self._filler)

    @property
    def lowercases(self) -> bool:
        """Whether the tokenizer loses capitals."""
        probe = self.tokenizer.normalizer.normalize_str("A") if self.tokenizer.normalizer is not None else "A"
        return "A" not in probe

    def subwords(self, texts: Sequence[Text], *, offsets: bool = True) -> list[Subwords]:
        """Subwords of each text, with or without offsets; words are separated by a space whatever stood between."""
        joined = [well_formed(" ".join(text.words)) for text in texts]
        encodings = self.tokenizer.encode_batch(joined, add_special_tokens=False) if joined else []
        return [
            self._align(text, encoding.ids, encoding.offsets, keep=offsets)
            for text, encoding in zip(texts, encodings, strict=True)
        ]

    def _align(self, text: Text, ids: list[int], offsets: list[tuple[int, int]], *, keep: bool) -> Subwords:
        count = len(text.words)
        if count == 0:
            empty = np.zeros(0, dtype=np.int64)
            return Subwords(empty, empty, np.zeros((0, 2), dtype=np.int64), empty, empty)
        lengths = np.fromiter(map(len, text.words), dtype=np.int64, count=count)
        stops = np.cumsum(lengths + 1) - 1  # where the words stand in the joined text
        starts = stops - lengths
        pieces = np.array(offsets, dtype=np.int64).reshape(-1, 2)
        # The end decides: some tokenizers count the space before a word to it, as a part of its first subword or
        # as a subword of its own.
        word = np.searchsorted(starts, pieces[:, 1], side="right") - 1
        ids_array = np.array(ids, dtype=np.int64)
        missing = np.flatnonzero(np.bincount(word, minlength=count) == 0)
        if len(missing):
            # A word that normalisation leaves empty (a variation selector, a blank token) still needs an answer.
            at = np.searchsorted(word, missing, side="left")
            ids_array = np.insert(ids_array, at, self._filler)
            word = np.insert(word, at, missing)
            pieces = np.insert(pieces, at, np.stack([starts[missing], stops[missing]], 1), axis=0)
        places = np.zeros((0, 2), dtype=np.int64)
        if keep:
            shift = np.array([span[0] for span in text.spans], dtype=np.int64) - starts
            places = np.clip(pieces, starts[word][:, None], stops[word][:, None]) + shift[word][:, None]
        shapes = np.array([casing(word_) for word_ in text.words], dtype=np.int64)
        first = np.searchsorted(word, np.arange(count), side="left")
        return Subwords(ids_array, word, places, shapes[word], first)

    def encode(self, examples: Sequence[Example]) -> list[Encoded]:
        """The rows of each example, in order."""
        texts = self.subwords([example.text for example in examples], offsets=False)
        paired = [number for number, example in enumerate(examples) if example.pair is not None]
        pairs = self.subwords([examples[n].pair or Text(()) for n in paired])
        seconds = dict(zip(paired, pairs, strict=True))
        return [
            Encoded(self._pair_rows(number, text, seconds[number]), seconds[number].offsets)
            if number in seconds
            else Encoded(self._text_rows(number, text), None)
            for number, text in enumerate(texts)
        ]

    def word_numbers(self, example: Example) -> list[IntArray]:
        """Which word each token of each row of the example belongs to: [tokens] a row, -1 for special tokens.

        Words of the second text count on from those of the first.
        """
        # The numbers take the place of the casings, so that whatever cuts and pads those places these as well.
        (text,) = self.subwords([example.text])
        text = replace(text, casing=text.word + 1)
        if example.pair is None:
            rows = self._text_rows(0, text)
        else:
            (second,) = self.subwords([example.pair])
            rows = self._pair_rows(0, text, replace(second, casing=second.word + 1 + len(example.text.words)))
        return [row.casing - 1 for row in rows]

    def _text_rows(self, example: int, text: Subwords) -> list[Row]:
        template = self._single
        limit = self.max_length - len(template)
        cuts = windows(text.first, len(text.ids), limit=limit, overlap=limit // 4)
        rows = []
        for number, cut in enumerate(cuts):
            part = slice(cut.first, cut.last)
            words = np.arange(cut.own_start, cut.own_stop)
            rows.append(
                Row(
                    example=example,
                    window=number,
                    windows=len(cuts),
                    ids=template.fill(text.ids[part]),
                    types=template.fill_types(cut.last - cut.first),
                    casing=template.pad(text.casing[part]),
                    words=words,
                    word_positions=text.first[words] - cut.first + len(template.before),
                    passage=(0, 0),
                    passage_from=0,
                    truncated=cut.cut,
                )
            )
        return rows

    def _pair_rows(self, example: int, text: Subwords, second: Subwords) -> list[Row]:
        template = self._pair
        room = self.max_length - len(template)
        # Half of the room at most for the first text (a question): the second one is windowed, the first is not.
        kept = min(len(text.ids), max(room // 2, room - len(second.ids)))
        limit = room - kept
        cuts = windows(second.first, len(second.ids), limit=limit, overlap=limit // 4)
        nothing = np.zeros(0, dtype=np.int64)
        rows = []
        for number, cut in enumerate(cuts):
            part = slice(cut.first, cut.last)
            start = len(template.before) + kept + len(template.between)
            rows.append(
                Row(
                    example=example,
                    window=number,
                    windows=len(cuts),
                    ids=template.fill(text.ids[:kept], second.ids[part]),
                    types=template.fill_types(kept, cut.last - cut.first),
                    casing=template.pad(text.casing[:kept], second.casing[part]),
                    words=nothing,
                    word_positions=nothing,
                    passage=(start, start + cut.last - cut.first),
                    passage_from=cut.first,
                    truncated=cut.cut or kept < len(text.ids),
                )
            )
        return rows


@dataclass(frozen=True, slots=True)
class _Template:
    """The special tokens around one text or two, and the token types of everything.

    Types are as the tokenizer sets them; where it does not tell two texts apart (RoBERTa's), the second's is 1: heads
    of pairs look there, and such a trunk reads no types.
    """

    before: list[int]
    between: list[int]
    after: list[int]
    types: tuple[list[int], int, list[int], int, list[int]]

    def __len__(self) -> int:
        return len(self.before) + len(self.between) + len(self.after)

    @classmethod
    def of(cls, tokenizer: Tokenizer, *, pair: bool) -> _Template:
        """Read the template off an encoded probe, whatever post-processor made it."""
        probe = tokenizer.encode("a", "a") if pair else tokenizer.encode("a")
        special = np.array(probe.special_tokens_mask, dtype=bool)
        # A probe may be several subwords: each run of ordinary tokens is one text.
        owner = np.array([-1 if sequence is None else sequence for sequence in probe.sequence_ids])
        owner[special] = -1
        first = np.flatnonzero(owner == 0)
        second = np.flatnonzero(owner == 1) if pair else first
        parts = (slice(0, first[0]), slice(first[-1] + 1, second[0]), slice(second[-1] + 1, len(owner)))
        before, between, after = (probe.ids[part] for part in parts)
        types = tuple(probe.type_ids[part] for part in parts)
        type_of = (probe.type_ids[first[0]], probe.type_ids[second[0]])
        if not pair:
            between, types = [], (types[0], [], types[2])
        elif type_of[0] == type_of[1]:
            type_of = (0, 1)
        return cls(before, between, after, (types[0], type_of[0], types[1], type_of[1], types[2]))

    def fill(self, first: IntArray, second: IntArray | None = None) -> IntArray:
        filled = self.pad(first, second)
        filled[: len(self.before)] = self.before
        filled[len(filled) - len(self.after) :] = self.after
        start = len(self.before) + len(first)
        filled[start : start + len(self.between)] = self.between
        return filled

    def fill_types(self, first: int, second: int = 0) -> IntArray:
        before, type_first, between, type_second, after = self.types
        return np.array(before + [type_first] * first + between + [type_second] * second + after, dtype=np.int64)

    def pad(self, first: IntArray, second: IntArray | None = None) -> IntArray:
        """Values of the texts' subwords, 0 at special tokens."""
        count = 0 if second is None else len(second)
        padded = np.zeros(len(self) + len(first) + count, dtype=np.int64)
        start = len(self.before)
        padded[start : start + len(first)] = first
        if second is not None:
            padded[len(padded) - len(self.after) - count : len(padded) - len(self.after)] = second
        return padded
