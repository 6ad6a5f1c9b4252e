"""A study as its user runs it: on tiny models, in this process unless processes are what is tested."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import palmette
from endpoint import Reply, served
from fakes import WORDS, tiny_config, tiny_language_model, tiny_t5, tiny_trunk, write_jsonl
from palmette.config import Config
from palmette.errors import BudgetError, ConfigError, RunError
from palmette.kinds import KINDS, find_kind
from palmette.kinds.base import Kind
from palmette.kinds.text_classification import TextClassification
from palmette.study import job as worker
from palmette.study import transfer, tuning, verdict
from palmette.study.compare import compare
from palmette.study.execute import Children, Engine, Processes, Ray
from palmette.study.jobs import Job
from palmette.study.plan import Plan, read_budget
from palmette.study.regimes import REGIMES, ModelPlan, Setting
from palmette.study.report import write_report

TASKS = ("pos", "ner", "tone")
TRAINED = ("single_task", "multi_task", "frozen", "sequential")


@dataclass
class InProcess:
    """Runs jobs here: starting a process takes longer than such a model's whole training."""

    ran: list[Path] = field(default_factory=list)
    fails: Callable[[dict[str, Any]], bool] | None = None

    def run(self, folders: Sequence[Path], done: Callable[[Path], None]) -> None:
        for folder in folders:
            self.ran.append(folder)
            if self.fails is not None and self.fails(json.loads((folder / worker.JOB).read_text())):
                (folder / worker.ERROR).write_text("exit code 1: out of memory\n")
            else:
                try:
                    worker.run(folder)
                except BudgetError as error:  # as the process that runs a job does with every error of ours
                    (folder / worker.ERROR).write_text(f"{error}\n")
            done(folder)


def small(folder: Path, tasks: Sequence[str] = TASKS, **training: Any) -> Config:
    """A configuration of some tasks over the same few sentences."""
    made = tiny_config(folder, **training)
    source = next(source for source in made["sources"] if source["name"] == "words")
    source["labels"] = {task: task for task in tasks}
    return Config.parse(made | {"tasks": {task: made["tasks"][task] for task in tasks}, "sources": [source]})


@dataclass(frozen=True)
class Studied:
    config: Config
    folder: Path
    study: dict[str, Any]
    ledger: dict[str, Any]


@pytest.fixture(scope="module")
def studied(tmp_path_factory: pytest.TempPathFactory) -> Studied:
    """Every regime, design and a curve, two seeds, two trials. Treat it as read-only."""
    folder = tmp_path_factory.mktemp("study")
    config = small(folder)
    plan = Plan.make(config, seeds=2, trials=2, designs=["pairs", "leave_one_out"], curve=[50, 100], probes=2)
    study = compare(config, folder / "study", plan=plan, engine=InProcess(), threads=1)
    return Studied(config, folder / "study", study, json.loads((folder / "study" / "ledger.json").read_text()))


def test_the_study_on_disk_is_what_is_returned_and_has_a_page(studied: Studied) -> None:
    assert json.loads((studied.folder / "study.json").read_text()) == studied.study
    assert "<html" in (studied.folder / "report.html").read_text()


def test_every_regime_answers_every_task_with_every_seed(studied: Studied) -> None:
    for task in TASKS:
        for regime in TRAINED:
            scores = studied.study["scores"][task][regime]
            assert set(scores["seeds"]) == {"1", "2"}
            assert scores["mean"] == pytest.approx(np.mean(list(scores["seeds"].values())))
            assert scores["gap"] == pytest.approx(scores["train"] - scores["dev"])


def test_differences_are_those_of_the_scores(studied: Studied) -> None:
    for task in TASKS:
        alone = studied.study["scores"][task]["single_task"]["mean"]
        for regime, found in studied.study["differences"][task].items():
            assert found["difference"] == pytest.approx(studied.study["scores"][task][regime]["mean"] - alone)
            assert found["low"] <= found["difference"] <= found["high"]
            assert found["p_holm"] >= found["p"]
            assert found["verdict"] in {"helps", "hurts", "no difference shown"}


def test_every_regime_draws_the_same_number_of_examples_of_a_task(studied: Studied) -> None:
    drawn = [found["drawn"] for found in studied.study["regimes"].values()]
    assert all(counts == drawn[0] for counts in drawn)


def test_trials_never_see_test_and_every_model_has_as_many(studied: Studied) -> None:
    finished = [json.loads(path.read_text()) for path in studied.folder.glob("runs/*/result.json")]
    seeds = [(json.loads(path.read_text())["test"], path.parent) for path in studied.folder.glob("runs/*/job.json")]
    assert all((folder / worker.PARTS).exists() == test for test, folder in seeds)
    assert len(finished) == len(seeds)
    for found in studied.study["regimes"].values():
        for model in found["models"]:
            tried = [trial for trial in found["trials"] if trial["model"] == "+".join(model)]
            assert len(tried) == 2
            assert sum(trial["chosen"] for trial in tried) == 1
            best = max(trial["score"] for trial in tried)
            assert next(trial["score"] for trial in tried if trial["chosen"]) == best


def test_the_chosen_settings_are_those_of_the_runs(studied: Studied) -> None:
    for found in studied.study["regimes"].values():
        for run in found["runs"]:
            config = Config.load(studied.folder / "runs" / run["key"] / "run" / "config.yaml")
            for path, value in found["chosen"][run["model"]].items():
                assert getattr(config.training, path.removeprefix("training.")) == value


def test_a_frozen_trunk_stays_what_it_was(studied: Studied) -> None:
    found = studied.study["regimes"]["frozen"]["runs"][0]
    assert Config.load(studied.folder / "runs" / found["key"] / "run" / "config.yaml").trunk.frozen


def test_pairs_and_leave_one_out_are_compared(studied: Studied) -> None:
    pairs = studied.study["transfer"]["pairs"]
    assert {(i, j) for i, row in pairs.items() for j in row} == {(i, j) for i in TASKS for j in TASKS if i != j}
    left_out = studied.study["leave_one_out"]
    assert all(entry["p_holm"] >= entry["p"] for row in left_out.values() for entry in row.values())
    assert {task: set(row) for task, row in left_out.items()} == {t: set(TASKS) - {t} for t in TASKS}
    assert [found["models"] for found in studied.study["transfer"]["grouping"]] == [1, 2, 3]
    assert studied.study["transfer"]["rank_correlation"]["pairs"] == 6


def test_the_curve_cuts_one_task_and_leaves_the_others(studied: Studied) -> None:
    curve = studied.study["learning_curve"]
    assert curve["task"] == "ner"  # the first of equals by name
    assert {(point["percent"], point["regime"]) for point in curve["points"]} == {
        (percent, regime) for percent in (50, 100) for regime in TRAINED
    }
    by_percent = {point["percent"]: point["examples"] for point in curve["points"]}
    assert by_percent[50] == by_percent[100] / 2
    whole = {p["regime"]: p["mean"] for p in curve["points"] if p["percent"] == 100}
    assert whole == {regime: studied.study["scores"]["ner"][regime]["mean"] for regime in TRAINED}


