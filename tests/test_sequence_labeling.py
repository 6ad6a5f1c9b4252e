"""Span codecs: what is written is read back, invalid tags are read as conlleval reads them, decoding is valid."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from seqeval.metrics.sequence_labeling import get_entities

from palmette.config import TaskConfig
from palmette.kinds.base import LabelError
from palmette.kinds.sequence_labeling import (
    Scheme,
    SequenceLabeling,
    allowed_transitions,
    read_spans,
    split_tag,
    viterbi,
    write,
    write_iob2,
)
from palmette.metrics import Span
from palmette.types import Example, Text
from strategies import TYPES, spans

SCHEMES: tuple[Scheme, ...] = ("iob1", "iob2", "iobes")
schemes = pytest.mark.parametrize("scheme", SCHEMES)
PREFIXES = {"iob1": "BI", "iob2": "BI", "iobes": "BIES"}


def tag_sequences(scheme: Scheme, *, max_size: int = 10) -> st.SearchStrategy[list[str]]:
    """Any tags of the scheme in any order: mostly invalid."""
    tags = ["O", *(f"{prefix}-{kind}" for prefix in PREFIXES[scheme] for kind in TYPES[:3])]
    return st.lists(st.sampled_from(tags), max_size=max_size)


def config_of(scheme: Scheme | None) -> TaskConfig:
    return TaskConfig(kind="sequence_labeling", scheme=scheme)


def example_of(length: int) -> Example:
    return Example(Text(words=tuple(f"w{n}" for n in range(length))), {})


def seqeval_spans(tags: Sequence[str]) -> list[Span]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return [(start, end + 1, kind) for kind, start, end in get_entities(list(tags))]


def is_valid(tags: Sequence[str], scheme: Scheme) -> bool:
    """The definition of each scheme, tag by tag, written without the codec."""
    padded = ["O", *tags, "O"]
    for previous, tag, following in zip(padded, padded[1:], padded[2:], strict=False):
        open_before = previous[0] in "BI" and previous != "O"
        inside = open_before and previous[2:] == tag[2:]
        if scheme == "iob2" and tag[0] == "I" and not inside:
            return False
        if scheme == "iobes":
            continues = following[0] in "IE" and following[2:] == tag[2:]
            if tag[0] in "IE" and not inside:
                return False
            if (tag[0] in "BI") != continues:
                return False
    return True


# --- reading and writing --------------------------------------------------------------------------------------------


@schemes
def test_spans_survive_writing_and_reading(scheme: Scheme) -> None:
    @given(spans())
    @settings(max_examples=200)
    def check(drawn: tuple[int, list[Span]]) -> None:
        length, wanted = drawn
        tags = write(wanted, length, scheme)
        assert len(tags) == length
        assert is_valid(tags, scheme)
        assert read_spans(tags, scheme) == wanted
        # what is kept inside says the same spans
        inside = SequenceLabeling.parse(tags, config_of(scheme), example_of(length))
        assert inside == write_iob2(wanted, length)
        assert SequenceLabeling.repairs(tags, config_of(scheme)) == 0

    check()


def test_known_tags() -> None:
    wanted = [(0, 1, "PER"), (1, 3, "PER"), (4, 5, "LOC")]
    assert write(wanted, 6, "iob1") == ("I-PER", "B-PER", "I-PER", "O", "I-LOC", "O")
    assert write(wanted, 6, "iob2") == ("B-PER", "B-PER", "I-PER", "O", "B-LOC", "O")
    assert write(wanted, 6, "iobes") == ("S-PER", "B-PER", "E-PER", "O", "S-LOC", "O")


@schemes
def test_any_tags_are_read_as_seqeval_reads_them(scheme: Scheme) -> None:
    @given(tag_sequences(scheme))
    @settings(max_examples=300)
    def check(tags: list[str]) -> None:
        assert read_spans(tags, scheme) == seqeval_spans(tags)

    check()


@schemes
def test_repairs_are_counted_exactly_where_tags_are_invalid(scheme: Scheme) -> None:
    @given(tag_sequences(scheme))
    @settings(max_examples=300)
    def check(tags: list[str]) -> None:
        config = config_of(scheme)
        repairs = SequenceLabeling.repairs(tuple(tags), config)
        assert (repairs == 0) == is_valid(tags, scheme)
        repaired = SequenceLabeling.parse(tuple(tags), config, example_of(len(tags)))
        assert is_valid(repaired, "iob2")
        assert read_spans(repaired, "iob2") == seqeval_spans(tags)
        if scheme == "iob2":
            assert repairs == sum(tag != fixed for tag, fixed in zip(tags, repaired, strict=True))

    check()


def test_an_invalid_danish_tag_is_one_repair() -> None:
    tags = ("O", "I-PER", "I-PER", "O", "B-LOC", "I-ORG")
    assert SequenceLabeling.repairs(tags, config_of("iob2")) == 2
    assert SequenceLabeling.parse(tags, config_of("iob2"), example_of(6)) == (
        "O",
        "B-PER",
        "I-PER",
        "O",
        "B-LOC",
        "B-ORG",
    )


def test_a_redundant_b_is_valid_iob1() -> None:
    assert SequenceLabeling.repairs(("B-B-X", "I-B-X", "O", "B-PER"), config_of("iob1")) == 0


@pytest.mark.parametrize(
    ("tag", "scheme"),
    [
        ("E-PER", "iob2"),
        ("S-PER", "iob1"),
        ("X-PER", "iobes"),
        ("B", "iob2"),
        ("B-", "iob2"),
        ("", "iob2"),
        ("-PER", "iob2"),
        ("BI-PER", "iob2"),
        ("o", "iob2"),
        ("PER", "iobes"),
        (" O", "iob2"),
    ],
)
def test_a_tag_outside_the_scheme_is_refused(tag: str, scheme: Scheme) -> None:
    with pytest.raises(LabelError, match=scheme):
        split_tag(tag, scheme)
    with pytest.raises(LabelError):
        SequenceLabeling.parse(("O", tag), config_of(scheme), example_of(2))


# --- decoding -------------------------------------------------------------------------------------------------------

labels_of = st.sets(st.sampled_from(TYPES), min_size=1, max_size=3).flatmap(
    lambda types: st.sampled_from(
        [
            tuple(sorted({*extra, *(f"{prefix}-{kind}" for kind in types for prefix in "BI")}))
            for extra in ((), ("O",))  # training may have no word outside a span
        ]
    )
)


@given(labels_of, st.integers(1, 4), st.integers(0, 2**32 - 1), st.booleans())
@settings(max_examples=120)
def test_viterbi_is_the_best_of_all_valid_sequences(
    labels: tuple[str, ...], length: int, seed: int, tied: bool
) -> None:
    rng = np.random.default_rng(seed)
    scores = (
        rng.integers(-3, 0, size=(length, len(labels))).astype(float)
        if tied
        else rng.normal(size=(length, len(labels)))
    )
    path = viterbi(scores, *allowed_transitions(labels))
    best = max(
        sum(scores[position, number] for position, number in enumerate(numbers))
        for numbers in product(range(len(labels)), repeat=length)
        if is_valid([labels[number] for number in numbers], "iob2")
    )
    assert is_valid([labels[number] for number in path], "iob2")
    assert scores[np.arange(length), path].sum() == pytest.approx(best)


@given(labels_of, st.integers(0, 60), st.integers(0, 2**32 - 1), st.sampled_from([1e-3, 1.0, 100.0, 1e4]))
@settings(max_examples=120)
def test_viterbi_never_emits_an_invalid_sequence(labels: tuple[str, ...], length: int, seed: int, scale: float) -> None:
    scores = np.random.default_rng(seed).normal(size=(length, len(labels))) * scale
    path = viterbi(scores, *allowed_transitions(labels))
    assert len(path) == length
    assert is_valid([labels[number] for number in path], "iob2")


@given(st.integers(0, 2**32 - 1), st.sampled_from([1.0, 50.0, 1e5]))
@settings(max_examples=60)
def test_decoding_is_valid_whatever_the_logits(seed: int, scale: float) -> None:
    kind = SequenceLabeling("ner", config_of("iob2"), SequenceLabeling.fit([("B-PER", "O", "B-LOC")]))
    rng = np.random.default_rng(seed)
    from fakes import tiny_encoder

    example = Example(Text(words=tuple(rng.choice(["cat", "paris", "anna"], size=30))), {})
    (encoded,) = tiny_encoder(24).encode([example])
    assert len(encoded.rows) > 1
    outputs = [(row, (rng.normal(size=(len(row.words), 5)) * scale).astype(np.float32)) for row in encoded.rows]
    found = kind.decode(outputs, example, None)
    assert isinstance(found.label, tuple)
    assert isinstance(found.confidence, tuple)
    tags = [str(tag) for tag in found.label]
    assert len(tags) == len(found.confidence) == 30
    assert is_valid(tags, "iob2")
    assert all(0 <= value <= 1 for value in found.confidence)
    rendered = kind.render(found, example)
    assert [(*span["words"], span["label"]) for span in rendered["spans"]] == read_spans(tags, "iob2")


def test_a_type_seen_only_at_length_one_can_be_longer() -> None:
    assert SequenceLabeling.fit([("B-PER",)])["labels"] == ["B-PER", "I-PER"]
