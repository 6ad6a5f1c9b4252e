"""Cuts: nothing lost, nothing twice, groups together, the same for the same seed."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from palmette.config import Cut, JsonlSource
from palmette.data.splits import read_splits
from palmette.errors import ReadError
from palmette.types import Record

Row = dict[str, Any]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("splits")


def splits_of(folder: Path, rows: list[Row], **cuts: Any) -> dict[str, list[Record]]:
    path = folder / "train.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = JsonlSource(format="jsonl", train=str(path), text="text", labels={"task": "y"}, **cuts)
    return read_splits(source)


def rows_of(count: int) -> list[Row]:
    return [{"text": f"text {number}", "y": "a", "document": number // 4} for number in range(count)]


def group(record: Record) -> str:
    """The document, or else the words: reading keeps the document only where a cut asks for it."""
    return record.meta.get("document") or " ".join(str(record.text).split())


def texts(records: list[Record]) -> list[str]:
    return [str(record.text) for record in records]


FRACTIONS = st.floats(0.01, 0.99)
SEEDS = st.integers(0, 2**32)
ROWS = st.lists(
    st.fixed_dictionaries(
        {"text": st.sampled_from(["a", "b", "a b", "a  b", "c", "d"])}, optional={"document": st.integers(0, 3)}
    ),
    max_size=20,
).map(lambda rows: [*rows, {"text": "first", "document": 7}, {"text": "second", "document": 8}])


@given(ROWS, FRACTIONS, SEEDS, st.sampled_from([None, "document"]))
def test_a_cut_loses_nothing_and_keeps_groups_and_order(
    folder: Path, rows: list[Row], fraction: float, seed: int, group_by: str | None
) -> None:
    splits = splits_of(folder, rows, dev=Cut(fraction=fraction, seed=seed, group_by=group_by))
    lines = {split: [record.origin.line for record in records] for split, records in splits.items()}
    assert sorted(lines["train"] + lines["dev"]) == [*range(1, len(rows) + 1)]
    for split in ("train", "dev"):
        assert lines[split], "both sides have an example"
        assert lines[split] == sorted(lines[split])
    train, dev = ({group(record) for record in records} for records in splits.values())
    assert not train & dev


@given(ROWS, FRACTIONS, SEEDS)
def test_a_cut_depends_on_its_seed_alone(folder: Path, rows: list[Row], fraction: float, seed: int) -> None:
    cut = Cut(fraction=fraction, seed=seed)
    first = splits_of(folder, rows, dev=cut)
    random.seed(seed + 1)
    np.random.seed(1)  # noqa: NPY002 - the global generator must not matter
    assert splits_of(folder, rows, dev=cut) == first


def test_another_seed_cuts_other_examples(tmp_path: Path) -> None:
    first, second = (splits_of(tmp_path, rows_of(100), dev=Cut(fraction=0.2, seed=seed)) for seed in (1, 2))
    assert len(first["dev"]) == len(second["dev"]) == 20
    assert texts(first["dev"]) != texts(second["dev"])


def test_shares_of_groups_are_of_all_of_train(tmp_path: Path) -> None:
    cut = Cut(fraction=0.25, group_by="document")
    splits = splits_of(tmp_path, rows_of(80), dev=cut, test=cut)
    assert {split: len(records) for split, records in splits.items()} == {"train": 40, "dev": 20, "test": 20}
    documents = [{record.meta["document"] for record in records} for records in splits.values()]
    assert all(count == 1 for count in Counter(document for side in documents for document in side).values())


def test_test_does_not_change_with_the_cut_of_dev(tmp_path: Path) -> None:
    test = Cut(fraction=0.2)
    several = [
        splits_of(tmp_path, rows_of(50), dev=dev, test=test) for dev in (None, Cut(fraction=0.1), Cut(fraction=0.5))
    ]
    assert texts(several[0]["test"]) == texts(several[1]["test"]) == texts(several[2]["test"])


def test_the_order_of_splits_is_train_dev_test(tmp_path: Path) -> None:
    cut = Cut(fraction=0.1)
    assert list(splits_of(tmp_path, rows_of(20), test=cut, dev=cut)) == ["train", "dev", "test"]


@pytest.mark.parametrize(
    ("rows", "cut", "message"),
    [
        (rows_of(9), Cut(fraction=0.5, group_by="doc"), "cutting dev from train: no example has the field 'doc'"),
        (rows_of(3), Cut(fraction=0.5, group_by="document"), "all examples that are left have the same document"),
        ([{"text": "a"}] * 5, Cut(fraction=0.5), "all examples that are left have the same text"),
    ],
)
def test_a_cut_that_is_impossible_is_an_error(tmp_path: Path, rows: list[Row], cut: Cut, message: str) -> None:
    with pytest.raises(ReadError, match=f"train.jsonl: .*{message}"):
        splits_of(tmp_path, rows, dev=cut)


def test_a_file_of_several_without_an_example_is_an_error(tmp_path: Path) -> None:
    full, empty = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    full.write_text('{"text": "a", "y": "b"}\n')
    empty.write_text("")
    source = JsonlSource(format="jsonl", train=[str(full), str(empty)], text="text", labels={"task": "y"})
    with pytest.raises(ReadError, match=r"b\.jsonl: no example in it; take it out of train"):
        read_splits(source)


def test_an_empty_split_is_an_error_naming_its_file(tmp_path: Path) -> None:
    (tmp_path / "dev.jsonl").write_text("\n")
    with pytest.raises(ReadError, match=r"dev.jsonl: dev is empty"):
        splits_of(tmp_path, rows_of(3), dev=str(tmp_path / "dev.jsonl"))


def test_splits_of_their_own_files_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "dev.jsonl").write_text('{"text": "text 0"}\n')
    splits = splits_of(tmp_path, rows_of(3), dev=str(tmp_path / "dev.jsonl"))
    assert (texts(splits["train"]), texts(splits["dev"])) == (["text 0", "text 1", "text 2"], ["text 0"])
