"""How many answers are right, told from their confidences alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import least_squares

from palmette.kinds.base import softmax
from palmette.operate.watch.looks import Floats, Look
from palmette.operate.watch.profile import TaskProfile, by_chance, counts

_TWO_SIDED = 1.959964  # 95 %
_RIDGE = 0.05  # keeps the weights from resting on a few texts


@dataclass(frozen=True, slots=True)
class Estimate:
    """The accuracy of the latest answers: `metric` of `texts` texts is `low` to `high` with 95 % probability."""

    metric: str
    value: float
    low: float
    high: float
    texts: int


@dataclass(frozen=True, slots=True)
class Seen:
    """What an estimate takes of some texts, as sums over them.

    Attributes:
        texts: how many.
        marks: [labels] how often each label of the profile was answered.
        claims: of their answers.
        sure: the claims' confidences.
        chance: variance of the number of right claims, were they independent.
    """

    texts: int
    marks: Floats
    claims: int
    sure: float
    chance: float

    @classmethod
    def of(cls, window: Sequence[Look], labels: Sequence[str]) -> Seen:
        """Of a window."""
        return cls(
            len(window),
            counts([one.marks for one in window], labels).sum(axis=0),
            sum(len(one.claims) for one in window),
            sum(sum(one.claims) for one in window),
            sum(map(by_chance, window)),
        )

    def __add__(self, other: Seen) -> Seen:
        return Seen(
            self.texts + other.texts,
            self.marks + other.marks,
            self.claims + other.claims,
            self.sure + other.sure,
            self.chance + other.chance,
        )


def estimate(profile: TaskProfile, seen: Seen, *, moved: bool) -> Estimate | None:
    """The share of claims that are right: their mean calibrated confidence, less what it was too high by on dev.

    Holds while a confidence means what it meant on dev: inputs of the same kind. Where the labels have moved, it is
    less what it was too high by on a dev with such labels (`as_mixed`). The interval covers the true share among these
    texts: what each text's share varied by around its expectation on dev, words of one text together, in these texts
    and in dev itself. Where answers are less sure than on dev, chance has more room, and the interval widens in
    proportion (overdispersion as in quasi-likelihood: Wedderburn 1974, Biometrika 61).

    Sources: Guillory et al. 2021, "Predicting with Confidence on Unseen Distributions" (ICCV); Garg et al. 2022,
    "Leveraging Unlabeled Data to Predict Out-of-Distribution Performance" (ICLR); NannyML's confidence-based
    performance estimation (CBPE) is the same mean of calibrated confidences.

    Args:
        profile: of the task.
        seen: of the texts.
        moved: whether other labels are answered than on dev, by more than chance.

    Returns:
        None where there is nothing to go by: the kind has no confidences, or the answers claim nothing.
    """
    weights = np.full(profile.texts, 1 / profile.texts)
    if moved:
        weights = as_mixed(profile, seen.marks / seen.texts)
    claims = float(weights @ profile.claims)  # of a text of dev
    if not seen.claims or not claims:
        return None
    offset = float(weights @ (profile.right - profile.sure)) / claims
    value = min(1.0, max(0.0, seen.sure / seen.claims + offset))
    squares = np.square(profile.right - profile.sure - profile.claims * offset)
    # Right claims of n texts vary by n times what one's vary by around what is expected of it; no less than on dev.
    usual = float(weights @ profile.chance) * seen.texts
    room = max(1.0, seen.chance / usual) if usual else 1.0
    chance = math.sqrt(float(weights @ squares) * seen.texts * room) / seen.claims
    fitted = math.sqrt(float(np.square(weights) @ squares)) / claims
    reach = _TWO_SIDED * math.hypot(chance, fitted)
    return Estimate(profile.metric, value, max(0.0, value - reach), min(1.0, value + reach), seen.texts)


def as_mixed(profile: TaskProfile, wanted: Floats) -> Floats:
    """Weights of dev's texts with which they are answered the labels that are wanted, a text: [texts], sum 1.

    They depend on how a text is annotated alone: label shift, by which other labels are frequent and texts with the
    same labels are what they were (Lipton et al. 2018, "Detecting and Correcting for Label Shift with Black Box
    Predictors", ICML), for texts of several labels. Weights are exp(labels x pull), the pull found by least squares,
    with a penalty.
    """
    spread, scale = profile.marks.std(axis=0), profile.gold.std(axis=0)
    answered, annotated = spread > 0, scale > 0
    if not annotated.any():
        return np.full(profile.texts, 1 / profile.texts)
    gold = (profile.gold[:, annotated] - profile.gold[:, annotated].mean(axis=0)) / scale[annotated]

    def missed(pull: Floats) -> Floats:
        gaps = (softmax(gold @ pull) @ profile.marks - wanted)[answered] / spread[answered]
        return np.append(gaps, _RIDGE * pull)

    return softmax(gold @ least_squares(missed, np.zeros(int(annotated.sum()))).x)
