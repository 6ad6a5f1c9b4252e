"""Nothing is lost between words and the trunk's rows: no character, word, subword or place in a passage."""

from __future__ import annotations

import re
import time
import unicodedata
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from fakes import tiny_encoder, tiny_tokenizer
from palmette.errors import ConfigError
from palmette.text import Row, TextEncoder, casing, windows
from palmette.types import Example, Text
from palmette.words import find_words
from strategies import AWKWARD, TOKENIZERS, raw_texts, words

families = pytest.mark.parametrize("family", TOKENIZERS)


def encoder_of(family: str, max_length: int = 32) -> TextEncoder:
    return TextEncoder(TOKENIZERS[family](), max_length=max_length)


# --- casing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "shape"),
    [("the", 0), ("The", 1), ("A", 1), ("NASA", 2), ("U.S.", 2), ("iPhone", 3), ("McCoy", 3), ("42", 0), ("", 0)],
)
def test_casing(word: str, shape: int) -> None:
    assert casing(word) == shape


# --- subwords ------------------------------------------------------------------------------------------------------


def assert_aligned(text: Text, encoder: TextEncoder) -> None:
    (found,) = encoder.subwords([text])
    count = len(text.words)
    assert len(found.ids) == len(found.word) == len(found.offsets) == len(found.casing)
    assert (np.diff(found.word) >= 0).all()
    assert sorted(set(found.word)) == list(range(count))  # every word has a subword
    assert found.first == [found.word.index(word) for word in range(count)]
    for (start, stop), word, shape in zip(found.offsets.tolist(), found.word, found.casing, strict=True):
        low, high = text.spans[word]
        assert low <= start <= stop <= high
        assert shape == casing(text.words[word])


@families
def test_every_word_has_subwords_inside_its_own_characters(family: str) -> None:
    encoder = encoder_of(family)

    @given(words)
    @settings(max_examples=80)
    @example(AWKWARD)
    @example(("",))
    @example(("", "", ""))
    @example(("a", "", "b", " ", "\ufe0f", "c"))
    @example(("\u2764", "\ufe0f", "", "cat"))
    @example(("\ud800",))
    def check(given_words: tuple[str, ...]) -> None:
        assert_aligned(Text(words=given_words), encoder)

    check()


@families
def test_remembered_words_are_cut_as_their_text_is(family: str) -> None:
    """Without offsets, words may be cut apart and remembered; with them the text is cut as a whole."""
    encoder = encoder_of(family)

    @given(st.lists(words, max_size=4))
    @settings(max_examples=150)
    @example([AWKWARD, AWKWARD[::-1]])
    @example([("",), ("", "cat"), ()])
    @example([("x" * 300, "e", "\u0301", "[SEP]x", "a[SEP]", "[", "SEP", "]", "京都", "\ud800")])
    def check(given_words: list[tuple[str, ...]]) -> None:
        texts = [Text(words=found) for found in given_words]
        for apart, whole in zip(encoder.subwords(texts, offsets=False), encoder.subwords(texts), strict=True):
            assert (apart.ids, apart.word, apart.casing, apart.first) == (
                whole.ids,
                whole.word,
                whole.casing,
                whole.first,
            )

    check()


def test_words_of_a_vocabulary_with_a_space_in_a_token_are_not_cut_apart() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["the cat"])
    (found,) = TextEncoder(tokenizer, max_length=32).subwords([Text(words=("the", "cat"))], offsets=False)
    (whole,) = TextEncoder(tokenizer, max_length=32).subwords([Text(words=("the", "cat"))])
    assert found.ids == whole.ids


@families
def test_offsets_are_characters_of_the_text_as_typed(family: str) -> None:
    encoder = encoder_of(family)

    @given(raw_texts)
    @settings(max_examples=40)
    def check(raw: str) -> None:
        assert_aligned(find_words(raw, language="en"), encoder)

    check()


@families
def test_subwords_of_a_word_cover_it(family: str) -> None:
    """On plain text every character of a word lies in one of its subwords, and words do not share any."""
    text = find_words("The cat  sat on the mat,\nin Paris (great films).", language="en")
    (found,) = encoder_of(family).subwords([text])
    for number, (low, high) in enumerate(text.spans):
        inside = found.offsets[np.array(found.word) == number]
        covered = {place for start, stop in inside.tolist() for place in range(start, stop)}
        assert covered == set(range(low, high))


@families
def test_a_text_is_cut_as_the_tokenizer_cuts_it(family: str) -> None:
    sentence = "the cat sat on the mat in paris"
    (found,) = encoder_of(family).subwords([Text(words=tuple(sentence.split()))])
    assert found.ids == TOKENIZERS[family]().encode(sentence, add_special_tokens=False).ids


