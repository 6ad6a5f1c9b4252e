"""The stretch of a passage that answers a question, or nothing where the passage has no answer (SQuAD)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from palmette import metrics, sums
from palmette.config import TaskConfig
from palmette.kinds.base import UNREADABLE, Array, Form, Kind, LabelError, RawLabel, share, softmax, spaced, squeeze
from palmette.text import Encoded, Row
from palmette.types import Answer, Example, Prediction

if TYPE_CHECKING:
    from torch import Tensor, nn

Answers = tuple[Answer, ...]

_NOTHING = "unanswerable"  # how it is written that the passage has no answer
_LONGEST_ANSWER = 30  # subwords, as in the reference implementation of BERT on SQuAD (Devlin et al. 2019)
_CANDIDATES = 20  # best starts and ends that are combined, ibid.


class ExtractiveQA(Kind[Answers]):
    """Scores for every token to begin and to end the answer; the row's first token stands for no answer.

    A passage longer than the trunk is read in overlapping windows, which compete for the best answer.
    """

    inputs: ClassVar = "pair"
    metrics: ClassVar = ("f1", "exact_match")

    @classmethod
    def parse(cls, raw: RawLabel, config: TaskConfig, example: Example) -> Answers:
        if not isinstance(raw, tuple) or not all(isinstance(answer, Answer) for answer in raw):
            raise LabelError(f"expected answers with text and offset, found {raw!r}"[:100])
        answers = tuple(answer for answer in raw if isinstance(answer, Answer))
        passage = example.pair.string if example.pair is not None else ""
        for answer in answers:
            found = passage[answer.start : answer.start + len(answer.text)]
            if answer.start < 0 or found != answer.text or not answer.text:
                raise LabelError(f"the answer {answer.text!r} is not at offset {answer.start}: {found!r} is")
        return answers

    @classmethod
    def fit(cls, labels: Sequence[Answers]) -> dict[str, Any]:
        return {"unanswerable": any(not answers for answers in labels)}

    def targets(self, label: Answers, row: Row, spans: Array | None) -> dict[str, Array]:
        start = stop = 0  # the first token: not in this window
        if label and spans is not None:
            visible = spans[row.passage_from : row.passage_from + row.passage[1] - row.passage[0]]  # [visible, 2]
            # Several references may differ; training takes the first, as SQuAD's own training data has one.
            wanted = (label[0].start, label[0].start + len(label[0].text))
            inside = np.flatnonzero((visible[:, 0] < wanted[1]) & (visible[:, 1] > wanted[0]))
            whole = len(inside) and visible[inside[0], 0] <= wanted[0] and visible[inside[-1], 1] >= wanted[1]
            if whole:
                start, stop = row.passage[0] + int(inside[0]), row.passage[0] + int(inside[-1])
        return {"target": np.array([[start, stop]], dtype=np.int64), "weight": share(row)}

    def out_of_reach(self, label: Answers, encoded: Encoded) -> bool:
        # An answer wider than the windows' overlap may be whole in none of them.
        return bool(label) and not any(self.targets(label, row, encoded.spans)["target"].any() for row in encoded.rows)

    @property
    def outputs(self) -> int:
        return 2  # begin and end

    def head(self, width: int, dropout: float) -> nn.Module:
        from palmette.heads import SpanHead

        return SpanHead(width, dropout=dropout)

    def loss(self, outputs: Tensor, targets: Mapping[str, Tensor]) -> Tensor:
        from torch.nn.functional import cross_entropy

        scores = outputs.float().transpose(1, 2)  # [texts, 2, tokens]
        losses = cross_entropy(scores.flatten(0, 1), targets["target"].flatten(), reduction="none")  # [texts * 2]
        return (losses.view(-1, 2).mean(-1) * targets["weight"]).sum()

    def decode(self, windows: Sequence[tuple[Row, Array]], example: Example, spans: Array | None) -> Prediction:
        if spans is None or example.pair is None:
            raise ValueError(f"{self.task}: extractive_qa needs a passage")
        candidates, nothing = _candidates(windows)
        best = max(candidates, key=lambda span: candidates[span], default=(0, 0))
        if not candidates and not self.state["unanswerable"]:
            return Prediction((), 0.0)
        probabilities = self._probabilities(candidates, nothing)
        if not candidates or (self.state["unanswerable"] and nothing > candidates[best]):
            return Prediction((), float(probabilities[-1]))
        start, stop = int(spans[best[0], 0]), int(spans[best[1], 1])
        confidence = float(probabilities[: len(candidates)].max())
        return Prediction((Answer(start, example.pair.string[start:stop]),), confidence)

    def support(
        self, windows: Sequence[tuple[Row, Array]], example: Example, spans: Array | None, prediction: Prediction
    ) -> Array:
        """The probability of the answer among those that compete, also where it would not be one of them."""
        answers: Any = prediction.label
        candidates, nothing = _candidates(windows)
        if not answers:
            return self._probabilities(candidates, nothing)[-1:] if self.state["unanswerable"] else np.zeros(1)
        if spans is None:
            raise ValueError(f"{self.task}: extractive_qa needs a passage")
        start, stop = answers[0].start, answers[0].start + len(answers[0].text)
        # Pieces of one character share their offsets: the answer is any of the stretches that read like it.
        asked = {
            (int(first), int(last))
            for first in np.flatnonzero(spans[:, 0] == start)
            for last in np.flatnonzero(spans[:, 1] == stop)
            if first <= last
        }
        if not asked & candidates.keys():
            candidates |= _scores_of(asked, windows)
        probabilities = self._probabilities(candidates, nothing)
        found = [probabilities[number] for number, span in enumerate(candidates) if span in asked]
        return np.array([max(found, default=0.0)])

    def _probabilities(self, candidates: Mapping[tuple[int, int], float], nothing: float) -> Array:
        """One softmax over the candidates and, last, no answer where the task has such questions."""
        return softmax(np.array([*candidates.values()] + ([nothing] if self.state["unanswerable"] else [])))

    def score(self, gold: Sequence[Answers], predicted: Sequence[Answers]) -> dict[str, float]:
        scores = metrics.squad(gold, predicted)
        return {"f1": scores["f1"], "exact_match": scores["exact_match"]}

    def parts(self, gold: Sequence[Answers], predicted: Sequence[Answers]) -> NDArray[np.float64]:
        pairs = zip(gold, predicted, strict=True)
        return sums.means([metrics.squad([wanted], [found])[self.metric] for wanted, found in pairs])

    def holds(self, item: object, gold: Answers) -> bool:
        """Whether the answer is one of the references, as SQuAD's exact match compares them."""
        return metrics.squad([gold], [item])["exact_match"] == 1.0  # type: ignore[list-item]

    def difference(self, first: Answers, second: Answers) -> float:
        """One minus token F1."""
        if not first or not second:
            return float(bool(first) != bool(second))
        return 1 - metrics.token_f1(first[0].text, second[0].text)

    def agrees(self, before: Answers, after: Answers, alignment: Sequence[int | None]) -> bool:
        """The same text, as SQuAD compares texts; any of several references will do."""
        return metrics.squad([before], [after])["exact_match"] == 1

    @property
    def form(self) -> Form:
        return "answer"

    def compare(self, one: Answers, other: Answers) -> list[tuple[str, str]]:
        """The answer is a unit: where it begins and ends. Of several references, the first."""
        return [(_place(one), _place(other))]

    def instruction(self) -> str:
        nothing = f" If the passage does not answer it, write {_NOTHING}." if self.state["unanswerable"] else ""
        return f"Answer the question with a few words of the passage, exactly as they stand there.{nothing}"

    def source_text(self, example: Example) -> str:
        passage = example.pair.string if example.pair is not None else ""
        return f"Passage: {passage}\nQuestion: {example.text.string}"

    def target_text(self, label: Answers, example: Example) -> str:
        return label[0].text if label else _NOTHING

    def read_text(self, output: str, example: Example) -> tuple[Answers, bool]:
        """The first place of the passage that reads like the output's first line."""
        written = output.strip().partition("\n")[0].strip(" \"'`*")
        passage = example.pair.string if example.pair is not None else ""
        for candidate in (written, written.rstrip(".,;:!?")):
            found = re.search(spaced("".join(candidate.split())), passage, re.IGNORECASE) if candidate else None
            if found:
                return (Answer(found.start(), found.group()),), True
        if self.state["unanswerable"] and squeeze(written.rstrip(".")) == _NOTHING:
            return (), True
        return (Answer(-1, UNREADABLE),), False

    def next_pieces(self, written: tuple[str, ...], example: Example) -> tuple[str, ...]:
        """Words of the passage that stand behind those written, wherever these stand; at first any."""
        if example.pair is None or not example.pair.words or (written and written[0] == _NOTHING):
            return ("",) if written else (_NOTHING,)
        text, spans = example.pair.string, example.pair.spans
        words = [squeeze(text[start:stop]) for start, stop in spans]
        done = [squeeze(piece) for piece in written]
        count = len(done)
        behind = [place + count for place in range(len(words) - count + 1) if words[place : place + count] == done]
        pieces = [
            text[spans[place - 1][1] if written else spans[place][0] : spans[place][1]]
            for place in behind
            if place < len(words)
        ]
        ends = ("",) if written else ((_NOTHING,) if self.state["unanswerable"] else ())
        return (*dict.fromkeys(pieces), *ends)

    def render(self, prediction: Prediction, example: Example) -> dict[str, Any]:
        answers: Any = prediction.label
        confidence = round(self.calibration.mean(float(prediction.confidence)), 4)  # type: ignore[arg-type]
        if not answers or answers[0].text == UNREADABLE:
            return {"answer": None, "confidence": confidence}
        answer = answers[0]
        stop = answer.start + len(answer.text)
        return {"answer": answer.text, "start": answer.start, "end": stop, "confidence": confidence}


