"""Traffic like dev raises no alarm; what moved is named; the estimated accuracy is near the truth, or withheld."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from starlette.testclient import TestClient

import palmette
from conftest import NOW, train_and_keep
from fakes import WORDS, tiny_config, tiny_encoder
from palmette.config import Config, TaskConfig
from palmette.deploy.bundle import PROFILE, Bundle, write_bundle
from palmette.deploy.export import export
from palmette.errors import BundleError
from palmette.kinds import KINDS
from palmette.operate.watch.looks import Look, own_subwords
from palmette.operate.watch.profile import TaskProfile, describe, from_json, make_profile, to_json
from palmette.operate.watch.shift import CONFIDENCE, INPUT, LABELS, SUBWORDS, UNKNOWN
from palmette.operate.watch.windows import TaskWatch
from palmette.predictor import with_heads
from palmette.serving import ServerSettings
from palmette.serving.app import create_app
from palmette.serving.metrics import Metrics
from palmette.serving.service import Service
from palmette.types import Example, Text

START = datetime(2026, 11, 24, tzinfo=UTC)
WIDTH = 8
SIGNALS = [LABELS, CONFIDENCE, SUBWORDS, UNKNOWN, INPUT]


class Traffic:
    """Texts of a task with two labels, as they are answered: "up" is surer and lies elsewhere than "down".

    Texts whose answer should be "up" are a share of 0.55, or of `up`; texts of one label are the same, whatever their
    share. An odd text is a single word of 60 subwords. Words of "up" have so many more subwords as they are `longer`.
    """

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)

    def texts(
        self,
        count: int,
        *,
        up: float | None = None,
        unsure: float = 0.0,
        away: float = 0.0,
        subwords: float = 1.3,
        unknown: float = 0.01,
        odd: float = 0.0,
        longer: float = 0.0,
    ) -> tuple[list[Look], list[list[bool]], list[dict[str, int]]]:
        """Some, whether each answer is right, which is as probable as its confidence says, and what would be."""
        looks, rights, golds = [], [], []
        for _ in range(count):
            is_up, confidence, right = self._answer(unsure)
            wanted = None if up is None else self.rng.random() < up
            while wanted is not None and (is_up == right) != wanted:
                is_up, confidence, right = self._answer(unsure)
            words = int(self.rng.integers(5, 40))
            embedding = self.rng.normal(size=WIDTH) + away
            embedding[0] += 2.0 * is_up
            pieces = (
                60.0
                if odd and self.rng.random() < odd
                else 1 + self.rng.poisson((subwords - 1 + longer * is_up) * words) / words
            )
            looks.append(
                Look(
                    {"up" if is_up else "down": 1},
                    (confidence,),
                    confidence,
                    words,
                    pieces,
                    self.rng.binomial(words, unknown) / words,
                    embedding.astype(np.float32),
                )
            )
            rights.append([right])
            golds.append({"up" if is_up == right else "down": 1})
        return looks, rights, golds

    def _answer(self, unsure: float) -> tuple[bool, float, bool]:
        """Whether it is "up", how sure that is, and whether it is right."""
        is_up = bool(self.rng.random() < 0.5)
        confidence = float(self.rng.beta(9, 1) if is_up else self.rng.beta(4, 1)) * (1 - unsure)
        return is_up, confidence, bool(self.rng.random() < confidence)


@pytest.fixture(scope="module")
def profile() -> TaskProfile:
    kind = KINDS["text_classification"]("tone", TaskConfig(kind="text_classification"), {"labels": ["down", "up"]})
    return describe(kind, *Traffic(1).texts(1200))


@pytest.fixture(scope="module")
def prepared(profile: TaskProfile) -> TaskWatch:
    return TaskWatch("tone", profile, window=200, tasks=3, seed=13)


@pytest.fixture
def watch(prepared: TaskWatch, profile: TaskProfile, monkeypatch: pytest.MonkeyPatch) -> TaskWatch:
    """One without windows; the resampling is done once for all tests."""
    monkeypatch.setattr("palmette.operate.watch.windows.Detector", lambda *_, **__: prepared.detector)
    return TaskWatch("tone", profile, window=200, tasks=3, seed=13)


def send(watch: TaskWatch, looks: list[Look]) -> None:
    for number, one in enumerate(looks):
        watch.add(one, now=START + timedelta(seconds=number))


def test_the_same_traffic_raises_no_alarm_over_many_windows(watch: TaskWatch) -> None:
    send(watch, Traffic(2).texts(150 * 200)[0])
    assert len(watch.windows) == 150
    assert not any(watch.raised.values())
    assert set(watch.raised) == set(SIGNALS)


@pytest.mark.parametrize(
    ("change", "signal"),
    [
        ({"up": 0.9}, LABELS),
        ({"unsure": 0.1}, CONFIDENCE),
        ({"away": 0.5}, INPUT),
        ({"subwords": 1.5}, SUBWORDS),
        ({"unknown": 0.05}, UNKNOWN),
    ],
)
def test_what_moved_is_named_and_nothing_else(watch: TaskWatch, change: dict[str, float], signal: str) -> None:
    traffic = Traffic(3)
    send(watch, traffic.texts(3 * 200)[0])
    assert not watch.alarms
    send(watch, traffic.texts(200, **change)[0])
    assert not watch.alarms  # one window may be chance
    send(watch, traffic.texts(200, **change)[0])
    # "up" is surer than "down", so that confidences move with the labels.
    assert {signal} <= set(watch.alarms) <= {signal, CONFIDENCE}
    alarm = watch.alarms[signal]
    assert (alarm.task, alarm.signal, alarm.windows) == ("tone", signal, 2)
    assert alarm.effect > 1.5 * alarm.usual
    assert alarm.message.startswith("tone: ")
    assert f"since {START:%Y-%m-%d %H:%M} UTC (2 windows of 200 texts)" in alarm.message
    assert alarm.advice


def test_a_few_addresses_of_many_subwords_do_not_hide_that_words_are_glued() -> None:
    kind = KINDS["text_classification"]("tone", TaskConfig(kind="text_classification"), {"labels": ["down", "up"]})
    traffic = Traffic(9)
    watch = TaskWatch("tone", describe(kind, *traffic.texts(1200, odd=0.01)), window=200, tasks=3, seed=13)
    send(watch, traffic.texts(20 * 200, odd=0.01)[0])
    assert not any(watch.raised.values())
    send(watch, traffic.texts(2 * 200, odd=0.01, subwords=1.4)[0])
    assert SUBWORDS in watch.alarms


def test_subwords_that_a_changed_mixture_of_labels_explains_are_no_reason_to_doubt() -> None:
    kind = KINDS["text_classification"]("tone", TaskConfig(kind="text_classification"), {"labels": ["down", "up"]})
    traffic = Traffic(10)
    watch = TaskWatch("tone", describe(kind, *traffic.texts(1200, longer=0.3)), window=200, tasks=3, seed=13)
    send(watch, traffic.texts(5 * 200, longer=0.3, up=0.8)[0])
    assert set(watch.alarms) <= {LABELS, CONFIDENCE}
    assert all(window.estimate is not None for window in watch.windows)
    send(watch, traffic.texts(2 * 200, longer=0.3, up=0.8, subwords=1.5)[0])
    assert SUBWORDS in watch.alarms


def as_label(looks: list[Look], label: str) -> list[Look]:
    return [replace(one, marks={label: 1}) for one in looks]


def test_a_label_that_dev_never_had_is_an_alarm_when_it_is_frequent(watch: TaskWatch) -> None:
    traffic = Traffic(11)
    for _ in range(5):  # one in 200 texts is no reason
        send(watch, [*traffic.texts(199)[0], *as_label(traffic.texts(1)[0], "sideways")])
    assert not any(watch.raised.values())
    for _ in range(2):
        send(watch, [*traffic.texts(160)[0], *as_label(traffic.texts(40)[0], "sideways")])
    assert LABELS in watch.alarms
    assert watch.alarms[LABELS].effect == pytest.approx(0.2, abs=0.05)


def test_a_window_full_of_a_label_that_dev_never_had(watch: TaskWatch) -> None:
    send(watch, as_label(Traffic(12).texts(2 * 200)[0], "sideways"))
    assert watch.alarms[LABELS].effect == pytest.approx(1)


def test_an_alarm_ends_with_its_cause_and_is_counted_once(watch: TaskWatch) -> None:
    traffic = Traffic(4)
    send(watch, traffic.texts(4 * 200, subwords=1.6)[0])
    assert watch.alarms[SUBWORDS].windows == 4
    send(watch, traffic.texts(200)[0])
    assert not watch.alarms
    assert watch.raised[SUBWORDS] == 1


@pytest.mark.parametrize("change", [{}, {"up": 0.9}, {"up": 0.1}, {"unsure": 0.2}, {"unsure": 0.5}])
def test_the_estimate_is_near_the_truth_without_labels(watch: TaskWatch, change: dict[str, float]) -> None:
    looks, rights, _ = Traffic(5).texts(40 * 200, **change)
    send(watch, looks)
    estimates = [found.estimate for found in watch.windows if found.estimate is not None]
    assert len(estimates) == 40
    assert max(one.texts for one in estimates) == 4 * 200
    right = np.array(rights, dtype=float)[:, 0]
    truths = np.array([right[(n + 1) * 200 - one.texts : (n + 1) * 200].mean() for n, one in enumerate(estimates)])
    assert np.mean([one.value for one in estimates]) == pytest.approx(right.mean(), abs=0.015)
    covered = [one.low <= truth <= one.high for one, truth in zip(estimates, truths, strict=True)]
    assert np.mean(covered) >= 0.85
    assert {one.metric for one in estimates} == {"accuracy"}


def unequal(count: int, *, up: float, seed: int) -> tuple[list[Look], list[list[bool]], list[dict[str, int]]]:
    """A model that finds 95 % of "up" and 60 % of "down", always 0.8 sure: its confidence does not say which it is."""
    rng = np.random.default_rng(seed)
    looks, rights, golds = [], [], []
    for one in Traffic(seed).texts(count)[0]:
        gold = "up" if rng.random() < up else "down"
        right = bool(rng.random() < (0.95 if gold == "up" else 0.6))
        answer = gold if right else {"up": "down", "down": "up"}[gold]
        looks.append(replace(one, marks={answer: 1}, claims=(0.8,), confidence=0.8))
        rights.append([right])
        golds.append({gold: 1})
    return looks, rights, golds


def test_the_estimate_follows_labels_that_are_found_unequally_well() -> None:
    kind = KINDS["text_classification"]("tone", TaskConfig(kind="text_classification"), {"labels": ["down", "up"]})
    watch = TaskWatch("tone", describe(kind, *unequal(1200, up=0.5, seed=14)), window=300, tasks=1, seed=13)
    for up, windows in ((0.5, 3), (0.85, 6), (0.5, 2)):
        looks, rights, _ = unequal(300 * windows, up=up, seed=15)
        send(watch, looks)
        latest = watch.windows[-1].estimate
        assert latest is not None
        assert latest.texts == 300 * min(windows, 4), "windows of before the change are left out"
        assert latest.low <= np.mean(rights[-latest.texts :]) <= latest.high
        assert latest.value == pytest.approx(0.6 + 0.35 * up, abs=0.03)


@pytest.mark.parametrize("change", [{"away": 0.7}, {"subwords": 1.7}, {"unknown": 0.1}])
def test_the_estimate_is_withheld_where_its_assumption_is_broken(watch: TaskWatch, change: dict[str, float]) -> None:
    send(watch, Traffic(6).texts(200, **change)[0])
    assert watch.windows[-1].estimate is None
    assert "no number can be supported" in (watch.windows[-1].reason or "")


def test_overconfident_models_are_estimated_by_what_they_were_on_dev() -> None:
    kind = KINDS["text_classification"]("tone", TaskConfig(kind="text_classification"), {"labels": ["down", "up"]})
    looks, rights, golds = Traffic(7).texts(1200)
    boast = [replace(one, claims=tuple(min(1.0, value + 0.05) for value in one.claims)) for one in looks]
    found = describe(kind, boast[:1000], rights[:1000], golds[:1000])
    watch = TaskWatch("tone", found, window=200, tasks=1, seed=13)
    send(watch, boast[1000:])
    estimate = watch.windows[-1].estimate
    assert estimate is not None
    assert estimate.low <= np.mean(rights[1000:]) <= estimate.high


def test_answers_without_confidences_have_no_estimate(profile: TaskProfile) -> None:
    looks = [replace(one, claims=(), confidence=None, marks={}) for one in Traffic(8).texts(400)[0]]
    kind = KINDS["regression"]("likeness", TaskConfig(kind="regression"), {"mean": 0.0, "scale": 1.0})
    watch = TaskWatch("likeness", describe(kind, looks, [[]] * 400, [{}] * 400), window=100, tasks=1, seed=13)
    send(watch, looks[:100])
    assert set(watch.raised) == {SUBWORDS, UNKNOWN, INPUT}
    assert watch.windows[-1].estimate is None
    assert watch.windows[-1].reason == "its answers have no confidences to go by"


def test_profiles_survive_being_written(profile: TaskProfile) -> None:
    content = json.loads(json.dumps(to_json({"tone": profile})))
    again = from_json(content, where=PROFILE)["tone"]
    assert again.labels == profile.labels
    assert np.array_equal(again.marks, profile.marks)
    assert np.array_equal(again.embeddings, profile.embeddings)
    assert np.allclose(again.subwords, profile.subwords, atol=1e-4)
    assert np.array_equal(again.gold, profile.gold)
    for name in ("claims", "right", "sure", "chance"):
        assert np.allclose(getattr(again, name), getattr(profile, name), atol=1e-4)
    assert again.accuracy == profile.accuracy
    with pytest.raises(BundleError, match=r"profile\.json: is of format 9"):
        from_json({**content, "format": 9}, where=PROFILE)
    del content["tasks"]["tone"]["words"]
    with pytest.raises(BundleError, match=r"profile\.json: is damaged"):
        from_json(content, where=PROFILE)


def test_subwords_are_the_texts_own_whatever_its_length() -> None:
    encoder = tiny_encoder(max_length=24)
    for count in (1, 3, 100):  # the last needs several windows, which overlap
        assert len(own_subwords(encoder, Example(Text(("cat",) * count), {}))) == count
    assert len(own_subwords(encoder, Example(Text(("cat", "sat")), {}, pair=Text(("mat",))))) == 3


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with a profile of two tasks."""
    folder = tmp_path_factory.mktemp("described")
    config = tiny_config(folder, examples=120, epochs=1)
    words = next(source for source in config["sources"] if source["name"] == "words")
    words["labels"] = {"pos": "pos", "tone": "tone"}
    config |= {"sources": [words], "tasks": {task: config["tasks"][task] for task in ("pos", "tone")}}
    trained = train_and_keep(Config.parse(config), folder / "run")
    return export(trained.folder, folder / "bundle", now=NOW).folder


