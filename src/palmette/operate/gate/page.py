"""The page of a gate: one HTML file that fetches nothing, each figure with its table."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

import palmette.study
from palmette.operate.gate import plots, tables
from palmette.study.page import Exhibit, Plate, Section

_OWN = Path(__file__).parent / "templates"
_SHARED = Path(palmette.study.__file__).parent / "templates"


def render(report: Mapping[str, Any]) -> str:
    """The page as HTML.

    Args:
        report: what `palmette.operate.gate.gate` returns.
    """
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader([_OWN, _SHARED]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters["svg"] = lambda figure: Markup(figure.svg)  # noqa: S704 - drawn here, its texts escaped
    style = [
        (folder / name).read_text(encoding="utf-8") for folder, name in ((_SHARED, "report.css"), (_OWN, "gate.css"))
    ]
    found = templates.get_template("gate.html.j2").render(
        style=Markup("\n".join(style)),  # noqa: S704 - the package's own
        report=report,
        title=f"{Path(report['new']['path']).name} in place of {Path(report['old']['path']).name}",
        facts=_facts(report),
        sections=_sections(report),
        settings=tables.settings(report),
        level=f"{100 * report['settings']['level']:g} %",
    )
    return found.lstrip() + "\n"


def _facts(report: Mapping[str, Any]) -> list[str]:
    facts = [
        f"{len(report['tasks'])} tasks: {', '.join(report['tasks'])}",
        f"{report['examples']:,} examples of {report['settings']['split']}",
    ]
    for name in ("old", "new"):
        side = report[name]
        facts.append(f"{name}: {side['form']}, {side['precision']}, {side['digest'][:12]}")
    return [*facts, report["created"]]


def _sections(report: Mapping[str, Any]) -> list[Section]:
    found = [_tasks(report), _behaviour(report), _calibration(report), _cost(report)]
    return [section for section in found if section is not None]


def _tasks(report: Mapping[str, Any]) -> Section:
    lead = (
        "The new model's metric minus the old one's, on the same examples. A task passes where even the lower bound "
        "loses less than its margin; it fell where it is shown to be lower, and not shown to be so by less than it."
    )
    plates: tuple[Plate, ...] = ()
    if any("difference" in found for found in report["tasks"].values()):
        note = (
            "The bar goes from the lower to the upper bound; the dashed line is the margin. A task passes where its "
            "bar stays to the right of it. Each task has a scale of its own."
        )
        plates = (Plate(plots.differences(report), note),)
    exhibits = [Exhibit(tables.tasks(report), plates)]
    if report["new_tasks"]:
        exhibits.append(Exhibit(tables.new_tasks(report)))
    return Section("tasks", "Does any task get worse?", lead, tuple(exhibits))


def _behaviour(report: Mapping[str, Any]) -> Section | None:
    if not report["behaviour"]:
        return None
    lead = (
        "What a model should do, however accurate. Invariance: the text is edited, the answer must stay. Direction: "
        "it must change in a certain way. Minimal: plain texts with one right answer."
    )
    note = "Share of the cases that each model fails: hollow is the old one, filled is the new one. Left is better."
    rates = Exhibit(tables.behaviour(report), (Plate(plots.behaviour(report), note),))
    failures = tables.failures(report)
    exhibits = (rates, Exhibit(failures, folded=True)) if failures.groups else (rates,)
    return Section("behaviour", "Does it behave?", lead, exhibits)


def _calibration(report: Mapping[str, Any]) -> Section | None:
    if not report["calibration"]:
        return None
    lead = "Expected calibration error: how far confidence is from the share of right answers, in points; 0 is honest."
    note = "Hollow is the old model, filled is the new one. Left is better."
    return Section(
        "calibration",
        "Can its confidence be trusted as before?",
        lead,
        (Exhibit(tables.calibration(report), (Plate(plots.calibration(report), note),)),),
    )


def _cost(report: Mapping[str, Any]) -> Section:
    exhibits = [Exhibit(tables.cost(report))]
    if "ratio" in report["latency"]:
        note = "In each round both answer the same texts; a dot is a round. Hollow is the old model, filled the new."
        exhibits = [Exhibit(tables.cost(report), (Plate(plots.latency(report), note),))]
    return Section("cost", "What does it cost?", "Time and size against their budgets.", tuple(exhibits))
