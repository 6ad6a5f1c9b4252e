"""How far a window of texts is from the reference, and how surprising that would be of the same traffic.

Each signal is a distance; how large it gets by chance is found by resampling the reference itself, whole texts at a
time, since the words of one text depend on each other. The distances come from SciPy's two-sample statistics where it
has one; none of the drift libraries of 2026 fits beside this server (docs/watching.md says why).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.spatial.distance import pdist
from scipy.stats import gamma, wasserstein_distance

from palmette.kinds.base import softmax
from palmette.operate.watch.looks import Floats, Look
from palmette.operate.watch.profile import TaskProfile, counts

LABELS, CONFIDENCE, INPUT, SUBWORDS, UNKNOWN = "labels", "confidence", "input", "subwords", "unknown"
ASSUMED = (INPUT, SUBWORDS, UNKNOWN)  # what must hold still for confidences to mean what they meant on dev
_DRAWS = 400  # of the reference against itself
_RIDGE = 1e-2  # keeps the weights that explain a shift of labels from resting on a few texts
_RARE = 5.0  # a label expected less often in a window is counted with the other rare ones

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Sample:
    """Some texts of a task, as the signals read them; arrays have a row a text.

    The last column of `marks` counts labels that the reference does not have: it is 0 in every text of the reference.
    `whole` is the number of words a subword: 1 where every word is one. `near` are the numbers of texts with a vector,
    `vectors` [near, width] those.
    """

    marks: Floats
    confidence: Floats
    whole: Floats
    unknown: Floats
    near: Ints
    vectors: Floats

    def take(self, rows: Ints, near: Ints) -> Sample:
        """Some of its texts, and some of those with vectors (places in `near`)."""
        return Sample(
            self.marks[rows],
            self.confidence[rows],
            self.whole[rows],
            self.unknown[rows],
            np.arange(0),
            self.vectors[near],
        )


@dataclass(frozen=True, slots=True)
class Finding:
    """A signal in a window.

    Attributes:
        effect: the distance, in the signal's own unit.
        usual: the distance that chance gives on the average.
        p: how probable a distance as large is on the same traffic.
    """

    effect: float
    usual: float
    p: float


def label_distance(window: Floats, reference: Floats) -> float:
    """Total variation distance of two label distributions, [labels] counts each: the share that changed places."""
    totals = window.sum(), reference.sum()
    if not min(totals):
        return 0.0
    return float(np.abs(window / totals[0] - reference / totals[1]).sum() / 2)


def _chi2(window: Floats, reference: Floats, texts: int) -> float:
    """Pearson's statistic over the total, of [texts, labels + 1] counts; rare labels together, unknown ones apart."""
    first, second = window.sum(axis=0), reference.sum(axis=0)
    if not min(first.sum(), second.sum()):
        return 0.0
    rare = second[:-1] / len(reference) * texts < _RARE
    expected = _merged(second[:-1] / second.sum(), rare)
    found = _merged(first[:-1] / first.sum(), rare)
    known = float((np.square(found - expected) / np.maximum(expected, 1e-4)).sum())
    return known + _unknown(float(first[-1] / first.sum()), len(reference), texts)


def _unknown(share: float, seen: int, texts: int) -> float:
    """What labels add that the reference does not have.

    What none of n texts showed may still be in 3/n of all (95 %; Hanley & Lippman-Hand 1983, "If nothing goes wrong, is
    everything all right?", JAMA). A few in a window are no more of a surprise than those of a rare label.
    """
    expected = 3 / seen
    return max(0.0, share - expected) ** 2 / max(expected, _RARE / texts)


def _merged(shares: Floats, rare: NDArray[np.bool_]) -> Floats:
    return np.append(shares[~rare], shares[rare].sum()) if rare.any() else shares


def _moved(window: Floats, reference: Floats, weights: Floats | None = None) -> float:
    """Wasserstein distance of two samples of numbers, those without one left out; the reference may be weighted."""
    there = ~np.isnan(reference)
    first, second = window[~np.isnan(window)], reference[there]
    if not min(len(first), len(second)):
        return 0.0
    return float(wasserstein_distance(first, second, None, None if weights is None else weights[there]))


