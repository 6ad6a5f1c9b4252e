"""A file's parts on a local Ray: the answers of one process, whatever dies in between."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as arrow
import pytest
from click.testing import CliRunner
from pyarrow import parquet

from fakes import write_jsonl
from palmette.bulk.answers import CHUNK
from palmette.bulk.local import Counts
from palmette.bulk.rows import Section
from palmette.cli import main
from palmette.errors import ReadError, RunError
from palmette.scale.predict import predict
from palmette.scale.replicas import Replicas
from test_bulk import lines_of, rows_of

pytestmark = pytest.mark.filterwarnings("ignore")  # what Ray leaves open or imports is not ours

TWO = Replicas(2, 2)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["text", "--engine", "ray"], "--engine ray: is for --input FILE and --output FILE"),
        (["--input", "a.jsonl", "--engine", "ray"], "--engine ray: is for --input FILE and --output FILE"),
        (["--input", "-", "--output", "b", "--engine", "ray"], "standard input has no parts"),
        (["--input", "absent.jsonl", "--output", "b", "--engine", "ray"], "no such file"),
        (["text", "--replicas", "2"], "--replicas 2: is for --engine ray"),
        (["--input", "a", "--output", "b", "--engine", "ray", "--replicas", "x"], "--replicas x: expected a number"),
    ],
)
def test_a_mistake_is_found_before_ray_starts(bundled: Path, arguments: list[str], complaint: str) -> None:
    pytest.importorskip("ray", reason="palmette[ray] is not installed")
    found = CliRunner().invoke(main, ["predict", str(bundled), *arguments])
    assert (found.exit_code, complaint in found.output) == (2, True), found.output


def test_without_ray_data_the_extra_is_named(bundled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray.data", None)
    arguments = ["--input", str(tmp_path / "in"), "--output", str(tmp_path / "out"), "--engine", "ray"]
    found = CliRunner().invoke(main, ["predict", str(bundled), *arguments])
    assert (found.exit_code, "pip install 'palmette[ray]'" in found.output) == (2, True), found.output


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    ray = pytest.importorskip("ray", reason="palmette[ray] is not installed")
    pytest.importorskip("ray.data", reason="palmette[ray] is not installed")
    ray.init(
        address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=100 * 1024 * 1024
    )
    yield ray
    ray.shutdown()


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    records: list[dict[str, Any]] = [
        {"id": number, "text": f"{number} cat " + "good " * (number % 30)} for number in range(5 * CHUNK + 100)
    ]
    records[700]["note"] = "only here"
    records[1000] |= {"text": "where is anna", "text_pair": "anna sat in paris"}
    return Path(write_jsonl(tmp_path_factory.mktemp("input") / "in.jsonl", records))


def local(bundled: Path, source: Path, output: Path, *options: str) -> Path:
    arguments = ["predict", str(bundled), "--input", str(source), "--output", str(output), "--threads", "1", *options]
    found = CliRunner().invoke(main, arguments)
    assert found.exit_code == 0, found.output
    return output


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_answers_are_those_of_one_process_in_every_form(bundled: Path, source: Path, tmp_path: Path) -> None:
    wanted = local(bundled, source, tmp_path / "local.jsonl")
    ticks: list[int] = []
    jsonl = Section(source, "jsonl")
    counts = predict(bundled, jsonl, tmp_path / "a.jsonl", replicas=TWO, lines=CHUNK, tick=ticks.append)
    assert counts == Counts(5 * CHUNK + 100)
    assert sorted(ticks) == [100, *[CHUNK] * 5]
    assert (tmp_path / "a.jsonl").read_bytes() == wanted.read_bytes()
    predict(bundled, jsonl, tmp_path / "a.parquet", replicas=TWO, lines=CHUNK)
    assert rows_of(tmp_path / "a.parquet") == lines_of(wanted)
    table = parquet.read_table(tmp_path / "a.parquet", columns=["id", "note", "text", "text_pair"])
    parquet.write_table(table, tmp_path / "in.parquet", row_group_size=600)
    predict(bundled, Section(tmp_path / "in.parquet", "parquet"), tmp_path / "b.parquet", replicas=TWO, lines=CHUNK)
    assert parquet.read_table(tmp_path / "b.parquet").equals(parquet.read_table(tmp_path / "a.parquet"))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "a.jsonl",
        "a.parquet",
        "b.parquet",
        "in.parquet",
        "local.jsonl",
    ]


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_a_bad_row_loses_nothing_that_was_answered(bundled: Path, source: Path, tmp_path: Path) -> None:
    lines = source.read_text().splitlines()
    lines[1300] = '{"id": 1300, "text": 3}'
    bad = tmp_path / "in.jsonl"
    bad.write_text("\n".join(lines))
    output = tmp_path / "out.jsonl"
    one = Replicas(1, 1)
    with pytest.raises(ReadError, match=rf"in.jsonl:1301: a text is a string.* parts are finished in {output}.parts"):
        predict(bundled, Section(bad, "jsonl"), output, replicas=one, lines=CHUNK)
    assert not output.exists()
    begun: list[tuple[int, int]] = []
    counts = predict(
        bundled, Section(bad, "jsonl"), output, replicas=one, lines=CHUNK, keep=True, begin=lambda *n: begun.append(n)
    )
    ((parts, found),) = begun
    assert parts == 6
    assert found >= 1, "what was finished is not done again"
    assert (counts.rows, counts.bad) == (5 * CHUNK + 100, 1)
    assert output.read_bytes() == local(bundled, bad, tmp_path / "l.jsonl", "--bad-rows", "keep").read_bytes()


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_too_small_a_cluster_and_an_empty_file(bundled: Path, source: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="the workers need 64 CPUs; this Ray cluster has 2: ask for fewer"):
        predict(bundled, Section(source, "jsonl"), tmp_path / "out.jsonl", replicas=Replicas(8, 8), threads=8)
    (tmp_path / "in.txt").write_bytes(b"")
    assert predict(bundled, Section(tmp_path / "in.txt", "text"), tmp_path / "empty.jsonl") == Counts()
    assert (tmp_path / "empty.jsonl").read_bytes() == b""
    parquet.write_table(arrow.table({"text": arrow.array([], arrow.string())}), tmp_path / "in.parquet")
    predict(bundled, Section(tmp_path / "in.parquet", "parquet"), tmp_path / "empty.parquet")
    assert parquet.read_table(tmp_path / "empty.parquet").num_rows == 0


def workers() -> list[int]:
    """Actors of this test's own cluster that answer."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            if b"ray::MapWorker" in (place / "cmdline").read_bytes() and is_ours(int(place.name)):
                found.append(int(place.name))
        except OSError:  # it has just ended
            continue
    return found


