"""Is a share above a limit? Evidence that may be looked at after every observation, and stays right.

An ordinary test that is repeated each second finds a difference sooner or later where there is none. What is counted
here is betting evidence instead: a mixture of likelihood ratios, whose expectation never exceeds 1 while the claim is
true, so that it ever passes 1/alpha with probability alpha at most (Ville 1939, "Étude critique de la notion de
collectif"; Robbins 1970, "Statistical methods related to the law of the iterated logarithm", Annals of Mathematical
Statistics). It holds for any values in [0, 1], not only for yes and no, by the convexity of the ratio (Waudby-Smith &
Ramdas 2024, "Estimating means of bounded random variables by betting", JRSS B), and also where the mean moves, as long
as it stays on its side of the limit.
"""

from __future__ import annotations

import math

import numpy as np

# Alternatives that are bet on: dense near 0, where rates of errors lie. Any fixed mixture is valid.
_RATES = np.concatenate([np.geomspace(1e-6, 0.05, 120), np.linspace(0.055, 0.995, 189)])


def evidence_above(total: float, count: int, limit: float) -> float:
    """How strongly values in [0, 1] speak for a mean above a limit: the logarithm of an e-value.

    Above log(1/alpha) the claim "every value's mean is at most `limit`" is refused with error probability alpha,
    however often one looked.

    Args:
        total: sum of the values.
        count: how many there are.
        limit: in [0, 1].
    """
    if count == 0 or limit >= _RATES[-1] or total <= limit * count:
        return -math.inf if limit >= _RATES[-1] else 0.0
    limit = max(limit, 1e-9)
    rates = _RATES[np.greater(_RATES, limit)]
    logs = total * np.log(rates / limit) + (count - total) * np.log((1 - rates) / (1 - limit))
    return _log_mean(logs)


def evidence_below(total: float, count: int, limit: float) -> float:
    """The same for a mean below the limit."""
    return evidence_above(count - total, count, 1 - limit)


def highest(total: float, count: int, *, alpha: float) -> float:
    """An upper bound of the mean of values in [0, 1] that is right at all times at once with probability 1 - alpha."""
    low, high = (total / count if count else 1.0), 1.0
    for _ in range(40):
        middle = (low + high) / 2
        if evidence_below(total, count, middle) >= -math.log(alpha):
            high = middle
        else:
            low = middle
    return high


def _log_mean(logs: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> float:
    """Logarithm of the mixture, in which rates below the limit have weight but win nothing."""
    top = float(logs.max())
    return top + math.log(float(np.exp(logs - top).sum())) - math.log(len(_RATES))
