"""Subwords, offsets, windows: from words to the rows that the trunk reads. No torch.

Training and serving share this file, so that a text is always cut in the same way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import accumulate, pairwise

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer

from palmette.errors import ConfigError
from palmette.types import Example, Text
from palmette.words import well_formed

IntArray = NDArray[np.int64]

# What a lower-casing trunk cannot see, given back by a small embedding (trunk.py).
CASINGS: tuple[str, ...] = ("lower or uncased", "capitalised", "all capitals", "mixed")

_LONGEST_REMEMBERED = 64  # characters of a word that is remembered; who sends endless ones fills no memory

# A tokenizer's file does not say which of its tokens is the mask; these are the names that trunks give it.
_MASKS = ("[MASK]", "<mask>")


@lru_cache(maxsize=1 << 14)  # most words of a text are common ones; some 2 MB
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

    Lists, for a sentence has two dozen: plain Python is done with them before NumPy has begun (LOG.md, 2026-11-27).

    Attributes:
        ids: [subwords] vocabulary ids.
        word: [subwords] which word each belongs to, ascending.
        offsets: [subwords, 2] characters in `Text.string`, [start, end); empty if not asked for.
        casing: [subwords] index into `CASINGS` of the word.
        first: [words] index of each word's first subword.
    """

    ids: list[int]
    word: list[int]
    offsets: IntArray
    casing: list[int]
    first: list[int]


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
    count = len(first)
    if total <= limit:
        return [_Window(0, count, 0, count, 0, total, cut=False)]
    bounds = np.append(np.asarray(first, dtype=np.int64), total)  # [words + 1]
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


