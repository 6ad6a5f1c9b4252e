"""What a task's texts and answers looked like on dev: the reference that later traffic is compared with."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from palmette.errors import BundleError
from palmette.kinds import AnyKind
from palmette.operate.watch.looks import Floats, Look, count_words, look, marks, own_subwords
from palmette.predictor import Predictor
from palmette.types import Example

FORMAT = 2
FEWEST = 50  # texts below which a task has no profile: nothing could be told from chance
_TEXTS = 2000  # of dev that are kept, of each task
_EMBEDDED = 400  # of which vectors are kept


@dataclass(frozen=True)
class TaskProfile:
    """A task's texts and answers on dev; arrays have a row for each text.

    Attributes:
        metric: what the share of right claims is: `accuracy`, or `precision of spans`.
        labels: names of the columns of `marks`.
        marks: [texts, labels] how often each label was answered.
        gold: [texts, labels] how often it is annotated.
        confidence: [texts] mean confidence of the answer, NaN where the kind has none.
        words, subwords, unknown: [texts] length, subwords a word, share of unknown subwords.
        embedded: [sampled] which texts have a vector.
        embeddings: [sampled, width].
        claims: [texts] how many each answer makes.
        right: [texts] how many of them are.
        sure: [texts] the sum of their confidences; calibrated ones come close to `right`.
        chance: [texts] variance of `right`, were each right or wrong by itself, as probably as it says.
    """

    metric: str
    labels: tuple[str, ...]
    marks: Floats
    gold: Floats
    confidence: Floats
    words: Floats
    subwords: Floats
    unknown: Floats
    embedded: NDArray[np.int64]
    embeddings: Floats
    claims: Floats
    right: Floats
    sure: Floats
    chance: Floats

    @property
    def texts(self) -> int:
        """How many texts it describes."""
        return len(self.words)

    @property
    def accuracy(self) -> float:
        """Share of the claims that were right; NaN without claims."""
        total = self.claims.sum()
        return float(self.right.sum() / total) if total else math.nan


Profile = Mapping[str, TaskProfile]


def unknown_token(predictor: Predictor) -> int | None:
    """Vocabulary id of the unknown token; byte-level vocabularies have none."""
    tokenizer = predictor.encoder.tokenizer
    name = getattr(tokenizer.model, "unk_token", None)
    return tokenizer.token_to_id(name) if name else None


def looks(
    predictor: Predictor, examples: Sequence[Example], task: str
) -> tuple[list[Look], list[list[bool]], list[dict[str, int]]]:
    """Labelled texts as they are answered, of each of their claims whether it is right, and how they are annotated."""
    kind, unknown = predictor.kinds[task], unknown_token(predictor)
    readings, answers = predictor.embedded(examples, [[task]] * len(examples))
    found, rights, golds = [], [], []
    for reading, answer in zip(readings, answers, strict=True):
        if task not in answer or reading.embedding is None:
            continue
        example, gold = reading.example, reading.example.labels[task]
        subwords = own_subwords(predictor.encoder, example)
        words = count_words(example)
        found.append(look(kind, answer[task], subwords, reading.embedding, words=words, unknown=unknown))
        rights.append([kind.holds(claim.item, gold) for claim in kind.claims(answer[task])])
        golds.append(marks(kind, gold))
    return found, rights, golds


def make_profile(predictor: Predictor, examples: Sequence[Example]) -> dict[str, TaskProfile]:
    """The profile of each task that enough examples are labelled for; of too many, some, spread evenly."""
    found = {}
    for task, kind in predictor.kinds.items():
        labelled = [
            example for example in examples if task in example.labels and kind.takes(example) and count_words(example)
        ]
        some = [labelled[number] for number in _spread(len(labelled), _TEXTS)]
        if len(some) >= FEWEST:
            found[task] = describe(kind, *looks(predictor, some, task))
    return found


def describe(
    kind: AnyKind, seen: Sequence[Look], rights: Sequence[Sequence[bool]], golds: Sequence[Mapping[str, int]]
) -> TaskProfile:
    """The profile of texts that were answered."""
    names = sorted({name for one in seen for name in one.marks})
    embedded = _spread(len(seen), _EMBEDDED)
    return TaskProfile(
        metric="precision of spans" if kind.config.scheme else "accuracy",
        labels=tuple(names),
        marks=counts([one.marks for one in seen], names),
        gold=counts(golds, names),
        confidence=np.array([math.nan if one.confidence is None else one.confidence for one in seen]),
        words=np.array([one.words for one in seen], dtype=np.float64),
        subwords=np.array([one.subwords for one in seen]),
        unknown=np.array([one.unknown for one in seen]),
        embedded=embedded,
        embeddings=np.stack([seen[number].embedding for number in embedded]).astype(np.float16).astype(np.float64),
        claims=np.array([len(one.claims) for one in seen], dtype=np.float64),
        right=np.array([sum(true) for true in rights], dtype=np.float64),
        sure=np.array([sum(one.claims) for one in seen], dtype=np.float64),
        chance=np.array([by_chance(one) for one in seen], dtype=np.float64),
    )


def counts(marked: Sequence[Mapping[str, int]], names: Sequence[str], *, others: bool = False) -> Floats:
    """How often each text has each label: [texts, labels]; with `others` a last column counts the rest."""
    place = {name: number for number, name in enumerate(names)}
    found = np.zeros((len(marked), len(names) + 1))
    for row, one in enumerate(marked):
        for name, count in one.items():
            found[row, place.get(name, len(names))] += count
    return found if others else found[:, :-1]


def by_chance(one: Look) -> float:
    """Variance of the number of right claims, were each right or wrong by itself, as probably as it says."""
    return sum(value * (1 - value) for value in one.claims)


def _spread(count: int, most: int) -> NDArray[np.int64]:
    """Places of all of so many things, or of `most` of them, spread evenly, ascending."""
    return np.linspace(0, count - 1, min(most, count)).astype(np.int64)


def to_json(profile: Profile) -> dict[str, Any]:
    """The file's content. Vectors are half-precision numbers, little-endian, in base64."""
    return {"format": FORMAT, "tasks": {task: _task_json(found) for task, found in profile.items()}}


