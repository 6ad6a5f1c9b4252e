"""Tokenisation mismatch: texts that are written or cut into words otherwise than those of training.

Each suspicion is a repair: test is answered again with its texts brought to the form that train has, and the gain is
measured. A repair that helps dev as much is no mismatch.
"""

from __future__ import annotations

import math
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np

from palmette.operate.diagnose.case import Case
from palmette.operate.diagnose.estimates import greater, paired
from palmette.operate.diagnose.finding import Finding
from palmette.operate.diagnose.sheet import Sheet, rewritten, shown
from palmette.text import TextEncoder
from palmette.types import Example

CAUSE = "tokenisation mismatch"
CASING = "casing lost"
_SYLLABLE = 4  # letters of a vocabulary's word that no other word is likely to be made of
Repair = Callable[[Sequence[str]], tuple[str, ...]]
_PLAIN = {0x2018: "'", 0x2019: "'", 0x201C: '"', 0x201D: '"', 0x2013: "-", 0x2014: "-"}
# Cyrillic letters that look like Latin ones (Unicode TR 39, the common part), by code point.
_LOOK_ALIKES = "0430a 0435e 043Eo 0440p 0441c 0443y 0445x 0456i 0458j 0455s 0410A 0415E 041EO 0420P 0421C 0425X"
_PLAIN |= {int(pair[:4], 16): pair[4:] for pair in _LOOK_ALIKES.split()}


def normal(word: str) -> str:
    """A word without compatibility forms, look-alikes and invisible characters."""
    plain = unicodedata.normalize("NFKC", word).translate(_PLAIN)
    return "".join(c for c in plain if unicodedata.category(c) != "Cf") or word


def detect(case: Case) -> list[Finding]:
    """The repair that gains most, of those under which test comes to look like train."""
    main = case.main
    # Held-out texts where there are some: of train, whose casings the repairs are made of, nothing would be changed.
    reference = case.beside if case.beside is not None else case.train
    repairs = _repairs(case, case.train)
    best: Finding | None = None
    for name, repair in repairs.items():
        mended = [rewritten(example, repair) for example in main.examples]
        changed = np.array([a.key != b.key for a, b in zip(mended, main.examples, strict=True)])
        if changed.sum() < 3:
            continue
        found = _judge(case, name, repair, mended, changed, reference)
        if best is None or found.gain.points > best.gain.points:
            best = found
    return [best] if best is not None else []


def _judge(
    case: Case,
    name: str,
    repair: Repair,
    mended: Sequence[Example],
    changed: np.ndarray[tuple[int], np.dtype[np.bool_]],
    reference: Sheet,
) -> Finding:
    main, encoder = case.main, case.subject.predictor.encoder
    usual = np.array([rewritten(e, repair).key != e.key for e in reference.examples], dtype=np.float64)
    gain = paired(case.kind, case.answer(mended), main.parts, seed=case.seed)
    how = f"{main.split} answered again with its texts brought to the form of train"
    dev = case.beside
    if name == CASING and dev is not None:
        # Train does not know the casing of every word: what dev loses without capitals says what all of them are worth.
        lowered = [rewritten(example, lambda words: tuple(map(str.lower, words))) for example in dev.examples]
        lost = paired(case.kind, dev.parts, case.answer(lowered), seed=case.seed).scaled(
            max(float(changed.mean() - usual.mean()), 0.0)
        )
        if lost.low > gain.low:
            gain, how = lost, "dev without capitals: what it loses, times the share of texts"
    p = greater(changed.astype(np.float64), usual)
    before, after, wanted = (fertility(encoder, sheet) for sheet in (main.examples, mended, reference.examples))
    (cut, unknown), (cut_other, unknown_other) = before, wanted
    other = reference.split
    return Finding(
        cause=CAUSE,
        task=case.task,
        summary=f"{changed.sum()} of {len(main)} texts of {main.split} are written otherwise than {other} ({name}: "
        f"{100 * float(changed.mean()):.0f} % of {main.split}, {100 * float(usual.mean()):.0f} % of {other})",
        gain=gain,
        unit=case.unit,
        how=how,
        p=max(p, gain.p),
        telling=float(changed.mean()) > usual.mean() + 0.15,
        command=f"palmette predict {case.subject.name} --input FILE  # bring texts to the form of train first: {name}",
        evidence=(
            f"subwords per word: {cut:.2f} in {main.split}, {cut_other:.2f} in {other}, {after[0]:.2f} repaired",
            f"unknown ones: {unknown:.2%} in {main.split}, {unknown_other:.2%} in {other}, {after[1]:.2%} repaired",
        ),
        examples=tuple(
            f"{shown(main.examples[n], 60)} → {' '.join(mended[n].text.words)[:60]}"
            for n in np.flatnonzero(changed)[:5]
        ),
        numbers={"repair": name, "changed": int(changed.sum()), "fertility": cut, "fertility_reference": cut_other},
    )