def balance(marks: Floats, wanted: Floats) -> Floats:
    """Weights of texts with which their mean label counts are those wanted: [texts], sum 1.

    The closest to equal ones in Kullback-Leibler divergence, up to a small penalty: entropy balancing (Hainmueller
    2012, Political Analysis). With them the reference shows what the inputs would look like had only the mixture of
    labels changed (label shift: Lipton et al. 2018, "Detecting and Correcting for Label Shift with Black Box
    Predictors", ICML).
    """
    scale = marks.std(axis=0)
    kept = scale > 0
    if not kept.any():
        return np.full(len(marks), 1 / len(marks))
    centred = (marks[:, kept] - wanted[kept]) / scale[kept]

    def dual(pull: Floats) -> tuple[float, Floats]:
        raised = centred @ pull
        top = raised.max()
        weights = np.exp(raised - top)
        total = weights.sum()
        return float(top + np.log(total) + _RIDGE * pull @ pull / 2), weights / total @ centred + _RIDGE * pull

    pull = minimize(dual, np.zeros(int(kept.sum())), jac=True, method="L-BFGS-B", options={"maxiter": 50}).x
    return softmax(centred @ pull)


class Kernel:
    """Maximum mean discrepancy with a Gaussian kernel whose width is the median distance in the reference.

    Source: Gretton et al. 2012, "A Kernel Two-Sample Test" (JMLR 13).
    """

    def __init__(self, vectors: Floats) -> None:
        self.width = float(np.median(pdist(vectors))) or 1.0

    def __call__(self, first: Floats, second: Floats) -> Floats:
        """[first, second] similarities in (0, 1]."""
        # By a matrix product: a quarter of the time of SciPy's cdist at 400 vectors of 384 (LOG.md, 2026-11-26).
        squared = np.square(first).sum(axis=1)[:, None] + np.square(second).sum(axis=1) - 2 * first @ second.T
        return np.asarray(np.exp(-np.maximum(squared, 0.0) / (2 * self.width**2)))


def mmd(within: Floats, across: Floats, reference: Floats, weights: Floats) -> float:
    """The distance of a window's vectors from weighted reference ones.

    Args:
        within: [window, window] similarities.
        across: [window, reference].
        reference: [reference, reference].
        weights: [reference], sum 1.
    """
    squared = within.mean() - 2 * (across @ weights).mean() + weights @ reference @ weights
    return float(np.sqrt(max(0.0, squared)))


