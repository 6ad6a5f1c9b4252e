"""Wall time of `palmette --help`: target under 0.25 s, the median of ten runs in new processes.

python benchmarks/startup.py                   # seconds
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

import common


def main() -> None:
    """Measure and report."""
    parser = common.parser(__doc__)
    parser.add_argument("--runs", type=int, default=10)
    arguments = parser.parse_args()
    common.use_threads(arguments.threads)
    command = [sys.executable, "-m", "palmette.cli", "--help"]
    _seconds(command)  # byte code and file cache
    seconds = [_seconds(command) for _ in range(arguments.runs)]
    python = [_seconds([sys.executable, "-c", ""]) for _ in range(arguments.runs)]
    median = statistics.median(seconds)
    common.report(
        "startup",
        "palmette --help",
        arguments=arguments,
        headline={"seconds": round(median, 3), "of which Python itself": round(statistics.median(python), 3)},
        targets={"seconds": common.Target(round(median, 4), 0.25, at_most=True)},
        details={"seconds": [round(value, 4) for value in seconds], "python": [round(value, 4) for value in python]},
    )


def _seconds(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
