"""Whether sharing one trunk costs a task anything: multi-task minus single-task on test, with 95 % intervals.

Reads the runs that reference.py made with the same --config, --set and --seeds (at least three seeds a regime), lets
every model answer the test examples of the multi-task configuration, and asks `palmette.statistics.compare` for an
interval over seeds and examples. The lower end of each interval is compared with the margin.

    python benchmarks/sharing.py --seeds 1 2 3     # a few minutes on 2 cores; 2,000 resamples
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

import common
import runs
from reference import MULTI_TASK

if TYPE_CHECKING:
    from palmette.kinds import AnyKind
    from palmette.run import Run
    from palmette.types import Example, Prediction

# The worst that sharing may cost, in points: the lower end of the interval is to be above it.
MARGINS = {"pos": -0.3, "ner": -2.0, "sentiment": -1.5}


def main() -> None:
    """Compare and report."""
    parser = common.parser(__doc__)
    parser.add_argument("--config", type=Path, default=common.REFERENCE)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as given to reference.py")
    parser.add_argument("--single-set", action="append", metavar="KEY=VALUE", help="where the single runs differ")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--tasks", nargs="+", help="compare only these (default: all)")
    parser.add_argument("--resamples", type=int, default=2000)
    parser.add_argument("--bootstrap-seed", type=int, default=20261122)
    parser.add_argument("--few-seeds", action="store_true", help="allow two seeds, for development")
    parser.add_argument("--examples", type=int, help="only the first test examples of a task, for development")
    arguments = parser.parse_args()
    if len(arguments.seeds) < 3 and not arguments.few_seeds:
        parser.error("--seeds: at least three, or the interval says little about seeds")
    common.use_threads(arguments.threads)
    import torch

    from palmette.config import Config
    from palmette.corpus import load_corpus
    from palmette.statistics import compare

    torch.set_num_threads(arguments.threads)
    multi = Config.load(arguments.config, arguments.set)
    single = Config.load(arguments.config, arguments.single_set or arguments.set)
    tasks = arguments.tasks or list(multi.tasks)
    folders = {
        (task, seed): [
            common.run_folder("reference", MULTI_TASK, runs.with_seed(multi, seed)),
            common.run_folder("reference", task, runs.with_seed(common.only_tasks(single, [task]), seed)),
        ]
        for task in tasks
        for seed in arguments.seeds
    }
    _require(folders)
    corpus = load_corpus(multi)
    compared: dict[str, Any] = {}
    for task in tasks:
        examples = [example for example in corpus.splits["test"] if task in example.labels][: arguments.examples]
        kind = corpus.kinds[task]
        parts = [
            np.stack([_parts(folders[task, seed][regime], examples, kind) for seed in arguments.seeds])
            for regime in (0, 1)
        ]
        found = compare(*parts, metric=kind.combine, seed=arguments.bootstrap_seed, resamples=arguments.resamples)
        compared[task] = {
            "multi_task": [round(100 * float(value), 3) for value in kind.combine(parts[0].sum(axis=1))],
            "single_task": [round(100 * float(value), 3) for value in kind.combine(parts[1].sum(axis=1))],
            "difference": round(100 * found.difference, 3),
            "low": round(100 * found.low, 3),
            "high": round(100 * found.high, 3),
            "p": round(found.p, 4),
            "detectable": round(100 * found.detectable, 3),
            "examples": len(examples),
        }
        common.log(f"{task}: {compared[task]}")
    headline = {task: f"{c['difference']:+.2f} [{c['low']:+.2f}, {c['high']:+.2f}]" for task, c in compared.items()}
    overrides = "".join(f" {override}" for override in arguments.set)
    common.report(
        "sharing",
        f"{arguments.config.stem}, {len(arguments.seeds)} seeds{overrides}",
        arguments=arguments,
        headline=headline,
        targets={
            f"{task}: lower end": common.Target(c["low"], MARGINS[task])
            for task, c in compared.items()
            if task in MARGINS
        },
        details={
            "unit": "points",
            "level": 0.95,
            "resamples": arguments.resamples,
            "seeds": arguments.seeds,
            "tasks": compared,
        },
    )


def _require(folders: dict[tuple[str, int], list[Path]]) -> None:
    """Stop, saying what to run, where a run is not there."""
    missing = [folder for pair in folders.values() for folder in pair if not (folder / "model.safetensors").exists()]
    if missing:
        names = "\n  ".join(dict.fromkeys(map(str, missing)))
        raise SystemExit(
            f"these runs are missing or unfinished:\n  {names}\nmake them with the same --config, --set and --seeds: "
            "python benchmarks/reference.py --seeds …, and python benchmarks/reference.py --tasks TASK --seeds …"
        )


_loaded: dict[Path, Run] = {}  # each answers several tasks


def _parts(folder: Path, examples: Sequence[Example], kind: AnyKind) -> NDArray[np.float64]:
    """[examples, parts] of what a run answers."""
    from palmette.run import Run

    if folder not in _loaded:
        _loaded[folder] = Run.load(folder)
    answers: list[dict[str, Prediction]] = _loaded[folder].predictor.answer(examples, [kind.task])
    gold = [example.labels[kind.task] for example in examples]
    return kind.parts(gold, [answer[kind.task].label for answer in answers])


if __name__ == "__main__":
    main()
