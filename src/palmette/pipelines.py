"""A task as a callable with the inputs and outputs of a Hugging Face `pipeline`, for code that was written for one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal

import numpy as np

from palmette.answering import Answerer
from palmette.errors import RunError
from palmette.kinds import AnyKind
from palmette.kinds.extractive_qa import ExtractiveQA
from palmette.kinds.multilabel_classification import MultilabelClassification
from palmette.kinds.regression import Regression
from palmette.kinds.sequence_labeling import SequenceLabeling
from palmette.kinds.text_classification import TextClassification
from palmette.predictor import Input, Predictor, Reading, with_heads
from palmette.types import Example, Prediction

Aggregation = Literal["none", "simple"]
Pipeline = Any  # one of the classes below: what it takes and gives depends on the task


def make_pipeline(answerer: Answerer, task: str, **options: Any) -> Pipeline:
    """The callable for a task.

    Args:
        answerer: a run or a bundle.
        task: one of its tasks.
        **options: what calls use by default: `aggregation_strategy` for tags, `top_k` for classes.

    Raises:
        RunError: there is no such task, or its kind has no counterpart among Hugging Face's pipelines.
    """
    (kind,) = answerer.predictor.choose([task]).values()
    for kinds, form in _FORMS:
        if isinstance(kind, kinds):
            try:
                return form(with_heads(answerer.predictor, "pipeline"), task, **options)
            except TypeError as error:
                raise RunError(f"a pipeline of task {task!r} has no such option: {', '.join(options)}") from error
    raise RunError(f"task {task!r}: there is no pipeline for the kind {kind.config.kind}; use predict")


def label_scores(kind: AnyKind, reading: Reading, task: str) -> dict[str, float]:
    """The probability of every label of a classification; of a regression, its value under the task's name."""
    windows, example, spans = reading.windows[task], reading.example, reading.encoded.spans
    if isinstance(kind, Regression):
        return {task: float(kind.support(windows, example, spans, kind.decode(windows, example, spans))[0])}
    if isinstance(kind, MultilabelClassification):
        found = kind.support(windows, example, spans, Prediction(frozenset(kind.labels), ()))
    else:
        found = np.concatenate([kind.support(windows, example, spans, Prediction(name, ())) for name in kind.labels])
    return dict(zip(kind.labels, map(float, found), strict=True))


@dataclass(frozen=True)
class TokenClassifier:
    """Tags or spans of texts, as of `token-classification`: a list of dicts a text.

    Attributes:
        predictor, task: what answers.
        aggregation_strategy: `none`: a dict for each tagged word, O left out; `simple`: one for each run of words of a
            type, its score their mean.
    """

    predictor: Predictor
    task: str
    aggregation_strategy: Aggregation = "none"

    def __call__(self, inputs: Any, *, aggregation_strategy: Aggregation | None = None) -> Any:
        """One text: its dicts. A list of texts: a list of those; a generator of texts: a generator."""
        strategy = aggregation_strategy or self.aggregation_strategy
        if strategy not in ("none", "simple"):
            raise RunError(f"aggregation_strategy: expected none or simple, found {strategy!r}")
        form = self._words if strategy == "none" else self._groups

        def answers(given: Iterable[Input]) -> Iterator[Any]:
            for example, answer in self.predictor.stream(given, [self.task]):
                yield form(example, answer[self.task])

        return _answer(inputs, _input, answers)

    def _words(self, example: Example, prediction: Prediction) -> list[dict[str, Any]]:
        text, tags, scores = example.text, *_tags(prediction)
        # Counted from one, as where a special token comes first.
        return [
            {"entity": tag, "score": score, "index": number, "word": word, "start": start, "end": end}
            for number, (tag, score, word, (start, end)) in enumerate(
                zip(tags, scores, text.words, text.spans, strict=True), start=1
            )
            if tag != "O"
        ]

    def _groups(self, example: Example, prediction: Prediction) -> list[dict[str, Any]]:
        tags, scores = _tags(prediction)
        schemed = self.predictor.kinds[self.task].config.scheme is not None
        string, places = example.text.string, example.text.spans
        groups = []
        for (kind, _), members in groupby(range(len(tags)), key=_runs(tags, schemed=schemed)):
            words = list(members)
            start, end = places[words[0]][0], places[words[-1]][1]
            score = float(np.mean([scores[word] for word in words]))
            groups.append({"entity_group": kind, "score": score, "word": string[start:end], "start": start, "end": end})
        return [group for group in groups if group["entity_group"] != "O"]


def _tags(prediction: Prediction) -> tuple[Sequence[str], Sequence[float]]:
    tags: Any = prediction.label
    scores: Any = prediction.confidence
    return tags, scores


