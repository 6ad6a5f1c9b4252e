"""What the server acknowledged is there after kill -9, at any moment."""

from __future__ import annotations

import random
import threading
import time
import uuid
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest

from conftest import Trained
from palmette.operate.review.queue import Queue
from palmette.serving.listening import listen
from palmette.store import open_store
from postgres import new_database
from test_review import DIGEST, KINDS, NOW, candidate

KILLS = 50
LABELS = ("bad", "good")


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return str(tmp_path / "store.db")
    return new_database(request.getfixturevalue("postgres_url"), f"kill_{uuid.uuid4().hex}")


@pytest.mark.slow
def test_no_acknowledged_correction_is_lost(trained: Trained, url: str, forked: Any) -> None:
    engine = open_store(url)
    queue = Queue(engine)
    queue.know(KINDS, DIGEST, now=NOW)
    ids = queue.add([candidate("tone", number) for number in range(200)], now=NOW)[0]
    acknowledged: dict[tuple[int, str], str] = {}  # (item, reviewer) -> label
    draw = random.Random(7)
    killed_between = 0
    for kill in range(KILLS):
        listener = listen("127.0.0.1", 0)
        port = listener.getsockname()[1]
        process = forked(target=_serve, args=(str(trained.folder), url, listener))
        process.start()
        listener.close()
        _wait(port)
        stop = threading.Event()
        said: list[list[tuple[int, str, str]]] = [[], []]
        tried = [0, 0]

        def correct(writer: int, kill: int = kill, port: int = port, stop: threading.Event = stop) -> None:
            dice = random.Random(1000 * kill + writer)
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=10) as client:
                while not stop.is_set():
                    item, reviewer, label = dice.choice(ids), f"r{kill}-{writer}", dice.choice(LABELS)
                    body = {"reviewer": reviewer, "verdict": "corrected", "label": label}
                    tried[writer] += 1
                    try:
                        response = client.post(f"/v1/review/items/{item}/decisions", json=body)
                    except httpx.HTTPError:
                        return
                    assert response.status_code == 200, response.text
                    said[writer].append((item, reviewer, label))

        threads = [threading.Thread(target=correct, args=(writer,)) for writer in range(2)]
        for thread in threads:
            thread.start()
        time.sleep(draw.uniform(0.0, 0.5))
        process.kill()
        process.join()
        stop.set()
        for thread in threads:
            thread.join()
        for writer in range(2):
            acknowledged |= {(item, reviewer): label for item, reviewer, label in said[writer]}
            killed_between += tried[writer] > len(said[writer])
        found = {
            (decision.item, decision.reviewer): decision.label if decision.verdict == "corrected" else "good"
            for decision in queue.decisions()
        }
        lost = {key: label for key, label in acknowledged.items() if key not in found}
        assert not lost, f"kill {kill}: {len(lost)} of {len(acknowledged)} lost"
        # The last word may be of a request that was killed before its answer; all others are the acknowledged ones.
        changed = [key for key, label in acknowledged.items() if found[key] != label]
        assert len(changed) <= 2 * (kill + 1)
    assert len(acknowledged) > KILLS
    assert killed_between > KILLS / 2
    engine.dispose()
    print(f"{len(acknowledged)} corrections, {KILLS} kills, {killed_between} in the middle of a request")  # noqa: T201


def _serve(run: str, store: str, listener: Any) -> None:
    import workers

    workers.serve(run, {"store": store, "review": {"audit": 0.0}}, listener)


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
