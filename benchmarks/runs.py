"""Training runs that benchmarks keep: each in a process of its own, continued where it stopped, reused when done."""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import common

if TYPE_CHECKING:
    from palmette.config import Config

_NOTES = "benchmark.json"  # beside the run's own files: what a run does not know about itself


def train_in_child(config: Config, folder: Path, *, threads: int) -> dict[str, Any]:
    """A finished run of the configuration in `folder`, trained now unless it is there already.

    Returns:
        {"seed", "folder", "commit", "seconds", "peak_rss_gb", …, "dev": {task: metrics}, "test": {task: metrics}};
        seconds are of everything (reading, training, evaluation) and absent where the run was interrupted.
    """
    if not (folder / "model.safetensors").exists():
        common.log(f"training {folder}")
        job = {"config": config.dump(), "folder": str(folder), "threads": threads, "commit": common.commit()}
        common.run_child(__file__, job)
    notes = folder / _NOTES
    found = json.loads(notes.read_text(encoding="utf-8")) if notes.exists() else {}
    if found.get("commit") != common.commit():
        common.log(f"{folder}: reused, trained at commit {found.get('commit')}; delete it to train with today's code")
    place = folder.relative_to(common.REPOSITORY) if folder.is_relative_to(common.REPOSITORY) else folder
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    return {"seed": config.training.seed, "folder": str(place), **found, **metrics}


def with_seed(config: Config, seed: int) -> Config:
    """The configuration with another seed."""
    return config.model_copy(update={"training": config.training.model_copy(update={"seed": seed})})


def mean_metrics(runs: Sequence[Mapping[str, Any]], split: str) -> dict[str, dict[str, float]]:
    """{task: {metric: mean over runs}} of a split."""
    return {
        task: {metric: statistics.fmean(run[split][task][metric] for run in runs) for metric in metrics}
        for task, metrics in runs[0].get(split, {}).items()
    }


def main_metrics(config: Config) -> dict[str, str]:
    """Each task's own metric."""
    from palmette.kinds import task_kinds

    return {task: kind(task, config.tasks[task], {"labels": ()}).metric for task, kind in task_kinds(config).items()}


def _train(job: dict[str, Any]) -> dict[str, Any]:
    import torch
    import yaml

    from palmette import trainer
    from palmette.config import Config
    from palmette.machine import peak_rss_gb

    torch.set_num_threads(job["threads"])
    folder = Path(job["folder"])
    continued = folder.exists()
    start = time.perf_counter()
    outcome = trainer.train(
        Config.parse(yaml.safe_load(job["config"])), folder, resume=True, listeners=[_Progress(folder.parent.name)]
    )
    notes: dict[str, Any] = {
        "peak_rss_gb": round(peak_rss_gb(), 3),
        "commit": job["commit"],
        "threads": job["threads"],
        "torch": torch.__version__,
        "continued": continued,
    }
    if not continued:
        notes["seconds"] = round(time.perf_counter() - start, 1)
        notes["loop_seconds"] = round(outcome.seconds, 1)
    (folder / _NOTES).write_text(json.dumps(notes, indent=2) + "\n", encoding="utf-8")
    return notes


class _Progress:
    """Says where training stands, now and then."""

    def __init__(self, name: str) -> None:
        self.name = name

    def on_event(self, event: Mapping[str, Any]) -> None:
        """A line of the history."""
        if event["event"] == "progress" and event["update"] % 100 == 0:
            common.log(f"{self.name}: update {event['update']} of {event['updates']}, loss {event['loss']}")
        elif event["event"] in {"evaluation", "selected"}:
            common.log(f"{self.name}: {json.dumps(event)}")


if __name__ == "__main__":  # the child
    with common.only_errors_on_stdout() as answers:
        answers.write(json.dumps(_train(json.loads(sys.stdin.readline()))) + "\n")
