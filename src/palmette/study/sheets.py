"""A study as CSV files: one tidy table each, raw numbers (fractions, not points), an empty cell where there is none."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

Study = Mapping[str, Any]
Record = dict[str, Any]


def write_sheets(folder: Path, study: Study, ledger: Study) -> None:
    """Write `folder/<name>.csv` for everything that the study has; files of an earlier, larger study go."""
    folder.mkdir(exist_ok=True)
    for name, records in _SHEETS.items():
        path = folder / f"{name}.csv"
        found = list(records({**study, "ledger": ledger}))
        if not found:
            path.unlink(missing_ok=True)
            continue
        columns = list(dict.fromkeys(key for record in found for key in record))
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, columns, lineterminator="\n")
            writer.writeheader()
            writer.writerows(found)


def _scores(study: Study) -> Iterator[Record]:
    for task, by_regime in study["scores"].items():
        for regime, found in by_regime.items():
            if "reason" in found:
                yield {"task": task, "regime": regime, "state": found["reason"]}
            for seed, value in found["seeds"].items():
                state = "failed" if value is None else "done"
                yield {"task": task, "regime": regime, "seed": seed, "test": value, "state": state}


def _differences(study: Study) -> Iterator[Record]:
    for task, by_regime in study["differences"].items():
        for regime, found in by_regime.items():
            yield {"task": task, "regime": regime, **found}


def _verdicts(study: Study) -> Iterator[Record]:
    for task, found in study["recommendation"].get("tasks", {}).items():
        yield {"task": task, **found}


def _ledger(study: Study) -> Iterator[Record]:
    for regime, found in study["ledger"]["regimes"].items():
        parameters = found.get("parameters", {"total": None, "shared": None, "tasks": {}})
        flat = {key: value for key, value in found.items() if key not in {"parameters", "written_ms"}}
        own = {f"parameters_{task}": count for task, count in parameters["tasks"].items()}
        shared = {f"parameters_{name}": parameters.get(name) for name in ("total", "shared", "trained")}
        yield {"regime": regime, **flat, **shared, **own}


def _usage(study: Study) -> Iterator[Record]:
    """What models that write spent on an example of test."""
    for regime, found in study["regimes"].items():
        took = study["ledger"]["regimes"].get(regime, {}).get("written_ms", {})
        for task, spent in found.get("usage", {}).items():
            yield {"regime": regime, "task": task, **spent, "ms": took.get(task)}


def _budget(study: Study) -> Iterator[Record]:
    for regime, found in study["regimes"].items():
        drawn = {f"drawn_{task}": count for task, count in found["drawn"].items()}
        yield {"regime": regime, "models": len(found["models"]), "wordpieces": found["wordpieces"], **drawn}


def _runs(study: Study) -> Iterator[Record]:
    """Every run, of designs and learning curves as well; one that failed with its error."""
    for group, found in {**study["regimes"], **study.get("designs", {})}.items():
        for run in found["runs"]:
            yield {"group": group, **{key: run[key] for key in ("model", "seed", "state", "error", "key")}}


def _trials(study: Study) -> Iterator[Record]:
    for regime, found in study["regimes"].items():
        for trial in found["trials"]:
            record = {"regime": regime, **{k: v for k, v in trial.items() if k not in {"settings", "dev"}}}
            yield record | trial["settings"] | {f"dev_{task}": value for task, value in (trial["dev"] or {}).items()}


def _transfer(study: Study) -> Iterator[Record]:
    """Measured effects of one task on another (of joining, of leaving) and their affinity, told apart by `measure`."""
    transfer = study.get("transfer") or {}
    for measure, values in (("pair", transfer.get("pairs")), ("left_out", study.get("leave_one_out"))):
        for acts, task, found in _pairs(values):
            yield {"measure": measure, "acting": acts, "task": task, **found}
    for acts, task, value in _pairs(transfer.get("affinity")):
        yield {"measure": "affinity", "acting": acts, "task": task, "affinity": value}


def _pairs(values: Study | None) -> Iterable[tuple[str, str, Any]]:
    return ((acts, task, found) for acts, by_task in (values or {}).items() for task, found in by_task.items())


def _learning_curve(study: Study) -> Iterator[Record]:
    curve = study.get("learning_curve") or {"points": ()}
    for point in curve["points"]:
        for seed, value in point["seeds"].items():
            kept = {key: point[key] for key in ("percent", "examples", "regime", "train", "dev", "gap") if key in point}
            yield {"task": curve["task"], **kept, "seed": seed, "test": value}


def _conflict(study: Study) -> Iterator[Record]:
    transfer = study.get("transfer") or {}
    for probe in transfer.get("probes", ()):
        for first, second, layers in _pairs(probe["cosine"]):
            for layer, cosine in zip(transfer["layers"], layers, strict=True):
                where = {key: probe[key] for key in ("seed", "update", "share")}
                yield {**where, "first": first, "second": second, "layer": layer, "cosine": cosine}


def _grouping(study: Study) -> Iterator[Record]:
    for found in (study.get("transfer") or {}).get("grouping", ()):
        for number, group in enumerate(found["groups"], start=1):
            for task in group:
                yield {"models": found["models"], "model": number, "task": task, "expected": found["expected"][task]}


def _alarms(study: Study) -> Iterator[Record]:
    for alarm in study.get("alarms", ()):
        opposed = alarm["opposed_by"]
        yield {**alarm, "opposed_by": None if opposed is None else " ".join(opposed)}


_SHEETS: dict[str, Callable[[Study], Iterator[Record]]] = {
    "scores": _scores,
    "differences": _differences,
    "verdicts": _verdicts,
    "ledger": _ledger,
    "usage": _usage,
    "budget": _budget,
    "runs": _runs,
    "trials": _trials,
    "transfer": _transfer,
    "learning_curve": _learning_curve,
    "conflict": _conflict,
    "grouping": _grouping,
    "alarms": _alarms,
}
