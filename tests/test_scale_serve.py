"""Several replicas behind one address: the same API, one reload for all, nothing lost at the end."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from shutil import copytree
from typing import ClassVar

import httpx2 as httpx
import pytest
from click.testing import CliRunner
from prometheus_client import CollectorRegistry, Counter, generate_latest
from prometheus_client.parser import text_string_to_metric_families

import palmette
from palmette.cli import main
from palmette.cluster import import_ray
from palmette.errors import ConfigError, MissingExtraError
from palmette.scale.exposition import merge
from palmette.scale.replicas import Replicas
from palmette.serving.keys import hash_key
from test_server import BAD_BODIES, INPUTS, JSON, TEXTS, Load, Process, serving, wait_until

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Ray's own, at import

KEY = "palmette_test"
LIMITS = ("texts=1000", "characters=5000", "body_bytes=300000", "drain_seconds=1")


@pytest.mark.parametrize(("text", "least", "most"), [("1", 1, 1), ("3", 3, 3), ("1..4", 1, 4), ("2..2", 2, 2)])
def test_replicas_are_a_number_or_a_range(text: str, least: int, most: int) -> None:
    assert Replicas.parse(text) == Replicas(least, most)


@pytest.mark.parametrize("text", ["0", "4..1", "0..3", "many", "1..", "-1", "1...3", ""])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"--replicas .*: expected a number, or a range as in 1\.\.4"):
        Replicas.parse(text)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--replicas", "2"], "--replicas 2: is for --engine ray"),
        (["--ongoing", "3"], "--ongoing 3.0: is for --engine ray"),
        (["--engine", "ray", "--replicas", "some"], "--replicas some: expected a number"),
        (["--engine", "ray", "--set", "port=x"], "port: Input should be a valid integer"),
        (["--engine", "ray", "--keys", "absent"], "keys: "),
    ],
)
def test_a_mistake_is_found_before_ray_starts(bundled: Path, arguments: list[str], complaint: str) -> None:
    pytest.importorskip("ray", reason="palmette[ray] is not installed")
    found = CliRunner().invoke(main, ["serve", str(bundled), *arguments])
    assert (found.exit_code, complaint in found.output) == (2, True), found.exception


def test_a_model_or_an_address_that_cannot_be_is_refused_before_ray_starts(bundled: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="palmette[ray] is not installed")
    found = CliRunner().invoke(main, ["serve", str(tmp_path), "--engine", "ray"])
    assert (found.exit_code, "is not a run folder" in found.output) == (2, True), found.output
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        found = CliRunner().invoke(main, ["serve", str(bundled), "--engine", "ray", "--port", str(port)])
    assert (found.exit_code, f"cannot listen on 127.0.0.1, port {port}" in found.output) == (2, True), found.output


def test_without_ray_serve_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray.serve", None)
    with pytest.raises(MissingExtraError, match=r"ray\[serve\] is not installed: pip install 'palmette\[ray\]'"):
        import_ray("serve")


def test_serving_alone_does_not_import_ray() -> None:
    code = "import sys, palmette.serving.app, palmette.cli; print([m for m in sys.modules if m.split('.')[0] == 'ray'])"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )


def test_counts_of_replicas_stand_side_by_side() -> None:
    pages = []
    for name, count in (("b", 3), ("a", 2)):
        registry = CollectorRegistry()
        Counter("seen", "Texts.", ["task"], registry=registry).labels("pos").inc(count)
        pages.append((name, generate_latest(registry)))
    merged = merge(pages)
    assert merged.count(b"# HELP seen_total Texts.") == 1
    found = {
        sample.labels["replica"]: sample.value
        for family in text_string_to_metric_families(merged.decode())
        for sample in family.samples
        if sample.name == "seen_total" and sample.labels["task"] == "pos"
    }
    assert found == {"a": 2, "b": 3}
    assert merge([]) == b""


@pytest.fixture(scope="module")
def model(bundled: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copytree(bundled, tmp_path_factory.mktemp("replicas") / "bundle")


@pytest.fixture(scope="module")
def process(model: Path) -> Iterator[Process]:
    """One or two replicas of one thread each, which ask for a key."""
    pytest.importorskip("ray.serve", reason="palmette[ray] is not installed")
    keys = model.with_name("keys.txt")
    keys.write_text(hash_key(KEY))
    arguments = ("--engine", "ray", "--replicas", "1..2", "--ongoing", "1", "--keys", str(keys))
    with serving(model, model.with_name("log"), *LIMITS, arguments=arguments) as found:
        yield found


@pytest.fixture
def client(process: Process) -> Iterator[httpx.Client]:
    headers = {"authorization": f"Bearer {KEY}"}
    with httpx.Client(base_url=process.address, headers=headers, timeout=60) as client:
        yield client


def replicas(client: httpx.Client) -> set[str]:
    return set(re.findall(r'replica="(\w+)"', client.get("/metrics").text))


@pytest.mark.slow
def test_replicas_answer_as_the_bundle_does(client: httpx.Client, bundled: Path) -> None:
    response = client.post("/v1/predict", json={"texts": TEXTS}, headers={"x-request-id": "mine"})
    assert response.json()["answers"] == json.loads(json.dumps(palmette.load(bundled, threads=1).predict(INPUTS)))
    assert response.headers.get_list("x-request-id") == ["mine"]
    assert response.headers["x-content-type-options"] == "nosniff"
    streamed = client.post("/v1/stream", json={"texts": TEXTS})
    assert [json.loads(line) for line in streamed.text.splitlines()] == response.json()["answers"]


@pytest.mark.slow
def test_refusals_are_those_of_one_server(client: httpx.Client, process: Process) -> None:
    for name, (body, status, code, field) in BAD_BODIES.items():
        if name.startswith("too "):
            continue  # about other limits
        response = client.post("/v1/predict", content=body, headers=JSON)
        error = response.json()["error"]
        assert (response.status_code, error["code"], error.get("field")) == (status, code, field), name
    assert client.post("/v1/predict", json={"texts": ["a" * 5001]}).json()["error"]["code"] == "text_too_long"
    assert client.post("/v1/predict", content=b" " * 300_001, headers=JSON).status_code == 413
    assert client.post("/v1/predict", content=b"{}").status_code == 415
    assert httpx.post(f"{process.address}/v1/predict", json={"texts": ["a"]}).status_code == 401
    assert httpx.get(f"{process.address}/metrics").status_code == 401
    assert httpx.get(f"{process.address}/readyz").status_code == 200


class LoadWithKey(Load):
    """Callers that have the key."""

    headers: ClassVar[dict[str, str]] = {"authorization": f"Bearer {KEY}"}


@pytest.mark.slow
def test_load_brings_a_second_replica_and_a_reload_reaches_both(
    client: httpx.Client, process: Process, model: Path
) -> None:
    load = LoadWithKey(process.address, 4)
    wait_until(lambda: len(replicas(client)) == 2, seconds=150)
    manifest = (model / "manifest.json").read_text()
    for number in range(2):
        (model / "manifest.json").write_text(manifest + "\n" * (number + 1))
        if number:
            process.signal(signal.SIGHUP)
        else:
            assert client.post("/v1/admin/reload").status_code == 200
        digest = palmette.load(model).bundle.digest  # type: ignore[union-attr]
        wait_until(lambda: {client.get("/v1/model").json()["digest"] for _ in range(20)} == {digest})  # noqa: B023
    (model / "manifest.json").write_text("{")
    refused = client.post("/v1/admin/reload")
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "reload_refused")
    process.signal(signal.SIGHUP)
    wait_until(lambda: bool(process.events("replicas keep the old model")))
    assert {client.get("/v1/model").json()["digest"] for _ in range(20)} == {digest}
    load.stop()
    assert load.lost == []


@pytest.mark.slow
def test_sigterm_answers_what_was_accepted_and_ends_with_zero(client: httpx.Client, process: Process) -> None:
    with ThreadPoolExecutor(1) as pool:
        texts = ["cat sat " * 20] * 1000  # longer than the time in which requests are still taken
        large = pool.submit(client.post, "/v1/predict", json={"texts": texts})
        wait_until(lambda: sum_of(client, "palmette_queue_tokens") > 1000)
        process.signal(signal.SIGTERM)
        wait_until(lambda: httpx.get(f"{process.address}/readyz").status_code == 503)
        assert len(large.result().json()["answers"]) == 1000
    assert process.process.wait(60) == 0
    assert process.events("ended")
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{process.address}/healthz")


def sum_of(client: httpx.Client, name: str) -> float:
    lines = client.get("/metrics").text.splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name + "{"))
