"""What the server acknowledged is there after kill -9, at any moment."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx2 as httpx
import numpy as np
import pytest

import workers
from conftest import Trained
from palmette.operate.review.queue import Queue
from palmette.serving.listening import listen
from palmette.store import open_store
from postgres import new_database
from test_review import DIGEST, KINDS, NOW, candidate

KILLS = 50


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return str(tmp_path / "store.db")
    return new_database(request.getfixturevalue("postgres_url"), f"kill_{uuid.uuid4().hex}")


class Writer(threading.Thread):
    """Sends corrections until the server is gone."""

    def __init__(self, port: int, name: str, ids: Sequence[int]) -> None:
        super().__init__()
        self.port = port
        self.reviewer = name
        self.ids = ids
        self.sent = 0
        self.acknowledged: list[tuple[int, str]] = []  # item, label

    def run(self) -> None:
        dice = np.random.default_rng(list(self.reviewer.encode()))
        with httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=10) as client:
            while True:
                item, label = int(dice.choice(self.ids)), str(dice.choice(["bad", "good"]))
                body = {"reviewer": self.reviewer, "verdict": "corrected", "label": label}
                self.sent += 1
                try:
                    response = client.post(f"/v1/review/items/{item}/decisions", json=body)
                except httpx.HTTPError:
                    return
                if response.status_code != 200:
                    raise AssertionError(response.text)
                self.acknowledged.append((item, label))


@pytest.mark.slow
def test_no_acknowledged_correction_is_lost(trained: Trained, url: str, forked: Any) -> None:
    engine = open_store(url)
    queue = Queue(engine)
    queue.know(KINDS, DIGEST, now=NOW)
    ids = queue.add([candidate("tone", number) for number in range(200)], now=NOW)[0]
    draw = np.random.default_rng(7)
    acknowledged: dict[tuple[int, str], str] = {}  # (item, reviewer) -> label
    answers = interrupted = 0
    for kill in range(KILLS):
        listener = listen("127.0.0.1", 0)
        port = listener.getsockname()[1]
        settings = {"store": url, "review": {"audit": 0.0}}
        process = forked(target=workers.serve, args=(str(trained.folder), settings, listener))
        process.start()
        listener.close()
        _wait(port)
        writers = [Writer(port, f"{kill}-{number}", ids) for number in range(2)]
        for writer in writers:
            writer.start()
        time.sleep(draw.uniform(0.0, 0.5))
        process.kill()
        process.join()
        for writer in writers:
            writer.join()
            acknowledged |= {(item, writer.reviewer): label for item, label in writer.acknowledged}
            answers += len(writer.acknowledged)
            interrupted += writer.sent > len(writer.acknowledged)
        found = {
            (decision.item, decision.reviewer): decision.label if decision.verdict == "corrected" else "good"
            for decision in queue.decisions()
        }
        assert acknowledged.keys() <= found.keys(), f"kill {kill}"
        # The very last word of a writer may be one that was killed before its answer; every other is the acknowledged.
        assert sum(found[key] != label for key, label in acknowledged.items()) <= interrupted
    assert answers > KILLS
    assert interrupted > KILLS / 2
    print(f"{answers} corrections acknowledged, {KILLS} kills, {interrupted} requests interrupted, none lost")  # noqa: T201
    engine.dispose()


def _wait(port: int) -> None:
    stop = time.monotonic() + 60
    while True:
        try:
            if httpx.get(f"http://127.0.0.1:{port}/readyz", timeout=2).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        assert time.monotonic() < stop
        time.sleep(0.05)
