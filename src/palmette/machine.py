"""What this machine gives a process."""

from __future__ import annotations

import ctypes
import math
import os
import platform
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

_CGROUP = Path("/sys/fs/cgroup")
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # of glibc's malloc.h


def cores() -> int:
    """That this process may use. A container's limit counts: threads beyond it would be held up, all at once."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limit = _limit()
    return allowed if limit is None else max(1, min(allowed, math.ceil(limit)))


def hardware() -> dict[str, Any]:
    """What a training ran on: {"cpu", "cores", "memory_gb", "system", "python", "torch"}."""
    names = Path("/proc/cpuinfo")
    lines = names.read_text(encoding="utf-8").splitlines() if names.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": models[0] if models else platform.processor() or "unknown",
        "cores": cores(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "system": platform.system(),
        "python": platform.python_version(),
        "torch": version("torch"),
    }


def peak_rss_gb() -> float:
    """Most memory that this process ever held, in GB (10^9 bytes)."""
    status = Path("/proc/self/status")
    if status.exists():  # Linux: what getrusage says there begins with the memory of the process that started this one
        peak = next(line.split()[1] for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(peak) * 1024 / 1e9
    import resource

    peak_rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak_rss * (1 if sys.platform == "darwin" else 1024) / 1e9


def keep_memory() -> None:
    """Let this process keep the memory that it gives up, as far as its C library can be told (glibc).

    Training on a CPU asks for the same large pieces in every update. Handing them back each time costs page faults: 4 %
    of an update of heads, 8 % of one of an encoder-decoder (LOG.md, 2026-11-27).
    """
    if platform.libc_ver()[0] != "glibc":
        return
    library = ctypes.CDLL(None)
    for parameter, value in ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, 2**31 - 1)):
        library.mallopt(parameter, value)


def keep_quiet() -> None:
    """To be called before onnxruntime is imported: 1.32 reports its use to its makers unless told not to."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")


def _limit() -> float | None:
    """CPUs that the container may use; None where nothing says so."""
    try:
        if (_CGROUP / "cpu.max").exists():  # cgroups v2
            quota, period = (_CGROUP / "cpu.max").read_text().split()
        else:
            quota = (_CGROUP / "cpu" / "cpu.cfs_quota_us").read_text()
            period = (_CGROUP / "cpu" / "cpu.cfs_period_us").read_text()
        return int(quota) / int(period) if int(quota) > 0 else None
    except (OSError, ValueError, ZeroDivisionError):  # "max": no limit
        return None
