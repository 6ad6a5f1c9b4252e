"""All detectors over all tasks; what one cause explains, another does not claim again."""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from palmette.answering import Answerer
from palmette.checkpoint import write_atomically
from palmette.config import Config, ConlluSource, JsonlSource, TableSource
from palmette.corpus import load_corpus
from palmette.deploy.bundle import PARITY, Bundle
from palmette.errors import ConfigError, RunError
from palmette.operate.diagnose import (
    fitting,
    label_noise,
    label_set,
    little_data,
    miscalibration,
    quantisation,
    shift,
    slices,
    tokenisation,
    transfer,
    truncation,
    unseen_words,
)
from palmette.operate.diagnose.case import Case, NotLookedAtError, Subject, read_history
from palmette.operate.diagnose.estimates import metric
from palmette.operate.diagnose.finding import Finding, rank
from palmette.predictor import with_heads
from palmette.run import Run
from palmette.runtime import Runtime
from palmette.types import SPLITS

Say = Callable[[str], None]
PAGE, JSON = "diagnosis.html", "diagnosis.json"

DETECTORS: dict[str, Callable[[Case], list[Finding]]] = {
    "label noise": label_noise.detect,
    shift.CAUSE: shift.detect,
    "rare or confusable labels": label_set.detect,
    "unseen words": unseen_words.detect,
    "truncation": truncation.detect,
    "tokenisation mismatch": tokenisation.detect,
    "weak slices": slices.detect,
    "too little data": little_data.detect,
    "under- or over-training": fitting.detect,
    "negative transfer": transfer.detect,
    "miscalibration": miscalibration.detect,
    "quantisation loss": quantisation.detect,
}


@dataclass(frozen=True)
class Diagnosis:
    """What was found.

    Attributes:
        subject: the folder.
        tasks: {task: {"split", "metric", "score", "examples": {split: n}, "labelled": {split: n}}}.
        findings: ranked.
        skipped: (task, what, why) of what could not be looked at.
        seconds: it took.
    """

    subject: str
    tasks: Mapping[str, Mapping[str, Any]]
    findings: Sequence[Finding]
    skipped: Sequence[tuple[str, str, str]]
    seconds: float

    def as_json(self) -> dict[str, Any]:
        """Plain JSON."""
        return {
            "version": 1,
            "subject": self.subject,
            "tasks": {task: dict(found) for task, found in self.tasks.items()},
            "findings": [finding.as_json() for finding in self.findings],
            "not_looked_at": [{"task": task, "what": what, "why": why} for task, what, why in self.skipped],
            "seconds": round(self.seconds, 1),
        }


def diagnose(
    path: str | Path,
    *,
    tasks: Sequence[str] = (),
    data: str | Path | None = None,
    study: str | Path | None = None,
    seed: int = 13,
    most: int = 2000,
    say: Say = lambda _: None,
) -> Diagnosis:
    """Rank the causes of a model's errors.

    Args:
        path: a run or a bundle.
        tasks: which; all by default.
        data: a configuration with other sources; a bundle needs one, since it does not know where its data are.
        study: folder of a study of the same tasks, for transfer and the learning curve.
        seed: of everything drawn.
        most: examples of a task and split that are read, evenly chosen.
        say: told what happens.

    Raises:
        RunError, BundleError, ConfigError, ReadError: something that is asked for is not there or does not fit.
    """
    started = time.perf_counter()
    subject = open_subject(path, data=data, study=study, seed=seed, most=most)
    for task in tasks:
        if task not in subject.kinds:
            raise RunError(f"--task {task}: no such task in this model; it has {', '.join(subject.kinds)}")
    findings: list[Finding] = []
    skipped: list[tuple[str, str, str]] = []
    about: dict[str, dict[str, Any]] = {}
    tests = 0
    for task in tasks or list(subject.kinds):
        say(f"{task}: reading")
        if not any(task in e.labels for split in ("dev", "test") for e in subject.corpus.splits[split]):
            skipped.append((task, "everything", "neither dev nor test has a label of it"))
            continue
        case = Case.open(subject, task)
        about[task] = _about(case)
        found: list[Finding] = []
        for name, detect in DETECTORS.items():
            say(f"{task}: {name}")
            try:
                found += detect(case)
                tests += 1
            except NotLookedAtError as error:
                skipped.append((task, name, str(error)))
        findings += explain_away(found)
    ranked = rank(findings, tests=max(tests, len(findings)))
    return Diagnosis(subject.name, about, ranked, skipped, time.perf_counter() - started)


