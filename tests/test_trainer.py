"""The loop: which model is kept, when it stops, what it writes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

import palmette
from conftest import Recorder, Trained, make_loop, train_and_keep
from fakes import ALL_TASKS, tiny_config
from palmette import evaluation, trainer
from palmette.checkpoint import RunFolder, read_labels
from palmette.config import Config, TrainingConfig
from palmette.errors import ConfigError, ReadError, RunError
from palmette.evaluation import summarise
from palmette.trainer import rate_factor, undominated

TASKS = ["pos", "ner"]
Evaluations = list[tuple[int, dict[str, float]]]


def select(evaluations: Evaluations, rule: str = "mean_relative") -> int:
    config = Config.parse(
        {
            "tasks": {task: {"kind": "text_classification"} for task in TASKS},
            "sources": [{"format": "jsonl", "train": "x", "text": "t", "labels": dict.fromkeys(TASKS, "y")}],
            "training": {"select": rule},
        }
    )
    return trainer._select(config, evaluations)


def evaluations_of(*scores: tuple[float, float]) -> Evaluations:
    return [(10 * number, dict(zip(TASKS, values, strict=True))) for number, values in enumerate(scores, start=1)]


class TestSelection:
    def test_the_best_mean_relative_to_each_tasks_best(self) -> None:
        # 0.5/0.9 + 1, 1 + 0.8/1.0 ... the last is near the best of both.
        assert select(evaluations_of((0.5, 1.0), (0.9, 0.7), (0.88, 0.95))) == 30

    def test_a_named_task(self) -> None:
        assert select(evaluations_of((0.5, 1.0), (0.9, 0.7), (0.88, 0.95)), "pos") == 20
        assert select(evaluations_of((0.5, 1.0), (0.9, 0.7), (0.88, 0.95)), "ner") == 10

    def test_the_earliest_of_equals(self) -> None:
        assert select(evaluations_of((0.5, 0.5), (0.5, 0.5), (0.4, 0.5))) == 10

    def test_a_tie_in_the_named_task_goes_to_the_model_that_is_better_elsewhere(self) -> None:
        """The dominated one's weights are gone."""
        assert select(evaluations_of((0.9, 0.5), (0.9, 0.6), (0.9, 0.4)), "pos") == 20

    def test_a_metric_that_is_never_above_zero(self) -> None:
        assert select(evaluations_of((0.9, -0.5), (0.9, -0.2))) == 20

    def test_nothing_measured_keeps_the_last(self) -> None:
        assert select([(10, {}), (20, {}), (30, {})]) == 30

    def test_a_metric_that_is_no_number_does_not_win(self) -> None:
        assert select(evaluations_of((float("nan"), 0.1), (0.5, 0.1)), "pos") == 20

    scores = st.sampled_from([-0.5, 0.0, 0.25, 0.5, 0.75, 1.0])

    @given(st.lists(st.tuples(scores, scores), min_size=1, max_size=8), st.sampled_from(["mean_relative", *TASKS]))
    def test_the_selected_model_was_kept_at_every_moment(self, pairs: list[tuple[float, float]], rule: str) -> None:
        evaluations = evaluations_of(*pairs)
        selected = select(evaluations, rule)
        for seen in range(selected // 10, len(evaluations) + 1):
            assert selected // 10 - 1 in undominated(evaluations[:seen])

    @given(st.lists(st.tuples(scores, scores), min_size=1, max_size=8))
    def test_what_is_undominated(self, pairs: list[tuple[float, float]]) -> None:
        kept = [pairs[number] for number in undominated(evaluations_of(*pairs))]
        assert len(set(kept)) == len(kept)
        for one in pairs:
            assert any(other[0] >= one[0] and other[1] >= one[1] for other in kept)
        for one in kept:
            assert not any(o != one and o[0] >= one[0] and o[1] >= one[1] for o in pairs)


class TestRates:
    @pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
    @pytest.mark.parametrize("total", [1, 2, 7, 100])
    @pytest.mark.parametrize("warmup", [0.0, 0.1, 0.9])
    def test_up_then_down_and_never_zero(self, schedule: Any, total: int, warmup: float) -> None:
        config = TrainingConfig(schedule=schedule, warmup=warmup)
        factors = [rate_factor(config, update, total) for update in range(total)]
        peak = factors.index(max(factors))
        assert all(0 < factor <= 1 for factor in factors)
        assert factors[: peak + 1] == sorted(factors[: peak + 1])
        assert factors[peak:] == sorted(factors[peak:], reverse=True)


class TestAFinishedRun:
    def test_its_files(self, trained: Trained) -> None:
        assert sorted(str(path.relative_to(trained.folder)) for path in trained.folder.rglob("*")) == [
            "config.yaml",
            "data.json",
            "history.jsonl",
            "labels.json",
            "metrics.json",
            "model.safetensors",
            "tokenizer.json",
            "trunk.json",
        ]

    def test_nothing_is_pickled(self, trained: Trained) -> None:
        for path in trained.folder.iterdir():
            content = path.read_bytes()
            assert not content.startswith((b"\x80", b"PK"))
            if path.suffix == ".json":
                json.loads(content)

    def test_metrics(self, trained: Trained) -> None:
        metrics = json.loads((trained.folder / "metrics.json").read_text())
        assert metrics.keys() == {"dev", "test"}
        for split in metrics.values():
            assert split.keys() == ALL_TASKS.keys()
            for task, scores in split.items():
                assert scores["examples"] == 24
                assert trained.loop.kinds[task].metric in scores
                assert all(isinstance(value, float | int) for value in scores.values())

    def test_history(self, trained: Trained) -> None:
        lines = [json.loads(line) for line in (trained.folder / "history.jsonl").read_text().splitlines()]
        assert lines == trained.events
        events = [line["event"] for line in lines]
        assert events[0] == "started"
        assert events[-1] == "selected"
        assert events.count("evaluation") == events.count("epoch") == 6
        updates = lines[0]["updates"]
        assert [line["update"] for line in lines if line["event"] == "progress"][-1] == updates
        evaluated = [line for line in lines if line["event"] == "evaluation"]
        assert evaluated[-1]["update"] == updates
        assert [line["epoch"] for line in evaluated] == [1, 2, 3, 4, 5, 6]
        chosen = next(line for line in evaluated if line["update"] == lines[-1]["update"])
        assert chosen["dev"] == lines[-1]["dev"]  # measured again on the weights that are kept

    def test_it_has_learned(self, trained: Trained) -> None:
        evaluated = [event["dev"] for event in trained.events if event["event"] == "evaluation"]
        assert evaluated[-1]["pos"]["accuracy"] > evaluated[0]["pos"]["accuracy"]

    def test_windowed_texts_are_counted(self, trained: Trained) -> None:
        epochs = [event for event in trained.events if event["event"] == "epoch"]
        for task, counts in epochs[0]["tasks"].items():
            assert counts["draws"] == counts["seen"] == 24, task
            assert counts["never_seen"] == 0
            # Of a pair only the second text is windowed (one is long); the two long first texts are cut, and counted.
            cut = task in ("same", "likeness")
            assert (counts["windowed"], counts["truncated"]) == ((1, 2) if cut else (2, 0)), task


def test_dropout_is_on_in_every_update_and_off_in_evaluations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Transformers loads models in evaluation mode."""
    modes: dict[str, set[bool]] = {"updates": set(), "evaluations": set()}
    step = trainer.Loop._backward

    def watched_step(loop: Any, *arguments: Any) -> None:
        modes["updates"] |= {module.training for module in loop.bare.modules()}
        step(loop, *arguments)

    monkeypatch.setattr(trainer.Loop, "_backward", watched_step)
    kept = train_and_keep(Config.parse(tiny_config(tmp_path, examples=6, epochs=1)), tmp_path / "run")
    engine = kept.loop.learner.predictor.engine

    def watched_engine(batch: Any) -> Any:
        modes["evaluations"] |= {module.training for module in kept.loop.bare.modules()}
        return engine(batch)

    kept.loop.learner.predictor.engine = watched_engine
    kept.loop._scores("dev")
    assert modes == {"updates": {True}, "evaluations": {False}}


def test_a_frozen_trunk_stays_as_it_is_and_its_heads_learn(tmp_path: Path) -> None:
    data = tiny_config(tmp_path, examples=12, epochs=6)
    data["training"]["head_learning_rate"] = 0.05
    data["trunk"]["frozen"] = True
    kept = train_and_keep(Config.parse(data), tmp_path / "run")
    start = load_file(tmp_path / "trunk" / "model.safetensors")
    end = load_file(tmp_path / "run" / "model.safetensors")
    trunk = {name.removeprefix("trunk.encoder."): tensor for name, tensor in end.items() if name.startswith("trunk.")}
    assert trunk.keys() == start.keys()
    assert all(torch.equal(tensor, start[name]) for name, tensor in trunk.items())
    optimized = {id(p) for group in kept.loop.optimizer.param_groups for p in group["params"]}
    assert optimized == {id(parameter) for parameter in kept.loop.bare.heads.parameters()}
    dev = [event["dev"] for event in kept.events if event["event"] == "evaluation"]
    assert any(dev[-1][task][metric] > dev[0][task][metric] for task in dev[0] for metric in dev[0][task])
    assert palmette.load(tmp_path / "run").predict("anna sat in paris")["tasks"]["pos"]["tags"]


def test_a_run_starts_from_another_runs_trunk(trained: Trained, tmp_path: Path) -> None:
    """With heads alone to learn, the trunk is still the one that the first run ended with."""
    data = tiny_config(tmp_path, examples=6, epochs=1)
    data["trunk"] = {"name": str(trained.folder), "frozen": True}
    data["tasks"] = {"tone": ALL_TASKS["tone"]}
    data["sources"] = [data["sources"][0] | {"labels": {"tone": "tone"}}]
    trainer.train(Config.parse(data), tmp_path / "run")
    first, second = (load_file(folder / "model.safetensors") for folder in (trained.folder, tmp_path / "run"))
    for name, tensor in second.items():
        assert name.startswith("heads.task_tone.") or torch.equal(tensor, first[name])
    assert not torch.equal(first["heads.task_tone.output.weight"], second["heads.task_tone.output.weight"])


@pytest.mark.parametrize("splits", [(), ("dev",), ("train", "dev", "test")])
def test_the_selected_model_is_measured_on_the_splits_asked_for(tmp_path: Path, splits: tuple[str, ...]) -> None:
    scored: list[Any] = []

    def watched(examples: Any, *rest: Any) -> evaluation.Scores:
        scored.append(examples)
        return score(examples, *rest)

    with pytest.MonkeyPatch.context() as patch:
        score = evaluation.score
        patch.setattr(evaluation, "score", watched)
        kept = train_and_keep(Config.parse(tiny_config(tmp_path, examples=6)), tmp_path / "run", splits=splits)
    assert json.loads((tmp_path / "run" / "metrics.json").read_text()).keys() == set(splits)
    assert kept.events[-1].keys() == {"event", "update", "rule", *splits}
    assert ("test" in splits) == any(examples is kept.loop.corpus.splits["test"] for examples in scored)


def test_a_split_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="splits: 'final' is not one of train, dev, test"):
        trainer.train(Config.parse(tiny_config(tmp_path)), tmp_path / "run", splits=["final"])


def test_patience(tmp_path: Path) -> None:
    still: dict[str, Any] = {"learning_rate": 1e-30, "head_learning_rate": 1e-30}
    config = Config.parse(tiny_config(tmp_path, examples=6, epochs=9, patience=3, **still))
    events = train_and_keep(config, tmp_path / "run").events
    evaluated = [event["update"] for event in events if event["event"] == "evaluation"]
    assert len(evaluated) == 4
    assert events[-1]["update"] == evaluated[0]


def test_an_end_inside_an_epoch_is_told_and_counted(tmp_path: Path) -> None:
    still: dict[str, Any] = {"learning_rate": 1e-30, "head_learning_rate": 1e-30}
    config = Config.parse(tiny_config(tmp_path, examples=12, epochs=9, patience=1, evaluations_per_epoch=3, **still))
    events = train_and_keep(config, tmp_path / "run").events
    kept = [event for event in events if event["event"] not in {"started", "evaluation"}]
    assert [event["event"] for event in kept] == ["progress", "epoch", "stopped", "selected"]
    progress, epoch, stopped, _ = kept
    assert progress["update"] == stopped["update"] == max(e["update"] for e in events if e["event"] == "evaluation")
    whole = train_and_keep(
        Config.parse(tiny_config(tmp_path, examples=12, epochs=1, **still)), tmp_path / "whole"
    ).events
    (complete,) = [event for event in whole if event["event"] == "epoch"]
    assert 0 < epoch["wordpieces"] < complete["wordpieces"]
    for task, counts in epoch["tasks"].items():
        assert counts["draws"] <= complete["tasks"][task]["draws"]
        assert counts["seen"] + counts["never_seen"] == complete["tasks"][task]["seen"]
    assert sum(counts["draws"] for counts in epoch["tasks"].values()) > 0


def test_a_training_that_diverges_is_an_error_that_names_the_task(tmp_path: Path) -> None:
    config = Config.parse(tiny_config(tmp_path, examples=6, epochs=3, learning_rate=1e30, head_learning_rate=1e30))
    with pytest.raises(RunError, match=r"run: training diverged: the loss of \w+ is (nan|inf) by update \d+ of \d+"):
        trainer.train(config, tmp_path / "run")


@pytest.mark.parametrize("times", [1, 2, 3])
def test_evaluations_per_epoch(tmp_path: Path, times: int) -> None:
    config = Config.parse(tiny_config(tmp_path, epochs=1, evaluations_per_epoch=times, examples=12))
    events = train_and_keep(config, tmp_path / "run").events
    assert sum(event["event"] == "evaluation" for event in events) == times


def test_candidates_stay_only_while_they_can_win(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    left: set[str] = set()

    class Watch(Recorder):
        def on_event(self, event: Mapping[str, Any]) -> None:
            super().on_event(event)
            if event["event"] == "selected":
                left.update(path.name for path in folder.checkpoints.glob("candidate-*"))

    recorder = Watch([])
    config = Config.parse(tiny_config(tmp_path, epochs=6, examples=12))
    trainer.train(config, folder.path, listeners=[recorder])
    kinds = read_labels(config, folder)
    summaries = [
        (event["update"], summarise(event["dev"], kinds)) for event in recorder.events if event["event"] == "evaluation"
    ]
    assert left == {folder.candidate(summaries[number][0]).name for number in undominated(summaries)}
    assert len(summaries) == 6


def without_dev(folder: Path, *tasks: str, **training: Any) -> dict[str, Any]:
    """A configuration whose sources of some tasks have no dev."""
    data = tiny_config(folder, examples=6, **training)
    for source in data["sources"]:
        if not tasks or set(tasks) & source["labels"].keys():
            del source["dev"]
    return data


def test_without_dev_the_last_model_is_kept(tmp_path: Path) -> None:
    events = train_and_keep(Config.parse(without_dev(tmp_path, epochs=3, patience=1)), tmp_path / "run").events
    assert events[-1]["update"] == events[0]["updates"]
    assert json.loads((tmp_path / "run" / "metrics.json").read_text()).keys() == {"test"}


def test_a_task_without_dev_cannot_select(tmp_path: Path) -> None:
    config = Config.parse(without_dev(tmp_path, "answer", select="answer"))
    with pytest.raises(ConfigError, match=r"training\.select: no dev example is labelled for answer"):
        trainer.train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_task_without_dev_is_left_out_of_the_rule(tmp_path: Path) -> None:
    events = train_and_keep(Config.parse(without_dev(tmp_path, "answer")), tmp_path / "run").events
    evaluated = [event for event in events if event["event"] == "evaluation"]
    assert all("answer" not in event["dev"] for event in evaluated)


def test_nothing_is_written_when_the_data_cannot_be_read(tmp_path: Path) -> None:
    data = tiny_config(tmp_path)
    Path(data["sources"][0]["dev"]).write_text("{not json\n")
    with pytest.raises(ReadError, match=r"words-dev\.jsonl:1"):
        trainer.train(Config.parse(data), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_draws_and_never_seen_with_temperature_mixing(tmp_path: Path) -> None:
    """A task with ten times the examples of another is not drawn in full; the counts say what was never seen."""
    data = tiny_config(tmp_path, examples=40, epochs=2)
    words = data["sources"][0]
    few = Path(words["train"])
    few.write_text("".join(few.read_text().splitlines(keepends=True)[:4]))
    data["mixing"] = {"kind": "temperature", "temperature": 4.0}
    events = train_and_keep(Config.parse(data), tmp_path / "run").events
    first, second = [event["tasks"] for event in events if event["event"] == "epoch"]
    total = 4 + 40 + 40
    for counts in (first, second):
        assert counts["pos"]["draws"] + counts["same"]["draws"] + counts["answer"]["draws"] == total
        assert counts["pos"]["draws"] > 4
        assert counts["same"]["draws"] < 40
    for task, labelled in (("pos", 4), ("same", 40), ("answer", 40)):
        assert first[task]["seen"] == min(first[task]["draws"], labelled)
        assert first[task]["never_seen"] == labelled - first[task]["seen"]
        together = first[task]["draws"] + second[task]["draws"]
        assert second[task]["never_seen"] == max(0, labelled - together)


def test_heads_and_casing_learn_at_their_own_rate(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    names = {id(parameter): name for name, parameter in trained.loop.bare.named_parameters()}
    grouped = [names[id(p)] for group in trained.loop.optimizer.param_groups for p in group["params"]]
    assert sorted(grouped) == sorted(names.values())
    config = TrainingConfig(learning_rate=2e-4, head_learning_rate=1e-3, weight_decay=0.01)
    monkeypatch.setattr(trained.loop.learner, "training", config)
    for group in trained.loop.learner.groups():
        for parameter in group["params"]:
            new = names[id(parameter)].startswith(("heads.", "trunk.casing."))
            assert group["peak"] == (1e-3 if new else 2e-4)
            assert group["weight_decay"] == (
                0.01 if parameter.ndim > 1 and "casing" not in names[id(parameter)] else 0.0
            )


def test_the_global_threads_and_precision_are_reported(trained: Trained) -> None:
    started = trained.events[0]
    assert started["precision"] == "fp32"
    assert started["threads"] == torch.get_num_threads()
    assert started["parameters"] == sum(p.numel() for p in trained.loop.bare.parameters())


def test_the_wordpieces_of_an_epoch_are_those_of_its_rows(trained: Trained) -> None:
    epochs = [event for event in trained.events if event["event"] == "epoch"]
    rows = trained.loop.learner.dataset.rows(range(len(trained.loop.learner.dataset.examples)))
    assert [event["wordpieces"] for event in epochs] == [sum(map(len, rows))] * len(epochs)  # proportional: each once


def test_every_row_is_in_one_update_of_the_epoch(tmp_path: Path) -> None:
    loop = make_loop(Config.parse(tiny_config(tmp_path, long=2)), tmp_path / "run")
    rows = [(row.example, row.window) for step in loop._plan(0) for row in step.rows]
    expected = [
        (row.example, row.window) for row in loop.learner.dataset.rows(range(len(loop.learner.dataset.examples)))
    ]
    assert sorted(rows) == sorted(expected)