class Detector:
    """Compares windows of a task with its profile.

    The null distribution of each distance: the reference is halved at random, and a window drawn from one half, with
    replacement, is compared with the other, many times. That both halves are samples counts twice what the finite
    reference makes uncertain, which makes up for texts of one document that resemble each other. Tails beyond the
    draws are those of a gamma distribution with the same mean and variance, as MMD's null is approximated too
    (Gretton et al. 2009, "A Fast, Consistent Kernel Two-Sample Test", NeurIPS).

    Args:
        profile: of the task.
        window: texts in a window.
        seed: of the resampling.
        draws: how often the reference is compared with itself.
    """

    def __init__(self, profile: TaskProfile, *, window: int, seed: int, draws: int = _DRAWS) -> None:
        self.profile = profile
        self.window = window
        self._seed = seed
        marks = np.pad(profile.marks, ((0, 0), (0, 1)))
        self._reference = Sample(
            marks,
            profile.confidence,
            1 / profile.subwords,
            profile.unknown,
            profile.embedded,
            profile.embeddings,
        )
        self._kernel = Kernel(profile.embeddings)
        self._similar = self._kernel(profile.embeddings, profile.embeddings)
        self._near_marks = marks[profile.embedded]
        self.signals = [SUBWORDS, UNKNOWN, INPUT]
        if len(profile.labels) > 1:
            self.signals.insert(0, LABELS)
        if not np.isnan(profile.confidence).all():
            self.signals.insert(1, CONFIDENCE)
        self._null = self._resample(draws)

    def compare(self, window: Sequence[Look]) -> dict[str, Finding]:
        """Every signal of a window of texts."""
        marks = counts([one.marks for one in window], self.profile.labels, others=True)
        rng = np.random.default_rng(self._seed)
        some = rng.permutation(len(window))[: len(self.profile.embedded)]  # no more vectors than the reference has
        vectors = np.stack([window[number].embedding for number in some]).astype(np.float64)
        sample = Sample(
            marks,
            np.array([np.nan if one.confidence is None else one.confidence for one in window]),
            np.array([1 / one.subwords for one in window]),
            np.array([one.unknown for one in window]),
            some,
            vectors,
        )
        everything = np.arange(len(self.profile.embedded))
        found = self._distances(sample, self._reference)
        found[INPUT] = self._input(
            self._kernel(vectors, vectors),
            self._kernel(vectors, self.profile.embeddings),
            marks.mean(axis=0),
            everything,
        )
        findings = {}
        for signal in self.signals:
            null = self._null[signal]
            effect = label_distance(marks.sum(axis=0), self._reference.marks.sum(axis=0)) if signal == LABELS else None
            findings[signal] = Finding(
                found[signal] if effect is None else effect,
                float(self._usual_labels if signal == LABELS else null.mean()),
                _tail(found[signal], null),
            )
        return findings

    def _distances(self, window: Sample, reference: Sample) -> dict[str, float]:
        return {
            LABELS: _chi2(window.marks, reference.marks, self.window),
            CONFIDENCE: _moved(window.confidence, reference.confidence),
            SUBWORDS: _moved(window.whole, reference.whole, balance(reference.marks, window.marks.mean(axis=0))),
            UNKNOWN: _moved(window.unknown, reference.unknown),
        }

    def _input(self, within: Floats, across: Floats, wanted: Floats, reference: Ints) -> float:
        """How far inputs moved beyond what a changed mixture of labels explains."""
        weights = balance(self._near_marks[reference], wanted)
        return mmd(within, across, self._similar[np.ix_(reference, reference)], weights)

    def _resample(self, draws: int) -> dict[str, Floats]:
        rng = np.random.default_rng(self._seed)
        texts, near = self.profile.texts, len(self.profile.embedded)
        found: dict[str, list[float]] = {signal: [] for signal in self.signals}
        usual = []
        for _ in range(draws):
            order, order_near = rng.permutation(texts), rng.permutation(near)
            mine, other = order[: texts // 2], order[texts // 2 :]
            drawn = rng.choice(mine, size=self.window)
            mine_near, other_near = order_near[: near // 2], order_near[near // 2 :]
            drawn_near = rng.choice(mine_near, size=min(self.window, near))
            window, reference = self._reference.take(drawn, drawn_near), self._reference.take(other, other_near)
            distances = self._distances(window, reference)
            distances[INPUT] = self._input(
                self._similar[np.ix_(drawn_near, drawn_near)],
                self._similar[np.ix_(drawn_near, other_near)],
                self._near_marks[drawn_near].mean(axis=0),
                other_near,
            )
            usual.append(label_distance(window.marks.sum(axis=0), reference.marks.sum(axis=0)))
            for signal in self.signals:
                found[signal].append(distances[signal])
        self._usual_labels = float(np.mean(usual))
        return {signal: np.array(values) for signal, values in found.items()}


def _tail(value: float, null: Floats) -> float:
    """How probable a distance is under its null distribution, by a gamma with its mean and variance."""
    mean, variance = float(null.mean()), float(null.var())
    if variance <= 1e-18:  # the reference does not vary at all (no unknown subword): any distance is new
        return 1.0 if value <= mean + 1e-3 else 0.0
    return float(gamma.sf(value, mean**2 / variance, scale=variance / mean))