# Which causes are special forms of a general one: what they explain of its gain is taken from it.
_SPECIAL: dict[str, tuple[str, ...]] = {
    shift.CAUSE: (unseen_words.CAUSE, truncation.CAUSE, tokenisation.CAUSE, label_set.RARE),
    unseen_words.CAUSE: (tokenisation.CAUSE,),
    truncation.CAUSE: (tokenisation.CAUSE,),
    label_noise.CAUSE: (slices.CAUSE, label_set.CONFUSABLE),
    fitting.UNDER: (little_data.CAUSE, transfer.CAUSE),
    fitting.OVER: (transfer.CAUSE,),
}


# What follows from other causes: it is shown, but not claimed with high confidence beside them.
_FOLLOWS: dict[str, tuple[str, ...]] = {
    miscalibration.CAUSE: (
        shift.CAUSE,
        unseen_words.CAUSE,
        truncation.CAUSE,
        tokenisation.CAUSE,
        label_noise.CAUSE,
        fitting.UNDER,
        slices.CAUSE,
        label_set.RARE,
        label_set.CONFUSABLE,
        transfer.CAUSE,
        little_data.CAUSE,
        quantisation.CAUSE,
    ),
}


def explain_away(findings: Sequence[Finding]) -> list[Finding]:
    """Take from each general cause what telling evidence of a special one explains; mark what follows from others."""
    kept = []
    for finding in findings:
        explained = max(
            (
                other.gain.points
                for other in findings
                if other.cause in _SPECIAL.get(finding.cause, ()) and other.telling and other.p < 0.001
            ),
            default=0.0,
        )
        if explained > 0:
            left = finding.gain.less(explained)
            note = f"{explained:.1f} of {finding.gain.points:.1f} points are explained by a more special cause"
            kept.append(replace(finding, gain=left, p=max(finding.p, left.p), evidence=(*finding.evidence, note)))
        elif any(
            other.cause in _FOLLOWS.get(finding.cause, ())
            and other.telling
            and (other.gain.low >= 1 or (other.gain.points >= 1 and other.p < 0.001))
            for other in findings
        ):
            note = "it may follow from another cause that was found"
            kept.append(replace(finding, telling=False, follows=True, evidence=(*finding.evidence, note)))
        else:
            kept.append(finding)
    return kept


def refuse(out: Path) -> None:
    """Refuse a folder that holds something else than a diagnosis.

    Raises:
        RunError: it does.
    """
    if out.exists() and (not out.is_dir() or {path.name for path in out.iterdir()} - {PAGE, JSON}):
        raise RunError(f"--out {out}: is not empty and holds no diagnosis: choose another folder")