def _runs(tags: Sequence[str], *, schemed: bool) -> Any:
    """A key that is the same for neighbours of one group: (type, number of the group)."""
    keys: list[tuple[str, int]] = []
    for tag in tags:
        kind = tag[2:] if schemed and tag != "O" else tag
        number = keys[-1][1] if keys else 0
        begins = (schemed and tag.startswith("B-")) or not keys or keys[-1][0] != kind
        keys.append((kind, number + begins))
    return keys.__getitem__


_UNSET: Any = object()


@dataclass(frozen=True)
class TextClassifier:
    """Classes of texts or pairs, as of `text-classification`: {label, score}.

    Without `top_k` the most probable label: one text gives a list of one dict, a pair one dict, a list a list of dicts.
    With it, the `top_k` most probable (all for None): a list a text. A number is a label, the task, and its value.
    """

    predictor: Predictor
    task: str
    top_k: int | None = _UNSET

    def __call__(self, inputs: Any, *, top_k: int | None = _UNSET) -> Any:
        """A text, {"text"}, a pair as {"text", "text_pair"}, or a list or generator of them."""
        wanted = top_k if top_k is not _UNSET else self.top_k
        if wanted is not _UNSET and wanted is not None and not (isinstance(wanted, int) and wanted >= 1):
            raise RunError(f"top_k: expected a number from 1, or None for all, found {wanted!r}")
        kind = self.predictor.kinds[self.task]

        def answers(given: Iterable[Input]) -> Iterator[Any]:
            for reading in self.predictor.readings(given, [self.task]):
                scores = label_scores(kind, reading, self.task)
                ranked = [{"label": label, "score": score} for label, score in sorted(scores.items(), key=_by_score)]
                yield ranked[0] if wanted is _UNSET else ranked[:wanted]

        found = _answer(inputs, _input, answers)
        # The original answers one string with a list unless the call itself says top_k, and an object never.
        return [found] if isinstance(inputs, str) and top_k is _UNSET else found


def _by_score(item: tuple[str, float]) -> float:
    return -item[1]


@dataclass(frozen=True)
class QuestionAnswerer:
    """Answers in passages, as of `question-answering`: {score, start, end, answer}; "" at 0 where there is none."""

    predictor: Predictor
    task: str

    def __call__(self, inputs: Any = None, *, question: Any = None, context: Any = None) -> Any:
        """{"question", "context"}, a list or generator of them, or the two as arguments, each perhaps a list."""
        return _answer(_questions(question, context) if inputs is None else inputs, _question, self._answers)

    def _answers(self, given: Iterable[Input]) -> Iterator[dict[str, Any]]:
        for _, predictions in self.predictor.stream(given, [self.task]):
            prediction = predictions[self.task]
            answers: Any = prediction.label
            score: Any = prediction.confidence
            if answers:
                start, text = answers[0].start, answers[0].text
                yield {"score": score, "start": start, "end": start + len(text), "answer": text}
            else:
                yield {"score": score, "start": 0, "end": 0, "answer": ""}


def _questions(question: Any, context: Any) -> Any:
    if isinstance(question, str) and isinstance(context, str):
        return {"question": question, "context": context}
    if isinstance(question, list) and isinstance(context, str):  # several questions about one passage
        context = [context] * len(question)
    if isinstance(question, list) and isinstance(context, list) and len(question) == len(context):
        return [{"question": one, "context": other} for one, other in zip(question, context, strict=True)]
    raise RunError("expected question and context: two texts, or as many of the one as of the other")


def _question(given: Any) -> Input:
    if isinstance(given, Mapping) and given.keys() == {"question", "context"}:
        return given["question"], given["context"]
    raise RunError(f"expected an object with the keys question and context, found {given!r}"[:200])


def _answer(inputs: Any, read: Callable[[Any], Input], answers: Callable[[Iterable[Input]], Iterator[Any]]) -> Any:
    """The answer to one input, a list of those to a list; an iterator is answered as it is read."""
    if isinstance(inputs, Iterator):
        return answers(map(read, inputs))
    if isinstance(inputs, list):
        return list(answers(map(read, inputs)))
    return next(answers([read(inputs)]))


def _input(given: Any) -> Input:
    if not isinstance(given, Mapping):
        return given  # type: ignore[no-any-return]  # the predictor checks it
    if given.keys() == {"text"}:
        return given["text"]  # type: ignore[no-any-return]
    if given.keys() == {"text", "text_pair"}:
        return given["text"], given["text_pair"]
    raise RunError(f"expected an object with the key text, and text_pair for a pair, found {given!r}"[:200])


_FORMS: tuple[tuple[Any, Any], ...] = (
    (SequenceLabeling, TokenClassifier),
    ((TextClassification, MultilabelClassification, Regression), TextClassifier),
    (ExtractiveQA, QuestionAnswerer),
)
