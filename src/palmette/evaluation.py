"""Predictions against gold: scores per task, per label and per slice."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from palmette import metrics
from palmette.kinds import AnyKind
from palmette.types import Example, Prediction

Scores = dict[str, dict[str, float]]  # {task: {metric: value, "examples": n}}, "unparseable" of written answers

# Lengths in words; the last is open.
_LENGTHS = ((0, 10), (10, 20), (20, 40), (40, 80), (80, None))


def score(
    examples: Sequence[Example], answers: Sequence[Mapping[str, Prediction]], kinds: Mapping[str, AnyKind]
) -> Scores:
    """Each task's metrics over the examples that are labelled for it; a task without any is left out.

    Args:
        examples: with gold labels.
        answers: each example's predictions, at least for its labelled tasks.
        kinds: the tasks.
    """
    scores: Scores = {}
    for task, kind in kinds.items():
        pairs = [(e.labels[task], a[task]) for e, a in zip(examples, answers, strict=True) if task in e.labels]
        if pairs:
            gold = [label for label, _ in pairs]
            scores[task] = {**kind.score(gold, [found.label for _, found in pairs]), "examples": len(pairs)}
            if pairs[0][1].readable is not None:  # a model that writes text
                scores[task]["unparseable"] = sum(not found.readable for _, found in pairs) / len(pairs)
    return scores


def spread(examples: Sequence[Example], tasks: Iterable[str], most: int | None) -> list[Example]:
    """Examples with at most `most` labels of each task, evenly chosen; what is left without a label is left out."""
    if most is None:
        return list(examples)
    chosen: dict[int, set[str]] = {}
    for task in tasks:
        labelled = [number for number, example in enumerate(examples) if task in example.labels]
        count = min(most, len(labelled))
        for place in range(count):
            chosen.setdefault(labelled[place * len(labelled) // count], set()).add(task)
    found = []
    for number in sorted(chosen):
        labels = examples[number].labels
        found.append(
            replace(examples[number], labels={task: labels[task] for task in labels if task in chosen[number]})
        )
    return found


def score_labels(
    examples: Sequence[Example], answers: Sequence[Mapping[str, Prediction]], kinds: Mapping[str, AnyKind]
) -> dict[str, dict[str, dict[str, float]]]:
    """{task: {label: {precision, recall, f1, examples}}} for the tasks that have labels."""
    found = {}
    for task, kind in kinds.items():
        pairs = [(e.labels[task], a[task].label) for e, a in zip(examples, answers, strict=True) if task in e.labels]
        table = metrics.per_label([kind.items(g) for g, _ in pairs], [kind.items(p) for _, p in pairs])
        if table:
            found[task] = table
    return found


def slice_by(name: str, known: frozenset[str] | None = None) -> Callable[[Example], str | None]:
    """A function that names an example's slice.

    Args:
        name: `length` (in words), `unseen` (share of words that training lacks), or a column or comment of the source.
        known: case-folded words of the training texts, for `unseen`.
    """
    if name == "length":
        return _length
    if name == "unseen":
        return lambda example: _unseen(example, known or frozenset())
    return lambda example: example.meta.get(name)


def score_slices(
    examples: Sequence[Example],
    answers: Sequence[Mapping[str, Prediction]],
    kinds: Mapping[str, AnyKind],
    key: Callable[[Example], str | None],
) -> dict[str, Scores]:
    """{slice: scores}; examples that the key does not place are in no slice."""
    members: dict[str, list[int]] = {}
    for number, example in enumerate(examples):
        place = key(example)
        if place is not None:
            members.setdefault(place, []).append(number)
    return {
        place: score([examples[n] for n in numbers], [answers[n] for n in numbers], kinds)
        for place, numbers in sorted(members.items())
    }


def vocabulary(examples: Sequence[Example]) -> frozenset[str]:
    """Case-folded words of some examples."""
    return frozenset(word.casefold() for example in examples for words in example.key for word in words)


def _length(example: Example) -> str:
    words = sum(map(len, example.key))
    for low, high in _LENGTHS:
        if high is None or words < high:
            return f"{low:02d}-{high - 1:02d} words" if high is not None else f"{low}+ words"
    raise AssertionError("the last length is open")


def _unseen(example: Example, known: frozenset[str]) -> str:
    words = [word.casefold() for part in example.key for word in part]
    unseen = sum(word not in known for word in words)
    if unseen == 0:
        return "all words seen"
    return "up to 10 % unseen" if unseen <= 0.1 * len(words) else "over 10 % unseen"


def summarise(scores: Mapping[str, Any], kinds: Mapping[str, AnyKind]) -> dict[str, float]:
    """Each task's own metric, as model selection compares them."""
    return {task: float(scores[task][kind.metric]) for task, kind in kinds.items() if task in scores}
