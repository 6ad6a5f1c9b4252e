"""A server of two models: heads in its own process, and a writer in another that nobody else waits for."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from starlette.testclient import TestClient

import palmette
from conftest import Trained
from fakes import tiny_text_config
from palmette.answering import Answerer
from palmette.errors import RunError
from palmette.operate.review.corrections import corrections
from palmette.run import Run
from palmette.serving import ServerSettings
from palmette.serving.app import create_app
from palmette.serving.service import Service
from palmette.writing.predictor import WritingPredictor
from palmette.writing.writer import Heard, Request, Written
from test_server import refused, serving, wait_until

TEXTS = ["the cat sat", "a dog runs fast in paris"]


@pytest.fixture(scope="module")
def writes(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run whose model writes summaries."""
    folder = tmp_path_factory.mktemp("writes")
    data = tiny_text_config(folder, epochs=1)
    data["sources"] = [source for source in data["sources"] if source["name"] == "summaries"]
    data["tasks"] = {"summary": data["tasks"]["summary"]}
    return palmette.train(data, folder / "run")


class Client(TestClient):
    """A client, with the service that it talks to."""

    service: Service

    def predict(self, *tasks: str, texts: Any = TEXTS) -> httpx.Response:
        return self.post("/v1/predict", json={"texts": texts, **({"tasks": tasks} if tasks else {})})

    def value(self, name: str, **labels: str) -> float:
        return self.service.metrics.registry.get_sample_value(name, labels) or 0.0

    @property
    def process(self) -> int:
        """Of the writer."""
        assert self.service.writer is not None
        return int(self.service.writer.answerer.predictor._child._process.pid)  # type: ignore[attr-defined]


def connected(
    trunk: Path, writer: Path, load: Callable[[Path], Answerer] = palmette.load, **settings: Any
) -> Iterator[Client]:
    service = Service(load, trunk, ServerSettings(writer=writer, **settings))
    client = Client(create_app(service))
    client.service = service
    with client:
        yield client


@pytest.fixture(scope="module")
def client(trained: Trained, writes: Run) -> Iterator[Client]:
    yield from connected(trained.folder, writes.folder.path, queue_tokens=100)


def alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def test_each_model_answers_its_own_tasks(client: Client, trained: Trained, writes: Run) -> None:
    run = Run.load(trained.folder)
    tasks = client.get("/v1/tasks").json()["tasks"]
    assert list(tasks) == [*run.kinds, "summary"]
    assert [task for task, about in tasks.items() if about["by_writer"]] == ["summary"]
    # Who names no task asked for the trunk before there was a writer, and is not made to wait for it.
    assert client.predict().json()["answers"] == json.loads(json.dumps(run.predict(TEXTS)))
    written = client.predict("summary").json()
    assert written["answers"] == writes.predict(TEXTS)
    assert written["model"]["digest"] != client.service.model.digest
    assert client.value("palmette_texts_total", task="summary") == len(TEXTS)


def test_what_it_writes_is_streamed_as_it_grows(client: Client, writes: Run) -> None:
    body = {"texts": TEXTS, "tasks": ["summary"], "tokens": True}
    lines = [json.loads(line) for line in client.post("/v1/stream", json=body).iter_lines()]
    assert [line for line in lines if "tasks" in line] == writes.predict(TEXTS)
    assert "written" in lines[0]
    assert "summary" in refused(
        client.post("/v1/stream", json={**body, "tasks": ["tone"]}), 422, "not_written", "tokens"
    )


def test_tasks_of_both_are_two_requests(client: Client) -> None:
    message = refused(client.predict("tone", "summary"), 422, "tasks_of_two_models", "tasks[1]")
    assert "two requests" in message
    assert "tone" in message
    refused(client.predict("summary", "tone"), 422, "tasks_of_two_models", "tasks[1]")
    assert "summary" in refused(client.predict("moon"), 422, "unknown_task", "tasks[0]")
    document = client.get("/openapi.json").json()["components"]["schemas"]["PredictRequest"]["properties"]["tasks"]
    (choice,) = [choice for choice in document["anyOf"] if choice["type"] == "array"]
    assert {"tone", "summary"} <= set(choice["items"]["enum"])


def test_heads_answer_while_something_is_being_written(client: Client) -> None:
    before = client.value("palmette_batch_texts_count")
    writer = client.process
    with ThreadPoolExecutor(1) as pool:
        os.kill(writer, signal.SIGSTOP)  # in the middle of its work, for as long as this takes
        try:
            written = pool.submit(client.predict, "summary")
            wait_until(lambda: client.value("palmette_batch_texts_count") > before)
            for _ in range(20):
                assert client.predict("tone").status_code == 200
            assert not written.done()
        finally:
            os.kill(writer, signal.SIGCONT)
        assert written.result().status_code == 200


def test_a_full_queue_of_the_writer_refuses_nobody_else(client: Client) -> None:
    long = ["cat " * 50]
    before = client.value("palmette_batch_texts_count")
    with ThreadPoolExecutor(2) as pool:
        os.kill(client.process, signal.SIGSTOP)
        try:
            taken = pool.submit(client.predict, "summary", texts=long)
            wait_until(lambda: client.value("palmette_batch_texts_count") > before)
            waiting = pool.submit(client.predict, "summary", texts=long)
            wait_until(lambda: client.value("palmette_queue_requests") == 1)
            refused(client.predict("summary", texts=long * 3), 429, "queue_full")
            assert client.predict("tone", texts=long).status_code == 200
        finally:
            os.kill(client.process, signal.SIGCONT)
        assert taken.result().status_code == waiting.result().status_code == 200