def write(diagnosis: Diagnosis, out: Path, *, now: datetime) -> None:
    """Write the page and the JSON."""
    from palmette.operate.diagnose.page import render

    out.mkdir(parents=True, exist_ok=True)
    content = diagnosis.as_json()
    write_atomically(out / JSON, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    write_atomically(out / PAGE, render(content, now=now))


def _about(case: Case) -> dict[str, Any]:
    main = case.main
    return {
        "split": main.split,
        "metric": case.kind.metric,
        "score": metric(case.kind, main.parts),
        "examples": {split: len(sheet) for split, sheet in case.sheets.items()},
        "labelled": {
            split: sum(case.task in example.labels for example in case.subject.corpus.splits[split])
            for split in case.sheets
        },
    }


def open_subject(
    path: str | Path, *, data: str | Path | None, study: str | Path | None, seed: int, most: int
) -> Subject:
    """Load the model, its data and what else is known of it."""
    from palmette import load

    model = load(path)
    predictor = with_heads(model.predictor, f"{path}: cannot be diagnosed")
    if isinstance(model, Runtime) and data is None:
        raise RunError(
            f"{path}: is a bundle, which does not know where its data are: name their configuration by --data"
        )
    config = _config(model, data)
    unknown = config.tasks.keys() - model.kinds.keys()
    if unknown:
        raise RunError(f"--data {data}: no task {min(unknown)!r} in this model; it has {', '.join(model.kinds)}")
    kinds = {task: kind for task, kind in model.kinds.items() if task in config.tasks}
    corpus = load_corpus(config, fields=fields(config), fitted=kinds)
    run = isinstance(model, Run)
    return Subject(
        name=str(path),
        config=config,
        corpus=corpus,
        kinds=kinds,
        predictor=predictor,
        model=model.heads("diagnose")[0] if isinstance(model, Run) else None,
        history=read_history(Path(path) / "history.jsonl") if run else [],
        parity=_parity(model),
        study=_study(study),
        seed=seed,
        most=most,
        data=str(data) if data is not None else str(Path(path) / "config.yaml"),
    )


def _config(model: Answerer, data: str | Path | None) -> Config:
    """The configuration of the data, with the trunk of the model."""
    if isinstance(model, Run):
        own = model.config
        if data is None:
            return own
        other = Config.load(data)
        tasks = {task: own.tasks.get(task, declared) for task, declared in other.tasks.items()}
        return other.model_copy(update={"trunk": own.trunk, "training": own.training, "tasks": tasks})
    return Config.load(str(data))


def _parity(model: Answerer) -> Mapping[str, Any]:
    if not isinstance(model, Runtime):
        return {}
    bundle: Bundle = model.bundle
    found: Mapping[str, Any] = bundle.read_json(PARITY) if PARITY in bundle.manifest["files"] else {"splits": {}}
    return found


def _study(folder: str | Path | None) -> Mapping[str, Any] | None:
    if folder is None:
        return None
    path = Path(folder) / "study.json"
    try:
        found: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"--study {folder}: {path} cannot be read ({error}): palmette report {folder}") from error
    return found


def fields(config: Config) -> frozenset[str]:
    """Columns, keys and comments of the sources that are neither text nor label: slices may lie along them."""
    found: set[str] = set()
    for source in config.sources:
        used = {str(source.label_field(task).column) for task in source.labels}
        files = next((f for split in SPLITS if isinstance(f := getattr(source, split), str | list)), None)
        first = Path(files if isinstance(files, str) else files[0]) if files else None
        if first is None or not first.is_file() or first.suffix == ".gz":
            continue
        used |= {
            str(getattr(source, name)) for name in ("text", "text_pair") if getattr(source, name, None) is not None
        }
        found |= _named(source, first) - used
    return frozenset(found)


def _named(source: Any, path: Path) -> set[str]:
    # What is no UTF-8 is refused with its line when the data are read; here only names are looked for.
    with path.open(encoding="utf-8", errors="replace") as file:
        if isinstance(source, TableSource) and source.header:
            mark = {"tab": "\t", "comma": ",", "semicolon": ";"}.get(source.delimiter or "", "")
            mark = mark or ("," if path.suffix == ".csv" else "\t")
            return set(next(csv.reader(file, delimiter=mark), []))
        if isinstance(source, JsonlSource):
            try:
                row = json.loads(next(iter(file), "{}"))
            except ValueError:
                return set()
            return {key for key, value in row.items() if isinstance(value, str | int | bool)}
        if isinstance(source, ConlluSource):
            lines = [
                line for line, _ in zip(file, range(2000), strict=False) if line.startswith("# ") and " = " in line
            ]
            return {line[2:].partition(" = ")[0] for line in lines} - {"text", "sent_id"}
    return set()
