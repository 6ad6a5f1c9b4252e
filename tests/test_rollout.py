"""Versions side by side in a server: shadow, canary, automatic rollback, promotion; in this process and in several."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from starlette.testclient import TestClient

from conftest import NOW, Trained
from palmette.answering import Answerer
from palmette.deploy.bundle import CARD, MANIFEST, Bundle, write_bundle
from palmette.errors import BundleError, ReleaseError, RunError
from palmette.operate.releases.book import Releases
from palmette.operate.releases.routing import chosen
from palmette.predictor import Predictor, with_heads
from palmette.run import Run
from palmette.runtime import Runtime
from palmette.serving import ServerSettings
from palmette.serving.app import create_app
from palmette.serving.keys import hash_key
from palmette.serving.service import Service
from palmette.store import open_store
from postgres import new_database
from test_server import Load, Process, refused, serving, wait_until

JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def bundles(bundled: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Bundle]:
    """Three versions of a model that answer alike, told apart by their cards."""
    folder = tmp_path_factory.mktemp("versions")
    first = Bundle.open(bundled)
    files = {name: first.read(name) for name in first.manifest["files"]}
    about = {name: value for name, value in first.manifest.items() if name not in ("format", "files")}
    return [write_bundle(folder / name, {**files, CARD: f"# {name}".encode()}, about=about) for name in ("a", "b", "c")]


class Faulty:
    """What is wrong with a model, for as long as a test wants it to be."""

    def __init__(self) -> None:
        self.failure: Exception | None = None
        self.upside_down = False
        self.opened = threading.Event()
        self.opened.set()

    def wrap(self, answerer: Runtime) -> Answerer:
        inner = with_heads(answerer.predictor, "test")

        def engine(batch: Any) -> Any:
            assert self.opened.wait(20)
            if self.failure is not None:
                raise self.failure
            found = inner.engine(batch)
            return {task: -outputs for task, outputs in found.items()} if self.upside_down else found

        predictor = Predictor(inner.kinds, inner.encoder, engine, pad=inner.pad, find_words=inner.find_words)
        return Runtime(answerer.kinds, predictor, answerer.bundle, answerer.session)


class Client(TestClient):
    service: Service
    faults: dict[str, Faulty]
    book: Releases

    def ask(self, user: str = "", texts: int = 1, **body: Any) -> httpx.Response:
        given = {"texts": [f"Anna sat in Paris {n}." for n in range(texts)], "tasks": ["ner", "tone"], **body}
        return self.post("/v1/predict", json=given, headers={"x-palmette-user": user} if user else {})

    def value(self, name: str, **labels: str) -> float:
        return self.service.metrics.registry.get_sample_value(name, labels) or 0.0

    def look(self) -> None:
        assert self.service.follower is not None
        self.service.follower.look()


Connect = Callable[..., Client]


@pytest.fixture
def connect(bundles: list[Bundle], tmp_path: Path) -> Iterator[Connect]:
    clients: list[Client] = []
    faults = {bundle.digest: Faulty() for bundle in bundles}

    def load(path: Path) -> Answerer:
        loaded = Runtime.load(path)
        return faults[loaded.bundle.digest].wrap(loaded)

    def build(path: Path | None = bundles[0].folder, **settings: Any) -> Client:
        store = str(tmp_path / "store.db")
        service = Service(load, path, ServerSettings(store=store, **settings))
        client = Client(create_app(service), raise_server_exceptions=True)
        client.service, client.faults = service, faults
        client.book = Releases(open_store(store), now=lambda: NOW)
        client.__enter__()
        clients.append(client)
        return client

    yield build
    for fault in faults.values():
        fault.opened.set()
    for client in clients:
        client.__exit__(None, None, None)
        client.book.close()


def test_a_canary_answers_its_share_and_keeps_its_users(connect: Connect, bundles: list[Bundle]) -> None:
    client = connect()
    live, candidate = bundles[0].digest, bundles[1].digest
    client.book.release(bundles[1], mode="canary", share=0.3, by="anna")
    client.look()
    users = [f"user-{number}" for number in range(60)]
    expected = {user: candidate if chosen(user, candidate, 0.3) else live for user in users}
    assert len(set(expected.values())) == 2
    for _ in range(2):
        assert {user: client.ask(user).json()["model"]["digest"] for user in users} == expected
    found = list(expected.values()).count(candidate)
    assert client.value("palmette_version_texts_total", version=candidate[:12]) == 2 * found
    assert client.value("palmette_version_latency_seconds_count", version=live[:12]) == 2 * (60 - found)
    assert client.value("palmette_version_role", version=candidate[:12], role="candidate") == 1
    # More share: nobody goes back to the live version.
    client.book.release(bundles[1], mode="canary", share=0.6, by="anna")
    client.look()
    now = {user: client.ask(user).json()["model"]["digest"] for user in users}
    assert all(now[user] == candidate for user, digest in expected.items() if digest == candidate)
    assert list(now.values()).count(candidate) > found


def test_a_shadow_is_compared_and_nobody_sees_it(connect: Connect, bundles: list[Bundle]) -> None:
    client = connect()
    client.book.release(bundles[1], mode="shadow", share=0.5, by="anna")
    client.look()
    meant = [user for user in map(str, range(40)) if chosen(user, bundles[1].digest, 0.5)]
    answers = {user: client.ask(user).json() for user in map(str, range(40))}
    assert {answer["model"]["digest"] for answer in answers.values()} == {bundles[0].digest}
    wait_until(lambda: client.value("palmette_compared_texts_total", task="tone") == len(meant))
    assert client.value("palmette_differing_texts_total", task="tone") == 0
    client.faults[bundles[1].digest].upside_down = True
    assert [client.ask(user).json()["answers"] for user in answers] == [a["answers"] for a in answers.values()]
    wait_until(lambda: client.value("palmette_differing_texts_total", task="tone") == len(meant))
    assert client.value("palmette_differing_texts_total", task="ner") > 0
    # People are asked who of the two is right.
    wait_until(lambda: client.value("palmette_review_items_total", task="tone", why="disagreement") == len(meant))
    trial = client.get("/v1/releases").json()["trial"]
    assert trial["disagreement"]["tone"] == {"requests": 2 * len(meant), "mean": 0.5}


def test_a_slow_shadow_holds_nobody_up_and_what_is_left_out_is_counted(connect: Connect, bundles: list[Bundle]) -> None:
    client = connect(compared_texts=5)
    client.book.release(bundles[1], mode="shadow", share=1, by="anna")
    client.look()
    fault = client.faults[bundles[1].digest]
    fault.opened.clear()
    for _ in range(20):
        assert client.ask().status_code == 200
    wait_until(lambda: client.value("palmette_uncompared_texts_total") == 15)
    fault.opened.set()
    wait_until(lambda: client.value("palmette_compared_texts_total", task="ner") == 5)


@pytest.mark.parametrize("mode", ["shadow", "canary"])
@pytest.mark.parametrize("fault", ["errors", "disagreement"])
def test_a_bad_candidate_is_taken_back_and_no_caller_notices(
    connect: Connect, bundles: list[Bundle], mode: Any, fault: str
) -> None:
    client = connect(rollout={"least": 20})
    state = client.book.release(bundles[1], mode=mode, share=0.5, by="anna")
    client.look()
    bad = client.faults[bundles[1].digest]
    if fault == "errors":
        bad.failure = ValueError("shape")
    else:
        bad.upside_down = True

    def gone() -> bool:
        client.look()
        return client.book.state().candidate is None

    for number in range(400):
        assert client.ask(str(number)).status_code == 200
        if number % 20 == 0 and gone():
            break
    wait_until(gone)
    entry = client.book.log()[-1]
    assert (entry.action, entry.origin, entry.target) == ("demote", bundles[1].digest, None)
    assert entry.who.startswith("palmette serve (")
    assert entry.why.startswith(f"{fault}: ")
    assert entry.state.number == state.number + 1
    assert client.value("palmette_candidates_taken_back_total", rule=fault) == 1
    assert {client.ask(str(n)).json()["model"]["digest"] for n in range(20)} == {bundles[0].digest}
    if (mode, fault) == ("canary", "errors"):
        assert client.value("palmette_rescued_requests_total") > 10


def test_a_faultless_candidate_stays(connect: Connect, bundles: list[Bundle]) -> None:
    client = connect(rollout={"least": 10, "latency_ratio": 100})  # this machine's pauses are not the candidate's
    client.book.release(bundles[1], mode="canary", share=0.5, by="anna")
    for number in range(200):
        assert client.ask(str(number)).status_code == 200
        if number % 20 == 0:
            client.look()
    client.look()
    assert client.book.state().candidate == bundles[1].digest


def test_a_stream_that_the_candidate_fails_at_is_answered_too(connect: Connect, bundles: list[Bundle]) -> None:
    client = connect()
    client.book.release(bundles[1], mode="canary", share=1, by="anna")
    client.look()
    client.faults[bundles[1].digest].failure = ValueError("shape")
    lines = client.post("/v1/stream", json={"texts": ["cat"] * 5}).text.splitlines()
    assert [json.loads(line)["text"] for line in lines] == ["cat"] * 5
    client.faults[bundles[0].digest].failure = ValueError("shape")
    refused(client.ask(), 500, "internal")


def test_a_request_keeps_its_model_over_a_promotion(connect: Connect, bundles: list[Bundle]) -> None:
    client = connect()
    client.book.release(bundles[1], mode="canary", share=0.01, by="anna")
    client.look()
    user = next(user for user in map(str, range(100)) if not chosen(user, bundles[1].digest, 0.01))
    client.faults[bundles[0].digest].opened.clear()
    answers: list[httpx.Response] = []
    waits = threading.Thread(target=lambda: answers.append(client.ask(user)))
    waits.start()
    wait_until(lambda: client.value("palmette_batch_texts_count") == 1)
    promoted = client.post("/v1/admin/promote", json={"digest": bundles[1].digest[:12], "why": "fine"}).json()
    assert (promoted["live"], promoted["previous"]) == (bundles[1].digest, bundles[0].digest)
    client.faults[bundles[0].digest].opened.set()
    waits.join()
    assert answers[0].json()["model"]["digest"] == bundles[0].digest
    assert client.ask(user).json()["model"]["digest"] == bundles[1].digest
    # What was live is still loaded.
    client.faults[bundles[0].digest].failure = ValueError("shape")  # would not load
    assert client.post("/v1/admin/rollback", json={}).status_code == 200
    assert client.get("/v1/model").json()["digest"] == bundles[0].digest


def test_roles_over_http(connect: Connect, bundles: list[Bundle], tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(hash_key("mine"))
    client = connect(keys=file)
    for method, path in (("GET", "/v1/releases"), ("POST", "/v1/admin/promote"), ("POST", "/v1/admin/rollback")):
        refused(client.request(method, path, json={}), 401, "unauthorized")
    client.headers["authorization"] = "Bearer mine"
    refused(client.post("/v1/admin/promote", json={}), 409, "release_refused")
    client.book.release(bundles[1], mode="shadow", share=1, by="anna", why="new data")
    refused(client.post("/v1/admin/promote", json={"digest": bundles[2].digest}), 409, "release_refused")
    refused(client.post("/v1/admin/promote", json={"path": "/etc"}), 422, "invalid", "path")
    refused(client.post("/v1/admin/promote", json={"digest": "../../etc"}), 422, "invalid", "digest")
    refused(client.post("/v1/admin/rollback", json={"digest": bundles[2].digest}), 409, "release_refused")
    refused(client.post("/v1/admin/rollback"), 415, "unsupported_media_type")
    assert client.post("/v1/admin/promote", json={}).json()["live"] == bundles[1].digest
    assert client.post("/v1/admin/rollback", json={"why": "slow"}).json()["live"] == bundles[0].digest
    assert client.get("/v1/model").json()["digest"] == bundles[0].digest
    shown = client.get("/v1/releases").json()
    assert [entry["action"] for entry in shown["log"]] == ["serve", "release", "promote", "rollback"]
    assert shown["log"][-1]["who"] == f"key {hash_key('mine')[:12]}"
    assert shown["log"][-1]["why"] == "slow"
    assert shown["served"] == {"live": bundles[0].digest}
    assert str(bundles[0].folder.parent) not in json.dumps(shown)
    document = client.get("/openapi.json").json()
    assert document["paths"]["/v1/admin/rollback"]["post"]["security"] == [{"key": []}]
    assert "digest" in document["components"]["schemas"]["RoleChange"]["properties"]


def test_a_candidate_that_cannot_be_loaded_is_taken_back(connect: Connect, bundles: list[Bundle]) -> None:
    client = connect()
    client.book.release(bundles[1], mode="canary", share=1, by="anna")
    client.faults[bundles[1].digest].failure = ValueError("shape")  # seen by the first answer, before any caller's
    client.look()
    assert client.book.state().candidate is None
    assert client.book.log()[-1].why == "loading: ValueError"
    assert client.ask().json()["model"]["digest"] == bundles[0].digest


def test_what_has_no_bundle_goes_on_with_the_old_one(
    connect: Connect, bundles: list[Bundle], bundled: Path, tmp_path: Path
) -> None:
    client = connect()
    first = Bundle.open(bundled)
    files = {name: first.read(name) for name in first.manifest["files"]}
    about = {name: value for name, value in first.manifest.items() if name not in ("format", "files")}
    gone = write_bundle(tmp_path / "gone", {**files, CARD: b"gone"}, about=about)
    client.book.replace_live(gone, by="anna", forced=False)
    (gone.folder / MANIFEST).unlink()
    with pytest.raises(BundleError, match="is not a bundle"):
        client.look()
    assert client.ask().json()["model"]["digest"] == bundles[0].digest
    client.book.rollback(by="anna")
    client.look()
    assert client.service.roster.state.live == bundles[0].digest


def test_a_reload_keeps_the_roles(connect: Connect, bundles: list[Bundle]) -> None:
    client = connect()
    client.book.release(bundles[1], mode="canary", share=1, by="anna")
    client.look()
    before = client.service.roster
    assert client.post("/v1/admin/reload").json()["digest"] == bundles[0].digest
    assert client.service.roster.live is not before.live
    assert client.ask().json()["model"]["digest"] == bundles[1].digest


def test_what_a_server_is_started_with(connect: Connect, bundles: list[Bundle], trained: Trained) -> None:
    with pytest.raises(ReleaseError, match="nothing is live"):
        connect(None)
    client = connect()
    client.book.release(bundles[1], mode="canary", share=1, by="anna")
    client.book.promote(by="anna")
    # The unit file still names the first bundle; the store knows better.
    assert connect().service.model.digest == connect(None).service.model.digest == bundles[1].digest
    with pytest.raises(ReleaseError, match="unknown to the store"):
        connect(bundles[2].folder)
    with pytest.raises(RunError, match="what to serve"):
        Service(lambda _: Run.load(trained.folder), None, ServerSettings())


def test_a_server_without_a_store_needs_no_database() -> None:
    code = (
        "import sys, palmette.serving, palmette.cli; print([m for m in ('sqlalchemy', 'mlflow') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# Processes of their own.


def digest_now(process: Process) -> str:
    return str(httpx.post(f"{process.address}/v1/predict", json={"texts": ["a"]}).json()["model"]["digest"])


@pytest.mark.parametrize("database", ["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def test_roles_survive_a_kill_and_are_shared(
    bundles: list[Bundle], tmp_path: Path, database: str, request: pytest.FixtureRequest
) -> None:
    store = str(tmp_path / "store.db")
    if database == "postgresql":
        store = new_database(request.getfixturevalue("postgres_url"), "rollout")
    arguments = ("--store", store)
    book = Releases(open_store(store), now=lambda: NOW)
    with (
        serving(bundles[0].folder, tmp_path / "one", arguments=arguments) as one,
        serving(bundles[0].folder, tmp_path / "two", arguments=arguments) as two,
    ):
        book.release(bundles[1], mode="canary", share=1, by="anna")
        wait_until(lambda: digest_now(one) == digest_now(two) == bundles[1].digest)
        one.process.kill()
        with serving(bundles[0].folder, tmp_path / "again", arguments=arguments) as again:
            assert digest_now(again) == bundles[1].digest
            found = httpx.get(f"{again.address}/v1/releases").json()["state"]
            assert (found["live"], found["candidate"]) == (bundles[0].digest, bundles[1].digest)
            # One of them is asked, the other follows.
            assert httpx.post(f"{again.address}/v1/admin/promote", json={}).status_code == 200
            assert digest_now(again) == bundles[1].digest
            wait_until(lambda: httpx.get(f"{two.address}/v1/model").json()["digest"] == bundles[1].digest)
            two.process.kill()
    with serving(bundles[0].folder, tmp_path / "last", arguments=arguments) as last:
        assert digest_now(last) == bundles[1].digest
    assert [entry.action for entry in book.log()] == ["serve", "release", "promote"]
    assert book.verify() is not None
    book.close()


def test_promotions_and_rollbacks_under_load_lose_nothing(bundles: list[Bundle], tmp_path: Path) -> None:
    store = str(tmp_path / "store.db")
    book = Releases(open_store(store), now=lambda: NOW)
    # Four callers of one machine: what they wait for is each other.
    options = ("rollout.latency_ratio=1000",)
    with serving(bundles[0].folder, tmp_path / "log", *options, arguments=("--store", store)) as process:
        load = Load(process.address, 4)
        for number in range(10):
            current = book.state().live
            new = bundles[1] if current == bundles[0].digest else bundles[0]
            book.release(new, mode="canary" if number % 2 else "shadow", share=0.5, by="anna")
            answered = load.answered
            wait_until(lambda seen=answered: load.answered > seen + 5 or bool(load.lost))  # type: ignore[misc]
            assert httpx.post(f"{process.address}/v1/admin/promote", json={}, timeout=30).status_code == 200
            if number % 3 == 0:
                assert httpx.post(f"{process.address}/v1/admin/rollback", json={}, timeout=30).status_code == 200
            answered = load.answered
            wait_until(lambda seen=answered: load.answered > seen + 5 or bool(load.lost))  # type: ignore[misc]
        load.stop()
    assert load.lost == []
    assert load.refused == 0
    assert load.digests == {bundles[0].digest, bundles[1].digest}
    book.close()