def _cuts_words_apart(tokenizer: Tokenizer) -> bool:
    """Whether a text has the subwords of its words, each cut alone: so with BERT's rules, which let no space into one.

    Then common words are cut once and remembered: it takes a fifth of the time (LOG.md, 2026-11-27).
    """
    return (
        isinstance(tokenizer.model, WordPiece)
        and isinstance(tokenizer.pre_tokenizer, BertPreTokenizer)
        and isinstance(tokenizer.normalizer, BertNormalizer | None)
        and not any(" " in token.content for token in tokenizer.get_added_tokens_decoder().values())
    )


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
        self._apart = _cuts_words_apart(tokenizer)
        self._remembered = lru_cache(maxsize=1 << 14)(self._cut)
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
        if self._apart and not offsets:
            return [self._look_up(text) for text in texts]
        joined = [well_formed(" ".join(text.words)) for text in texts]
        if len(joined) == 1:  # a batch goes through the tokenizer's thread pool, one text need not
            encodings = [self.tokenizer.encode(joined[0], add_special_tokens=False)]
        else:
            encodings = self.tokenizer.encode_batch(joined, add_special_tokens=False) if joined else []
        return [
            self._align(text, encoding.ids, encoding.offsets, keep=offsets)
            for text, encoding in zip(texts, encodings, strict=True)
        ]

    def _cut(self, word: str) -> tuple[tuple[int, ...], int]:
        """A word's subwords and the index of its casing."""
        ids = self.tokenizer.encode(well_formed(word), add_special_tokens=False).ids
        return tuple(ids) or (self._filler,), casing(word)

    def _look_up(self, text: Text) -> Subwords:
        """What `_align` finds, but for the offsets, of words that were mostly seen before."""
        ids: list[int] = []
        words: list[int] = []
        shapes: list[int] = []
        first: list[int] = []
        for number, word in enumerate(text.words):
            pieces, shape = (self._remembered if len(word) <= _LONGEST_REMEMBERED else self._cut)(word)
            first.append(len(ids))
            ids += pieces
            words += [number] * len(pieces)
            shapes += [shape] * len(pieces)
        return Subwords(ids, words, np.zeros((0, 2), dtype=np.int64), shapes, first)

    def _align(self, text: Text, ids: list[int], pieces: list[tuple[int, int]], *, keep: bool) -> Subwords:
        """Which word each subword belongs to: `pieces` are their characters in the joined text."""
        count = len(text.words)
        if count == 0:
            return Subwords([], [], np.zeros((0, 2), dtype=np.int64), [], [])
        # Where each word starts in the joined text, and where one behind the last would.
        starts = list(accumulate((len(word) + 1 for word in text.words), initial=0))
        words: list[int] = []
        current = -1
        for _, end in pieces:
            # The end decides: some tokenizers count the space before a word to it, as a part of its first subword or
            # as a subword of its own.
            while starts[current + 1] <= end:
                current += 1
            words.append(current)
        if len(found := set(words)) < count:
            # A word that normalisation leaves empty (a variation selector, a blank token) still needs an answer.
            fillers = [(n, self._filler, (starts[n], starts[n + 1] - 1)) for n in range(count) if n not in found]
            units = sorted([*zip(words, ids, pieces, strict=True), *fillers], key=lambda unit: unit[0])
            words, ids, pieces = (list(part) for part in zip(*units, strict=True))
        shapes = [casing(word) for word in text.words]
        first = [0, *(place for place, (one, two) in enumerate(pairwise(words), start=1) if one != two)]
        places = self._places(text, starts, words, pieces) if keep else np.zeros((0, 2), dtype=np.int64)
        return Subwords(ids, words, places, [shapes[number] for number in words], first)

    @staticmethod
    def _places(text: Text, starts: list[int], words: list[int], pieces: list[tuple[int, int]]) -> IntArray:
        """Characters of each subword in the text's string: [subwords, 2]."""
        begin = np.array(starts, dtype=np.int64)
        shift = np.array([span[0] for span in text.spans], dtype=np.int64) - begin[:-1]
        bounds = np.stack([begin[:-1], begin[1:] - 1], 1)[words]  # of each subword's word, in the joined text
        return np.asarray(np.clip(np.array(pieces, dtype=np.int64), *bounds.T[:, :, None]) + shift[words][:, None])

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
        text = replace(text, casing=[number + 1 for number in text.word])
        if example.pair is None:
            rows = self._text_rows(0, text)
        else:
            (second,) = self.subwords([example.pair])
            before = 1 + len(example.text.words)
            rows = self._pair_rows(0, text, replace(second, casing=[before + number for number in second.word]))
        return [row.casing - 1 for row in rows]

    def _text_rows(self, example: int, text: Subwords) -> list[Row]:
        template = self._single
        limit = self.max_length - len(template)
        cuts = windows(text.first, len(text.ids), limit=limit, overlap=limit // 4)
        rows = []
        for number, cut in enumerate(cuts):
            part = slice(cut.first, cut.last)
            shift = len(template.before) - cut.first
            rows.append(
                Row(
                    example=example,
                    window=number,
                    windows=len(cuts),
                    ids=template.fill(text.ids[part]),
                    types=template.fill_types(cut.last - cut.first),
                    casing=template.pad(text.casing[part]),
                    words=np.arange(cut.own_start, cut.own_stop),
                    word_positions=_array([place + shift for place in text.first[cut.own_start : cut.own_stop]]),
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

    def fill(self, first: list[int], second: Sequence[int] = ()) -> IntArray:
        """The texts' subwords among the special tokens."""
        return _array([*self.before, *first, *self.between, *second, *self.after])

    def fill_types(self, first: int, second: int = 0) -> IntArray:
        """The types of such a row."""
        before, type_first, between, type_second, after = self.types
        return _array(before + [type_first] * first + between + [type_second] * second + after)

    def pad(self, first: list[int], second: Sequence[int] = ()) -> IntArray:
        """Values of the texts' subwords, 0 at special tokens."""
        nothing = [[0] * len(tokens) for tokens in (self.before, self.between, self.after)]
        return _array([*nothing[0], *first, *nothing[1], *second, *nothing[2]])


def _array(numbers: list[int]) -> IntArray:
    return np.array(numbers, dtype=np.int64)
