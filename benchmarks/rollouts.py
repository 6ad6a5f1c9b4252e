"""Whether `palmette.operate.releases.Trial` keeps its promises: faultless candidates stay, worse ones go, and how soon.

Simulated traffic of a canary: failures, log-normal latencies, disagreement; judged after every 25 requests. Faultless
is a candidate that fails and takes time exactly as the live version does and differs by half of what may differ.

    python benchmarks/rollouts.py               # some minutes on one core
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import common

_FAILING = 0.005  # of the live version's requests
_SHARE = 0.1
_REQUESTS = 20_000  # of both, in one window
_LOOK = 25


@dataclass(frozen=True, slots=True)
class Candidate:
    """What a candidate does, beside the live version."""

    failing: float = _FAILING
    slower: float = 1.0
    differing: float = 0.1  # of requests, each by 1; what may differ is 0.2


CANDIDATES = {
    "faultless": Candidate(),
    "fails at 3 %": Candidate(failing=0.03),
    "fails at 10 %": Candidate(failing=0.1),
    "takes 1.5 times as long": Candidate(slower=1.5),
    "takes twice as long": Candidate(slower=2.0),
    "takes three times as long": Candidate(slower=3.0),
    "differs at 30 %": Candidate(differing=0.3),
    "differs at 50 %": Candidate(differing=0.5),
}


def main() -> None:
    """Simulate, and report."""
    parser = common.parser(__doc__)
    parser.add_argument("--trials", type=int, default=200, help="of each candidate")
    parser.add_argument("--alpha", type=float, default=0.001, help="promised chance of a false alarm in a window")
    arguments = parser.parse_args()
    common.use_threads(1)
    headline: dict[str, float | str] = {}
    details: dict[str, Any] = {}
    for number, (name, candidate) in enumerate(CANDIDATES.items()):
        found = [_run(candidate, seed=[number, trial], alpha=arguments.alpha) for trial in range(arguments.trials)]
        ended = sorted(requests for requests in found if requests is not None)
        median = ended[len(ended) // 2] if ended else None
        headline[f"{name}: taken back"] = f"{len(ended)} of {len(found)}"
        details[name] = {"taken_back": len(ended), "trials": len(found), "median_candidate_requests": median}
        common.log(f"{name}: {details[name]}")
    alarms = details["faultless"]["taken_back"] / arguments.trials
    common.report(
        "rollouts",
        f"alpha {arguments.alpha:g}, share {_SHARE:g}, {_REQUESTS} requests a window",
        arguments=arguments,
        headline=headline,
        targets={"false alarms": common.Target(alarms, max(arguments.alpha, 0.01), at_most=True)},
        details=details,
    )


def _run(candidate: Candidate, *, seed: list[int], alpha: float) -> int | None:
    """After how many requests of its own a candidate is taken back; None: it stays."""
    import numpy as np

    from palmette.operate.releases.rules import RolloutRules, Trial

    rng = np.random.default_rng(seed)
    trial = Trial(RolloutRules(alpha=alpha), now=0)
    met = rng.random(_REQUESTS) < _SHARE
    luck, differing = rng.random((2, _REQUESTS))
    seconds = rng.lognormal(-4, 0.5, size=_REQUESTS)
    count = 0
    for number in range(_REQUESTS):
        if met[number]:
            count += 1
            trial.compared({"ner": float(differing[number] < candidate.differing), "pos": 0.02})
        if luck[number] < (candidate.failing if met[number] else _FAILING):
            trial.failed("candidate" if met[number] else "live")
        elif met[number]:
            trial.answered("candidate", candidate.slower * float(seconds[number]))
        else:
            trial.answered("live", float(seconds[number]))
        if number % _LOOK == 0 and trial.verdict(0) is not None:
            return count
    return None


if __name__ == "__main__":
    main()
