"""The reference mix: trains it, once for each seed, and records dev and test metrics.

Runs are kept under runs/benchmarks/reference/, a folder for each configuration and seed: a finished one is reused, an
interrupted one is continued.

    python benchmarks/reference.py                                   # the one model, seed 13: up to 40 minutes
"""

from __future__ import annotations

import statistics
from argparse import Namespace
from pathlib import Path
from typing import Any

import common
import runs

# Test metrics that the one model is to reach, and for how long it may train.
TARGETS = {"pos": ("accuracy", 0.967), "ner": ("span_f1", 0.770), "sentiment": ("accuracy", 0.885)}
MINUTES = 40.0


def main() -> None:
    """Train and report."""
    parser = common.parser(__doc__)
    parser.add_argument("--config", type=Path, default=common.REFERENCE)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a setting")
    parser.add_argument("--seeds", nargs="+", type=int, default=[13])
    arguments = parser.parse_args()
    common.use_threads(arguments.threads)
    from palmette.config import Config

    config = Config.load(arguments.config, arguments.set)
    finished = []
    for seed in arguments.seeds:
        own = runs.with_seed(config, seed)
        folder = common.run_folder("reference", "multi_task", own)
        finished.append(runs.train_in_child(own, folder, threads=arguments.threads))
    _report(arguments, finished, runs.main_metrics(config))


def _report(arguments: Namespace, finished: list[dict[str, Any]], metrics: dict[str, str]) -> None:
    test, dev = (runs.mean_metrics(finished, split) for split in ("test", "dev"))
    headline: dict[str, float | str] = {
        f"{task} {metric}": round(test[task][metric], 4) for task, metric in metrics.items()
    }
    targets = {
        f"{task} {metric}": common.Target(round(test[task][metric], 5), bound)
        for task, (metric, bound) in TARGETS.items()
        if task in test
    }
    seconds = [run["seconds"] for run in finished if "seconds" in run]
    if seconds:
        minutes = statistics.median(seconds) / 60
        headline["minutes"] = round(minutes, 1)
        targets["minutes"] = common.Target(round(minutes, 2), MINUTES, at_most=True)
    count = f"{len(arguments.seeds)} seed{'s' if len(arguments.seeds) > 1 else ''}"
    overrides = "".join(f" {override}" for override in arguments.set)
    common.report(
        "reference",
        f"{arguments.config.stem} multi_task, {count}{overrides}",
        arguments=arguments,
        headline=headline,
        targets=targets,
        details={"seeds": arguments.seeds, "test": test, "dev": dev, "runs": finished},
    )


if __name__ == "__main__":
    main()
