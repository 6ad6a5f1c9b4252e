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
from palmette.operate.watch.looks import Floats, Look, count_words, look, own_subwords
from palmette.predictor import Predictor
from palmette.types import Example

FORMAT = 1
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
        confidence: [texts] mean confidence of the answer, NaN where the kind has none.
        words, subwords, unknown: [texts] length, subwords a word, share of unknown subwords.
        embedded: [sampled] which texts have a vector.
        embeddings: [sampled, width].
        claims: of all texts together.
        accuracy: share of the claims that were right; NaN without claims.
        claimed: mean confidence of the claims; calibrated confidences come close to `accuracy`; NaN without claims.
        residual: mean over texts of (right claims - those expected of their confidences) squared.
        chance: what that would be of claims that are right or wrong independently: mean over texts of the sum of
            confidence * (1 - confidence).
    """

    metric: str
    labels: tuple[str, ...]
    marks: Floats
    confidence: Floats
    words: Floats
    subwords: Floats
    unknown: Floats
    embedded: NDArray[np.int64]
    embeddings: Floats
    claims: int
    accuracy: float
    claimed: float
    residual: float
    chance: float

    @property
    def texts(self) -> int:
        """How many texts it describes."""
        return len(self.words)


Profile = Mapping[str, TaskProfile]


def unknown_token(predictor: Predictor) -> int | None:
    """Vocabulary id of the unknown token; byte-level vocabularies have none."""
    tokenizer = predictor.encoder.tokenizer
    name = getattr(tokenizer.model, "unk_token", None)
    return tokenizer.token_to_id(name) if name else None


def looks(predictor: Predictor, examples: Sequence[Example], task: str) -> tuple[list[Look], list[list[bool]]]:
    """Labelled texts as they are answered, and of each of their claims whether it is right."""
    kind, unknown = predictor.kinds[task], unknown_token(predictor)
    readings, answers = predictor.embedded(examples, [[task]] * len(examples))
    found, rights = [], []
    for reading, answer in zip(readings, answers, strict=True):
        if task not in answer or reading.embedding is None:
            continue
        example, gold = reading.example, reading.example.labels[task]
        subwords = own_subwords(predictor.encoder, example)
        words = count_words(example)
        found.append(look(kind, answer[task], subwords, reading.embedding, words=words, unknown=unknown))
        rights.append([kind.holds(claim.item, gold) for claim in kind.claims(answer[task])])
    return found, rights


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


def describe(kind: AnyKind, seen: Sequence[Look], rights: Sequence[Sequence[bool]]) -> TaskProfile:
    """The profile of texts that were answered."""
    names = sorted({name for one in seen for name in one.marks})
    embedded = _spread(len(seen), _EMBEDDED)
    confidences = np.array([value for one in seen for value in one.claims], dtype=np.float64)
    truths = np.array([value for one in rights for value in one], dtype=np.float64)
    accuracy, claimed = (float(found.mean()) if len(found) else math.nan for found in (truths, confidences))
    gaps = [
        sum(true) - sum(one.claims) - len(true) * (accuracy - claimed) if true else 0.0
        for one, true in zip(seen, rights, strict=True)
    ]
    return TaskProfile(
        metric="precision of spans" if kind.config.scheme else "accuracy",
        labels=tuple(names),
        marks=counts(seen, names),
        confidence=np.array([math.nan if one.confidence is None else one.confidence for one in seen]),
        words=np.array([one.words for one in seen], dtype=np.float64),
        subwords=np.array([one.subwords for one in seen]),
        unknown=np.array([one.unknown for one in seen]),
        embedded=embedded,
        embeddings=np.stack([seen[number].embedding for number in embedded]).astype(np.float16).astype(np.float64),
        claims=len(truths),
        accuracy=accuracy,
        claimed=claimed,
        residual=float(np.mean(np.square(gaps))),
        chance=by_chance(seen) / len(seen),
    )


def counts(seen: Sequence[Look], names: Sequence[str], *, others: bool = False) -> Floats:
    """How often each text was answered each label: [texts, labels]; with `others` a last column counts the rest."""
    place = {name: number for number, name in enumerate(names)}
    found = np.zeros((len(seen), len(names) + 1))
    for row, one in enumerate(seen):
        for name, count in one.marks.items():
            found[row, place.get(name, len(names))] += count
    return found if others else found[:, :-1]


def by_chance(seen: Sequence[Look]) -> float:
    """Variance of the number of right claims, were each right or wrong by itself, as probably as it says."""
    return sum(value * (1 - value) for one in seen for value in one.claims)


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
        "marks": [[[int(n), int(row[n])] for n in np.flatnonzero(row)] for row in found.marks],
        "confidence": [None if math.isnan(value) else round(value, 5) for value in found.confidence.tolist()],
        "words": [int(value) for value in found.words],
        "subwords": np.round(found.subwords, 4).tolist(),
        "unknown": np.round(found.unknown, 5).tolist(),
        "embedded": found.embedded.tolist(),
        "embeddings": base64.b64encode(found.embeddings.astype("<f2").tobytes()).decode(),
        "claims": found.claims,
        "accuracy": None if math.isnan(found.accuracy) else found.accuracy,
        "claimed": None if math.isnan(found.claimed) else found.claimed,
        "residual": found.residual,
        "chance": found.chance,
    }


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
    seen = np.zeros((len(words), len(found["labels"])))
    for row, entries in enumerate(found["marks"]):
        for number, count in entries:
            seen[row, number] = count
    embedded = np.array(found["embedded"], dtype=np.int64)
    vectors = np.frombuffer(base64.b64decode(found["embeddings"]), dtype="<f2").astype(np.float64)
    return TaskProfile(
        metric=str(found["metric"]),
        labels=tuple(map(str, found["labels"])),
        marks=seen,
        confidence=np.array([math.nan if value is None else value for value in found["confidence"]], dtype=np.float64),
        words=words,
        subwords=np.array(found["subwords"], dtype=np.float64),
        unknown=np.array(found["unknown"], dtype=np.float64),
        embedded=embedded,
        embeddings=vectors.reshape(len(embedded), -1),
        claims=int(found["claims"]),
        accuracy=math.nan if found["accuracy"] is None else float(found["accuracy"]),
        claimed=math.nan if found["claimed"] is None else float(found["claimed"]),
        residual=float(found["residual"]),
        chance=float(found["chance"]),
    )
