"""Every other kind on its corpus: trains each configuration once and records its test metrics, a line for each.

python benchmarks/kinds.py --configs configs/rte.yaml configs/stsb.yaml
"""

from __future__ import annotations

from pathlib import Path

import common
import runs


def main() -> None:
    """Train and report."""
    parser = common.parser(__doc__)
    parser.add_argument("--configs", nargs="+", type=Path, required=True)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a setting")
    parser.add_argument("--seed", type=int, help="instead of the configuration's")
    arguments = parser.parse_args()
    common.use_threads(arguments.threads)
    from palmette.config import Config

    for path in arguments.configs:
        config = Config.load(path, arguments.set)
        if arguments.seed is not None:
            config = runs.with_seed(config, arguments.seed)
        folder = common.run_folder("kinds", path.stem, config)
        run = runs.train_in_child(config, folder, threads=arguments.threads)
        headline: dict[str, float | str] = {}
        for task, metric in runs.main_metrics(config).items():
            split = "test" if task in run.get("test", {}) else "dev"  # RTE has no labels of test
            headline[f"{task} {metric} ({split})"] = round(run[split][task][metric], 4)
        if "seconds" in run:
            headline["minutes"] = round(run["seconds"] / 60, 1)
        headline["precision"] = Config.load(folder / "config.yaml").training.precision  # `auto` was measured
        overrides = "".join(f" {override}" for override in arguments.set)
        common.report(
            "kinds",
            f"{path.stem}{overrides}",
            arguments=arguments,
            headline=headline,
            details=run,
            command=["python", "benchmarks/kinds.py", "--configs", str(path), *_options(arguments.set, arguments.seed)],
        )


def _options(overrides: list[str], seed: int | None) -> list[str]:
    """What was given beside the configurations."""
    given = [word for override in overrides for word in ("--set", override)]
    return given + (["--seed", str(seed)] if seed is not None else [])


if __name__ == "__main__":
    main()
