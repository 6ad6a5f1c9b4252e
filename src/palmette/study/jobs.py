"""One training run of a study, known by what determines its result."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from palmette import __version__
from palmette.config import ENDPOINT_MEANS, Config, Cut
from palmette.types import SPLITS


@dataclass(frozen=True)
class Job:
    """One training run.

    Attributes:
        config: of the run, its seed and tuned settings included; only its tasks.
        data: the study's configuration, by which every run reads the same examples.
        start: whose trunk it starts from.
        test: whether it is measured on test; trials are not.
        keep: its weights stay on disk.
    """

    config: Config
    data: Config
    start: Job | None = None
    test: bool = False
    keep: bool = False

    @property
    def tasks(self) -> tuple[str, ...]:
        """That it answers."""
        return tuple(self.config.tasks)

    @property
    def model(self) -> str:
        """Its tasks, joined."""
        return "+".join(self.tasks)

    @property
    def seed(self) -> int:
        """Of the run."""
        return self.config.training.seed

    @cached_property
    def key(self) -> str:
        """A digest of all that determines the result: settings, contents of data and local trunk, Palmette's version.

        Where the data lie does not matter, nor does what else the study holds: an extended or moved study finds its
        runs again. The number of threads changes the last bits of a result and is left out.
        """
        # What is at its default is left out, so that a setting which a later Palmette adds finds the runs as well.
        # So are settings of other runs, and what a remote model may cost: a budget that was too small can be raised.
        others: dict[str, Any] = {"sources": True, "families": True, "endpoint": ENDPOINT_MEANS}
        config = self.config.model_dump(mode="json", exclude_defaults=True, exclude=others)
        if self.start is not None:
            config["start"] = self.start.key
        trunk = Path(self.config.trunk.name)
        if trunk.is_dir():  # what a hub id stands for is its publisher's to keep
            config["trunk"]["name"] = _contents(trunk)
        read = self.data.model_dump(mode="json", exclude_defaults=True)
        for declared in read["tasks"].values():
            declared.pop("weight", None)  # of a loss: says nothing about what is read
        content = {
            "version": __version__,
            "config": config,
            "tasks": read["tasks"],
            "withhold_leaks": self.data.withhold_leaks,
            "language": self.data.language,
            "sources": [_described(source) for source in self.data.sources],
            "test": self.test,
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

    def described(self, starts: Mapping[str, Path], threads: int, answers: Path) -> dict[str, Any]:
        """What the process that runs it is told, as JSON.

        Args:
            starts: run folder of each key that a job may start from.
            threads: for it to use.
            answers: file of a remote model's answers, unless the configuration names another: one for all runs, so
                that its budget is one.
        """
        config = self.config
        if self.start is not None:
            trunk = config.trunk.model_copy(update={"name": str(starts[self.start.key])})
            config = config.model_copy(update={"trunk": trunk})
        if config.endpoint is not None and config.endpoint.cache is None:
            endpoint = config.endpoint.model_copy(update={"cache": str(answers)})
            config = config.model_copy(update={"endpoint": endpoint})
        return {
            "config": config.dump(),
            "data": self.data.dump(),
            "test": self.test,
            "keep": self.keep,
            "threads": threads,
            "remote": config.endpoint is not None,
        }


def in_order(jobs: Sequence[Job]) -> list[list[Job]]:
    """The jobs and those that they start from, each once, in waves: a job's start is in an earlier wave.

    Of the same run wanted twice, once with its weights kept, the weights are kept.
    """
    first: dict[str, Job] = {}
    second: dict[str, Job] = {}
    for job in (one for wanted in jobs for one in (wanted.start, wanted) if one is not None):
        wave = first if job.start is None else second
        if job.keep or job.key not in wave:
            wave[job.key] = job
    return [wave for wave in (list(first.values()), list(second.values())) if wave]


def _described(source: Any) -> dict[str, Any]:
    """A source with its files replaced by digests of what they hold."""
    found: dict[str, Any] = source.model_dump(mode="json", exclude_defaults=True)
    if source.format == "datasets":  # a hub id is known by name; what it stands for is its publisher's to keep
        if (folder := Path(source.path)).is_dir():
            files = sorted(path for path in folder.rglob("*") if path.is_file())
            found["path"] = {str(p.relative_to(folder)): _digest(str(p), p.stat().st_mtime_ns) for p in files}
        return found
    for split in SPLITS:
        files = getattr(source, split)
        if files is not None and not isinstance(files, Cut):
            names = [files] if isinstance(files, str) else files
            found[split] = [_digest(name, Path(name).stat().st_mtime_ns) for name in names]
    return found


def _contents(folder: Path) -> dict[str, str]:
    """Digests of what a trunk's folder holds, but for what a run only tells of itself."""
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.suffix != ".jsonl")
    return {path.name: _digest(str(path), path.stat().st_mtime_ns) for path in files}


@cache
def _digest(name: str, changed: int) -> str:
    del changed  # only part of what is remembered
    with Path(name).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
