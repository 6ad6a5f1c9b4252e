"""Cores that a process may use, in a container or not."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest

from palmette import machine


@pytest.fixture
def cgroup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(machine, "_CGROUP", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    return tmp_path


@pytest.mark.parametrize(
    ("content", "cores"),
    [
        ("max 100000", 8),
        ("200000 100000", 2),
        ("150000 100000", 2),
        ("10000 100000", 1),
        ("1600000 100000", 8),
        ("", 8),
    ],
)
def test_a_containers_limit_counts(cgroup: Path, content: str, cores: int) -> None:
    (cgroup / "cpu.max").write_text(content + "\n")
    assert machine.cores() == cores


@pytest.mark.parametrize(("quota", "cores"), [("-1", 8), ("300000", 3)])
def test_so_does_one_of_the_older_kind(cgroup: Path, quota: str, cores: int) -> None:
    (cgroup / "cpu").mkdir()
    (cgroup / "cpu" / "cpu.cfs_quota_us").write_text(quota)
    (cgroup / "cpu" / "cpu.cfs_period_us").write_text("100000")
    assert machine.cores() == cores


def test_without_one_it_is_what_the_system_allows(cgroup: Path) -> None:
    assert machine.cores() == 8


def test_onnxruntime_is_imported_only_where_it_has_been_told_to_be_quiet() -> None:
    folder = Path(machine.__file__).parent
    importing = [path for path in folder.rglob("*.py") if re.search(r"(import|from) onnxruntime", path.read_text())]
    assert importing
    for path in importing:
        assert re.search(r"keep_quiet\(\)\s+(try:\s+)?(import|from) onnxruntime", path.read_text()), path


_GIVES_UP = """
from pathlib import Path
from palmette import machine
machine.keep_memory()
held = bytearray(80_000_000)
del held
pages = int(Path("/proc/self/statm").read_text().split()[1])
print(pages * 4096)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_memory_that_is_given_up_is_kept() -> None:
    found = subprocess.run([sys.executable, "-c", _GIVES_UP], capture_output=True, text=True, check=True)
    assert int(found.stdout) > 80_000_000
    without = _GIVES_UP.replace("machine.keep_memory()", "")
    found = subprocess.run([sys.executable, "-c", without], capture_output=True, text=True, check=True)
    assert int(found.stdout) < 80_000_000
