"""Confidences mean what they say, and a threshold keeps what it promises."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fakes import tiny_config
from palmette import calibration, trainer
from palmette.calibration import TEMPERATURES, Claims
from palmette.cli import main
from palmette.confidence import Calibration
from palmette.config import Config, TaskConfig
from palmette.deploy.bundle import Bundle
from palmette.deploy.decisions import set_thresholds
from palmette.deploy.export import export
from palmette.errors import BundleError, ConfigError
from palmette.kinds import KINDS, AnyKind
from palmette.run import Run
from palmette.runtime import Runtime
from palmette.types import Answer, Prediction

NOW = datetime(2026, 11, 24, tzinfo=UTC)


def sigmoid(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(1 / (1 + np.exp(-scores)))


def overconfident(
    rng: np.random.Generator, *, texts: int, each: int = 4, factor: float = 2.0, spread: float = 0.0
) -> Claims:
    """Claims whose scores are `factor` times too large; with `spread`, those of a text are right or wrong together."""
    scores = rng.normal(2.5, 1.5, (texts, each))
    shift = rng.normal(0, spread, (texts, 1)) if spread else 0.0
    right = rng.random((texts, each)) < sigmoid(scores + shift)
    confidence = np.stack([sigmoid(factor * scores.ravel() / value) for value in TEMPERATURES])
    return Claims(confidence, right.ravel(), np.repeat(np.arange(texts, dtype=np.int32), each))


def test_a_temperature_is_found_and_halves_the_error() -> None:
    seed = 3
    claims = overconfident(np.random.default_rng(seed), texts=600)
    fitted = calibration.fit(claims)
    assert fitted.calibration.method == "temperature"
    assert 1.5 < fitted.calibration.temperature < 2.8
    fresh = overconfident(np.random.default_rng(seed + 1), texts=600)
    before, after = (
        calibration.measure(calibration.confidences(fresh, by), fresh.right)
        for by in (Calibration(), fitted.calibration)
    )
    assert after["ece"] < before["ece"] / 2
    assert after["brier"] < before["brier"]
    assert after["aurc"] == pytest.approx(before["aurc"])  # a temperature orders nothing anew


def test_what_no_temperature_mends_is_mapped() -> None:
    rng = np.random.default_rng(5)
    confidence = rng.uniform(0.3, 1, 3000)
    right = rng.random(3000) < np.where(confidence > 0.6, 0.5, 0.1)  # a step
    claims = Claims(np.repeat(confidence[None], len(TEMPERATURES), axis=0), right, np.arange(3000, dtype=np.int32))
    fitted = calibration.fit(claims)
    assert fitted.calibration.method == "isotonic"
    assert fitted.calibration.mean(0.9) == pytest.approx(0.5, abs=0.06)
    assert fitted.calibration.mean(0.4) == pytest.approx(0.1, abs=0.06)


def test_few_claims_fit_nothing() -> None:
    fitted = calibration.fit(overconfident(np.random.default_rng(1), texts=10))
    assert fitted.calibration == Calibration()


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=200))
@settings(max_examples=50)
def test_measures_stay_in_their_ranges(pairs: list[tuple[float, bool]]) -> None:
    confidence, right = np.array([c for c, _ in pairs]), np.array([r for _, r in pairs])
    found = calibration.measure(confidence, right)
    assert all(0 <= found[name] <= 1 for name in ("ece", "brier", "aurc"))
    assert sum(count for _, _, count in found["reliability"]) == len(pairs)
    assert found["risk_coverage"][-1] == [1.0, pytest.approx(1 - right.mean(), abs=1e-4)]


@pytest.mark.parametrize("spread", [0.0, 1.5], ids=["independent", "texts right or wrong together"])
def test_the_bound_holds_for_as_many_new_claims(spread: float) -> None:
    rng = np.random.default_rng(7)
    kept = 0
    for _ in range(300):
        old, new = (overconfident(rng, texts=150, each=8, spread=spread) for _ in range(2))
        kept += new.right.mean() >= calibration.lower_bound(old.right, old.text)
    assert 0.92 <= kept / 300 <= 0.99


def test_targets_are_met_on_new_claims() -> None:
    rng = np.random.default_rng(11)
    met, shares = 0, []
    for _ in range(150):
        seen, unseen = (overconfident(rng, texts=500, spread=0.7) for _ in range(2))
        fitted = calibration.fit(seen)
        reached, best = calibration.operate(fitted.held_out, seen.right, seen.text, target=0.93)
        assert reached is not None
        assert reached.bound >= 0.93
        assert best.bound >= reached.bound
        automatic = calibration.confidences(unseen, fitted.calibration) >= reached.threshold
        met += unseen.right[automatic].mean() >= 0.93
        shares.append(automatic.mean())
    assert met / 150 >= 0.92
    assert np.mean(shares) > 0.3  # and not by handing everything over


def test_a_target_out_of_reach_names_the_best() -> None:
    claims = overconfident(np.random.default_rng(2), texts=100)
    reached, best = calibration.operate(claims.confidence[0], claims.right, claims.text, target=0.9999)
    assert reached is None
    assert 0 < best.bound < 0.9999


def test_claims_survive_packing() -> None:
    claims = overconfident(np.random.default_rng(2), texts=30)
    content = calibration.pack({"ner": (claims, claims.confidence[0])})
    again = calibration.unpack(content, ["pos", "ner"])
    assert list(again) == ["ner"]
    np.testing.assert_allclose(again["ner"].confidence[0], claims.confidence[0], atol=1e-6)
    np.testing.assert_array_equal(again["ner"].right, claims.right)
    with pytest.raises(BundleError, match="damaged"):
        calibration.unpack(content[:50], ["ner"])


@pytest.mark.parametrize(
    ("state", "wrong"),
    [
        ({"method": "isotonic", "knots": [[0.2, 0.1], [0, 1]]}, "ascend"),
        ({"method": "temperature", "temperature": 0}, "above 0"),
    ],
)
def test_a_damaged_calibration_is_refused(state: dict[str, object], wrong: str) -> None:
    with pytest.raises(ValueError, match=wrong):
        Calibration.of(state)


def test_claims_of_each_kind() -> None:
    def kind(name: str, state: dict[str, object], **config: object) -> AnyKind:
        return KINDS[name]("t", TaskConfig.model_validate({"kind": name, **config}), state)

    tags = kind("sequence_labeling", {"labels": ["A", "B"]})
    assert [(c.item, c.confidence) for c in tags.claims(Prediction(("A", "B"), (0.9, 0.5)))] == [
        ((0, "A"), 0.9),
        ((1, "B"), 0.5),
    ]
    assert tags.holds((0, "A"), ("A", "A"))
    assert not tags.holds((1, "B"), ("A", "A"))
    spans = kind("sequence_labeling", {"labels": ["B-X", "I-X", "O"]}, scheme="iob2")
    (claim,) = spans.claims(Prediction(("O", "B-X", "I-X"), (0.1, 0.9, 0.7)))
    assert claim.confidence == 0.7
    (behind,) = spans.claims(Prediction(("O", "B-X", "I-X", "O"), (0.1, 0.9, 0.7, 0.6)))
    assert behind.confidence == 0.6  # that it ends there must be right, too
    assert spans.holds(claim.item, ("O", "B-X", "I-X"))
    assert not spans.holds(claim.item, ("O", "B-X", "O"))
    (claim,) = kind("text_classification", {"labels": ["x", "y"]}).claims(Prediction("x", 0.8))
    assert (claim.item, claim.confidence) == ("x", 0.8)
    members = kind("multilabel_classification", {"labels": ["x", "y"], "threshold": 0.5})
    (claim,) = members.claims(Prediction(frozenset({"x"}), 0.8))
    assert members.holds(claim.item, frozenset({"x"}))
    assert not members.holds(claim.item, frozenset({"x", "y"}))
    answers = kind("extractive_qa", {"unanswerable": True})
    (claim,) = answers.claims(Prediction((Answer(3, "The cat"),), 0.8))
    assert answers.holds(claim.item, (Answer(7, "cat"),))
    assert not answers.holds(claim.item, ())
    assert kind("regression", {"mean": 0.0, "deviation": 1.0}).claims(Prediction(1.0, float("nan"))) == []


@dataclass(frozen=True)
class Made:
    run: Path
    bundle: Path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("calibration")
    trainer.train(Config.parse(tiny_config(folder, examples=120, epochs=1)), folder / "run")
    export(folder / "run", folder / "bundle", now=NOW)
    return Made(folder / "run", folder / "bundle")


def test_export_calibrates_and_changes_no_answer(made: Made) -> None:
    run, model = Run.load(made.run), Runtime.load(made.bundle)
    report = model.bundle.read_json("calibration.json")
    assert any(found["method"] != "none" for found in report.values())
    for text in ("The cat sat", "a dog in Paris", ("the cat", "the dog")):
        own = run.predict(text)["tasks"]
        for task, found in model.predict(text)["tasks"].items():
            for key in ("label", "labels", "tags", "answer"):
                assert found.get(key) == own[task].get(key)
    assert "## Confidence" in model.bundle.card
    drawn = ET.fromstring(model.bundle.read("calibration.svg"))  # noqa: S314 - our own
    titles = [element.text or "" for element in drawn.iter("{http://www.w3.org/2000/svg}text")]
    assert all(any(title.startswith(f"{task} (") for title in titles) for task in report)
    assert len(list(drawn.iter("{http://www.w3.org/2000/svg}polyline"))) == 5 * len(report)


def test_a_threshold_decides_and_the_old_bundle_stays(made: Made, tmp_path: Path) -> None:
    claims = calibration.unpack(Runtime.load(made.bundle).bundle.read("claims.npz"), ["pos"])["pos"]
    target = max(
        0.01, calibration.operate(claims.confidence[0], claims.right, claims.text, target=0.999)[1].bound - 0.01
    )
    before = Runtime.load(made.bundle)
    written = set_thresholds(made.bundle, tmp_path / "decided", {"pos": target})
    model = Runtime.load(written.folder)
    threshold = model.kinds["pos"].calibration.threshold
    assert threshold is not None
    seen = set()
    for text in ("The cat sat on a mat in Paris", "dog", "a cat and the dog"):
        found = model.predict(text)["tasks"]["pos"]
        assert found["decisions"] == ["review" if c < threshold else "automatic" for c in found["confidence"]] or any(
            abs(c - threshold) < 1e-4 for c in found["confidence"]
        )
        assert found["decision"] == ("review" if "review" in found["decisions"] else "automatic")
        seen |= set(found["decisions"])
        assert "decision" not in before.predict(text)["tasks"]["pos"]
    assert "## Decisions" in model.bundle.card
    assert model.bundle.manifest["from"] == before.bundle.digest
    assert model.bundle.read_json("calibration.json")["pos"]["decisions"]["target"] == target


def test_what_cannot_be_promised_is_refused(made: Made, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"task pos: no threshold reaches .* Best: "):
        set_thresholds(made.bundle, tmp_path / "out", {"pos": 0.99999})
    with pytest.raises(ConfigError, match="no such task; it has"):
        set_thresholds(made.bundle, tmp_path / "out", {"nothing": 0.9})
    with pytest.raises(ConfigError, match="above 0 and below 1"):
        set_thresholds(made.bundle, tmp_path / "out", {"pos": 95})
    assert not (tmp_path / "out").exists()


def test_the_command(made: Made, tmp_path: Path) -> None:
    result = CliRunner().invoke(
        main, ["calibrate", str(made.bundle), "--target", "pos=0.02", "--out", str(tmp_path / "b")]
    )
    assert result.exit_code == 0, result.output
    assert "of answers are automatic" in result.output
    again = CliRunner().invoke(main, ["calibrate", str(made.bundle), "--target", "pos", "--out", str(tmp_path / "c")])
    assert again.exit_code == 2
    assert "pos=" in again.output or "ner=0.95" in again.output
    made_of = json.loads((tmp_path / "b" / "tasks.json").read_text())["tasks"]["pos"]["state"]["calibration"]
    assert 0 <= made_of["threshold"] < 1  # 0 where all answers reach so low a target


def test_it_writes_beside_the_bundle_unless_told_where_and_never_over_anything(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(made.bundle, tmp_path / "mine")
    monkeypatch.chdir(tmp_path / "mine")
    for bundle in (tmp_path / "mine", Path(), Path("..", "mine")):
        result = CliRunner().invoke(main, ["calibrate", str(bundle), "--target", "pos=0.02"])
        written = tmp_path / "mine-calibrated"
        assert (result.exit_code, "mine-calibrated: " in result.output) == (0, True), result.output
        assert Bundle.open(written).manifest["from"] == Bundle.open(made.bundle).digest
        again = CliRunner().invoke(main, ["calibrate", str(bundle), "--target", "pos=0.02"])
        assert (again.exit_code, "mine-calibrated: exists; give --out another name" in again.output) == (2, True)
        shutil.rmtree(written)
