"""Fusing loses nothing, and no text of another source's test is trained on."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palmette.data.fuse import find_leakage, folded, fuse
from palmette.types import Answer, Example, Text


def made(words: str, source: str, **labels: str) -> Example:
    return Example(Text(words=tuple(words.split())), labels, sources=(source,), meta={source: words})


@st.composite
def sources(draw: st.DrawFn) -> list[list[Example]]:
    """Three sources over few texts, so that much is repeated, shared and contradicted."""
    found = []
    for name in ("a", "b", "c"):
        tasks = draw(st.sets(st.sampled_from(("pos", "ner", "tone")), min_size=1))
        texts = draw(st.lists(st.sampled_from(("x", "X", "x y", "y", "x  y")), max_size=6))
        found.append(
            [made(text, name, **{task: draw(st.sampled_from("pq")) for task in sorted(tasks)}) for text in texts]
        )
    return found


def labels_by_source(examples: list[Example], names: dict[str, str]) -> Counter[tuple[object, ...]]:
    """How often each (text, task, label) stands, for the tasks of each source."""
    return Counter(
        (example.key, task, label)
        for example in examples
        for task, label in example.labels.items()
        if names.get(task, True)
    )


@given(sources())
@settings(max_examples=300)
def test_no_example_and_no_label_is_lost(drawn: list[list[Example]]) -> None:
    fused = fuse(drawn)
    # every example of every source is in exactly one fused example, with all its labels
    for examples in drawn:
        if not examples:
            continue
        name, tasks = examples[0].sources[0], tuple(examples[0].labels)
        carried = [example for example in fused.examples if name in example.sources]
        assert Counter((e.key, tuple(e.labels[task] for task in tasks)) for e in carried) == Counter(
            (e.key, tuple(e.labels[task] for task in tasks)) for e in examples
        )
    assert sum(len(example.sources) for example in fused.examples) == sum(map(len, drawn))
    for example in fused.examples:
        assert len(set(example.sources)) == len(example.sources)
        assert {task for name in example.sources for task in tasks_of(name, drawn)} == set(example.labels)
        assert {meta for name in example.sources for meta in [name]} == set(example.meta)
    assert fused.fused == sum(len(example.sources) > 1 for example in fused.examples)
    # a text stands at least as often as in the source that has it most often
    most: Counter[object] = Counter()
    for examples in drawn:
        most |= Counter(example.key for example in examples)
    assert not most - Counter(example.key for example in fused.examples)


def tasks_of(name: str, drawn: list[list[Example]]) -> set[str]:
    return {task for examples in drawn for example in examples if name in example.sources for task in example.labels}


def test_the_nth_occurrence_joins_the_nth() -> None:
    first = [made("hi", "a", pos=f"p{n}") for n in range(3)]
    second = [made("hi", "b", ner=f"n{n}") for n in range(2)]
    fused = fuse([first, second])
    assert [example.labels for example in fused.examples] == [
        {"pos": "p0", "ner": "n0"},
        {"pos": "p1", "ner": "n1"},
        {"pos": "p2"},
    ]
    assert (fused.fused, fused.contradictory) == (2, 0)


def test_contradictory_labels_stay_apart_and_are_counted_once_a_text() -> None:
    fused = fuse(
        [
            [made("hi", "a", tone="up"), made("yo", "a", tone="up")],
            [made("hi", "b", tone="down"), made("yo", "b", tone="up")],
        ]
    )
    assert [(example.labels, example.sources) for example in fused.examples] == [
        ({"tone": "up"}, ("a",)),
        ({"tone": "up"}, ("a", "b")),
        ({"tone": "down"}, ("b",)),
    ]
    assert (fused.fused, fused.contradictory) == (1, 1)


def test_repeats_inside_a_source_are_never_merged() -> None:
    fused = fuse([[made("hi", "a", tone="up")] * 3])
    assert len(fused.examples) == 3


def test_case_matters_to_fusing_and_pairs_are_not_their_first_text() -> None:
    pair = Example(Text(("hi",)), {"same": "yes"}, pair=Text(("yo",)), sources=("b",))
    assert len(fuse([[made("hi", "a", tone="up"), made("Hi", "a", tone="up")], [pair]]).examples) == 3


def test_answers_stay_with_the_string_that_they_point_into() -> None:
    """The same words with other spaces: offsets of one are wrong in the other."""
    passages = [
        Text(words=("in", "paris"), raw="in paris", offsets=((0, 2), (3, 8))),
        Text(words=("in", "paris"), raw="in   paris", offsets=((0, 2), (5, 10))),
    ]
    labels = [{"where": (Answer(3, "paris"),)}, {"place": (Answer(5, "paris"),)}]
    drawn = [
        [Example(Text(("where",)), labels[n], pair=passages[n], sources=(name,))] for n, name in enumerate(("a", "b"))
    ]
    for example in fuse(drawn).examples:
        assert example.pair is not None
        for answers in example.labels.values():
            assert isinstance(answers, tuple)
            for answer in answers:
                assert isinstance(answer, Answer)
                assert example.pair.string[answer.start : answer.start + len(answer.text)] == answer.text


# --- leakage --------------------------------------------------------------------------------------------------------


def test_texts_of_another_source_s_test_are_withheld_whatever_their_case() -> None:
    sources_ = {
        "a": {"train": [made("Hi there", "a", pos="x"), made("yo", "a", pos="x"), made("hi There", "a", pos="x")]},
        "b": {
            "train": [made("sup", "b", ner="x")],
            "test": [made("HI THERE", "b", ner="x"), made("sup", "b", ner="x")],
        },
    }
    found = find_leakage(sources_, withhold=True)
    assert found.withheld == {"a": {0, 2}}
    assert find_leakage(sources_, withhold=False).withheld == {}
    foreign = next(overlap for overlap in found.overlaps if overlap.source == "a")
    assert (foreign.held_out, foreign.held_out_split, foreign.texts) == ("b", "test", 1)
    assert (foreign.examples, foreign.recurring, foreign.verbatim, foreign.withheld) == (2, 1, 0, 2)
    own = next(overlap for overlap in found.overlaps if overlap.source == "b")
    assert (own.held_out, own.texts, own.verbatim, own.withheld) == ("b", 1, 1, 0)


def test_a_corpus_s_own_official_overlap_is_left_in() -> None:
    """Two sources over one corpus: the text is in both tests, and recurs in both trains."""
    repeated = {name: {"train": [made("hi", name, t="x")], "test": [made("Hi", name, t="x")]} for name in ("a", "b")}
    found = find_leakage(repeated, withhold=True)
    assert found.withheld == {}
    assert {(overlap.source, overlap.held_out) for overlap in found.overlaps} == {(x, y) for x in "ab" for y in "ab"}


def test_dev_is_reported_but_not_withheld() -> None:
    found = find_leakage(
        {"a": {"train": [made("hi", "a", t="x")]}, "b": {"dev": [made("hi", "b", t="x")]}}, withhold=True
    )
    assert found.withheld == {}
    assert [(overlap.split, overlap.held_out_split) for overlap in found.overlaps] == [("train", "dev")]


@given(
    st.lists(st.sampled_from(("x", "X", "y", "z", "\xdf", "SS")), max_size=6),
    st.lists(st.sampled_from(("x", "Y", "ss"))),
    st.lists(st.sampled_from("xz")),
)
@settings(max_examples=150)
def test_what_is_withheld_is_exactly_what_the_rule_says(train: list[str], foreign: list[str], own: list[str]) -> None:
    by_source = {
        "a": {"train": [made(t, "a", k="l") for t in train], "test": [made(t, "a", k="l") for t in own]},
        "b": {"test": [made(t, "b", k="l") for t in foreign]},
    }
    wanted = {
        number
        for number, text in enumerate(train)
        if text.casefold() in {t.casefold() for t in foreign} - {t.casefold() for t in own}
    }
    assert find_leakage(by_source, withhold=True).withheld == ({"a": wanted} if wanted else {})


@pytest.mark.parametrize(("first", "second"), [("a b", "ab"), ("a", "a a")])
def test_other_words_are_another_text(first: str, second: str) -> None:
    assert folded(made(first, "a")) != folded(made(second, "a"))
    paired = Example(Text(("a",)), {}, pair=Text(("b",)))
    assert folded(paired) != folded(made("a b", "a"))


def test_a_pair_the_other_way_round_is_the_same_pair() -> None:
    one, other = (Example(Text((a,)), {}, pair=Text((b,)), sources=(b,)) for a, b in (("A", "b"), ("B", "a")))
    found = find_leakage({"one": {"train": [one], "test": []}, "two": {"train": [], "test": [other]}}, withhold=True)
    assert found.withheld == {"one": {0}}
    assert [(overlap.recurring, overlap.verbatim) for overlap in found.overlaps] == [(1, 0)]