def _place(answers: Answers) -> str:
    return f"{answers[0].start}:{answers[0].start + len(answers[0].text)}" if answers else _NOTHING


def _candidates(windows: Sequence[tuple[Row, Array]]) -> tuple[dict[tuple[int, int], float], float]:
    """The best spans of all windows with their scores, and the score of no answer.

    All windows share one softmax, so that a window without the answer cannot win by its own scale.
    """
    candidates: dict[tuple[int, int], float] = {}
    nothing = np.inf
    for row, outputs in windows:
        scores = outputs[0].astype(np.float64)  # [tokens, 2]
        nothing = min(nothing, float(scores[0].sum()))
        for span, value in _best_spans(scores, row):
            candidates[span] = max(value, candidates.get(span, -np.inf))  # neighbours overlap: one span, once
    return candidates, nothing


def _best_spans(scores: Array, row: Row) -> list[tuple[tuple[int, int], float]]:
    """The best spans of one window: ((first, last) in subwords of the passage, score)."""
    low, high = row.passage
    inside = scores[low:high]  # [visible, 2]
    starts = np.argsort(-inside[:, 0], kind="stable")[:_CANDIDATES]
    stops = np.argsort(-inside[:, 1], kind="stable")[:_CANDIDATES]
    return [
        ((row.passage_from + int(start), row.passage_from + int(stop)), float(inside[start, 0] + inside[stop, 1]))
        for start in starts
        for stop in stops
        if start <= stop < start + _LONGEST_ANSWER
    ]


def _scores_of(spans: set[tuple[int, int]], windows: Sequence[tuple[Row, Array]]) -> dict[tuple[int, int], float]:
    """The best score of some spans in the windows that show them."""
    scores: dict[tuple[int, int], float] = {}
    for row, outputs in windows:
        inside = outputs[0].astype(np.float64)[slice(*row.passage)]  # [visible, 2]
        for first, last in spans:
            start, stop = first - row.passage_from, last - row.passage_from
            if start >= 0 and stop < len(inside):
                value = float(inside[start, 0] + inside[stop, 1])
                scores[first, last] = max(value, scores.get((first, last), -np.inf))
    return scores
