"""One example for one text, whatever number of sources label it; and no test text of another source in training."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product

from palmette.types import SPLITS, Example, Split

Key = tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class Fused:
    """The examples of one split.

    Attributes:
        examples: in the order of first appearance.
        fused: examples that carry labels of more than one source.
        contradictory: inputs that two sources label differently for one task; both examples are kept.
    """

    examples: list[Example]
    fused: int
    contradictory: int


def fuse(sources: Sequence[Sequence[Example]]) -> Fused:
    """Merge the labels of identical word sequences across sources.

    The n-th occurrence in one source joins the n-th in another, so that what is frequent in a corpus stays as
    frequent, and repeated test sentences are each scored. Labels that contradict each other stay apart, and so do
    pairs whose second texts are the same words in different strings: answers are offsets into the string.
    """
    merged: list[Example] = []
    places: dict[tuple[Key, str | None], list[int]] = {}
    contradictory: set[Key] = set()
    for examples in sources:
        for example in examples:
            passage = None if example.pair is None else example.pair.string
            slots = places.setdefault((example.key, passage), [])
            for slot in slots:
                other = merged[slot]
                if set(other.sources) & set(example.sources):
                    continue
                if any(other.labels[task] != label for task, label in example.labels.items() if task in other.labels):
                    contradictory.add(example.key)
                    continue
                merged[slot] = replace(
                    other,
                    labels={**other.labels, **example.labels},
                    meta={**example.meta, **other.meta},
                    sources=other.sources + example.sources,
                )
                break
            else:
                slots.append(len(merged))
                merged.append(example)
    return Fused(merged, sum(len(example.sources) > 1 for example in merged), len(contradictory))


def folded(example: Example) -> str:
    """The example's words with case folded, as one string: SST-2 in lower case is still the same sentence.

    A pair is the same in either order: of 94 pairs that SICK has in both train and test, 45 stand the other way round.
    """
    return "\x1e".join(sorted("\x1f".join(words).casefold() for words in example.key))


@dataclass(frozen=True, slots=True)
class Overlap:
    """Texts of one split of a source that recur in a later split of the same source or of another.

    Attributes:
        source, split: where they stand first.
        held_out, held_out_split: where they recur.
        texts: distinct texts, case folded.
        examples: how many examples of `split` have one of them.
        recurring: how many examples of `held_out_split` have one of them.
        verbatim: how many of `recurring` stand in `split` with the same case, too.
        withheld: how many of `examples` are kept out of training.
    """

    source: str
    split: Split
    held_out: str
    held_out_split: Split
    texts: int
    examples: int
    recurring: int
    verbatim: int
    withheld: int


@dataclass(frozen=True, slots=True)
class Leakage:
    """What recurs across splits, and what is kept out of training for it.

    Attributes:
        overlaps: train with dev and test, dev with test, of every source with every source.
        withheld: positions in each source's train of the texts that are in *another* source's test.
    """

    overlaps: list[Overlap]
    withheld: dict[str, set[int]]


def find_leakage(sources: Mapping[str, Mapping[Split, Sequence[Example]]], *, withhold: bool) -> Leakage:
    """Compare all splits of all sources, case folded.

    A training text that is in another source's test is withheld, unless it is also in its own source's test: that
    is the corpus's own, official overlap, and is left in (two sources over one corpus, such as EWT's tags and its
    entities, have the same test sentences).

    Args:
        sources: the examples of each source by split, before they are fused.
        withhold: whether training texts are to be withheld at all.
    """
    keys = {
        (name, split): [folded(example) for example in splits.get(split, ())]
        for name, splits in sources.items()
        for split in SPLITS
    }
    counts = {place: Counter(texts) for place, texts in keys.items()}
    withheld: dict[str, set[int]] = {}
    for name in sources if withhold else ():
        foreign = set().union(*(counts[other, "test"].keys() for other in sources if other != name))
        foreign -= counts[name, "test"].keys()
        positions = {number for number, text in enumerate(keys[name, "train"]) if text in foreign}
        if positions:
            withheld[name] = positions
    found = []
    for (name, split), (other, later) in product(counts, counts):
        shared = counts[name, split].keys() & counts[other, later].keys()
        if not shared or SPLITS.index(split) >= SPLITS.index(later):
            continue
        exact = {e.key for e, text in zip(sources[name][split], keys[name, split], strict=True) if text in shared}
        again = [e for e, text in zip(sources[other][later], keys[other, later], strict=True) if text in shared]
        kept_out = withheld.get(name, set()) if split == "train" else set()
        found.append(
            Overlap(
                source=name,
                split=split,
                held_out=other,
                held_out_split=later,
                texts=len(shared),
                examples=sum(counts[name, split][text] for text in shared),
                recurring=len(again),
                verbatim=sum(example.key in exact for example in again),
                withheld=sum(keys[name, split][number] in shared for number in kept_out),
            )
        )
    return Leakage(found, withheld)
