"""A source's splits, those that are cut from train included."""

from __future__ import annotations

from collections.abc import Hashable

import numpy as np

from palmette.config import Cut, HubSource, SourceConfig
from palmette.data.readers import files_of, read
from palmette.errors import ReadError
from palmette.types import SPLITS, Record, Split


def read_splits(source: SourceConfig, *, fields: frozenset[str] = frozenset()) -> dict[Split, list[Record]]:
    """All records of each split that the source has, in the order of its files.

    A cut takes a share of train's groups: of the values of its `group_by` (a record that lacks the field is
    grouped by its text), or else of distinct texts. Which ones depends on its seed and on train alone. Shares
    are of all of train, also where both dev and test are cut from it.

    Raises:
        ReadError: if a split is empty, or a cut cannot leave examples on both sides.
    """
    cuts = {split: cut for split in SPLITS if isinstance(cut := getattr(source, split), Cut)}
    fields |= {cut.group_by for cut in cuts.values() if cut.group_by is not None}
    splits: dict[Split, list[Record]] = {}
    for split in SPLITS:
        files = files_of(source, split)
        if files:
            splits[split] = list(read(source, split, fields=fields))
            if not splits[split]:
                raise ReadError(f"{', '.join(files)}: {split} is empty: no example in it")
            if not isinstance(source, HubSource) and (missing := set(files) - {r.origin.path for r in splits[split]}):
                raise ReadError(f"{min(missing)}: no example in it; take it out of {split}")
    whole = splits.get("train", [])
    # test first: a change of dev's cut then leaves the test examples what they were
    for split in sorted(cuts, reverse=True):
        where = f"{', '.join(files_of(source, 'train'))}: cutting {split} from train"
        splits["train"], splits[split] = _cut(splits["train"], cuts[split], whole, where)
    return {split: splits[split] for split in SPLITS if split in splits}


def _cut(records: list[Record], cut: Cut, whole: list[Record], where: str) -> tuple[list[Record], list[Record]]:
    """What stays of `records`, and what the cut takes of them; its fraction is of `whole`'s groups."""
    if cut.group_by is not None and not any(cut.group_by in record.meta for record in whole):
        raise ReadError(f"{where}: no example has the field {cut.group_by!r} to group by")
    groups = list(dict.fromkeys(_group(record, cut.group_by) for record in records))
    if len(groups) < 2:
        kind = "text" if cut.group_by is None else cut.group_by
        raise ReadError(f"{where}: all examples that are left have the same {kind}, so none can be kept apart")
    total = len({_group(record, cut.group_by) for record in whole})
    count = min(max(1, round(cut.fraction * total)), len(groups) - 1)
    chosen = np.random.default_rng(cut.seed).permutation(len(groups))[:count]
    taken = {groups[index] for index in chosen}
    kept = [record for record in records if _group(record, cut.group_by) not in taken]
    return kept, [record for record in records if _group(record, cut.group_by) in taken]


def _group(record: Record, group_by: str | None) -> Hashable:
    """What must stay on one side of a cut. Words, not strings: texts that differ in spaces become one example."""
    if group_by is not None and group_by in record.meta:
        return record.meta[group_by]
    return (_words(record.text), None if record.pair is None else _words(record.pair))


def _words(text: str | tuple[str, ...]) -> tuple[str, ...]:
    return tuple(text.split()) if isinstance(text, str) else text
