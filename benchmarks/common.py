"""What all benchmarks share: one JSON line each, kept with date, commit and machine; workers in processes of their own.

Nothing here imports torch, so that a parent process stays small beside the children that it measures.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from palmette.config import Config

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent
RESULTS = HERE / "results.jsonl"
RUNS = REPOSITORY / "runs" / "benchmarks"
REFERENCE = REPOSITORY / "configs" / "reference.yaml"
DEFAULT_DATA = REPOSITORY.parent / "shared" / "data"


@dataclass(frozen=True, slots=True)
class Target:
    """A number to reach: `value` is to be at least (or, with `at_most`, at most) `bound`."""

    value: float
    bound: float
    at_most: bool = False

    @property
    def met(self) -> bool:
        """Whether it is reached."""
        return self.value <= self.bound if self.at_most else self.value >= self.bound

    def as_json(self) -> dict[str, Any]:
        """For the results file."""
        return {"value": self.value, "bound": self.bound, "at_most": self.at_most, "met": self.met}


def log(message: str) -> None:
    """Say something; standard output is for the result alone."""
    print(message, file=sys.stderr, flush=True)


def data_folder() -> Path:
    """Where the corpora are: `PALMETTE_DATA`, or the folder beside the repository."""
    return Path(os.environ.get("PALMETTE_DATA", DEFAULT_DATA))


def parser(description: str | None) -> argparse.ArgumentParser:
    """An argument parser with what every benchmark takes."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--results", type=Path, default=RESULTS, help="file that the line is appended to")
    made.add_argument("--label", default="", help="marks a line that is not the real measurement, e.g. 'tiny subset'")
    made.add_argument(
        "--threads", type=int, default=2, help="threads of torch and of every numeric library (default 2)"
    )
    return made


def use_threads(count: int) -> None:
    """Bound the threads of this process and its children; call before torch or NumPy is imported."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(count)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    source = str(REPOSITORY / "src")
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if source not in paths:  # the children measure this tree, whether or not it is installed
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [source, *paths]))
    if source not in sys.path:
        sys.path.insert(0, source)


@contextmanager
def only_errors_on_stdout() -> Iterator[IO[str]]:
    """Send file descriptor 1 to standard error, libraries' own printing included; yields the real standard output."""
    sys.stdout.flush()
    real = os.dup(1)
    os.dup2(2, 1)
    try:
        with os.fdopen(os.dup(real), "w", encoding="utf-8", buffering=1) as stream:
            yield stream
    finally:
        sys.stdout.flush()
        os.dup2(real, 1)
        os.close(real)


def report(
    benchmark: str,
    configuration: str,
    *,
    arguments: argparse.Namespace,
    headline: Mapping[str, float | str],
    targets: Mapping[str, Target] | None = None,
    details: Mapping[str, Any] | None = None,
    command: Sequence[str] | None = None,
) -> None:
    """Print the result as one JSON line and append it to the results file.

    Args:
        benchmark: the script's name.
        configuration: what was measured; the newest line of a benchmark and configuration is the one that docs show.
        arguments: as parsed; its `results`, `label` and `threads` are used.
        headline: the few numbers that a table shows.
        targets: numbers to reach.
        details: everything else, raw numbers included.
        command: that makes this line again, where it is not the one that was typed.
    """
    wanted = {name: target.as_json() for name, target in (targets or {}).items()}
    line = json.dumps(
        {
            "benchmark": benchmark,
            "configuration": configuration,
            "label": arguments.label,
            "headline": dict(headline),
            "targets": wanted,
            "details": dict(details or {}),
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "commit": commit(),
            "machine": _machine(arguments.threads),
            "command": shlex.join(command) if command else _command(),
        },
        ensure_ascii=False,
    )
    print(line, flush=True)
    with arguments.results.open("a", encoding="utf-8") as file:
        file.write(line + "\n")


def commit() -> str:
    """The commit of the working tree, with `-dirty` where the tree differs from it (results.jsonl itself aside)."""
    head = _git("rev-parse", "--short=12", "HEAD")
    if not head:
        return "none"
    changed = _git("status", "--porcelain", "--", ".", ":(exclude)benchmarks/results.jsonl")
    return f"{head}-dirty" if changed else head


def fill(page: Path, name: str, written: str) -> None:
    """Put text into the block of a page between `<!-- name:begin -->` and `<!-- name:end -->`."""
    first, last = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    before, begin, rest = page.read_text(encoding="utf-8").partition(first)
    _, end, after = rest.partition(last)
    if not begin or not end:
        raise SystemExit(f"{page}: has no block between {first} and {last}")
    page.write_text(f"{before}{first}\n\n{written}\n\n{last}{after}", encoding="utf-8")


def _git(*arguments: str) -> str:
    found = subprocess.run(["git", "-C", str(REPOSITORY), *arguments], capture_output=True, text=True, check=False)
    return found.stdout.strip() if found.returncode == 0 else ""


def _machine(threads: int) -> dict[str, Any]:
    from palmette.machine import hardware

    found = hardware()
    return {
        **{name: found[name] for name in ("cpu", "cores", "torch", "python", "system")},
        "threads": threads,
        "load": [round(value, 2) for value in os.getloadavg()],
    }


def _command() -> str:
    script = Path(sys.argv[0]).resolve()
    name = script.relative_to(REPOSITORY) if script.is_relative_to(REPOSITORY) else script
    return shlex.join(["python", str(name), *sys.argv[1:]])


def run_folder(group: str, name: str, config: Config) -> Path:
    """Where a configuration's run with its seed lies: the same settings give the same folder, others another."""
    training = config.training
    same = config.model_copy(update={"training": training.model_copy(update={"seed": 0})})
    digest = hashlib.sha256(same.dump().encode()).hexdigest()[:8]
    return RUNS / group / f"{name}-{digest}" / f"seed{training.seed}"


class Worker:
    """A process that is asked for one thing at a time, by JSON lines.

    Args:
        command: the program; it reads requests from standard input and answers each with a line on standard output.
        name: for messages.
    """

    def __init__(self, command: Sequence[str | Path], *, name: str) -> None:
        self.name = name
        # Its standard error is ours, so that whoever waits sees what it does.
        self._process = subprocess.Popen(
            [str(part) for part in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8"
        )

    def ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Send a request and wait for its answer."""
        if self._process.stdin is None or self._process.stdout is None:
            raise RuntimeError("a worker has pipes")
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise SystemExit(f"{self.name}: the process ended with code {self._process.wait()}; see above")
        found: dict[str, Any] = json.loads(answer)
        return found

    def stop(self) -> None:
        """End the process and wait for it."""
        if self._process.stdin is not None:
            self._process.stdin.close()  # a worker whose input ends leaves
        try:
            self._process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()


def run_child(script: str | Path, job: Mapping[str, Any]) -> dict[str, Any]:
    """Run `script --child` in a process of its own on a job; -> its one answer."""
    worker = Worker([sys.executable, script, "--child"], name=Path(script).name)
    try:
        return worker.ask(job)
    finally:
        worker.stop()