def test_truncation_and_padding_of_the_file_are_off() -> None:
    tokenizer = tiny_tokenizer()
    assert tokenizer.truncation is not None
    assert tokenizer.padding is not None
    encoder = TextEncoder(tokenizer, max_length=64)
    assert tokenizer.truncation is None
    assert tokenizer.padding is None
    short, long = encoder.encode([Example(Text(("cat",)), {}), Example(Text(("cat",) * 40), {})])
    assert [len(row) for row in short.rows] == [3]
    assert [len(row) for row in long.rows] == [42]


def test_lowercases() -> None:
    assert encoder_of("wordpiece").lowercases
    assert not encoder_of("bytes").lowercases
    assert not encoder_of("metaspace-never").lowercases


# --- windows -------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(1, 12), max_size=80), st.integers(8, 40))
@settings(max_examples=200)
def test_every_word_is_answered_by_one_window(widths: list[int], limit: int) -> None:
    bounds = np.concatenate([[0], np.cumsum(widths, dtype=np.int64)])
    total = int(bounds[-1])
    cuts = windows(bounds[:-1], total, limit=limit, overlap=limit // 4)
    answered = [word for cut in cuts for word in range(cut.own_start, cut.own_stop)]
    assert answered == list(range(len(widths)))
    for cut in cuts:
        assert cut.start <= cut.own_start <= cut.own_stop <= cut.stop
        assert cut.first == bounds[cut.start]
        assert 0 <= cut.last - cut.first <= limit
        assert cut.cut == (bounds[cut.stop] - bounds[cut.start] > limit)
        assert cut.cut or cut.last == bounds[cut.stop]
    for earlier, later in pairwise(cuts):
        assert earlier.start < later.start <= earlier.stop
        assert earlier.stop < later.stop
        shared = bounds[earlier.stop] - bounds[later.start]
        assert shared <= limit // 4
        # one more word of context would be too much, or would leave no room for a new word
        more, new = shared + widths[later.start - 1], widths[earlier.stop]
        assert more > limit // 4 or more + new > limit or later.start == earlier.start + 1


@given(st.integers(9, 400))
def test_words_far_from_a_text_s_ends_are_answered_with_context(count: int) -> None:
    for cut in windows(np.arange(count), count, limit=32, overlap=8):
        assert cut.own_start == 0 or cut.own_start - cut.start >= 4
        assert cut.own_stop == count or cut.stop - cut.own_stop >= 4


def tokens_of(row: Row, tokenizer: Tokenizer) -> list[str]:
    return [str(tokenizer.id_to_token(int(number))) for number in row.ids]


@families
def test_rows_answer_every_word_at_its_own_first_subword(family: str) -> None:
    encoder = encoder_of(family, max_length=16)

    @given(st.lists(words, min_size=1, max_size=3))
    @settings(max_examples=40)
    def check(texts: list[tuple[str, ...]]) -> None:
        examples = [Example(Text(words=given_words), {}) for given_words in texts]
        encoded = encoder.encode(examples)
        for number, (item, subwords) in enumerate(
            zip(encoded, encoder.subwords([e.text for e in examples]), strict=True)
        ):
            assert item.spans is None
            answered = [word for row in item.rows for word in row.words.tolist()]
            assert answered == list(range(len(texts[number])))
            for window, row in enumerate(item.rows):
                assert (row.example, row.window, row.windows) == (number, window, len(item.rows))
                assert len(row) == len(row.types) == len(row.casing) <= 16
                assert row.ids[row.word_positions].tolist() == [
                    subwords.ids[subwords.first[word]] for word in row.words
                ]
                assert row.casing[row.word_positions].tolist() == [casing(texts[number][word]) for word in row.words]

    check()


@pytest.mark.parametrize("length", [50, 100_000])
def test_a_word_longer_than_the_trunk_is_marked_as_truncated(length: int) -> None:
    encoder = tiny_encoder(max_length=32)
    text = Text(words=("the", "z" * 50 if length == 50 else "." * 1, "cat"))
    if length == 50:
        (item,) = encoder.encode([Example(text, {})])
        assert [row.truncated for row in item.rows] == [False, True, False]
        assert [word for row in item.rows for word in row.words.tolist()] == [0, 1, 2]
    else:  # WordPiece gives up on an endless word: it is one unknown subword, nothing is cut
        (item,) = encoder.encode([Example(Text(words=("the", "z" * length, "cat")), {})])
        assert [row.truncated for row in item.rows] == [False]


def test_an_endless_text_is_windowed_in_linear_time() -> None:
    started = time.perf_counter()
    (item,) = tiny_encoder().encode([Example(Text(words=("cat", "sat.") * 25_000), {})])
    assert time.perf_counter() - started < 5
    assert sum(len(row.words) for row in item.rows) == 50_000


# --- templates and pairs -------------------------------------------------------------------------------------------

SINGLES = {
    "wordpiece": "[CLS] the [SEP]",
    "bytes": "<s> the </s>",
    "bytes-untrimmed": "<s> the </s>",
    "bytes-bare": "the",
    "metaspace-always": "the </s>",
    "metaspace-never": "the </s>",
}
PAIRS = {
    "wordpiece": "[CLS] the [SEP] cat [SEP]",
    "bytes": "<s> the </s></s> cat </s>",
    "bytes-untrimmed": "<s> the </s></s> cat </s>",
    "bytes-bare": "the cat",
    "metaspace-always": "the </s> cat </s>",
    "metaspace-never": "the </s> cat </s>",
}


@families
def test_rows_are_what_the_tokenizer_itself_makes(family: str) -> None:
    encoder, tokenizer = encoder_of(family), TOKENIZERS[family]()
    single, pair = encoder.encode(
        [Example(Text(("the",)), {}), Example(Text(("the",)), {}, pair=Text(("cat",)))],
    )
    for item, whole, layout in (
        (single, tokenizer.encode("the"), SINGLES[family]),
        (pair, tokenizer.encode("the", "cat"), PAIRS[family]),
    ):
        (row,) = item.rows
        assert row.ids.tolist() == whole.ids
        if item is pair and not any(whole.type_ids):  # the tokenizer does not tell them apart
            owners = zip(whole.sequence_ids, whole.special_tokens_mask, strict=True)
            assert row.types.tolist() == [int(owner == 1 and not special) for owner, special in owners]
        else:
            assert row.types.tolist() == whole.type_ids
        joined = "".join(tokens_of(row, tokenizer)).replace("\u2581", "").replace("\u0120", "").replace("##", "")
        assert joined == layout.replace(" ", "")


@families
def test_places_in_a_passage_map_back_to_its_characters(family: str) -> None:
    encoder = encoder_of(family, max_length=24)
    passage = find_words("The cat  sat on the mat,\nin Paris (great films)! " * 4, language="en")
    question = Text(words=("cat", "sat"))
    (item,) = encoder.encode([Example(question, {}, pair=passage)])
    (second,) = encoder.subwords([passage])
    assert item.spans is not None
    assert item.spans.tolist() == second.offsets.tolist()
    assert len(item.rows) > 1
    seen: set[int] = set()
    for row in item.rows:
        low, high = row.passage
        numbers = range(row.passage_from, row.passage_from + high - low)
        assert row.ids[low:high].tolist() == second.ids[numbers.start : numbers.stop]
        assert len(row) <= 24
        assert not row.truncated
        assert not len(row.words)
        seen |= set(numbers)
    assert seen == set(range(len(second.ids)))
    covered = {place for start, stop in item.spans.tolist() for place in range(start, stop)}
    assert covered == {match.start() for match in re.finditer(r"\S", passage.string)}


@given(words, words)
@settings(max_examples=60)
def test_every_subword_of_a_passage_is_in_a_row(first: tuple[str, ...], second: tuple[str, ...]) -> None:
    encoder = tiny_encoder(max_length=20)
    (item,) = encoder.encode([Example(Text(words=first), {}, pair=Text(words=second))])
    (question, passage) = encoder.subwords([Text(words=first), Text(words=second)])
    shown = {
        n for row in item.rows for n in range(row.passage_from, row.passage_from + row.passage[1] - row.passage[0])
    }
    cut = any(row.truncated for row in item.rows)
    assert cut or shown == set(range(len(passage.ids)))
    assert all(len(row) <= 20 for row in item.rows)
    if not cut:
        start = item.rows[0].passage[0] - 1
        assert item.rows[0].ids[1:start].tolist() == question.ids


def test_an_endless_question_is_cut_and_marked() -> None:
    (item,) = tiny_encoder(max_length=32).encode([Example(Text(("cat",) * 99), {}, pair=Text(("sat",) * 99))])
    assert all(row.truncated for row in item.rows)
    assert all(len(row) <= 32 for row in item.rows)


def test_a_trunk_too_short_for_pairs_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"trunk\.max_length: 12"):
        tiny_encoder(max_length=12)


def test_the_awkward_words_are_what_they_are_meant_to_be() -> None:
    assert any(unicodedata.bidirectional(word[0]) == "R" for word in AWKWARD)
    assert any(unicodedata.combining(word[0]) for word in AWKWARD)
