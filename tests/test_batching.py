"""Every row is in exactly one update, within the budget, with little padding; masks say what is real."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fakes import WORDS, tiny_encoder
from palmette.batching import Dataset, by_length, cheapest_passes, collate, padding_share, plan_updates, split_update
from palmette.config import TaskConfig
from palmette.kinds import KINDS, AnyKind
from palmette.text import Row
from palmette.types import Answer, Example, Text


def row_of(number: int, length: int) -> Row:
    empty = np.zeros(0, dtype=np.int64)
    filled = np.arange(length)
    return Row(number, 0, 1, filled, filled, filled, empty, empty, (0, 0), 0, truncated=False)


def rows_of(lengths: Sequence[int]) -> list[Row]:
    return [row_of(number, length) for number, length in enumerate(lengths)]


def identities(groups: Sequence[Sequence[Row]]) -> list[int]:
    return [row.example for group in groups for row in group]


lengths = st.lists(st.integers(2, 90), max_size=150)


@given(lengths, st.integers(16, 200), st.integers(0, 2**32 - 1))
@settings(max_examples=100)
def test_every_row_is_in_exactly_one_update_within_the_budget(sizes: list[int], budget: int, seed: int) -> None:
    rows = rows_of(sizes)
    updates = plan_updates(rows, batch_tokens=budget, rng=np.random.default_rng(seed))
    assert Counter(identities(updates)) == Counter(range(len(rows)))
    for update in updates:
        assert update
        assert len(update) * max(map(len, update)) <= budget or len(update) == 1
    again = plan_updates(rows, batch_tokens=budget, rng=np.random.default_rng(seed))
    assert [identities([update]) for update in again] == [identities([update]) for update in updates]


@given(lengths, st.integers(64, 200), st.integers(0, 2**32 - 1))
@settings(max_examples=100)
def test_an_update_may_be_made_of_batches_of_several_lengths(sizes: list[int], budget: int, seed: int) -> None:
    rows = rows_of(sizes)
    updates = plan_updates(rows, batch_tokens=budget, rng=np.random.default_rng(seed), lengths=4)
    assert Counter(identities(updates)) == Counter(range(len(rows)))
    batches = len(list(by_length(rows, batch_tokens=budget // 4)))
    assert len(updates) == -(-batches // 4)
    for update in updates:
        assert [len(row) for row in update] == sorted((len(row) for row in update), reverse=True)
        assert sum(len(row) for row in update if len(row) <= budget // 4) <= budget


@given(lengths, st.integers(16, 200))
def test_batches_come_longest_first_and_are_as_full_as_the_budget_allows(sizes: list[int], budget: int) -> None:
    batches = list(by_length(rows_of(sizes), batch_tokens=budget))
    assert sorted(identities(batches)) == list(range(len(sizes)))
    assert [len(row) for batch in batches for row in batch] == sorted(sizes, reverse=True)
    for batch in batches[:-1]:
        assert (len(batch) + 1) * len(batch[0]) > budget


def price(passes: Sequence[Sequence[Row]], overhead: int) -> int:
    return sum(len(rows) * max(map(len, rows)) + overhead for rows in passes)


@given(lengths, st.integers(16, 200), st.integers(0, 60))
@settings(max_examples=100)
def test_passes_hold_every_row_within_the_budget(sizes: list[int], budget: int, overhead: int) -> None:
    passes = cheapest_passes(rows_of(sizes), batch_tokens=budget, overhead=overhead)
    assert sorted(identities(passes)) == list(range(len(sizes)))
    assert [len(row) for rows in passes for row in rows] == sorted(sizes, reverse=True)
    for rows in passes:
        assert len(rows) * len(rows[0]) <= budget or len(rows) == 1


@given(st.lists(st.integers(1, 12), min_size=1, max_size=9), st.integers(0, 20))
@settings(max_examples=100)
def test_no_other_cut_between_lengths_costs_less(sizes: list[int], overhead: int) -> None:
    ordered = sorted(sizes, reverse=True)
    cuts = [number for number in range(1, len(ordered)) if ordered[number] != ordered[number - 1]]
    every = []
    for chosen in itertools.product([False, True], repeat=len(cuts)):
        places = [0, *(cut for cut, taken in zip(cuts, chosen, strict=True) if taken), len(ordered)]
        every.append(price([rows_of(ordered[a:b]) for a, b in itertools.pairwise(places)], overhead))
    assert price(cheapest_passes(rows_of(sizes), batch_tokens=1000, overhead=overhead), overhead) == min(every)


# Every fifth percentile of the lengths of EWT's train in MiniLM's subwords, special tokens included (12,544 rows).
EWT = (3, 4, 6, 8, 9, 11, 12, 13, 15, 16, 18, 19, 21, 23, 25, 27, 29, 33, 38, 46, 176)


@pytest.mark.parametrize("seed", range(3))
def test_padding_is_under_five_percent_on_lengths_like_ewt_s(seed: int) -> None:
    rng = np.random.default_rng(seed)
    sizes = np.interp(rng.uniform(0, 20, size=12_544), range(21), EWT).round().astype(int)
    updates = plan_updates(rows_of(sizes.tolist()), batch_tokens=2048, rng=rng)
    assert padding_share(updates) < 0.05
    # and an update is no sample of one length: short texts meet long ones across updates in any stretch of an epoch
    widths = [len(update[0]) for update in updates]
    assert np.corrcoef(widths[:-1], widths[1:])[0, 1] < 0.3


def test_padding_share_is_padding_over_all() -> None:
    assert padding_share([rows_of([4, 2])]) == pytest.approx(0.25)
    assert padding_share([]) == 0.0


@given(st.lists(st.integers(2, 90), min_size=1, max_size=60), st.integers(1, 8))
def test_parts_of_an_update_are_a_partition_of_about_equal_size(sizes: list[int], parts: int) -> None:
    rows = rows_of(sorted(sizes, reverse=True))
    found = split_update(rows, parts)
    assert len(found) == parts
    assert identities(found) == list(range(len(rows)))
    for part in found:
        assert sum(map(len, part)) <= sum(sizes) / parts + max(sizes)


def test_rows_of_one_length_are_shared_evenly() -> None:
    assert [len(part) for part in split_update(rows_of([32] * 16), 2)] == [8, 8]
    assert [len(part) for part in split_update(rows_of([9, 9, 9, 9]), 4)] == [1, 1, 1, 1]


# --- collating ------------------------------------------------------------------------------------------------------

KINDS_OF: dict[str, AnyKind] = {
    "pos": KINDS["sequence_labeling"](
        "pos", TaskConfig(kind="sequence_labeling"), {"labels": ["D", "N"], "paired": False}
    ),
    "tone": KINDS["text_classification"](
        "tone", TaskConfig(kind="text_classification"), {"labels": ["down", "up"], "paired": False}
    ),
    "answer": KINDS["extractive_qa"](
        "answer", TaskConfig(kind="extractive_qa"), {"unanswerable": True, "paired": True}
    ),
}


@st.composite
def examples(draw: st.DrawFn) -> Example:
    text = Text(words=tuple(draw(st.lists(st.sampled_from(WORDS), max_size=40))))
    if draw(st.booleans()):
        passage = Text(words=("the", "cat", *text.words))
        return Example(Text(("who",)), {"answer": (Answer(0, "the cat"),)}, pair=passage)
    labels: dict[str, tuple[str, ...] | str] = {}
    if draw(st.booleans()):
        labels["pos"] = tuple("N" if len(word) > 3 else "D" for word in text.words)
    if draw(st.booleans()) or not labels:
        labels["tone"] = draw(st.sampled_from(("up", "down")))
    return Example(text, labels)


@pytest.mark.parametrize("labelled", [True, False])
def test_collating_pads_and_keeps_every_label(labelled: bool) -> None:
    encoder = tiny_encoder(max_length=24)

    @given(st.lists(examples(), min_size=1, max_size=6), st.integers(0, 2**32 - 1))
    @settings(max_examples=60)
    def check(drawn: list[Example], seed: int) -> None:
        dataset = Dataset(drawn, encoder.encode(drawn))
        rows = dataset.rows(range(len(drawn)))
        rows = [rows[number] for number in np.random.default_rng(seed).permutation(len(rows))]
        batch = collate(rows, dataset, KINDS_OF, pad=0, labelled=labelled)
        width = max(map(len, rows))
        assert {values.shape for values in batch.inputs.values()} == {(len(rows), width)}
        assert batch.tokens == sum(map(len, rows))
        for number, row in enumerate(rows):
            assert batch.inputs["attention_mask"][number].tolist() == [1] * len(row) + [0] * (width - len(row))
            for name, values in (("input_ids", row.ids), ("token_type_ids", row.types), ("casing", row.casing)):
                assert batch.inputs[name][number].tolist() == [*values.tolist(), *[0] * (width - len(row))]
        for task, kind in KINDS_OF.items():
            wanted = [n for n, row in enumerate(rows) if carries(task, kind, drawn[row.example], labelled=labelled)]
            if not wanted:
                assert task not in batch.tasks
                continue
            part = batch.tasks[task]
            assert part.rows == wanted
            assert sum(part.sizes) == len(part.index)
            assert bool(part.targets) == labelled
            if labelled:
                units = [len(e.text.words) if task == "pos" else 1 for e in drawn if task in e.labels]
                assert part.units == pytest.approx(sum(units), abs=1e-5)
                assert all(len(values) == len(part.index) for values in part.targets.values())
            if task == "pos":
                flat = batch.inputs["input_ids"].reshape(-1)[part.index].tolist()
                first = [int(number) for n in wanted for number in rows[n].ids[rows[n].word_positions]]
                assert flat == first
            else:
                assert part.index.tolist() == wanted

    check()


def carries(task: str, kind: AnyKind, example: Example, *, labelled: bool) -> bool:
    return task in example.labels if labelled else kind.takes(example)


def test_padding_is_the_vocabulary_s_own() -> None:
    drawn = [Example(Text(("cat",)), {"tone": "up"}), Example(Text(("cat", "sat")), {"tone": "up"})]
    dataset = Dataset(drawn, tiny_encoder().encode(drawn))
    batch = collate(dataset.rows([0, 1]), dataset, KINDS_OF, pad=7, labelled=True)
    assert batch.inputs["input_ids"][0, -1] == 7
