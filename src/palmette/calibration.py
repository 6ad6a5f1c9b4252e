"""How well confidences mean what they say, and what makes them: fitted on dev, judged on texts that were left out."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from palmette.confidence import Calibration
from palmette.errors import BundleError
from palmette.kinds import AnyKind
from palmette.predictor import Predictor
from palmette.types import Example

Floats = NDArray[np.float64]

TEMPERATURES = tuple(float(value) for value in np.geomspace(0.5, 4.0, 19))  # 1.0 is among them
LEVEL = 0.95
_FOLDS = 5
_BINS = 15
_FEWEST = 50  # claims below which nothing is fitted
_STEPS = 100  # thresholds that are tried, by the share of claims above them
_SURELY = 0.05  # share of claims at which the search begins


@dataclass(frozen=True)
class Claims:
    """What a model claimed of labelled texts.

    Attributes:
        confidence: [temperatures, claims], at each of `TEMPERATURES`; or [1, claims] once they are calibrated.
        right: [claims] whether it holds.
        text: [claims] the number of the text; claims of one text depend on each other.
    """

    confidence: Floats
    right: NDArray[np.bool_]
    text: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.right)

    def select(self, chosen: NDArray[np.bool_]) -> Claims:
        """Those of some claims: [claims] booleans."""
        return Claims(self.confidence[:, chosen], self.right[chosen], self.text[chosen])


def collect(
    predictor: Predictor, examples: Sequence[Example], *, temperatures: Sequence[float] = TEMPERATURES
) -> dict[str, Claims]:
    """What a model claims of labelled examples, at every temperature: the model reads each text once.

    Args:
        predictor: the model; one that is calibrated already only at a temperature of 1.
        examples: with gold labels.
        temperatures: besides that of the model itself.
    """
    tempered = {
        task: [kind if value == 1.0 else _with(kind, Calibration("temperature", value)) for value in temperatures]
        for task, kind in predictor.kinds.items()
    }
    confidences: dict[str, list[list[float]]] = {task: [[] for _ in temperatures] for task in tempered}
    right: dict[str, list[bool]] = {task: [] for task in tempered}
    text: dict[str, list[int]] = {task: [] for task in tempered}
    for number, reading in enumerate(predictor.readings_labelled(examples)):
        for task, windows in reading.windows.items():
            for step, (value, kind) in enumerate(zip(temperatures, tempered[task], strict=True)):
                scaled = [(row, scores / value) for row, scores in windows]
                claims = kind.claims(kind.decode(scaled, reading.example, reading.encoded.spans))
                if not step:
                    gold: Any = reading.example.labels[task]
                    right[task] += [kind.holds(claim.item, gold) for claim in claims]
                    text[task] += [number] * len(claims)
                confidences[task][step] += [claim.confidence for claim in claims]
                if not claims:
                    break  # no temperature changes an answer
    return {
        task: Claims(
            np.array(confidences[task]), np.array(right[task], dtype=bool), np.array(text[task], dtype=np.int32)
        )
        for task in tempered
        if right[task]
    }


def _with(kind: AnyKind, calibration: Calibration) -> AnyKind:
    return type(kind)(kind.task, kind.config, {**kind.state, "calibration": calibration.state()})


def calibrated(kind: AnyKind, calibration: Calibration) -> AnyKind:
    """The same task with other confidences."""
    return kind if calibration.method == "none" else _with(kind, calibration)


@dataclass(frozen=True)
class Fit:
    """A task's calibration.

    Attributes:
        calibration: fitted on all claims.
        held_out: [claims] each claim's confidence by the same method fitted without its text's fold: what the
            calibration is worth on texts that it has not seen.
        brier: cross-validated Brier score of each method.
    """

    calibration: Calibration
    held_out: Floats
    brier: Mapping[str, float]


def fit(claims: Claims, *, seed: int = 13) -> Fit:
    """Choose and fit a calibration.

    A temperature is the one of `TEMPERATURES` with the least Brier score of the claims; isotonic regression maps the
    untempered confidences. Each is fitted on four fifths of the texts and scored on the rest, in turn. Isotonic
    regression is chosen only where its Brier score is lower by more than a standard error (over texts) of the
    difference: it has more freedom, and few texts. Fewer than 50 claims: nothing is fitted.

    Args:
        claims: of dev, at every temperature.
        seed: of the folds.
    """
    plain = claims.confidence[TEMPERATURES.index(1.0)]
    texts = np.unique(claims.text)
    if len(claims) < _FEWEST or len(texts) < _FOLDS:
        return Fit(Calibration(), plain, {"none": _brier(plain, claims.right)})
    folds = np.random.default_rng(seed).permutation(len(texts)) % _FOLDS  # of each text
    fold = folds[np.searchsorted(texts, claims.text)]
    held_out = {"temperature": np.empty(len(claims)), "isotonic": np.empty(len(claims))}
    for number in range(_FOLDS):
        inside, outside = claims.select(fold != number), fold == number
        best = _temperature(inside)
        held_out["temperature"][outside] = claims.confidence[best, outside]
        held_out["isotonic"][outside] = _isotonic(plain[fold != number], inside.right).means(plain[outside])
    losses = {method: (found - claims.right) ** 2 for method, found in held_out.items()}
    gain = losses["temperature"] - losses["isotonic"]
    _, mean, error = _clustered(gain, claims.text)
    scores = {"none": _brier(plain, claims.right), **{m: float(loss.mean()) for m, loss in losses.items()}}
    if mean > error:
        return Fit(_isotonic(plain, claims.right), held_out["isotonic"], scores)
    chosen = Calibration("temperature", TEMPERATURES[_temperature(claims)])
    return Fit(chosen, held_out["temperature"], scores)


def confidences(claims: Claims, calibration: Calibration) -> Floats:
    """The claims' confidences as a calibration has them: [claims]."""
    return calibration.means(claims.confidence[TEMPERATURES.index(calibration.temperature)])