@pytest.fixture
def client(described: Path) -> Iterator[TestClient]:
    service = Service(palmette.load, described, ServerSettings(watch=True, watch_window=100))
    with TestClient(create_app(service)) as client:
        yield client


def test_of_many_texts_2000_are_kept(described: Path) -> None:
    predictor = with_heads(palmette.load(described).predictor, "test")
    examples = [Example(Text(("good", WORDS[number % 9])), {"tone": "up"}) for number in range(2001)]
    found = make_profile(predictor, examples)
    assert {task: one.texts for task, one in found.items()} == {"tone": 2000}
    assert len(make_profile(predictor, examples[:60])["tone"].words) == 60
    assert make_profile(predictor, examples[:49]) == {}


def sentences(count: int, seed: int) -> list[str]:
    """As `fakes.tiny_corpora` makes them."""
    rng = np.random.default_rng(seed)
    return [
        " ".join([*map(str, rng.choice(WORDS, size=int(rng.integers(3, 9)))), f"d{number % 120}"])
        for number in range(count)
    ]


def answered(client: TestClient, texts: list[str], windows: int) -> dict[str, Any]:
    """What is said of texts once so many windows were compared."""
    for first in range(0, len(texts), 50):
        assert client.post("/v1/predict", json={"texts": texts[first : first + 50]}).status_code == 200
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        found: dict[str, Any] = client.get("/v1/watch").json()
        if all(len(task["windows"]) == windows for task in found["tasks"].values()):
            return found
        time.sleep(0.02)
    raise AssertionError(found)


