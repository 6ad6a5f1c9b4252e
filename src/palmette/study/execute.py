"""Runs a study's jobs, each in a process of its own, one after another, several at once, or on a Ray cluster."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from palmette.checkpoint import RunFolder, write_atomically
from palmette.cluster import connected, import_ray
from palmette.study.job import ERROR, JOB, PARTS, RESULT, RUN
from palmette.study.jobs import Job, in_order

Done = Callable[[Job, "Result"], None]  # called as each job ends


@dataclass(frozen=True)
class Result:
    """What became of a job.

    Attributes:
        folder: the job's.
        error: why it failed; None where it did not.
        measured: `result.json` of `palmette.study.job`; empty where it failed.
        start: the job that it started from, and what became of that.
    """

    folder: Path
    error: str | None
    measured: Mapping[str, Any]
    start: tuple[Job, Result] | None = None

    def parts(self) -> dict[str, Any]:
        """{task: what each test example contributes to its metric [examples, parts]}."""
        from safetensors.numpy import load_file

        found: dict[str, Any] = load_file(self.folder / PARTS)
        return found


class Engine(Protocol):
    """Where jobs run."""

    def run(self, folders: Sequence[Path], done: Callable[[Path], None]) -> None:
        """Run the jobs that lie in some folders; `done` is told of each as it ends, well or not."""


class Store:
    """A study's runs on disk, by key: finished ones are found again, begun ones go on.

    Args:
        folder: of the study.
        engine: runs what is not there yet.
        threads: for each job.
    """

    def __init__(self, folder: Path, engine: Engine, *, threads: int) -> None:
        self.folder = folder / "runs"
        self.answers = folder / "answers.sqlite"
        self.engine = engine
        self.threads = threads

    def place(self, job: Job) -> Path:
        """The job's folder."""
        return self.folder / job.key

    def finished(self, job: Job) -> bool:
        """Whether it is measured; what a result says stays true when the weights are taken away."""
        return (self.place(job) / RESULT).exists()

    def _missing(self, jobs: Sequence[Job]) -> set[str]:
        """Keys of what is to be run: unmeasured jobs, and what they start from where no weights are left."""
        known = {job.key: job for wave in in_order(jobs) for job in wave}
        missing = {key for key, job in known.items() if not self.finished(job)}
        starts = [job.start for key, job in known.items() if job.start is not None and key in missing]
        return missing | {start.key for start in starts if not RunFolder(self.place(start) / RUN).complete}

    def run(self, jobs: Sequence[Job], done: Done) -> dict[str, Result]:
        """Results of jobs by key, of those that they start from as well; what failed earlier is tried again."""
        results: dict[str, Result] = {}
        missing = self._missing(jobs)
        for wave in in_order(jobs):
            todo: dict[Path, Job] = {}
            for job in wave:
                if job.key not in missing:
                    results[job.key] = self._read(job, results)
                elif job.start is not None and results[job.start.key].error is not None:
                    error = f"what it starts from failed: {results[job.start.key].error}"
                    results[job.key] = Result(self.place(job), error, {})
                    done(job, results[job.key])
                else:
                    todo[self._prepare(job)] = job

            def ended(place: Path, todo: Mapping[Path, Job] = todo) -> None:
                job = todo[place]
                results[job.key] = self._read(job, results)
                done(job, results[job.key])

            self.engine.run(list(todo), ended)
        return results

    def _prepare(self, job: Job) -> Path:
        place = self.place(job)
        place.mkdir(parents=True, exist_ok=True)
        (place / ERROR).unlink(missing_ok=True)
        (place / RESULT).unlink(missing_ok=True)
        starts = {} if job.start is None else {job.start.key: self.place(job.start) / RUN}
        write_atomically(place / JOB, json.dumps(job.described(starts, self.threads, self.answers)) + "\n")
        return place

    def _read(self, job: Job, results: Mapping[str, Result]) -> Result:
        place = self.place(job)
        start = None if job.start is None else (job.start, results[job.start.key])
        if (place / RESULT).exists():
            return Result(place, None, json.loads((place / RESULT).read_text(encoding="utf-8")), start)
        error = (place / ERROR).read_text(encoding="utf-8").strip() if (place / ERROR).exists() else "no result"
        return Result(place, error, {}, start)


