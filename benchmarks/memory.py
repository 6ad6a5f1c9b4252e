"""Peak memory of training on the reference mix: target under 3 GB.

All data is read, fused and encoded as in a real run; then the updates of the first epoch that hold the most padded
tokens and those that hold the longest rows are trained on (memory peaks there), dev and test are evaluated, and a
checkpoint and a candidate are written, in a process of its own whose peak resident set size is read at its end.

    python benchmarks/memory.py                    # about 3 minutes on 2 cores
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import common


def main() -> None:
    """Measure and report."""
    parser = common.parser(__doc__)
    parser.add_argument("--config", type=Path, default=common.REFERENCE)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a setting")
    parser.add_argument("--updates", type=int, default=20, help="updates to train, the largest first (default 20)")
    parser.add_argument(
        "--examples", type=int, help="only about so many of train (and that share of dev and test), for development"
    )
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        with common.only_errors_on_stdout() as answers:
            answers.write(json.dumps(_train(json.loads(sys.stdin.readline()))) + "\n")
        return
    common.use_threads(arguments.threads)
    job = {
        "config": str(arguments.config),
        "overrides": arguments.set,
        "updates": arguments.updates,
        "examples": arguments.examples,
        "threads": arguments.threads,
    }
    found = common.run_child(__file__, job)
    peak = found["peak_rss_gb"]
    overrides = "".join(f" {override}" for override in arguments.set)
    common.report(
        "memory",
        f"{arguments.config.stem}{overrides}",
        arguments=arguments,
        headline={"peak GB": round(peak, 2)},
        targets={"peak GB": common.Target(round(peak, 3), 3.0, at_most=True)},
        details=found,
    )


def _train(job: dict[str, Any]) -> dict[str, Any]:
    """Train on the largest updates; -> peak memory after each stage."""
    from dataclasses import replace

    import torch

    from palmette import trainer
    from palmette.config import Config
    from palmette.corpus import load_corpus
    from palmette.machine import peak_rss_gb

    torch.set_num_threads(job["threads"])
    stages = {"imports": peak_rss_gb()}
    config = Config.load(job["config"], [*job["overrides"], "training.epochs=1"])
    corpus = load_corpus(config)
    if job["examples"]:
        few = slice(None, None, max(1, len(corpus.splits["train"]) // job["examples"]))
        corpus = replace(corpus, splits={split: found[few] for split, found in corpus.splits.items()})
    stages["data"] = peak_rss_gb()
    trained: list[dict[str, int]] = []

    class LargestFirst(trainer.Loop):
        """Trains on few updates: those that need the most memory."""

        def _plan(self, epoch: int) -> list[Any]:
            stages["model and encoded data"] = peak_rss_gb()
            steps = super()._plan(epoch)
            by_size = sorted(steps, key=lambda step: -len(step.rows) * max(map(len, step.rows)))
            by_length = sorted(steps, key=lambda step: -max(map(len, step.rows)))
            half = max(1, job["updates"] // 2)
            chosen = {id(step): step for step in [*by_length[:half], *by_size[:half]]}
            plan = [step for step in chosen.values() if not step.ends_epoch]
            plan.append(next(step for step in steps if step.ends_epoch))  # which evaluates
            trained.extend({"rows": len(step.rows), "tokens": max(map(len, step.rows))} for step in plan)
            return plan

        def _step(self, *arguments: Any, **options: Any) -> None:
            super()._step(*arguments, **options)
            stages["updates"] = peak_rss_gb()

    trainer.Loop = LargestFirst  # type: ignore[misc]
    with tempfile.TemporaryDirectory() as folder:
        trainer.train(config, Path(folder) / "run", corpus=corpus)
    stages["evaluation"] = peak_rss_gb()
    return {
        "peak_rss_gb": stages["evaluation"],
        "peak_after": {stage: round(value, 3) for stage, value in stages.items()},
        "examples": {split: len(found) for split, found in corpus.splits.items()},
        "updates": trained,
    }


if __name__ == "__main__":
    main()
