"""The reference study cut down to an hour on 2 cores, and how far its verdicts agree with the full one's.

What is cut: half of the trunk's layers and four fifths of each task's training data (the same sentences for every seed
and regime). Epochs, settings, seeds, dev and test are the full study's. That makes 25 runs of 6 million wordpieces
together, over a quarter of them with a frozen trunk. The full study is read from runs/studies/reference, where
`sharing.py` leaves it, or `palmette compare configs/reference.yaml --out runs/studies/reference`; a regime that only
one of the two studies has is not compared.

    python benchmarks/cut_study.py --jobs 2 --threads 1     # under an hour; it goes on where it was interrupted
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import common

STUDIES = common.REPOSITORY / "runs" / "studies"
LAYERS, SHARE = 3, 0.2
REGIMES = ("single_task", "multi_task", "frozen")
MINUTES = 60.0
_SHOWN = {"helps", "hurts"}


def main() -> None:
    """Make the cut study, compare, report."""
    parser = common.parser(__doc__)
    parser.add_argument("--config", type=Path, default=common.REFERENCE)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a setting")
    parser.add_argument("--full", type=Path, default=STUDIES / "reference", help="folder of the full study")
    parser.add_argument("--study", type=Path, default=STUDIES / "reference-cut", help="folder of the cut one")
    parser.add_argument("--layers", type=int, default=LAYERS, help="of the trunk")
    parser.add_argument("--share", type=float, default=SHARE, help="of each task's training data")
    parser.add_argument("--regimes", nargs="+", default=list(REGIMES))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=1, help="runs at once")
    arguments = parser.parse_args()
    common.use_threads(arguments.threads)
    from palmette.config import Config
    from palmette.study.compare import compare
    from palmette.study.execute import Processes
    from palmette.study.plan import Plan
    from palmette.study.regimes import adjusted

    if not (arguments.full / "study.json").exists():
        raise SystemExit(f"{arguments.full}: no finished study (no study.json); make it first: benchmarks/sharing.py")
    full = json.loads((arguments.full / "study.json").read_text(encoding="utf-8"))
    config = Config.load(arguments.config, arguments.set)
    shares = {
        f"tasks.{task}.train_fraction": declared.train_fraction * arguments.share
        for task, declared in config.tasks.items()
    }
    config = adjusted(config, {"trunk.layers": arguments.layers, **shares})
    begun = arguments.study.exists()
    started = time.perf_counter()
    cut = compare(
        config,
        arguments.study,
        plan=Plan.make(config, regimes=arguments.regimes, seeds=arguments.seeds, trials=1),
        engine=Processes(arguments.jobs),
        threads=arguments.threads,
        say=common.log,
    )
    minutes = (time.perf_counter() - started) / 60
    found = agreement(full, cut)
    headline: dict[str, float | str] = {
        name: f"{sum(pair[key] for pair in found['pairs'])} of {len(found['pairs'])}"
        for name, key in (
            ("same verdict", "same"),
            ("opposite verdicts", "opposite"),
            ("full difference inside the cut interval", "inside"),
        )
    }
    headline["same decision"] = f"{sum(found['decisions'].values())} of {len(found['decisions'])}"
    targets = {}
    if not begun:  # of what an earlier sitting took nobody knows
        headline["minutes"] = round(minutes, 1)
        targets["minutes"] = common.Target(round(minutes, 2), MINUTES, at_most=True)
    common.report(
        "cut_study",
        f"{arguments.config.stem}, {arguments.layers} layers, {arguments.share:g} of the data, {arguments.seeds} seeds",
        arguments=arguments,
        headline=headline,
        targets=targets,
        details=found,
    )


def agreement(full: Mapping[str, Any], cut: Mapping[str, Any]) -> dict[str, Any]:
    """How far the verdicts of two studies of the same tasks agree.

    Args:
        full: `study.json` of one.
        cut: of the other.

    Returns:
        `pairs`: for each task and regime that both compared with the task alone, the verdicts and differences of
        both; whether they are the `same`; whether they are `opposite` (one helps, the other hurts); whether the full
        study's difference is `inside` the cut one's interval. `decisions`: {task: whether both decide the same of it}.
    """
    pairs = [
        {
            "task": task,
            "regime": regime,
            "full": {key: one[key] for key in ("verdict", "difference", "low", "high")},
            "cut": {key: other[key] for key in ("verdict", "difference", "low", "high")},
            "same": one["verdict"] == other["verdict"],
            "opposite": {one["verdict"], other["verdict"]} == _SHOWN,
            "inside": other["low"] <= one["difference"] <= other["high"],
        }
        for task, by_regime in full["differences"].items()
        for regime, one in by_regime.items()
        if "difference" in one and "difference" in (other := cut["differences"].get(task, {}).get(regime, {}))
    ]
    decided = [study["recommendation"].get("tasks", {}) for study in (full, cut)]
    decisions = {
        task: entry["decision"] == decided[1][task]["decision"]
        for task, entry in decided[0].items()
        if task in decided[1]
    }
    return {"pairs": pairs, "decisions": decisions}


if __name__ == "__main__":
    main()