def test_the_ledger_counts_what_each_regime_costs(studied: Studied) -> None:
    costs = studied.ledger["regimes"]
    assert costs["single_task"]["models"] == 3
    assert costs["multi_task"]["models"] == 1
    assert costs["multi_task"]["parameters"]["total"] < costs["single_task"]["parameters"]["total"] / 2
    assert set(costs["multi_task"]["parameters"]["tasks"]) == set(TASKS)
    alone = costs["single_task"]["parameters"]
    assert (alone["shared"], sum(alone["tasks"].values())) == (0, alone["total"]), "nothing is shared by models apart"
    for cost in costs.values():
        assert cost["bytes"] > 0
        assert cost["ms_per_text"] > 0
        assert cost["seconds"] > 0
        assert cost["peak_rss_gb"] > 0
        assert cost["one_by_one"]
    assert len({cost["texts"] for cost in costs.values()}) == 1, "the same texts for every model"
    assert costs["multi_task"]["probe_seconds"] > 0
    assert costs["single_task"]["probe_seconds"] == 0
    (machine,) = studied.ledger["hardware"]
    assert machine["cores"] >= 1
    assert machine["threads"] == 1
    assert machine["runs"] == len(list(studied.folder.glob("runs/*/parts.safetensors")))
    assert costs["sequential"]["wordpieces"] == studied.study["regimes"]["sequential"]["wordpieces"]


def test_models_of_tasks_with_their_own_texts_are_timed_on_all_of_them(tmp_path: Path) -> None:
    data = small(tmp_path / "a", ("pos",), epochs=1).model_dump(mode="json", exclude_none=True)
    other = small(tmp_path / "b", ("tone",), epochs=1, examples=6).model_dump(mode="json", exclude_none=True)
    config = Config.parse(
        data
        | {
            "tasks": data["tasks"] | other["tasks"],
            "sources": [data["sources"][0], other["sources"][0] | {"name": "b"}],
        }
    )
    plan = Plan.make(config, regimes=["multi_task"], seeds=1, trials=1, probes=0)
    compare(config, tmp_path / "study", plan=plan, engine=InProcess(), threads=1)
    results = [json.loads(path.read_text()) for path in (tmp_path / "study").glob("runs/*/result.json")]
    assert len({result["texts"] for result in results}) == 1


def test_only_models_that_may_be_shipped_or_started_from_keep_their_weights(studied: Studied) -> None:
    for path in studied.folder.glob("runs/*/job.json"):
        kept = (path.parent / "run" / "model.safetensors").exists()
        assert kept == json.loads(path.read_text())["keep"]


def test_a_finished_study_trains_nothing_again(studied: Studied, tmp_path: Path) -> None:
    copy = tmp_path / "moved"
    shutil.copytree(studied.folder, copy)
    plan = Plan.make(studied.config, seeds=2, trials=2, designs=["pairs", "leave_one_out"], curve=[50, 100], probes=2)
    engine = InProcess()
    assert compare(studied.config, copy, plan=plan, engine=engine, threads=1) == studied.study
    assert engine.ran == []


def test_results_without_their_weights_are_not_trained_again(studied: Studied, tmp_path: Path) -> None:
    for path in studied.folder.glob("runs/*/result.json"):
        place = tmp_path / "study" / "runs" / path.parent.name
        place.mkdir(parents=True)
        for name in (worker.RESULT, worker.PARTS):
            if (path.parent / name).exists():
                shutil.copy(path.parent / name, place)
    plan = Plan.make(studied.config, seeds=2, trials=2, designs=["pairs", "leave_one_out"], curve=[50, 100], probes=2)
    engine = InProcess()
    assert compare(studied.config, tmp_path / "study", plan=plan, engine=engine, threads=1) == studied.study
    assert engine.ran == []


def test_a_start_whose_weights_are_gone_is_trained_again_for_what_is_new(studied: Studied, tmp_path: Path) -> None:
    copy = tmp_path / "study"
    shutil.copytree(studied.folder, copy)
    plan = Plan.make(studied.config, seeds=2, trials=2, designs=["pairs", "leave_one_out"], curve=[50, 100], probes=2)
    for path in copy.glob("runs/*/job.json"):
        if json.loads(path.read_text())["keep"]:
            shutil.rmtree(path.parent / "run")
    began = [p for p in copy.glob("runs/*/job.json") if "/runs/" in json.loads(p.read_text())["config"]]
    (began[0].parent / worker.RESULT).unlink()
    engine = InProcess()
    assert compare(studied.config, copy, plan=plan, engine=engine, threads=1) == studied.study
    assert len(engine.ran) == 2  # the first stage, and what starts from it
    assert engine.ran[1].name == began[0].parent.name


def test_an_extended_study_trains_only_what_is_new(tmp_path: Path) -> None:
    config = small(tmp_path, ("pos", "tone"), epochs=1)
    options = {"regimes": ["multi_task"], "trials": 1, "probes": 0}
    first, second = InProcess(), InProcess()
    compare(config, tmp_path / "study", plan=Plan.make(config, seeds=1, **options), engine=first, threads=1)
    study = compare(config, tmp_path / "study", plan=Plan.make(config, seeds=2, **options), engine=second, threads=1)
    assert len(first.ran) == 3  # each task alone, and both
    assert len(second.ran) == 3
    assert not set(first.ran) & set(second.ran)
    assert study["plan"]["regimes"] == ["single_task", "multi_task"]  # the baseline joins by itself


def test_it_is_the_same_from_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("palmette.study.execute.run_in_child", lambda place, _: worker.run(place))
    config = small(tmp_path, ("pos", "tone"), epochs=1)
    options: dict[str, Any] = {"regimes": ["multi_task", "multi_task"], "seeds": 1, "trials": 1, "probes": 0}
    study = palmette.compare(config, tmp_path / "study", threads=1, **options)
    assert study["plan"]["regimes"] == ["single_task", "multi_task"]
    jobs = [json.loads(path.read_text()) for path in (tmp_path / "study").glob("runs/*/job.json")]
    assert [job["threads"] for job in jobs] == [1, 1, 1]


def test_changed_data_are_trained_on_again(tmp_path: Path) -> None:
    config = small(tmp_path, ("pos", "tone"), epochs=1)
    plan = Plan.make(config, regimes=["multi_task"], seeds=1, trials=1, probes=0)
    compare(config, tmp_path / "study", plan=plan, engine=InProcess(), threads=1)
    train = Path(str(config.sources[0].train))
    train.write_text(train.read_text() + train.read_text().splitlines()[0] + "\n")
    engine = InProcess()
    compare(config, tmp_path / "study", plan=plan, engine=engine, threads=1)
    assert len(engine.ran) == 3


def test_a_changed_folder_of_a_dataset_is_another_one_and_a_moved_one_is_not(tmp_path: Path) -> None:
    config = small(tmp_path)
    jobs = []
    for name, content in (("a", "1"), ("b", "1"), ("c", "2")):
        (tmp_path / name / "train").mkdir(parents=True)
        (tmp_path / name / "dataset_dict.json").write_text("{}")
        (tmp_path / name / "train" / "data.arrow").write_text(content)
        path = str(tmp_path / name)
        source = {
            "format": "datasets",
            "path": path,
            "train": "train",
            "text": "t",
            "labels": {"tone": "y"},
        }
        made = config.model_dump(mode="json", exclude_none=True) | {"sources": [source]}
        made["tasks"] = {"tone": made["tasks"]["tone"]}
        jobs.append(Job(Config.parse(made), Config.parse(made)).key)
    assert jobs[0] == jobs[1] != jobs[2]


@pytest.mark.parametrize("split", ["dev", "test"])
def test_a_task_without_what_it_is_measured_on_is_refused_before_anything_runs(tmp_path: Path, split: str) -> None:
    config = small(tmp_path, ("pos", "tone"))
    made = config.model_dump(mode="json", exclude_none=True)
    whole, part = made["sources"][0], {**made["sources"][0], "name": "part"}
    whole["labels"], part["labels"] = {"pos": "pos"}, {"tone": "tone"}
    part.pop(split)
    config = Config.parse(made | {"sources": [whole, part]})
    plan = Plan.make(config, regimes=["multi_task"], seeds=1, trials=1)
    with pytest.raises(RunError, match=rf"tasks.tone: no {split} example: .* its sources \(part\) must have both"):
        compare(config, tmp_path / "study", plan=plan, engine=InProcess(), threads=1)
    assert not (tmp_path / "study").exists()