class Says:
    """Writes one thing for the first text, and nothing for the others."""

    def write(self, requests: Sequence[Request], heard: Heard | None = None) -> list[Written]:  # noqa: ARG002
        return [Written("the cat" * (not place), 3, 2) for place in range(len(requests))]


def saying(path: Path) -> Answerer:
    """The model of a path, which says what is known, if it writes."""
    found = palmette.load(path)
    if isinstance(found.predictor, WritingPredictor):
        found.predictor.writer = Says()
    return found


def test_what_it_writes_is_reviewed_as_other_answers_are(trained: Trained, writes: Run, tmp_path: Path) -> None:
    review = {"audit": 1.0, "keep_texts": True, "thresholds": {"summary": 0.5}}
    store = str(tmp_path / "store.db")
    for client in connected(trained.folder, writes.folder.path, saying, store=store, review=review):
        queue = client.service.reviews.queue  # type: ignore[union-attr]
        digest = client.predict("summary").json()["model"]["digest"]
        wait_until(lambda: len(queue.items(now=datetime.now(UTC))) == len(TEXTS))  # noqa: B023
        found = queue.items(now=datetime.now(UTC))
        assert [(one.why, one.prediction, one.digest) for one in found] == [
            ("audit", ["the cat"], digest),
            ("unreadable", None, digest),
        ]
        item = client.get("/v1/review/next?reviewer=anna&task=summary").json()["item"]
        assert (item["form"], item["text"], item["confidence"]) == ("text", TEXTS[0], None)
        body = {"reviewer": "anna", "verdict": "corrected", "label": ["The cat sat."]}
        assert client.post(f"/v1/review/items/{item['id']}/decisions", json=body).status_code == 200
        (correction,) = corrections(queue.engine, now=datetime.now(UTC)).examples
        assert (correction.label, correction.example.text.string) == (("The cat sat.",), TEXTS[0])
        (cleaned,) = client.get("/v1/review/cleanup").json()["versions"]
        assert (cleaned["task"], cleaned["answers"], cleaned["corrected"]) == ("summary", 1, 1)
        assert client.predict("tone").status_code == 200
        wait_until(lambda: {"tone", "summary"} == queue.waiting().keys())  # noqa: B023


def test_a_writer_that_dies_is_started_anew_and_costs_the_trunk_nothing(client: Client, writes: Run) -> None:
    dead = client.process
    os.kill(dead, signal.SIGKILL)
    refused(client.predict("summary"), 500, "internal")
    assert client.predict("tone").status_code == 200
    assert client.predict("summary").json()["answers"] == writes.predict(TEXTS)
    assert client.process != dead


def test_a_writer_whose_files_changed_is_not_started_under_the_old_name(
    trained: Trained, writes: Run, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(writes.folder.path, folder)
    for client in connected(trained.folder, folder):
        digest, first = client.predict("summary").json()["model"]["digest"], client.process
        config = folder / "config.yaml"
        config.write_text(config.read_text() + "# other\n")
        assert client.post("/v1/admin/reload").status_code == 200
        wait_until(lambda: not alive(first))  # noqa: B023 - nobody asks it any more
        assert client.predict("summary").json()["model"]["digest"] != digest
        config.write_text(config.read_text() + "# and another\n")
        os.kill(client.process, signal.SIGKILL)
        refused(client.predict("summary"), 500, "internal")
        refused(client.predict("summary"), 500, "internal")


def test_what_cannot_be_a_writer(trained: Trained, writes: Run, tmp_path: Path) -> None:
    def fails(trunk: Path, writer: Path) -> str:
        with pytest.raises(RunError) as error:
            Service(palmette.load, trunk, ServerSettings(writer=writer))
        return str(error.value)

    assert "both models have a task summary" in fails(writes.folder.path, writes.folder.path)
    assert "does not write" in fails(trained.folder, trained.folder)
    assert "not a run folder" in fails(trained.folder, tmp_path)


def test_the_server_needs_no_torch_for_it_and_takes_it_along_when_it_ends(
    bundled: Path, writes: Run, tmp_path: Path
) -> None:
    arguments = ["--writer", str(writes.folder.path)]
    with serving(bundled, tmp_path / "log", "drain_seconds=0", arguments=arguments) as process:
        (started,) = process.events("writer started")
        answer = httpx.post(f"{process.address}/v1/predict", json={"texts": TEXTS, "tasks": ["summary"]}, timeout=60)
        assert answer.json()["answers"] == writes.predict(TEXTS)
        if sys.platform == "linux":
            assert "libtorch" not in Path(f"/proc/{process.process.pid}/maps").read_text()
            assert "libtorch" in Path(f"/proc/{started['process']}/maps").read_text()
        os.kill(started["process"], signal.SIGTERM)  # as a service manager sends it to all of them
        process.signal(signal.SIGTERM)
        assert process.process.wait(30) == 0
        wait_until(lambda: not alive(started["process"]))


def test_replicas_have_no_writer(bundled: Path, writes: Run) -> None:
    command = [sys.executable, "-m", "palmette.cli", "serve", str(bundled), "--engine", "ray", "--replicas", "2"]
    command += ["--writer", str(writes.folder.path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "--writer" in done.stderr
