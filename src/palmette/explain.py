"""Which words carried a prediction: each word is hidden in turn, and the fall of the answer's probability is its score.

Occlusion (Zeiler & Fergus 2014), for words as in Li, Monroe & Jurafsky (2016, "Understanding Neural Networks through
Representation Erasure"). A hidden word is not deleted: every subword of it becomes the tokenizer's mask token (the
unknown token where there is none) without its casing. So all other words keep their places, which tags and answers
point to; a text is cut into the same windows, and only those that show the word are computed again.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from palmette.batching import Dataset
from palmette.errors import RunError
from palmette.predictor import AnyPredictor, Input, Predictor, Reading, with_heads
from palmette.text import Encoded, IntArray
from palmette.types import Example, Prediction

if TYPE_CHECKING:
    from palmette.answering import Answerer

Scores = NDArray[np.float64]

# How often something is hidden in one input, at most (once more in a pair). In one of more words, neighbours are hidden
# together: coarse, but all of it is explained at a bounded cost.
MOST = 256
_CHUNK = 512  # passes that are batched together; bounds the memory of a stream


def explain(
    answerer: Answerer, inputs: Input | Sequence[Input], tasks: Sequence[str] | None = None, *, word: int | None = None
) -> Any:
    """Answers as `Answerer.predict` gives them, with explanations.

    Each object of a task, each span and, under `explanations`, each member of a set has
    `{"method": "occlusion", "words": [score of each word]}`, for pairs also `"pair_words"`, whose places in `text_pair`
    are then the answer's `pair_offsets`. A score is the fall of the answer's probability when the word is hidden
    (of the value, for a number): below zero, the word spoke against the answer.

    Where an input has more than `MOST` words, as many neighbours as `"together"` says are hidden at once and share
    their score.

    Args:
        answerer: a run or a bundle.
        inputs: as for `predict`.
        tasks: which tasks to answer and explain; all that take such an input by default.
        word: explain the plain tag of this word. Without it plain tags are answered and not explained: all of them
            would be words x words numbers.

    Raises:
        RunError: as `predict`; or a task is of a kind that cannot be explained; or a text has no such word.
    """
    if isinstance(inputs, str | tuple):
        return next(explanations(answerer.predictor, [inputs], tasks, word=word))
    return list(explanations(answerer.predictor, inputs, tasks, word=word))


def explanations(
    asked: AnyPredictor,
    inputs: Iterable[Input | Example],
    tasks: Sequence[str] | None = None,
    *,
    word: int | None = None,
) -> Iterator[dict[str, Any]]:
    """The same in order, in bounded memory, for any number of inputs."""
    predictor = with_heads(asked, "explain")
    chunk: list[Reading] = []
    passes = 0
    for reading in predictor.readings(inputs, tasks):
        chunk.append(reading)
        passes += min(_words(reading.example), MOST)
        if passes >= _CHUNK:
            yield from _at_once(predictor, chunk, word)
            chunk, passes = [], 0
    yield from _at_once(predictor, chunk, word)


def _at_once(predictor: Predictor, readings: Sequence[Reading], word: int | None) -> Iterator[dict[str, Any]]:
    explaining = _Explaining(predictor, readings, word)
    explaining.compute(explaining.hidden)
    return explaining.answers()


def by_portions(
    asked: AnyPredictor, given: Input | Example, tasks: Sequence[str] | None = None, *, tokens: int
) -> Iterator[dict[str, Any] | None]:
    """One explanation, of which about so many tokens are computed at a time, so that other work can come between.

    Yields:
        None wherever it may be left for a while, or for good; then the answer.
    """
    predictor = with_heads(asked, "explain")
    explaining = _Explaining(predictor, list(predictor.readings([given], tasks)), None)
    for number, portion in enumerate(_portions(explaining.hidden, tokens)):
        if number:
            yield None
        explaining.compute(portion)
    yield from explaining.answers()


def _words(example: Example) -> int:
    return len(example.text.words) + (0 if example.pair is None else len(example.pair.words))


@dataclass(frozen=True, slots=True)
class _Claims:
    """What is explained of one answer: which claims, and how far the words as they are support them."""

    prediction: Prediction
    chosen: slice
    support: Scores


@dataclass(frozen=True, slots=True)
class _Hidden:
    """An example of a chunk without some of its words: only the rows that change."""

    number: int
    words: slice
    encoded: Encoded


class _Explaining:
    """Some inputs' explanations while they are computed.

    Attributes:
        hidden: what is to be computed, in any portions.
    """

    def __init__(self, predictor: Predictor, readings: Sequence[Reading], word: int | None) -> None:
        self._predictor = predictor
        self._readings = readings
        self._predictions = [predictor.decode(reading) for reading in readings]
        pairs = zip(readings, self._predictions, strict=True)
        self._claims = [_claims(predictor, *pair, word) for pair in pairs]
        self._scores: list[dict[str, Scores]] = [
            {task: np.zeros((len(of.support), _words(reading.example))) for task, of in asked.items()}
            for reading, asked in zip(readings, self._claims, strict=True)
        ]
        self.hidden = [
            one
            for number, reading in enumerate(readings)
            if self._claims[number]
            for one in _hide(number, reading, predictor)
        ]

    def compute(self, hidden: Sequence[_Hidden]) -> None:
        """Score the words that are hidden in these."""
        dataset = Dataset(
            [self._readings[one.number].example for one in hidden],
            [_numbered(one.encoded, place) for place, one in enumerate(hidden)],
        )
        computed = self._predictor.compute(dataset, [list(self._claims[one.number]) for one in hidden])
        for one, changed in zip(hidden, computed, strict=True):
            reading = self._readings[one.number]
            for task, of in self._claims[one.number].items():
                windows = list(reading.windows[task])
                for row, outputs in changed[task]:
                    windows[row.window] = (row, outputs)
                kind = self._predictor.kinds[task]
                support = kind.support(windows, reading.example, reading.encoded.spans, of.prediction)
                self._scores[one.number][task][:, one.words] = (of.support - support[of.chosen])[:, None]

    def answers(self) -> Iterator[dict[str, Any]]:
        """The inputs' answers, explained."""
        every = zip(self._readings, self._predictions, self._claims, self._scores, strict=True)
        for reading, predictions, claims, scores in every:
            yield _render(self._predictor, reading.example, predictions, claims, scores)


