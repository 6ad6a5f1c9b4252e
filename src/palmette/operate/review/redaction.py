"""What of a text is not kept: words that the operator's own function replaces before anything is stored."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from importlib.metadata import entry_points

from palmette.errors import ConfigError, StoreError
from palmette.kinds import AnyKind
from palmette.types import Answer, Example, Label, Text

# Words of a text -> as many words, some of them replaced. Words, so that tags and answers keep their places.
Redact = Callable[[Sequence[str]], Sequence[str]]


def find_redaction(name: str) -> Redact:
    """The operator's function: an entry point of group `palmette.redactions`, or `module:function`.

    Raises:
        ConfigError: there is none of that name, or it cannot be called.
    """
    points = {point.name: point for point in entry_points(group="palmette.redactions")}
    try:
        if name in points:
            found = points[name].load()
        else:
            module, _, function = name.partition(":")
            found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"review.redact: {name!r} is neither module:function nor one of the entry points "
            f"({', '.join(sorted(points)) or 'there are none'}): {error}"
        ) from error
    if not callable(found):
        raise ConfigError(f"review.redact: {name!r} is not a function")
    function_found: Redact = found
    return function_found


def redact_example(example: Example, redact: Redact) -> Example:
    """The example with its words replaced; what stands between words stays.

    Raises:
        StoreError: the function fails, or does not give a word for a word.
    """
    pair = None if example.pair is None else _redact_text(example.pair, redact)
    return Example(_redact_text(example.text, redact), {}, pair=pair)


def redact_label(label: Label, kind: AnyKind, before: Example, after: Example, redact: Redact) -> Label | None:
    """A label over the redacted example; None where it may repeat text in a way that nobody knows.

    Raises:
        StoreError: the function fails.
    """
    if kind.form == "json":
        return None
    if kind.form == "answer":
        return tuple(_move(answer, before, after) for answer in label if isinstance(answer, Answer))  # type: ignore[union-attr]
    if kind.form == "text":
        return tuple(" ".join(_words(str(text).split(), redact)) for text in label)  # type: ignore[union-attr]
    return label


def _words(words: Sequence[str], redact: Redact) -> tuple[str, ...]:
    try:
        found = tuple(redact(tuple(words)))
    except Exception as error:
        # Its message may quote the text.
        raise StoreError(f"review.redact: the function failed with {type(error).__name__}") from error
    if len(found) != len(words) or not all(isinstance(word, str) for word in found):
        raise StoreError(f"review.redact: gave {len(found)} words for {len(words)}; each word needs one")
    return found


def _redact_text(text: Text, redact: Redact) -> Text:
    words = _words(text.words, redact)
    if text.raw is None or text.offsets is None:
        return Text(words)
    raw, offsets, last = "", [], 0
    for word, old, (start, stop) in zip(words, text.words, text.offsets, strict=True):
        raw += text.raw[last:start]
        # A word may differ from what stands in the text; one that stays keeps the text's letters.
        written = text.raw[start:stop] if word == old else word
        offsets.append((len(raw), len(raw) + len(written)))
        raw, last = raw + written, stop
    return Text(words, raw + text.raw[last:], tuple(offsets))


def _move(answer: Answer, before: Example, after: Example) -> Answer:
    """An answer's place in the redacted passage; of a word that was replaced, the whole word."""
    if before.pair is None or after.pair is None:
        return answer
    start, stop = answer.start, answer.start + len(answer.text)
    inside = [n for n, (low, high) in enumerate(before.pair.spans) if low < stop and high > start]
    if not inside:
        return Answer(start, "")
    first, last = inside[0], inside[-1]
    old, new = before.pair.spans, after.pair.spans
    kept = before.pair.words[first] == after.pair.words[first]
    begin = new[first][0] + (start - old[first][0] if kept else 0)
    kept = before.pair.words[last] == after.pair.words[last]
    end = new[last][1] - (old[last][1] - stop if kept else 0)
    return Answer(begin, after.pair.string[begin:end])
