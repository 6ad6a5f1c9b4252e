"""Alarms while training: they tell of what fell, not of what only looks so."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from conftest import train_and_keep
from fakes import tiny_config
from palmette import evaluation
from palmette.alarms import Alarms, State
from palmette.config import Config, TaskConfig
from palmette.console import LiveTable
from palmette.kinds import AnyKind, Kind
from palmette.kinds.text_classification import TextClassification
from palmette.types import Example, Prediction, Text

SIZE = 200
EXAMPLES = [Example(Text((f"text {number}",)), {"a": "up", "b": "up", "c": "up"}) for number in range(SIZE)]


def kinds_of(tasks: Sequence[str], metric: str = "accuracy") -> dict[str, AnyKind]:
    config = TaskConfig(kind="text_classification", metric=metric)
    return {task: TextClassification(task, config, {"labels": ["down", "up"]}) for task in tasks}


class Watched:
    """Alarms over evaluations that are given as the number of right answers of each task, or as which are right."""

    def __init__(self, tasks: str = "a", *, evaluations: int = 4, baseline: dict[str, float] | None = None) -> None:
        self.kinds = kinds_of(tasks)
        self.alarms = Alarms(self.kinds, baseline=baseline or {}, evaluations=evaluations, seed=1)
        self.looks = 0

    def look(self, **right: Any) -> list[dict[str, Any]]:
        self.looks += 1
        correct = {task: np.arange(SIZE) < found if np.ndim(found) == 0 else found for task, found in right.items()}
        answers = [
            {task: Prediction("up" if found[number] else "down", 1.0) for task, found in correct.items()}
            for number in range(SIZE)
        ]
        values = evaluation.summarise(evaluation.score(EXAMPLES, answers, self.kinds), self.kinds)
        return self.alarms.look(EXAMPLES, answers, values, update=10 * self.looks, epoch=self.looks)


class TestOwnBest:
    def test_a_fall_is_told_once_and_its_end_too(self) -> None:
        watched = Watched("ab", evaluations=5)
        assert watched.look(a=150, b=150) == []
        assert watched.look(a=180, b=150) == []
        (event,) = watched.look(a=130, b=150)
        p = event.pop("p")
        assert 0 < p < 0.05
        expected = {
            "event": "alarm",
            "task": "a",
            "update": 30,
            "epoch": 3,
            "kind": "below_own_best",
            "over": False,
            "value": 0.65,
            "reference": 0.9,
            "since": 20,
            "opposed_by": None,  # no probe has looked
        }
        assert event == expected
        assert watched.look(a=130, b=150) == []  # still so
        (end,) = watched.look(a=178, b=150)
        assert end.pop("p") == 1
        assert end == expected | {"update": 50, "epoch": 5, "over": True, "value": 0.89}

    @pytest.mark.parametrize("right", [149, 147])
    def test_a_fall_that_chance_explains_is_none(self, right: int) -> None:
        watched = Watched()
        watched.look(a=150)
        assert watched.look(a=right) == []

    def test_many_evaluations_and_tasks_do_not_silence_it(self) -> None:
        """2,000 rounds alone cannot show a p as small as the correction then asks for."""
        watched = Watched("abc", evaluations=60)
        for _ in range(30):
            assert watched.look(a=180, b=180, c=180) == []
        assert [event["task"] for event in watched.look(a=130, b=180, c=180)] == ["a"]

    @pytest.mark.slow
    def test_at_most_five_in_a_hundred_runs_without_a_fall_raise_any(self) -> None:
        raised = 0
        for run in range(80):
            rng = np.random.default_rng(run)
            watched = Watched("ab", evaluations=5)
            found = [watched.look(a=rng.random(SIZE) < 0.8, b=rng.random(SIZE) < 0.8) for _ in range(5)]
            raised += any(found)
        assert raised <= 0.05 * 80

    def test_an_answer_that_is_no_number_is_a_fall_and_never_a_best(self) -> None:
        alarms = Watched().alarms
        answers = [{"a": Prediction("up", 1.0)} for _ in EXAMPLES]
        alarms.look(EXAMPLES, answers, {"a": float("nan")}, update=1, epoch=1)
        assert alarms.state.best == {}


class TestBaseline:
    def test_below_from_the_middle_of_the_run_on(self) -> None:
        watched = Watched(evaluations=6, baseline={"a": 0.9})
        assert watched.look(a=90) == []  # rising
        assert watched.look(a=120) == []
        (event,) = watched.look(a=140)
        assert event["p"] < 0.001
        del event["p"]
        assert event == {
            "event": "alarm",
            "task": "a",
            "update": 30,
            "epoch": 3,
            "kind": "below_baseline",
            "over": False,
            "value": 0.7,
            "reference": 0.9,
            "since": 10,
            "opposed_by": [],
        }
        assert watched.look(a=141) == []
        (end,) = watched.look(a=181)
        assert (end["kind"], end["over"], end["since"]) == ("below_baseline", True, 10)
        assert watched.look(a=179) == []

    def test_earlier_where_it_has_stopped_rising(self) -> None:
        watched = Watched(evaluations=9, baseline={"a": 0.9})
        assert watched.look(a=130) == []
        assert [event["kind"] for event in watched.look(a=130)] == ["below_baseline"]

    def test_a_single_evaluation_is_enough(self) -> None:
        assert [event["kind"] for event in Watched(evaluations=1, baseline={"a": 0.9}).look(a=130)] == [
            "below_baseline"
        ]

    def test_little_below_is_no_alarm(self) -> None:
        watched = Watched(baseline={"a": 0.9})
        assert [watched.look(a=176) for _ in range(4)] == [[]] * 4

    def test_a_model_that_is_wrong_everywhere(self) -> None:
        assert [event["kind"] for event in Watched(evaluations=1, baseline={"a": 0.9}).look(a=0)] == ["below_baseline"]

    def test_both_references(self) -> None:
        watched = Watched(evaluations=4, baseline={"a": 0.95})
        watched.look(a=190)
        assert [event["kind"] for event in watched.look(a=120)] == ["below_own_best", "below_baseline"]


def test_the_tasks_that_oppose_it_are_named_the_strongest_first() -> None:
    watched = Watched("abc")
    watched.look(a=180, b=180, c=180)
    watched.alarms.probed({"a": {"b": [0.3, -0.5], "c": [-0.9, -0.1]}, "b": {"c": [-0.1, 0.3]}})
    events = {event["task"]: event["opposed_by"] for event in watched.look(a=100, b=100, c=100)}
    assert events == {"a": ["c", "b"], "b": ["a"], "c": ["a"]}


def test_a_task_alone_is_opposed_by_none_and_nobody_needs_to_look() -> None:
    watched = Watched("a")
    watched.look(a=180)
    assert [event["opposed_by"] for event in watched.look(a=100)] == [[]]


def test_what_is_stored_is_all_that_the_next_looks_need() -> None:
    falls = [{"a": 180, "b": 180}, {"a": 120, "b": 185}, {"a": 121, "b": 110}, {"a": 180, "b": 111}]
    whole, first = Watched("ab", baseline={"b": 0.95}), Watched("ab", baseline={"b": 0.95})
    expected = [whole.look(**fall) for fall in falls]
    assert sum(map(len, expected)) >= 4
    found = [first.look(**fall) for fall in falls[:2]]
    second = Watched("ab", baseline={"b": 0.95})
    second.alarms.state = State.parse(json.loads(json.dumps(asdict(first.alarms.state))))
    second.alarms.best = {task: parts.copy() for task, parts in first.alarms.best.items()}
    second.looks = 2
    assert second.alarms.state == first.alarms.state
    assert found + [second.look(**fall) for fall in falls[2:]] == expected


class Whole(TextClassification):
    """A kind that knows its metric only on the whole, as one of another package may."""

    parts = Kind.parts
    combine = Kind.combine


def test_a_metric_that_does_not_come_apart_is_told_once_and_the_others_are_watched() -> None:
    watched = Watched("ab")
    watched.kinds["b"] = Whole("b", TaskConfig(kind="whole", metric="macro_f1"), {"labels": ["down", "up"]})
    (event,) = watched.look(a=180, b=150)
    assert (event["event"], event["task"]) == ("unwatched", "b")
    assert "implement `parts` and `combine`" in event["reason"]
    assert [event["task"] for event in watched.look(a=120, b=100)] == ["a"]


def test_a_run_writes_its_alarms_and_names_them_on_the_console(tmp_path: Path) -> None:
    data = tiny_config(tmp_path, examples=12, probes=2)
    data["baseline"] = {"pos": 1.0, "tone": 0.0}
    config = Config.parse(data)
    kept = train_and_keep(config, tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run" / "history.jsonl").read_text().splitlines()]
    assert lines == kept.events
    (alarm,) = [line for line in lines if line["event"] == "alarm"]
    assert (alarm["task"], alarm["kind"], alarm["reference"]) == ("pos", "below_baseline", 1.0)
    evaluated = [line for line in lines if line["event"] == "evaluation"]
    assert alarm["since"] == evaluated[0]["update"]
    assert alarm["value"] == next(e["dev"]["pos"]["accuracy"] for e in evaluated if e["update"] == alarm["update"])
    probes = [line for line in lines if line["event"] == "probe" and line["update"] <= alarm["update"]]
    means = dict.fromkeys(set(config.tasks) - {"pos"}, 0.0)
    for first, others in probes[-1]["cosine"].items():
        for second, by_layer in others.items():
            if "pos" in (first, second):
                means[second if first == "pos" else first] = float(np.mean(by_layer))
    assert alarm["opposed_by"] == sorted((task for task, mean in means.items() if mean < 0), key=means.__getitem__)


def said(*events: dict[str, Any]) -> str:
    console = Console(file=io.StringIO(), width=200)
    table = LiveTable(console, {"ner": "span_f1"})
    for event in events:
        table.on_event(event)
    output: Any = console.file
    return str(output.getvalue())


def test_an_alarm_is_a_sentence() -> None:
    alarm = {"event": "alarm", "task": "ner", "update": 300, "epoch": 3, "over": False, "value": 0.7134, "p": 0.00123}
    own = alarm | {"kind": "below_own_best", "reference": 0.8, "since": 200, "opposed_by": ["pos", "tone"]}
    assert said(own) == (
        "alarm: ner (0.713) is significantly below its own best, 0.800, of update 200 (p = 0.0012); the gradients of "
        "pos, tone oppose it\n"
    )
    baseline = alarm | {"kind": "below_baseline", "reference": 0.8, "since": 100, "opposed_by": []}
    assert said(baseline) == (
        "alarm: ner (0.713) is significantly below its baseline, 0.800, since update 100 (p = 0.0012)\n"
    )
    assert said(baseline | {"opposed_by": None}).endswith(
        "(p = 0.0012); whose gradients oppose it was not measured (training.probes)\n"
    )
    over = baseline | {"over": True, "value": 0.79}
    assert said(over) == "alarm over: ner (0.790) is no longer significantly below its baseline, 0.800\n"
    assert said({"event": "unwatched", "task": "ner", "reason": "why"}) == "note: no alarms for ner: why\n"
