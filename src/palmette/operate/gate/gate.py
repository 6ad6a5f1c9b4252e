"""The gate: both models on the same data, every part judged, one verdict."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from palmette import __version__
from palmette.config import Config
from palmette.corpus import load_corpus
from palmette.errors import RunError
from palmette.kinds import AnyKind
from palmette.operate.gate.conduct import judge_behaviour
from palmette.operate.gate.confidence import judge_calibration
from palmette.operate.gate.cost import judge_size, measure_latency
from palmette.operate.gate.settings import GateSettings
from palmette.operate.gate.sides import Side, data_config
from palmette.operate.gate.tasks import judge_tasks, new_tasks
from palmette.types import Example

VERSION = 1  # of gate.json
EXIT = {"passed": 0, "failed": 1, "undecided": 3}  # 2 is a user's mistake

Say = Callable[[str], None]
Report = dict[str, Any]


def gate(
    old: str | Path | Side,
    new: str | Path | Side,
    *,
    now: datetime,
    settings: GateSettings | None = None,
    data: Path | None = None,
    checks: Path | None = None,
    examples: Sequence[Example] | None = None,
    threads: int | None = None,
    say: Say = lambda _: None,
) -> Report:
    """Judge whether one model may take another's place.

    Args:
        old: a bundle, or a run folder.
        new: the same.
        now: when this happens.
        settings: margins and budgets.
        data: a configuration whose data both answer; by default that of the new run, else that of the old one.
        checks: a file of own behavioural checks.
        examples: labelled examples, instead of those of the data.
        threads: that a pass computes with.
        say: told what happens.

    Returns:
        What gate.json holds: `verdict`, a `sentence`, `tasks`, `new_tasks`, `latency`, `size`, `calibration`,
        `behaviour`, and what was compared. `verdict` is failed if any part failed, else undecided if a task or the
        latency is, else passed: one part never makes up for another.

    Raises:
        BundleError, RunError: a side is no model, or nobody says where the data are.
        ConfigError, ReadError: the data or the checks cannot be read; a margin is of no task.
    """
    settings = settings or GateSettings()
    one, two = (side if isinstance(side, Side) else Side.load(side, threads=threads) for side in (old, new))
    kinds = dict(two.model.kinds) | dict(one.model.kinds)
    for task in settings.margins:
        if task not in one.model.kinds:
            raise RunError(f"--margin {task}: the old model has no such task; it has {', '.join(one.model.kinds)}")
    if examples is None:
        config = data_config(one, two, data)
        say(f"reading {settings.split}")
        examples = _read(config, kinds, settings)
    say(f"both models answer {len(examples):,} examples")
    labelled = (one.model.predictor.answer_labelled(examples), two.model.predictor.answer_labelled(examples))
    tasks = judge_tasks(one.model.kinds, two.model.kinds, examples, labelled, settings)
    shared = {t: kind for t, kind in one.model.kinds.items() if tasks[t]["verdict"] not in ("missing", "changed")}
    say("behavioural checks")
    behaviour = judge_behaviour(one.model, two.model, shared, examples, settings, file=checks)
    say("latency")
    report: Report = {
        "version": VERSION,
        "palmette": __version__,
        "created": now.isoformat(timespec="seconds"),
        "old": {"path": str(one.path), **one.about},
        "new": {"path": str(two.path), **two.about},
        "settings": settings.model_dump(mode="json"),
        "examples": len(examples),
        "tasks": tasks,
        "new_tasks": new_tasks(one.model.kinds, two.model.kinds, examples, labelled[1]),
        "calibration": judge_calibration(
            (shared, {task: two.model.kinds[task] for task in shared}), examples, labelled, settings
        ),
        "behaviour": behaviour,
        "latency": measure_latency(one.model, two.model, examples, settings),
        "size": judge_size(one.about["bytes"], two.about["bytes"], settings),
    }
    return {**_verdict(report), **report}


def _read(config: Config, kinds: Mapping[str, AnyKind], settings: GateSettings) -> list[Example]:
    """The split of the data, with the labels of the models' tasks."""
    unknown = config.tasks.keys() - kinds.keys()
    if unknown:
        raise RunError(f"the data label the task {min(unknown)!r}, which neither model has: {', '.join(kinds)}")
    corpus = load_corpus(config, fitted={task: kinds[task] for task in config.tasks})
    examples = corpus.splits[settings.split]
    if not examples:
        raise RunError(f"{settings.split}: the sources have no labelled example of this split: --split dev, or --data")
    return examples


def _verdict(report: Report) -> dict[str, Any]:
    """failed, undecided or passed, and the reasons, the worst first."""
    failed, open_ = [], []
    for task, found in report["tasks"].items():
        line = f"{task}: {found['verdict']}: {found['reason']}"
        if found["verdict"] in ("fell", "missing", "changed"):
            failed.append(line)
        elif found["verdict"] == "undecided":
            open_.append(line)
    parts = [("latency", report["latency"]), ("size", report["size"])]
    parts += [(f"calibration of {task}", found) for task, found in report["calibration"].items()]
    parts += [(f"check {found['check']} of {found['task']}", found) for found in report["behaviour"]]
    for name, found in parts:
        if found["verdict"] == "failed":
            failed.append(f"{name}: {found['reason']}")
        elif found["verdict"] == "undecided":
            open_.append(f"{name}: {found['reason']}")
    verdict = "failed" if failed else "undecided" if open_ else "passed"
    sentence = {
        "failed": "The new model must not take the old one's place",
        "undecided": "Nothing speaks against the new model, but not everything is shown",
        "passed": "The new model may take the old one's place",
    }[verdict]
    return {"verdict": verdict, "sentence": sentence, "reasons": [*failed, *open_]}
