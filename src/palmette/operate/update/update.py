"""Train on with what people corrected, export, gate: a candidate, with a record of where it comes from.

Models that write are not exported: their candidate is the run.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from palmette import __version__
from palmette.checkpoint import write_atomically
from palmette.config import Config
from palmette.corpus import load_corpus
from palmette.deploy.bundle import Bundle
from palmette.deploy.decisions import out_of_reach, set_thresholds, targets_of
from palmette.deploy.export import export
from palmette.errors import RunError
from palmette.noninferiority import shift
from palmette.operate.gate.gate import gate
from palmette.operate.gate.report import write_report
from palmette.operate.gate.settings import GateSettings
from palmette.operate.gate.sides import Side
from palmette.operate.review.corrections import LEFT_OUT, Corrected, Corrections
from palmette.operate.update.mixture import Sorted, examples_of, mixed, sort_corrections
from palmette.operate.update.settings import UpdateSettings
from palmette.run import Run
from palmette.trainer import Listener, train
from palmette.types import Example
from palmette.writing.predictor import WritingPredictor

RECORD = "update.json"  # in the candidate's folder, and in its run
VERSION = 1

Say = Callable[[str], None]


@dataclass(frozen=True)
class Candidate:
    """What an update leaves.

    Attributes:
        folder: holds `run`, `bundle` (of models with heads), `gate.json`, `gate.html` and `update.json`.
        model: of these, the one to be put in place.
        record: update.json: which corrections were used, held out, left out and why; what was replayed and gained.
        gate: gate.json.
    """

    folder: Path
    model: Path
    record: dict[str, Any]
    gate: dict[str, Any]


def update(
    run: str | Path,
    found: Corrections,
    out: str | Path,
    *,
    now: datetime,
    settings: UpdateSettings | None = None,
    gate_settings: GateSettings | None = None,
    old: str | Path | None = None,
    checks: Path | None = None,
    listeners: Sequence[Listener] = (),
    say: Say = lambda _: None,
) -> Candidate:
    """Train a run on with corrections, from all of its weights, and judge the result.

    Args:
        run: the run that answered, or its successor.
        found: what people agree on (`palmette.operate.review.corrections`).
        out: the candidate's folder; must not exist.
        now: when this happens.
        settings: of the training.
        gate_settings: of the gate.
        old: the bundle that is to be replaced; by default the run itself. The candidate's bundle has its precision. Of
            models that write, another run.
        checks: a file of own behavioural checks.
        listeners: told of every event of the training.
        say: told what happens.

    Raises:
        RunError: `run` is not finished, or of a model that is asked and not trained; no correction can be used; `out`
            exists.
        BundleError: the new model cannot be exported.
        ConfigError, ReadError: the run's data or the checks cannot be read.
    """
    settings, folder = settings or UpdateSettings(), Path(out)
    if folder.exists():
        raise RunError(f"{folder}: exists; give --out another name")
    before = Run.load(run)
    if not before.config.is_trained:
        raise RunError(
            f"{run}: a model that is asked has nothing to train on with: give it what people said as training data for "
            "its shots (palmette review export), or adapters (lora)"
        )
    writes = isinstance(before.predictor, WritingPredictor)
    precision = _precision(old) if not writes else None
    say("reading the run's data")
    corpus = load_corpus(before.config, fitted=before.kinds)
    chosen = sort_corrections(found.examples, before.kinds, corpus, settings)
    if not chosen.used:
        raise RunError(f"no correction to train on: {_why_none(found, chosen)}")
    corrected = examples_of(chosen.used)
    training, counts = mixed(corpus, corrected, settings, held_out=chosen.held_out)
    say(f"{len(chosen.used)} corrections, {len(chosen.held_out)} held out, {len(chosen.left_out)} left out")
    config = _config(before.config, Path(run), settings)
    train(config, folder / "run", corpus=training, listeners=listeners)
    made, decisions = folder / "run", dict[str, Any]()
    if not writes:
        say("exporting")
        bundle = export(
            made,
            folder / "bundle",
            now=now,
            quantize=precision,
            accuracy_budget=settings.accuracy_budget,
            corpus=corpus,
            say=say,
        )
        bundle, decisions = _decided(bundle, old, say)
        made = bundle.folder
    sides = Side.load(old if old is not None else run), Side.load(made)
    judged = gate_settings or GateSettings()
    report = gate(*sides, now=now, settings=judged, checks=checks, examples=corpus.splits[judged.split], say=say)
    record = {
        "version": VERSION,
        "palmette": __version__,
        "created": now.isoformat(timespec="seconds"),
        "run": {"path": str(run), "digest": Side.load(run).about["digest"]},
        "old": report["old"],
        "new": report["new"],
        "settings": settings.model_dump(mode="json"),
        "training": counts,
        "decisions": decisions,
        "corrections": _provenance(found, chosen),
        "bought": _bought(*sides, examples_of(chosen.held_out), report, judged),
        "verdict": report["verdict"],
    }
    content = json.dumps(record, indent=2, ensure_ascii=False) + "\n"
    write_atomically(folder / "run" / RECORD, content)
    write_atomically(folder / RECORD, content)
    write_report(folder, report)
    return Candidate(folder, made, record, report)


def _config(config: Config, run: Path, settings: UpdateSettings) -> Config:
    """The run's configuration, started from its own weights, heads included."""
    data: dict[str, Any] = config.model_dump(mode="json", exclude_none=True)
    if config.family == "heads":
        data["trunk"] = {"name": str(run), "heads": "kept", "frozen": config.trunk.frozen}
    else:
        data["trunk"]["name"] = str(run)
    training = data["training"]
    training |= {
        "epochs": settings.epochs,
        "learning_rate": config.training.learning_rate * settings.rate,
        "head_learning_rate": config.training.head_learning_rate * settings.rate,
        "seed": settings.seed,
        "probes": 0,
    }
    data["baseline"] = {}
    # A share of a task's data was for the first training; what is replayed is chosen already.
    data["tasks"] = {task: {**declared, "train_fraction": 1.0} for task, declared in data["tasks"].items()}
    return Config.parse(data)