def _temperature(claims: Claims) -> int:
    return int(((claims.confidence - claims.right) ** 2).mean(axis=1).argmin())


def _isotonic(confidence: Floats, right: NDArray[np.bool_]) -> Calibration:
    from sklearn.isotonic import IsotonicRegression

    fitted = IsotonicRegression(y_min=0.0, y_max=1.0, out_of_bounds="clip").fit(confidence, right.astype(np.float64))
    knots = (tuple(fitted.X_thresholds_.tolist()), tuple(fitted.y_thresholds_.tolist()))
    return Calibration("isotonic", knots=knots)


def _brier(confidence: Floats, right: NDArray[np.bool_]) -> float:
    return float(((confidence - right) ** 2).mean())


def _clustered(values: Floats, text: NDArray[np.int32]) -> tuple[int, float, float]:
    """How many texts, the mean over claims, and its standard error where the claims of a text are dependent."""
    _, place = np.unique(text, return_inverse=True)
    sums = np.bincount(place, weights=values - values.mean())
    texts = len(sums)
    if texts < 2:
        return texts, float(values.mean()), float("inf")
    return texts, float(values.mean()), float(np.sqrt((sums**2).sum() * texts / (texts - 1)) / len(values))


def measure(confidence: Floats, right: NDArray[np.bool_]) -> dict[str, Any]:
    """How well confidences mean what they say.

    Returns:
        `claims`; `ece`, the expected calibration error over 15 bins of equally many claims (Naeini et al. 2015; equal
        mass, Nguyen & O'Connor 2015); `brier`; `aurc`, the area under the risk-coverage curve (Geifman & El-Yaniv
        2017); `reliability`, [mean confidence, share right, claims] of each bin; `risk_coverage`, [share of claims
        above a threshold, share of them that are wrong].
    """
    order = np.argsort(-confidence, kind="stable")
    bins = [part for part in np.array_split(order, _BINS) if len(part)]
    reliability = [[float(confidence[part].mean()), float(right[part].mean()), len(part)] for part in reversed(bins)]
    risk = np.cumsum(~right[order]) / np.arange(1, len(order) + 1)
    places = np.unique(np.linspace(0, len(order) - 1, 41).astype(int)) if len(order) else np.zeros(0, dtype=int)
    return {
        "claims": len(right),
        "ece": float(sum(abs(sure - true) * count for sure, true, count in reliability) / max(len(right), 1)),
        "brier": _brier(confidence, right) if len(right) else 0.0,
        "aurc": float(risk.mean()) if len(right) else 0.0,
        "reliability": [[round(sure, 4), round(true, 4), count] for sure, true, count in reliability],
        "risk_coverage": [[round((place + 1) / len(order), 4), round(float(risk[place]), 4)] for place in places],
    }