class Children:
    """The processes that a study has started, so that they end with it."""

    def __init__(self) -> None:
        self._running: set[subprocess.Popen[bytes]] = set()
        self._ended = False
        self._lock = threading.Lock()

    def start(self, begin: Callable[[], subprocess.Popen[bytes]]) -> subprocess.Popen[bytes]:
        """Start a process, unless the study has been ended: then there must be none."""
        with self._lock:
            if self._ended:
                raise CancelledError
            process = begin()
            self._running.add(process)
            return process

    def left(self, process: subprocess.Popen[bytes]) -> None:
        """It has ended by itself."""
        with self._lock:
            self._running.discard(process)

    def end(self) -> None:
        """End them all; none starts any more. A run that is killed goes on from its last checkpoint."""
        with self._lock:
            self._ended = True
            for process in self._running:
                process.kill()


def run_in_child(place: Path, children: Children | None = None) -> None:
    """Run the job of a folder in a process and wait for it; what goes wrong is written beside the job."""
    children = children or Children()
    threads = str(_described(place)["threads"])
    environment = {**os.environ, "OMP_NUM_THREADS": threads, "TOKENIZERS_PARALLELISM": "false"}
    with (place / "log.txt").open("ab") as log:
        process = children.start(
            lambda: subprocess.Popen(  # noqa: S603 - this interpreter and a folder of the study
                [sys.executable, "-m", "palmette.study.job", str(place)],
                stdin=subprocess.PIPE,  # held open: the child ends when this process does
                stdout=log,
                stderr=log,
                env=environment,
            )
        )
        code = process.wait()
        children.left(process)
    if process.stdin is not None:
        process.stdin.close()
    if code and not (place / ERROR).exists():
        (place / ERROR).write_text(_last_words(place, code) + "\n", encoding="utf-8")


def _described(place: Path) -> dict[str, Any]:
    """What the job of a folder is told."""
    found: dict[str, Any] = json.loads((place / JOB).read_text(encoding="utf-8"))
    return found


def _last_words(place: Path, code: int) -> str:
    lines = (place / "log.txt").read_text(encoding="utf-8", errors="replace").strip().splitlines()
    last = lines[-1].strip() if lines else "said nothing"
    ended = f"was ended by signal {-code}" if code < 0 else f"exit code {code}"
    return f"{ended}: {last[:300]}"


@dataclass(frozen=True)
class Processes:
    """Jobs on this machine, so many at once."""

    jobs: int = 1

    def run(self, folders: Sequence[Path], done: Callable[[Path], None]) -> None:
        """See `Engine`."""
        children = Children()
        pool = ThreadPoolExecutor(max_workers=self.jobs)
        try:
            futures = {pool.submit(run_in_child, place, children): place for place in folders}
            for future in as_completed(futures):
                future.result()
                done(futures[future])
        except BaseException:
            # Interrupted: what is left running would go on in a folder that somebody else may now take over.
            pool.shutdown(wait=False, cancel_futures=True)
            children.end()
            raise
        finally:
            pool.shutdown()


@dataclass(frozen=True)
class Ray:
    """Jobs on a Ray cluster (see `connected`) whose machines see the study's folder and the data at the same paths.

    Those that ask a remote model stay here: their answers and budget are in a file that one machine alone may write.

    Attributes:
        threads: CPUs that each job asks for.
        gpus: that each job asks for (a fraction shares one).
    """

    threads: int = 1
    gpus: float = 0.0

    def run(self, folders: Sequence[Path], done: Callable[[Path], None]) -> None:
        """See `Engine`."""
        ray = import_ray()
        with connected(cpus=self.threads, what="the study's jobs"):
            remote = ray.remote(num_cpus=self.threads, num_gpus=self.gpus)(run_in_child)
            here = [place for place in folders if _described(place)["remote"]]
            waiting = {remote.remote(place.resolve()): place for place in folders if place not in here}
            Processes().run(here, done)
            while waiting:
                ready, _ = ray.wait(list(waiting), num_returns=1)
                for reference in ready:
                    place = waiting.pop(reference)
                    try:
                        ray.get(reference)
                    except ray.exceptions.RayError as error:  # its machine is gone, or does not see the folder
                        last = str(error).strip().splitlines()[-1]
                        (place / ERROR).write_text(f"lost by Ray: {last[:300]}\n", encoding="utf-8")
                    done(place)


def engine_named(name: Literal["processes", "ray"], *, jobs: int, threads: int) -> Engine:
    """What users choose by name.

    Args:
        name: of the engine.
        jobs: at once, on this machine; a cluster runs as many as it has room for.
        threads: of each job.
    """
    if name == "processes":
        return Processes(jobs)
    import torch

    # A GPU for each job where this machine has one: Ray hides them from whoever asks for none.
    return Ray(threads=threads, gpus=float(torch.cuda.is_available()))
