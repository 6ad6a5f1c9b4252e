"""One example for one text, whatever number of sources label it; and no test text of another source in training."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from palmette.types import Example, Split

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
    frequent, and repeated test sentences are each scored. Labels that contradict each other stay apart.
    """
    merged: list[Example] = []
    places: dict[Key, list[int]] = {}
    contradictory: set[Key] = set()
    for examples in sources:
        for example in examples:
            slots = places.setdefault(example.key, [])
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


def folded(example: Example) -> Key:
    """The example's key with case folded: SST-2 in lower case is still the same sentence."""
    return tuple(tuple(word.casefold() for word in words) for words in example.key)


@dataclass(frozen=True, slots=True)
class Overlap:
    """Texts that stand in one source's train and in a source's held-out split."""

    train: str
    held_out: str
    split: Split
    texts: int
    examples: int


def overlaps(sources: Mapping[str, Mapping[Split, Sequence[Example]]]) -> list[Overlap]:
    """How many training examples of each source recur in each dev and test split, its own included."""
    held: dict[tuple[str, Split], set[Key]] = {
        (name, split): {folded(example) for example in splits.get(split, ())}
        for name, splits in sources.items()
        for split in ("dev", "test")
    }
    found = []
    for name, splits in sources.items():
        train = Counter(folded(example) for example in splits.get("train", ()))
        for (other, split), keys in held.items():
            shared = train.keys() & keys
            if shared:
                found.append(Overlap(name, other, split, len(shared), sum(train[key] for key in shared)))
    return found


def leaks(
    sources: Mapping[str, Mapping[Split, Sequence[Example]]],
) -> dict[str, set[int]]:
    """Positions in each source's train of the texts that are in *another* source's test.

    A text that is also in the source's own test is that corpus's own, official overlap: it is left in (two sources
    over one corpus, such as EWT's tags and its entities, have the same test sentences).
    """
    tests = {name: {folded(example) for example in splits.get("test", ())} for name, splits in sources.items()}
    withheld: dict[str, set[int]] = {}
    for name, splits in sources.items():
        foreign = set().union(*(keys for other, keys in tests.items() if other != name)) - tests[name]
        positions = {n for n, example in enumerate(splits.get("train", ())) if folded(example) in foreign}
        if positions:
            withheld[name] = positions
    return withheld