def test_a_server_says_what_moved(client: TestClient) -> None:
    assert {task["state"] for task in client.get("/v1/watch").json()["tasks"].values()} == {"waiting"}
    found = answered(client, sentences(200, seed=9), 2)
    assert found["window"] == 100
    assert found["tasks"].keys() == {"pos", "tone"}
    assert [task["alarms"] for task in found["tasks"].values()] == [[], []]
    glued = [text.replace(" ", "") for text in sentences(200, seed=10)]  # a caller who loses the spaces
    found = answered(client, glued, 4)
    for name, task in found["tasks"].items():
        assert task["state"] == "alarm"
        alarm = next(alarm for alarm in task["alarms"] if alarm["signal"] == SUBWORDS)
        assert alarm["message"].startswith(f"{name}: words fall into another number of subwords, since ")
        assert "encoding" in alarm["advice"]
        assert task["windows"][-1]["estimate"] is None
        assert "no number can be supported" in task["windows"][-1]["reason"]
        assert task["texts"] == 400
    shown = client.get("/metrics").text
    assert 'palmette_drift_alarm{signal="subwords",task="pos"} 1.0' in shown
    assert 'palmette_estimate_supported{task="tone"} 0.0' in shown
    assert 'palmette_estimated_accuracy{task="tone"} NaN' in shown
    assert 'palmette_watch_windows_total{task="pos"} 4.0' in shown


