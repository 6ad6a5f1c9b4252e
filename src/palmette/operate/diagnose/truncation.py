"""Truncation: texts that are windowed or cut by the trunk's limit, and texts that were cut before they came here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from scipy.stats import poisson

from palmette.operate.diagnose.case import Case
from palmette.operate.diagnose.estimates import Gain, from_error, inside, paired
from palmette.operate.diagnose.finding import Finding
from palmette.operate.diagnose.sheet import Sheet, shown
from palmette.predictor import Predictor
from palmette.text import TextEncoder
from palmette.types import Example, Text

CAUSE = "truncation"


def detect(case: Case) -> list[Finding]:
    """By the trunk's limit, then by somebody before."""
    return [*by_limit(case), *before(case)]


def by_limit(case: Case) -> list[Finding]:
    """Texts longer than the trunk's rows: answered again with longer rows, where the trunk has the positions."""
    main, predictor = case.main, case.subject.predictor
    encoded = predictor.encoder.encode(main.examples)
    cut = np.array([len(found.rows) > 1 or any(row.truncated for row in found.rows) for found in encoded])
    if not cut.any():
        return []
    limit, positions = predictor.encoder.max_length, _positions(case)
    if positions > limit:
        longer = Predictor(
            case.subject.kinds,
            TextEncoder(predictor.encoder.tokenizer, max_length=positions),
            predictor.engine,
            pad=predictor.pad,
            find_words=predictor.find_words,
        )
        gain = paired(case.kind, case.answer(main.examples, longer), main.parts, seed=case.seed)
        how = f"the same weights with rows of {positions} subwords, measured on {main.split}"
        # The weights never saw rows so long: texts that fit say what reading whole texts is worth as well.
        fitting = inside(case.kind, main.parts, cut, seed=case.seed)
        if fitting.low > gain.low:
            gain, how = fitting, "texts that are cut answered as well as those that fit"
    else:
        gain = inside(case.kind, main.parts, cut, seed=case.seed)
        how = "texts that are cut answered as well as those that fit"
    return [
        Finding(
            cause=CAUSE,
            task=case.task,
            summary=f"{cut.sum()} of {len(cut)} texts of {main.split} are longer than the model's {limit} subwords and "
            "are read in windows",
            gain=gain,
            unit=case.unit,
            how=how,
            p=gain.p,
            telling=positions > limit and bool(cut.mean() > 0.1),
            command=f"palmette train {case.subject.data} --set trunk.max_length={positions} --out NEW_RUN",
            evidence=(f"the trunk has positions for {positions} subwords",),
            examples=tuple(shown(main.examples[n]) for n in np.flatnonzero(cut)[:5]),
            numbers={"cut": int(cut.sum()), "limit": limit, "positions": positions},
        )
    ]


def _positions(case: Case) -> int:
    """The longest row that the trunk takes by default."""
    unlimited = case.subject.config.trunk.model_copy(update={"max_length": None})
    if case.subject.base is None:
        return case.subject.predictor.encoder.max_length
    from palmette.trunk import load_text_encoder

    return load_text_encoder(unlimited).max_length


def before(case: Case) -> list[Finding]:
    """Lengths that pile up at the longest one: the texts were cut before they were read here."""
    main = case.main
    found = [(name, spike) for name in ("words", "characters") if (spike := pile(main, name)) is not None]
    if not found:
        return []
    name, (longest, count, p) = min(found, key=lambda item: item[1][2])
    members = _lengths(main.examples, name) == longest
    if members.all() and not any((_lengths(s.examples, name) > longest).any() for s in case.sheets.values()):
        return []  # texts of this task have one length
    dev = case.beside
    if dev is not None and (own := pile(dev, name)) is not None and own[0] == longest:
        dev = None
    reference = dev if dev is not None else case.sheets.get("train")
    gain, how = _simulated(case, reference, longest, name, main)
    return [
        Finding(
            cause=CAUSE,
            task=case.task,
            summary=f"{count} of {len(main)} texts of {main.split} have exactly {longest} {name}, the most of all: "
            "they were cut there before they came here",
            gain=gain,
            unit=case.unit,
            how=how,
            p=p,
            telling=p < 1e-6,
            command=f"palmette check {case.subject.data}  # find what cuts texts at {longest} {name}",
            examples=tuple(shown(main.examples[n]) for n in np.flatnonzero(members)[:5]),
            numbers={"longest": longest, "unit": name, "texts": count, "p_pile": p},
        )
    ]


def _lengths(examples: Sequence[Example], name: str) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    sizes = [len(e.text.words) if name == "words" else len(e.text.string) for e in examples]
    return np.array(sizes, dtype=np.int64)


def pile(sheet: Sheet, name: str) -> tuple[int, int, float] | None:
    """The longest length, how many texts have it, and the p-value of so many where the tail only thins out."""
    lengths = _lengths(sheet.examples, name)
    counts = Counter(lengths.tolist())
    longest = max(counts)
    below = [counts.get(length, 0) for length in range(longest - 1, max(longest - 6, 0), -1)]
    expected = max(float(np.mean(below)) if below else 0.0, 0.5)
    count = counts[longest]
    if count < 5 or count < 4 * expected:
        return None
    return longest, count, float(poisson.sf(count - 1, expected)) * len(counts)


def _simulated(case: Case, reference: Sheet | None, longest: int, name: str, main: Sheet) -> tuple[Gain, str]:
    """What the same cut costs on data that were not cut; only kinds whose labels do not change with the text."""
    if reference is None or (len(main.gold) and len(main.gold) != len(main)):
        return from_error(0.0, 1.0), "not estimated: labels of words are cut with the words"
    if len(reference) and _lengths(reference.examples, name).max() <= longest:
        return inside(case.kind, main.parts, _lengths(main.examples, name) == longest, seed=case.seed), (
            "cut texts answered as well as the others"
        )
    shortened = [replace(example, text=_cut(example.text, longest, name)) for example in reference.examples]
    gain = paired(case.kind, reference.parts, case.answer(shortened), seed=case.seed)
    return gain, f"texts of {reference.split} cut in the same way: what they lose"


def _cut(text: Text, longest: int, name: str) -> Text:
    if name == "words":
        return Text(words=text.words[:longest])
    words, room = [], longest
    for word in text.words:
        if room <= 0:
            break
        words.append(word[:room])
        room -= len(word) + 1
    return Text(words=tuple(words) or text.words[:1])