def fertility(encoder: TextEncoder, examples: Sequence[Example]) -> tuple[float, float]:
    """Subwords per word, and the share of unknown ones."""
    found = encoder.subwords([example.text for example in examples], offsets=False)
    unknown_name = getattr(encoder.tokenizer.model, "unk_token", None)
    unknown = encoder.tokenizer.token_to_id(unknown_name) if unknown_name else None
    ids = np.array([number for subwords in found for number in subwords.ids], dtype=np.int64)
    count = sum(len(example.text.words) for example in examples)
    return len(ids) / max(count, 1), float((ids == unknown).mean()) if unknown is not None and len(ids) else 0.0


def _repairs(case: Case, train: Sheet) -> dict[str, Repair]:
    """Repairs that keep the number of words; those that do not, for kinds whose labels do not stand at words."""
    casings = _casings(train)
    counts = Counter({word: sum(forms.values()) for word, forms in casings.items()})
    found: dict[str, Repair] = {
        "unusual or invisible characters": lambda words: tuple(map(normal, words)),
        CASING: lambda words: tuple(_cased(word, n, casings) for n, word in enumerate(words)),
    }
    one_label = all(len(case.kind.units(label)) == 1 for label in case.main.labels[:20])
    if one_label:
        find = case.subject.predictor.find_words
        found["punctuation not separated"] = lambda words: find(" ".join(words)).words or tuple(words)
        segment = Segmenter(counts, case.subject.predictor.encoder)
        found["words joined"] = lambda words: tuple(part for word in words for part in segment(word))
    return found


def _casings(train: Sheet) -> dict[str, Counter[str]]:
    """How train writes each word inside a sentence."""
    found: dict[str, Counter[str]] = {}
    for example in train.examples:
        for part in example.key:
            for word in part:
                found.setdefault(word.casefold(), Counter())[word] += 1
    return found


def _cased(word: str, place: int, casings: dict[str, Counter[str]]) -> str:
    """A word in the casing that train has most often; the first word of a text is left capital."""
    if not (word.islower() or (word.isupper() and len(word) > 1)):
        return word
    forms = casings.get(word.casefold())
    if not forms:
        return word
    (best, count), total = forms.most_common(1)[0], sum(forms.values())
    usual = best if count > 0.5 * total and forms.get(word, 0) < 0.2 * total else word
    return usual[:1].upper() + usual[1:] if place == 0 and usual.islower() and _starts_capital(casings) else usual


def _starts_capital(casings: dict[str, Counter[str]]) -> bool:
    return any(form[:1].isupper() for forms in list(casings.values())[:50] for form in forms)


class Segmenter:
    """Cuts a word that nobody knows into words that train or the trunk's vocabulary has, the most probable ones.

    Unigram word segmentation by dynamic programming (Norvig 2009, "Natural Language Corpus Data", in Beautiful Data).

    Args:
        counts: how often train has each case-folded word.
        encoder: whose vocabulary has further words.
    """

    _LONGEST = 20  # letters of a word that is looked for
    _UNKNOWN = 8.0, 2.0  # what a stretch that is no known word costs, and each of its letters

    def __init__(self, counts: Counter[str], encoder: TextEncoder) -> None:
        total = math.log(counts.total() + 1)
        rarest = total + math.log(2)  # a word of the vocabulary alone counts as half a time
        self._cost = dict.fromkeys(_whole_words(encoder), rarest)
        self._cost |= {word: total - math.log(count) for word, count in counts.items()}
        # A letter is a word only where train uses it as one.
        self._cost = {word: cost for word, cost in self._cost.items() if len(word) > 1 or counts[word] > 1}

    def __call__(self, word: str) -> tuple[str, ...]:
        """The parts, each as it is written."""
        low = word.casefold()
        if len(low) != len(word) or len(low) < 5 or not low.isalpha() or low in self._cost:
            return (word,)
        fixed, letter = self._UNKNOWN
        best, origin = [0.0], [0]
        for stop in range(1, len(low) + 1):
            costs = [
                (best[start] + self._cost.get(low[start:stop], fixed + letter * (stop - start)), start)
                for start in range(max(0, stop - self._LONGEST), stop)
            ]
            cost, start = min(costs)
            best.append(cost)
            origin.append(start)
        cuts = [len(low)]
        while cuts[-1]:
            cuts.append(origin[cuts[-1]])
        parts = [(start, stop) for stop, start in pairwise(cuts)][::-1]
        return tuple(word[start:stop] for start, stop in parts)


def _whole_words(encoder: TextEncoder) -> set[str]:
    """Case-folded words that are a subword by themselves; not the short ones, which may be any syllable."""
    names = list(encoder.tokenizer.get_vocab())
    marked = [name[1:] for name in names if name[:1] in "Ġ▁"]  # byte-level and unigram vocabularies mark a word's start
    whole = marked or [name for name in names if not name.startswith("##")]
    return {name.casefold() for name in whole if len(name) >= _SYLLABLE and name.isalpha()}