def test_every_choice_on_dev_is_by_the_mean_of_the_tasks(tmp_path: Path) -> None:
    config = small(tmp_path, ("pos", "tone"), epochs=1, select="tone")
    plan = Plan.make(config, regimes=["multi_task"], seeds=1, trials=1, probes=0)
    said: list[str] = []
    study = compare(config, tmp_path / "study", plan=plan, engine=InProcess(), threads=1, say=said.append)
    assert study["plan"]["select"] == "mean_relative"
    assert said[0].startswith("selecting by mean_relative: ")


def test_what_is_no_folder_is_refused(tmp_path: Path) -> None:
    config = small(tmp_path, ("pos", "tone"), epochs=1)
    (tmp_path / "file").write_text("")
    plan = Plan.make(config, regimes=["multi_task"], seeds=1, trials=1, probes=0)
    with pytest.raises(RunError, match="file: is a file; a study is a folder"):
        compare(config, tmp_path / "file", plan=plan, engine=InProcess(), threads=1)
    with pytest.raises(RunError, match="is no finished study"):
        write_report(tmp_path / "file")
    with pytest.raises(ConfigError, match="jobs: expected 1 or more, found 0"):
        palmette.compare(config, tmp_path / "study", jobs=0)


def test_an_interrupted_study_leaves_nothing_running(tmp_path: Path) -> None:
    """Ctrl-C, or an error of our own: what is queued is not begun, and what runs is ended before the folder is free."""
    folders = []
    for number in range(4):
        folders.append(tmp_path / str(number))
        folders[-1].mkdir()
        (folders[-1] / worker.JOB).write_text(json.dumps({"threads": 1}))  # ends at once, and has failed

    def interrupt(_: Path) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Processes(1).run(folders, interrupt)
    begun = [(folder / "log.txt").exists() for folder in folders]
    assert begun[0]
    assert not begun[-1]
    children = Children()
    process = children.start(lambda: subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]))
    children.end()
    assert process.wait(10) != 0
    with pytest.raises(CancelledError):
        children.start(lambda: subprocess.Popen([sys.executable, "-c", ""]))


def test_a_failed_run_is_shown_and_tried_again(tmp_path: Path) -> None:
    config = small(tmp_path, ("pos", "tone"), epochs=1)
    plan = Plan.make(config, regimes=["single_task", "multi_task"], seeds=2, trials=1, probes=0)

    def fails(described: dict[str, Any]) -> bool:
        return "seed: 2" in described["config"] and "tone" in described["config"] and "pos" in described["config"]

    said: list[str] = []
    broken = InProcess(fails=fails)
    study = compare(config, tmp_path / "study", plan=plan, engine=broken, threads=1, say=said.append)
    (failed,) = [run for run in study["regimes"]["multi_task"]["runs"] if run["state"] == "failed"]
    assert (failed["seed"], failed["error"]) == (2, "exit code 1: out of memory")
    assert study["scores"]["pos"]["multi_task"]["seeds"]["2"] is None
    drawn = [study["regimes"][regime]["drawn"] for regime in ("single_task", "multi_task")]
    assert drawn[0] == drawn[1], "a mean over the runs that finished"
    assert study["differences"]["pos"]["multi_task"]["verdict"] == "too few runs"
    assert study["recommendation"]["overall"] == "undecided"
    assert any("FAILED: exit code 1: out of memory" in line for line in said)
    assert "out of memory" in (tmp_path / "study" / "report.html").read_text()

    healed = InProcess()
    study = compare(config, tmp_path / "study", plan=plan, engine=healed, threads=1)
    assert [folder.name for folder in healed.ran] == [failed["key"]]
    assert study["differences"]["pos"]["multi_task"]["verdict"] != "too few runs"