def is_ours(process: int) -> bool:
    while process > 1 and process != os.getpid():
        stat = Path(f"/proc/{process}/stat").read_text()
        process = int(stat.rpartition(")")[2].split()[1])  # its parent
    return process == os.getpid()


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds the worker by /proc")
def test_a_worker_that_dies_is_replaced(bundled: Path, source: Path, tmp_path: Path) -> None:
    killed: list[int] = []
    ended = threading.Event()

    def kill() -> None:
        while not killed and not ended.wait(0.02):
            if (tmp_path / "out.jsonl.parts" / "000000.json").exists():
                for process in workers():
                    os.kill(process, signal.SIGKILL)
                    killed.append(process)

    thread = threading.Thread(target=kill)
    thread.start()
    predict(bundled, Section(source, "jsonl"), tmp_path / "out.jsonl", replicas=Replicas(1, 1), lines=CHUNK)
    ended.set()
    thread.join()
    assert killed
    assert (tmp_path / "out.jsonl").read_bytes() == local(bundled, source, tmp_path / "l.jsonl").read_bytes()


@pytest.mark.slow
def test_the_command_starts_a_cluster_of_its_own(bundled: Path, source: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "palmette.cli", "predict", str(bundled), "--input", str(source)]
    command += ["--output", str(tmp_path / "out.jsonl"), "--tasks", "tone", "--engine", "ray", "--bad-rows", "keep"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "1 of 2660 rows have an error instead of an answer, the first:" in done.stderr
    assert done.stdout == ""
    found = lines_of(tmp_path / "out.jsonl")
    assert [row["id"] for row in found] == list(range(2660))
    assert "none of the tasks tone takes a pair" in json.dumps(found[1000])
