"""A run that was killed and resumed, however often, ends bit for bit as one that was not."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

import workers
from conftest import Recorder, Trained
from fakes import tiny_config
from palmette import trainer
from palmette.checkpoint import RunFolder
from palmette.config import Config
from palmette.errors import RunError

LIMIT = 120  # seconds that any process may take

# Two evaluations an epoch, a checkpoint between evaluations, parts of updates, dropout in trunk and heads, probes.
TRAINING = {"epochs": 2, "evaluations_per_epoch": 2, "checkpoint_updates": 2, "accumulation": 2, "long": 1, "probes": 4}

# Where it dies, and whether the next life meets what a half-done write leaves behind.
POINTS = [
    "pathlib.Path.replace:1:before",  # the folder is there, its configuration not yet
    "palmette.learner.save_architecture:1:before",  # the folder has a configuration and nothing else
    "palmette.trainer.Loop._step:1:before",
    "palmette.trainer.Loop._backward:4:after",  # between two parts of an update
    "palmette.trainer.Loop._step:5:after",
    "palmette.checkpoint.save_file:2:before",  # inside a checkpoint: no model, no moments yet
    "palmette.checkpoint.save_file:4:after",
    "palmette.checkpoint._flush:6:after",
    "shutil.rmtree:2:before",  # renamed; the previous checkpoint is still there
    "shutil.rmtree:3:after",
    "palmette.trainer.evaluation.score:1:before",  # during an evaluation
    "palmette.checkpoint.save_tensors:1:before",
    "palmette.checkpoint.save_tensors:2:after",  # a candidate is kept, its evaluation not yet recorded
    "palmette.trainer.Loop._save:3:before",  # evaluated, recorded in the history, no checkpoint of it
    "palmette.trainer.Loop._finish:1:before",
    "palmette.trainer.evaluation.score:6:after",  # scoring the selected model
    "palmette.trainer.checkpoint.write_atomically:4:before",  # metrics.json
    "pathlib.Path.replace:9:after",  # the weights are in place, the checkpoints not yet gone
]


def result(out: Path) -> tuple[str, str, list[Any]]:
    """Weights, metrics and what the history tells but for times, of a finished run."""
    events = [json.loads(line) for line in (out / "history.jsonl").read_text(encoding="utf-8").splitlines()]
    kept = [event for event in events if event["event"] not in ("started", "progress")]
    weights = hashlib.sha256((out / "model.safetensors").read_bytes()).hexdigest()
    return weights, (out / "metrics.json").read_text(), kept


def assert_tidy(out: Path) -> None:
    """A finished run holds what is documented, and nothing a killed process left."""
    assert sorted(path.name for path in out.iterdir()) == [
        "config.yaml",
        "data.json",
        "history.jsonl",
        "labels.json",
        "metrics.json",
        "model.safetensors",
        "tokenizer.json",
        "trunk.json",
    ]


class Runs:
    """Lives of runs of one configuration."""

    def __init__(self, folder: Path, process: Any, **training: Any) -> None:
        self.folder = folder
        self.process = process
        self.config = folder / "tasks.yaml"
        # No model gets all tags right: an alarm begins in some evaluation and is remembered in the next.
        data = tiny_config(folder, **training) | {"baseline": {"pos": 1.0}}
        self.config.write_text(yaml.safe_dump(data))

    def live(self, out: Path, *, resume: bool = True, point: str | None = None) -> int | None:
        """One process; its exit code."""
        process = self.process(
            target=workers.train, args=(str(self.config), str(out)), kwargs={"resume": resume, "point": point}
        )
        process.start()
        process.join(LIMIT)
        if process.is_alive():
            process.kill()
            pytest.fail(f"a process took more than {LIMIT} s")
        code: int | None = process.exitcode
        return code


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, forked: Any) -> Runs:
    return Runs(tmp_path_factory.mktemp("runs"), forked, **TRAINING)


@pytest.fixture(scope="module")
def uninterrupted(runs: Runs) -> tuple[str, str, list[Any]]:
    out = runs.folder / "uninterrupted"
    assert runs.live(out, resume=False) == 0
    found = result(out)
    events = [event["event"] for event in found[2]]
    assert (events.count("evaluation"), events.count("probe"), events.count("alarm")) == (4, 4, 1)
    assert_tidy(out)
    return found


def test_the_same_configuration_gives_the_same_bits(runs: Runs, uninterrupted: tuple[Any, ...], tmp_path: Path) -> None:
    assert runs.live(tmp_path / "again", resume=False) == 0
    assert result(tmp_path / "again") == uninterrupted


@pytest.mark.parametrize(
    "point", [pytest.param(p, marks=[] if n % 2 == 0 else pytest.mark.slow) for n, p in enumerate(POINTS)]
)
def test_killed_once(runs: Runs, uninterrupted: tuple[Any, ...], tmp_path: Path, point: str) -> None:
    out = tmp_path / "run"
    assert runs.live(out, resume=False, point=point) == -signal.SIGKILL, f"{point} was never reached"
    assert runs.live(out) == 0
    assert result(out) == uninterrupted
    assert_tidy(out)


@pytest.mark.slow
def test_killed_in_every_life(runs: Runs, uninterrupted: tuple[Any, ...], tmp_path: Path) -> None:
    """Each life does a little, dies somewhere else, and the next goes on from there."""
    out = tmp_path / "run"
    points = [
        "palmette.trainer.Loop._backward:7:before",
        "palmette.checkpoint.save_file:3:after",
        "palmette.trainer.Loop._step:4:after",
        "palmette.trainer.evaluation.score:1:before",
        "palmette.trainer.Loop._save:2:after",
        "palmette.checkpoint.save_tensors:1:after",
        "palmette.trainer.Loop._finish:1:before",
        "palmette.trainer.evaluation.score:2:after",
        "pathlib.Path.replace:2:before",
    ]
    for number, point in enumerate(points):
        assert runs.live(out, resume=number > 0, point=point) == -signal.SIGKILL, point
    assert runs.live(out) == 0
    assert result(out) == uninterrupted
    assert_tidy(out)


@pytest.mark.slow
def test_killed_after_the_evaluation_that_stops_early(forked: Any, tmp_path: Path) -> None:
    runs = Runs(tmp_path, forked, epochs=6, patience=1, learning_rate=1e-30, head_learning_rate=1e-30)
    whole = tmp_path / "whole"
    assert runs.live(whole, resume=False) == 0
    expected = result(whole)
    evaluations = [event for event in expected[2] if event["event"] == "evaluation"]
    assert len(evaluations) == 2  # nothing is learned at this rate: the second is no better than the first
    for point in (
        "palmette.trainer.Loop._save:4:before",  # evaluated, no checkpoint of it
        "palmette.trainer.Loop._save:4:after",
        "palmette.trainer.Loop._finish:1:before",
        "palmette.trainer.checkpoint.write_atomically:3:after",
    ):
        out = tmp_path / point.replace(":", "-")
        assert runs.live(out, resume=False, point=point) == -signal.SIGKILL, point
        assert runs.live(out) == 0
        assert result(out) == expected


class TestResuming:
    def test_a_finished_run_is_left_as_it_is(self, trained: Trained) -> None:
        def state() -> dict[str, tuple[int, bytes]]:
            return {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in trained.folder.iterdir()}

        before = state()
        recorder = Recorder([])
        outcome = trainer.train(trained.config, trained.folder, resume=True, listeners=[recorder])
        assert state() == before
        assert recorder.events == []
        assert outcome.selected == next(e["update"] for e in trained.events if e["event"] == "selected")

    def test_a_run_is_never_overwritten(self, trained: Trained) -> None:
        with pytest.raises(RunError, match="already holds a run: choose another folder, or --resume it"):
            trainer.train(trained.config, trained.folder)

    def test_a_folder_of_something_else_is_refused(self, trained: Trained, tmp_path: Path) -> None:
        (tmp_path / "notes.txt").write_text("mine")
        for resume in (False, True):
            with pytest.raises(RunError, match="is not empty and holds no run"):
                trainer.train(trained.config, tmp_path, resume=resume)
        assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]

    @pytest.mark.parametrize("setting", ["seed", "epochs", "batch_tokens"])
    def test_another_configuration_is_refused(self, trained: Trained, setting: str) -> None:
        changed = trained.config.training.model_copy(update={setting: 77})
        config = trained.config.model_copy(update={"training": changed})
        with pytest.raises(RunError, match="started with another configuration"):
            trainer.train(config, trained.folder, resume=True)

    def test_auto_precision_is_the_one_that_was_measured(
        self, trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        shutil.copytree(trained.folder, tmp_path / "run")
        auto = trained.config.training.model_copy(update={"precision": "auto"})
        monkeypatch.setattr(trainer, "choose_precision", lambda *_: "bf16")
        outcome = trainer.train(trained.config.model_copy(update={"training": auto}), tmp_path / "run", resume=True)
        assert Config.load(outcome.folder.config).training.precision == "fp32"

    def test_relative_paths_mean_the_same_from_the_run_folder(
        self, trained: Trained, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(trained.folder.parent)
        data = trained.config.model_dump(mode="json", exclude_none=True)
        for source in data["sources"]:
            for split in ("train", "dev", "test"):
                source[split] = os.path.relpath(source[split])
        Path("relative.yaml").write_text(yaml.safe_dump(data, sort_keys=False))
        assert trainer.train(Config.load("relative.yaml"), trained.folder, resume=True).seconds == 0

    def test_another_number_of_processes_is_refused(self, runs: Runs, tmp_path: Path) -> None:
        """Each process has a random state of its own."""
        out = tmp_path / "run"
        assert runs.live(out, resume=False, point="palmette.trainer.Loop._step:4:before") == -signal.SIGKILL
        (state,) = RunFolder(out).checkpoints.glob("update-*/random-0.safetensors")
        shutil.copy(state, state.with_name("random-1.safetensors"))
        with pytest.raises(RunError, match="2 processes"):
            trainer.train(Config.load(runs.config), out, resume=True)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_killed_at_random_moments(runs: Runs, uninterrupted: tuple[Any, ...], tmp_path: Path, seed: int) -> None:
    """The command in fresh interpreters, killed from outside after a random time, six times a run."""
    rng = random.Random(seed)  # noqa: S311
    out = tmp_path / "run"
    command = [sys.executable, "-m", "palmette.cli", "train", str(runs.config), "--out", str(out), "--resume"]
    kills = 0
    for _ in range(20):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        # From the folder's first file on: what comes before is imports and reading.
        deadline = time.monotonic() + LIMIT
        before = _progress(out)
        while process.poll() is None and _progress(out) == before and time.monotonic() < deadline:
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.15))
        alive = process.poll() is None
        process.kill()
        process.wait(LIMIT)
        if not alive:
            break
        kills += 1
        if kills == 6:
            break
    assert kills >= 2
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=LIMIT)
    assert result(out) == uninterrupted
    assert_tidy(out)


def _progress(out: Path) -> list[tuple[str, int]]:
    """Anything that changes as soon as a life gets going."""
    found = []
    for path in [*out.glob("*"), *out.glob("checkpoints/*")]:
        try:
            found.append((path.name, path.stat().st_mtime_ns))
        except FileNotFoundError:
            continue
    return sorted(found)
