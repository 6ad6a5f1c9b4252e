"""Whether sharing one trunk costs a task anything: multi-task minus single-task on test, with 95 % intervals.

A study (`palmette compare`) of the reference mix with the configuration's own settings for every model: each task alone
and all together, three seeds or more. The lower end of each interval is compared with the margin. The study lies in
runs/studies/reference: an interrupted one goes on, and more seeds, regimes or trials extend it.

    python benchmarks/sharing.py                    # about 2 hours on 2 cores
    python benchmarks/sharing.py --jobs 2 --threads 1     # the same, two runs at once: some 20 % sooner
"""

from __future__ import annotations

from pathlib import Path

import common

# The worst that sharing may cost, in points: the lower end of the interval is to be above it.
MARGINS = {"pos": -0.3, "ner": -2.0, "sentiment": -1.5}


def main() -> None:
    """Compare and report."""
    parser = common.parser(__doc__)
    parser.add_argument("--config", type=Path, default=common.REFERENCE)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a setting")
    parser.add_argument("--study", type=Path, default=common.REPOSITORY / "runs" / "studies" / "reference")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=1, help="runs at once")
    arguments = parser.parse_args()
    if arguments.seeds < 3:
        parser.error("--seeds: at least three, or the interval says little about seeds")
    common.use_threads(arguments.threads)
    from palmette.config import Config
    from palmette.study.compare import compare
    from palmette.study.execute import Processes
    from palmette.study.plan import Plan

    config = Config.load(arguments.config, arguments.set)
    study = compare(
        config,
        arguments.study,
        plan=Plan.make(config, regimes=["multi_task"], seeds=arguments.seeds, trials=1),
        engine=Processes(arguments.jobs),
        threads=arguments.threads,
        say=common.log,
    )
    found = {task: by_regime["multi_task"] for task, by_regime in study["differences"].items()}
    headline: dict[str, float | str] = {}
    targets = {}
    for task, difference in found.items():
        alone, together = (study["scores"][task][regime]["mean"] for regime in ("single_task", "multi_task"))
        if "low" not in difference:
            raise SystemExit(f"{task}: {difference['reason']}; see {arguments.study}")
        low, high = 100 * difference["low"], 100 * difference["high"]
        headline[f"{task} alone -> together"] = f"{100 * alone:.2f} -> {100 * together:.2f}"
        headline[f"{task} difference, points"] = f"{100 * difference['difference']:+.2f} [{low:+.2f}, {high:+.2f}]"
        if task in MARGINS:
            targets[f"{task} lower end"] = common.Target(round(low, 2), MARGINS[task])
    common.report(
        "sharing",
        f"{arguments.config.stem}, {arguments.seeds} seeds",
        arguments=arguments,
        headline=headline,
        targets=targets,
        details={"differences": found, "scores": study["scores"]},
    )


if __name__ == "__main__":
    main()
