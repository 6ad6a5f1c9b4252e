"""What this machine gives a process."""

from __future__ import annotations

import math
import os
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")


def cores() -> int:
    """That this process may use. A container's limit counts: threads beyond it would be held up, all at once."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limit = _limit()
    return allowed if limit is None else max(1, min(allowed, math.ceil(limit)))


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