def lower_bound(right: NDArray[np.bool_], text: NDArray[np.int32], *, level: float = LEVEL) -> float:
    """A one-sided lower bound of the precision that as many claims again will show.

    Clopper and Pearson's, with the claims' effective number instead of their number, since claims of a text are
    dependent (Korn & Graubard 1998); and that number halved, since it shall bound what is seen on as many new claims,
    which vary as well, and not only the mean of infinitely many.

    Args:
        right: [claims].
        text: [claims] the text of each.
        level: how sure the bound is.
    """
    from scipy.stats import beta

    if not len(right):
        return 0.0
    texts, mean, error = _clustered(right.astype(np.float64), text)
    effective = float(texts)
    if 0 < mean < 1 and error > 0:
        effective = min(len(right), mean * (1 - mean) / error**2)
    effective /= 2
    return float(beta.ppf(1 - level, mean * effective, (1 - mean) * effective + 1)) if mean > 0 else 0.0


@dataclass(frozen=True)
class Operating:
    """Where answers stop being automatic.

    Attributes:
        threshold: least confidence of an automatic claim.
        precision: share of the automatic claims that were right.
        bound: its lower bound.
        share: of the claims that are automatic.
    """

    threshold: float
    precision: float
    bound: float
    share: float


def operate(
    confidence: Floats, right: NDArray[np.bool_], text: NDArray[np.int32], *, target: float
) -> tuple[Operating | None, Operating]:
    """The smallest threshold at which the precision's lower bound reaches the target, and the best bound there is.

    Of a hundred thresholds, from that of 5 % of the claims to that of all, the smallest that passes is taken. That is
    a choice after the fact, so the bound of the chosen one is a little optimistic; testing in a fixed order
    (Angelopoulos et al. 2021) would not be, but stops at the first unlucky threshold: a quarter to a third fewer
    answers were automatic. How often the target is met on new texts is therefore measured: `benchmarks/decisions.py`.

    Args:
        confidence: [claims] calibrated, by a calibration that has not seen the claim's text.
        right: [claims].
        text: [claims].
        target: precision, in (0, 1).
    """
    order = np.argsort(-confidence, kind="stable")
    tried = []
    for share in np.linspace(_SURELY, 1.0, _STEPS):
        threshold = float(confidence[order[max(0, int(np.ceil(share * len(order))) - 1)]])
        chosen = confidence >= threshold
        bound = lower_bound(right[chosen], text[chosen])
        tried.append(Operating(threshold, float(right[chosen].mean()), bound, float(chosen.mean())))
    reached = [found for found in tried if found.bound >= target]
    return min(reached, key=lambda found: found.threshold, default=None), max(tried, key=lambda found: found.bound)


def pack(found: Mapping[str, tuple[Claims, Floats]]) -> bytes:
    """Held-out confidences of each task's claims, for a threshold to be set on later: an .npz, without any text."""
    arrays: dict[str, NDArray[Any]] = {}
    for task, (claims, held_out) in found.items():
        arrays |= {
            f"{task}.confidence": held_out.astype(np.float32),
            f"{task}.right": claims.right,
            f"{task}.text": claims.text,
        }
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
    return file.getvalue()


def unpack(content: bytes, tasks: Iterable[str]) -> dict[str, Claims]:
    """What `pack` wrote; tasks without claims are absent.

    Raises:
        BundleError: it is damaged.
    """
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            return {
                task: Claims(
                    arrays[f"{task}.confidence"].astype(np.float64)[None],
                    arrays[f"{task}.right"].astype(bool),
                    arrays[f"{task}.text"].astype(np.int32),
                )
                for task in tasks
                if f"{task}.confidence" in arrays
            }
    except (ValueError, KeyError, OSError, zipfile.BadZipFile) as error:
        raise BundleError(f"claims.npz: is damaged: {error}") from error
