"""One label a word: plain tags, or spans written as IOB1, IOB2 or IOBES and decoded so that each is valid."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from palmette import metrics, sums
from palmette.confidence import Decision
from palmette.config import TaskConfig
from palmette.errors import ConfigError
from palmette.kinds.base import (
    UNREADABLE,
    Array,
    Form,
    Kind,
    LabelError,
    RawLabel,
    expect_strings,
    label_set,
    softmax,
    spaced,
    squeeze,
)
from palmette.metrics import Span
from palmette.text import Row
from palmette.types import Claim, Example, Prediction

if TYPE_CHECKING:
    from torch import Tensor, nn

Tags = tuple[str, ...]
Scheme = Literal["iob1", "iob2", "iobes"]
_PREFIXES: dict[str, str] = {"iob1": "BI", "iob2": "BI", "iobes": "BIES"}


def split_tag(tag: str, scheme: Scheme) -> tuple[str, str]:
    """`B-PER` -> ("B", "PER"); `O` -> ("O", "").

    Raises:
        LabelError: the tag is not of the scheme.
    """
    if tag == "O":
        return "O", ""
    prefix, dash, kind = tag.partition("-")
    if not dash or not kind or len(prefix) != 1 or prefix not in _PREFIXES[scheme]:
        allowed = ", ".join(f"{letter}-TYPE" for letter in _PREFIXES[scheme])
        raise LabelError(f"{tag!r} is not a tag of {scheme} (O, {allowed})")
    return prefix, kind


def read_spans(tags: Sequence[str], scheme: Scheme) -> list[Span]:
    """The spans that tags of a scheme write, read as conlleval reads them: an invalid `I-` begins a span.

    A word of which nobody could read what a model wrote is in none.
    """
    spans: list[Span] = []
    start, current = 0, ""
    previous = "O"
    for position, tag in enumerate([*tags, "O"]):
        prefix, kind = split_tag(tag, scheme) if tag != UNREADABLE else ("O", "")
        begins = prefix in "BS" or (prefix in "IE" and (current != kind or previous in "ES"))
        if current and (begins or prefix == "O"):
            spans.append((start, position, current))
            current = ""
        if begins:
            start, current = position, kind
        previous = prefix
    return spans


def write_iob2(spans: Sequence[Span], length: int) -> Tags:
    """Spans that do not overlap, as IOB2 tags."""
    tags = ["O"] * length
    for start, stop, kind in spans:
        tags[start] = f"B-{kind}"
        tags[start + 1 : stop] = [f"I-{kind}"] * (stop - start - 1)
    return tuple(tags)


def write(spans: Sequence[Span], length: int, scheme: Scheme) -> Tags:
    """Spans as tags of any scheme."""
    if scheme == "iob2":
        return write_iob2(spans, length)
    tags = list(write_iob2(spans, length))
    by_start = {start: (stop, kind) for start, stop, kind in spans}
    last_stop, last_kind = -1, ""
    for start, (stop, kind) in sorted(by_start.items()):
        if scheme == "iob1":
            adjacent = start == last_stop and kind == last_kind
            tags[start] = f"{'B' if adjacent else 'I'}-{kind}"
        elif stop - start == 1:
            tags[start] = f"S-{kind}"
        else:
            tags[stop - 1] = f"E-{kind}"
        last_stop, last_kind = stop, kind
    return tuple(tags)


def allowed_transitions(labels: Sequence[str]) -> tuple[Array, Array]:
    """Which IOB2 tag may begin a text [labels], and which may follow which [from, to]: booleans."""
    begins = np.array([not label.startswith("I-") for label in labels])
    follows = np.array(
        [
            [not to.startswith("I-") or (previous != "O" and previous[2:] == to[2:]) for to in labels]
            for previous in labels
        ]
    )
    return begins, follows


def viterbi(scores: Array, begins: Array, follows: Array) -> Array:
    """The best-scoring valid sequence: scores [words, labels] -> [words] label numbers."""
    if len(scores) == 0:
        return np.zeros(0, dtype=np.int64)
    barred = np.where(follows, 0.0, -np.inf)
    total = scores[0] + np.where(begins, 0.0, -np.inf)
    back = np.zeros(scores.shape, dtype=np.int64)
    for position in range(1, len(scores)):
        through = total[:, None] + barred  # [from, to]
        back[position] = through.argmax(axis=0)
        total = through.max(axis=0) + scores[position]
    path = [int(total.argmax())]
    for position in range(len(scores) - 1, 0, -1):
        path.append(int(back[position][path[-1]]))
    return np.array(path[::-1])


_NOTHING = "none"  # how a text without spans is written
_NUMBER = re.compile(r"(?<!\w)(\d+)")
_LONGEST_SPELLING = 40  # characters between a number and its tag that are taken for the word


class SequenceLabeling(Kind[Tags]):
    """A tag for every word. With a `scheme`, spans: labels are kept as IOB2 inside."""

    inputs: ClassVar = "text"
    metrics: ClassVar = ("accuracy", "span_f1", "macro_f1")
    settings: ClassVar = frozenset({"scheme"})

    def __init__(self, task: str, config: TaskConfig, state: Mapping[str, Any]) -> None:
        super().__init__(task, config, state)
        self._number = {label: number for number, label in enumerate(self.labels)}
        self._transitions = allowed_transitions(self.labels) if config.scheme else None
        # The same as lists: for the tags of a sentence NumPy has hardly begun when these are done.
        self._begins, self._follows = (part.tolist() for part in self._transitions or allowed_transitions(()))

    @classmethod
    def check(cls, config: TaskConfig) -> None:
        super().check(config)
        if config.metric == "span_f1" and config.scheme is None:
            raise ConfigError("scheme: span_f1 needs the scheme of the tags (iob1, iob2 or iobes)")
        if config.metric == "macro_f1" and config.scheme is not None:
            raise ConfigError("metric: macro_f1 is of plain tags; with a scheme, choose span_f1 or accuracy")

    @property
    def metric(self) -> str:
        return self.config.metric or ("span_f1" if self.config.scheme else "accuracy")

    @classmethod
    def parse(cls, raw: RawLabel, config: TaskConfig, example: Example) -> Tags:
        tags = expect_strings(raw)
        if len(tags) != len(example.text.words):
            raise LabelError(f"{len(tags)} tags for {len(example.text.words)} words")
        if config.scheme is None:
            for position, tag in enumerate(tags):
                if not tag.strip():
                    raise LabelError(f"the tag of word {position + 1}, {example.text.words[position]!r}, is empty")
            return tags
        for position, tag in enumerate(tags):
            try:
                split_tag(tag, config.scheme)
            except LabelError as error:
                raise LabelError(f"word {position + 1}, {example.text.words[position]!r}: {error}") from error
        return write_iob2(read_spans(tags, config.scheme), len(tags))

    @classmethod
    def repairs(cls, raw: RawLabel, config: TaskConfig) -> int:
        if config.scheme is None:
            return 0
        tags = expect_strings(raw)
        valid = write(read_spans(tags, config.scheme), len(tags), config.scheme)
        if config.scheme == "iob1":  # B- at the start of a span that needs none is redundant, not wrong
            tags = tuple(
                f"I-{tag[2:]}" if tag.startswith("B-") and ok.startswith("I-") else tag
                for tag, ok in zip(tags, valid, strict=True)
            )
        return sum(tag != ok for tag, ok in zip(tags, valid, strict=True))

    @classmethod
    def fit(cls, labels: Sequence[Tags]) -> dict[str, Any]:
        found = {tag for tags in labels for tag in tags}
        # A type that training shows only at length one still needs its I-, or a longer span could not be predicted.
        found |= {f"I-{tag[2:]}" for tag in found if tag.startswith("B-")}
        return label_set(found)

    def unseen(self, label: Tags) -> set[str]:
        return set(label) - self._number.keys()

    def index(self, row: Row, number: int, width: int) -> Array:
        return number * width + row.word_positions

    def targets(self, label: Tags, row: Row, spans: Array | None) -> dict[str, Array]:
        numbers = [self._number[label[word]] for word in row.words]
        return {
            "target": np.array(numbers, dtype=np.int64),  # [words]
            "weight": np.ones(len(numbers), dtype=np.float32),
        }

    @property
    def outputs(self) -> int:
        return len(self.labels)

    def head(self, width: int, dropout: float) -> nn.Module:
        from palmette.heads import WordHead

        return WordHead(width, len(self.labels), dropout=dropout)

    def loss(self, outputs: Tensor, targets: Mapping[str, Tensor]) -> Tensor:
        from torch.nn.functional import cross_entropy

        losses = cross_entropy(outputs.float(), targets["target"], reduction="none")  # [words]
        return (losses * targets["weight"]).sum()

    def decode(self, windows: Sequence[tuple[Row, Array]], example: Example, spans: Array | None) -> Prediction:
        scores = _joined(windows)
        if not len(scores):
            return Prediction((), ())
        path, best = scores.argmax(axis=-1).tolist(), scores.max(axis=-1)
        confidence = 1 / np.exp(scores - best[:, np.newaxis]).sum(axis=-1)  # the softmax at the best
        # What is best at every word is best over all, where it is valid.
        if self._transitions is not None and not self._is_valid(path):
            # Scores are log-probabilities but for a constant at each word, which no path can avoid.
            path = viterbi(scores, *self._transitions).tolist()
            confidence *= np.exp(scores[np.arange(len(path)), path] - best)
        labels = self.labels
        return Prediction(tuple([labels[number] for number in path]), tuple(confidence.tolist()))

    def _is_valid(self, path: Sequence[int]) -> bool:
        follows = self._follows
        return self._begins[path[0]] and all(follows[one][two] for one, two in pairwise(path))

    def support(
        self, windows: Sequence[tuple[Row, Array]], example: Example, spans: Array | None, prediction: Prediction
    ) -> Array:
        """The probability of each tag; with a scheme, that of each span, as `render` says it (see `_sureness`)."""
        tags: Any = prediction.label
        path = [self._number[tag] for tag in tags]
        found = self.probabilities(windows)[np.arange(len(path)), path]
        if self.config.scheme is None:
            return found
        return np.array([_sureness(found, start, stop) for start, stop, _ in read_spans(tags, "iob2")])

    def probabilities(self, windows: Sequence[tuple[Row, Array]]) -> NDArray[np.float64]:
        """Of each label at each word: [words, labels]."""
        scores = _joined(windows)
        return softmax(scores) if len(scores) else scores

    @property
    def claims_words(self) -> bool:
        return self.config.scheme is None

    def attach(self, rendered: dict[str, Any], prediction: Prediction, explanations: Sequence[dict[str, Any]]) -> None:
        if self.config.scheme is None:
            super().attach(rendered, prediction, explanations)
            return
        for span, explanation in zip(rendered["spans"], explanations, strict=True):
            span["explanation"] = explanation

    def score(self, gold: Sequence[Tags], predicted: Sequence[Tags]) -> dict[str, float]:
        flat_gold = [tag for tags in gold for tag in tags]
        flat_predicted = [tag for tags in predicted for tag in tags]
        scores = {"accuracy": metrics.accuracy(flat_gold, flat_predicted)}
        if self.config.scheme is None:
            return scores | {"macro_f1": metrics.macro_f1(flat_gold, flat_predicted)}
        found = metrics.sets_f1([read_spans(t, "iob2") for t in gold], [read_spans(t, "iob2") for t in predicted])
        return {"span_f1": found.pop("f1"), **found, **scores}

    def parts(self, gold: Sequence[Tags], predicted: Sequence[Tags]) -> NDArray[np.float64]:
        if self.metric == "span_f1":
            return sums.sets([read_spans(t, "iob2") for t in gold], [read_spans(t, "iob2") for t in predicted])
        pairs = [
            ([wanted for wanted, answer in zip(tags, answers, strict=True) if wanted == answer], answers, tags)
            for tags, answers in zip(gold, predicted, strict=True)
        ]
        if self.metric == "accuracy":
            return np.array([(len(correct), len(tags)) for correct, _, tags in pairs], dtype=np.float64).reshape(-1, 2)
        return sums.by_class(pairs, self.columns)

    def combine(self, totals: NDArray[np.float64]) -> NDArray[np.float64]:
        return {"accuracy": sums.ratio, "span_f1": sums.f1, "macro_f1": sums.macro_f1}[self.metric](totals)

    def items(self, label: Tags) -> set[tuple[object, str]]:
        if self.config.scheme is None:
            return set(enumerate(label))
        return {((start, stop), kind) for start, stop, kind in read_spans(label, "iob2")}

    def claims(self, prediction: Prediction) -> list[Claim]:
        """Each word's tag; with a scheme, each span."""
        tags: Any = prediction.label
        found: Any = prediction.confidence
        means = self.calibration.means
        if self.config.scheme is None:
            pairs = zip(enumerate(tags), means(found).tolist(), strict=True)
            return [Claim(item, value) for item, value in pairs if not np.isnan(value)]
        spans = read_spans(tags, "iob2")
        sure = means([_sureness(found, start, stop) for start, stop, _ in spans]).tolist()
        return [
            Claim(((start, stop), kind), value)
            for (start, stop, kind), value in zip(spans, sure, strict=True)
            if not np.isnan(value)
        ]

    def holds(self, item: object, gold: Tags) -> bool:
        return item in self.items(gold)

    def attach_decisions(self, rendered: dict[str, Any], decisions: Sequence[Decision]) -> None:
        if self.config.scheme is None:
            rendered["decisions"] = list(decisions)
            return
        for span, decision in zip(rendered["spans"], decisions, strict=True):
            span["decision"] = decision

    def units(self, label: Tags) -> tuple[str, ...]:
        return label

    def agrees(self, before: Tags, after: Tags, alignment: Sequence[int | None]) -> bool:
        """The same tags at the words that both have; with a scheme, the same spans over them."""
        if not alignment:
            return before == after
        if self.config.scheme is None:
            pairs = zip(after, alignment, strict=True)
            return all(place is None or before[place] == tag for tag, place in pairs)
        kept = {place for place in alignment if place is not None}
        wanted = [(kept.intersection(range(start, stop)), kind) for start, stop, kind in read_spans(before, "iob2")]
        found = [
            ({place for place in alignment[start:stop] if place is not None}, kind)
            for start, stop, kind in read_spans(after, "iob2")
        ]
        # A span of added words alone, or one taken away, is in one of the texts only: nothing to compare.
        one, two = (sorted((sorted(places), kind) for places, kind in spans if places) for spans in (wanted, found))
        return one == two

    @property
    def form(self) -> Form:
        return "tags" if self.config.scheme is None else "spans"

    def compare(self, one: Tags, other: Tags) -> list[tuple[str, str]]:
        """A word is a unit."""
        return list(zip(one, other, strict=True))

    def instruction(self) -> str:
        if self.config.scheme is None:
            return (
                f"Tag every numbered word with one of: {', '.join(self.labels)}. Write each number, followed by its "
                "word and the tag."
            )
        types = ", ".join(sorted({label[2:] for label in self.labels if label != "O"}))
        return (
            f"Find the spans of these types among the numbered words: {types}. Write the number and the word of each "
            f"that belongs to one, followed by B- and the type for the first word of a span, I- and the type for those "
            f"that continue it, or {_NOTHING}."
        )

    def source_text(self, example: Example) -> str:
        """The words, numbered from 1: what is written can then name each (cf. Raman et al. 2022, sentinels)."""
        return " ".join(f"{number} {word}" for number, word in enumerate(example.text.words, start=1))

    def target_text(self, label: Tags, example: Example) -> str:
        """Each number with its word and tag; with a scheme, only those of words in spans.

        The number says which word is meant, however it is spelled. The word stands there because a model that has just
        written it knows what it tags, before it has learned to look things up in its input.
        """
        tagged = enumerate(zip(example.text.words, label, strict=True), start=1)
        kept = [f"{n} {word} {tag}" for n, (word, tag) in tagged if self.config.scheme is None or tag != "O"]
        return " ".join(kept) or _NOTHING

    def read_text(self, output: str, example: Example) -> tuple[Tags, bool]:
        """Every number with a tag behind it counts, whatever else is written; a number that is missing has no tag.

        With a scheme a missing word is in no span. Where not all could be read, that is not known of it: no tag either.
        """
        count = len(example.text.words)
        empty = UNREADABLE if self.config.scheme is None else "O"
        tags = [empty] * count
        rest = ""
        readable, last, end = True, 0, 0
        while number := _NUMBER.search(output, end):
            place = int(number[1])
            found = self._tag_behind(output, number.end(), example.text.words[place - 1] if place <= count else "")
            rest += output[end : number.start() if found is not None else number.end()]
            end = found.end() if found is not None else number.end()
            if found is None:
                continue
            if last < place <= count:
                tags[place - 1] = found[1] if found[1] in self._number else self._by_squeezed[squeeze(found[1])]
                last = place
            else:
                readable = False
        rest += output[end:]
        readable &= not rest.strip(" ,;\n") or (squeeze(rest) == _NOTHING and self.config.scheme is not None)
        if self.config.scheme is None:
            return tuple(tags), readable and UNREADABLE not in tags
        valid = write_iob2(read_spans(tags, "iob2"), count)
        if readable and valid == tuple(tags):
            return valid, True
        return tuple(UNREADABLE if tag == "O" else tag for tag in valid), False

    def _tag_behind(self, output: str, start: int, word: str) -> re.Match[str] | None:
        """The tag behind a number, with the word between them as it should be, otherwise spelled, or not there."""
        spelled = re.compile(rf"\s*[:=/]?\s*{spaced(word)}", re.IGNORECASE).match(output, start)
        found = self._tag_pattern.match(output, spelled.end()) if spelled is not None else None
        return found or self._distant_tag_pattern.match(output, start)

    @cached_property
    def _tag_pattern(self) -> re.Pattern[str]:
        return re.compile(rf"\s*[:=/]?\s*({self._any_tag})(?!\w)", re.IGNORECASE)

    @cached_property
    def _distant_tag_pattern(self) -> re.Pattern[str]:
        return re.compile(rf"\D{{0,{_LONGEST_SPELLING}}}?(?<![^\W\d])({self._any_tag})(?!\w)", re.IGNORECASE)

    @cached_property
    def _any_tag(self) -> str:
        return "|".join(spaced(label) for label in sorted(self.labels, key=len, reverse=True))

    def next_pieces(self, written: tuple[str, ...], example: Example) -> tuple[str, ...]:
        words = example.text.words
        if self.config.scheme is None:
            place = len(written)
            space = " " if written else ""
            return tuple(f"{space}{place + 1} {words[place]} {tag}" for tag in self.labels) if words[place:] else ("",)
        if not written:
            starts = [f"{n} {word} {tag}" for n, word in enumerate(words, start=1) for tag in self._beginnings]
            return (*starts, _NOTHING)
        if written[-1] == _NOTHING:
            return ("",)
        last = int(written[-1].split(maxsplit=1)[0])
        tag = written[-1].lstrip(" ").removeprefix(f"{last} {words[last - 1]} ")  # a word or a type may have spaces
        follow = [f" {last + 1} {words[last]} I-{tag[2:]}"] if words[last:] else []
        rest = enumerate(words[last:], start=last + 1)
        starts = [f" {n} {word} {begin}" for n, word in rest for begin in self._beginnings]
        return (*follow, *starts, "")

    @cached_property
    def _beginnings(self) -> tuple[str, ...]:
        return tuple(label for label in self.labels if label.startswith("B-"))

    def render(self, prediction: Prediction, example: Example) -> dict[str, Any]:
        tags: Any = prediction.label
        confidence: Any = prediction.confidence
        if self.config.scheme is None:
            means = self.calibration.means(confidence).tolist()
            shown = ["" if tag == UNREADABLE else tag for tag in tags]
            return {"tags": shown, "confidence": [round(value, 4) for value in means]}
        text, places = example.text.string, example.text.spans
        return {
            "tags": ["O" if tag == UNREADABLE else tag for tag in tags],
            "spans": [
                {
                    "label": kind,
                    "start": places[start][0],
                    "end": places[stop - 1][1],
                    "text": text[places[start][0] : places[stop - 1][1]],
                    "words": [start, stop],
                    "confidence": round(self.calibration.mean(_sureness(confidence, start, stop)), 4),
                }
                for start, stop, kind in read_spans(tags, "iob2")
            ],
        }


def _joined(windows: Sequence[tuple[Row, Array]]) -> NDArray[np.float64]:
    """The scores of all windows, in double precision: [words, labels]."""
    scores = windows[0][1] if len(windows) == 1 else np.concatenate([outputs for _, outputs in windows])
    return scores.astype(np.float64)


def _sureness(confidence: Any, start: int, stop: int) -> float:
    """How sure a span is: as its least certain tag, or as the tag behind it, which says that it ends there.

    All of these must be right for the span to be; the least of them bounds it (LOG.md, 2026-11-26).
    """
    return float(min(confidence[start : stop + 1]))
