"""The gate: equal models pass, a task that fell is named whatever the others do, and nothing passes by silence."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result
from safetensors.numpy import load_file, save_file

from conftest import NOW, Trained
from fakes import ALL_TASKS
from palmette.cli import main
from palmette.config import Config
from palmette.corpus import load_corpus
from palmette.errors import ConfigError, RunError
from palmette.operate.gate import GateSettings, gate
from palmette.operate.gate.report import write_report
from palmette.operate.gate.sides import Side
from palmette.types import Example

# 24 examples tell no more than this; times of tiny models vary.
LOOSE: dict[str, Any] = {"margin": 15.0, "latency_budget": 50.0, "latency_texts": 3, "latency_rounds": 5, "cases": 20}
LOOSE |= {"resamples": 200, "size_budget": 5.0}

Change = Callable[[dict[str, Any]], dict[str, Any]]


def altered(run: Path, folder: Path, change: Change) -> Path:
    """A copy of a run with other weights."""
    shutil.copytree(run, folder)
    save_file(change(load_file(folder / "model.safetensors")), folder / "model.safetensors")
    return folder


def turned(task: str) -> Change:
    """A head that says the opposite."""
    return lambda weights: {n: -w if n.startswith(f"heads.task_{task}.") else w for n, w in weights.items()}


def cut(run: Path, folder: Path, tasks: Collection[str]) -> Path:
    """A copy of a run that has only some tasks."""
    keep = tuple(f"heads.task_{task}." for task in tasks)
    altered(run, folder, lambda weights: {n: w for n, w in weights.items() if n.startswith(("trunk.", *keep))})
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["tasks"] = {task: found for task, found in config["tasks"].items() if task in tasks}
    for source in config["sources"]:
        source["labels"] = {task: found for task, found in source["labels"].items() if task in tasks}
    config["sources"] = [source for source in config["sources"] if source["labels"]]
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    labels = json.loads((folder / "labels.json").read_text())
    labels["tasks"] = {task: found for task, found in labels["tasks"].items() if task in tasks}
    (folder / "labels.json").write_text(json.dumps(labels))
    return folder


@pytest.fixture(scope="module")
def examples(trained: Trained) -> list[Example]:
    return load_corpus(trained.config, fitted=trained.loop.kinds).splits["test"]


def judged(old: Path, new: Path, examples: list[Example], **settings: Any) -> dict[str, Any]:
    return gate(old, new, now=NOW, settings=GateSettings(**{**LOOSE, **settings}), examples=examples)


@pytest.fixture(scope="module")
def equal(trained: Trained, bundled: Path, examples: list[Example]) -> dict[str, Any]:
    return judged(trained.folder, bundled, examples)


@pytest.fixture(scope="module")
def worse(trained: Trained, examples: list[Example], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("worse")
    return judged(trained.folder, altered(trained.folder, folder / "run", turned("ner")), examples)


def test_a_run_and_its_bundle_are_the_same_to_it(equal: dict[str, Any]) -> None:
    assert equal["verdict"] == "passed", equal["reasons"]
    assert equal["tasks"].keys() == ALL_TASKS.keys()
    for found in equal["tasks"].values():
        assert found["differing"] == 0 or abs(found["difference"]) < 0.01
        assert found["low"] < 0 < found["high"]  # no zero-width interval: 24 examples tell little
    assert (equal["old"]["form"], equal["new"]["form"]) == ("run", "bundle")


def test_a_task_that_fell_is_named_although_all_others_are_equal(worse: dict[str, Any]) -> None:
    assert worse["verdict"] == "failed"
    assert worse["tasks"]["ner"]["verdict"] == "fell"
    assert worse["reasons"][0].startswith("ner: fell: lower by ")
    assert {found["verdict"] for task, found in worse["tasks"].items() if task != "ner"} == {"passed"}


def test_a_gain_elsewhere_does_not_make_up_for_it(trained: Trained, examples: list[Example], tmp_path: Path) -> None:
    old = altered(trained.folder, tmp_path / "old", turned("pos"))
    new = altered(trained.folder, tmp_path / "new", turned("ner"))
    found = judged(old, new, examples)
    gain, loss = (100 * found["tasks"][task]["difference"] for task in ("pos", "ner"))
    assert gain > -loss > 15  # their mean has risen
    assert (found["verdict"], found["tasks"]["ner"]["verdict"]) == ("failed", "fell")


def test_too_few_examples_are_undecided_and_it_says_how_many_would_do(
    trained: Trained, bundled: Path, examples: list[Example]
) -> None:
    found = judged(trained.folder, bundled, examples, margin=1.0, margins={"pos": 15.0})
    assert found["verdict"] == "undecided"
    assert found["tasks"]["pos"]["verdict"] == "passed"
    assert found["tasks"]["tone"]["verdict"] == "undecided"
    assert found["tasks"]["tone"]["needed"] > found["tasks"]["tone"]["examples"]
    assert f"about {found['tasks']['tone']['needed']:,} would" in found["tasks"]["tone"]["reason"]


def test_a_task_that_the_data_do_not_label_is_undecided(trained: Trained, examples: list[Example]) -> None:
    without = [replace(e, labels={t: label for t, label in e.labels.items() if t != "ner"}) for e in examples]
    found = judged(trained.folder, trained.folder, without)
    assert (found["verdict"], found["tasks"]["ner"]["verdict"]) == ("undecided", "undecided")


def test_a_task_that_is_gone_fails_and_one_that_is_new_is_reported(
    trained: Trained, examples: list[Example], tmp_path: Path
) -> None:
    less = cut(trained.folder, tmp_path / "less", [task for task in ALL_TASKS if task != "ner"])
    found = judged(trained.folder, less, examples)
    assert (found["verdict"], found["tasks"]["ner"]["verdict"]) == ("failed", "missing")
    assert any("ner: missing: the new model has no such task" in reason for reason in found["reasons"])
    found = judged(less, trained.folder, examples)
    assert found["verdict"] == "passed", found["reasons"]
    assert found["new_tasks"]["ner"]["examples"] == 24
    assert found["new_tasks"]["ner"]["value"] > 0


def test_other_labels_make_another_task(trained: Trained, examples: list[Example], tmp_path: Path) -> None:
    other = shutil.copytree(trained.folder, tmp_path / "other")
    labels = (other / "labels.json").read_text().replace('"up"', '"upwards"')
    (other / "labels.json").write_text(labels)
    found = judged(trained.folder, other, examples)
    assert found["tasks"]["tone"]["verdict"] == "changed"
    assert "it lost up and got upwards as labels" in found["tasks"]["tone"]["reason"]
    assert found["verdict"] == "failed"


def test_size_and_time_have_budgets(trained: Trained, bundled: Path, examples: list[Example]) -> None:
    found = judged(trained.folder, bundled, examples, size_budget=0.01, latency_budget=1e-6)
    assert found["size"]["verdict"] == found["latency"]["verdict"] == found["verdict"] == "failed"
    assert len(found["latency"]["old_rounds_ms"]) == found["latency"]["rounds"] == 5


def test_confidence_that_no_longer_means_anything_fails(
    trained: Trained, examples: list[Example], tmp_path: Path
) -> None:
    def overconfident(weights: dict[str, Any]) -> dict[str, Any]:
        return {n: w * 100 if n.startswith("heads.task_same.") and w.shape[0] == 2 else w for n, w in weights.items()}

    new = altered(trained.folder, tmp_path / "sure", overconfident)
    found = judged(trained.folder, new, examples)
    assert found["calibration"]["same"]["rise"] > 0.05
    assert "likeness" not in found["calibration"]  # a number has no confidence
    strict = judged(trained.folder, new, examples, calibration_budget=0.0)
    assert any(reason.startswith("calibration of same:") for reason in strict["reasons"])


def test_margins_are_of_tasks_that_there_are(trained: Trained, examples: list[Example]) -> None:
    with pytest.raises(RunError, match="--margin nre: the old model has no such task; it has pos"):
        judged(trained.folder, trained.folder, examples, margins={"nre": 1.0})
    for given in ("ner=much", "ner=0", "-1"):
        with pytest.raises(ConfigError, match=f"--margin {given}: expected"):
            GateSettings.read([given])
    assert GateSettings.read(["2", "ner=0.5"], split=None).margin_of("ner") == 0.5
    assert GateSettings.read(["2", "ner=0.5"]).margin_of("pos") == 2.0


def test_sides_are_alternated_and_the_data_are_the_new_runs(trained: Trained) -> None:
    side = Side.load(trained.folder)
    assert side.config == Config.load(trained.folder / "config.yaml")
    assert side.about["bytes"] > (trained.folder / "model.safetensors").stat().st_size


def run_gate(*arguments: object) -> Result:
    loose = ["--margin", "15", "--latency-budget", "50", "--size-budget", "5", "--cases", "5"]
    loose += ["--calibration-budget", "100"]  # a run is not calibrated, its bundle is
    return CliRunner().invoke(main, ["gate", *map(str, arguments), *loose])


def test_the_command_writes_a_page_and_ends_with_its_verdict(trained: Trained, bundled: Path, tmp_path: Path) -> None:
    found = run_gate(bundled, trained.folder, "--out", tmp_path / "gate")
    assert (found.exit_code, "passed: The new model may take" in found.output) == (0, True), found.output
    report = json.loads((tmp_path / "gate" / "gate.json").read_text())
    assert report["verdict"] == "passed"
    page = (tmp_path / "gate" / "gate.html").read_text()
    assert "<h2>passed</h2>" in page
    assert "http" not in page.replace("http://www.w3.org", "").replace("http-equiv", "")  # it fetches nothing
    for task in ALL_TASKS:
        assert f"{task}: passed" in page


def test_the_command_fails_loudly(trained: Trained, tmp_path: Path) -> None:
    worse = altered(trained.folder, tmp_path / "worse", turned("ner"))
    found = run_gate(trained.folder, worse, "--json")
    assert found.exit_code == 1
    assert json.loads(found.stdout)["tasks"]["ner"]["verdict"] == "fell"


def test_a_users_mistake_is_no_verdict(bundled: Path, tmp_path: Path) -> None:
    found = run_gate(bundled, bundled)
    assert found.exit_code == 2
    assert "a bundle does not know where its data lie: --data CONFIG" in found.output
    assert run_gate(tmp_path, bundled).exit_code == 2


def test_a_page_names_what_failed(worse: dict[str, Any], tmp_path: Path) -> None:
    write_report(tmp_path, worse)
    page = (tmp_path / "gate.html").read_text()
    assert "<h2>failed</h2>" in page
    assert page.index("ner: fell") < page.index('<section id="tasks">')