def _portions(hidden: Iterable[_Hidden], tokens: int) -> Iterator[list[_Hidden]]:
    """Neighbours of up to so many tokens together, at least one."""
    portion: list[_Hidden] = []
    spent = 0
    for one in hidden:
        size = sum(map(len, one.encoded.rows))
        if portion and spent + size > tokens:
            yield portion
            portion, spent = [], 0
        portion.append(one)
        spent += size
    if portion:
        yield portion


def _claims(
    predictor: Predictor, reading: Reading, predictions: dict[str, Prediction], word: int | None
) -> dict[str, _Claims]:
    """The answers to explain, none where nothing is claimed (a text without spans)."""
    claims = {}
    for task, prediction in predictions.items():
        kind = predictor.kinds[task]
        if kind.claims_words and word is None:
            continue
        support = kind.support(reading.windows[task], reading.example, reading.encoded.spans, prediction)
        chosen = slice(None)
        if kind.claims_words and word is not None:
            if not 0 <= word < len(support):
                raise RunError(f"no word {word} to explain among {len(support)}: {reading.example.text.string[:60]!r}")
            chosen = slice(word, word + 1)
        if len(support):
            claims[task] = _Claims(prediction, chosen, support[chosen])
    return claims


def _together(example: Example) -> int:
    """How many neighbouring words are hidden at once."""
    return max(1, math.ceil(_words(example) / MOST))


def _hide(number: int, reading: Reading, predictor: Predictor) -> Iterator[_Hidden]:
    """The example without each word, or run of words, in turn; words beyond the trunk's reach change nothing."""
    example, mask = reading.example, predictor.encoder.mask
    owners = predictor.encoder.word_numbers(example)
    step, first, total = _together(example), len(example.text.words), _words(example)
    starts = [*range(0, first, step), *range(first, total, step)]
    for start in starts:
        stop = min(start + step, first if start < first else total)
        rows = [
            replace(row, ids=np.where(hit, mask, row.ids), casing=np.where(hit, 0, row.casing))
            for row, hit in zip(reading.encoded.rows, _hits(owners, start, stop), strict=True)
            if hit.any()
        ]
        if rows:
            yield _Hidden(number, slice(start, stop), Encoded(rows, reading.encoded.spans))


def _hits(owners: Sequence[IntArray], start: int, stop: int) -> list[NDArray[np.bool_]]:
    """Which tokens of each row belong to words [start, stop)."""
    return [(owner >= start) & (owner < stop) for owner in owners]


def _numbered(encoded: Encoded, number: int) -> Encoded:
    return Encoded([replace(row, example=number) for row in encoded.rows], encoded.spans)


def _render(
    predictor: Predictor,
    example: Example,
    predictions: dict[str, Prediction],
    claims: dict[str, _Claims],
    scores: dict[str, Scores],
) -> dict[str, Any]:
    answer = predictor.render(example, predictions)
    if example.pair is not None:
        answer["pair_offsets"] = [list(span) for span in example.pair.spans]
    for task in claims:
        explained = [_explanation(values, example) for values in scores[task]]
        predictor.kinds[task].attach(answer["tasks"][task], predictions[task], explained)
    return answer


def _explanation(scores: Scores, example: Example) -> dict[str, Any]:
    rounded = [round(float(score), 4) + 0.0 for score in scores]  # no -0.0
    first = len(example.text.words)
    found: dict[str, Any] = {"method": "occlusion", "words": rounded[:first]}
    if example.pair is not None:
        found["pair_words"] = rounded[first:]
    if _together(example) > 1:
        found["together"] = _together(example)
    return found