def test_a_metric_without_parts_costs_the_comparison_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The metric of a kind from another package may be no mean over examples: known when all is trained."""

    def parts(kind: Kind[Any], gold: Sequence[Any], predicted: Sequence[Any]) -> Any:
        raise ConfigError(f"tasks.{kind.task}.metric: implement `parts`")

    monkeypatch.setattr(TextClassification, "parts", parts)
    config = small(tmp_path, ("pos", "tone"), epochs=1)
    plan = Plan.make(config, regimes=["single_task", "multi_task"], seeds=2, trials=1, probes=0)
    study = compare(config, tmp_path / "study", plan=plan, engine=InProcess(), threads=1)
    assert {run["state"] for regime in study["regimes"].values() for run in regime["runs"]} == {"done"}
    reason = "tasks.tone.metric: implement `parts`"
    assert study["differences"]["tone"]["multi_task"] == {"verdict": "not comparable", "reason": reason}
    assert study["scores"]["tone"]["multi_task"]["mean"] is not None
    assert "difference" in study["differences"]["pos"]["multi_task"]
    assert study["recommendation"]["tasks"]["tone"]["reason"] == reason
    assert reason in (tmp_path / "study" / "report.html").read_text()


def test_what_starts_from_a_failed_run_fails_and_says_why(tmp_path: Path) -> None:
    config = small(tmp_path, ("pos", "tone"))
    plan = Plan.make(config, regimes=["sequential"], support="pos", seeds=1, trials=1)
    engine = InProcess(fails=lambda described: not described["test"])
    study = compare(config, tmp_path / "study", plan=plan, engine=engine, threads=1)
    errors = {run["error"] for run in study["regimes"]["sequential"]["runs"]}
    assert errors == {"what it starts from failed: exit code 1: out of memory"}


def test_a_cap_on_examples_holds_for_every_regime(tmp_path: Path) -> None:
    config = small(tmp_path, ("pos", "tone"), epochs=2)
    plan = Plan.make(config, seeds=1, trials=1, examples=20, probes=0)
    study = compare(config, tmp_path / "study", plan=plan, engine=InProcess(), threads=1)
    assert study["tasks"]["pos"]["examples"]["train"] == 10
    for found in study["regimes"].values():
        assert max(found["drawn"].values()) <= 20


def test_a_task_seen_more_often_in_the_mix_is_seen_as_often_alone(tmp_path: Path) -> None:
    config = small(tmp_path, ("pos", "tone"), epochs=4)
    data = config.model_dump(mode="json", exclude_none=True)
    data["tasks"]["tone"]["train_fraction"] = 0.25
    data["mixing"] = {"kind": "uniform"}
    config = Config.parse(data)
    plan = Plan.make(config, regimes=["multi_task"], seeds=1, trials=1, probes=0)
    study = compare(config, tmp_path / "study", plan=plan, engine=InProcess(), threads=1)
    mixed, alone = (study["regimes"][regime]["drawn"] for regime in ("multi_task", "single_task"))
    assert alone["tone"] == pytest.approx(mixed["tone"], rel=0.25)


def test_a_part_of_a_task_is_seen_as_often_alone_as_in_the_mix(tmp_path: Path) -> None:
    config = small(tmp_path, ("pos", "tone"), epochs=4)
    config = Config.parse(config.model_dump(mode="json", exclude_none=True) | {"mixing": {"kind": "uniform"}})
    plan = Plan.make(config, regimes=["multi_task"], seeds=1, trials=1, probes=0, curve=[25], curve_task="tone")
    study = compare(config, tmp_path / "study", plan=plan, engine=InProcess(), threads=1)
    alone, mixed = (study["designs"][f"{regime} at 25 %"]["drawn"]["tone"] for regime in ("single_task", "multi_task"))
    assert mixed > 6 * 4, "uniform mixing draws the smaller task more often"
    assert alone == pytest.approx(mixed, rel=0.25)


def test_a_cap_that_mixing_would_break_is_refused(tmp_path: Path) -> None:
    config = small(tmp_path, ("pos", "tone"), epochs=2)
    source = config.model_dump(mode="json", exclude_none=True)
    weights = {"mixing": {"kind": "weights", "weights": {"pos": 1, "tone": 9}}}
    apart = [source["sources"][0] | {"labels": {"pos": "pos"}}, source["sources"][0] | {"labels": {"tone": "tone"}}]
    apart[1] = apart[1] | {
        "name": "other",
        **small(tmp_path / "b", ("tone",), examples=9)
        .sources[0]
        .model_dump(include={"train", "dev", "test"}, mode="json"),
    }
    config = Config.parse(source | weights | {"sources": apart})
    plan = Plan.make(config, regimes=["multi_task"], seeds=1, trials=1, examples=20, probes=0)
    with pytest.raises(ConfigError, match="at most 20 examples of a task, but mixing draws"):
        compare(config, tmp_path / "study", plan=plan, engine=InProcess(), threads=1)


def test_two_processes_do_not_work_on_one_study(tmp_path: Path) -> None:
    from filelock import FileLock

    config = small(tmp_path, ("pos", "tone"))
    (tmp_path / "study").mkdir()
    with FileLock(tmp_path / "study" / ".lock"), pytest.raises(RunError, match="another process"):
        compare(config, tmp_path / "study", plan=Plan.make(config), engine=InProcess(), threads=1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"seeds": 0}, "seeds: Input should be greater than or equal to 1"),
        ({"regimes": ["lucky"]}, "regimes.0"),
        ({"curve": [0]}, "percentages"),
        ({"curve_task": "pos"}, "curve_task goes with"),
        ({"support": "nothing"}, "support: 'nothing' is not a task"),
        ({"support": "pos", "regimes": ["multi_task"]}, "support goes with"),
        ({"examples": 1}, "examples: fewer"),
    ],
)
def test_a_plan_that_does_not_fit_is_refused(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Plan.make(small(tmp_path, ("pos", "tone")), **settings)


def test_a_study_needs_two_tasks_and_two_epochs_for_two_stages(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="two tasks"):
        Plan.make(small(tmp_path / "one", ("pos",)))
    with pytest.raises(ConfigError, match=r"training\.epochs"):
        Plan.make(small(tmp_path / "two", ("pos", "tone"), epochs=1))


def test_a_study_of_a_configuration_that_writes_is_refused(tmp_path: Path) -> None:
    data = small(tmp_path, ("pos", "tone")).model_dump(mode="json", exclude_none=True)
    with pytest.raises(ConfigError, match=r"family: .* of family: heads.*goes under families: text2text:"):
        Plan.make(Config.parse(data | {"family": "text2text"}))


def test_budgets_are_read() -> None:
    assert read_budget("trials=4, examples=20000") == {"trials": "4", "examples": "20000"}
    assert read_budget(None) == {}
    with pytest.raises(ConfigError, match="found 'hours=3'"):
        read_budget("hours=3")


def test_a_job_is_known_by_what_determines_it_and_not_by_where_it_lies(tmp_path: Path) -> None:
    here, there = small(tmp_path / "a"), small(tmp_path / "b")
    other = here.model_copy(update={"training": here.training.model_copy(update={"learning_rate": 5e-3})})
    assert [source.train for source in here.sources] != [source.train for source in there.sources]
    assert here.trunk.name != there.trunk.name
    assert Job(here, here).key == Job(there, there).key
    assert Job(here, here).key != Job(other, other).key
    assert Job(here, here).key != Job(here, here, test=True).key
    assert Job(here, here, start=Job(here, here)).key != Job(here, here).key
    weights = Path(there.trunk.name) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"0")
    assert Job(here, here).key != Job(there, there).key, "another trunk in a folder of the same name"


def test_suggestions_begin_with_the_configuration_and_do_not_depend_on_their_number(tmp_path: Path) -> None:
    config = small(tmp_path)
    (model,) = REGIMES["multi_task"](Setting(config, Plan(), dict.fromkeys(TASKS, 2)))
    four, six = (tuning.suggest(model, count, seed=1) for count in (4, 6))
    assert four[0] == {}
    assert six[:4] == four
    assert all(2e-5 <= settings["training.learning_rate"] <= 5e-4 for settings in six[1:])
    assert len({settings["training.learning_rate"] for settings in six[1:]}) == 5
    assert tuning.suggest(ModelPlan(("pos",), config), 4, seed=1) == [{}]


def test_a_failed_trial_is_not_chosen() -> None:
    assert tuning.choose(["a"], [None, {"a": 0.5}, {"a": 0.5}]) == (1, [None, 1.0, 1.0])
    assert tuning.choose(["a"], [None]) == (None, [None])


@given(
    st.integers(2, 5).flatmap(
        lambda n: st.lists(st.lists(st.floats(-1, 1), min_size=n, max_size=n), min_size=n, max_size=n)
    )
)
def test_groupings_cover_every_task_once_and_more_models_never_do_worse(matrix: list[list[float]]) -> None:
    tasks = [f"t{number}" for number in range(len(matrix))]
    gains = {i: {j: matrix[a][b] for b, j in enumerate(tasks) if a != b} for a, i in enumerate(tasks)}
    found = transfer.group(gains, tasks)
    assert [entry["models"] for entry in found] == list(range(1, len(tasks) + 1))
    for entry in found:
        assert sorted(task for members in entry["groups"] for task in members) == tasks
    assert found[-1]["expected"] == dict.fromkeys(tasks, 0.0)


def test_the_best_grouping_keeps_friends_together() -> None:
    tasks = [*"abcdefghij"]  # ten: groups are merged greedily
    friends = {frozenset("ab"), frozenset("cd")}
    gains = {i: {j: 0.1 if frozenset(i + j) in friends else -0.1 for j in tasks if i != j} for i in tasks}
    for size in (4, 10):
        some = tasks[:size]
        two_less = next(e for e in transfer.group(gains, some) if e["models"] == size - 2)
        assert {frozenset(members) for members in two_less["groups"] if len(members) > 1} == friends


def evidence(**verdicts: str) -> dict[str, Any]:
    """What the decision is made from, for tasks with the given verdicts."""
    size = {"helps": 0.02, "hurts": -0.02, "no difference shown": 0.001}
    differences = {
        task: {
            "multi_task": {
                "difference": size[found],
                "low": size[found] - 0.01,
                "high": size[found] + 0.01,
                "detectable": 0.015,
                "error": 0.005,
                "verdict": found,
            }
        }
        for task, found in verdicts.items()
    }
    drawn = dict.fromkeys(verdicts, 1000)
    return {
        "differences": differences,
        "transfer": {"probes": []},
        "leave_one_out": {},
        "regimes": {
            "multi_task": {"drawn": drawn},
            "single_task": {"parameters": {t: {"shared": 22_600_000, "tasks": {t: 100_000}} for t in verdicts}},
        },
    }


def test_tasks_that_sharing_does_not_hurt_ship_as_one() -> None:
    found = verdict.recommend(Plan(), evidence(a="helps", b="no difference shown"))
    assert found["overall"] == "ship as one"
    assert found["tasks"]["b"]["decision"] == "share"
    assert "1.50 points" in found["tasks"]["b"]["reason"]  # what the study could have missed


def test_a_task_that_sharing_hurts_is_split_off() -> None:
    found = verdict.recommend(Plan(), evidence(a="helps", b="no difference shown", c="hurts"))
    assert found["overall"] == "split"
    assert found["tasks"]["c"]["decision"] == "split"
    assert found["tasks"]["c"]["change"] == "heads"
    assert "c apart" in found["sentence"]


def test_what_would_change_follows_the_evidence() -> None:
    opposed = evidence(a="helps", b="helps", c="hurts")
    opposed["transfer"]["probes"] = [{"share": 0.9, "cosine": {"a": {"c": [-0.2, -0.1], "b": [0.3, 0.3]}}}]
    assert verdict.recommend(Plan(), opposed)["tasks"]["c"]["change"] == "separate trunk"
    assert "22.7 M parameters" in verdict.recommend(Plan(), opposed)["tasks"]["c"]["cost"]
    assert "oppose those of a" in verdict.recommend(Plan(), opposed)["tasks"]["c"]["reason"]
    for low, change in ((-0.015, "separate trunk"), (-0.03, "heads")):  # sharing costs it 0.02
        mended = evidence(a="helps", b="helps", c="hurts")
        mended["differences"]["c"]["sequential"] = {"verdict": "no difference shown", "difference": -0.01, "low": low}
        assert verdict.recommend(Plan(), mended)["tasks"]["c"]["change"] == change
    rare = evidence(a="helps", b="helps", c="hurts")
    rare["regimes"]["multi_task"]["drawn"]["c"] = 10
    assert verdict.recommend(Plan(), rare)["tasks"]["c"]["change"] == "sampling"


def test_a_task_that_others_do_better_without_is_left_out_whatever_it_gains_itself() -> None:
    def without(gain: float, p: float = 0.001, **verdicts: str) -> dict[str, Any]:
        made = evidence(a="helps", b="no difference shown", **verdicts)
        made["leave_one_out"] = {
            "c": {"a": {"difference": gain, "p_holm": p}, "b": {"difference": -0.1, "p_holm": 0.001}}
        }
        return verdict.recommend(Plan(), made)

    for kind in ("hurts", "no difference shown"):
        found = without(0.01, c=kind)
        assert found["overall"] == "leave out"
        assert found["sentence"] == "Ship a and b as one model, and leave c out: the others do better without it."
        assert "Without it, a (+1.00) gains." in found["tasks"]["c"]["reason"]
        assert found["tasks"]["c"]["change"] == "separate trunk"
        assert "22.7 M parameters" in found["tasks"]["c"]["cost"]
    assert without(0.03, c="helps")["tasks"]["c"]["decision"] == "leave out"
    kept = without(0.01, c="helps")  # which itself gains 0.02
    assert kept["overall"] == "ship as one"
    assert "Without it, a (+1.00) gains." in kept["tasks"]["c"]["reason"]
    assert without(0.01, p=0.2, c="no difference shown")["overall"] == "ship as one"
    both = without(0.01, c="no difference shown", d="hurts")
    assert both["overall"] == "split"
    assert "d apart: sharing hurts it; leave c out" in both["sentence"]


def test_reasons_give_the_level_of_the_study() -> None:
    assert (
        "(90 % interval" in verdict.recommend(Plan(level=0.9), evidence(a="helps", b="helps"))["tasks"]["a"]["reason"]
    )


def planted(folder: Path, case: str, *, width: int, epochs: int, examples: int) -> Config:
    """Two taggers over the same sentences of known words: how `b` relates to `a` is planted."""
    rng = np.random.default_rng(0)
    words = list(WORDS)
    first, second = ({word: int(rng.integers(6)) for word in words} for _ in range(2))
    label: dict[str, Callable[[str], str]] = {
        "copy": lambda word: f"B{first[word]}",
        "opposing": lambda word: f"B{second[word]}",
        "shuffled": lambda _: f"B{rng.integers(6)}",
    }
    files = {}
    for split, count in (("train", examples), ("dev", 100), ("test", 400)):
        sentences = [[str(word) for word in rng.choice(words, size=6)] for _ in range(count)]
        records = [
            {"words": s, "a": [f"A{first[word]}" for word in s], "b": [label[case](word) for word in s]}
            for s in sentences
        ]
        files[split] = write_jsonl(folder / f"{split}.jsonl", records)
    small_share = {"train_fraction": 0.02} if case == "copy" else {}
    return Config.parse(
        {
            "trunk": {"name": str(tiny_trunk(folder / "trunk", width=width, dropout=0.0)), "casing": False},
            "tasks": {"a": {"kind": "sequence_labeling"}, "b": {"kind": "sequence_labeling", **small_share}},
            "sources": [{"format": "jsonl", **files, "text": "words", "labels": {"a": "a", "b": "b"}}],
            "training": {
                "epochs": epochs,
                "batch_tokens": 256,
                "learning_rate": 3e-3,
                "head_learning_rate": 9e-3,
                "dropout": 0.0,
                "precision": "fp32",
            },
        }
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "width", "epochs", "examples"), [("copy", 16, 6, 600), ("opposing", 4, 4, 300), ("shuffled", 16, 4, 300)]
)
def test_planted_relations_between_tasks_are_found(
    tmp_path: Path, case: str, width: int, epochs: int, examples: int
) -> None:
    config = planted(tmp_path, case, width=width, epochs=epochs, examples=examples)
    plan = Plan.make(config, regimes=["multi_task"], seeds=4, trials=1, probes=4)
    study = compare(config, tmp_path / "study", plan=plan, engine=InProcess(), threads=1)
    verdicts = {task: found["multi_task"]["verdict"] for task, found in study["differences"].items()}
    if case == "copy":  # 2 % of the labels that another task has all of
        assert verdicts["b"] == "helps"
        assert verdicts["a"] != "hurts"
    elif case == "opposing":  # words that one task groups, the other keeps apart, in a trunk too narrow for both
        assert verdicts == {"a": "hurts", "b": "hurts"}
        assert study["recommendation"]["overall"] == "split"
    else:
        assert verdicts["b"] != "helps"


def comparable(folder: Path) -> str:
    return (folder / "study.json").read_text()


@pytest.mark.slow
def test_processes_and_ray_give_the_same_study(tmp_path: Path) -> None:
    ray = pytest.importorskip("ray", reason="palmette[ray] is not installed")
    config = small(tmp_path, ("pos", "tone"))
    plan = Plan.make(config, regimes=["sequential"], support="pos", seeds=1, trials=1)
    engines: dict[str, Engine] = {"one": Processes(1), "two": Processes(2), "ray": Ray(threads=1)}
    for name, engine in engines.items():
        compare(config, tmp_path / name, plan=plan, engine=engine, threads=1)
    assert comparable(tmp_path / "one") == comparable(tmp_path / "two") == comparable(tmp_path / "ray")
    assert not ray.is_initialized(), "what the study started has ended with it"
    with pytest.raises(RunError, match=r"the study's jobs need 1000 CPUs; this Ray cluster has \d+: ask for fewer"):
        Ray(threads=1000).run([tmp_path], print)


def test_a_run_that_ray_loses_has_failed_and_the_others_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class RayError(Exception):
        pass

    class FakeRay:
        exceptions = SimpleNamespace(RayError=RayError)

        @staticmethod
        def is_initialized() -> bool:
            return True

        @staticmethod
        def cluster_resources() -> dict[str, float]:
            return {"CPU": 1.0}

        @staticmethod
        def remote(**_: Any) -> Callable[[Any], Any]:
            return lambda _: SimpleNamespace(remote=lambda place: place)

        @staticmethod
        def wait(waiting: list[Path], **_: Any) -> tuple[list[Path], list[Path]]:
            return waiting[:1], waiting[1:]

        @staticmethod
        def get(place: Path) -> None:
            if place.name == "lost":
                raise RayError("Owner died\nthe node with IP 10.0.0.7 was lost")

    monkeypatch.setitem(sys.modules, "ray", FakeRay)
    folders = [tmp_path / name for name in ("lost", "kept")]
    for folder in folders:
        folder.mkdir()
        (folder / worker.JOB).write_text(json.dumps({"threads": 1, "remote": False}))
    ended: list[Path] = []
    Ray().run(folders, ended.append)
    assert ended == folders
    assert (folders[0] / worker.ERROR).read_text() == "lost by Ray: the node with IP 10.0.0.7 was lost\n"
    assert not (folders[1] / worker.ERROR).exists()
    # What asks a remote model stays here. No machine of the cluster would have come to this error.
    here = tmp_path / "here"
    here.mkdir()
    (here / worker.JOB).write_text(json.dumps({"threads": 1, "remote": True}))
    Ray().run([here], ended.append)
    assert ended == [*folders, here]
    assert (here / worker.ERROR).read_text() == "exit code 1: KeyError: 'config'\n"


@pytest.mark.slow
def test_a_study_killed_again_and_again_ends_the_same(tmp_path: Path) -> None:
    config = small(tmp_path, ("pos", "tone"), epochs=6)
    path = tmp_path / "tasks.yaml"
    path.write_text(config.dump())
    command = [sys.executable, "-m", "palmette.cli", "compare", str(path), "--regimes", "multi_task,sequential"]
    command += ["--seeds", "1", "--budget", "trials=1", "--probes", "2", "--threads", "1", "--out"]
    subprocess.run([*command, str(tmp_path / "whole")], check=True, capture_output=True)
    rng = np.random.default_rng(7)
    for _ in range(4):
        process = subprocess.Popen([*command, str(tmp_path / "killed")], stdout=subprocess.DEVNULL)
        time.sleep(float(rng.uniform(6, 20)))
        process.kill()
        process.wait()
        time.sleep(1)  # a child notices that its parent is gone
    subprocess.run([*command, str(tmp_path / "killed")], check=True, capture_output=True)
    assert comparable(tmp_path / "killed") == comparable(tmp_path / "whole")


def test_a_run_begun_before_the_study_was_moved_is_begun_again(tmp_path: Path) -> None:
    config = small(tmp_path / "here", ("pos", "tone"), epochs=1)
    plan = Plan.make(config, regimes=["multi_task"], seeds=1, trials=1, probes=0)
    whole = compare(config, tmp_path / "whole", plan=plan, engine=InProcess(), threads=1)
    key = whole["regimes"]["multi_task"]["runs"][0]["key"]
    shutil.copytree(tmp_path / "whole", tmp_path / "moved")
    begun = tmp_path / "moved" / "runs" / key
    (begun / worker.RESULT).unlink()
    (begun / "run" / "model.safetensors").unlink()
    other = (begun / "run" / "config.yaml").read_text().replace(str(tmp_path / "here"), "/elsewhere")
    (begun / "run" / "config.yaml").write_text(other)
    engine = InProcess()
    assert compare(config, tmp_path / "moved", plan=plan, engine=engine, threads=1) == whole
    assert [folder.name for folder in engine.ran] == [key]


def test_the_console_shows_differences_what_to_ship_and_what_failed(capsys: pytest.CaptureFixture[str]) -> None:
    from rich.console import Console

    from example_study import example_study
    from palmette.console import show_study

    study = example_study()
    show_study(Console(width=160), study)
    shown = capsys.readouterr().out
    assert study["recommendation"]["sentence"] in shown
    for task, entry in study["recommendation"]["tasks"].items():
        assert f"{task}: {entry['reason']}"[:60] in shown
    (failed,) = [run for found in study["regimes"].values() for run in found["runs"] if run["state"] == "failed"]
    assert f"failed: sequential, {failed['model']}, seed {failed['seed']}" in shown
    assert "failed: single_task, irony, a trial: loss is not finite" in shown


def test_language_models_are_compared_in_the_same_study(tmp_path: Path) -> None:
    asked = {"trunk": {"name": str(tiny_language_model(tmp_path / "lm", chat=True))}, "writing": {"longest": 200}}
    config = small(tmp_path, ("pos", "tone"), epochs=1, examples=10)
    config = Config.parse(config.model_dump(mode="json", exclude_none=True) | {"families": {"causal_lm": asked}})
    plan = Plan.make(config, regimes=["zero_shot", "few_shot"], seeds=2, trials=1)
    engine = InProcess()
    study = compare(config, tmp_path / "study", plan=plan, engine=engine, threads=1)
    assert len(engine.ran) == 2 * 2 + 1 + 2, "two tasks alone and the shots with each seed, no shots once"
    for task in ("pos", "tone"):
        seeds = study["scores"][task]["zero_shot"]["seeds"]
        assert seeds["1"] == seeds["2"]
        assert study["differences"][task]["zero_shot"]["verdict"] in {"helps", "hurts", "no difference shown"}
    for regime in ("zero_shot", "few_shot"):
        found = study["regimes"][regime]
        assert found["drawn"] == {"pos": 0, "tone": 0}
        assert set(found["usage"]) == {"pos", "tone"}
        assert found["usage"]["pos"]["unparseable"] == 0, "tags are constrained"
        assert found["usage"]["tone"]["prompt_tokens"] > 10
    assert "ms" not in found["usage"]["tone"], "no two runs agree on it"
    shots = study["regimes"]["few_shot"]["usage"]["tone"]["prompt_tokens"]
    assert shots > study["regimes"]["zero_shot"]["usage"]["tone"]["prompt_tokens"]
    page = (tmp_path / "study" / "report.html").read_text()
    assert "Models that write" in page
    ledger = json.loads((tmp_path / "study" / "ledger.json").read_text())
    assert ledger["regimes"]["zero_shot"]["parameters"]["total"] > 0
    assert ledger["regimes"]["zero_shot"]["parameters"]["trained"] == 0


@pytest.mark.parametrize("adapters", ["shared", "per_task"])
def test_a_tuned_language_model_stands_beside_itself_untuned(tmp_path: Path, adapters: str) -> None:
    settings = {
        "trunk": {"name": str(tiny_language_model(tmp_path / "lm", chat=True))},
        "lora": {"rank": 2, "adapters": adapters},
        "prompting": {"shots": 2},
        "training": {"dev_examples": 2},
    }
    config = small(tmp_path, ("pos", "tone"), epochs=1, examples=6)
    config = Config.parse(config.model_dump(mode="json", exclude_none=True) | {"families": {"causal_lm": settings}})
    plan = Plan.make(config, regimes=["multi_task", "zero_shot", "few_shot", "lora"], seeds=2, trials=1)
    engine = InProcess()
    study = compare(config, tmp_path / "study", plan=plan, engine=engine, threads=1)
    assert not [run["error"] for found in study["regimes"].values() for run in found["runs"] if run["error"]]
    found = study["regimes"]["lora"]
    assert found["drawn"] == study["regimes"]["multi_task"]["drawn"], "the same examples of each task"
    assert found["wordpieces"] > 0
    assert found["usage"]["pos"]["unparseable"] == 0, "tags are constrained"
    assert found["usage"]["tone"]["prompt_tokens"] == study["regimes"]["zero_shot"]["usage"]["tone"]["prompt_tokens"]
    for task in ("pos", "tone"):
        assert study["differences"][task]["lora"]["verdict"] in {"helps", "hurts", "no difference shown"}
    costs = json.loads((tmp_path / "study" / "ledger.json").read_text())["regimes"]
    base = costs["zero_shot"]["parameters"]
    tuned = costs["lora"]["parameters"]
    assert tuned["total"] == base["total"] + tuned["trained"]
    own = tuned["trained"] // 2 if adapters == "per_task" else 0
    assert tuned["tasks"] == {"pos": own, "tone": own}
    assert tuned["shared"] == tuned["total"] - 2 * own
    assert costs["lora"]["bytes"] == 4 * tuned["total"]
    assert costs["multi_task"]["parameters"]["trained"] == costs["multi_task"]["parameters"]["total"]


def test_a_local_model_is_tuned_beside_a_remote_one_that_is_asked(tmp_path: Path) -> None:
    endpoint = {"base_url": "http://127.0.0.1:1/v1", "model": "m", "token_budget": 9}
    data = small(tmp_path, ("pos", "tone")).model_dump(mode="json", exclude_none=True)
    config = Config.parse(data | {"families": {"causal_lm": {"endpoint": endpoint, "trunk": {"name": "local"}}}})
    setting = Setting(config, Plan.make(config, regimes=["zero_shot", "lora"]), {"pos": 1, "tone": 1})
    (asked,), (tuned,) = (REGIMES[name](setting) for name in ("zero_shot", "lora"))
    assert asked.config.endpoint is not None
    assert (tuned.config.endpoint, tuned.config.trunk.name) == (None, "local")


def test_settings_of_another_family_are_checked_with_the_rest(tmp_path: Path) -> None:
    data = small(tmp_path, ("pos", "tone")).model_dump(mode="json", exclude_none=True)
    with pytest.raises(ConfigError, match=r"families\.causal_lm: .*prompting\.shots"):
        Config.parse(data | {"families": {"causal_lm": {"prompting": {"shots": -1}}}})
    with pytest.raises(ConfigError, match=r"families\.text2text: .*prompting: goes with family: causal_lm"):
        Config.parse(data | {"families": {"text2text": {"prompting": {"shots": 1}}}})


def test_a_text_to_text_model_is_trained_in_the_same_study(tmp_path: Path) -> None:
    config = small(tmp_path, ("pos", "tone"), epochs=1, examples=10)
    writes = {"trunk": {"name": str(tiny_t5(tmp_path / "t5"))}}
    config = Config.parse(config.model_dump(mode="json", exclude_none=True) | {"families": {"text2text": writes}})
    plan = Plan.make(config, regimes=["multi_task", "text2text"], seeds=2, trials=1)
    study = compare(config, tmp_path / "study", plan=plan, engine=InProcess(), threads=1)
    found = study["regimes"]["text2text"]
    assert found["drawn"] == study["regimes"]["multi_task"]["drawn"], "the same examples of each task"
    assert found["wordpieces"] > 0
    assert found["usage"]["pos"]["unparseable"] == 0, "tags are constrained"
    for task in ("pos", "tone"):
        assert study["differences"][task]["text2text"]["verdict"] in {"helps", "hurts", "no difference shown"}


def with_summaries(folder: Path) -> Config:
    """Tags and tones for heads, and summaries, which only models that write can answer."""
    data = small(folder, ("pos", "tone"), epochs=1, examples=8).model_dump(mode="json", exclude_none=True)
    files = {
        split: write_jsonl(
            folder / f"summaries-{split}.jsonl",
            [{"text": f"the {word} sat {split}", "summary": [word, f"the {word}"]} for word in WORDS[:6]],
        )
        for split in ("train", "dev", "test")
    }
    data["tasks"]["summary"] = {"kind": "generation", "options": {"instruction": "Say it shortly."}}
    data["sources"].append({"format": "jsonl", **files, "text": "text", "labels": {"summary": "summary"}})
    prompts = {"summary": {"instruction": "Shorter!"}}
    data["families"] = {
        "text2text": {"trunk": {"name": str(tiny_t5(folder / "t5"))}},
        "causal_lm": {
            "trunk": {"name": str(tiny_language_model(folder / "lm", chat=True))},
            "prompting": {"prompts": prompts},
            "writing": {"longest": 40},
        },
    }
    return Config.parse(data)


def test_a_learning_curve_may_stand_beside_a_task_without_a_head(tmp_path: Path) -> None:
    config = with_summaries(tmp_path)
    plan = Plan.make(config, regimes=["zero_shot"], seeds=2, trials=1, curve=[50], curve_task="pos", probes=0)
    study = compare(config, tmp_path / "study", plan=plan, engine=InProcess(), threads=1)
    assert not [run["error"] for found in study["designs"].values() for run in found["runs"] if run["error"]]
    assert {(point["percent"], point["regime"]) for point in study["learning_curve"]["points"]} >= {(50, "single_task")}


def test_a_task_without_a_head_is_compared_with_the_least_trained_model_that_writes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from rich.console import Console

    from palmette.console import show_study

    config = with_summaries(tmp_path)
    regimes = ["multi_task", "frozen", "sequential", "zero_shot", "text2text"]
    config = Config.parse(config.model_dump(mode="json", exclude_none=True) | {"training": {"epochs": 2}})
    plan = Plan.make(config, regimes=regimes, seeds=2, trials=1, designs=["leave_one_out"], probes=1)
    study = compare(config, tmp_path / "study", plan=plan, engine=InProcess(), threads=1)
    assert not [run["error"] for found in study["regimes"].values() for run in found["runs"] if run["error"]]
    assert {task: about["baseline"] for task, about in study["tasks"].items()} == {
        "pos": "single_task",
        "tone": "single_task",
        "summary": "zero_shot",
    }
    for regime in ("single_task", "multi_task", "frozen", "sequential"):
        assert study["scores"]["summary"][regime]["reason"] == "generation has no head"
        assert study["differences"]["summary"][regime]["verdict"] == "not answered"
    difference = study["differences"]["summary"]["text2text"]
    means = {regime: study["scores"]["summary"][regime]["mean"] for regime in ("text2text", "zero_shot")}
    assert difference["difference"] == pytest.approx(means["text2text"] - means["zero_shot"])
    assert "zero_shot" not in study["differences"]["summary"]
    assert set(study["recommendation"]["tasks"]) == {"pos", "tone"}, "nothing to be said of sharing it"
    page = (tmp_path / "study" / "report.html").read_text()
    assert "summary, against zero-shot" in page
    assert "not answered: generation has no head" in page
    assert "No head can answer summary: it is compared with zero-shot instead." in page
    states = (tmp_path / "study" / "csv" / "scores.csv").read_text()
    assert "summary,frozen,,,generation has no head" in states
    show_study(Console(width=200), study)
    shown = capsys.readouterr().out
    assert "(zero_shot)" in shown
    assert "not answered" in shown


def test_a_study_in_which_nobody_can_answer_a_task_is_refused_at_once(tmp_path: Path) -> None:
    config = with_summaries(tmp_path)
    with pytest.raises(ConfigError, match=r"tasks\.summary\.kind: generation has no head.*add one of zero_shot"):
        Plan.make(config, regimes=["multi_task"])
    data = config.model_dump(mode="json", exclude_none=True)
    only = {**data, "tasks": {"summary": data["tasks"]["summary"]}, "sources": data["sources"][-1:]}
    with pytest.raises(ConfigError, match="and heads for one"):
        Plan.make(Config.parse(only), regimes=["zero_shot", "text2text"])


class Wordless(TextClassification):
    """Of another package, which does not say how it is put as text."""

    target_text = Kind.target_text


@pytest.fixture
def _wordless(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(KINDS, "wordless", Wordless)
    yield
    find_kind.cache_clear()


@pytest.mark.usefixtures("_wordless")
def test_a_task_that_cannot_be_put_as_text_is_left_out_where_models_write(tmp_path: Path) -> None:
    data = small(tmp_path, ("pos", "tone"), epochs=1, examples=6).model_dump(mode="json", exclude_none=True)
    data["tasks"]["tone"] = {"kind": "wordless"}
    asked = {
        "trunk": {"name": str(tiny_language_model(tmp_path / "lm", chat=True))},
        "prompting": {"prompts": {"tone": {"instruction": "Up or down?"}}},
    }
    config = Config.parse(data | {"families": {"causal_lm": asked}})
    plan = Plan.make(config, regimes=["zero_shot"], seeds=2, trials=1)
    study = compare(config, tmp_path / "study", plan=plan, engine=InProcess(), threads=1)
    assert not [run["error"] for found in study["regimes"].values() for run in found["runs"] if run["error"]]
    assert study["differences"]["pos"]["zero_shot"]["verdict"] in {"helps", "hurts", "no difference shown"}
    assert study["differences"]["tone"]["zero_shot"] == {
        "verdict": "not answered",
        "reason": "wordless cannot be put as text",
    }
    assert "not answered: wordless cannot be put as text" in (tmp_path / "study" / "report.html").read_text()
    setting = Setting(config, plan, {"pos": 1, "tone": 1})
    for regime in ("text2text", "few_shot", "lora"):
        assert [model.tasks for model in REGIMES[regime](setting)] == [("pos",)]
    data["tasks"]["pos"] = {"kind": "wordless"}
    with pytest.raises(ConfigError, match=r"regimes: none of the tasks can be put as text, as zero_shot needs it"):
        Plan.make(Config.parse(data), regimes=["zero_shot"])


def with_remote(folder: Path, url: str, **settings: Any) -> Config:
    """Tags and tones, and a model behind an endpoint that is asked for them."""
    asked = {"base_url": url, "model": "parrot", "key_variable": "SOME_KEY", "token_budget": 1_000_000, **settings}
    data = small(folder, ("pos", "tone"), epochs=1, examples=10).model_dump(mode="json", exclude_none=True)
    return Config.parse(data | {"families": {"causal_lm": {"endpoint": asked}}})


def test_a_remote_model_stands_in_the_study_with_its_price(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_KEY", "secret")
    with served() as endpoint:
        endpoint.otherwise = lambda _: Reply(text="up")
        prices = {"input_price": 1.0, "output_price": 2.0, "currency": "EUR"}
        config = with_remote(tmp_path, endpoint.url, **prices)
        plan = Plan.make(config, regimes=["zero_shot"], seeds=2, trials=1)
        study = compare(config, tmp_path / "study", plan=plan, engine=InProcess(), threads=1)
    usage = study["regimes"]["zero_shot"]["usage"]
    assert usage["pos"]["unparseable"] == 1, "nothing constrains a remote model"
    assert usage["tone"]["unparseable"] == 0
    tokens = 1.0 * usage["tone"]["prompt_tokens"] + 2.0 * usage["tone"]["written_tokens"]
    assert usage["tone"]["money_per_thousand"] == pytest.approx(1000 * tokens / 1e6)
    assert f"{1000 * tokens / 1e6:,.4f}\N{NO-BREAK SPACE}EUR" in (tmp_path / "study" / "report.html").read_text()
    assert study["scores"]["pos"]["zero_shot"]["mean"] == 0
    written = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert not any(b"secret" in content for content in written)


def test_a_study_goes_on_with_a_raised_budget_and_a_corrected_price_costs_no_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_KEY", "secret")
    with served() as endpoint:
        endpoint.otherwise = lambda _: Reply(text="up")
        engine = InProcess()

        def study(**settings: Any) -> dict[str, Any]:
            config = with_remote(tmp_path, endpoint.url, **settings)
            plan = Plan.make(config, regimes=["zero_shot"], seeds=2, trials=1)
            engine.ran.clear()
            return compare(config, tmp_path / "study", plan=plan, engine=engine, threads=1)

        hit = study(token_budget=1500)
        asked = len(endpoint.seen)
        assert 0 < asked < 2 * 10
        assert all("token_budget" in run["error"] for run in hit["regimes"]["zero_shot"]["runs"])
        assert study()["scores"]["tone"]["zero_shot"]["mean"] is not None
        assert len(engine.ran) == 1, "only what had failed"
        assert len(endpoint.seen) == 2 * 10, "each text of test once for each task"
        found = [study(input_price=price, output_price=0)["regimes"]["zero_shot"]["usage"]["tone"] for price in (1, 2)]
        assert engine.ran == []
        assert len(endpoint.seen) == 2 * 10
        assert found[1]["money_per_thousand"] == 2 * found[0]["money_per_thousand"] > 0


def test_all_runs_of_a_study_share_one_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_KEY", "secret")
    budget = 16_000  # a run takes about 7,000
    with served() as endpoint:
        endpoint.otherwise = lambda _: Reply(text="up")
        config = with_remote(tmp_path, endpoint.url, token_budget=budget)
        # Other shots with each seed, so that no run can take its answers from another.
        plan = Plan.make(config, regimes=["few_shot"], seeds=4, trials=1)
        for _ in range(2):
            study = compare(config, tmp_path / "study", plan=plan, engine=InProcess(), threads=1)
            errors = [run["error"] for run in study["regimes"]["few_shot"]["runs"]]
            assert None in errors, "it is enough for some"
            assert f"of {budget:,} tokens are spent" in str(errors[-1])
            assert endpoint.given <= budget
    assert (tmp_path / "study" / "answers.sqlite").exists()
    assert not list(tmp_path.glob("study/runs/**/answers.sqlite"))


def test_kept_answers_have_no_time_and_uncounted_tokens_are_bounds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_KEY", "secret")
    shown = {}
    with served() as endpoint:
        endpoint.otherwise = lambda _: Reply(
            text="up", seconds=0.01, change=lambda content: {"choices": content["choices"]}
        )
        config = with_remote(
            tmp_path, endpoint.url, cache=str(tmp_path / "answers.sqlite"), concurrency=1, input_price=1, output_price=1
        )
        plan = Plan.make(config, regimes=["zero_shot"], seeds=2, trials=1)
        for name in ("first", "second"):
            compare(config, tmp_path / name, plan=plan, engine=InProcess(), threads=1)
            found = json.loads((tmp_path / name / "ledger.json").read_text())["regimes"]["zero_shot"]
            shown[name] = found["ms_per_text"], found["written_ms"]
    ms, written = shown["first"]
    assert min(written.values()) > 10
    assert ms == pytest.approx(sum(written.values()), abs=0.01)
    assert shown["second"] == (None, {"pos": None, "tone": None})
    studies, pages = (
        [(tmp_path / name / file).read_text() for name in ("first", "second")] for file in ("study.json", "report.html")
    )
    assert studies[0] == studies[1]
    assert json.loads(studies[0])["regimes"]["zero_shot"]["usage"]["tone"]["estimated"] == 1
    assert all("\N{LESS-THAN OR EQUAL TO}: the endpoint counts no tokens" in page for page in pages)
    rows = (tmp_path / "second" / "csv" / "usage.csv").read_text().splitlines()
    assert rows[0].startswith("regime,task,unparseable,truncated,prompt_tokens,written_tokens,estimated,money_per_")
    assert rows[2].startswith("zero_shot,tone,0.0,0.0,")
    assert rows[2].endswith(",USD,"), "no time"
    assert ["without ms: every answer was kept" in page for page in pages] == [False, True]