def _task_json(found: TaskProfile) -> dict[str, Any]:
    return {
        "metric": found.metric,
        "labels": list(found.labels),
        "marks": _sparse(found.marks),
        "gold": _sparse(found.gold),
        "confidence": [None if math.isnan(value) else round(value, 5) for value in found.confidence.tolist()],
        "words": [int(value) for value in found.words],
        "subwords": np.round(found.subwords, 4).tolist(),
        "unknown": np.round(found.unknown, 5).tolist(),
        "embedded": found.embedded.tolist(),
        "embeddings": base64.b64encode(found.embeddings.astype("<f2").tobytes()).decode(),
        "claims": [int(value) for value in found.claims],
        "right": [int(value) for value in found.right],
        "sure": np.round(found.sure, 4).tolist(),
        "chance": np.round(found.chance, 4).tolist(),
    }


def _sparse(found: Floats) -> list[list[list[int]]]:
    return [[[int(n), int(row[n])] for n in np.flatnonzero(row)] for row in found]


def from_json(content: Any, *, where: str) -> dict[str, TaskProfile]:
    """Read a profile.

    Raises:
        BundleError: it is damaged, or of a later format.
    """
    try:
        if content["format"] != FORMAT:
            raise BundleError(f"{where}: is of format {content['format']!r}; this Palmette reads format {FORMAT}")
        return {task: _task(found) for task, found in content["tasks"].items()}
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise BundleError(f"{where}: is damaged: {error!r}") from error


def _task(found: Any) -> TaskProfile:
    words = np.array(found["words"], dtype=np.float64)
    embedded = np.array(found["embedded"], dtype=np.int64)
    vectors = np.frombuffer(base64.b64decode(found["embeddings"]), dtype="<f2").astype(np.float64)
    return TaskProfile(
        metric=str(found["metric"]),
        labels=tuple(map(str, found["labels"])),
        marks=_dense(found["marks"], len(words), len(found["labels"])),
        gold=_dense(found["gold"], len(words), len(found["labels"])),
        confidence=np.array([math.nan if value is None else value for value in found["confidence"]], dtype=np.float64),
        words=words,
        subwords=np.array(found["subwords"], dtype=np.float64),
        unknown=np.array(found["unknown"], dtype=np.float64),
        embedded=embedded,
        embeddings=vectors.reshape(len(embedded), -1),
        **{name: np.array(found[name], dtype=np.float64) for name in ("claims", "right", "sure", "chance")},
    )


def _dense(entries: Any, texts: int, labels: int) -> Floats:
    found = np.zeros((texts, labels))
    for row, pairs in enumerate(entries):
        for number, count in pairs:
            found[row, number] = count
    return found
