"""The component `palmette` of a spaCy pipeline: a run or a bundle fills tags, entities and categories of a `Doc`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from palmette.answering import Answerer
from palmette.errors import MissingExtraError, RunError
from palmette.kinds import AnyKind
from palmette.kinds.multilabel_classification import MultilabelClassification
from palmette.kinds.regression import Regression
from palmette.kinds.sequence_labeling import SequenceLabeling, read_spans
from palmette.kinds.text_classification import TextClassification
from palmette.pipelines import label_scores
from palmette.predictor import Predictor, Reading, with_heads
from palmette.types import Example, Prediction, Text

try:
    from spacy.language import Language
    from spacy.tokens import Doc, Span
    from spacy.util import filter_spans
except ImportError as error:
    raise MissingExtraError("spacy", "spacy") from error

# https://universaldependencies.org/u/pos/ - what spaCy takes for `token.pos_`.
_UPOS = "ADJ ADP ADV AUX CCONJ DET INTJ NOUN NUM PART PRON PROPN PUNCT SCONJ SYM VERB X"
UPOS = frozenset(_UPOS.split())

PLACES = ("pos_", "tag_", "ents", "spans", "cats")
_SINGLE = ("pos_", "tag_", "ents")  # places that hold one task
_CLASSES = (TextClassification, MultilabelClassification, Regression)


@Language.factory(  # type: ignore[untyped-decorator]
    "palmette",
    default_config={"tasks": None},
    assigns=["token.pos", "token.tag", "doc.ents", "token.ent_type", "token.ent_iob", "doc.spans", "doc.cats"],
)
def make(
    nlp: Language,  # noqa: ARG001 - spaCy passes both to every factory
    name: str,  # noqa: ARG001
    path: str,
    tasks: dict[str, str | list[str]] | None,
) -> Component:
    """The component for a configuration.

    Args:
        nlp: the pipeline it becomes a part of.
        name: its name there.
        path: a run folder or a bundle, read when the component is made.
        tasks: place -> task or tasks (see `place_tasks`).
    """
    from palmette import load

    answerer = load(path)
    return Component(answerer, place_tasks(answerer.kinds, tasks))


def place_tasks(
    kinds: Mapping[str, AnyKind], wanted: Mapping[str, str | Sequence[str]] | None = None
) -> dict[str, list[str]]:
    """Which tasks fill which place of a Doc: `pos_` and `tag_` of tokens, `ents`, `spans`, `cats`.

    By default, of the tasks that take single texts: plain tags that are all Universal POS fill `pos_`, the first other
    ones `tag_`; the first spans fill `ents`, further ones `spans`; classes and numbers fill `cats`.

    Raises:
        RunError: a place is unknown, a task is, or the one cannot hold the other.
    """
    if wanted is None:
        return _by_kind(kinds)
    placed: dict[str, list[str]] = {}
    for place, named in wanted.items():
        tasks = [named] if isinstance(named, str) else list(named)
        if place not in PLACES:
            raise RunError(f"tasks.{place}: not one of {', '.join(PLACES)}")
        if place in _SINGLE and len(tasks) != 1:
            raise RunError(f"tasks.{place}: expected one task, found {', '.join(tasks) or 'none'}")
        for task in tasks:
            if task not in kinds:
                raise RunError(f"tasks.{place}: no task {task!r} in this model; it has {', '.join(kinds)}")
            if place not in _fitting(kinds[task]):
                fitting = ", ".join(_fitting(kinds[task])) or "nothing of a Doc"
                raise RunError(f"tasks.{place}: task {task!r} ({kinds[task].config.kind}) can fill {fitting}")
        placed[place] = tasks
    return placed


def _by_kind(kinds: Mapping[str, AnyKind]) -> dict[str, list[str]]:
    placed: dict[str, list[str]] = {}
    for task, kind in kinds.items():
        for place in _fitting(kind):
            if place not in _SINGLE or place not in placed:
                placed.setdefault(place, []).append(task)
                break
            if place == "pos_":  # a second set of Universal POS is not another kind of tag
                break
    return placed


def _fitting(kind: AnyKind) -> tuple[str, ...]:
    """The places that a task can fill, the first choice first."""
    if not kind.takes(Example(Text(()), {})):
        return ()
    if isinstance(kind, SequenceLabeling):
        if kind.config.scheme is not None:
            return "ents", "spans"
        return ("pos_", "tag_") if set(kind.labels) <= UPOS else ("tag_",)
    return ("cats",) if isinstance(kind, _CLASSES) else ()


@dataclass(frozen=True)
class Component:
    """Fills Docs. The Doc's own tokens are the words; white space is none of them.

    Its state is its configuration, which spaCy keeps: a pipeline on disk holds the path of the model, not the model.

    Attributes:
        answerer: the model.
        places: which tasks fill which place of a Doc.
    """

    answerer: Answerer
    places: Mapping[str, Sequence[str]]
    tasks: list[str] = field(init=False)
    _predictor: Predictor = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_predictor", with_heads(self.answerer.predictor, "spaCy component"))
        object.__setattr__(self, "tasks", [task for tasks in self.places.values() for task in tasks])

    def __call__(self, doc: Doc) -> Doc:
        """Fill one Doc."""
        return next(self.pipe([doc]))

    def pipe(self, stream: Iterable[Doc], *, batch_size: int = 128) -> Iterator[Doc]:
        """Fill Docs, `batch_size` of them together."""
        docs = iter(stream)
        while batch := list(islice(docs, batch_size)):
            if self.tasks:
                readings = self._predictor.readings(map(_example, batch), self.tasks)
                for doc, reading in zip(batch, readings, strict=True):
                    self._fill(doc, reading)
            yield from batch

    def _fill(self, doc: Doc, reading: Reading) -> None:
        predictions = self._predictor.decode(reading)
        words = [token.i for token in doc if not token.is_space]
        fill: dict[str, Callable[[str], None]] = {
            "pos_": lambda task: _tag(doc, words, predictions[task], "pos_", space="SPACE"),
            "tag_": lambda task: _tag(doc, words, predictions[task], "tag_", space="_SP"),
            "ents": lambda task: _add_entities(doc, task, _spans(doc, words, predictions[task])),
            "spans": lambda task: _add_spans(doc, task, _spans(doc, words, predictions[task])),
            "cats": lambda task: self._categorise(doc, task, reading),
        }
        for place, tasks in self.places.items():
            for task in tasks:
                fill[place](task)

    def _categorise(self, doc: Doc, task: str, reading: Reading) -> None:
        kind = self.answerer.kinds[task]
        scores = label_scores(kind, reading, task)
        # Two tasks may have labels of one name; a number goes under its task's in any case.
        shared = len(self.places["cats"]) > 1 and not isinstance(kind, Regression)
        doc.cats.update({f"{task}:{label}" if shared else label: score for label, score in scores.items()})


def _example(doc: Doc) -> Example:
    kept = [token for token in doc if not token.is_space]
    return Example(
        Text(
            words=tuple(token.text for token in kept),
            raw=doc.text,
            offsets=tuple((token.idx, token.idx + len(token)) for token in kept),
        ),
        {},
    )


def _tag(doc: Doc, words: Sequence[int], prediction: Prediction, attribute: str, *, space: str) -> None:
    tags: Any = prediction.label
    found = dict(zip(words, tags, strict=True))
    for token in doc:
        setattr(token, attribute, found.get(token.i, space))  # white space as in spaCy's own pipelines


def _spans(doc: Doc, words: Sequence[int], prediction: Prediction) -> list[Span]:
    tags: Any = prediction.label
    return [Span(doc, words[start], words[stop - 1] + 1, label=kind) for start, stop, kind in read_spans(tags, "iob2")]


def _add_entities(doc: Doc, task: str, spans: list[Span]) -> None:
    """Entities beside those of earlier components; where the two overlap, all of the task's go to `doc.spans`."""
    together = [*doc.ents, *spans]
    if len(filter_spans(together)) == len(together):
        doc.set_ents(together)
    else:
        _add_spans(doc, task, spans)


def _add_spans(doc: Doc, task: str, spans: list[Span]) -> None:
    doc.spans[task] = spans