def test_the_page_and_all_that_it_loads_are_served(client: TestClient) -> None:
    page = client.get("/watch")
    assert page.headers["content-type"].startswith("text/html")
    loaded = re.findall(r'(?:src|href)="([^"#]+)"', page.text)
    assert {"watch.js", "watch.css", "app.css"} <= set(loaded)
    assert {client.get(f"/{name}").status_code for name in loaded} == {200}


def test_no_text_is_kept(client: TestClient) -> None:
    found = answered(client, ["zanzibar is a good film"] * 100, 1)
    assert "zanzibar" not in json.dumps(found)
    assert "zanzibar" not in client.get("/metrics").text


def test_a_bundle_without_a_profile_is_refused_only_when_watching_is_asked_for(described: Path, tmp_path: Path) -> None:
    bundle = Bundle.open(described)
    files = {name: bundle.read(name) for name in bundle.manifest["files"] if name != PROFILE}
    about = {key: value for key, value in bundle.manifest.items() if key not in ("format", "files")}
    without = write_bundle(tmp_path / "earlier", files, about=about).folder
    with TestClient(create_app(Service(palmette.load, without, ServerSettings()))) as client:
        assert client.post("/v1/predict", json={"texts": ["a cat sat"]}).status_code == 200
        refused = client.get("/v1/watch")
        assert refused.status_code == 404
        assert "watch=true" in refused.json()["error"]["message"]
    with pytest.raises(BundleError, match="export it again to watch its answers"):
        Service(palmette.load, without, ServerSettings(watch=True))


