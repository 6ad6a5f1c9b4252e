"""The tables of a gate's page: each beside its figure, with the numbers that the figure draws."""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import groupby
from typing import Any

from palmette.study.tables import Cell, Row, Table

_TONES = {"passed": "gain", "undecided": "same"}


def verdict(found: Mapping[str, Any]) -> Cell:
    """A verdict, set off by colour besides its word."""
    return Cell(found["verdict"], _TONES.get(found["verdict"], "failed"))


def tasks(report: Mapping[str, Any]) -> Table:
    """A row a task of the old model."""
    rows: list[Row] = []
    for task, found in report["tasks"].items():
        numbers = ("-", "-", "-", "-")
        if "difference" in found:
            numbers = (points(found["old"]), points(found["new"]), f"{100 * found['difference']:+.2f}", bounds(found))
        margin, examples = f"{found['margin']:g}", f"{found.get('examples', 0):,}"
        rows.append((f"{task}, {found['metric']}", verdict(found), *numbers, margin, examples))
    columns = ("task, metric", "verdict", "old", "new", "difference", "bounds", "margin", "examples")
    return Table("Tasks, in points", columns, (("", tuple(rows)),), frozenset({"verdict"}))


def new_tasks(report: Mapping[str, Any]) -> Table:
    """Tasks that only the new model has."""
    rows: tuple[Row, ...] = tuple(
        (
            task,
            found["kind"],
            found["metric"],
            "not in the data" if found["value"] is None else points(found["value"]),
            f"{found['examples']:,}",
        )
        for task, found in report["new_tasks"].items()
    )
    return Table("Tasks that only the new model has", ("task", "kind", "metric", "new", "examples"), (("", rows),))


def behaviour(report: Mapping[str, Any]) -> Table:
    """A row a check, grouped by task."""
    groups = []
    for task, entries in groupby(report["behaviour"], key=lambda found: found["task"]):
        rows: list[Row] = []
        for found in entries:
            numbers = ("-",) * 6
            if "old" in found:
                numbers = (
                    f"{100 * found['old']:.1f}",
                    f"{100 * found['new']:.1f}",
                    bounds(found, 1),
                    f"{found['only_new']}",
                    f"{found['only_old']}",
                    f"{found['holm']:.2g}",
                )
            rows.append((found["check"], verdict(found), found["expectation"], f"{found['cases']:,}", *numbers,
                         found["description"]))  # fmt: skip
        groups.append((task, tuple(rows)))
    columns = ("check", "verdict", "kind", "cases", "old fails %", "new fails %", "difference", "new only", "old only",
               "p",               "what is expected")  # fmt: skip
    return Table("Failure rates", columns, tuple(groups), frozenset({"verdict", "kind", "what is expected"}))


def failures(report: Mapping[str, Any]) -> Table:
    """Cases that the new model fails, those that the old one does not first."""
    groups = []
    for found in report["behaviour"]:
        rows: list[Row] = []
        for case in found.get("failures", ()):
            answer = json.dumps(_short(case.get("answer")), ensure_ascii=False)
            rows.append(
                (case["edit"], "also the old one" if case["old_too"] else "the new one only", case["text"], answer)
            )
        if rows:
            groups.append((f"{found['task']}: {found['check']}", tuple(rows)))
    words = frozenset({"fails", "text", "new answer"})
    return Table("Cases that the new model fails", ("edit", "fails", "text", "new answer"), tuple(groups), words)


def _short(answer: Any) -> Any:
    """What a rendered answer says, without its places and confidences."""
    if not isinstance(answer, dict):
        return answer
    if "spans" in answer:
        return [f"{span.get('text', '')} {span['label']}".strip() for span in answer["spans"]]
    if "tags" in answer:
        return " ".join(tag if isinstance(tag, str) else str(tag.get("label", tag)) for tag in answer["tags"])
    return next((answer[key] for key in ("label", "labels", "answer", "value") if key in answer), answer)


def calibration(report: Mapping[str, Any]) -> Table:
    """A row a task with confidences."""
    rows: tuple[Row, ...] = tuple(
        (
            task,
            verdict(found),
            points(found["old"]),
            points(found["new"]),
            f"{100 * found['rise']:+.2f}",
            bounds(found),
            f"{found['budget']:g}",
            f"{found['claims']:,}",
        )
        for task, found in report["calibration"].items()
    )
    columns = ("task", "verdict", "old", "new", "rise", "bounds", "budget", "answers")
    return Table("Expected calibration error, in points", columns, (("", rows),), frozenset({"verdict"}))


def cost(report: Mapping[str, Any]) -> Table:
    """Time and size."""
    latency, size = report["latency"], report["size"]
    rows: list[Row] = []
    if "ratio" in latency:
        ratio = f"{latency['ratio']:.2f} [{latency['low']:.2f}, {latency['high']:.2f}]"
        rows.append(("ms a text", verdict(latency), f"{latency['old_ms']:.2f}", f"{latency['new_ms']:.2f}", ratio,
                     f"{latency['budget']:g}"))  # fmt: skip
    else:
        rows.append(("ms a text", verdict(latency), "-", "-", latency["reason"], f"{latency['budget']:g}"))
    rows.append(("MB", verdict(size), f"{size['old_bytes'] / 1e6:.1f}", f"{size['new_bytes'] / 1e6:.1f}",
                 f"{size['ratio']:.2f}", f"{size['budget']:g}"))  # fmt: skip
    columns = ("", "verdict", "old", "new", "new / old", "budget")
    return Table("Cost", columns, (("", tuple(rows)),), frozenset({"verdict"}))


def settings(report: Mapping[str, Any]) -> Table:
    """What was asked for."""
    from palmette.operate.gate.settings import GateSettings

    rows: tuple[Row, ...] = tuple(
        (name, json.dumps(value), GateSettings.model_fields[name].description or "")
        for name, value in report["settings"].items()
    )
    return Table("Settings", ("setting", "value", "what it is"), (("", rows),), frozenset({"what it is"}))


def points(value: float) -> str:
    """A value in points."""
    return f"{100 * value:.2f}"


def bounds(found: Mapping[str, Any], digits: int = 2) -> str:
    """Both one-sided bounds in points."""
    return f"[{100 * found['low']:+.{digits}f}, {100 * found['high']:+.{digits}f}]"
