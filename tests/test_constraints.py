"""Pieces of text as tokens: whatever is allowed reads as pieces, for tokenizers of every kind."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from fakes import tiny_pieces, tiny_tokenizer
from palmette.kinds import AnyKind
from palmette.writing.constraints import Constraint, Encode, PieceTokens
from palmette.writing.writer import NextPieces
from test_texts import CLASSES, IDS, NUMBER, SETS, SPANS, TAGS, TEXT

END = 10_000


def by_letters(text: str) -> list[int]:
    return [ord(character) for character in text]


def greedily(text: str) -> list[int]:
    """Longest known stretch first, so that the tokens of a whole are not those of its pieces."""
    known = ["ab", "bc", "abc", " b", "cd", " 1", "1 N"]
    ids = []
    while text:
        best = max((word for word in known if text.startswith(word)), key=len, default=text[0])
        ids.append(1000 + known.index(best) if best in known else ord(best))
        text = text[len(best) :]
    return ids


def encoder(tokenizer: Tokenizer) -> Encode:
    tokenizer.no_padding()
    tokenizer.no_truncation()

    def encode(text: str) -> list[int]:
        return list(tokenizer.encode(text, add_special_tokens=False).ids)

    return encode


word_pieces, spaced_pieces = encoder(tiny_tokenizer()), encoder(tiny_pieces())


TOKENIZERS = [by_letters, greedily, word_pieces, spaced_pieces]


def fixed(*moments: tuple[str, ...]) -> NextPieces:
    """The same choices whatever was chosen before; then the end."""
    return lambda written: moments[len(written)] if len(written) < len(moments) else ("",)


@pytest.mark.parametrize("encode", TOKENIZERS)
@pytest.mark.parametrize("kind", [TAGS, SPANS, CLASSES, SETS, NUMBER], ids=IDS[:5])
@given(seed=st.integers(0, 10_000))
def test_whatever_is_allowed_is_read(encode: Encode, kind: AnyKind, seed: int) -> None:
    choose = random.Random(seed)  # noqa: S311 - no cryptography
    constraint = Constraint(PieceTokens(encode, END), lambda written: kind.next_pieces(written, TEXT))
    written: list[int] = []
    while END not in written:
        allowed = constraint.allowed(written)
        assert len(set(allowed)) == len(allowed) > 0
        written.append(choose.choice(allowed))
        assert len(written) < 500
    text = constraint.text(written)
    label, readable = kind.read_text(text, TEXT)
    assert readable
    assert kind.target_text(label, TEXT) == text


def test_a_piece_that_another_begins_with() -> None:
    constraint = Constraint(PieceTokens(by_letters, END), fixed(("good", "goods")))
    written = by_letters("good")
    assert sorted(constraint.allowed(written)) == [ord("s"), END]
    assert constraint.text([*written, END]) == "good"
    assert constraint.allowed([*written, ord("s")]) == [END]


def test_one_piece_or_two() -> None:
    """ab + c and abc look the same until an end tells them apart."""
    constraint = Constraint(PieceTokens(by_letters, END), lambda w: {(): ("ab", "abc"), ("ab",): ("cd",)}.get(w, ("",)))
    assert sorted(constraint.allowed(by_letters("abc"))) == [ord("d"), END]
    assert constraint.text([*by_letters("abc"), END]) == "abc"
    assert constraint.text([*by_letters("abcd"), END]) == "abcd"


def test_the_tokens_of_a_whole_may_be_others() -> None:
    """'ab' + 'c' as a whole is the token 'abc'."""
    constraint = Constraint(PieceTokens(greedily, END), fixed(("ab",), ("c",)))
    first, second = constraint.allowed([]), greedily("c")
    assert first == greedily("ab")
    assert constraint.allowed(first) == second
    assert constraint.text([*first, *second, END]) == "abc"


def test_no_space_that_was_not_asked_for() -> None:
    """A SentencePiece tokenizer puts one in front of any text; behind another piece it is left out, as in training."""
    tokens = PieceTokens(spaced_pieces, END)
    whole = spaced_pieces("cat, dog")
    assert [*tokens.tokens("cat", first=True), *tokens.tokens(", dog", first=False)] == whole


def test_pieces_that_a_tokenizer_cannot_tell_apart() -> None:
    constraint = Constraint(PieceTokens(word_pieces, END), fixed(("Good", "good")))
    assert constraint.text([*word_pieces("good"), END]) == "Good"


def test_letters_that_a_tokenizer_does_not_know() -> None:
    constraint = Constraint(PieceTokens(word_pieces, END), fixed(("😀", "bad")))
    (unknown,) = word_pieces("😀")
    assert constraint.allowed([unknown]) == [END]
    assert constraint.text([unknown, END]) == "😀"


def test_an_output_that_was_cut_is_its_whole_pieces() -> None:
    constraint = Constraint(PieceTokens(by_letters, END), fixed(("1 N", "1 V"), (" 2 N", " 2 V")))
    assert constraint.text(by_letters("1 N 2 ")) == "1 N"
    assert constraint.text([]) == ""


def test_behind_an_end_there_is_only_the_end() -> None:
    constraint = Constraint(PieceTokens(by_letters, END), fixed(("a",)))
    assert constraint.allowed([ord("a"), END, 0]) == [END]
    assert constraint.allowed([ord("x")]) == [END]


def test_a_long_output_is_followed_at_once() -> None:
    constraint = Constraint(PieceTokens(by_letters, END), lambda _: ("ab", ""))
    assert constraint.allowed(by_letters("ab" * 700 + "a")) == [ord("b")]
