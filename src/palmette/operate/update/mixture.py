"""Which corrections are trained on, held out, or left out and why; and what is replayed beside them."""

from __future__ import annotations

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from palmette import evaluation
from palmette.corpus import Corpus
from palmette.kinds import AnyKind
from palmette.operate.review.corrections import Corrected
from palmette.operate.update.settings import UpdateSettings
from palmette.types import Example, Label

Key = tuple[Any, ...]


@dataclass(frozen=True)
class Sorted:
    """Corrections by what becomes of them.

    Attributes:
        used: trained on.
        held_out: never trained on; they show what was gained.
        left_out: (correction, why).
    """

    used: list[Corrected]
    held_out: list[Corrected]
    left_out: list[tuple[Corrected, str]]


def sort_corrections(
    found: Sequence[Corrected], kinds: Mapping[str, AnyKind], corpus: Corpus, settings: UpdateSettings
) -> Sorted:
    """Decide about each correction.

    Texts are held out by their words alone: all corrections of a text together, and the same texts in every update, so
    that none that was held out once is trained on later (while `held_out` and `seed` stay).
    """
    known = {_key(example): split for split in ("dev", "test") for example in corpus.splits[split]}
    last = {(_key(c.example), c.task): c for c in sorted(found, key=lambda c: (c.decided, c.item))}
    disputed = _disputed(found)
    left: list[tuple[Corrected, str]] = []
    good: list[Corrected] = []
    for correction in found:
        kind = kinds.get(correction.task)
        key = _key(correction.example)
        if kind is None:
            reason = "the model has no such task"
        elif not kind.takes(correction.example):
            reason = "the task takes no such input"
        elif unseen := kind.unseen(correction.label):
            reason = f"the model has no label {min(unseen)!r}: train anew with it"
        elif key in known:
            reason = f"its text is in {known[key]} of the data"
        elif (key, correction.task) in disputed:
            reason = "reviewers disagree about its text"
        elif last[key, correction.task] is not correction:
            reason = f"item {last[key, correction.task].item} says it later"
        else:
            good.append(correction)
            continue
        left.append((correction, reason))
    held = [c for c in good if _place(c.example, settings.seed) < settings.held_out]
    return Sorted([c for c in good if c not in held], held, left)


def _disputed(found: Sequence[Corrected]) -> set[tuple[Key, str]]:
    """Texts of which people say different things, each by their last word; an item alone knows only its own people."""
    words: dict[tuple[Key, str], dict[str, Label]] = defaultdict(dict)
    for c in sorted(found, key=lambda c: (c.decided, c.item)):
        words[_key(c.example), c.task] |= dict.fromkeys(c.reviewers, c.label)
    return {text for text, said in words.items() if any(label != next(iter(said.values())) for label in said.values())}


def examples_of(found: Sequence[Corrected]) -> list[Example]:
    """One example a text, with the labels of all its corrections."""
    merged: dict[Key, Example] = {}
    for correction in found:
        example = correction.example
        known = merged.get(_key(example), example)
        merged[_key(example)] = replace(known, labels={**known.labels, correction.task: correction.label})
    return list(merged.values())


def mixed(
    corpus: Corpus, corrected: Sequence[Example], settings: UpdateSettings, *, held_out: Sequence[Corrected] = ()
) -> tuple[Corpus, dict[str, Any]]:
    """The corpus to train on: corrections, repeated, beside a part of the original training data of every task.

    Replaying old examples is what keeps a network from forgetting them (Robins 1995, "Catastrophic forgetting,
    rehearsal and pseudorehearsal", Connection Science; Rolnick et al. 2019, NeurIPS). A training text that was
    corrected carries its corrected labels from now on; one that is held out is not replayed at all.

    Returns:
        The corpus, its dev and test as they were, and the counts as JSON.
    """
    by_text = {_key(example): example for example in corrected}
    apart = {_key(correction.example) for correction in held_out}
    original, relabelled = [], 0
    for example in corpus.splits["train"]:
        if _key(example) in apart:
            continue
        new = by_text[_key(example)].labels if _key(example) in by_text else {}
        relabelled += any(example.labels.get(task, label) != label for task, label in new.items())
        original.append(replace(example, labels={**example.labels, **new}) if new else example)
    most = max(settings.least_replay, settings.replay * len(corrected))
    replayed = evaluation.spread(original, corpus.kinds, most)
    wanted = settings.share / (1 - settings.share) * len(replayed) / max(len(corrected), 1)
    repeats = max(1, min(settings.most_repeats, math.ceil(wanted)))
    train = [*replayed, *(example for _ in range(repeats) for example in corrected)]
    counts = {
        "corrected_texts": len(corrected),
        "repeats": repeats,
        "replayed": len(replayed),
        "of": len(original),
        "withheld": len(corpus.splits["train"]) - len(original),
        "relabelled": relabelled,
        "labels": dict(Counter(task for example in train for task in example.labels)),
    }
    return replace(corpus, splits={**corpus.splits, "train": train}), counts


def _key(example: Example) -> Key:
    return (example.key, None if example.pair is None else example.pair.string)


def _place(example: Example, seed: int) -> float:
    """A number from 0 to 1 that the words and the seed determine."""
    digest = hashlib.sha256(f"{seed}/{example.key!r}".encode(errors="surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