def test_a_reload_of_a_bundle_that_cannot_be_watched_keeps_the_old_model(described: Path, tmp_path: Path) -> None:
    place = tmp_path / "model"
    shutil.copytree(described, place)
    bundle = Bundle.open(place)
    files = {name: bundle.read(name) for name in bundle.manifest["files"] if name != PROFILE}
    about = {key: value for key, value in bundle.manifest.items() if key not in ("format", "files")}
    service = Service(palmette.load, place, ServerSettings(watch=True, watch_window=100))
    with TestClient(create_app(service)) as client:
        shutil.rmtree(place)
        write_bundle(place, files, about=about)
        assert client.post("/v1/admin/reload").status_code == 409
        assert client.post("/v1/predict", json={"texts": ["a cat sat"]}).status_code == 200
        assert client.get("/v1/watch").json()["digest"] == bundle.digest


def test_gauges_end_with_the_model_that_they_describe(described: Path, tmp_path: Path) -> None:
    place = tmp_path / "model"
    shutil.copytree(described, place)
    bundle = Bundle.open(place)
    files = {name: bundle.read(name) for name in bundle.manifest["files"]}
    about = {key: value for key, value in bundle.manifest.items() if key not in ("format", "files")}
    service = Service(palmette.load, place, ServerSettings(watch=True, watch_window=100))
    with TestClient(create_app(service)) as client:
        answered(client, sentences(100, seed=13), 1)
        before = service.model
        assert 'task="tone"' in drift(client)
        shutil.rmtree(place)
        write_bundle(place, files, about=about | {"created": "later"})
        assert client.post("/v1/admin/reload").status_code == 200
        assert service.model.digest != before.digest
        assert 'task="tone"' not in drift(client)
        answered(client, sentences(100, seed=14), 1)
        assert 'task="tone"' in drift(client)


def drift(client: TestClient) -> str:
    return "".join(line for line in client.get("/metrics").text.splitlines() if line.startswith("palmette_drift"))


@pytest.mark.parametrize("name", ["prometheus-alerts.yml", "grafana-dashboard.json"])
def test_every_metric_that_rules_and_dashboard_name_exists(name: str) -> None:
    # JSON is YAML as well.
    content = yaml.safe_load((Path(__file__).parents[1] / "deploy" / name).read_text(encoding="utf-8"))
    asked = [expression for expression in expressions(content) if "palmette_" in expression]
    assert len(asked) >= 5
    offered: set[str] = set()
    for family in Metrics().registry.collect():
        suffix = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}.get(family.type, [""])
        offered |= {family.name + end for end in suffix}
    named = {found for expression in asked for found in re.findall(r"\bpalmette_\w+", expression)}
    assert named <= offered
    assert "palmette_drift_alarm" in named


def expressions(content: Any) -> Iterator[str]:
    """What is asked of Prometheus, anywhere in it."""
    if isinstance(content, dict):
        for key, value in content.items():
            if key in ("expr", "query") and isinstance(value, str):
                yield value
            else:
                yield from expressions(value)
    elif isinstance(content, list):
        for value in content:
            yield from expressions(value)
