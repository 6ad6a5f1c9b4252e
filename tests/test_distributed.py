"""Two processes train the model that one trains, up to rounding."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file

import workers
from fakes import tiny_config, tiny_text_config

pytestmark = pytest.mark.slow  # two processes each, which import everything anew

LIMIT = 120  # seconds that any process may take

# Sums in another order differ in fp32's last digits. Measured after 23 updates: weights within 1.2e-7.
WEIGHTS = 1e-5
METRICS = 1e-3
# A softmax over tokens does not see what is added to all of them: this gradient is zero but for rounding, which
# Adam scales up to whole steps.
UNDETERMINED = {"heads.task_answer.output.bias"}

# Batches so small that some updates have a single row, of which the second process then gets none.
TRAINING: dict[str, Any] = {
    "dropout": 0.0,
    "epochs": 1,
    "batch_tokens": 40,
    "examples": 8,
    "long": 1,
    "checkpoint_updates": 4,
    "probes": 2,
}


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def start(
    forked: Any, config: Path, out: Path, *, processes: int = 2, points: dict[int, str] | None = None
) -> list[int]:
    """Train in several processes, told of each other as torchrun does; their exit codes. Dead ones end the others."""
    port = str(free_port())
    team = []
    for rank in range(processes):
        environment = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(processes)}
        environment |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(processes)}
        options = {"resume": True, "environment": environment, "point": (points or {}).get(rank)}
        team.append(forked(target=workers.train, args=(str(config), str(out)), kwargs=options))
    for process in team:
        process.start()
    for process in team:
        process.join(LIMIT)
        for other in team:
            if points or process.exitcode:
                other.kill()
    for process in team:
        process.kill()
        process.join(LIMIT)
    return [process.exitcode for process in team]


def weights(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = load_file(out / "model.safetensors")
    return found


def history(out: Path, event: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (out / "history.jsonl").read_text().splitlines()]
    return [line for line in lines if line["event"] == event]


def assert_same_epochs(one: Path, other: Path) -> None:
    """The same of every example; in two parts, each padded by itself, an update has less padding or as much."""
    for line, same in zip(history(one, "epoch"), history(other, "epoch"), strict=True):
        assert same["padding"] <= line["padding"]
        assert {**same, "padding": None} == {**line, "padding": None}


def assert_close(one: Path, other: Path) -> None:
    expected, found = weights(one), weights(other)
    assert expected.keys() == found.keys()
    for name, values in expected.items():
        if name in UNDETERMINED:
            continue
        np.testing.assert_allclose(found[name], values, atol=WEIGHTS, err_msg=name)
    for event in ("evaluation", "selected"):
        for line, same in zip(history(one, event), history(other, event), strict=True):
            assert line["update"] == same["update"]
            for task, scores in line["dev"].items():
                assert same["dev"][task] == pytest.approx(scores, abs=METRICS)
    for line, same in zip(history(one, "progress"), history(other, "progress"), strict=True):
        assert same["loss"] == pytest.approx(line["loss"], abs=1e-4)
    assert_same_epochs(one, other)
    for line, same in zip(history(one, "probe"), history(other, "probe"), strict=True):
        assert (same["update"], same["examples"]) == (line["update"], line["examples"])
        for task, norms in line["norm"].items():
            assert same["norm"][task] == pytest.approx(norms, rel=1e-3)
    stored = [json.loads((out / "metrics.json").read_text()) for out in (one, other)]
    assert stored[0].keys() == stored[1].keys() == {"dev", "test"}
    assert stored[1]["test"]["pos"] == pytest.approx(stored[0]["test"]["pos"], abs=METRICS)


@pytest.fixture(scope="module", params=[1, 2], ids=["whole", "accumulated"])
def config(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("distributed")
    path = folder / "tasks.yaml"
    path.write_text(yaml.safe_dump(tiny_config(folder, accumulation=request.param, **TRAINING)))
    return path


@pytest.fixture(scope="module")
def one(forked: Any, config: Path) -> Path:
    out = config.parent / "one"
    process = forked(target=workers.train, args=(str(config), str(out)))
    process.start()
    process.join(LIMIT)
    assert process.exitcode == 0
    return out


def test_two_processes_train_the_model_of_one(forked: Any, config: Path, one: Path) -> None:
    out = config.parent / "two"
    assert start(forked, config, out) == [0, 0]
    assert [line["processes"] for line in history(out, "started")] == [2]
    assert_close(one, out)
    assert not (out / "checkpoints").exists()


@pytest.mark.parametrize(
    ("model", "tokens", "adapters"),
    [("t5", 120, None), ("language model", 400, "shared"), ("language model", 400, "per_task")],
)
def test_two_processes_train_the_writer_of_one(
    forked: Any, tmp_path: Path, model: str, tokens: int, adapters: str | None
) -> None:
    config = tmp_path / "tasks.yaml"
    data = tiny_text_config(tmp_path, model=model, examples=4, epochs=1, batch_tokens=tokens)
    if adapters is not None:
        data["lora"] = {"adapters": adapters, "dropout": 0.0}
    config.write_text(yaml.safe_dump(data))
    assert start(forked, config, tmp_path / "one", processes=1) == [0]
    assert start(forked, config, tmp_path / "two") == [0, 0]
    assert [line["processes"] for line in history(tmp_path / "two", "started")] == [2]
    expected, found = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert expected.keys() == found.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, atol=1e-3, err_msg=name)
    assert_same_epochs(tmp_path / "one", tmp_path / "two")


def test_some_updates_have_fewer_rows_than_processes(config: Path) -> None:
    """What the test above relies on."""
    from conftest import make_loop
    from palmette.config import Config

    loop = make_loop(Config.load(config), config.parent / "unused")
    sizes = [len(step.rows) for step in loop._plan(0)]
    assert min(sizes) == 1 < max(sizes)


def test_two_processes_resume_bit_for_bit(forked: Any, config: Path) -> None:
    two, out = config.parent / "two", config.parent / "resumed"
    if not (two / "model.safetensors").exists():
        start(forked, config, two)
    codes = start(forked, config, out, points={1: "palmette.trainer.Loop._step:7:before"})
    assert codes[1] == -signal.SIGKILL
    assert not (out / "model.safetensors").exists()
    assert start(forked, config, out) == [0, 0]
    assert (out / "model.safetensors").read_bytes() == (two / "model.safetensors").read_bytes()
    assert (out / "metrics.json").read_text() == (two / "metrics.json").read_text()


def test_torchrun(config: Path, one: Path) -> None:
    out = config.parent / "torchrun"
    script = Path(__file__).with_name("workers.py")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "MASTER_ADDR": "127.0.0.1", "GLOO_SOCKET_IFNAME": "lo"}
    subprocess.run([*launcher, str(script), str(config), str(out)], check=True, timeout=2 * LIMIT, env=environment)
    assert [line["processes"] for line in history(out, "started")] == [2]
    assert_close(one, out)
