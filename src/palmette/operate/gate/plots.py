"""The figures of a gate's page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from palmette.operate.gate.tables import bounds, points
from palmette.study import drawing
from palmette.study.drawing import FAINT, GAIN, INK, LOSS, Figure


def differences(report: Mapping[str, Any]) -> Figure:
    """The new metric minus the old one of each task, with its bounds and its margin: a panel a task."""
    found = {task: entry for task, entry in report["tasks"].items() if "difference" in entry}
    with drawing.canvas(24 + 58 * len(found)) as canvas:
        panels = canvas.subplots(len(found), 1, squeeze=False)[:, 0]
        for axes, (task, entry) in zip(panels, found.items(), strict=True):
            low, high = 100 * entry["low"], 100 * entry["high"]
            reach = 1.15 * max(abs(low), abs(high), entry["margin"])
            colour = GAIN if entry["verdict"] == "passed" else LOSS if entry["verdict"] == "fell" else INK
            axes.set_title(f"{task}: {entry['verdict']}")
            axes.plot([low, high], [0, 0], color=colour, solid_capstyle="butt")
            axes.plot(100 * entry["difference"], 0, "s", color=colour)
            axes.axvline(0, color=INK, lw=0.9, zorder=1)
            axes.axvline(-entry["margin"], color=LOSS, lw=1.2, ls=(0, (4, 3)), zorder=1)
            axes.set(xlim=(-reach, reach), ylim=(-0.6, 0.6), yticks=[])
            axes.spines["left"].set_visible(False)
            axes.grid(visible=True, axis="x")
            axes.locator_params(axis="x", nbins=6, symmetric=True)
        panels[-1].set_xlabel("points less or more than the old model")
        said = [f"{t}: {100 * e['difference']:+.2f} {bounds(e)}, {e['verdict']}." for t, e in found.items()]
        return drawing.finished(canvas, "differences", "New minus old, by task, in points", " ".join(said))


def behaviour(report: Mapping[str, Any]) -> Figure:
    """Failure rates of both models: a row a check."""
    rows = [
        (f"{found['task']}: {found['check']}", 100 * found["old"], 100 * found["new"], found["verdict"] == "failed")
        for found in report["behaviour"]
        if "old" in found
    ]
    return _pairs(rows, "behaviour", "Failure rates", "percent of the cases that fail")


def calibration(report: Mapping[str, Any]) -> Figure:
    """Calibration error of both models: a row a task."""
    rows = [
        (task, 100 * found["old"], 100 * found["new"], found["verdict"] == "failed")
        for task, found in report["calibration"].items()
    ]
    return _pairs(rows, "calibration", "Expected calibration error", "points; 0 is honest")


def latency(report: Mapping[str, Any]) -> Figure:
    """Milliseconds a text, of each round."""
    found = report["latency"]
    with drawing.canvas(110) as canvas:
        axes = canvas.subplots()
        for place, (name, face) in enumerate((("old", "white"), ("new", GAIN))):
            rounds = found[f"{name}_rounds_ms"]
            axes.plot(rounds, [place] * len(rounds), "o", color=GAIN, mfc=face, mew=1.2)
            axes.plot([found[f"{name}_ms"]] * 2, [place - 0.3, place + 0.3], color=INK, lw=1.2)
        axes.set(xlim=(0, None), ylim=(1.5, -0.5), xlabel="milliseconds a text; the line is the median")
        axes.grid(visible=True, axis="x")
        drawing.row_labels(axes, ["old", "new"])
        said = f"Old {found['old_ms']:.2f} ms, new {found['new_ms']:.2f} ms a text, ratio {found['ratio']:.2f}."
        return drawing.finished(canvas, "latency", "Time of an answer, by round", said)


def _pairs(rows: Sequence[tuple[str, float, float, bool]], name: str, title: str, unit: str) -> Figure:
    """Old (hollow) and new (filled) on one scale."""
    with drawing.canvas(50 + 17 * len(rows)) as canvas:
        axes = canvas.subplots()
        for place, (_, old, new, bad) in enumerate(rows):
            colour = LOSS if bad else GAIN
            axes.plot([old, new], [place, place], color=FAINT, lw=2.5, zorder=1)
            axes.plot(old, place, "o", color=colour, mfc="white", mew=1.3, zorder=2)
            axes.plot(new, place, "o", color=colour, ms=4, zorder=3)
        most = max((max(old, new) for _, old, new, _ in rows), default=0.0) or 1.0
        axes.set(xlim=(-0.03 * most, 1.05 * most), ylim=(len(rows) - 0.4, -0.6), xlabel=unit)
        axes.grid(visible=True, axis="x")
        drawing.row_labels(axes, [row[0] for row in rows])
        said = " ".join(f"{label}: old {points(old / 100)}, new {points(new / 100)}." for label, old, new, _ in rows)
        return drawing.finished(canvas, name, title, said)
