"""How many answers are right, told from their confidences alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from palmette.operate.watch.looks import Look
from palmette.operate.watch.profile import TaskProfile, by_chance

_TWO_SIDED = 1.959964  # 95 %


@dataclass(frozen=True, slots=True)
class Estimate:
    """The accuracy of a window's answers: `metric` is `low` to `high` with 95 % probability."""

    metric: str
    value: float
    low: float
    high: float


def estimate(profile: TaskProfile, window: Sequence[Look]) -> Estimate | None:
    """The share of claims that are right: their mean calibrated confidence, less what it was too high by on dev.

    Holds while a confidence means what it meant on dev: inputs of the same kind, in whatever mixture. The interval
    covers the true share in the window: what each text's share varied by around its expectation on dev, words of one
    text together, in the window and in dev itself. Where answers are less sure than on dev, chance has more room, and
    the interval widens in proportion (overdispersion as in quasi-likelihood: Wedderburn 1974, Biometrika 61).

    Sources: Guillory et al. 2021, "Predicting with Confidence on Unseen Distributions" (ICCV); Garg et al. 2022,
    "Leveraging Unlabeled Data to Predict Out-of-Distribution Performance" (ICLR); NannyML's confidence-based
    performance estimation (CBPE) is the same mean of calibrated confidences.

    Returns:
        None where there is nothing to go by: the kind has no confidences, or the answers claim nothing.
    """
    confidences = [value for one in window for value in one.claims]
    if not confidences or not profile.claims:
        return None
    value = min(1.0, max(0.0, float(np.mean(confidences)) + profile.accuracy - profile.claimed))
    # Right claims of n texts vary by n times the residual around what is expected of them; here, no less than on dev.
    usual = profile.chance * len(window)
    room = max(1.0, by_chance(window) / usual) if usual else 1.0
    chance = math.sqrt(profile.residual * len(window) * room) / len(confidences)
    fitted = math.sqrt(profile.residual * profile.texts) / profile.claims
    reach = _TWO_SIDED * math.hypot(chance, fitted)
    return Estimate(profile.metric, value, max(0.0, value - reach), min(1.0, value + reach))
