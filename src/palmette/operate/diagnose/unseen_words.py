"""Unseen words: words that training lacks, more of them than it leads one to expect, and answers that suffer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from scipy.stats import chi2_contingency

from palmette.operate.diagnose.case import Case
from palmette.operate.diagnose.estimates import Floats, Gain, from_error, greater, metric, paired
from palmette.operate.diagnose.finding import Finding
from palmette.operate.diagnose.sheet import Sheet, rewritten, shown
from palmette.types import Example

CAUSE = "unseen words"
_BANDS = (0.0, 0.1, 0.25)  # shares of unseen words that part the strata
_FEWEST = 8  # examples that make a stratum
_DRAWS = 200
_SHORT = 3  # letters of words that are hardly ever new: those of grammar
_COMMON = 100  # words whose use is compared
_COMPARED = 500  # texts of each side at most, evenly chosen: of many, chi-squared finds differences that are none
_OTHER_USE = 2.0  # chi-squared a degree of freedom: 0.8 to 1.8 of texts drawn alike, 2.1 to 8 of tweets


def words(example: Example) -> list[str]:
    """Case-folded words that have a letter: numbers are always new."""
    return [w.casefold() for part in example.key for w in part if any(map(str.isalpha, w))]


def shares(examples: Sequence[Example], known: frozenset[str]) -> Floats:
    """The share of each example's words that are not known."""
    found = [words(example) for example in examples]
    return np.array([sum(w not in known for w in ws) / max(len(ws), 1) for ws in found], dtype=np.float64)


def detect(case: Case) -> list[Finding]:
    """More unseen words than one part of train has for the rest of it, with answers that are worse where they are."""
    train, main = case.train, case.main
    if not main.has_units and not len(main):
        return []
    known = frozenset(w for example in case.subject.corpus.splits["train"] for w in words(example))
    here = shares(main.examples, known)
    usual = _own(train) if case.beside is None else shares(case.beside.examples, known)
    p = greater(here, usual)
    rng = np.random.default_rng(case.seed)
    points = _points(case, np.arange(len(main)), here, usual)
    moved = [_points(case, rng.integers(0, len(main), len(main)), here, usual) for _ in range(_DRAWS)]
    gain = from_error(points, float(np.std(moved, ddof=1)) or 1e-6)
    how = f"texts of {main.split} re-weighted to the shares of unseen words that are to be expected"
    new = Counter(w for example in main.examples for w in words(example) if w not in known)
    common = ", ".join(f"{word} ({count})" for word, count in new.most_common(8))
    use = _use(case, known)
    alone = use is not None and use < _OTHER_USE
    words_are_free = len(main.gold) > 0  # of other kinds a label may point into the text
    if alone and words_are_free and here.mean() > usual.mean() and new:
        # Where every text has many, no weights bring back what it would be without them.
        lost = _lost_on_dev(case, float(here.mean()), known, new)
        if lost.low > gain.low:
            gain, how = lost, f"dev with as many of its words replaced by such of {main.split}: what it loses"
    telling = bool(here.mean() > 1.3 * usual.mean() and p < 0.001 and (alone or use is None))
    evidence = [f"most frequent: {common}"] if common else []
    if use is not None:
        evidence.append(
            f"the words that train has are used {'as' if alone else 'otherwise than'} in dev (chi-squared {use:.1f} a "
            f"degree of freedom){'' if alone else ': texts of another kind'}"
        )
    worst = np.argsort(-(here * main.errors))[:6]
    return [
        Finding(
            cause=CAUSE,
            task=case.task,
            summary=f"{100 * here.mean():.1f} % of a text's words are not in train, where {100 * usual.mean():.1f} % "
            "are to be expected",
            gain=gain,
            unit=case.unit,
            how=how,
            p=p if telling else max(p, gain.p),
            telling=telling,
            follows=use is not None and not alone,
            command=case.label_more(
                "label texts with such words; then palmette update RUN --corrections STORE --out CANDIDATE"
            ),
            evidence=tuple(evidence),
            examples=tuple(shown(main.examples[n]) for n in worst if here[n] * main.errors[n] > 0),
            numbers={"share": float(here.mean()), "expected": float(usual.mean()), "p_share": p, "use": use},
        )
    ]


def _use(case: Case, known: frozenset[str]) -> float | None:
    """Whether the common words of train that both have are as frequent as in dev: chi-squared a degree of freedom.

    Texts of another kind use common words otherwise as well; texts with new names for things do not. None without dev,
    or with too few words.
    """
    if case.beside is None:
        return None
    here, there = (
        Counter(
            word
            for example in sheet.examples[:: -(-len(sheet) // _COMPARED)]
            for word in words(example)
            if word in known
        )
        for sheet in (case.main, case.dev)
    )
    both = sorted(here.keys() & there.keys(), key=lambda word: (-here[word] - there[word], word))[:_COMMON]
    table = np.array([[counts[word] for word in both] for counts in (here, there)], dtype=np.float64)
    table = table[:, table.sum(axis=0) >= 10]
    if table.shape[1] < 10:
        return None
    found = chi2_contingency(table)
    return float(found.statistic / found.dof)


def _own(train: Sheet) -> Floats:
    """What a tenth of train lacks of the rest."""
    known = frozenset(w for n, example in enumerate(train.examples) if n % 10 for w in words(example))
    return shares(train.examples[::10], known)


def _lost_on_dev(case: Case, share: float, known: frozenset[str], new: Counter[str]) -> Gain:
    """Points that dev loses when this share of its words is unseen; each word becomes always the same new one."""
    dev = case.dev
    rng = np.random.default_rng(case.seed)
    counts = Counter(word for example in dev.examples for word in words(example))
    unseen = sum(count for word, count in counts.items() if word not in known)
    names: dict[str, str] = {}
    candidates = [word for word in counts if word in known and len(word) > _SHORT]
    drawn = rng.choice(list(new), size=len(candidates), p=np.array(list(new.values())) / new.total())
    for place, name in zip(rng.permutation(len(candidates)), drawn, strict=True):
        if unseen >= share * counts.total():
            break
        names[candidates[place]] = str(name)
        unseen += counts[candidates[place]]

    def hide(word: str) -> str:
        name = names.get(word.casefold(), word)
        return name.capitalize() if word[:1].isupper() else name

    hidden = [rewritten(example, lambda words: tuple(map(hide, words))) for example in dev.examples]
    return paired(case.kind, dev.parts, case.answer(hidden), seed=case.seed)


def _points(case: Case, drawn: np.ndarray[tuple[int], np.dtype[np.int64]], here: Floats, usual: Floats) -> float:
    """Points that the drawn texts would gain were their shares of unseen words the usual ones."""
    parts = case.main.parts[drawn]
    bands = np.searchsorted(_BANDS, here[drawn], side="left")
    wanted = np.bincount(np.searchsorted(_BANDS, usual, side="left"), minlength=len(_BANDS) + 1).astype(np.float64)
    weights = np.zeros(len(drawn))
    for band in range(len(_BANDS) + 1):
        members = bands == band
        if members.sum() >= _FEWEST:
            weights[members] = wanted[band] / len(usual) / members.sum()
    if not weights.sum():
        return 0.0
    total = (weights[:, None] * parts).sum(axis=0)
    return 100 * (float(case.kind.combine(total)) - metric(case.kind, parts))
