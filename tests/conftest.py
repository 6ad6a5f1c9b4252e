"""What all tests share: no network, fixed seeds, quiet libraries, and one small finished run."""

from __future__ import annotations

import os

# Before anything imports a library that reads them.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Results of a matrix product depend on the number of threads; the tests compare bits.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import hashlib
import json
import multiprocessing
import random
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

# The fork server imports workers.py.
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(Path(__file__).parent), os.environ.get("PYTHONPATH")]))

import hypothesis
import numpy as np
import pytest

import postgres
from browser import CHROMIUM, Browser
from fakes import tiny_config
from palmette.config import Config
from palmette.words import find_words

# Importing spaCy draws from `random`, which hypothesis forbids inside a strategy: the first test to do so would fail.
find_words("", language="en")

NOW = datetime(2026, 11, 24, tzinfo=UTC)

# Generated cases are the same in every run; a shared machine's pauses are no failure.
hypothesis.settings.register_profile("palmette", deadline=None, derandomize=True)
hypothesis.settings.load_profile("palmette")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest test first: last, one process would run it while the other has nothing left to do."""
    items.sort(key=lambda item: item.path.name != "test_story.py")


@pytest.fixture(scope="session")
def forked() -> Any:
    """Makes processes cheaply: forked from a clean one that has imported everything and computed nothing."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["workers"])
    return context.Process


@pytest.fixture(autouse=True)
def _seeds() -> None:
    random.seed(13)
    np.random.seed(13)  # noqa: NPY002 - libraries may still draw from it


@dataclass(frozen=True)
class Trained:
    """A finished run, and the loop that trained it, still holding the selected model."""

    config: Config
    folder: Path
    loop: Any
    events: list[dict[str, Any]]


@dataclass
class Recorder:
    """Keeps the loop and every event of a run."""

    events: list[dict[str, Any]]

    def on_event(self, event: Any) -> None:
        self.events.append(dict(event))


def make_loop(config: Config, out: Path, corpus: Any = None) -> Any:
    """A loop about to run its first update."""
    from palmette import trainer

    loops: list[Any] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer.Loop, "run", lambda loop, **_: loops.append(loop))
        trainer.train(config, out, corpus=corpus)
    return loops[0]


def train_and_keep(config: Config, out: Path, **options: Any) -> Trained:
    """Train in this process and keep hold of the loop."""
    from palmette import trainer

    loops: list[Any] = []

    class Kept(trainer.Loop):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            loops.append(self)

    recorder = Recorder([])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "Loop", Kept)
        trainer.train(config, out, listeners=[recorder], **options)
    return Trained(config, out, loops[0], recorder.events)


def assert_resumes(config: Config, folder: Path) -> None:
    """A run that dies twice between checkpoints, by an exception, ends like one that goes through, to the last bit."""
    import torch

    from palmette import trainer

    def result(out: Path) -> tuple[str, str, list[Any]]:
        events = [json.loads(line) for line in (out / "history.jsonl").read_text().splitlines()]
        kept = [event for event in events if event["event"] not in ("started", "progress")]
        digest = hashlib.sha256((out / "model.safetensors").read_bytes()).hexdigest()
        return digest, (out / "metrics.json").read_text(), kept

    trainer.train(config, folder / "whole")
    step = trainer.Loop._step
    for dies in (4, 2):
        calls = 0

        def dying(loop: Any, *arguments: Any, last: int = dies) -> None:
            nonlocal calls
            calls += 1
            if calls == last:
                raise KeyboardInterrupt
            step(loop, *arguments)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(trainer.Loop, "_step", dying)
            with pytest.raises(KeyboardInterrupt):
                trainer.train(config, folder / "parts", resume=True)
    torch.rand(3)
    trainer.train(config, folder / "parts", resume=True)
    assert result(folder / "parts") == result(folder / "whole")


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Six epochs over every kind, long texts included. Treat it as read-only."""
    folder = tmp_path_factory.mktemp("trained")
    config = Config.parse(tiny_config(folder, long=2, epochs=6))
    return train_and_keep(config, folder / "run")


@pytest.fixture(scope="session")
def bundled(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of `trained`, in fp32. Treat it as read-only."""
    from palmette.deploy.export import export

    return export(trained.folder, tmp_path_factory.mktemp("bundled") / "bundle", now=NOW).folder


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("needs Chromium (Debian: apt-get install chromium)")
    opened = Browser()
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """A PostgreSQL cluster; a name added to its URL names a database (`postgres.new_database`)."""
    if (reason := postgres.missing()) is not None:
        pytest.skip(reason)
    with postgres.cluster() as url:
        yield url