def _precision(old: str | Path | None) -> str | None:
    """What the candidate is quantised to: as the bundle that it is to replace."""
    if old is None:
        return None
    precision = str(Bundle.open(old).manifest["precision"])
    return None if precision == "fp32" else precision


def _decided(made: Bundle, old: str | Path | None, say: Say) -> tuple[Bundle, dict[str, Any]]:
    """The bundle with thresholds for the precision that those of the old one were set for (`palmette calibrate`).

    They are set anew, on dev: the new model's confidences are others.

    Returns:
        The bundle, in the same folder, and for update.json the targets by task, kept or why they are not.
    """
    wanted = targets_of(Bundle.open(old)) if old is not None else {}
    if not wanted:
        return made, {}
    lost = out_of_reach(made, wanted)
    for task, reason in lost.items():
        say(f"note: answers of {task} come without a decision from now on: {reason}")
    kept = {task: target for task, target in wanted.items() if task not in lost}
    if kept:
        aside = made.folder.with_name("undecided")
        made.folder.rename(aside)
        made = set_thresholds(aside, made.folder, kept, say=say)
        shutil.rmtree(aside)
    return made, {task: {"target": target, "lost": lost.get(task)} for task, target in wanted.items()}


def _why_none(found: Corrections, chosen: Sorted) -> str:
    counts = Counter(reason for _, reason in chosen.left_out)
    for name, reason in LEFT_OUT.items():
        total = sum(getattr(found, name).values())
        if total:
            counts[reason] = total
    if chosen.held_out:
        counts["held out to measure by: --set held_out=0 trains on them"] = len(chosen.held_out)
    return "; ".join(f"{count} {reason}" for reason, count in counts.items()) or "the database has none"


def _provenance(found: Corrections, chosen: Sorted) -> dict[str, Any]:
    """Every correction by what became of it; no text."""
    return {
        "used": [_origin(c) for c in chosen.used],
        "held_out": [_origin(c) for c in chosen.held_out],
        "left_out": [{**_origin(c), "reason": reason} for c, reason in chosen.left_out],
        "not_taken": {reason: dict(getattr(found, name)) for name, reason in LEFT_OUT.items() if getattr(found, name)},
    }


def _origin(correction: Corrected) -> dict[str, Any]:
    return {
        "item": correction.item,
        "task": correction.task,
        "request_id": correction.request_id,
        "number": correction.number,
        "model": correction.digest,
        "why": correction.why,
        "changed": correction.changed,
        "reviewers": list(correction.reviewers),
        "decided": correction.decided.isoformat(),
    }


def _bought(
    old: Side, new: Side, held_out: Sequence[Example], report: Mapping[str, Any], settings: GateSettings
) -> dict[str, Any]:
    """By task: its metric before and after on held-out corrections, and on the old test data."""
    answers = [side.model.predictor.answer_labelled(held_out) for side in (old, new)] if held_out else [[], []]
    found: dict[str, Any] = {}
    for task, kind in old.model.kinds.items():
        if task not in new.model.kinds:
            continue
        pairs = [
            (example.labels[task], one[task].label, two[task].label)
            for example, one, two in zip(held_out, *answers, strict=True)
            if task in example.labels
        ]
        entry: dict[str, Any] = {"metric": kind.metric, "corrections": None}
        if pairs:
            gold, one, two = ([pair[side] for pair in pairs] for side in range(3))
            parts = kind.parts([*gold, *gold], [*one, *two])
            entry["corrections"] = asdict(
                shift(
                    parts[: len(gold)],
                    parts[len(gold) :],
                    metric=kind.combine,
                    margin=settings.margin_of(task) / 100,
                    seed=settings.seed,
                    resamples=settings.resamples,
                    level=settings.level,
                )
            )
            del entry["corrections"]["verdict"], entry["corrections"]["needed"]  # of a loss; here a gain is looked for
        kept = ("old", "new", "difference", "low", "high", "examples", "verdict")
        entry["data"] = {key: report["tasks"][task][key] for key in kept if key in report["tasks"][task]}
        found[task] = entry
    return found
